//! The statements that carry transactions: plain ones for what happens often, the function for the rest.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use super::{
    commit::Sender,
    statement::{Arg, Statement},
    texts::Start,
    whole::{LogRow, Whole},
};
use crate::{
    clock::Timestamp,
    record::Record,
    store::{
        head, packed,
        slots::{Columns, LogEntry, Transaction},
        sql::{
            flight::user_lock,
            plain::{self, Plain, Update},
            rows::{ends_column, idle_column},
        },
    },
};

impl Sender {
    /// A statement for what happens often.
    pub(super) fn plain_statement(&self, transaction: &Transaction) -> Option<Statement> {
        Some(match Plain::of(transaction)? {
            Plain::Update(update) => Statement { text: Arc::clone(&self.texts.update), args: update_args(&update) },
            Plain::Start(start) => self.start(&start),
            Plain::End(ended, relied, entry) => {
                let mut args = vec![
                    Arg::id(ended.id),
                    self.key_arg(),
                    Arg::Int(Some(relied.now)),
                    Arg::Int(Some(ended.at.as_millis())),
                    Arg::Int(Some(transaction.id.cast_signed())),
                    Arg::text(head::encode_ending(ended)),
                    Arg::Int(relied.unseen),
                    Arg::Int(relied.revision),
                ];
                args.extend(entry.into_iter().flat_map(entry_args));
                Statement { text: Arc::clone(&self.texts.ends[usize::from(entry.is_some())]), args }
            }
            Plain::Head(record, relied, entry) => {
                let mut args = vec![
                    Arg::id(record.info.id),
                    self.key_arg(),
                    Arg::Int(Some(relied.now)),
                    Arg::Int(Some(record.revision.cast_signed())),
                    Arg::text(head::encode(record)),
                ];
                args.extend(column_args(record));
                args.extend([Arg::Int(relied.revision), Arg::Int(relied.version)]);
                args.extend(entry.into_iter().flat_map(entry_args));
                Statement { text: Arc::clone(&self.texts.heads[usize::from(entry.is_some())]), args }
            }
        })
    }

    fn start(&self, start: &plain::Start<'_>) -> Statement {
        let plain::Start { record, signed_in, entry, revision, count, now } = *start;
        let (id, user) = (record.info.id, record.info.user.as_ref());
        let start =
            Start { relies_on_user: revision.is_some(), signs_in: signed_in.is_some(), is_logged: entry.is_some() };
        let [created_at, idle, ends_at, user_id, impersonated_by, ip, device, idempotency, due_at] =
            column_args(record);
        let mut args = vec![
            Arg::id(id),
            Arg::Int(Some(record.revision.cast_signed())),
            created_at,
            idle,
            ends_at,
            user_id,
            impersonated_by,
            ip,
            device,
            idempotency,
            due_at,
            Arg::text(head::encode(record)),
            Arg::Int(Some(record.info.last_seen_at.as_millis())),
            Arg::Int(Some(record.info.version.cast_signed())),
            Arg::Bytes(Some(packed::stored(&record.data))),
            Arg::Bytes(Some(vec![0; 128])),
            self.key_arg(),
        ];
        match entry {
            Some(entry) => args.extend(entry_args(entry)),
            None => args.extend([Arg::Int(None), Arg::Int(None), Arg::Bytes(None), Arg::Text(None), Arg::Text(None)]),
        }
        args.push(Arg::Int(signed_in.map(|last| last.at.as_millis())));
        args.push(Arg::Text(signed_in.and_then(|last| last.ip).map(|ip| ip.to_string().into())));
        args.push(Arg::Int(user.map(|user| user_lock(&self.key, user))));
        args.push(Arg::Int(Some(revision.unwrap_or_default().cast_signed())));
        args.push(count.map_or(Arg::Int(None), Arg::count));
        args.push(Arg::Int(Some(now)));
        Statement { text: self.texts.start(start), args }
    }

