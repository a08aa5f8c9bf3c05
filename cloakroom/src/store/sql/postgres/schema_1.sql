-- Times and durations are milliseconds, ids and digests are bytes, numbers of 64 bits are their signed twins, text compares
-- byte for byte. ~ stands for the schema. Functions carry the number of the schema that made them, so that nodes of two
-- versions can run side by side.

CREATE TABLE ~meta (
    version       int NOT NULL,
    partition_key bytea NOT NULL,
    -- Transaction numbers order the audit log, counted from here: a restored dump starts them anew.
    log_base      bigint NOT NULL
);

-- What data writes change stands together, at the end, and what changed last is last in the data: the server logs what
-- lies between. Neither they nor touches change what an index holds, so both are done within a page.
CREATE TABLE ~slot (
    revision        bigint NOT NULL,
    created_at      bigint NOT NULL,
    -- Without such a limit, far beyond all times.
    idle            bigint NOT NULL,
    ends_at         bigint NOT NULL,
    id              bytea PRIMARY KEY,
    user_id         text COLLATE "C",
    impersonated_by text COLLATE "C",
    ip              text COLLATE "C",
    device          text COLLATE "C",
    idempotency     bytea,
    due_at          bigint,
    ended_at        bigint,
    ended_by        bigint,
    ending          text COLLATE "C",
    head            text COLLATE "C" NOT NULL,
    -- The place of its last entry in the audit log: the next one has no lower place.
    logged          bigint NOT NULL,
    -- '\x1e', then of each value its key, '\x1f', JSON text byte for byte, '\x1e'.
    data            bytea NOT NULL,
    seen            bigint NOT NULL,
    version         bigint NOT NULL,
    -- The ids of the latest 16 changes of data, that of the change to version n + 1 behind 8 * (n % 16) bytes.
    recent          bytea NOT NULL
) WITH (fillfactor = 70, toast_tuple_target = 4080, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX slot_by_user ON ~slot (user_id, created_at, id) WHERE ended_at IS NULL AND user_id IS NOT NULL;
CREATE INDEX slot_by_due ON ~slot (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX slot_by_idempotency ON ~slot (idempotency) WHERE ended_at IS NULL AND idempotency IS NOT NULL;
CREATE INDEX slot_by_end ON ~slot (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE ~account (
    user_id        text COLLATE "C" PRIMARY KEY,
    revision       bigint NOT NULL,
    due_at         bigint,
    signed_in_at   bigint,
    signed_in_from text COLLATE "C",
    settled        text COLLATE "C" NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX account_by_due ON ~account (due_at, user_id) WHERE due_at IS NOT NULL;

CREATE TABLE ~audit (
    -- The transaction that wrote it, or a later one that wrote about the same session before.
    place   bigint NOT NULL,
    seq     bigserial,
    id      bigint NOT NULL,
    at      bigint NOT NULL,
    session bytea NOT NULL,
    user_id text COLLATE "C",
    entry   text COLLATE "C" NOT NULL,
    PRIMARY KEY (place, seq)
);

CREATE INDEX audit_by_user ON ~audit (user_id, place, seq) WHERE user_id IS NOT NULL;
CREATE INDEX audit_by_session ON ~audit (session, place, seq);

-- Data after a change: keys as in data that get a value, or none and go.
CREATE FUNCTION ~merged_1(data bytea, clear boolean, changes bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    key_ends int;
    starts int;
    rest bytea;
BEGIN
    IF clear THEN
        data := '\x1e';
    END IF;
    LOOP
        key_ends := position('\x1f' IN changes);
        EXIT WHEN key_ends = 0;
        starts := position('\x1e' || substring(changes FOR key_ends) IN data);
        IF starts > 0 THEN
            rest := substring(data FROM starts + 1 + key_ends);
            data := substring(data FOR starts) || substring(rest FROM position('\x1e' IN rest) + 1);
        END IF;
        rest := substring(changes FOR position('\x1e' IN changes));
        IF octet_length(rest) > key_ends + 1 THEN
            data := data || rest;
        END IF;
        changes := substring(changes FROM octet_length(rest) + 1);
    END LOOP;
    RETURN data;
END $$;

CREATE FUNCTION ~size_1(data bytea) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT octet_length(data) - 1 - 2 * (octet_length(data) - octet_length(replace(text, E'\x1f', '')))
    FROM convert_from(data, 'UTF8') AS text
$$;

-- Takes the user's lock, and says whether the user's slot has this revision and so many sessions count. Called within a
-- statement it looks after the lock nevertheless: what it runs has snapshots of its own.
CREATE FUNCTION ~admitted_1(p_lock bigint, p_user text, p_revision bigint, p_count bigint, p_now bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    IF p_revision <> coalesce((SELECT revision FROM ~account WHERE user_id = p_user), 0) THEN
        RETURN false;
    END IF;
    RETURN p_count IS NULL OR p_count = (
        SELECT count(*) FROM ~slot WHERE user_id = p_user AND ended_at IS NULL AND impersonated_by IS NULL
                                     AND seen + idle > p_now AND ends_at > p_now);
END $$;

-- Commits transactions, each by itself. Locks come first, all of them in one order, so nothing waits in a circle; what
-- follows them sees what they waited for. Without p_wait what another transaction holds is left alone, and answered as locked.
CREATE FUNCTION ~commit_1(
    p_key bytea, p_transactions jsonb, p_locks bigint[], p_ids bytea[], p_wait boolean, p_again boolean
) RETURNS TABLE (
    n bigint, state text, id bytea, revision bigint, version bigint, seen bigint, head text, data bytea, recent bytea,
    ended_by bigint, ending text, sealed jsonb
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    t jsonb;
    w jsonb;
    held bytea[];
    blank ~slot;
    here bigint;
BEGIN
    -- Before it has a number of its own: who reads the log waits for transactions that hold this and have one.
    LOCK TABLE ~audit IN ROW EXCLUSIVE MODE;
    IF p_wait THEN
        PERFORM pg_advisory_xact_lock(k) FROM unnest(p_locks) AS k;
        PERFORM FROM ~slot AS s WHERE s.id = ANY (p_ids) ORDER BY s.id FOR NO KEY UPDATE;
    ELSE
        p_locks := ARRAY(SELECT k FROM unnest(p_locks) AS k WHERE pg_try_advisory_xact_lock(k));
        held := ARRAY(SELECT s.id FROM ~slot AS s WHERE s.id = ANY (p_ids) ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED);
        p_ids := ARRAY(SELECT i FROM unnest(p_ids) AS i
                       WHERE i = ANY (held) OR NOT EXISTS (SELECT FROM ~slot AS s WHERE s.id = i));
    END IF;
    SELECT greatest(log_base + txid_current(), (SELECT max(s.logged) FROM ~slot AS s WHERE s.id = ANY (p_ids)))
        INTO here FROM ~meta WHERE partition_key = p_key;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 0::bigint, 'replaced', NULL::bytea, NULL::bigint, NULL::bigint, NULL::bigint, NULL::text,
            NULL::bytea, NULL::bytea, NULL::bigint, NULL::text, NULL::jsonb;
        RETURN;
    END IF;
    blank.logged := here;
    blank.recent := decode(repeat('00', 128), 'hex');
    FOR t, n IN SELECT * FROM jsonb_array_elements(p_transactions) WITH ORDINALITY LOOP
        state := CASE
            WHEN NOT p_wait AND (
                EXISTS (SELECT FROM jsonb_array_elements_text(t->'locks') AS k WHERE k::bigint <> ALL (p_locks))
                OR EXISTS (SELECT FROM jsonb_array_elements_text(t->'ids') AS i WHERE i::bytea <> ALL (p_ids)))
            THEN 'locked'
            -- Its first write leaves a mark. That of data is always looked for: callers repeat what they are unsure of.
            WHEN p_again OR t->'mark'->>0 = 'data' THEN (
                SELECT CASE
                    WHEN CASE m->>0
                        WHEN 'create' THEN s.id IS NOT NULL
                        WHEN 'head' THEN s.revision = (m->>2)::bigint
                        WHEN 'end' THEN s.ended_by = (t->>'id')::bigint
                        WHEN 'user' THEN (m->>2)::bigint =
                            coalesce((SELECT a.revision FROM ~account AS a WHERE a.user_id = m->>3), 0)
                        WHEN 'data' THEN EXISTS (SELECT FROM generate_series(1, 121, 8) AS at
                                                 WHERE substr(s.recent, at, 8) = int8send((t->>'id')::bigint))
                    END THEN 'done'
                    WHEN p_again AND m->>0 = 'data' AND s.ended_at IS NULL AND s.version >= (m->>2)::bigint + 16
                    THEN 'unknown'
                END
                FROM (SELECT t->'mark' AS m) AS mark LEFT JOIN ~slot AS s ON s.id = (m->>1)::bytea)
        END;
        IF state IS NULL AND NOT coalesce((
            SELECT bool_and(CASE x->>0
                WHEN 'user' THEN coalesce((SELECT a.revision FROM ~account AS a WHERE a.user_id = x->>2), 0)
                                 = (x->>3)::bigint
                WHEN 'count' THEN (x->>3)::bigint = (
                    SELECT count(*) FROM ~slot AS o
                    WHERE o.user_id = x->>2 AND o.ended_at IS NULL AND o.impersonated_by IS NULL
                      AND o.seen + o.idle > (x->>4)::bigint AND o.ends_at > (x->>4)::bigint)
                WHEN 'try' THEN (x->>1)::bytea IS NOT DISTINCT FROM (
                    SELECT o.id FROM ~slot AS o WHERE o.ended_at IS NULL AND o.idempotency = (x->>2)::bytea
                                                  AND substr(o.id, 1, 2) = (x->>3)::bytea
                    ORDER BY o.logged DESC LIMIT 1)
                WHEN 'empty' THEN s.id IS NULL
                ELSE s.id IS NOT NULL AND s.ended_at IS NULL AND CASE x->>0
                    WHEN 'open' THEN true
                    WHEN 'live' THEN s.seen + s.idle > (x->>2)::bigint AND s.ends_at > (x->>2)::bigint
                    WHEN 'head' THEN s.revision = (x->>2)::bigint
                    WHEN 'version' THEN s.version = (x->>2)::bigint
                    WHEN 'value' THEN position((x->>2)::bytea IN s.data) > 0
                    WHEN 'no value' THEN position((x->>2)::bytea IN s.data) = 0
                    WHEN 'unseen' THEN s.seen <= (x->>2)::bigint
                    WHEN 'size' THEN ~size_1(~merged_1(s.data, (x->>3)::boolean, (x->>4)::bytea))
                                     <= greatest((x->>2)::bigint, ~size_1(s.data))
                END END)
            FROM jsonb_array_elements(t->'expects') AS x LEFT JOIN ~slot AS s ON s.id = (x->>1)::bytea
        ), true) THEN
            state := 'conflict';
        END IF;
        IF state IS NULL THEN
            FOR w IN SELECT * FROM jsonb_array_elements(t->'writes') LOOP
                CASE w->>0
                    WHEN 'create' THEN
                        INSERT INTO ~slot SELECT * FROM jsonb_populate_recordset(blank, w->1);
                    WHEN 'import' THEN
                        DELETE FROM ~slot AS s USING jsonb_populate_recordset(blank, w->1) AS r WHERE s.id = r.id;
                        INSERT INTO ~slot SELECT * FROM jsonb_populate_recordset(blank, w->1);
                    WHEN 'head' THEN
                        UPDATE ~slot AS s SET
                            revision = r.revision, created_at = r.created_at, idle = r.idle, ends_at = r.ends_at,
                            user_id = r.user_id, impersonated_by = r.impersonated_by, ip = r.ip, device = r.device,
                            idempotency = r.idempotency, due_at = least(s.due_at, r.due_at),
                            head = r.head, logged = here
                        FROM jsonb_populate_recordset(blank, w->1) AS r WHERE s.id = r.id;
                    WHEN 'data' THEN
                        UPDATE ~slot AS s SET
                            version = s.version + 1, data = ~merged_1(s.data, r.clear, r.changes),
                            recent = overlay(s.recent PLACING int8send((t->>'id')::bigint)
                                             FROM (s.version & 15)::int * 8 + 1 FOR 8)
                        FROM jsonb_to_recordset(w->1) AS r (id bytea, clear boolean, changes bytea)
                        WHERE s.id = r.id;
                    WHEN 'end' THEN
                        UPDATE ~slot AS s SET
                            ended_at = r.ended_at, ended_by = (t->>'id')::bigint, ending = r.ending, due_at = NULL,
                            data = '\x1e', recent = '', logged = here
                        FROM jsonb_populate_recordset(blank, w->1) AS r WHERE s.id = r.id;
                    WHEN 'due' THEN
                        UPDATE ~slot AS s SET due_at = r.due_at
                        FROM jsonb_populate_recordset(blank, w->1) AS r WHERE s.id = r.id;
                    WHEN 'user' THEN
                        INSERT INTO ~account AS a SELECT * FROM jsonb_populate_recordset(NULL::~account, w->1)
                        ON CONFLICT (user_id) DO UPDATE SET
                            revision = excluded.revision, due_at = excluded.due_at, settled = excluded.settled,
                            signed_in_at = CASE WHEN excluded.signed_in_at IS NOT NULL THEN a.signed_in_at END,
                            signed_in_from = CASE WHEN excluded.signed_in_at IS NOT NULL THEN a.signed_in_from END;
                    WHEN 'no_user' THEN
                        DELETE FROM ~account AS a USING jsonb_array_elements_text(w->1) AS r WHERE a.user_id = r;
                    WHEN 'signed_in' THEN
                        UPDATE ~account AS a SET signed_in_at = r.signed_in_at, signed_in_from = r.signed_in_from
                        FROM jsonb_populate_recordset(NULL::~account, w->1) AS r
                        WHERE a.user_id = r.user_id AND coalesce(a.signed_in_at <= r.signed_in_at, true);
                END CASE;
            END LOOP;
            IF t->'log' <> '[]' THEN
                INSERT INTO ~audit (place, id, at, session, user_id, entry)
                SELECT here, r.id, r.at, r.session, r.user_id, r.entry
                FROM jsonb_populate_recordset(NULL::~audit, t->'log') AS r
                WHERE NOT p_again OR NOT EXISTS (
                    SELECT FROM ~audit AS o WHERE o.session = r.session AND o.id = r.id);
                UPDATE ~slot AS s SET logged = here
                FROM jsonb_populate_recordset(NULL::~audit, t->'log') AS r
                WHERE s.id = r.session AND s.logged < here;
            END IF;
            state := 'done';
        END IF;
        RETURN QUERY SELECT n, state, s.id, s.revision, s.version, s.seen,
            CASE WHEN a.version + 1 = s.version AND a.revision = s.revision THEN NULL ELSE s.head END,
            CASE WHEN a.version + 1 = s.version AND a.revision = s.revision THEN NULL ELSE s.data END,
            s.recent, s.ended_by, s.ending, CASE WHEN left(s.head, 1) <> '{' THEN to_jsonb(s) - '{head,data,recent}'::text[] END
        FROM (SELECT) AS one
            LEFT JOIN jsonb_to_recordset(t->'answers') AS a (id bytea, version bigint, revision bigint) ON state = 'done'
            LEFT JOIN ~slot AS s ON s.id = coalesce(a.id, CASE WHEN state = 'conflict' THEN (t->>'shown')::bytea END);
    END LOOP;
END $$;
