//! How transactions are written down for MariaDB: what happens often as one text, everything else as
//! [what is decided here](super::transact).

use std::{fmt::Write as _, sync::Arc};

use super::{
    engine::{Answer, Arg, LAST_SEEN, Server, Statement},
    reads::Reader,
    text::{
        Assigned, HEAD, SLOT, assignments, bytes, entry_values, head_columns, id, literal, lives, names_and_values,
        slot_columns,
    },
    transact::{LOCKS, Transact, counted},
};
use crate::{
    clock::Timestamp,
    error::Result,
    record::Record,
    store::{
        head,
        key::AdoptableKey,
        packed,
        slots::{Committed, DataChange, Known, LogEntry, Outcome, Slot, Transaction, Write},
        sql::{
            flight::{Commit, State, told_by, user_lock},
            plain::{Plain, Relied, Start, Update},
            pool::Pool,
            rows,
        },
    },
    token::SessionId,
};

/// Writes transactions down for one server.
pub(super) struct Sender {
    pub(super) pool: Arc<Pool<Server>>,
    pub(super) key: Arc<AdoptableKey>,
    pub(super) reader: Reader,
}

impl Commit for Sender {
    type Engine = Server;
    type Reader = Reader;

    fn pool(&self) -> &Arc<Pool<Server>> {
        &self.pool
    }

    fn reader(&self) -> &Reader {
        &self.reader
    }

    fn plain(&self, transaction: &Transaction) -> Option<Statement> {
        let name = &self.pool.engine().namespace;
        let (changed, shown) = match Plain::of(transaction)? {
            Plain::Update(update) => (update_text(name, &update)?, shown(name, &update)),
            Plain::Start(start) => self.start(&start),
            Plain::End(ended, relied, entry) => {
                let set = vec![
                    ("ended_at", ended.at.as_millis().to_string()),
                    ("ended_by", transaction.id.cast_signed().to_string()),
                    ("ending", literal(head::encode_ending(ended).as_bytes())),
                    ("due_at", "NULL".to_owned()),
                    ("data", "X'1E'".to_owned()),
                    ("recent", "''".to_owned()),
                ];
                changed(name, ended.id, &assignments(&noted(set)), &relied, entry)
            }
            Plain::Head(record, relied, entry) => {
                let mut set = head_columns(record);
                for (_, value) in set.iter_mut().filter(|(column, value)| *column == "due_at" && value != "NULL") {
                    *value = format!("LEAST(COALESCE(due_at,{value}),{value})");
                }
                changed(name, record.info.id, &assignments(&noted(set)), &relied, entry)
            }
        };
        let text = format!("{}{changed};{shown};COMMIT", self.pool.engine().begin());
        if text.len() > self.pool.engine().packet() {
            return None;
        }
        let known = Update::of(transaction).filter(|_| !self.pool.engine().is_lent());
        Some(match known.and_then(|update| known_update(name, &update)) {
            Some((change, args)) => Statement::Change { text: change.into(), args, otherwise: text.into() },
            None => Statement::Text(text.into()),
        })
    }

    fn may_be_together(&self, _transaction: &Transaction) -> bool {
        false
    }

    fn plain_together(&self, all: &[&Arc<Transaction>]) -> Statement {
        self.whole(all, false, false)
    }

    fn whole(&self, all: &[&Arc<Transaction>], wait: bool, again: bool) -> Statement {
        let all = all.iter().map(|transaction| Arc::clone(transaction)).collect();
        Statement::Transact(Transact { all, wait, again, key: (**self.key).clone() })
    }

    fn states(&self, all: &[&Arc<Transaction>], answer: &Answer) -> Result<Vec<State>> {
        let mut states = answer.states.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let (Some(seen), [_]) = (answer.noted, all) {
            let seen = Timestamp::from_millis(seen);
            return Ok(vec![State::Answered(Ok(Outcome::Committed(vec![Committed::AsKnown { seen }])))]);
        }
        if let ([], [transaction]) = (&states[..], all) {
            return Ok(vec![plain_state(transaction, answer)?]);
        }
        Ok(std::mem::take(&mut *states))
    }
}

