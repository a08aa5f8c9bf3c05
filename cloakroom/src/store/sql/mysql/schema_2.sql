-- The users that are known by name. What is settled about each is JSON.
CREATE TABLE IF NOT EXISTS ~directory (
    user_id        VARBINARY(1024) PRIMARY KEY,
    settings       LONGBLOB NOT NULL,
    signed_in_at   BIGINT,
    signed_in_from VARBINARY(64)
) ENGINE = InnoDB
%
CREATE OR REPLACE PROCEDURE ~user_2(p_user VARBINARY(1024)) SQL SECURITY INVOKER
    SELECT * FROM ~directory WHERE user_id = p_user
%
-- No user has an empty name.
CREATE OR REPLACE PROCEDURE ~users_2(p_after VARBINARY(1024), p_rows BIGINT) SQL SECURITY INVOKER
    SELECT * FROM ~directory WHERE user_id > p_after ORDER BY user_id LIMIT p_rows
%
CREATE OR REPLACE PROCEDURE ~put_user_2(
    p_lock BIGINT, p_user VARBINARY(1024), p_was LONGBLOB, p_settings LONGBLOB, p_signed_in_at BIGINT,
    p_signed_in_from VARBINARY(64)
) SQL SECURITY INVOKER
put_user: BEGIN
    DECLARE entered INT;
    DECLARE stored ROW TYPE OF ~directory;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT slot INTO entered FROM ~user_slot WHERE slot = p_lock & 1023 FOR UPDATE;
    SELECT * INTO stored FROM ~directory WHERE user_id = p_user FOR UPDATE;
    IF NOT stored.settings <=> p_settings AND NOT stored.settings <=> p_was THEN
        COMMIT;
        SELECT 0 AS number;
        LEAVE put_user;
    END IF;
    IF p_settings IS NULL THEN
        DELETE FROM ~directory WHERE user_id = p_user;
    ELSEIF p_signed_in_at IS NULL OR COALESCE(stored.signed_in_at > p_signed_in_at, FALSE) THEN
        REPLACE INTO ~directory (user_id, settings, signed_in_at, signed_in_from)
        VALUES (p_user, p_settings, stored.signed_in_at, stored.signed_in_from);
    ELSE
        REPLACE INTO ~directory (user_id, settings, signed_in_at, signed_in_from)
        VALUES (p_user, p_settings, p_signed_in_at, p_signed_in_from);
    END IF;
    COMMIT;
    SELECT 1 AS number;
END
%
CREATE OR REPLACE PROCEDURE ~note_sign_in_1(p_user_id VARBINARY(1024), p_at BIGINT, p_ip VARBINARY(64))
SQL SECURITY INVOKER
    UPDATE ~directory SET signed_in_at = p_at, signed_in_from = p_ip
    WHERE user_id = p_user_id AND (signed_in_at IS NULL OR signed_in_at <= p_at)
