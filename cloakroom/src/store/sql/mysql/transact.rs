//! Transactions of any kind, several in one of the server's: their rows are locked and read, what becomes of them is
//! decided here, and what was decided is written. Two round trips, with the locks held over one.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Error as SqlError, MySqlConnection};

use super::{
    engine::Server,
    locked::{Found, kind},
    text::{bytes, id, ids, literal, lives},
};
use crate::{
    error::Error,
    store::{
        embedded,
        slots::{Expect, Transaction, Write},
        sql::{
            flight::State,
            rows::{now, replaced},
        },
    },
    token::PartitionKey,
};

/// Transactions for one statement.
pub(super) struct Transact {
    pub(super) all: Vec<Arc<Transaction>>,
    /// Whether to wait for what other transactions hold; otherwise those that need it are left.
    pub(super) wait: bool,
    pub(super) again: bool,
    pub(super) key: PartitionKey,
}

/// So many locks there are for users.
pub(super) const LOCKS: i64 = 1024;

impl Transact {
    /// After an error nothing of it is left on the server.
    pub(super) async fn run(&self, server: &Server, connection: &mut MySqlConnection) -> Result<Vec<State>, SqlError> {
        let (look, mut found) = self.look(server);
        let rows = sqlx::raw_sql(AssertSqlSafe(look)).fetch_all(&mut *connection).await?;
        for row in &rows {
            found.add(row).map_err(|error| SqlError::Decode(error.into()))?;
        }
        let is_replaced = found.partition_key.as_deref() != Some(self.key.as_bytes().as_slice());
        let mut states = Vec::with_capacity(self.all.len());
        let mut statements = Vec::new();
        if is_replaced {
            states.extend(self.all.iter().map(|_| State::Answered(Err(replaced()))));
        } else {
            (states, statements) = self.decide(server, found);
        }
        statements.push("COMMIT".to_owned());
        for text in joined(statements, server.packet()) {
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await?;
        }
        Ok(states)
    }

