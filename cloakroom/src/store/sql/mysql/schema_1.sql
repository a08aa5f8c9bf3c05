-- Times and durations are milliseconds, ids and digests are bytes, numbers of 64 bits are their signed twins. Text is bytes
-- too, for no collation compares it byte for byte with the blanks at its end. ~ stands for the prefix of all names. A line
-- of % ends a statement.
--
-- Under READ COMMITTED a locking read sees what it waited for. Locks are taken in one order everywhere: those of users, then
-- rows of sessions by id, at last the gate of the audit log; so nothing waits in a circle.

-- version: of the tables. partition_key: shared by who commits. gate: who writes to the audit log shares it until the
-- commit, and a reader closes it for a moment: what has a number by then is committed, and what comes later has a higher
-- one. probe: is written to see whether anything can be.
CREATE TABLE IF NOT EXISTS ~meta (
    name  VARBINARY(64) PRIMARY KEY,
    value VARBINARY(64) NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
%
INSERT IGNORE INTO ~meta (name, value) VALUES ('gate', ''), ('probe', '')
%
-- What is relied on about users: each has one of these locks.
CREATE TABLE IF NOT EXISTS ~user_lock (
    number INT PRIMARY KEY
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
%
INSERT IGNORE INTO ~user_lock (number) SELECT seq FROM seq_0_to_1023
%
CREATE TABLE IF NOT EXISTS ~slot (
    id              BINARY(18) PRIMARY KEY,
    revision        BIGINT NOT NULL,
    version         BIGINT NOT NULL,
    seen            BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    -- Without such a limit, far beyond all times.
    idle            BIGINT NOT NULL,
    ends_at         BIGINT NOT NULL,
    user_id         VARBINARY(1024),
    impersonated_by MEDIUMBLOB,
    ip              VARBINARY(64),
    device          MEDIUMBLOB,
    idempotency     BINARY(32),
    -- Of two sessions of one idempotency key the later one counts.
    placed          BIGINT UNSIGNED NOT NULL DEFAULT 0,
    due_at          BIGINT,
    ended_at        BIGINT,
    ended_by        BIGINT,
    ending          MEDIUMBLOB,
    head            MEDIUMBLOB NOT NULL,
    -- The ids of the latest 16 changes of data, that of the change to version n + 1 behind 8 * (n % 16) bytes.
    recent          VARBINARY(128) NOT NULL,
    -- X'1E', then of each value its key, X'1F', JSON text byte for byte, X'1E'.
    data            MEDIUMBLOB NOT NULL,
    KEY slot_by_user (user_id, ended_at, created_at, id),
    KEY slot_by_due (due_at, id),
    KEY slot_by_end (ended_at),
    KEY slot_by_idempotency (idempotency)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
%
CREATE TABLE IF NOT EXISTS ~account (
    user_id        VARBINARY(1024) PRIMARY KEY,
    revision       BIGINT NOT NULL,
    due_at         BIGINT,
    signed_in_at   BIGINT,
    signed_in_from VARBINARY(64),
    settled        MEDIUMBLOB NOT NULL,
    KEY account_by_due (due_at, user_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
%
CREATE TABLE IF NOT EXISTS ~audit (
    seq     BIGINT AUTO_INCREMENT PRIMARY KEY,
    id      BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    session BINARY(18) NOT NULL,
    user_id VARBINARY(1024),
    entry   MEDIUMBLOB NOT NULL,
    KEY audit_by_user (user_id, seq),
    KEY audit_by_session (session, seq)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
