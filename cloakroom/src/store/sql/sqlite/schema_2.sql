-- The users that are known by name. What is settled about each is JSON.
CREATE TABLE directory (
    user_id        TEXT PRIMARY KEY,
    settings       TEXT NOT NULL,
    signed_in_at   INTEGER,
    signed_in_from TEXT
) STRICT, WITHOUT ROWID;
