-- Times and durations are milliseconds, ids and digests are bytes. Text is bytes too, for no collation compares it byte for
-- byte with the blanks at its end. ~ stands for the prefix of all names. A line of % ends a statement.
--
-- Every call that changes something is one procedure and one transaction, so one round trip. Under READ COMMITTED a
-- locking read sees what it waited for. Locks are taken in one order everywhere: the user's slot, then rows of sessions
-- by id, at last the gate of the audit log; so nobody waits in a circle. Lists come as JSON arrays of hexadecimal digits,
-- which no setting of the server changes. Procedures carry the number of the schema that made them, so that nodes of
-- two versions can run side by side.

CREATE TABLE IF NOT EXISTS ~meta (
    name  VARBINARY(64) PRIMARY KEY,
    value VARBINARY(64) NOT NULL
) ENGINE = InnoDB
%
-- Sign-ins of one user wait for each other in the user's slot.
CREATE TABLE IF NOT EXISTS ~user_slot (
    slot INT PRIMARY KEY
) ENGINE = InnoDB
%
INSERT IGNORE INTO ~user_slot (slot) SELECT seq FROM seq_0_to_1023
%
-- Who writes to the audit log goes through the gate together with other writers, and holds it until the commit. A reader
-- closes it for a moment: what has a number by then is committed, and what comes later has a higher one.
CREATE TABLE IF NOT EXISTS ~audit_gate (
    gate INT PRIMARY KEY
) ENGINE = InnoDB
%
INSERT IGNORE INTO ~audit_gate (gate) VALUES (0)
%
CREATE TABLE IF NOT EXISTS ~session (
    id               BINARY(18) PRIMARY KEY,
    user_id          VARBINARY(1024),
    full_name        LONGBLOB,
    user_type        LONGBLOB,
    created_at       BIGINT NOT NULL,
    last_seen_at     BIGINT NOT NULL,
    idle_timeout     BIGINT,
    ends_at          BIGINT,
    authenticated_at BIGINT,
    methods          LONGBLOB,
    level            BIGINT,
    remember         BOOLEAN NOT NULL,
    ip               VARBINARY(64),
    user_agent       BLOB,
    device           BLOB,
    country          BLOB,
    impersonated_by  LONGBLOB,
    returns_to       BINARY(18),
    audit_user       LONGBLOB,
    version          BIGINT NOT NULL,
    secret           BINARY(32) NOT NULL,
    secret_issued_at BIGINT NOT NULL,
    rotations        BIGINT NOT NULL,
    predecessors     VARBINARY(160) NOT NULL,
    recent_changes   VARBINARY(512) NOT NULL,
    lease_number     BIGINT NOT NULL,
    lease_until      BIGINT NOT NULL,
    idempotency      BINARY(32),
    -- Not after the deadline. Touches leave it alone, and so touch no index; the reaper moves it on.
    reap_at          BIGINT,
    INDEX session_by_user (user_id, created_at, id),
    INDEX session_by_expiry (reap_at),
    INDEX session_by_idempotency (idempotency)
) ENGINE = InnoDB
%
CREATE TABLE IF NOT EXISTS ~session_data (
    session  BINARY(18) NOT NULL,
    data_key VARBINARY(1024) NOT NULL,
    value    LONGBLOB NOT NULL,
    PRIMARY KEY (session, data_key)
) ENGINE = InnoDB
%
CREATE TABLE IF NOT EXISTS ~tombstone (
    id               BINARY(18) PRIMARY KEY,
    user_id          VARBINARY(1024),
    ended_at         BIGINT NOT NULL,
    reason           VARBINARY(64) NOT NULL,
    by_whom          LONGBLOB,
    note             LONGBLOB,
    secret           BINARY(32) NOT NULL,
    secret_issued_at BIGINT NOT NULL,
    rotations        BIGINT NOT NULL,
    predecessors     VARBINARY(160) NOT NULL,
    INDEX tombstone_by_end (ended_at)
) ENGINE = InnoDB
%
CREATE TABLE IF NOT EXISTS ~disabled_user (
    user_id VARBINARY(1024) PRIMARY KEY
) ENGINE = InnoDB
%
-- Sign-ins that authenticated before this time come too late.
CREATE TABLE IF NOT EXISTS ~user_fence (
    user_id      VARBINARY(1024) PRIMARY KEY,
    ended_before BIGINT NOT NULL,
    INDEX user_fence_by_end (ended_before)
) ENGINE = InnoDB
%
CREATE TABLE IF NOT EXISTS ~audit (
    seq             BIGINT AUTO_INCREMENT PRIMARY KEY,
    at              BIGINT NOT NULL,
    event           VARBINARY(64) NOT NULL,
    session         BINARY(18) NOT NULL,
    user_id         VARBINARY(1024),
    impersonated_by LONGBLOB,
    audit_user      LONGBLOB,
    ip              VARBINARY(64),
    reason          VARBINARY(64),
    by_whom         LONGBLOB,
    note            LONGBLOB,
    INDEX audit_by_user (user_id, seq),
    INDEX audit_by_session (session, seq),
    INDEX audit_by_time (at)
) ENGINE = InnoDB
%
CREATE OR REPLACE FUNCTION ~deadline_1(last_seen BIGINT, idle BIGINT, ends BIGINT) RETURNS BIGINT
DETERMINISTIC NO SQL SQL SECURITY INVOKER
    -- 9999-12-30 is the latest time there is.
    RETURN IF(idle IS NULL, ends,
        LEAST(last_seen + LEAST(idle, 253402128000000), 253402128000000, COALESCE(ends, 9223372036854775807)))
