//! Failed API keys: how many a client may try, and how many all of them together.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cloakroom::Timestamp;
use http::{HeaderMap, header};

use super::{Caller, KeyRing};

/// Counts failed keys. A client that tried too many is refused until its allowance has grown again, whatever key it brings,
/// so that it cannot tell a right guess. A key that this client used before is let in all the same: another program
/// behind the same address locks no application out.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// So many a client may fail with in a minute, and at once.
    allowed: u32,
    state: Mutex<State>,
    /// Which keys a client came with before.
    known: RwLock<HashSet<(Client, Arc<str>)>>,
    refused: AtomicU64,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It carries this key.
    Admitted(Caller),
    /// It carries none.
    Missing,
    /// It carries one that is not among ours. `unlogged` failures came before it that were not told of one by one.
    Refused { unlogged: u64 },
    /// There were too many; the client may try again after this. `first` of its failures that is refused so.
    TooMany { wait: Duration, first: bool },
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<Client, Allowance>,
    all: Option<Allowance>,
    unlogged: u64,
}

/// Failures that are left, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f64,
    at: Timestamp,
    is_told: bool,
}

/// An address, or the network of one: a client with an IPv6 address has all of its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client(Option<IpAddr>);

/// All clients together may fail so many times as often as one.
const ALL: u32 = 10;
/// So many clients are remembered.
const MAX_CLIENTS: usize = 16_384;

impl Attempts {
    pub(crate) fn new(allowed: u32) -> Self {
        Self { allowed, state: Mutex::default(), known: RwLock::default(), refused: AtomicU64::new(0) }
    }

    /// How many requests were refused for their key.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Judges a request from `client`; `None` for an address that a proxy hides.
    pub(crate) fn judge(&self, keys: &KeyRing, client: Option<IpAddr>, headers: &HeaderMap, now: Timestamp) -> Verdict {
        let client = Client::of(client);
        match keys.current().caller(headers) {
            Some(caller) => self.admit(client, caller, now),
            None if headers.contains_key(header::AUTHORIZATION) => self.refuse(client, now),
            None => Verdict::Missing,
        }
    }

    fn admit(&self, client: Client, caller: Caller, now: Timestamp) -> Verdict {
        let known = (client, Arc::clone(&caller.name));
        if self.known.read().unwrap_or_else(PoisonError::into_inner).contains(&known) {
            return Verdict::Admitted(caller);
        }
        let left = self.lock().clients.get(&client).map(|allowance| allowance.now(self.allowed, now));
        if left.is_some_and(|allowance| allowance.left < 1.0) {
            return self.refuse(client, now);
        }
        let mut all_known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if all_known.len() < MAX_CLIENTS {
            all_known.insert(known);
        }
        Verdict::Admitted(caller)
    }

