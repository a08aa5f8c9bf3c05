//! Transactions of any kind, as `commit_1` takes them, and what the rows of all commits say.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;

use super::rows::{self, EndRow, SlotRow, hex};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    store::{
        LastSignIn, head, packed,
        slots::{Committed, Expect, LogEntry, Outcome, Slot, Transaction, UserSlot, Write},
        sql::{
            flight::State,
            rows::{id, now, number, replaced, slot},
        },
    },
    token::{PartitionKey, SessionId},
};

/// A transaction for the function that knows all of it.
pub(super) struct Whole {
    pub(super) json: Value,
    pub(super) locks: BTreeSet<i64>,
    pub(super) ids: BTreeSet<SessionId>,
}

impl Whole {
    pub(super) fn of(transaction: &Transaction, key: &PartitionKey) -> Self {
        let ids: BTreeSet<_> = transaction.sessions().collect();
        let locks = transaction.locks(key);
        let answers = transaction.writes.iter().filter_map(|write| match write {
            Write::Data { id, known, .. } => Some(json!({
                "id": hex(id.as_bytes()),
                "version": known.map(|known| known.version.cast_signed()),
                "revision": known.map(|known| known.revision.cast_signed()),
            })),
            _ => None,
        });
        let json = json!({
            "id": transaction.id.cast_signed(),
            "locks": locks,
            "ids": ids.iter().map(|id| hex(id.as_bytes())).collect::<Vec<_>>(),
            "mark": transaction.writes.first().map_or(Value::Null, mark),
            "expects": expects(transaction),
            "writes": writes(transaction),
            "answers": answers.collect::<Vec<_>>(),
            "shown": transaction.shown().map(|id| hex(id.as_bytes())),
            "log": transaction.log.iter().map(LogRow::of).collect::<Vec<_>>(),
        });
        Self { json, locks, ids }
    }
}

/// What tells that a transaction was committed before.
fn mark(write: &Write) -> Value {
    match write {
        Write::Create(record) => json!(["create", hex(record.info.id.as_bytes())]),
        Write::Head(record) => json!(["head", hex(record.info.id.as_bytes()), record.revision.cast_signed()]),
        Write::Data { id, known, .. } => {
            json!(["data", hex(id.as_bytes()), known.map_or(0, |known| known.version.cast_signed())])
        }
        Write::End(ended) => json!(["end", hex(ended.id.as_bytes())]),
        Write::User(user, slot) => {
            json!(["user", null, slot.as_ref().map_or(0, |slot| slot.revision.cast_signed()), user])
        }
        Write::Import(_) | Write::Due(..) | Write::SignedIn(..) => Value::Null,
    }
}

/// What it relies on, and what its writes do.
fn expects(transaction: &Transaction) -> Vec<Value> {
    let id = |id: &SessionId| hex(id.as_bytes());
    let relied_on = transaction.relies_on.iter().map(|expect| match expect {
        Expect::Live(of) => json!(["live", id(of), now(transaction.now)]),
        Expect::Head(of, revision) => json!(["head", id(of), revision.cast_signed()]),
        Expect::Version(of, version) => json!(["version", id(of), version.cast_signed()]),
        Expect::Value(of, key, value) => {
            let kind = if value.is_some() { "value" } else { "no value" };
            json!([kind, id(of), hex(&packed::relied_on(key, value.as_ref()))])
        }
        Expect::DataAtMost(of, most) => {
            let change = transaction.writes.iter().find_map(|write| match write {
                Write::Data { id, change, .. } if id == of => Some(change),
                _ => None,
            });
            match change {
                Some(change) => {
                    let most = i64::try_from(*most).unwrap_or(i64::MAX);
                    json!(["size", id(of), most, change.remove_all, hex(&packed::changes(change))])
                }
                None => json!(["open", id(of)]),
            }
        }
        Expect::NotSeenSince(of, at) => json!(["unseen", id(of), at.as_millis()]),
        Expect::Empty(of) => json!(["empty", id(of)]),
        Expect::User(user, revision) => json!(["user", null, user, revision.cast_signed()]),
        Expect::Count(user, count) => json!(["count", null, user, count, now(transaction.now)]),
        Expect::Try(partition, digest, of) => {
            json!(["try", of.as_ref().map(id), hex(digest.as_bytes()), hex(&partition.to_bytes())])
        }
    });
    let written = transaction.writes.iter().filter_map(|write| match write {
        Write::Create(record) => Some(json!(["empty", id(&record.info.id)])),
        Write::Head(record) => Some(json!(["open", id(&record.info.id)])),
        Write::Data { id: of, .. } | Write::Due(of, _) => Some(json!(["open", id(of)])),
        Write::End(ended) => Some(json!(["open", id(&ended.id)])),
        Write::Import(_) | Write::User(..) | Write::SignedIn(..) => None,
    });
    relied_on.chain(written).collect()
}

