//! The plain statements: what requests do most, without a function in between.
//!
//! Those that commit answer as `commit_1` does: which transaction, what became of it, and the slot where the caller does not
//! know it. No row means that something was not as relied on, or, in a batch, that another transaction holds the row.

use std::sync::Arc;

use super::{
    super::address::Namespace,
    rows::{HEAD, SLOT},
};

/// Statements of one schema.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) load: Arc<str>,
    pub(super) load_many: Arc<str>,
    pub(super) read: Arc<str>,
    pub(super) update: Arc<str>,
    pub(super) update_many: Arc<str>,
    /// By [`Start::variant`].
    starts: [Arc<str>; 8],
    /// Without an audit entry, and with one.
    pub(super) ends: [Arc<str>; 2],
    /// As [`ends`](Self::ends).
    pub(super) heads: [Arc<str>; 2],
    pub(super) commit: Arc<str>,
    pub(super) touch: Arc<str>,
    pub(super) touch_many: Arc<str>,
    pub(super) forget: Arc<str>,
    pub(super) ping: Arc<str>,
    pub(super) adopt: Arc<str>,
    namespace: Namespace,
}

/// What starting a session comes with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) relies_on_user: bool,
    pub(super) signs_in: bool,
    pub(super) is_logged: bool,
}

impl Start {
    fn variant(self) -> usize {
        usize::from(self.relies_on_user) | usize::from(self.signs_in) << 1 | usize::from(self.is_logged) << 2
    }

    fn of(variant: usize) -> Self {
        Self { relies_on_user: variant & 1 > 0, signs_in: variant & 2 > 0, is_logged: variant & 4 > 0 }
    }
}

/// The session lives at a time.
const LIVES: &str = "s.ended_at IS NULL AND s.seen + s.idle > {now} AND s.ends_at > {now}";

const MERGED: &str = "~merged_1(s.data, {clear}, {changes})";
const CHANGED: &str = "version = s.version + 1, data = {merged},
    recent = overlay(s.recent PLACING int8send({transaction}) FROM (s.version & 15)::int * 8 + 1 FOR 8)";
/// What is relied on. Data have no more bytes than are stored of them; only where those may be too many they are counted.
const MEETS: &str = "{lives} AND position(int8send({transaction}) IN s.recent) = 0
    AND ({revision} IS NULL OR s.revision = {revision})
    AND ({version} IS NULL OR s.version = {version})
    AND ({present} IS NULL OR
         NOT EXISTS (SELECT FROM unnest({present}::bytea[]) AS value WHERE position(value IN s.data) = 0))
    AND ({absent} IS NULL OR
         NOT EXISTS (SELECT FROM unnest({absent}::bytea[]) AS value WHERE position(value IN s.data) > 0))
    AND (octet_length(s.data) + octet_length({changes}) <= {most}
         OR ~size_1({merged}) <= greatest({most}, ~size_1(s.data)))";
const ANSWER: &str = "'done', s.id, s.revision, s.version, s.seen, CASE WHEN {known} THEN NULL ELSE s.head END,
    CASE WHEN {known} THEN NULL ELSE s.data END, s.recent, s.ended_by, s.ending,
    CASE WHEN left(s.head, 1) <> '{' THEN to_jsonb(s) - '{head,data,recent}'::text[] END";
const KNOWN: &str = "s.version = {known_version} + 1 AND s.revision = {known_revision}";

/// The values of an update, in their order, and what arrays of them are.
const CHANGE: [(&str, &str); 12] = [
    ("id", "bytea"),
    ("transaction", "bigint"),
    ("now", "bigint"),
    ("revision", "bigint"),
    ("version", "bigint"),
    ("clear", "boolean"),
    ("changes", "bytea"),
    ("most", "bigint"),
    ("present", "text"),
    ("absent", "text"),
    ("known_version", "bigint"),
    ("known_revision", "bigint"),
];

/// A piece of an update, its values written as `place` says.
fn filled(piece: &str, place: impl Fn(usize, &str) -> String) -> String {
    let mut text = piece.replace("{lives}", LIVES).replace("{merged}", MERGED).replace("{known}", KNOWN);
    for (number, (name, _)) in CHANGE.iter().enumerate() {
        text = text.replace(&format!("{{{name}}}"), &place(number + 1, name));
    }
    text
}

const ENTRY: &str = "INSERT INTO ~audit (place, id, at, session, user_id, entry)";