%
-- A predecessor is 32 bytes of digest and 8 of time; the largest time means that its grace has not begun.
CREATE OR REPLACE FUNCTION ~confirm_1(p_predecessors VARBINARY(160), p_grace_ends BIGINT) RETURNS VARBINARY(160)
DETERMINISTIC NO SQL SQL SECURITY INVOKER
BEGIN
    DECLARE place INT DEFAULT 0;
    DECLARE confirmed VARBINARY(160) DEFAULT '';
    WHILE place < LENGTH(p_predecessors) DO
        SET confirmed = CONCAT(confirmed, SUBSTRING(p_predecessors, place + 1, 32),
            IF(SUBSTRING(p_predecessors, place + 33, 8) = X'7fffffffffffffff', UNHEX(LPAD(HEX(p_grace_ends), 16, '0')),
               SUBSTRING(p_predecessors, place + 33, 8)));
        SET place = place + 40;
    END WHILE;
    RETURN confirmed;
END
%
CREATE OR REPLACE FUNCTION ~withdraw_1(p_predecessors VARBINARY(160)) RETURNS VARBINARY(160)
DETERMINISTIC NO SQL SQL SECURITY INVOKER
BEGIN
    DECLARE place INT DEFAULT 0;
    DECLARE withdrawn VARBINARY(160) DEFAULT '';
    WHILE place < LENGTH(p_predecessors) DO
        SET withdrawn = CONCAT(withdrawn, SUBSTRING(p_predecessors, place + 1, 32), X'0000000000000000');
        SET place = place + 40;
    END WHILE;
    RETURN withdrawn;
END
%
-- Ids of changes have eight bytes each; these may be found across two of them as well.
CREATE OR REPLACE FUNCTION ~was_applied_1(p_recent VARBINARY(512), p_change BINARY(8)) RETURNS BOOLEAN
DETERMINISTIC NO SQL SQL SECURITY INVOKER
BEGIN
    DECLARE place INT DEFAULT LOCATE(p_change, p_recent);
    WHILE place > 0 AND place % 8 <> 1 DO
        SET place = LOCATE(p_change, p_recent, place + 1);
    END WHILE;
    RETURN place > 0;
END
%
-- A session with its values, or a tombstone, in one snapshot.
CREATE OR REPLACE PROCEDURE ~record_1(p_kind VARCHAR(16), p_id BINARY(18)) SQL SECURITY INVOKER
    SELECT p_kind AS kind, id, user_id, full_name, user_type, created_at, last_seen_at, idle_timeout, ends_at,
           authenticated_at, methods, level, remember, ip, user_agent, device, country, impersonated_by, returns_to,
           audit_user, version, secret, secret_issued_at, rotations, predecessors, recent_changes, lease_number, lease_until, idempotency,
           NULL AS data_key, NULL AS value, NULL AS ended_at, NULL AS reason, NULL AS by_whom, NULL AS note
    FROM ~session WHERE id = p_id
    UNION ALL
    SELECT 'data', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           data_key, value, NULL, NULL, NULL, NULL
    FROM ~session_data WHERE session = p_id
    UNION ALL
    SELECT 'tombstone', id, user_id, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, secret,
           secret_issued_at, rotations, predecessors, NULL, NULL, NULL, NULL,
           NULL, NULL, ended_at, reason, by_whom, note
    FROM ~tombstone WHERE id = p_id
%
CREATE OR REPLACE PROCEDURE ~load_1(p_id BINARY(18)) SQL SECURITY INVOKER
    CALL ~record_1('session', p_id)
%
CREATE OR REPLACE PROCEDURE ~heads_1(p_kind VARCHAR(16), p_ids LONGTEXT) SQL SECURITY INVOKER
    SELECT p_kind AS kind, session.*
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id)
%
CREATE OR REPLACE PROCEDURE ~lock_all_1(p_ids LONGTEXT) SQL SECURITY INVOKER
BEGIN
    DECLARE locked INT;
    SELECT COUNT(*) INTO locked
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id) FOR UPDATE;
END
%
CREATE OR REPLACE PROCEDURE ~enter_log_1() SQL SECURITY INVOKER
BEGIN
    DECLARE entered INT;
    SELECT gate INTO entered FROM ~audit_gate WHERE gate = 0 LOCK IN SHARE MODE;
END
%
-- Ends sessions whose rows the caller has locked. One that has expired ends for that reason.
CREATE OR REPLACE PROCEDURE ~bury_1(
    p_ids LONGTEXT, p_reason VARBINARY(64), p_by LONGBLOB, p_note LONGBLOB, p_now BIGINT
) SQL SECURITY INVOKER
BEGIN
    INSERT INTO ~tombstone (id, user_id, ended_at, reason, by_whom, note, secret, secret_issued_at, rotations,
                            predecessors)
    SELECT id, user_id,
           IF(is_expired, deadline, p_now),
           CASE WHEN NOT is_expired THEN p_reason WHEN ends_at = deadline THEN 'absolute_timeout'
                ELSE 'idle_timeout' END,
           IF(is_expired, NULL, p_by), IF(is_expired, NULL, p_note), secret, secret_issued_at, rotations, predecessors
    FROM (
        SELECT session.*, ~deadline_1(last_seen_at, idle_timeout, ends_at) AS deadline,
               COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) <= p_now, FALSE) AS is_expired
        FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
        STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id)
    ) AS dead
    ON DUPLICATE KEY UPDATE ended_at = VALUES(ended_at), reason = VALUES(reason), by_whom = VALUES(by_whom),
        note = VALUES(note), secret = VALUES(secret), secret_issued_at = VALUES(secret_issued_at),
        rotations = VALUES(rotations), predecessors = VALUES(predecessors);
    CALL ~enter_log_1();
    INSERT INTO ~audit (at, event, session, user_id, impersonated_by, audit_user, ip, reason, by_whom, note)
    SELECT tombstone.ended_at, 'ended', session.id, session.user_id, session.impersonated_by, session.audit_user,
           session.ip, tombstone.reason, tombstone.by_whom, tombstone.note
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id)
    STRAIGHT_JOIN ~tombstone AS tombstone ON tombstone.id = session.id
    ORDER BY session.created_at DESC, session.id DESC;
    DELETE data FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~session_data AS data ON data.session = UNHEX(wanted.hex_id);
    DELETE session FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id);
