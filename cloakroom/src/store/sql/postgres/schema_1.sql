-- Times and durations are milliseconds, ids and digests are bytes, text compares byte for byte. ~ stands for the schema.
--
-- Every call that changes something is one function, so one round trip. Under READ COMMITTED each statement in it
-- takes a snapshot of its own: what follows a lock sees what the lock waited for. Locks are taken in one order
-- everywhere, first the user's, then rows of sessions by id, so nobody waits in a circle. Functions carry the number of
-- the schema that made them, so that nodes of two versions can run side by side.

CREATE TABLE ~meta (
    name  text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- Transaction numbers order the audit log. A restored dump starts them anew: then another era begins.
CREATE TABLE ~era (
    number bigint NOT NULL
);
INSERT INTO ~era VALUES (1);

CREATE TABLE ~session (
    id               bytea PRIMARY KEY,
    user_id          text COLLATE "C",
    full_name        text COLLATE "C",
    user_type        text COLLATE "C",
    created_at       bigint NOT NULL,
    last_seen_at     bigint NOT NULL,
    idle_timeout     bigint,
    ends_at          bigint,
    authenticated_at bigint,
    methods          text COLLATE "C",
    level            bigint,
    remember         boolean NOT NULL,
    ip               text COLLATE "C",
    user_agent       text COLLATE "C",
    device           text COLLATE "C",
    country          text COLLATE "C",
    impersonated_by  text COLLATE "C",
    returns_to       bytea,
    audit_user       text COLLATE "C",
    version          bigint NOT NULL,
    secret           bytea NOT NULL,
    secret_issued_at bigint NOT NULL,
    rotations        bigint NOT NULL,
    predecessors     bytea NOT NULL,
    recent_changes   bytea NOT NULL,
    lease_number     bigint NOT NULL,
    lease_until      bigint NOT NULL,
    idempotency      bytea,
    -- Not after the deadline. Touches leave it alone, and so touch no index; the reaper moves it on.
    reap_at          bigint,
    -- The transaction of the session's last audit entry: the next one has no lower place in the log.
    logged_in        bigint NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX session_by_user ON ~session (user_id, created_at, id) WHERE user_id IS NOT NULL;
CREATE INDEX session_by_expiry ON ~session (reap_at) WHERE reap_at IS NOT NULL;
CREATE INDEX session_by_idempotency ON ~session (idempotency) WHERE idempotency IS NOT NULL;

CREATE TABLE ~session_data (
    session  bytea NOT NULL,
    data_key text COLLATE "C" NOT NULL,
    value    text COLLATE "C" NOT NULL,
    PRIMARY KEY (session, data_key)
) WITH (fillfactor = 80);

CREATE TABLE ~tombstone (
    id               bytea PRIMARY KEY,
    user_id          text COLLATE "C",
    ended_at         bigint NOT NULL,
    reason           text COLLATE "C" NOT NULL,
    by_whom          text COLLATE "C",
    note             text COLLATE "C",
    secret           bytea NOT NULL,
    secret_issued_at bigint NOT NULL,
    rotations        bigint NOT NULL,
    predecessors     bytea NOT NULL
);

CREATE INDEX tombstone_by_end ON ~tombstone (ended_at);

CREATE TABLE ~disabled_user (
    user_id text COLLATE "C" PRIMARY KEY
);

-- Sign-ins that authenticated before this time come too late.
CREATE TABLE ~user_fence (
    user_id      text COLLATE "C" PRIMARY KEY,
    ended_before bigint NOT NULL
);

CREATE INDEX user_fence_by_end ON ~user_fence (ended_before);

CREATE TABLE ~audit (
    era             bigint NOT NULL,
    -- The transaction that wrote it, or a later one that wrote about the same session before.
    place           bigint NOT NULL,
    seq             bigserial,
    at              bigint NOT NULL,
    event           text COLLATE "C" NOT NULL,
    session         bytea NOT NULL,
    user_id         text COLLATE "C",
    impersonated_by text COLLATE "C",
    audit_user      text COLLATE "C",
    ip              text COLLATE "C",
    reason          text COLLATE "C",
    by_whom         text COLLATE "C",
    note            text COLLATE "C",
    PRIMARY KEY (era, place, seq)
);

CREATE INDEX audit_by_user ON ~audit (user_id, era, place, seq) WHERE user_id IS NOT NULL;
CREATE INDEX audit_by_session ON ~audit (session, era, place, seq);
CREATE INDEX audit_by_time ON ~audit (at);

-- One shape for everything that is answered about sessions.
CREATE TYPE ~answer_1 AS (
    kind text, number bigint,
    id bytea, user_id text, full_name text, user_type text, created_at bigint, last_seen_at bigint, idle_timeout bigint,
    ends_at bigint, authenticated_at bigint, methods text, level bigint, remember boolean, ip text, user_agent text,
    device text, country text, impersonated_by text, returns_to bytea, audit_user text, version bigint,
    secret bytea, secret_issued_at bigint, rotations bigint, predecessors bytea,
    recent_changes bytea, lease_number bigint, lease_until bigint, idempotency bytea,
    data_key text, value text,
    ended_at bigint, reason text, by_whom text, note text
);

CREATE FUNCTION ~deadline_1(last_seen bigint, idle bigint, ends bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- 9999-12-30 is the latest time there is.
    SELECT least(
        CASE WHEN idle IS NOT NULL THEN least(last_seen + least(idle, 253402128000000), 253402128000000) END, ends)
$$;

CREATE FUNCTION ~lives_1(last_seen bigint, idle bigint, ends bigint, p_now bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(~deadline_1(last_seen, idle, ends) > p_now, true)
$$;

CREATE FUNCTION ~this_transaction_1() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT pg_current_xact_id()::text::bigint
$$;

CREATE FUNCTION ~heads_1(p_kind text, p_ids bytea[]) RETURNS SETOF ~answer_1 LANGUAGE sql STABLE AS $$
    SELECT p_kind, NULL::bigint,
           id, user_id, full_name, user_type, created_at, last_seen_at, idle_timeout,
           ends_at, authenticated_at, methods, level, remember, ip, user_agent,
           device, country, impersonated_by, returns_to, audit_user, version,
           secret, secret_issued_at, rotations, predecessors,
           recent_changes, lease_number, lease_until, idempotency,
           NULL::text, NULL::text,
           NULL::bigint, NULL::text, NULL::text, NULL::text
    FROM ~session WHERE id = ANY (p_ids)
$$;

CREATE FUNCTION ~tombstones_1(p_ids bytea[]) RETURNS SETOF ~answer_1 LANGUAGE sql STABLE AS $$
    SELECT 'tombstone'::text, NULL::bigint,
           id, user_id, NULL::text, NULL::text, NULL::bigint, NULL::bigint, NULL::bigint,
           NULL::bigint, NULL::bigint, NULL::text, NULL::bigint, NULL::boolean, NULL::text, NULL::text,
           NULL::text, NULL::text, NULL::text, NULL::bytea, NULL::text, NULL::bigint,
           secret, secret_issued_at, rotations, predecessors,
           NULL::bytea, NULL::bigint, NULL::bigint, NULL::bytea,
           NULL::text, NULL::text,
           ended_at, reason, by_whom, note
    FROM ~tombstone WHERE id = ANY (p_ids)
$$;

CREATE FUNCTION ~record_1(p_kind text, p_id bytea) RETURNS SETOF ~answer_1 LANGUAGE sql STABLE AS $$
    SELECT * FROM ~heads_1(p_kind, ARRAY[p_id])
    UNION ALL
    SELECT 'data'::text, NULL::bigint,
           NULL::bytea, NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::bigint, NULL::bigint,
           NULL::bigint, NULL::bigint, NULL::text, NULL::bigint, NULL::boolean, NULL::text, NULL::text,
           NULL::text, NULL::text, NULL::text, NULL::bytea, NULL::text, NULL::bigint,
           NULL::bytea, NULL::bigint, NULL::bigint, NULL::bytea,
           NULL::bytea, NULL::bigint, NULL::bigint, NULL::bytea,
           data_key, value,
           NULL::bigint, NULL::text, NULL::text, NULL::text
    FROM ~session_data WHERE session = p_id
$$;

CREATE FUNCTION ~load_1(p_id bytea) RETURNS SETOF ~answer_1 LANGUAGE sql STABLE AS $$
    SELECT * FROM ~record_1('session', p_id) UNION ALL SELECT * FROM ~tombstones_1(ARRAY[p_id])
$$;

-- A predecessor is 32 bytes of digest and 8 of time; the largest time means that its grace has not begun.
CREATE FUNCTION ~confirm_1(p_predecessors bytea, p_grace_ends bigint) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    FOR place IN 0 .. octet_length(p_predecessors) / 40 - 1 LOOP
        IF substr(p_predecessors, place * 40 + 33, 8) = '\x7fffffffffffffff' THEN
            p_predecessors := overlay(p_predecessors PLACING int8send(p_grace_ends) FROM place * 40 + 33 FOR 8);
        END IF;
    END LOOP;
    RETURN p_predecessors;
END $$;

CREATE FUNCTION ~withdraw_1(p_predecessors bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    FOR place IN 0 .. octet_length(p_predecessors) / 40 - 1 LOOP
        p_predecessors := overlay(p_predecessors PLACING '\x0000000000000000' FROM place * 40 + 33 FOR 8);
    END LOOP;
    RETURN p_predecessors;
END $$;

-- Ends sessions whose rows the caller has locked. One that has expired ends for that reason.
CREATE FUNCTION ~bury_1(p_ids bytea[], p_reason text, p_by text, p_note text, p_now bigint) RETURNS void
LANGUAGE sql VOLATILE AS $$
    WITH values_gone AS (
        DELETE FROM ~session_data WHERE session = ANY (p_ids)
    ), gone AS (
        DELETE FROM ~session WHERE id = ANY (p_ids)
        RETURNING *, ~deadline_1(last_seen_at, idle_timeout, ends_at) AS deadline
    ), told AS (
        SELECT *, coalesce(deadline <= p_now, false) AS expired FROM gone
    ), dead AS (
        SELECT told.*,
               CASE WHEN expired THEN deadline ELSE p_now END AS ended_at,
               CASE WHEN NOT expired THEN p_reason WHEN ends_at = deadline THEN 'absolute_timeout'
                    ELSE 'idle_timeout' END AS reason,
               CASE WHEN NOT expired THEN p_by END AS by_whom,
               CASE WHEN NOT expired THEN p_note END AS note
        FROM told
    ), buried AS (
        INSERT INTO ~tombstone (id, user_id, ended_at, reason, by_whom, note,
                                secret, secret_issued_at, rotations, predecessors)
        SELECT id, user_id, ended_at, reason, by_whom, note, secret, secret_issued_at, rotations, predecessors FROM dead
        ON CONFLICT (id) DO UPDATE SET
            user_id = excluded.user_id, ended_at = excluded.ended_at, reason = excluded.reason,
            by_whom = excluded.by_whom, note = excluded.note, secret = excluded.secret,
            secret_issued_at = excluded.secret_issued_at, rotations = excluded.rotations,
            predecessors = excluded.predecessors
    )
    INSERT INTO ~audit (era, place, at, event, session, user_id, impersonated_by, audit_user, ip, reason, by_whom, note)
    SELECT (SELECT number FROM ~era), greatest(~this_transaction_1(), logged_in),
           ended_at, 'ended', id, user_id, impersonated_by, audit_user, ip, reason, by_whom, note
    FROM dead ORDER BY created_at DESC, id DESC
$$;

CREATE FUNCTION ~create_1(
    p_lock bigint, p_now bigint, p_limit bigint, p_evict boolean, p_replaces bytea, p_by text, p_event text,
    p_note text, p_disabled_note text, p_fence_note text, p_limit_note text,
    p_id bytea, p_user_id text, p_full_name text, p_user_type text, p_created_at bigint, p_last_seen_at bigint,
    p_idle_timeout bigint, p_ends_at bigint, p_authenticated_at bigint, p_methods text, p_level bigint,
    p_remember boolean, p_ip text, p_user_agent text, p_device text, p_country text, p_impersonated_by text,
    p_returns_to bytea, p_audit_user text, p_version bigint,
    p_secret bytea, p_secret_issued_at bigint, p_rotations bigint, p_predecessors bytea, p_recent_changes bytea,
    p_lease_number bigint, p_lease_until bigint, p_idempotency bytea, p_keys text[], p_values text[]
) RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    answer ~answer_1;
    refusal text;
    refusal_note text;
    uncounted bytea[];
    living bytea[];
    evicted bytea[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    -- Ids are fresh: an earlier try of this very call made it, whatever became of it since.
    IF EXISTS (SELECT FROM ~session WHERE id = p_id) OR EXISTS (SELECT FROM ~tombstone WHERE id = p_id) THEN
        answer.kind := 'created';
        RETURN NEXT answer;
        RETURN;
    END IF;
    uncounted := ARRAY(
        SELECT id FROM ~session WHERE id = p_replaces
        UNION
        SELECT id FROM ~session WHERE idempotency = p_idempotency AND substr(id, 1, 2) = substr(p_id, 1, 2));
    IF p_user_id IS NOT NULL THEN
        IF EXISTS (SELECT FROM ~disabled_user WHERE user_id = p_user_id) THEN
            refusal := 'user_disabled';
            refusal_note := p_disabled_note;
        ELSIF EXISTS (SELECT FROM ~user_fence
                      WHERE user_id = p_user_id AND ended_before > coalesce(
                          CASE WHEN p_impersonated_by IS NULL THEN p_authenticated_at END, p_created_at)) THEN
            refusal := 'ended_meanwhile';
            refusal_note := p_fence_note;
        ELSIF p_limit IS NOT NULL THEN
            living := ARRAY(
                SELECT id FROM ~session
                WHERE user_id = p_user_id AND impersonated_by IS NULL
                  AND ~lives_1(last_seen_at, idle_timeout, ends_at, p_now) AND id <> ALL (uncounted)
                ORDER BY last_seen_at, created_at, id);
            IF cardinality(living) >= p_limit THEN
                IF p_evict THEN
                    evicted := living[1 : cardinality(living) + 1 - greatest(p_limit, 1)];
                ELSE
                    refusal := 'limit_reached';
                    refusal_note := p_limit_note;
                END IF;
            END IF;
        END IF;
    END IF;
    IF refusal IS NOT NULL THEN
        INSERT INTO ~audit (era, place, at, event, session, user_id, impersonated_by, audit_user, ip, by_whom, note)
        VALUES ((SELECT number FROM ~era), ~this_transaction_1(), p_now, 'refused', p_id, p_user_id,
                p_impersonated_by, p_audit_user, p_ip, p_by, refusal_note);
        answer.kind := refusal;
        RETURN NEXT answer;
        RETURN;
    END IF;
    IF cardinality(uncounted) + cardinality(evicted) > 0 THEN
        PERFORM FROM ~session WHERE id = ANY (uncounted || evicted) ORDER BY id FOR UPDATE;
        RETURN QUERY SELECT * FROM ~heads_1('replaced', uncounted) UNION ALL SELECT * FROM ~heads_1('evicted', evicted);
        PERFORM ~bury_1(uncounted, 'replaced', p_by, NULL, p_now);
        PERFORM ~bury_1(evicted, 'signed_in_elsewhere', p_by, NULL, p_now);
    END IF;
    INSERT INTO ~session (
        id, user_id, full_name, user_type, created_at, last_seen_at, idle_timeout, ends_at, authenticated_at,
        methods, level, remember, ip, user_agent, device, country, impersonated_by, returns_to, audit_user, version,
        secret, secret_issued_at, rotations, predecessors, recent_changes, lease_number, lease_until, idempotency,
        reap_at, logged_in
    ) VALUES (
        p_id, p_user_id, p_full_name, p_user_type, p_created_at, p_last_seen_at, p_idle_timeout, p_ends_at,
        p_authenticated_at, p_methods, p_level, p_remember, p_ip, p_user_agent, p_device, p_country,
        p_impersonated_by, p_returns_to, p_audit_user, p_version,
        p_secret, p_secret_issued_at, p_rotations, p_predecessors, p_recent_changes, p_lease_number, p_lease_until,
        p_idempotency, ~deadline_1(p_last_seen_at, p_idle_timeout, p_ends_at), ~this_transaction_1());
    IF cardinality(p_keys) > 0 THEN
        INSERT INTO ~session_data (session, data_key, value)
        SELECT p_id, entry.k, entry.v FROM unnest(p_keys, p_values) AS entry (k, v);
    END IF;
    INSERT INTO ~audit (era, place, at, event, session, user_id, impersonated_by, audit_user, ip, by_whom, note)
    VALUES ((SELECT number FROM ~era), ~this_transaction_1(), p_now, p_event, p_id, p_user_id, p_impersonated_by,
            p_audit_user, p_ip, p_by, p_note);
    answer.kind := 'created';
    RETURN NEXT answer;
END $$;

CREATE FUNCTION ~update_1(
    p_id bytea, p_now bigint, p_change bytea, p_lease bigint, p_if_version bigint,
    p_relied_keys text[], p_relied_values text[], p_remove_all boolean, p_remove text[], p_keys text[], p_values text[],
    p_max_bytes bigint, p_is_audited boolean,
    p_sets_full_name boolean, p_full_name text, p_sets_user_type boolean, p_user_type text,
    p_sets_idle_timeout boolean, p_idle_timeout bigint, p_sets_ends_at boolean, p_ends_at bigint
) RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    answer ~answer_1;
    stored ~session;
    bytes_before bigint;
    bytes_after bigint;
BEGIN
    SELECT * INTO stored FROM ~session WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ~tombstones_1(ARRAY[p_id]);
        RETURN;
    END IF;
    IF NOT ~lives_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at, p_now) THEN
        RETURN QUERY SELECT * FROM ~heads_1('expired', ARRAY[p_id]);
        RETURN;
    END IF;
    -- Ids have eight bytes each; these may be found across two of them as well.
    IF position(p_change IN stored.recent_changes) > 0 AND EXISTS (
        SELECT FROM generate_series(1, octet_length(stored.recent_changes), 8) AS place
        WHERE substr(stored.recent_changes, place, 8) = p_change
    ) THEN
        RETURN QUERY SELECT * FROM ~record_1('applied', p_id);
        RETURN;
    END IF;
    IF p_lease IS NOT NULL AND (stored.lease_number <> p_lease OR stored.lease_until <= p_now) THEN
        answer.kind := 'lease_lost';
        RETURN NEXT answer;
        RETURN;
    END IF;
    IF stored.version <> p_if_version OR (cardinality(p_relied_keys) > 0 AND EXISTS (
        SELECT FROM unnest(p_relied_keys, p_relied_values) AS relied (k, v)
        LEFT JOIN ~session_data AS found ON found.session = p_id AND found.data_key = relied.k
        WHERE found.value IS DISTINCT FROM relied.v
    )) THEN
        RETURN QUERY SELECT * FROM ~record_1('conflict', p_id);
        RETURN;
    END IF;
    IF cardinality(p_keys) > 0 THEN
        SELECT coalesce(sum(octet_length(data_key) + octet_length(value)), 0),
               coalesce(sum(octet_length(data_key) + octet_length(value)) FILTER (
                   WHERE NOT p_remove_all AND data_key <> ALL (p_remove || p_keys)), 0)
        INTO bytes_before, bytes_after
        FROM ~session_data WHERE session = p_id;
        bytes_after := bytes_after
            + (SELECT sum(octet_length(entry.k) + octet_length(entry.v)) FROM unnest(p_keys, p_values) AS entry (k, v));
        IF bytes_after > p_max_bytes AND bytes_after > bytes_before THEN
            answer.kind := 'too_large';
            answer.number := bytes_after;
            RETURN NEXT answer;
            RETURN;
        END IF;
    END IF;
    IF p_remove_all THEN
        DELETE FROM ~session_data WHERE session = p_id AND data_key <> ALL (p_keys);
    ELSIF cardinality(p_remove) > 0 THEN
        DELETE FROM ~session_data WHERE session = p_id AND data_key = ANY (p_remove);
    END IF;
    IF cardinality(p_keys) > 0 THEN
        INSERT INTO ~session_data (session, data_key, value)
        SELECT p_id, entry.k, entry.v FROM unnest(p_keys, p_values) AS entry (k, v)
        ON CONFLICT (session, data_key) DO UPDATE SET value = excluded.value;
    END IF;
    IF p_sets_full_name OR p_sets_user_type OR p_sets_idle_timeout OR p_sets_ends_at THEN
        IF p_sets_idle_timeout THEN stored.idle_timeout := p_idle_timeout; END IF;
        IF p_sets_ends_at THEN stored.ends_at := p_ends_at; END IF;
        UPDATE ~session SET
            full_name = CASE WHEN p_sets_full_name THEN p_full_name ELSE full_name END,
            user_type = CASE WHEN p_sets_user_type THEN p_user_type ELSE user_type END,
            idle_timeout = stored.idle_timeout,
            ends_at = stored.ends_at,
            reap_at = ~deadline_1(last_seen_at, stored.idle_timeout, stored.ends_at),
            logged_in = CASE WHEN p_is_audited THEN greatest(~this_transaction_1(), logged_in) ELSE logged_in END
        WHERE id = p_id;
    END IF;
    UPDATE ~session SET
        version = version + 1,
        recent_changes = substr(recent_changes || p_change, greatest(octet_length(recent_changes) - 503, 1))
    WHERE id = p_id;
    IF p_is_audited THEN
        INSERT INTO ~audit (era, place, at, event, session, user_id, impersonated_by, audit_user, ip)
        VALUES ((SELECT number FROM ~era), greatest(~this_transaction_1(), stored.logged_in), p_now, 'changed', p_id,
                stored.user_id, stored.impersonated_by, stored.audit_user, stored.ip);
    END IF;
    RETURN QUERY SELECT * FROM ~record_1('applied', p_id);
END $$;

-- Changes of several sessions in one transaction. Lists of all are joined, and how long each is follows them. A row
-- begins the answer to each. A session that somebody else has locked is left out, so that nobody waits for it, nor in a
-- circle.
CREATE FUNCTION ~update_many_1(
    p_ids bytea[], p_nows bigint[], p_changes bytea[], p_leases bigint[], p_if_versions bigint[],
    p_relied_keys text[], p_relied_values text[], p_relied_counts bigint[], p_remove_all boolean[],
    p_remove text[], p_remove_counts bigint[], p_keys text[], p_values text[], p_key_counts bigint[],
    p_max_bytes bigint[], p_is_audited boolean[],
    p_sets_full_name boolean[], p_full_name text[], p_sets_user_type boolean[], p_user_type text[],
    p_sets_idle_timeout boolean[], p_idle_timeout bigint[], p_sets_ends_at boolean[], p_ends_at bigint[]
) RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    call ~answer_1;
    relied bigint := 1;
    removed bigint := 1;
    entries bigint := 1;
BEGIN
    FOR n IN 1 .. cardinality(p_ids) LOOP
        call.kind := 'call';
        RETURN NEXT call;
        PERFORM FROM ~session WHERE id = p_ids[n] FOR UPDATE SKIP LOCKED;
        IF NOT FOUND AND EXISTS (SELECT FROM ~session WHERE id = p_ids[n]) THEN
            call.kind := 'locked';
            RETURN NEXT call;
        ELSE
            RETURN QUERY SELECT * FROM ~update_1(
                p_ids[n], p_nows[n], p_changes[n], p_leases[n], p_if_versions[n],
                p_relied_keys[relied : relied + p_relied_counts[n] - 1],
                p_relied_values[relied : relied + p_relied_counts[n] - 1], p_remove_all[n],
                p_remove[removed : removed + p_remove_counts[n] - 1],
                p_keys[entries : entries + p_key_counts[n] - 1], p_values[entries : entries + p_key_counts[n] - 1],
                p_max_bytes[n], p_is_audited[n], p_sets_full_name[n], p_full_name[n], p_sets_user_type[n],
                p_user_type[n], p_sets_idle_timeout[n], p_idle_timeout[n], p_sets_ends_at[n], p_ends_at[n]);
        END IF;
        relied := relied + p_relied_counts[n];
        removed := removed + p_remove_counts[n];
        entries := entries + p_key_counts[n];
    END LOOP;
END $$;

CREATE FUNCTION ~touch_1(p_ids bytea[], p_seen_at bigint[], p_grace_ends bigint[], p_now bigint)
RETURNS TABLE (id bytea) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM ~session AS stored WHERE stored.id = ANY (p_ids) ORDER BY stored.id FOR UPDATE;
    UPDATE ~session AS stored SET
        last_seen_at = greatest(stored.last_seen_at, touched.seen_at),
        predecessors = CASE WHEN touched.grace_ends IS NULL THEN stored.predecessors
                            ELSE ~confirm_1(stored.predecessors, touched.grace_ends) END
    FROM unnest(p_ids, p_seen_at, p_grace_ends) AS touched (id, seen_at, grace_ends)
    WHERE stored.id = touched.id
      AND ~lives_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at, p_now)
      AND (touched.seen_at > stored.last_seen_at OR touched.grace_ends IS NOT NULL);
    RETURN QUERY SELECT stored.id FROM ~session AS stored
        WHERE stored.id = ANY (p_ids)
          AND ~lives_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at, p_now);
END $$;

CREATE FUNCTION ~rotate_1(
    p_id bytea, p_presented bytea, p_successor bytea, p_grace bigint, p_grace_ends bigint, p_at_once boolean, p_by text,
    p_now bigint
) RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    stored ~session;
BEGIN
    SELECT * INTO stored FROM ~session WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ~tombstones_1(ARRAY[p_id]);
        RETURN;
    END IF;
    IF NOT ~lives_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at, p_now) THEN
        RETURN QUERY SELECT * FROM ~heads_1('expired', ARRAY[p_id]);
        RETURN;
    END IF;
    IF stored.secret = p_successor THEN
        RETURN QUERY SELECT * FROM ~record_1('rotated', p_id);
        RETURN;
    END IF;
    IF stored.secret = p_presented THEN
        stored.predecessors := substr(
            stored.secret || '\x7fffffffffffffff'::bytea || ~confirm_1(stored.predecessors, p_grace_ends), 1, 160);
    ELSIF substr(stored.predecessors, 1, 40) <> p_presented || '\x7fffffffffffffff'::bytea
        OR greatest(p_now - stored.secret_issued_at, 0) < p_grace THEN
        RETURN QUERY SELECT * FROM ~record_1('superseded', p_id);
        RETURN;
    END IF;
    IF p_at_once THEN
        stored.predecessors := ~withdraw_1(stored.predecessors);
    END IF;
    UPDATE ~session SET
        secret = p_successor, secret_issued_at = p_now, rotations = rotations + 1,
        predecessors = stored.predecessors, logged_in = greatest(~this_transaction_1(), logged_in)
    WHERE id = p_id;
    INSERT INTO ~audit (era, place, at, event, session, user_id, impersonated_by, audit_user, ip, by_whom)
    VALUES ((SELECT number FROM ~era), greatest(~this_transaction_1(), stored.logged_in), p_now, 'rotated', p_id,
            stored.user_id, stored.impersonated_by, stored.audit_user, stored.ip, p_by);
    RETURN QUERY SELECT * FROM ~record_1('rotated', p_id);
END $$;

CREATE FUNCTION ~end_1(p_ids bytea[], p_reason text, p_by text, p_note text, p_now bigint)
RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM ~session WHERE id = ANY (p_ids) ORDER BY id FOR UPDATE;
    RETURN QUERY SELECT * FROM ~heads_1('ended', p_ids) UNION ALL SELECT * FROM ~tombstones_1(p_ids);
    PERFORM ~bury_1(p_ids, p_reason, p_by, p_note, p_now);
END $$;

CREATE FUNCTION ~end_of_user_1(
    p_lock bigint, p_user text, p_except bytea[], p_disable boolean, p_reason text, p_by text, p_note text, p_now bigint
) RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ending bytea[];
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    ending := ARRAY(SELECT id FROM ~session WHERE user_id = p_user AND id <> ALL (p_except));
    PERFORM FROM ~session WHERE id = ANY (ending) ORDER BY id FOR UPDATE;
    INSERT INTO ~user_fence (user_id, ended_before) VALUES (p_user, p_now)
    ON CONFLICT (user_id) DO UPDATE SET ended_before = greatest(user_fence.ended_before, excluded.ended_before);
    IF p_disable THEN
        INSERT INTO ~disabled_user (user_id) VALUES (p_user) ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT * FROM ~heads_1('ended', ending);
    PERFORM ~bury_1(ending, p_reason, p_by, p_note, p_now);
END $$;

CREATE FUNCTION ~log_1(
    p_at bigint, p_event text, p_session bytea, p_user text, p_impersonated_by text, p_audit_user text, p_ip text,
    p_reason text, p_by text, p_note text
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    place bigint;
BEGIN
    UPDATE ~session SET logged_in = greatest(~this_transaction_1(), logged_in) WHERE id = p_session
    RETURNING logged_in INTO place;
    INSERT INTO ~audit (era, place, at, event, session, user_id, impersonated_by, audit_user, ip, reason, by_whom, note)
    VALUES ((SELECT number FROM ~era), coalesce(place, ~this_transaction_1()), p_at, p_event, p_session, p_user,
            p_impersonated_by, p_audit_user, p_ip, p_reason, p_by, p_note);
END $$;

CREATE FUNCTION ~enable_user_1(p_user text) RETURNS void LANGUAGE sql VOLATILE AS $$
    DELETE FROM ~disabled_user WHERE user_id = p_user
$$;

CREATE FUNCTION ~find_of_user_1(
    p_user text, p_before bigint, p_before_id bytea, p_impersonated_by text, p_ip text, p_device text,
    p_seen_before bigint, p_now bigint, p_rows bigint
) RETURNS SETOF ~answer_1 LANGUAGE sql STABLE AS $$
    SELECT * FROM ~heads_1('session', ARRAY(
        SELECT id FROM ~session
        WHERE user_id = p_user AND (created_at, id) < (p_before, p_before_id)
          AND ~lives_1(last_seen_at, idle_timeout, ends_at, p_now)
          AND (p_impersonated_by IS NULL OR impersonated_by = p_impersonated_by)
          AND (p_ip IS NULL OR ip = p_ip) AND (p_device IS NULL OR device = p_device)
          AND (p_seen_before IS NULL OR last_seen_at <= p_seen_before)
        ORDER BY created_at DESC, id DESC LIMIT p_rows))
$$;

-- Looks at p_scan sessions at most, and answers with the last of them if there may be more.
CREATE FUNCTION ~find_anywhere_1(
    p_after bytea, p_impersonated_by text, p_ip text, p_device text, p_seen_before bigint, p_now bigint, p_rows bigint,
    p_scan bigint
) RETURNS SETOF ~answer_1 LANGUAGE sql STABLE AS $$
    SELECT * FROM ~heads_1('session', ARRAY(
        SELECT id FROM (SELECT * FROM ~session WHERE id > p_after ORDER BY id LIMIT p_scan) AS scanned
        WHERE ~lives_1(last_seen_at, idle_timeout, ends_at, p_now)
          AND (p_impersonated_by IS NULL OR impersonated_by = p_impersonated_by)
          AND (p_ip IS NULL OR ip = p_ip) AND (p_device IS NULL OR device = p_device)
          AND (p_seen_before IS NULL OR last_seen_at <= p_seen_before)
        ORDER BY id LIMIT p_rows))
    UNION ALL
    SELECT * FROM ~heads_1('scanned', ARRAY(
        SELECT id FROM ~session WHERE id > p_after ORDER BY id OFFSET p_scan - 1 LIMIT 1))
$$;

CREATE FUNCTION ~reap_1(
    p_sessions bigint, p_tombstones bigint, p_tombstones_before bigint, p_entries bigint, p_entries_before bigint,
    p_fences bigint, p_now bigint
) RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    answer ~answer_1;
    looked_at bytea[];
    expired bytea[];
BEGIN
    looked_at := ARRAY(
        SELECT id FROM ~session WHERE reap_at <= p_now ORDER BY reap_at LIMIT p_sessions FOR UPDATE SKIP LOCKED);
    expired := ARRAY(
        SELECT id FROM ~session
        WHERE id = ANY (looked_at) AND NOT ~lives_1(last_seen_at, idle_timeout, ends_at, p_now));
    UPDATE ~session SET reap_at = ~deadline_1(last_seen_at, idle_timeout, ends_at)
        WHERE id = ANY (looked_at) AND id <> ALL (expired);
    RETURN QUERY SELECT * FROM ~heads_1('expired', expired);
    PERFORM ~bury_1(expired, NULL, NULL, NULL, p_now);
    answer.kind := 'looked_at';
    answer.number := cardinality(looked_at);
    RETURN NEXT answer;

    DELETE FROM ~tombstone WHERE id = ANY (ARRAY(
        SELECT id FROM ~tombstone WHERE ended_at <= p_tombstones_before ORDER BY ended_at LIMIT p_tombstones
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS answer.number = ROW_COUNT;
    answer.kind := 'tombstones';
    RETURN NEXT answer;

    DELETE FROM ~audit WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM ~audit WHERE at <= p_entries_before ORDER BY at LIMIT p_entries FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS answer.number = ROW_COUNT;
    answer.kind := 'entries';
    RETURN NEXT answer;

    DELETE FROM ~user_fence WHERE user_id = ANY (ARRAY(
        SELECT user_id FROM ~user_fence WHERE ended_before <= p_tombstones_before ORDER BY ended_before LIMIT p_fences
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS answer.number = ROW_COUNT;
    answer.kind := 'fences';
    RETURN NEXT answer;
END $$;

-- What is below the oldest transaction under way is complete: nothing can still be committed there. Where entries are
-- visible beyond it, the last row says so.
CREATE FUNCTION ~audit_1(p_era bigint, p_place bigint, p_seq bigint, p_user text, p_session bytea, p_rows bigint)
RETURNS TABLE (
    kind text, number bigint, era bigint, place bigint, seq bigint, at bigint, event text, session bytea, user_id text,
    impersonated_by text, audit_user text, ip text, reason text, by_whom text, note text
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    this_era bigint := (SELECT number FROM ~era);
    horizon bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    highest bigint;
    entries bigint;
BEGIN
    IF p_session IS NOT NULL THEN
        RETURN QUERY SELECT 'entry', NULL::bigint, entry.* FROM ~audit AS entry
            WHERE session = p_session AND (p_user IS NULL OR user_id = p_user)
              AND (era, place, seq) > (p_era, p_place, p_seq) AND (era, place) < (this_era, horizon)
            ORDER BY era, place, seq LIMIT p_rows;
        GET DIAGNOSTICS entries = ROW_COUNT;
        highest := (SELECT max(place) FROM ~audit WHERE session = p_session AND era = this_era AND place >= horizon);
    ELSIF p_user IS NOT NULL THEN
        RETURN QUERY SELECT 'entry', NULL::bigint, entry.* FROM ~audit AS entry
            WHERE user_id = p_user
              AND (era, place, seq) > (p_era, p_place, p_seq) AND (era, place) < (this_era, horizon)
            ORDER BY era, place, seq LIMIT p_rows;
        GET DIAGNOSTICS entries = ROW_COUNT;
        highest := (SELECT max(place) FROM ~audit WHERE user_id = p_user AND era = this_era AND place >= horizon);
    ELSE
        RETURN QUERY SELECT 'entry', NULL::bigint, entry.* FROM ~audit AS entry
            WHERE (era, place, seq) > (p_era, p_place, p_seq) AND (era, place) < (this_era, horizon)
            ORDER BY era, place, seq LIMIT p_rows;
        GET DIAGNOSTICS entries = ROW_COUNT;
        highest := (SELECT max(place) FROM ~audit WHERE era = this_era AND place >= horizon);
    END IF;
    IF entries < p_rows AND highest IS NOT NULL THEN
        kind := 'unsettled';
        number := horizon;
        place := highest;
        RETURN NEXT;
    END IF;
END $$;

CREATE FUNCTION ~lock_1(p_id bytea, p_until bigint, p_now bigint)
RETURNS SETOF ~answer_1 LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    answer ~answer_1;
    stored ~session;
BEGIN
    SELECT * INTO stored FROM ~session WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ~tombstones_1(ARRAY[p_id]);
    ELSIF NOT ~lives_1(stored.last_seen_at, stored.idle_timeout, stored.ends_at, p_now) THEN
        RETURN QUERY SELECT * FROM ~heads_1('expired', ARRAY[p_id]);
    ELSIF stored.lease_until > p_now THEN
        answer.kind := 'held';
        answer.number := stored.lease_until;
        RETURN NEXT answer;
    ELSE
        UPDATE ~session SET lease_number = lease_number + 1, lease_until = p_until WHERE id = p_id;
        RETURN QUERY SELECT * FROM ~record_1('granted', p_id);
    END IF;
END $$;

CREATE FUNCTION ~renew_1(p_id bytea, p_number bigint, p_until bigint, p_now bigint)
RETURNS TABLE (number bigint) LANGUAGE sql VOLATILE AS $$
    UPDATE ~session SET lease_until = greatest(lease_until, p_until)
    WHERE id = p_id AND lease_number = p_number AND lease_until > p_now
      AND ~lives_1(last_seen_at, idle_timeout, ends_at, p_now)
    RETURNING lease_number
$$;

CREATE FUNCTION ~unlock_1(p_id bytea, p_number bigint, p_now bigint)
RETURNS TABLE (number bigint) LANGUAGE sql VOLATILE AS $$
    UPDATE ~session SET lease_until = p_now
    WHERE id = p_id AND lease_number = p_number AND lease_until > p_now
      AND ~lives_1(last_seen_at, idle_timeout, ends_at, p_now)
    RETURNING lease_number
$$;

CREATE FUNCTION ~ping_1() RETURNS TABLE (number bigint) LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM ~era
$$;

-- Called by every node that opens the store.
CREATE FUNCTION ~open_1() RETURNS TABLE (partition_key bytea) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    next_transaction bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
BEGIN
    IF (SELECT max(place) FROM ~audit WHERE era = (SELECT number FROM ~era)) >= next_transaction THEN
        PERFORM FROM ~era FOR UPDATE;
        IF (SELECT max(place) FROM ~audit WHERE era = (SELECT number FROM ~era)) >= next_transaction THEN
            UPDATE ~era SET number = number + 1;
            UPDATE ~session SET logged_in = 0;
        END IF;
    END IF;
    RETURN QUERY SELECT value FROM ~meta WHERE name = 'partition_key';
END $$;