impl Texts {
    pub(super) fn of(namespace: &Namespace) -> Self {
        let own = |text: String| -> Arc<str> { text.replace('~', &format!("\"{namespace}\".")).into() };
        let single = |piece: &str| filled(piece, |number, _| format!("${number}"));
        let of = |table: &'static str| move |_: usize, name: &str| format!("{table}.{name}");
        let names: Vec<_> = CHANGE.iter().map(|(name, _)| *name).collect();
        let arrays: Vec<_> = (1..).zip(CHANGE).map(|(number, (_, kind))| format!("${number}::{kind}[]")).collect();
        Self {
            load: own(format!("SELECT {SLOT} FROM ~slot AS s WHERE s.id = $1")),
            load_many: own(format!("SELECT {SLOT}, s.id FROM ~slot AS s WHERE s.id = ANY ($1)")),
            read: own(read()),
            update: own(format!(
                "UPDATE ~slot AS s SET {} WHERE s.id = $1 AND {} RETURNING 1::bigint, {}",
                single(CHANGED),
                single(MEETS),
                single(ANSWER)
            )),
            update_many: own(format!(
                "UPDATE ~slot AS s SET {} FROM (
                     SELECT c.* FROM unnest({}) WITH ORDINALITY AS c ({}, n) JOIN ~slot AS s ON s.id = c.id WHERE {}
                     ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
                 ) AS l WHERE s.id = l.id RETURNING l.n, {}",
                filled(CHANGED, of("l")),
                arrays.join(", "),
                names.join(", "),
                filled(MEETS, of("c")),
                filled(ANSWER, of("l"))
            )),
            starts: std::array::from_fn(|variant| own(start(Start::of(variant)))),
            ends: [false, true].map(|is_logged| {
                own(changed(
                    "ended_at = $4, ended_by = $5, ending = $6, due_at = NULL, data = '\\x1e', recent = ''",
                    "($7 IS NULL OR s.seen <= $7) AND ($8 IS NULL OR s.revision = $8)",
                    is_logged.then_some(9),
                ))
            }),
            heads: [false, true].map(|is_logged| {
                own(changed(
                    "revision = $4, head = $5, created_at = $6, idle = $7, ends_at = $8, user_id = $9, \
                     impersonated_by = $10, ip = $11, device = $12, idempotency = $13, due_at = least(s.due_at, $14)",
                    "s.revision = $15 AND ($16 IS NULL OR s.version = $16)",
                    is_logged.then_some(17),
                ))
            }),
            commit: own("SELECT * FROM ~commit_1($1, $2::jsonb, $3, $4, $5, $6)".into()),
            touch: own(format!(
                "UPDATE ~slot AS s SET seen = greatest(s.seen, $2) WHERE s.id = $1 AND {} RETURNING s.id",
                LIVES.replace("{now}", "$3")
            )),
            touch_many: own(format!(
                "UPDATE ~slot AS s SET seen = greatest(s.seen, l.at) FROM (
                     SELECT s.id, c.at FROM unnest($1::bytea[], $2::bigint[]) AS c (id, at) JOIN ~slot AS s ON s.id = c.id
                     WHERE {} ORDER BY s.id FOR NO KEY UPDATE OF s
                 ) AS l WHERE s.id = l.id RETURNING s.id",
                LIVES.replace("{now}", "$3")
            )),
            // The oldest entries, up to the first that stays.
            forget: own("WITH slots AS (
                    DELETE FROM ~slot WHERE id = ANY (ARRAY(
                        SELECT id FROM ~slot WHERE ended_at <= $1 ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED))
                    RETURNING 1
                ), entries AS (
                    DELETE FROM ~audit WHERE ctid = ANY (ARRAY(
                        SELECT ctid FROM (SELECT ctid, bool_and(at <= $2) OVER (ORDER BY place, seq) AS is_old
                                          FROM ~audit ORDER BY place, seq LIMIT $3) AS oldest
                        WHERE is_old)) AND (SELECT at <= $2 FROM ~audit ORDER BY place, seq LIMIT 1)
                    RETURNING 1
                ) SELECT (SELECT count(*) FROM slots) >= $3 OR (SELECT count(*) FROM entries) >= $3"
                .into()),
            // What can lock a row can write.
            ping: own("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM ~meta \
                       WHERE partition_key = $1 FOR NO KEY UPDATE"
                .into()),
            // Creations wait, and then find the other key.
            adopt: own("LOCK TABLE ~slot, ~account IN SHARE MODE; \
                        UPDATE ~meta SET partition_key = $2 WHERE partition_key = $1 AND NOT EXISTS (SELECT FROM ~slot) \
                        AND NOT EXISTS (SELECT FROM ~account) RETURNING 1::bigint"
                .into()),
            namespace: namespace.clone(),
        }
    }

    pub(super) fn start(&self, start: Start) -> Arc<str> {
        Arc::clone(&self.starts[start.variant()])
    }

    /// A statement that is made for its occasion.
    pub(super) fn own(&self, text: &str) -> Arc<str> {
        text.replace('~', &format!("\"{}\".", self.namespace)).into()
    }
}

