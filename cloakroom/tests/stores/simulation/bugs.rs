//! Bugs planted in the simulated store: each is a mistake that a store, or the rules above it, could make, and the
//! simulation must find every one of them.

use std::sync::Arc;

use cloakroom::{
    Record, Timestamp,
    store::slots::{Ask, Expect, Found, List, Listed, Outcome, SeenAt, Slot, Transaction, Write},
};

use super::{model::Model, network};
use crate::common::random::Random;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Bug {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Bug {
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

bugs! {
    /// A session that expired or ended takes writes as long as its slot is open.
    ForgetsLive,
    /// Heads are overwritten, not compared.
    ForgetsHead,
    /// Values relied on are not compared.
    ForgetsValue,
    /// What is settled about a user is not compared.
    ForgetsUser,
    /// Sessions are counted before others are admitted.
    ForgetsCount,
    /// A session that was used meanwhile is ended all the same.
    ForgetsNotSeenSince,
    /// Two tries with one idempotency key both start a session.
    ForgetsTry,
    /// What relies on a count or a user is compared with what was so a while ago, before the lock.
    LooksBeforeTheLock,
    /// What is sent again is applied again.
    AppliesAgain,
    /// A session that ended takes a creation that is sent again.
    CreatesOverTheEnded,
    /// Data are written whole, as the writer saw them.
    WritesDataWhole,
    /// A head write brings the writer's data and version along.
    HeadTakesDataAlong,
    /// A head write moves last-seen back.
    HeadMovesSeenBack,
    /// A touch moves last-seen back.
    TouchMovesBack,
    /// A touch revives a session that expired.
    TouchRevives,
    /// Audit entries are lost now and then.
    LosesEntries,
    /// What was recognised as applied before is logged again.
    LogsAgain,
    /// Of a transaction with several writes the first is done, whatever the rest relies on.
    WritesInPart,
    /// Reads show what was so a while ago.
    ReadsTheOld,
    /// A user's list misses the newest session.
    ListMissesTheNewest,
    /// A second ending takes the place of the first.
    EndsTwice,
    /// What is due is not listed.
    ListsNothingDue,
    /// Endings are answered and now and then not done.
    LosesEndings,
    /// A user's slot is written and its revision compared with nothing.
    OverwritesUsers,
}

impl Bug {
    pub(super) fn commit(
        self,
        model: &mut Model,
        old: &Model,
        sent: &Transaction,
        again: bool,
        random: &Random,
    ) -> Option<Outcome> {
        let mut transaction = sent.clone();
        let relies_on = &mut transaction.relies_on;
        match self {
            Self::ForgetsLive => relies_on.retain(|expect| !matches!(expect, Expect::Live(_))),
            Self::ForgetsHead => relies_on.retain(|expect| !matches!(expect, Expect::Head(..))),
            Self::ForgetsValue => relies_on.retain(|expect| !matches!(expect, Expect::Value(..))),
            Self::ForgetsUser => relies_on.retain(|expect| !matches!(expect, Expect::User(..))),
            Self::ForgetsCount => relies_on.retain(|expect| !matches!(expect, Expect::Count(..))),
            Self::ForgetsNotSeenSince => relies_on.retain(|expect| !matches!(expect, Expect::NotSeenSince(..))),
            Self::ForgetsTry => relies_on.retain(|expect| !matches!(expect, Expect::Try(..))),
            Self::OverwritesUsers if sent.writes.iter().any(|write| matches!(write, Write::User(..))) => {
                relies_on.retain(|expect| !matches!(expect, Expect::User(..)));
            }
            Self::LooksBeforeTheLock => {
                let early = |expect: &Expect| matches!(expect, Expect::Count(..) | Expect::User(..));
                if relies_on.iter().any(|expect| early(expect) && !old.holds(expect, sent)) {
                    return Some(Outcome::Conflict(None));
                }
                relies_on.retain(|expect| !early(expect));
            }
            Self::AppliesAgain => return Some(model.commit(&transaction)),
            Self::LosesEntries if random.percent(20) => transaction.log.clear(),
            Self::LosesEndings if random.percent(20) => {
                transaction.writes.retain(|write| !matches!(write, Write::End(_)));
            }
            Self::CreatesOverTheEnded => {
                for write in &transaction.writes {
                    if let Write::Create(record) = write
                        && model.slots.get(&record.info.id).is_some_and(|kept| kept.ended().is_some())
                    {
                        model.slots.remove(&record.info.id);
                    }
                }
            }
            Self::EndsTwice => {
                for write in &transaction.writes {
                    if let Write::End(ended) = write
                        && let Some(Slot::Ended(there)) = model.slots.get(&ended.id).map(|kept| kept.slot.clone())
                    {
                        model.write(&Write::Import(Slot::Open(Arc::clone(&there.record))), 0);
                        transaction.relies_on.clear();
                        break;
                    }
                }
            }
            Self::WritesDataWhole => {
                for write in &mut transaction.writes {
                    if let Write::Data { id, change, .. } = write
                        && let Some(seen) = old.slots.get(id).and_then(|kept| kept.open())
                    {
                        change.remove_all = true;
                        let data = seen.data.iter().map(|(key, value)| (Arc::from(key), value.to_json()));
                        let set = std::mem::take(&mut change.set);
                        change.set = data.chain(set).collect();
                    }
                }
            }
            Self::HeadTakesDataAlong | Self::HeadMovesSeenBack => {
                let outcome = network::commit(model, &transaction, again);
                if let Some(Outcome::Committed(_)) = &outcome {
                    for write in &transaction.writes {
                        if let Write::Head(new) = write
                            && let Some(there) = model.slots.get(&new.info.id).and_then(|kept| kept.open()).cloned()
                        {
                            let mut record = Record::clone(&there);
                            if self == Self::HeadTakesDataAlong {
                                record.data = new.data.clone();
                                record.info.version = new.info.version;
                            } else {
                                record.info.last_seen_at = new.info.created_at;
                            }
                            model.write(&Write::Import(Slot::Open(Arc::new(record))), 0);
                        }
                    }
                }
                return outcome;
            }
            Self::LogsAgain if again => model.log.extend(sent.log.iter().cloned()),
            Self::WritesInPart if sent.writes.len() > 1 => {
                let first = Transaction {
                    relies_on: sent.relies_on.iter().take(1).cloned().collect(),
                    writes: vec![sent.writes[0].clone()],
                    log: Vec::new(),
                    ..*sent
                };
                if first.relies_on.iter().all(|expect| model.holds(expect, &first)) {
                    let whole = network::commit(model, &transaction, again);
                    if let Some(Outcome::Conflict(_)) = &whole {
                        model.commit(&first);
                    }
                    return whole;
                }
            }
            _ => {}
        }
        network::commit(model, &transaction, again)
    }

    pub(super) fn touch(self, model: &mut Model, touch: &SeenAt, now: Timestamp) -> bool {
        if !matches!(self, Self::TouchMovesBack | Self::TouchRevives) {
            return model.touch(touch, now);
        }
        let Some(there) = model.slots.get(&touch.id).and_then(|kept| kept.open()).cloned() else { return false };
        let forward = touch.at > there.info.last_seen_at;
        if if self == Self::TouchRevives { forward } else { super::model::lives(&there, now) } {
            let mut record = Record::clone(&there);
            record.info.last_seen_at = touch.at;
            model.write(&Write::Import(Slot::Open(Arc::new(record))), 0);
        }
        true
    }

    pub(super) fn read(self, model: &Model, old: &Model, ask: &Ask) -> Found {
        match (self, ask) {
            (Self::ReadsTheOld, Ask::Session(_)) => old.read(ask),
            (Self::ListMissesTheNewest, Ask::HeadsOf(..)) => match model.read(ask) {
                Found::Heads(heads) => Found::Heads(heads.into_iter().skip(1).collect()),
                found => found,
            },
            _ => model.read(ask),
        }
    }

    pub(super) fn list(self, model: &Model, what: &List) -> Vec<Listed> {
        match (self, what) {
            (Self::ListsNothingDue, List::Due(_)) => Vec::new(),
            _ => model.list(what),
        }
    }
}