END
%
-- A trigger would need its maker's account for ever: here a later schema puts what it adds to a sign-in.
CREATE OR REPLACE PROCEDURE ~note_sign_in_1(p_user_id VARBINARY(1024), p_at BIGINT, p_ip VARBINARY(64))
SQL SECURITY INVOKER
BEGIN
END
%
CREATE OR REPLACE PROCEDURE ~create_1(
    p_lock BIGINT, p_now BIGINT, p_limit BIGINT, p_evict BOOLEAN, p_replaces BINARY(18), p_by LONGBLOB,
    p_event VARBINARY(64), p_note LONGBLOB, p_disabled_note LONGBLOB, p_fence_note LONGBLOB, p_limit_note LONGBLOB,
    p_id BINARY(18), p_user_id VARBINARY(1024), p_full_name LONGBLOB, p_user_type LONGBLOB, p_created_at BIGINT,
    p_last_seen_at BIGINT, p_idle_timeout BIGINT, p_ends_at BIGINT, p_authenticated_at BIGINT, p_methods LONGBLOB,
    p_level BIGINT, p_remember BOOLEAN, p_ip VARBINARY(64), p_user_agent BLOB, p_device BLOB, p_country BLOB,
    p_impersonated_by LONGBLOB, p_returns_to BINARY(18), p_audit_user LONGBLOB, p_version BIGINT, p_secret BINARY(32), p_secret_issued_at BIGINT, p_rotations BIGINT,
    p_predecessors VARBINARY(160), p_recent_changes VARBINARY(512), p_lease_number BIGINT, p_lease_until BIGINT,
    p_idempotency BINARY(32), p_entries LONGTEXT
) SQL SECURITY INVOKER
create_session: BEGIN
    DECLARE entered INT;
    DECLARE living BIGINT;
    DECLARE surplus BIGINT;
    DECLARE refusal VARCHAR(16);
    DECLARE refusal_note LONGBLOB;
    DECLARE uncounted LONGTEXT;
    DECLARE evicted LONGTEXT;
    DECLARE ending LONGTEXT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT slot INTO entered FROM ~user_slot WHERE slot = p_lock & 1023 FOR UPDATE;
    -- Ids are fresh: an earlier try of this very call made it, whatever became of it since.
    IF EXISTS (SELECT 1 FROM ~session WHERE id = p_id) OR EXISTS (SELECT 1 FROM ~tombstone WHERE id = p_id) THEN
        COMMIT;
        SELECT 'created' AS kind;
        LEAVE create_session;
    END IF;
    SELECT JSON_ARRAYAGG(HEX(id) ORDER BY id) INTO uncounted FROM (
        SELECT id FROM ~session WHERE id = p_replaces
        UNION
        SELECT id FROM ~session WHERE idempotency = p_idempotency AND SUBSTRING(id, 1, 2) = SUBSTRING(p_id, 1, 2)
    ) AS found;
    IF p_user_id IS NOT NULL THEN
        IF EXISTS (SELECT 1 FROM ~disabled_user WHERE user_id = p_user_id) THEN
            SET refusal = 'user_disabled', refusal_note = p_disabled_note;
        ELSEIF EXISTS (SELECT 1 FROM ~user_fence
                       WHERE user_id = p_user_id AND ended_before > COALESCE(
                           IF(p_impersonated_by IS NULL, p_authenticated_at, NULL), p_created_at)) THEN
            SET refusal = 'ended_meanwhile', refusal_note = p_fence_note;
        ELSEIF p_limit IS NOT NULL THEN
            SELECT COUNT(*) INTO living FROM ~session
            WHERE user_id = p_user_id AND impersonated_by IS NULL
              AND COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE)
              AND (uncounted IS NULL OR INSTR(uncounted, HEX(id)) = 0);
            IF living >= p_limit AND NOT p_evict THEN
                SET refusal = 'limit_reached', refusal_note = p_limit_note;
            ELSEIF living >= p_limit THEN
                SET surplus = living + 1 - GREATEST(p_limit, 1);
                SELECT JSON_ARRAYAGG(HEX(id) ORDER BY id) INTO evicted FROM (
                    SELECT id FROM ~session
                    WHERE user_id = p_user_id AND impersonated_by IS NULL
                      AND COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE)
                      AND (uncounted IS NULL OR INSTR(uncounted, HEX(id)) = 0)
                    ORDER BY last_seen_at, created_at, id LIMIT surplus
                ) AS oldest;
            END IF;
        END IF;
    END IF;
    IF refusal IS NOT NULL THEN
        CALL ~enter_log_1();
        INSERT INTO ~audit (at, event, session, user_id, impersonated_by, audit_user, ip, by_whom, note)
        VALUES (p_now, 'refused', p_id, p_user_id, p_impersonated_by, p_audit_user, p_ip, p_by, refusal_note);
        COMMIT;
        SELECT refusal AS kind;
        LEAVE create_session;
    END IF;
    IF uncounted IS NOT NULL OR evicted IS NOT NULL THEN
        SELECT JSON_ARRAYAGG(hex_id ORDER BY hex_id) INTO ending FROM (
            SELECT hex_id FROM JSON_TABLE(COALESCE(uncounted, '[]'), '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS a
            UNION
            SELECT hex_id FROM JSON_TABLE(COALESCE(evicted, '[]'), '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS b
        ) AS found;
        CALL ~lock_all_1(ending);
        IF uncounted IS NOT NULL THEN
            CALL ~heads_1('replaced', uncounted);
            CALL ~bury_1(uncounted, 'replaced', p_by, NULL, p_now);
        END IF;
        IF evicted IS NOT NULL THEN
            CALL ~heads_1('evicted', evicted);
            CALL ~bury_1(evicted, 'signed_in_elsewhere', p_by, NULL, p_now);
        END IF;
    END IF;
    INSERT INTO ~session (
        id, user_id, full_name, user_type, created_at, last_seen_at, idle_timeout, ends_at, authenticated_at,
        methods, level, remember, ip, user_agent, device, country, impersonated_by, returns_to, audit_user, version,
        secret, secret_issued_at, rotations, predecessors, recent_changes, lease_number, lease_until, idempotency, reap_at
    ) VALUES (
        p_id, p_user_id, p_full_name, p_user_type, p_created_at, p_last_seen_at, p_idle_timeout, p_ends_at,
        p_authenticated_at, p_methods, p_level, p_remember, p_ip, p_user_agent, p_device, p_country,
        p_impersonated_by, p_returns_to, p_audit_user, p_version, p_secret, p_secret_issued_at, p_rotations, p_predecessors, p_recent_changes, p_lease_number, p_lease_until,
        p_idempotency, ~deadline_1(p_last_seen_at, p_idle_timeout, p_ends_at)
    );
    IF p_entries <> '[]' THEN
        INSERT INTO ~session_data (session, data_key, value)
        SELECT p_id, UNHEX(hex_key), UNHEX(hex_value) FROM JSON_TABLE(p_entries, '$[*]' COLUMNS (
            hex_key VARCHAR(2050) PATH '$[0]', hex_value LONGTEXT PATH '$[1]')) AS entry;
    END IF;
    IF p_user_id IS NOT NULL AND p_impersonated_by IS NULL THEN
        CALL ~note_sign_in_1(p_user_id, p_created_at, p_ip);
    END IF;
    CALL ~enter_log_1();
    INSERT INTO ~audit (at, event, session, user_id, impersonated_by, audit_user, ip, by_whom, note)
    VALUES (p_now, p_event, p_id, p_user_id, p_impersonated_by, p_audit_user, p_ip, p_by, p_note);
    COMMIT;
    SELECT 'created' AS kind;
END
%
-- Within the caller's transaction.
CREATE OR REPLACE PROCEDURE ~change_1(
    p_id BINARY(18), p_now BIGINT, p_change BINARY(8), p_lease BIGINT, p_if_version BIGINT, p_relied_on LONGTEXT,
    p_remove_all BOOLEAN, p_remove LONGTEXT, p_entries LONGTEXT, p_max_bytes BIGINT, p_is_audited BOOLEAN,
    p_sets_full_name BOOLEAN, p_full_name LONGBLOB, p_sets_user_type BOOLEAN, p_user_type LONGBLOB,
    p_sets_idle_timeout BOOLEAN, p_idle_timeout BIGINT, p_sets_ends_at BOOLEAN, p_ends_at BIGINT
) SQL SECURITY INVOKER
change_session: BEGIN
    DECLARE stored ROW TYPE OF ~session;
    DECLARE bytes_before BIGINT;
    DECLARE bytes_after BIGINT;
    SELECT * INTO stored FROM ~session WHERE id = p_id FOR UPDATE;
    IF stored.id IS NULL
        OR COALESCE(~deadline_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at) <= p_now, FALSE) THEN
        CALL ~record_1('gone', p_id);
        LEAVE change_session;
    END IF;
    IF ~was_applied_1(stored.recent_changes, p_change) THEN
        CALL ~record_1('applied', p_id);
        LEAVE change_session;
    END IF;
    IF p_lease IS NOT NULL AND (stored.lease_number <> p_lease OR stored.lease_until <= p_now) THEN
        SELECT 'lease_lost' AS kind;
        LEAVE change_session;
    END IF;
    -- A value is never empty, so an empty one stands for none.
    IF stored.version <> p_if_version OR (p_relied_on <> '[]' AND EXISTS (
        SELECT 1 FROM JSON_TABLE(p_relied_on, '$[*]' COLUMNS (
            hex_key VARCHAR(2050) PATH '$[0]', hex_value LONGTEXT PATH '$[1]')) AS relied
        LEFT JOIN ~session_data AS found ON found.session = p_id AND found.data_key = UNHEX(relied.hex_key)
        WHERE NOT COALESCE(found.value, '') <=> UNHEX(relied.hex_value)
    )) THEN
        CALL ~record_1('conflict', p_id);
        LEAVE change_session;
    END IF;
    IF p_entries <> '[]' THEN
        SELECT COALESCE(SUM(LENGTH(data_key) + LENGTH(value)), 0) INTO bytes_before
        FROM ~session_data WHERE session = p_id;
        SELECT bytes_before - IF(p_remove_all, bytes_before, (
            SELECT COALESCE(SUM(LENGTH(found.data_key) + LENGTH(found.value)), 0) FROM (
                SELECT hex_key FROM JSON_TABLE(p_entries, '$[*]' COLUMNS (hex_key VARCHAR(2050) PATH '$[0]')) AS entry
                UNION
                SELECT hex_key FROM JSON_TABLE(p_remove, '$[*]' COLUMNS (hex_key VARCHAR(2050) PATH '$')) AS removed
            ) AS gone
            JOIN ~session_data AS found ON found.session = p_id AND found.data_key = UNHEX(gone.hex_key)
        )) + (
            SELECT SUM(LENGTH(UNHEX(hex_key)) + LENGTH(UNHEX(hex_value))) FROM JSON_TABLE(p_entries, '$[*]' COLUMNS (
                hex_key VARCHAR(2050) PATH '$[0]', hex_value LONGTEXT PATH '$[1]')) AS entry
        ) INTO bytes_after;
        IF bytes_after > p_max_bytes AND bytes_after > bytes_before THEN
            SELECT 'too_large' AS kind, bytes_after AS number;
            LEAVE change_session;
        END IF;
    END IF;
    IF p_remove_all THEN
        DELETE FROM ~session_data WHERE session = p_id;
    ELSEIF p_remove <> '[]' THEN
        DELETE data FROM JSON_TABLE(p_remove, '$[*]' COLUMNS (hex_key VARCHAR(2050) PATH '$')) AS removed
        STRAIGHT_JOIN ~session_data AS data ON data.session = p_id AND data.data_key = UNHEX(removed.hex_key);
    END IF;
    IF p_entries <> '[]' THEN
        INSERT INTO ~session_data (session, data_key, value)
        SELECT p_id, UNHEX(hex_key), UNHEX(hex_value) FROM JSON_TABLE(p_entries, '$[*]' COLUMNS (
            hex_key VARCHAR(2050) PATH '$[0]', hex_value LONGTEXT PATH '$[1]')) AS entry
        ON DUPLICATE KEY UPDATE value = VALUES(value);
    END IF;
    IF p_sets_full_name OR p_sets_user_type OR p_sets_idle_timeout OR p_sets_ends_at THEN
        UPDATE ~session SET
            full_name = IF(p_sets_full_name, p_full_name, full_name),
            user_type = IF(p_sets_user_type, p_user_type, user_type),
            idle_timeout = IF(p_sets_idle_timeout, p_idle_timeout, idle_timeout),
            ends_at = IF(p_sets_ends_at, p_ends_at, ends_at)
        WHERE id = p_id;
        UPDATE ~session SET reap_at = ~deadline_1(last_seen_at, idle_timeout, ends_at) WHERE id = p_id;
    END IF;
    UPDATE ~session SET
        version = version + 1,
        recent_changes = SUBSTRING(CONCAT(recent_changes, p_change), GREATEST(LENGTH(recent_changes) - 503, 1))
    WHERE id = p_id;
    IF p_is_audited THEN
        CALL ~enter_log_1();
        INSERT INTO ~audit (at, event, session, user_id, impersonated_by, audit_user, ip)
        VALUES (p_now, 'changed', p_id, stored.user_id, stored.impersonated_by, stored.audit_user, stored.ip);
    END IF;
    CALL ~record_1('applied', p_id);
END
%
CREATE OR REPLACE PROCEDURE ~update_1(
    p_id BINARY(18), p_now BIGINT, p_change BINARY(8), p_lease BIGINT, p_if_version BIGINT, p_relied_on LONGTEXT,
    p_remove_all BOOLEAN, p_remove LONGTEXT, p_entries LONGTEXT, p_max_bytes BIGINT, p_is_audited BOOLEAN,
    p_sets_full_name BOOLEAN, p_full_name LONGBLOB, p_sets_user_type BOOLEAN, p_user_type LONGBLOB,
    p_sets_idle_timeout BOOLEAN, p_idle_timeout BIGINT, p_sets_ends_at BOOLEAN, p_ends_at BIGINT
) SQL SECURITY INVOKER
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    CALL ~change_1(
        p_id, p_now, p_change, p_lease, p_if_version, p_relied_on, p_remove_all, p_remove, p_entries, p_max_bytes,
        p_is_audited, p_sets_full_name, p_full_name, p_sets_user_type, p_user_type, p_sets_idle_timeout,
        p_idle_timeout, p_sets_ends_at, p_ends_at);
    COMMIT;
END
%
-- Changes of several sessions in one transaction: each an array of what update takes, with lists as texts. A row begins
-- the answer to each. A session that somebody else has locked is left out, so that nobody waits for it, nor in a circle.
CREATE OR REPLACE PROCEDURE ~update_many_1(p_calls LONGTEXT) SQL SECURITY INVOKER
BEGIN
    DECLARE locked BINARY(18);
    DECLARE found BINARY(18);
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    FOR wanted IN (
        SELECT * FROM JSON_TABLE(p_calls, '$[*]' COLUMNS (
            id VARCHAR(36) PATH '$[0]', at BIGINT PATH '$[1]', change_id VARCHAR(16) PATH '$[2]',
            lease BIGINT PATH '$[3]', if_version BIGINT PATH '$[4]', relied_on LONGTEXT PATH '$[5]',
            remove_all INT PATH '$[6]', remove LONGTEXT PATH '$[7]', entries LONGTEXT PATH '$[8]',
            max_bytes BIGINT PATH '$[9]', is_audited INT PATH '$[10]',
            sets_full_name INT PATH '$[11]', full_name LONGTEXT PATH '$[12]',
            sets_user_type INT PATH '$[13]', user_type LONGTEXT PATH '$[14]',
            sets_idle_timeout INT PATH '$[15]', idle_timeout BIGINT PATH '$[16]',
            sets_ends_at INT PATH '$[17]', ends_at BIGINT PATH '$[18]')) AS calls
    ) DO
        SELECT 'call' AS kind;
        SET locked = NULL, found = NULL;
        SELECT id INTO locked FROM ~session WHERE id = UNHEX(wanted.id) FOR UPDATE SKIP LOCKED;
        -- A look within a condition would wait for the lock.
        SELECT id INTO found FROM ~session WHERE id = UNHEX(wanted.id);
        IF locked IS NULL AND found IS NOT NULL THEN
            SELECT 'locked' AS kind;
        ELSE
            CALL ~change_1(
                UNHEX(wanted.id), wanted.at, UNHEX(wanted.change_id), wanted.lease, wanted.if_version,
                wanted.relied_on, wanted.remove_all, wanted.remove, wanted.entries, wanted.max_bytes,
                wanted.is_audited, wanted.sets_full_name, UNHEX(wanted.full_name), wanted.sets_user_type,
                UNHEX(wanted.user_type), wanted.sets_idle_timeout, wanted.idle_timeout, wanted.sets_ends_at,
                wanted.ends_at);
        END IF;
    END FOR;
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~touch_1(p_touches LONGTEXT, p_now BIGINT) SQL SECURITY INVOKER
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT session.id
    FROM JSON_TABLE(p_touches, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$[0]')) AS touched
    STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(touched.hex_id)
    WHERE COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE) FOR UPDATE;
    UPDATE JSON_TABLE(p_touches, '$[*]' COLUMNS (
        hex_id VARCHAR(36) PATH '$[0]', seen_at BIGINT PATH '$[1]', grace_ends BIGINT PATH '$[2]')) AS touched
    STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(touched.hex_id)
    SET session.predecessors = IF(touched.grace_ends IS NULL, session.predecessors,
                                  ~confirm_1(session.predecessors, touched.grace_ends)),
        session.last_seen_at = GREATEST(session.last_seen_at, touched.seen_at)
    WHERE COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE);
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~rotate_1(
    p_id BINARY(18), p_presented BINARY(32), p_successor BINARY(32), p_grace BIGINT, p_grace_ends BIGINT,
    p_at_once BOOLEAN, p_by LONGBLOB, p_now BIGINT
) SQL SECURITY INVOKER
rotate_session: BEGIN
    DECLARE stored ROW TYPE OF ~session;
    DECLARE kept VARBINARY(160);
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT * INTO stored FROM ~session WHERE id = p_id FOR UPDATE;
    IF stored.id IS NULL
        OR COALESCE(~deadline_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at) <= p_now, FALSE) THEN
        COMMIT;
        CALL ~record_1('gone', p_id);
        LEAVE rotate_session;
    END IF;
    IF stored.secret = p_successor THEN
        CALL ~record_1('rotated', p_id);
        COMMIT;
        LEAVE rotate_session;
    END IF;
    SET kept = stored.predecessors;
    IF stored.secret = p_presented THEN
        SET kept = SUBSTRING(CONCAT(stored.secret, X'7fffffffffffffff', ~confirm_1(SUBSTRING(kept, 1, 120),
                                                                                  p_grace_ends)), 1, 160);
    ELSEIF SUBSTRING(kept, 1, 40) <> CONCAT(p_presented, X'7fffffffffffffff')
        OR GREATEST(p_now - stored.secret_issued_at, 0) < p_grace THEN
        CALL ~record_1('superseded', p_id);
        COMMIT;
        LEAVE rotate_session;
    END IF;
    IF p_at_once THEN
        SET kept = ~withdraw_1(kept);
    END IF;
    UPDATE ~session SET
        secret = p_successor, secret_issued_at = p_now, rotations = rotations + 1, predecessors = kept
    WHERE id = p_id;
    CALL ~enter_log_1();
    INSERT INTO ~audit (at, event, session, user_id, impersonated_by, audit_user, ip, by_whom)
    VALUES (p_now, 'rotated', p_id, stored.user_id, stored.impersonated_by, stored.audit_user, stored.ip, p_by);
    CALL ~record_1('rotated', p_id);
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~end_1(
    p_ids LONGTEXT, p_reason VARBINARY(64), p_by LONGBLOB, p_note LONGBLOB, p_now BIGINT
) SQL SECURITY INVOKER
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    CALL ~lock_all_1(p_ids);
    CALL ~heads_1('ended', p_ids);
    SELECT 'tombstone' AS kind, tombstone.*
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~tombstone AS tombstone ON tombstone.id = UNHEX(wanted.hex_id);
    CALL ~bury_1(p_ids, p_reason, p_by, p_note, p_now);
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~end_of_user_1(
    p_lock BIGINT, p_user VARBINARY(1024), p_except LONGTEXT, p_disable BOOLEAN, p_reason VARBINARY(64), p_by LONGBLOB,
    p_note LONGBLOB, p_now BIGINT
) SQL SECURITY INVOKER
BEGIN
    DECLARE entered INT;
    DECLARE ending LONGTEXT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT slot INTO entered FROM ~user_slot WHERE slot = p_lock & 1023 FOR UPDATE;
    INSERT INTO ~user_fence (user_id, ended_before) VALUES (p_user, p_now)
    ON DUPLICATE KEY UPDATE ended_before = GREATEST(ended_before, VALUES(ended_before));
    IF p_disable THEN
        INSERT IGNORE INTO ~disabled_user (user_id) VALUES (p_user);
    END IF;
    -- In portions, for an aggregate has a largest length.
    REPEAT
        SELECT JSON_ARRAYAGG(HEX(id) ORDER BY id) INTO ending FROM (
            SELECT id FROM ~session WHERE user_id = p_user AND INSTR(p_except, HEX(id)) = 0 ORDER BY id LIMIT 10000
        ) AS found;
        IF ending IS NOT NULL THEN
            CALL ~lock_all_1(ending);
            CALL ~heads_1('ended', ending);
            CALL ~bury_1(ending, p_reason, p_by, p_note, p_now);
        END IF;
    UNTIL ending IS NULL END REPEAT;
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~log_1(
    p_at BIGINT, p_event VARBINARY(64), p_session BINARY(18), p_user VARBINARY(1024), p_impersonated_by LONGBLOB,
    p_audit_user LONGBLOB, p_ip VARBINARY(64), p_reason VARBINARY(64), p_by LONGBLOB, p_note LONGBLOB
) SQL SECURITY INVOKER
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    CALL ~enter_log_1();
    INSERT INTO ~audit (at, event, session, user_id, impersonated_by, audit_user, ip, reason, by_whom, note)
    VALUES (p_at, p_event, p_session, p_user, p_impersonated_by, p_audit_user, p_ip, p_reason, p_by, p_note);
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~enable_user_1(p_user VARBINARY(1024)) SQL SECURITY INVOKER
    DELETE FROM ~disabled_user WHERE user_id = p_user
