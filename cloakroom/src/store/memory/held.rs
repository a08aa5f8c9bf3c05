//! The shards of a read or of a transaction, locked together.

use std::{collections::BTreeSet, sync::MutexGuard};

use super::{MemoryStore, Shard, shard_number};
use crate::{store::slots::Ask, token::SessionId};

/// Most often it is one.
pub(super) struct Held<'a> {
    first: (u16, MutexGuard<'a, Shard>),
    others: Vec<(u16, MutexGuard<'a, Shard>)>,
    /// Where the user who was named last lives: to find that out costs two digests.
    user: Option<(&'a str, u16)>,
    store: &'a MemoryStore,
}

/// What a place is derived from.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Session(SessionId),
    User(&'a str),
}

impl<'a> Held<'a> {
    /// Locks where the names live, in an order that is always the same; `user`, if it is there, is known to live with a
    /// session. `None` for no names.
    pub(super) fn lock(
        store: &'a MemoryStore,
        names: impl Iterator<Item = Name<'a>> + Clone,
        user: Option<(&'a str, SessionId)>,
    ) -> Option<Self> {
        let mut user = user.map(|(user, id)| (user, shard_number(id.partition())));
        let mut number = |name: Name<'a>| match name {
            Name::Session(id) => shard_number(id.partition()),
            Name::User(name) => match user {
                Some((known, number)) if known == name => number,
                _ => {
                    let number = store.number_of(name);
                    user = Some((name, number));
                    number
                }
            },
        };
        let mut numbers = names.map(&mut number);
        let first = numbers.next()?;
        let others: BTreeSet<_> = numbers.filter(|number| *number != first).collect();
        if others.is_empty() {
            return Some(Self { first: (first, store.shard_at(first)), others: Vec::new(), user, store });
        }
        let mut all: Vec<_> = [first].into_iter().chain(others).collect();
        all.sort_unstable();
        let mut locked = all.into_iter().map(|number| (number, store.shard_at(number)));
        Some(Self { first: locked.next()?, others: locked.collect(), user, store })
    }

    pub(super) fn of(&mut self, id: SessionId) -> &mut Shard {
        self.at(shard_number(id.partition()))
    }

    pub(super) fn of_user(&mut self, name: &str) -> &mut Shard {
        let number = match self.user {
            Some((known, number)) if known == name => number,
            _ => self.store.number_of(name),
        };
        self.at(number)
    }

    fn at(&mut self, number: u16) -> &mut Shard {
        if self.first.0 == number {
            return &mut self.first.1;
        }
        let other = self.others.iter_mut().find(|(other, _)| *other == number);
        &mut other.expect("it was named when the shards were locked").1
    }
}

impl<'a> From<&'a Ask> for Name<'a> {
    fn from(ask: &'a Ask) -> Self {
        match ask {
            Ask::Session(id) | Ask::Head(id) => Self::Session(*id),
            Ask::User(user) | Ask::HeadsOf(user, _) => Self::User(user),
            Ask::Try(partition, _) => Self::Session(first_of(*partition)),
        }
    }
}

/// An id in this partition.
pub(super) fn first_of(partition: crate::token::Partition) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    bytes[..2].copy_from_slice(&partition.to_bytes());
    SessionId::from_bytes(bytes)
}