/// Slots, which ask of its kind each answers, and its kind. One row says that the place of the sessions is another one.
fn read() -> String {
    format!(
        "SELECT NULL::bigint, NULL::bigint, NULL::bigint, NULL::text, NULL::bytea, NULL::bytea, NULL::bigint, NULL::text, \
             NULL::jsonb, NULL::bytea, 0::bigint, 'replaced' WHERE NOT EXISTS (SELECT FROM ~meta WHERE partition_key = $8)
         UNION ALL
         SELECT {SLOT}, s.id, a.n, 'session' FROM unnest($1::bytea[]) WITH ORDINALITY AS a (id, n) \
             JOIN ~slot AS s ON s.id = a.id
         UNION ALL
         SELECT {HEAD}, s.id, a.n, 'head' FROM unnest($2::bytea[]) WITH ORDINALITY AS a (id, n) \
             JOIN ~slot AS s ON s.id = a.id
         UNION ALL
         SELECT s.revision, s.due_at, s.signed_in_at, s.signed_in_from, NULL, NULL, NULL, s.settled, NULL, NULL, a.n, 'user'
         FROM unnest($3::text[]) WITH ORDINALITY AS a (id, n) JOIN ~account AS s ON s.user_id = a.id
         UNION ALL
         SELECT {HEAD}, s.id, a.n, 'heads of' FROM unnest($4::text[], $5::bigint[]) WITH ORDINALITY AS a (id, most, n) \
             CROSS JOIN LATERAL (SELECT * FROM ~slot WHERE user_id = a.id AND ended_at IS NULL \
                                 ORDER BY created_at DESC, id DESC LIMIT a.most) AS s
         UNION ALL
         SELECT {HEAD}, s.id, a.n, 'try' FROM unnest($6::bytea[], $7::bytea[]) WITH ORDINALITY AS a (place, id, n) \
             CROSS JOIN LATERAL (SELECT * FROM ~slot WHERE idempotency = a.id AND ended_at IS NULL \
                                 AND substr(id, 1, 2) = a.place ORDER BY logged DESC LIMIT 1) AS s"
    )
}

fn start(start: Start) -> String {
    let is_so = if start.relies_on_user { " AND ~admitted_1($25, $6, $26, $27, $28)" } else { "" };
    let signed = "UPDATE ~account AS a SET signed_in_at = $23, signed_in_from = $24 FROM made \
                  WHERE a.user_id = $6 AND coalesce(a.signed_in_at <= $23, true)";
    let signed = if start.signs_in { format!(", signed AS ({signed})") } else { String::new() };
    let rest = if start.is_logged {
        format!("{ENTRY} SELECT logged, $18, $19, $20, $21, $22 FROM made RETURNING 1::bigint, 'done'")
    } else {
        "SELECT 1::bigint, 'done' FROM made".to_owned()
    };
    format!(
        "WITH made AS (
             INSERT INTO ~slot (revision, created_at, idle, ends_at, id, user_id, impersonated_by, ip, device, idempotency,
                                due_at, head, seen, version, data, logged, recent)
             SELECT $2, $3, $4, $5, $1, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, m.log_base + txid_current(), $16
             FROM ~meta AS m WHERE m.partition_key = $17{is_so}
             ON CONFLICT (id) DO NOTHING RETURNING logged
         ){signed} {rest}"
    )
}

/// Changes one open slot that lives, and tells the audit log if that has values, from `entry` on.
fn changed(set: &str, is_so: &str, entry: Option<usize>) -> String {
    let lives = LIVES.replace("{now}", "$3");
    let rest = match entry {
        Some(n) => format!(
            "{ENTRY} SELECT logged, ${n}, ${}, ${}, ${}, ${} FROM changed RETURNING 1::bigint, 'done'",
            n + 1,
            n + 2,
            n + 3,
            n + 4
        ),
        None => "SELECT 1::bigint, 'done' FROM changed".to_owned(),
    };
    format!(
        "WITH changed AS (
             UPDATE ~slot AS s SET {set}, logged = greatest(s.logged, m.log_base + txid_current()) FROM ~meta AS m
             WHERE m.partition_key = $2 AND s.id = $1 AND {lives} AND {is_so} RETURNING s.logged
         ) {rest}"
    )
}