%
CREATE OR REPLACE PROCEDURE ~find_of_user_1(
    p_user VARBINARY(1024), p_before BIGINT, p_before_id VARBINARY(18), p_impersonated_by LONGBLOB,
    p_ip VARBINARY(64), p_device BLOB, p_seen_before BIGINT, p_now BIGINT, p_rows BIGINT
) SQL SECURITY INVOKER
    SELECT 'session' AS kind, session.* FROM ~session AS session FORCE INDEX (session_by_user)
    WHERE user_id = p_user AND created_at <= p_before AND (created_at < p_before OR id < p_before_id)
      AND COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE)
      AND (p_impersonated_by IS NULL OR impersonated_by = p_impersonated_by)
      AND (p_ip IS NULL OR ip = p_ip) AND (p_device IS NULL OR device = p_device)
      AND (p_seen_before IS NULL OR last_seen_at <= p_seen_before)
    ORDER BY created_at DESC, id DESC LIMIT p_rows
%
-- Looks at p_scan sessions at most, and answers with the last of them if there may be more.
CREATE OR REPLACE PROCEDURE ~find_anywhere_1(
    p_after VARBINARY(18), p_impersonated_by LONGBLOB, p_ip VARBINARY(64), p_device BLOB, p_seen_before BIGINT, p_now BIGINT, p_rows BIGINT,
    p_scan BIGINT
) SQL SECURITY INVOKER
BEGIN
    DECLARE p_last BIGINT DEFAULT p_scan - 1;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
    START TRANSACTION READ ONLY;
    SELECT 'session' AS kind, scanned.*
    FROM (SELECT * FROM ~session WHERE id > p_after ORDER BY id LIMIT p_scan) AS scanned
    WHERE COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE)
      AND (p_impersonated_by IS NULL OR impersonated_by = p_impersonated_by)
      AND (p_ip IS NULL OR ip = p_ip) AND (p_device IS NULL OR device = p_device)
      AND (p_seen_before IS NULL OR last_seen_at <= p_seen_before)
    ORDER BY id LIMIT p_rows;
    SELECT 'scanned' AS kind, id FROM ~session WHERE id > p_after ORDER BY id LIMIT p_last, 1;
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~reap_1(
    p_sessions BIGINT, p_tombstones BIGINT, p_tombstones_before BIGINT, p_entries BIGINT, p_entries_before BIGINT,
    p_fences BIGINT, p_now BIGINT
) SQL SECURITY INVOKER
BEGIN
    DECLARE looked_at LONGTEXT;
    DECLARE expired LONGTEXT;
    DECLARE old LONGTEXT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT JSON_ARRAYAGG(HEX(id) ORDER BY id) INTO old FROM (
        SELECT id FROM ~tombstone WHERE ended_at <= p_tombstones_before ORDER BY ended_at LIMIT p_tombstones
        FOR UPDATE SKIP LOCKED) AS found;
    DELETE tombstone FROM JSON_TABLE(COALESCE(old, '[]'), '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
    STRAIGHT_JOIN ~tombstone AS tombstone ON tombstone.id = UNHEX(wanted.hex_id);
    SELECT 'tombstones' AS kind, COALESCE(JSON_LENGTH(old), 0) AS number;
    SELECT JSON_ARRAYAGG(seq ORDER BY seq) INTO old FROM (
        SELECT seq FROM ~audit WHERE at <= p_entries_before ORDER BY at LIMIT p_entries
        FOR UPDATE SKIP LOCKED) AS found;
    DELETE entry FROM JSON_TABLE(COALESCE(old, '[]'), '$[*]' COLUMNS (seq BIGINT PATH '$')) AS wanted
    STRAIGHT_JOIN ~audit AS entry ON entry.seq = wanted.seq;
    SELECT 'entries' AS kind, COALESCE(JSON_LENGTH(old), 0) AS number;
    SELECT JSON_ARRAYAGG(HEX(user_id) ORDER BY user_id) INTO old FROM (
        SELECT user_id FROM ~user_fence WHERE ended_before <= p_tombstones_before ORDER BY ended_before LIMIT p_fences
        FOR UPDATE SKIP LOCKED) AS found;
    DELETE fence FROM JSON_TABLE(COALESCE(old, '[]'), '$[*]' COLUMNS (hex_user VARCHAR(2048) PATH '$')) AS wanted
    STRAIGHT_JOIN ~user_fence AS fence ON fence.user_id = UNHEX(wanted.hex_user);
    SELECT 'fences' AS kind, COALESCE(JSON_LENGTH(old), 0) AS number;
    COMMIT;

    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT JSON_ARRAYAGG(HEX(id) ORDER BY id) INTO looked_at FROM (
        SELECT id FROM ~session WHERE reap_at <= p_now ORDER BY reap_at LIMIT p_sessions FOR UPDATE SKIP LOCKED
    ) AS found;
    SELECT 'looked_at' AS kind, COALESCE(JSON_LENGTH(looked_at), 0) AS number;
    IF looked_at IS NOT NULL THEN
        SELECT JSON_ARRAYAGG(HEX(session.id) ORDER BY session.id) INTO expired
        FROM JSON_TABLE(looked_at, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
        STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id)
        WHERE ~deadline_1(last_seen_at, idle_timeout, ends_at) <= p_now;
        UPDATE JSON_TABLE(looked_at, '$[*]' COLUMNS (hex_id VARCHAR(36) PATH '$')) AS wanted
        STRAIGHT_JOIN ~session AS session ON session.id = UNHEX(wanted.hex_id)
        SET session.reap_at = ~deadline_1(last_seen_at, idle_timeout, ends_at)
        WHERE COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE);
        IF expired IS NOT NULL THEN
            CALL ~heads_1('expired', expired);
            CALL ~bury_1(expired, NULL, NULL, NULL, p_now);
        END IF;
    END IF;
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~audit_1(
    p_era BIGINT, p_place BIGINT, p_seq BIGINT, p_user VARBINARY(1024), p_session BINARY(18), p_rows BIGINT
) SQL SECURITY INVOKER
BEGIN
    DECLARE closed INT;
    DECLARE horizon BIGINT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT gate INTO closed FROM ~audit_gate WHERE gate = 0 FOR UPDATE;
    SELECT COALESCE(MAX(seq), 0) INTO horizon FROM ~audit;
    COMMIT;
    IF p_session IS NOT NULL THEN
        SELECT 'entry' AS kind, 0 AS era, 0 AS place, entry.* FROM ~audit AS entry
        WHERE session = p_session AND seq > p_seq AND seq <= horizon AND (p_user IS NULL OR user_id = p_user)
        ORDER BY seq LIMIT p_rows;
    ELSEIF p_user IS NOT NULL THEN
        SELECT 'entry' AS kind, 0 AS era, 0 AS place, entry.* FROM ~audit AS entry
        WHERE user_id = p_user AND seq > p_seq AND seq <= horizon ORDER BY seq LIMIT p_rows;
    ELSE
        SELECT 'entry' AS kind, 0 AS era, 0 AS place, entry.* FROM ~audit AS entry
        WHERE seq > p_seq AND seq <= horizon ORDER BY seq LIMIT p_rows;
    END IF;