/// What became of a plain one. A change of data is done where the slot has its mark, whenever that came about.
fn plain_state(transaction: &Transaction, answer: &Answer) -> Result<State> {
    // Before it there may be rows that were locked.
    let Some(row) = answer.rows.last().filter(|row| rows::SqlRow::int(*row, 0).is_ok_and(|mark| mark == Some(1)))
    else {
        return Ok(State::Left);
    };
    let answers = match &transaction.writes[..] {
        [Write::Data { id, known, .. }] => {
            let slot = rows::slot(row, 1, *id)?;
            let done = match &slot {
                Slot::Open(record) if record.recent_changes.contains(transaction.id) => Arc::clone(record),
                // Its data were left out where it looks as if it were done.
                Slot::Open(record) if is_known(known.as_ref(), record) => return Ok(State::Left),
                _ => {
                    let told = told_by(transaction, &slot).map(Ok);
                    return Ok(told.map_or(State::Left, State::Answered));
                }
            };
            let seen = done.info.last_seen_at;
            vec![if is_known(known.as_ref(), &done) { Committed::AsKnown { seen } } else { Committed::Record(done) }]
        }
        writes => writes.iter().map(|_| Committed::Done).collect(),
    };
    Ok(State::Answered(Ok(Outcome::Committed(answers))))
}

/// Whether the record is as its caller knew, and one change further.
fn is_known(known: Option<&Known>, record: &Record) -> bool {
    known.is_some_and(|known| (known.version + 1, known.revision) == (record.info.version, record.revision))
}

impl Sender {
    /// A new slot, if its user is as relied on. Reads that follow the lock see what it waited for.
    fn start(&self, start: &Start<'_>) -> (String, String) {
        let Start { record, signed_in, entry, revision, count, now } = start;
        let (name, of) = (&self.pool.engine().namespace, id(record.info.id));
        let user = record.info.user.as_deref().unwrap_or_default();
        let key = bytes(self.key.as_bytes());
        let mut text = format!("{NOTHING_DONE};");
        let mut is_so = format!("value={key}");
        if let Some(revision) = revision {
            let lock = user_lock(&self.key, user).rem_euclid(LOCKS);
            let user = literal(user.as_bytes());
            write!(text, "SELECT NULL FROM {name}_user_lock WHERE number={lock} FOR UPDATE;")
                .expect("a string takes everything");
            write!(
                is_so,
                " AND COALESCE((SELECT revision FROM {name}_account WHERE user_id={user}),0)={}",
                revision.cast_signed()
            )
            .expect("a string takes everything");
        }
        if let Some(count) = count {
            write!(is_so, " AND (SELECT COUNT(*) FROM {name}_slot WHERE {})={count}", counted(user, *now))
                .expect("a string takes everything");
        }
        let mut columns = slot_columns(&Slot::Open(Arc::new((*record).clone())));
        columns.push(("id", of.clone()));
        let (names, values) = names_and_values(&noted(columns));
        write!(
            text,
            "INSERT INTO {name}_slot {names} SELECT {values} FROM {name}_meta \
             WHERE name='partition_key' AND {is_so} LOCK IN SHARE MODE"
        )
        .expect("a string takes everything");
        if let Some(last) = signed_in {
            let ip = last.ip.map_or_else(|| "NULL".to_owned(), |ip| literal(ip.to_string().as_bytes()));
            let at = last.at.as_millis();
            write!(
                text,
                ";UPDATE {name}_account SET signed_in_from={ip},signed_in_at={at} WHERE user_id={} \
                 AND COALESCE(signed_in_at<={at},1) AND @done",
                literal(user.as_bytes())
            )
            .expect("a string takes everything");
        }
        push_entry(&mut text, name, *entry);
        (text, SHOW_WHETHER_DONE.to_owned())
    }
}

/// Whether a row was written is noted while it is. `ROW_COUNT()` would not do: once the client has gone, it is -1 after
/// every statement.
const NOTHING_DONE: &str = "SET @done=0";

