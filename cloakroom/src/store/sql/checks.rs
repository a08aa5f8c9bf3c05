//! What must be true of the tables together, whatever the database: how to find the rows of which it is not, and how to
//! mend each. The statements are of the SQL that all three databases know.

use std::fmt::Write;

use crate::{
    SessionId,
    store::{Damage, Finding},
};

/// So many rows are mended at a time; then others get their turn.
pub(super) const BATCH: usize = 500;

/// A rule, and what to do about rows that break it.
pub(super) struct Check {
    pub(super) subject: &'static str,
    what: &'static str,
    consequence: &'static str,
    remedy: &'static str,
    /// Finds the ids, in a column `id`.
    pub(super) find: String,
    /// Mends one, if it still is so. `{id}` stands for the id as a literal. None if it cannot be mended.
    mend: Vec<String>,
}

/// When the reaper looks at a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReapColumn {
    /// At its deadline or before.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    ReapAt,
}

/// All checks, for tables that are called so.
pub(super) fn checks(table: impl Fn(&str) -> String, reap_column: ReapColumn) -> Vec<Check> {
    let [session, data, tombstone] = ["session", "session_data", "tombstone"].map(table);
    // 9999-12-30 is the latest time there is.
    let latest = "253402128000000";
    let unused = format!(
        "(CASE WHEN idle_timeout > {latest} - last_seen_at THEN {latest} ELSE last_seen_at + idle_timeout END)"
    );
    let deadline = format!(
        "(CASE WHEN idle_timeout IS NULL THEN ends_at WHEN ends_at IS NULL OR ends_at > {unused} THEN {unused} \
         ELSE ends_at END)"
    );
    let (column, is_wrong) = match reap_column {
        #[cfg(any(feature = "mysql", feature = "postgres"))]
        ReapColumn::ReapAt => {
            ("reap_at", format!("({deadline} IS NOT NULL AND (reap_at IS NULL OR reap_at > {deadline}))"))
        }
    };
    let orphan =
        format!("DELETE FROM {data} WHERE session = {{id}} AND NOT EXISTS (SELECT 1 FROM {session} WHERE id = {{id}})");
    let bad_secrets = "length(id) <> 18 OR length(secret) <> 32 OR length(predecessors) % 40 <> 0";
    vec![
        Check {
            subject: "values",
            what: "sessions have values, and are not there themselves",
            consequence: "They take space.",
            remedy: "Delete these rows of session_data, or use --repair.",
            find: format!(
                "SELECT DISTINCT d.session AS id FROM {data} d \
                 WHERE NOT EXISTS (SELECT 1 FROM {session} s WHERE s.id = d.session)"
            ),
            mend: vec![orphan.clone()],
        },
        Check {
            subject: "endings",
            what: "sessions have ended and are there all the same",
            consequence: "Who holds their tokens is let in.",
            remedy: "Delete them from the table session, or use --repair.",
            find: format!("SELECT s.id AS id FROM {session} s JOIN {tombstone} t ON t.id = s.id"),
            mend: vec![
                format!(
                    "DELETE FROM {session} WHERE id = {{id}} AND EXISTS (SELECT 1 FROM {tombstone} WHERE id = {{id}})"
                ),
                orphan,
            ],
        },
        Check {
            subject: "expiry index",
            what: "sessions have a wrong deadline in the index",
            consequence: "They are reaped too late, or never.",
            remedy: "Use --repair.",
            find: format!("SELECT id FROM {session} WHERE {is_wrong}"),
            mend: vec![format!("UPDATE {session} SET {column} = {deadline} WHERE id = {{id}} AND {is_wrong}")],
        },
        Check {
            subject: "sessions",
            what: "rows cannot be read",
            consequence: "Requests with these sessions fail.",
            remedy: "Correct them in the table session, or delete them: their people sign in again.",
            find: format!(
                "SELECT id FROM {session} WHERE {bad_secrets} OR length(recent_changes) % 8 <> 0 OR idle_timeout < 0 \
                 OR length(idempotency) <> 32"
            ),
            mend: Vec::new(),
        },
        Check {
            subject: "endings",
            what: "tombstones cannot be read",
            consequence: "Requests with these sessions fail.",
            remedy: "Delete them from the table tombstone.",
            find: format!("SELECT id FROM {tombstone} WHERE {bad_secrets}"),
            mend: Vec::new(),
        },
    ]
}

impl Check {
    pub(super) fn can_mend(&self) -> bool {
        !self.mend.is_empty()
    }

    /// The statements that mend one row; the first changes it if it is wrong still.
    pub(super) fn mend(&self, literal: &str) -> impl Iterator<Item = String> {
        self.mend.iter().map(move |statement| statement.replace("{id}", literal))
    }

    pub(super) fn finding(&self, damage: &Damage) -> Option<Finding> {
        damage.finding(self.subject, self.what, self.consequence, self.remedy)
    }
}

/// An id for people; what is none, as hexadecimal digits.
pub(super) fn shown(id: &[u8]) -> String {
    id.try_into().map_or_else(|_| format!("0x{}", hex(id)), |id| SessionId::from_bytes(id).to_string())
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}
