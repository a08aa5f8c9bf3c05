-- Times and durations are milliseconds, ids and digests are bytes. Text compares byte for byte.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    id               BLOB PRIMARY KEY,
    user_id          TEXT,
    full_name        TEXT,
    user_type        TEXT,
    created_at       INTEGER NOT NULL,
    last_seen_at     INTEGER NOT NULL,
    idle_timeout     INTEGER,
    ends_at          INTEGER,
    authenticated_at INTEGER,
    methods          TEXT,
    level            INTEGER,
    remember         INTEGER NOT NULL,
    ip               TEXT,
    user_agent       TEXT,
    device           TEXT,
    country          TEXT,
    impersonated_by  TEXT,
    returns_to       BLOB,
    audit_user       TEXT,
    version          INTEGER NOT NULL,
    secret           BLOB NOT NULL,
    secret_issued_at INTEGER NOT NULL,
    rotations        INTEGER NOT NULL,
    predecessors     BLOB NOT NULL,
    recent_changes   BLOB NOT NULL,
    idempotency      BLOB,
    lease_number     INTEGER NOT NULL,
    lease_until      INTEGER NOT NULL,
    -- The earlier of last_seen_at + idle_timeout and ends_at.
    expires_at       INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX session_by_user ON session (user_id, created_at, id) WHERE user_id IS NOT NULL;
CREATE INDEX session_by_expiry ON session (expires_at, id) WHERE expires_at IS NOT NULL;
-- The first two bytes of an id are its partition.
CREATE UNIQUE INDEX session_by_idempotency ON session (idempotency, substr(id, 1, 2)) WHERE idempotency IS NOT NULL;

CREATE TABLE session_data (
    session  BLOB NOT NULL,
    data_key TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (session, data_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE tombstone (
    id               BLOB PRIMARY KEY,
    user_id          TEXT,
    ended_at         INTEGER NOT NULL,
    reason           TEXT NOT NULL,
    by_whom          TEXT,
    note             TEXT,
    secret           BLOB NOT NULL,
    secret_issued_at INTEGER NOT NULL,
    rotations        INTEGER NOT NULL,
    predecessors     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstone_by_end ON tombstone (ended_at);

CREATE TABLE disabled_user (
    user_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Sign-ins that authenticated before this time come too late.
CREATE TABLE user_fence (
    user_id      TEXT PRIMARY KEY,
    ended_before INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX user_fence_by_end ON user_fence (ended_before);

-- Numbers are given in the order of commits, for there is one writer at a time, and never again.
-- They are the last column of each index by themselves.
CREATE TABLE audit (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    at              INTEGER NOT NULL,
    event           TEXT NOT NULL,
    session         BLOB NOT NULL,
    user_id         TEXT,
    impersonated_by TEXT,
    audit_user      TEXT,
    ip              TEXT,
    reason          TEXT,
    by_whom         TEXT,
    note            TEXT
) STRICT;

CREATE INDEX audit_by_user ON audit (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_by_session ON audit (session);
CREATE INDEX audit_by_time ON audit (at);
