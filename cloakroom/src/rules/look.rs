//! Looking at rules.store.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    record::{Record, SessionInfo},
    rules::Rules,
    rules::{Gone, Loaded, Tombstone},
    store::{
        Cursor, Page, Query,
        slots::{Ask, EndedSlot, Found, List, Listed, Slot, UserSlot},
    },
    token::SessionId,
};

/// A session's slot with its data.
pub(super) async fn session(rules: &Rules, id: SessionId) -> Result<Option<Slot>> {
    if let Some(slot) = rules.store.peek(id) {
        return Ok(slot);
    }
    read(rules, [Ask::Session(id)]).await?.slot()
}

/// A session's slot, perhaps without its data.
pub(super) async fn head(rules: &Rules, id: SessionId) -> Result<Option<Slot>> {
    if let Some(slot) = rules.store.peek(id) {
        return Ok(slot);
    }
    read(rules, [Ask::Head(id)]).await?.slot()
}

/// Slots of sessions without data, in the order asked.
pub(super) async fn heads(rules: &Rules, ids: &[SessionId]) -> Result<Vec<Option<Slot>>> {
    if let [id] = ids {
        return Ok(vec![head(rules, *id).await?]);
    }
    let mut answers = read(rules, ids.iter().copied().map(Ask::Head).collect::<Vec<_>>()).await?;
    ids.iter().map(|_| answers.slot()).collect()
}

pub(super) async fn user(rules: &Rules, user: &Arc<str>) -> Result<Option<UserSlot>> {
    read(rules, [Ask::User(Arc::clone(user))]).await?.user()
}

/// One trip for several questions; take the answers in the order asked.
pub(super) async fn read(rules: &Rules, asks: impl AsRef<[Ask]>) -> Result<Answers> {
    Ok(Answers(rules.store.read(asks.as_ref()).await?.into_iter()))
}

/// What was found, in the order asked.
pub(super) struct Answers(std::vec::IntoIter<Found>);

impl Answers {
    pub(super) fn slot(&mut self) -> Result<Option<Slot>> {
        match self.0.next() {
            Some(Found::Session(slot)) => Ok(slot),
            _ => Err(unasked()),
        }
    }

    pub(super) fn user(&mut self) -> Result<Option<UserSlot>> {
        match self.0.next() {
            Some(Found::User(slot)) => Ok(slot),
            _ => Err(unasked()),
        }
    }

    pub(super) fn heads(&mut self) -> Result<Vec<Arc<Record>>> {
        match self.0.next() {
            Some(Found::Heads(heads)) => Ok(heads),
            _ => Err(unasked()),
        }
    }

    pub(super) fn earlier_try(&mut self) -> Result<Option<SessionId>> {
        match self.0.next() {
            Some(Found::Try(found)) => Ok(found),
            _ => Err(unasked()),
        }
    }
}

/// The store broke its contract.
#[cold]
pub(super) fn unasked() -> Error {
    Error::Store { message: "it answered something else than it was asked".into(), source: None }
}

/// The session in a slot, if it lives.
pub(super) fn living(slot: Option<Slot>, now: Timestamp) -> Result<Arc<Record>, Gone> {
    match slot {
        Some(Slot::Open(record)) => match record.info.expired(now) {
            None => Ok(record),
            Some(ended) => Err(Gone::Ended(ended)),
        },
        Some(Slot::Ended(slot)) => Err(Gone::Ended(slot.ended.clone())),
        None => Err(Gone::Unknown),
    }
}

/// What a slot is to those who load it.
#[inline]
pub(super) fn loaded(slot: Option<Slot>, now: Timestamp) -> Loaded {
    match slot {
        Some(Slot::Open(record)) => {
            if record.info.expiry(now).is_some() {
                return expired(&record, now);
            }
            Loaded::Live(record)
        }
        Some(Slot::Ended(slot)) => ended(&slot),
        None => Loaded::Unknown,
    }
}

#[cold]
fn expired(record: &Arc<Record>, now: Timestamp) -> Loaded {
    match record.info.expired(now) {
        None => Loaded::Live(Arc::clone(record)),
        Some(ended) => Loaded::Ended(Arc::new(Tombstone { ended, secrets: record.secrets.clone() })),
    }
}

#[cold]
fn ended(slot: &EndedSlot) -> Loaded {
    Loaded::Ended(Arc::new(Tombstone { ended: slot.ended.clone(), secrets: slot.record.secrets.clone() }))
}

/// Living sessions that match.
pub(super) async fn find(
    rules: &Rules,
    query: &Query,
    after: Option<&Cursor>,
    limit: usize,
    now: Timestamp,
) -> Result<Page<SessionInfo>> {
    let page = rules.store.list(&List::Sessions(query.clone(), now), after, limit).await?;
    let info = |listed| match listed {
        Listed::Session(Slot::Open(record)) => Ok(record.info.clone()),
        Listed::Session(Slot::Ended(_)) | Listed::User(..) | Listed::Damaged(..) => Err(unasked()),
    };
    let items: Result<Vec<_>> = page.items.into_iter().map(info).collect();
    Ok(Page { items: items?, next: page.next })
}