    /// Locks what the transactions name, and reads it after that.
    fn look(&self, server: &Server) -> (String, Found) {
        let name = &server.namespace;
        let mut found = Found::default();
        let written = self.all.iter().flat_map(|one| &one.writes);
        found.changed.extend(written.filter_map(|write| match write {
            Write::Data { id, .. } => Some(*id),
            Write::Head(record) => Some(record.info.id),
            _ => None,
        }));
        let skip = if self.wait { "" } else { " SKIP LOCKED" };
        let mut text = server.begin().to_owned();
        let locks: BTreeSet<_> = self.all.iter().flat_map(|one| self.locks(one)).collect();
        let sessions: BTreeSet<_> = self.all.iter().flat_map(|one| one.sessions()).collect();
        let users: BTreeSet<_> = self.all.iter().flat_map(|one| one.users()).collect();
        let mut push = |statement: std::fmt::Arguments<'_>| {
            text.write_fmt(statement).expect("a string takes everything");
            text.push(';');
        };
        // Whoever gives the tables another key waits, and then finds what was committed under this one.
        push(format_args!("SELECT {},value FROM {name}_meta WHERE name='partition_key' LOCK IN SHARE MODE", kind::KEY));
        if !locks.is_empty() {
            let numbers = locks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            push(format_args!(
                "SELECT {},number FROM {name}_user_lock FORCE INDEX(PRIMARY) WHERE number IN ({numbers}) ORDER BY number \
                 FOR UPDATE{skip}",
                kind::LOCK
            ));
        }
        if !sessions.is_empty() {
            let sessions = ids(sessions);
            push(format_args!(
                "SELECT {},id,{} FROM {name}_slot FORCE INDEX(PRIMARY) WHERE id IN ({sessions}) ORDER BY id FOR UPDATE{skip}",
                kind::SLOT,
                super::text::SLOT
            ));
            if !self.wait {
                push(format_args!("SELECT {},id FROM {name}_slot WHERE id IN ({sessions})", kind::THERE));
            }
        }
        if !users.is_empty() {
            let users = users.iter().map(|user| literal(user.as_bytes())).collect::<Vec<_>>().join(",");
            push(format_args!(
                "SELECT {},'',{} FROM {name}_account WHERE user_id IN ({users})",
                kind::USER,
                super::text::USER
            ));
        }
        for transaction in &self.all {
            for expect in &transaction.relies_on {
                match expect {
                    Expect::Count(user, _) => {
                        let place = found.asked_counts.len();
                        push(format_args!(
                            "SELECT {},{place},COUNT(*) FROM {name}_slot WHERE {}",
                            kind::COUNT,
                            counted(user, now(transaction.now))
                        ));
                        found.asked_counts.push((Arc::clone(user), transaction.now));
                    }
                    Expect::Try(partition, digest, _) => {
                        let place = found.asked_tries.len();
                        let key = bytes(digest.as_bytes());
                        push(format_args!(
                            "SELECT {},{place},id FROM {name}_slot WHERE {}",
                            kind::TRY,
                            tried(&bytes(&partition.to_bytes()), &key)
                        ));
                        found.asked_tries.push((*partition, *digest));
                    }
                    _ => {}
                }
            }
            if self.again && !transaction.log.is_empty() {
                let entries = transaction
                    .log
                    .iter()
                    .map(|logged| format!("(session={} AND id={})", id(logged.entry.session), logged.id.cast_signed()));
                let entries = entries.collect::<Vec<_>>().join(" OR ");
                push(format_args!("SELECT {},session,id FROM {name}_audit WHERE {entries}", kind::LOGGED));
            }
        }
        (text, found)
    }

    fn locks(&self, transaction: &Transaction) -> BTreeSet<i64> {
        transaction.locks(&self.key).into_iter().map(|lock| lock.rem_euclid(LOCKS)).collect()
    }

    fn decide(&self, server: &Server, found: Found) -> (Vec<State>, Vec<String>) {
        let mut states = Vec::with_capacity(self.all.len());
        let held: Vec<_> = self.all.iter().map(|transaction| self.is_held(transaction, &found)).collect();
        let locked = found.lock(&server.namespace);
        for (transaction, is_held) in self.all.iter().zip(held) {
            if !is_held {
                states.push(State::Left);
                continue;
            }
            // Written down, bytes are twice as many at most. What may not fit in a packet is sent by itself.
            let may_be_large = 2 * (transaction.weight() + locked.size_of(transaction.sessions())) > server.packet();
            if may_be_large && !self.wait {
                states.push(State::Left);
                continue;
            }
            states.push(match embedded::commit(&locked, transaction, self.again) {
                Ok(Some(_)) if locked.longest() > server.packet() => {
                    return (vec![State::Answered(Err(server.too_large(locked.longest())))], Vec::new());
                }
                Ok(Some(outcome)) => State::Answered(Ok(outcome)),
                Ok(None) => State::Answered(Err(Error::OutcomeUnknown { after: Duration::ZERO })),
                Err(_) => State::Left,
            });
        }
        (states, locked.statements())
    }

    fn is_held(&self, transaction: &Transaction, found: &Found) -> bool {
        self.wait || self.locks(transaction).is_subset(&found.locks) && transaction.sessions().all(|id| found.holds(id))
    }
}

/// Which sessions of a user count.
pub(super) fn counted(user: &str, now: i64) -> String {
    format!("user_id={} AND impersonated_by IS NULL AND {}", literal(user.as_bytes()), lives(now))
}

/// Which session was started with an idempotency key: of two the later one.
pub(super) fn tried(partition: &str, key: &str) -> String {
    format!("idempotency={key} AND ended_at IS NULL AND LEFT(id,2)={partition} ORDER BY placed DESC LIMIT 1")
}

/// As few texts as go into packets of so many bytes.
fn joined(statements: Vec<String>, packet: usize) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for statement in statements {
        match texts.last_mut() {
            Some(text) if text.len() + statement.len() + 64 <= packet => {
                text.push(';');
                text.push_str(&statement);
            }
            _ => texts.push(statement),
        }
    }
    texts
}