    fn refuse(&self, client: Client, now: Timestamp) -> Verdict {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let state = &mut *state;
        if state.clients.len() >= MAX_CLIENTS {
            // Those that have their whole allowance again are as good as unknown.
            state.clients.retain(|_, allowance| allowance.now(self.allowed, now).left < f64::from(self.allowed));
        }
        let all = self.allowed.saturating_mul(ALL);
        let of_all =
            state.all.insert(state.all.map_or(Allowance::whole(all, now), |allowance| allowance.now(all, now)));
        let wait = if state.clients.len() >= MAX_CLIENTS && !state.clients.contains_key(&client) {
            of_all.take(all)
        } else {
            let allowance = state.clients.entry(client).or_insert(Allowance::whole(self.allowed, now));
            *allowance = allowance.now(self.allowed, now);
            // One that may not try costs the others nothing.
            allowance.take(self.allowed).or_else(|| of_all.take(all))
        };
        match wait {
            None => Verdict::Refused { unlogged: std::mem::take(&mut state.unlogged) },
            Some((wait, first)) => {
                state.unlogged += 1;
                Verdict::TooMany { wait, first }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance {
    fn whole(allowed: u32, now: Timestamp) -> Self {
        Self { left: allowed.into(), at: now, is_told: false }
    }

    /// What it has grown to.
    fn now(self, allowed: u32, now: Timestamp) -> Self {
        let grown = now.since(self.at).as_secs_f64() * f64::from(allowed) / 60.0;
        Self { left: (self.left + grown).min(allowed.into()), at: now.max(self.at), is_told: self.is_told }
    }

    /// Takes one of it, or says how long there is none, and whether that is said for the first time.
    fn take(&mut self, allowed: u32) -> Option<(Duration, bool)> {
        if self.left >= 1.0 {
            (self.left, self.is_told) = (self.left - 1.0, false);
            return None;
        }
        let first = !std::mem::replace(&mut self.is_told, true);
        Some((Duration::from_secs_f64((1.0 - self.left) * 60.0 / f64::from(allowed.max(1))), first))
    }
}

impl Client {
    fn of(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address @ IpAddr::V4(_) => address,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApiKey, ApiKeys, Scope, keys::generate};

    struct Door {
        attempts: Attempts,
        keys: KeyRing,
        key: String,
        now: Timestamp,
    }

    impl Door {
        fn new() -> Self {
            let key = generate().unwrap();
            let keys = KeyRing::new(ApiKeys::new(vec![ApiKey::new("shop", Scope::Read, &key).unwrap()]));
            Self { attempts: Attempts::new(20), keys, key, now: Timestamp::from_millis(1_800_000_000_000) }
        }

        fn knock(&self, address: &str, key: &str) -> Verdict {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())]);
            self.attempts.judge(&self.keys, address.parse().ok(), &headers, self.now)
        }

        fn is_let_in(&self, address: &str) -> bool {
            matches!(self.knock(address, &self.key), Verdict::Admitted(_))
        }

        /// How many of so many wrong keys are refused one by one.
        fn wrong(&self, address: &str, times: usize) -> usize {
            (0..times).filter(|n| matches!(self.knock(address, &format!("wrong{n}")), Verdict::Refused { .. })).count()
        }
    }

    #[test]
    fn s3_a_client_that_fails_too_often_is_refused_even_with_a_right_guess_until_time_has_passed() {
        let mut door = Door::new();
        assert_eq!(door.wrong("192.0.2.1", 2000), 20);
        assert!(!door.is_let_in("192.0.2.1"), "a guess that is right by chance is not told");
        assert!(door.is_let_in("192.0.2.2"), "others are not locked out");
        assert_eq!(door.attempts.refused(), 2001);
        door.now = door.now.after(Duration::from_secs(3));
        assert!(door.is_let_in("192.0.2.1"));
        door.now = door.now.after(Duration::from_mins(10));
        assert_eq!(door.wrong("192.0.2.1", 100), 20);
    }

    #[test]
    fn s3_a_key_that_a_client_used_before_is_let_in_while_another_guesses_behind_the_same_address() {
        let door = Door::new();
        assert!(door.is_let_in("192.0.2.1"));
        door.wrong("192.0.2.1", 100);
        assert!(door.is_let_in("192.0.2.1"));
    }

    #[test]
    fn s3_all_clients_together_are_bounded_and_those_with_a_key_are_not_locked_out() {
        let door = Door::new();
        let refused: usize = (0..100).map(|n| door.wrong(&format!("198.51.100.{n}"), 5)).sum();
        assert_eq!(refused, 200);
        assert!(door.is_let_in("192.0.2.1"));
    }

    #[test]
    fn s3_addresses_of_one_network_and_two_spellings_are_one_client() {
        let door = Door::new();
        assert_eq!(door.wrong("2001:db8::1", 15) + door.wrong("2001:db8::ffff:2", 15), 20);
        assert_eq!(door.wrong("2001:db8:0:1::1", 15), 15);
        let door = Door::new();
        assert_eq!(door.wrong("::ffff:192.0.2.1", 15) + door.wrong("192.0.2.1", 15), 20);
        assert_eq!(door.wrong("hidden", 30), 20, "those whose address is hidden are one");
    }

    #[test]
    fn s3_what_is_refused_for_too_many_is_told_once_and_counted() {
        let mut door = Door::new();
        let verdicts: Vec<_> = (0..50).map(|n| door.knock("192.0.2.1", &format!("wrong{n}"))).collect();
        let told = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::TooMany { first: true, .. })).count();
        assert_eq!(told, 1);
        let Verdict::TooMany { wait, .. } = verdicts[49] else { panic!("{:?}", verdicts[49]) };
        assert_eq!(wait, Duration::from_secs(3));
        door.now = door.now.after(wait);
        assert!(matches!(door.knock("192.0.2.1", "wrong"), Verdict::Refused { unlogged: 30 }));
    }

    #[test]
    fn keys_that_are_replaced_open_nothing_any_more() {
        let door = Door::new();
        assert!(door.is_let_in("192.0.2.1"));
        let next = generate().unwrap();
        door.keys.replace(ApiKeys::new(vec![ApiKey::new("shop", Scope::Read, &next).unwrap()]));
        assert!(!door.is_let_in("192.0.2.1"));
        assert!(matches!(door.knock("192.0.2.1", &next), Verdict::Admitted(_)));
    }

    #[test]
    fn the_memory_of_clients_is_bounded() {
        let door = Door::new();
        for n in 0..MAX_CLIENTS + 10 {
            let address = Ipv6Addr::from_bits((n as u128) << 64).to_string();
            door.knock(&address, "wrong");
        }
        assert!(door.attempts.lock().clients.len() <= MAX_CLIENTS);
    }
}