/// Writes in their order, those of a kind that follow each other together.
fn writes(transaction: &Transaction) -> Vec<(&'static str, Vec<Value>)> {
    let mut groups: Vec<(&'static str, Vec<Value>)> = Vec::new();
    let mut add = |kind, row| match groups.last_mut() {
        Some((last, rows)) if *last == kind => rows.push(row),
        _ => groups.push((kind, vec![row])),
    };
    for write in &transaction.writes {
        match write {
            Write::Create(record) => add("create", value(&SlotRow::open(record))),
            Write::Head(record) => add("head", value(&SlotRow::head(record))),
            Write::Data { id, change, .. } => add(
                "data",
                json!({
                    "id": hex(id.as_bytes()),
                    "clear": change.remove_all,
                    "changes": hex(&packed::changes(change)),
                }),
            ),
            Write::End(ended) => add("end", value(&EndRow::of(ended))),
            Write::Import(Slot::Open(record)) => add("import", value(&SlotRow::open(record))),
            Write::Import(Slot::Ended(ended)) => add("import", value(&SlotRow::ended(ended))),
            Write::Due(id, due) => {
                add("due", json!({"id": hex(id.as_bytes()), "due_at": due.map(Timestamp::as_millis)}));
            }
            Write::User(user, Some(slot)) => {
                add("user", user_row(user, slot));
                if let Some(last) = &slot.last_sign_in {
                    add("signed_in", sign_in_row(user, last));
                }
            }
            Write::User(user, None) => add("no_user", json!(user)),
            Write::SignedIn(user, last) => add("signed_in", sign_in_row(user, last)),
        }
    }
    groups
}

fn user_row(user: &str, slot: &UserSlot) -> Value {
    json!({
        "user_id": user,
        "revision": slot.revision.cast_signed(),
        "due_at": slot.due_at.map(Timestamp::as_millis),
        "signed_in_at": slot.last_sign_in.map(|last| last.at.as_millis()),
        "signed_in_from": slot.last_sign_in.and_then(|last| last.ip),
        "settled": slot.text,
    })
}

fn sign_in_row(user: &str, last: &LastSignIn) -> Value {
    json!({"user_id": user, "signed_in_at": last.at.as_millis(), "signed_in_from": last.ip})
}

/// An entry of the audit log, as the table has it.
#[derive(Serialize)]
pub(super) struct LogRow<'a> {
    pub(super) id: i64,
    pub(super) at: i64,
    pub(super) session: rows::Hex<'a>,
    pub(super) user_id: Option<&'a str>,
    pub(super) entry: String,
}

impl<'a> LogRow<'a> {
    pub(super) fn of(logged: &'a LogEntry) -> Self {
        let entry = &logged.entry;
        Self {
            id: logged.id.cast_signed(),
            at: entry.at.as_millis(),
            session: rows::Hex(entry.session.as_bytes()),
            user_id: entry.user.as_deref(),
            entry: head::encode_entry(entry),
        }
    }
}

fn value(row: &impl Serialize) -> Value {
    serde_json::to_value(row).expect("texts and numbers can be written")
}

/// What became of each transaction.
pub(super) fn states(all: &[&Arc<Transaction>], rows: &[PgRow]) -> Result<Vec<State>> {
    let mut found: HashMap<i64, (&str, Vec<&PgRow>)> = HashMap::new();
    for row in rows {
        let state: &str = rows::get(row, 1)?;
        if state == "replaced" {
            return Err(replaced());
        }
        found.entry(number(row, 0)?).or_insert((state, Vec::new())).1.push(row);
    }
    let state = |(n, transaction): (i64, &&Arc<Transaction>)| match found.get(&n) {
        Some(("done", rows)) => State::Answered(committed(transaction, rows)),
        Some(("conflict", rows)) => State::Answered(conflict(rows)),
        // It was sent before, and may have been committed so long ago that its mark is gone.
        Some(("unknown", _)) => State::Answered(Err(Error::OutcomeUnknown { after: Duration::ZERO })),
        _ => State::Left,
    };
    Ok((1..).zip(all).map(state).collect())
}

/// What a transaction that was committed is answered with.
pub(super) fn committed(transaction: &Transaction, rows: &[&PgRow]) -> Result<Outcome> {
    let answer = |write: &Write| {
        let Write::Data { id, .. } = write else { return Ok(Committed::Done) };
        for &row in rows {
            if rows::get::<Option<Vec<u8>>>(row, 2)?.as_deref() == Some(id.as_bytes()) {
                return match rows::get::<Option<&str>>(row, 6)? {
                    None => Ok(Committed::AsKnown { seen: Timestamp::from_millis(number(row, 5)?) }),
                    Some(_) => match slot(row, 3, *id)? {
                        Slot::Open(record) => Ok(Committed::Record(record)),
                        Slot::Ended(ended) => Ok(Committed::Record(Arc::clone(&ended.record))),
                    },
                };
            }
        }
        Err(Error::Store { message: "PostgreSQL gave no answer to a change".into(), source: None })
    };
    transaction.writes.iter().map(answer).collect::<Result<_>>().map(Outcome::Committed)
}

/// What a transaction that was not committed is answered with.
pub(super) fn conflict(rows: &[&PgRow]) -> Result<Outcome> {
    let Some(&row) = rows.first() else { return Ok(Outcome::Conflict(None)) };
    match rows::get::<Option<Vec<u8>>>(row, 2)? {
        Some(_) => Ok(Outcome::Conflict(Some(slot(row, 3, id(row, 2)?)?))),
        None => Ok(Outcome::Conflict(None)),
    }
}