    /// One statement for updates of different sessions.
    pub(super) fn update_many<'t>(&self, transactions: impl Iterator<Item = &'t Transaction>) -> Statement {
        let mut columns: Vec<Vec<Arg>> = Vec::new();
        for transaction in transactions {
            let update = Update::of(transaction).expect("it was one when it was put among them");
            let row = update_args(&update);
            columns.resize_with(row.len(), Vec::new);
            columns.iter_mut().zip(row).for_each(|(column, arg)| column.push(arg));
        }
        Statement { text: Arc::clone(&self.texts.update_many), args: columns.into_iter().map(list).collect() }
    }

    /// The function that knows all of it.
    pub(super) fn commit<'t>(
        &self,
        transactions: impl Iterator<Item = &'t Transaction>,
        waits: bool,
        again: bool,
    ) -> Statement {
        let (mut all, mut locks, mut ids) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for transaction in transactions {
            let whole = Whole::of(transaction, &self.key);
            locks.extend(whole.locks);
            ids.extend(whole.ids);
            all.push(whole.json);
        }
        Statement {
            text: Arc::clone(&self.texts.commit),
            args: vec![
                self.key_arg(),
                Arg::text(text(&all)),
                Arg::Ints(locks.into_iter().map(Some).collect()),
                Arg::ids(ids),
                Arg::Bool(waits),
                Arg::Bool(again),
            ],
        }
    }
}

/// In the order of the statement's values.
fn update_args(update: &Update<'_>) -> Vec<Arg> {
    vec![
        Arg::id(update.id),
        Arg::Int(Some(update.transaction.cast_signed())),
        Arg::Int(Some(update.now)),
        Arg::Int(update.revision),
        Arg::Int(update.version),
        Arg::Bool(update.change.remove_all),
        Arg::Bytes(Some(packed::changes(update.change))),
        Arg::Int(Some(update.most)),
        Arg::Text(array(&update.present)),
        Arg::Text(array(&update.absent)),
        Arg::Int(update.known.map(|known| known.version.cast_signed())),
        Arg::Int(update.known.map(|known| known.revision.cast_signed())),
    ]
}

/// As `head` writes and creations have them.
fn column_args(record: &Record) -> [Arg; 9] {
    let Columns { user, created_at, idle, ends_at, impersonated_by, ip, device, idempotency, due_at } =
        head::columns(record);
    [
        Arg::Int(Some(created_at.as_millis())),
        Arg::Int(Some(idle_column(idle))),
        Arg::Int(Some(ends_column(ends_at))),
        Arg::Text(user),
        Arg::Text(impersonated_by),
        Arg::Text(ip.map(|ip| ip.to_string().into())),
        Arg::Text(device),
        Arg::digest(idempotency.as_ref()),
        Arg::Int(due_at.map(Timestamp::as_millis)),
    ]
}

fn entry_args(entry: &LogEntry) -> [Arg; 5] {
    let LogRow { id, at, session, user_id, entry } = LogRow::of(entry);
    [
        Arg::Int(Some(id)),
        Arg::Int(Some(at)),
        Arg::Bytes(Some(session.0.to_vec())),
        Arg::Text(user_id.map(Into::into)),
        Arg::text(entry),
    ]
}

/// Values of one place in several updates, as an array.
fn list(column: Vec<Arg>) -> Arg {
    let mut lists = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for arg in column {
        match arg {
            Arg::Int(number) => lists.0.push(number),
            Arg::Bool(is_so) => lists.1.push(is_so),
            Arg::Text(text) => lists.2.push(text),
            Arg::Bytes(bytes) => lists.3.push(bytes.unwrap_or_default()),
            other => unreachable!("an update has no lists: {other:?}"),
        }
    }
    match lists {
        (numbers, ..) if !numbers.is_empty() => Arg::Ints(numbers),
        (_, all, ..) if !all.is_empty() => Arg::Bools(all),
        (_, _, texts, _) if !texts.is_empty() => Arg::Texts(texts),
        (.., bytes) => Arg::ByteLists(bytes),
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers can be written")
}

/// Several entries, as the text of an array; none if there are none.
fn array(entries: &[Vec<u8>]) -> Option<Arc<str>> {
    if entries.is_empty() {
        return None;
    }
    let mut text = String::from("{");
    for entry in entries {
        text.push_str(if text.len() > 1 { ",\"\\\\x" } else { "\"\\\\x" });
        entry.iter().try_for_each(|byte| write!(text, "{byte:02x}")).expect("a string takes everything");
        text.push('"');
    }
    text.push('}');
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_arrays_of_bytes() {
        assert_eq!(array(&[]), None);
        assert_eq!(array(&[vec![1, 255], vec![]]).as_deref(), Some(r#"{"\\x01ff","\\x"}"#));
    }
}