END
%
CREATE OR REPLACE PROCEDURE ~lock_1(p_id BINARY(18), p_until BIGINT, p_now BIGINT) SQL SECURITY INVOKER
BEGIN
    DECLARE stored ROW TYPE OF ~session;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT * INTO stored FROM ~session WHERE id = p_id FOR UPDATE;
    IF stored.id IS NULL
        OR COALESCE(~deadline_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at) <= p_now, FALSE) THEN
        CALL ~record_1('gone', p_id);
    ELSEIF stored.lease_until > p_now THEN
        SELECT 'held' AS kind, stored.lease_until AS number;
    ELSE
        UPDATE ~session SET lease_number = lease_number + 1, lease_until = p_until WHERE id = p_id;
        CALL ~record_1('granted', p_id);
    END IF;
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~set_lease_1(p_id BINARY(18), p_number BIGINT, p_until BIGINT, p_now BIGINT)
SQL SECURITY INVOKER
BEGIN
    DECLARE held BIGINT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;
    SELECT lease_number INTO held FROM ~session
    WHERE id = p_id AND lease_number = p_number AND lease_until > p_now
      AND COALESCE(~deadline_1(last_seen_at, idle_timeout, ends_at) > p_now, TRUE) FOR UPDATE;
    IF held IS NOT NULL THEN
        UPDATE ~session SET lease_until = IF(p_until IS NULL, p_now, GREATEST(lease_until, p_until)) WHERE id = p_id;
        SELECT held AS number;
    END IF;
    COMMIT;
END
%
CREATE OR REPLACE PROCEDURE ~renew_1(p_id BINARY(18), p_number BIGINT, p_until BIGINT, p_now BIGINT)
SQL SECURITY INVOKER
    CALL ~set_lease_1(p_id, p_number, p_until, p_now)
%
CREATE OR REPLACE PROCEDURE ~unlock_1(p_id BINARY(18), p_number BIGINT, p_now BIGINT) SQL SECURITY INVOKER
    CALL ~set_lease_1(p_id, p_number, NULL, p_now)
%
CREATE OR REPLACE PROCEDURE ~ping_1() SQL SECURITY INVOKER
    SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000 AS number FROM ~audit_gate