fn noted(mut set: Assigned) -> Assigned {
    for (_, value) in set.iter_mut().filter(|(column, _)| ["revision", "ended_at"].contains(column)).take(1) {
        *value = format!("IF(@done:=1,{value},{value})");
    }
    set
}

const SHOW_WHETHER_DONE: &str = "SELECT @done";

type Names = super::super::address::Namespace;

/// Changes one open slot, and tells the audit log.
fn changed(name: &Names, of: SessionId, set: &str, relied: &Relied, entry: Option<&LogEntry>) -> (String, String) {
    let mut text = format!("{NOTHING_DONE};UPDATE {name}_slot SET {set} WHERE id={}{}", id(of), relied_on(relied));
    push_entry(&mut text, name, entry);
    (text, SHOW_WHETHER_DONE.to_owned())
}

fn push_entry(text: &mut String, name: &Names, entry: Option<&LogEntry>) {
    if let Some(entry) = entry {
        write!(
            text,
            ";SELECT NULL FROM {name}_meta WHERE name='gate' LOCK IN SHARE MODE;\
             INSERT INTO {name}_audit (id,at,session,user_id,entry) SELECT {} FROM DUAL WHERE @done",
            entry_values(entry)
        )
        .expect("a string takes everything");
    }
}

fn relied_on(Relied { now, revision, version, unseen }: &Relied) -> String {
    let mut text = String::from(" AND ended_at IS NULL");
    let lives = (*now > i64::MIN).then(|| lives(*now));
    let conditions = [
        lives,
        revision.map(|revision| format!("revision={revision}")),
        version.map(|version| format!("version={version}")),
        unseen.map(|unseen| format!("seen<={unseen}")),
    ];
    for condition in conditions.into_iter().flatten() {
        text.push_str(" AND ");
        text.push_str(&condition);
    }
    text
}

/// The common transaction: the server merges the data. They have no more bytes than are stored of them; where those may be
/// too many, they are counted elsewhere.
fn update_text(name: &Names, update: &Update<'_>) -> Option<String> {
    let Update { transaction, id: of, now, revision, version, most, present, absent, change, known: _ } = update;
    let merged = merged(change)?;
    let mark = bytes(&transaction.to_be_bytes());
    let relied = Relied { now: *now, revision: *revision, version: *version, unseen: None };
    // Assignments see what those before them did.
    let mut text = format!(
        "UPDATE {name}_slot SET data={merged},recent=INSERT(recent,(version&15)*8+1,8,{mark}),version=version+1          WHERE id={} AND LOCATE({mark},recent)=0{}",
        id(*of),
        relied_on(&relied)
    );
    let written = present.iter().map(|entry| (entry, ">0")).chain(absent.iter().map(|entry| (entry, "=0")));
    for (entry, is_so) in written {
        write!(text, " AND LOCATE({},data){is_so}", literal(entry)).expect("a string takes everything");
    }
    if *most < i64::MAX {
        write!(text, " AND LENGTH(data)+{}<={most}", packed::changes(change).len()).expect("a string takes everything");
    }
    Some(text)
}

