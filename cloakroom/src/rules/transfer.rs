//! Moving what a store holds into another one.

use std::sync::Arc;

use crate::{
    change::random_id,
    clock::Timestamp,
    error::Result,
    record::{Record, SessionInfo},
    rules::{
        Imported, Item, Loaded, Rules, Tombstone, UserFence, items::check_places, look, look::unasked,
        transaction::commit, user_text::User, users,
    },
    store::{
        Cursor, Logged, Page,
        slots::{Ask, EndedSlot, Expect, List, Listed, LogEntry, Outcome, Slot, Transaction, Write},
    },
};

/// What an export shows: the open slots first, so that one that ends meanwhile comes at least as ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Open,
    Ended,
    Fences,
}

impl Pass {
    const ALL: [(Self, &'static str); 3] = [(Self::Open, "s"), (Self::Ended, "t"), (Self::Fences, "f")];

    fn parse(cursor: Option<&Cursor>) -> Result<(Self, Option<Cursor>)> {
        let Some(cursor) = cursor else { return Ok((Self::Open, None)) };
        let (name, place) = match cursor.as_str().split_once('.') {
            Some((name, place)) => (name, Some(Cursor::new(place))),
            None => (cursor.as_str(), None),
        };
        let pass = Self::ALL.into_iter().find(|(_, other)| *other == name);
        pass.map(|(pass, _)| (pass, place)).ok_or_else(Cursor::invalid)
    }

    /// Where it goes on.
    fn cursor(self, place: Option<Cursor>) -> Option<Cursor> {
        let number = Self::ALL.iter().position(|(pass, _)| *pass == self)?;
        match place {
            Some(place) => Some(Cursor::new(format!("{}.{}", Self::ALL[number].1, place.as_str()))),
            None => Self::ALL.get(number + 1).map(|(_, name)| Cursor::new(*name)),
        }
    }
}

pub(super) async fn export(rules: &Rules, after: Option<&Cursor>, limit: usize) -> Result<Page<Item>> {
    let (pass, after) = Pass::parse(after)?;
    let what = if pass == Pass::Fences { List::Users } else { List::Everything };
    let page = rules.store.list(&what, after.as_ref(), limit).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for listed in page.items {
        items.extend(match (pass, listed) {
            (Pass::Open, Listed::Session(Slot::Open(record))) => Some(Item::Session(record)),
            (Pass::Ended, Listed::Session(Slot::Ended(slot))) => {
                let EndedSlot { record, ended, transaction: _ } = &*slot;
                Some(Item::Ended(Arc::new(Tombstone { ended: ended.clone(), secrets: record.secrets.clone() })))
            }
            (Pass::Fences, Listed::User(name, slot)) => User::of(Some(slot))?.fence(&name).map(Item::Fence),
            (Pass::Open | Pass::Ended, Listed::Session(_)) | (Pass::Ended, Listed::Damaged(..)) => None,
            (Pass::Open, Listed::Damaged(id, problem)) => {
                tracing::error!(session = %id, "the session is left out, because it cannot be read: {problem}");
                None
            }
            (Pass::Open | Pass::Ended, Listed::User(..)) | (Pass::Fences, Listed::Session(_) | Listed::Damaged(..)) => {
                return Err(unasked());
            }
        });
    }
    Ok(Page { items, next: pass.cursor(page.next) })
}

pub(super) async fn import(rules: &Rules, items: &[Item]) -> Result<Vec<Imported>> {
    check_places(items, rules.store.partition_key())?;
    let ids: Vec<_> = items.iter().filter_map(Item::session_id).collect();
    let mut found = look::read(rules, ids.into_iter().map(Ask::Session).collect::<Vec<_>>()).await?;
    let (mut imported, mut transactions, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (place, item) in items.iter().enumerate() {
        let (answer, transaction) = match item {
            Item::Session(_) | Item::Ended(_) => decide(item, found.slot()?),
            Item::Fence(fence) => (import_fence(rules, fence).await?, None),
        };
        imported.push(answer);
        if let Some(transaction) = transaction {
            transactions.push(transaction);
            places.push(place);
        }
    }
    if transactions.is_empty() {
        return Ok(imported);
    }
    for (place, outcome) in places.into_iter().zip(rules.store.commit(&transactions, false).await?) {
        if let Outcome::Conflict(_) = outcome {
            imported[place] = import_again(rules, &items[place]).await?;
        }
    }
    Ok(imported)
}

/// Something else is so since it was looked at.
async fn import_again(rules: &Rules, item: &Item) -> Result<Imported> {
    let id = item.session_id().ok_or_else(unasked)?;
    let mut attempts = rules.turns.at_session(id);
    loop {
        attempts.again().await?;
        let (imported, transaction) = decide(item, look::session(rules, id).await?);
        let Some(transaction) = transaction else { return Ok(imported) };
        if let Outcome::Committed(_) = commit(rules, &transaction).await? {
            return Ok(imported);
        }
    }
}

/// What becomes of a session that finds this in its slot, and what does it.
fn decide(item: &Item, there: Option<Slot>) -> (Imported, Option<Transaction>) {
    let mut relies_on = Vec::new();
    let there = match there {
        None => Loaded::Unknown,
        Some(Slot::Open(record)) => {
            let id = record.info.id;
            relies_on.push(Expect::Head(id, record.revision));
            relies_on.push(Expect::Version(id, record.info.version));
            relies_on.push(Expect::NotSeenSince(id, record.info.last_seen_at));
            Loaded::Live(record)
        }
        Some(Slot::Ended(slot)) => {
            Loaded::Ended(Arc::new(Tombstone { ended: slot.ended.clone(), secrets: slot.record.secrets.clone() }))
        }
    };
    let (imported, slot, id) = match item {
        Item::Session(record) => {
            let record = Record { revision: random_id(), user_epoch: 0, ..(**record).clone() };
            (Imported::of_session(&record, &there), Slot::Open(Arc::new(record)), item.session_id())
        }
        Item::Ended(tombstone) => {
            let slot = Slot::Ended(Arc::new(ended_slot(tombstone)));
            (Imported::of_tombstone(tombstone, &there), slot, item.session_id())
        }
        Item::Fence(_) => return (Imported::Unchanged, None),
    };
    if !imported.writes() {
        return (imported, None);
    }
    relies_on.extend(id.filter(|_| there == Loaded::Unknown).map(Expect::Empty));
    (imported, Some(Transaction::new(Timestamp::EPOCH).relying_on(relies_on).writing(Write::Import(slot))))
}

/// A tombstone tells how a session ended and which secrets it had. The rest of its head stayed where it comes from.
fn ended_slot(tombstone: &Tombstone) -> EndedSlot {
    let Tombstone { ended, secrets } = tombstone;
    let info = SessionInfo {
        user: ended.user.clone(),
        client: crate::record::Client::default(),
        ..SessionInfo::new(ended.id, ended.at)
    };
    let record = Record { revision: random_id(), ..Record::new(info, secrets.clone()) };
    EndedSlot { record: Arc::new(record), ended: ended.clone(), transaction: random_id() }
}

pub(super) async fn import_log(rules: &Rules, entries: Vec<Logged>) -> Result<()> {
    let mut transactions: Vec<Transaction> = Vec::new();
    for Logged { id, entry, .. } in entries {
        let new = LogEntry { id, entry };
        let of_same = |other: &LogEntry| other.entry.session == new.entry.session;
        // Entries of one session in one transaction, so that they keep their order.
        let there = transactions.iter_mut().find(|transaction| transaction.log.first().is_some_and(of_same));
        if let Some(transaction) = there {
            transaction.log.push(new);
        } else {
            let mut transaction = Transaction::new(Timestamp::EPOCH);
            transaction.log.push(new);
            transactions.push(transaction);
        }
    }
    if transactions.is_empty() {
        return Ok(());
    }
    for outcome in rules.store.commit(&transactions, true).await? {
        if let Outcome::Conflict(_) = outcome {
            return Err(unasked());
        }
    }
    Ok(())
}

async fn import_fence(rules: &Rules, fence: &UserFence) -> Result<Imported> {
    users::change(rules, &fence.user, Timestamp::EPOCH, |user| {
        let (united, imported) = fence.united_with(user.fence(&fence.user).as_ref());
        user.disabled = united.disabled;
        user.ended_before = united.ended_before;
        (imported, imported.writes())
    })
    .await
}

impl User {
    /// What keeps their sign-ins out.
    fn fence(&self, name: &Arc<str>) -> Option<UserFence> {
        self.is_fenced().then(|| UserFence {
            user: Arc::clone(name),
            disabled: self.disabled,
            ended_before: self.ended_before,
        })
    }
}
