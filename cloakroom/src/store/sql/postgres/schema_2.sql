-- The users that are known by name. What is settled about each is JSON.
CREATE TABLE ~directory (
    user_id        text COLLATE "C" PRIMARY KEY,
    settings       text COLLATE "C" NOT NULL,
    signed_in_at   bigint,
    signed_in_from text COLLATE "C"
);

CREATE FUNCTION ~user_2(p_user text) RETURNS SETOF ~directory LANGUAGE sql STABLE AS $$
    SELECT * FROM ~directory WHERE user_id = p_user
$$;

-- No user has an empty name.
CREATE FUNCTION ~users_2(p_after text, p_rows bigint) RETURNS SETOF ~directory LANGUAGE sql STABLE AS $$
    SELECT * FROM ~directory WHERE user_id > p_after COLLATE "C" ORDER BY user_id LIMIT p_rows
$$;

CREATE FUNCTION ~put_user_2(
    p_lock bigint, p_user text, p_was text, p_settings text, p_signed_in_at bigint, p_signed_in_from text
) RETURNS TABLE (number bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    stored ~directory;
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    SELECT * INTO stored FROM ~directory WHERE user_id = p_user;
    IF stored.settings IS DISTINCT FROM p_settings AND stored.settings IS DISTINCT FROM p_was THEN
        RETURN QUERY SELECT 0::bigint;
        RETURN;
    END IF;
    IF p_signed_in_at IS NULL OR stored.signed_in_at > p_signed_in_at THEN
        p_signed_in_at := stored.signed_in_at;
        p_signed_in_from := stored.signed_in_from;
    END IF;
    IF p_settings IS NULL THEN
        DELETE FROM ~directory WHERE user_id = p_user;
    ELSE
        INSERT INTO ~directory (user_id, settings, signed_in_at, signed_in_from)
        VALUES (p_user, p_settings, p_signed_in_at, p_signed_in_from)
        ON CONFLICT (user_id) DO UPDATE SET
            settings = excluded.settings, signed_in_at = excluded.signed_in_at,
            signed_in_from = excluded.signed_in_from;
    END IF;
    RETURN QUERY SELECT 1::bigint;
END $$;

-- Sessions that nodes of the version before create are noted too.
CREATE FUNCTION ~note_sign_in_2() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ~directory SET signed_in_at = NEW.created_at, signed_in_from = NEW.ip
    WHERE user_id = NEW.user_id AND (signed_in_at IS NULL OR signed_in_at <= NEW.created_at);
    RETURN NULL;
END $$;

CREATE TRIGGER note_sign_in_2 AFTER INSERT ON ~session FOR EACH ROW
WHEN (NEW.user_id IS NOT NULL AND NEW.impersonated_by IS NULL) EXECUTE FUNCTION ~note_sign_in_2();
