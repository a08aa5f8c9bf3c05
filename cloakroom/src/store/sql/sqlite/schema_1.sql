-- Times and durations are milliseconds, ids and digests are bytes. Text compares byte for byte.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- A session, open or ended. What only the program reads is text: head, ending.
CREATE TABLE slot (
    id              BLOB PRIMARY KEY,
    head            TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    seen            INTEGER NOT NULL,
    -- A JSON object, without the large values.
    data            TEXT NOT NULL,
    -- How many large values there are.
    large           INTEGER NOT NULL,
    -- Ids of the latest changes of the data, eight bytes each, oldest first.
    changes         BLOB NOT NULL,
    user_id         TEXT,
    created_at      INTEGER NOT NULL,
    idle            INTEGER,
    ends_at         INTEGER,
    impersonated_by TEXT,
    ip              TEXT,
    device          TEXT,
    idempotency     BLOB,
    due_at          INTEGER,
    ended_at        INTEGER,
    ending          TEXT,
    ended_by        INTEGER
) STRICT;

CREATE INDEX slot_by_user ON slot (user_id, created_at, id) WHERE user_id IS NOT NULL AND ended_at IS NULL;
CREATE INDEX slot_by_due ON slot (due_at, id) WHERE due_at IS NOT NULL AND ended_at IS NULL;
CREATE INDEX slot_by_end ON slot (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX slot_by_idempotency ON slot (idempotency) WHERE idempotency IS NOT NULL AND ended_at IS NULL;

-- Values that are not written anew when others change.
CREATE TABLE large_value (
    session BLOB NOT NULL,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (session, name)
) STRICT;

CREATE TABLE user (
    name           TEXT PRIMARY KEY,
    text           TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    signed_in_at   INTEGER,
    signed_in_from TEXT,
    due_at         INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX user_by_due ON user (due_at, name) WHERE due_at IS NOT NULL;

-- Numbers are given in the order of commits, for there is one writer at a time, and never again.
-- They are the last column of each index by themselves.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    session BLOB NOT NULL,
    user_id TEXT,
    entry   TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_user ON audit (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_by_session ON audit (session);
CREATE INDEX audit_by_time ON audit (at);