/// An update that finds the slot as its caller knows it: one prepared statement, whose answer has no rows.
fn known_update(name: &Names, update: &Update<'_>) -> Option<(String, Vec<Arg>)> {
    /// For each number of values that are relied on the server keeps a statement.
    const MOST: usize = 4;
    let Update { transaction, id: of, now, revision, version, most, present, absent, change, known } = update;
    let known = known.as_ref()?;
    let (known_version, known_revision) = (known.version.cast_signed(), known.revision.cast_signed());
    let is_as_relied = version.is_none_or(|version| version == known_version)
        && revision.is_none_or(|revision| revision == known_revision);
    if !is_as_relied || *now == i64::MIN || change.remove_all || present.len() + absent.len() > MOST {
        return None;
    }
    let mark = transaction.to_be_bytes().to_vec();
    let mut text = format!(
        "UPDATE {name}_slot SET data=CONCAT(REGEXP_REPLACE(data,?,''),?),recent=INSERT(recent,(version&15)*8+1,8,?),\
         version=version+1,{LAST_SEEN} WHERE id=? AND version=? AND revision=? AND LOCATE(?,recent)=0 \
         AND ended_at IS NULL AND seen+idle>? AND ends_at>? AND LENGTH(data)<=?"
    );
    let size = i64::try_from(packed::changes(change).len()).unwrap_or(i64::MAX);
    let mut args = vec![
        Arg::Bytes(pattern(change)?),
        Arg::Bytes(added(change)),
        Arg::Bytes(mark.clone()),
        Arg::id(*of),
        Arg::Int(known_version),
        Arg::Int(known_revision),
        Arg::Bytes(mark),
        Arg::Int(*now),
        Arg::Int(*now),
        Arg::Int(most.saturating_sub(size)),
    ];
    for (entries, is_so) in [(present, ">0"), (absent, "=0")] {
        for entry in entries {
            text.push_str(" AND LOCATE(?,data)");
            text.push_str(is_so);
            args.push(Arg::Bytes(entry.clone()));
        }
    }
    Some((text, args))
}

/// The slot as it is after an update; data are left out where the caller knows them.
fn shown(name: &Names, update: &Update<'_>) -> String {
    let of = id(update.id);
    match update.known {
        None => format!("SELECT 1,{SLOT} FROM {name}_slot WHERE id={of}"),
        Some(known) => {
            let data = format!(
                "IF(version={} AND revision={},NULL,data)",
                known.version.wrapping_add(1).cast_signed(),
                known.revision.cast_signed()
            );
            format!("SELECT 1,{} FROM {name}_slot WHERE id={of}", HEAD.replacen("NULL", &data, 1))
        }
    }
}

/// Data after a change: without the entries of the keys that it names, and with those that get a value at the end. None
/// where it names so many that they make no good pattern.
fn merged(change: &DataChange) -> Option<String> {
    let added = literal(&added(change));
    if change.remove_all {
        return Some(format!("CONCAT(X'1E',{added})"));
    }
    Some(format!("CONCAT(REGEXP_REPLACE(data,{},''),{added})", bytes(&pattern(change)?)))
}

/// The entries that get a value.
fn added(change: &DataChange) -> Vec<u8> {
    packed::changes(&DataChange { set: change.set.clone(), ..DataChange::default() })
}

/// What finds the entries of the keys that a change names.
fn pattern(DataChange { remove, set, .. }: &DataChange) -> Option<Vec<u8>> {
    const LONGEST_PATTERN: usize = 4096;
    let mut keys = remove.iter().chain(set.keys()).peekable();
    keys.peek()?;
    let mut pattern = vec![packed::END];
    pattern.extend_from_slice(b"(?:");
    for (place, key) in keys.enumerate() {
        if place > 0 {
            pattern.push(b'|');
        }
        for byte in key.bytes() {
            if !byte.is_ascii_alphanumeric() && byte.is_ascii() {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
    }
    // Up to what ends the entry, which begins the next one.
    pattern.extend_from_slice(&[b')', packed::IS, b'[', b'^', packed::END, b']', b'*', b'+']);
    (pattern.len() <= LONGEST_PATTERN).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_the_entries_of_keys() {
        let mut change = DataChange::default();
        assert_eq!(merged(&change), None);
        change.remove.insert("a.b".into());
        change.set.insert("ключ".into(), crate::data::Json::from_stored("1"));
        let pattern = ["\u{1e}(?:a\\.b|ключ)\u{1f}[^\u{1e}]*+"].concat();
        let expected = format!("CONCAT(REGEXP_REPLACE(data,{},''),'ключ\u{1f}1\u{1e}')", bytes(pattern.as_bytes()));
        assert_eq!(merged(&change), Some(expected));
        change.remove_all = true;
        assert_eq!(merged(&change).unwrap(), "CONCAT(X'1E','ключ\u{1f}1\u{1e}')");
    }
}
