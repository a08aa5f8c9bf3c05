//! Deciding anew, because what was relied on changed meanwhile.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::sync::{Mutex, MutexGuard};

use crate::{
    change::random_id,
    error::{Error, Result},
    token::SessionId,
};

/// So often is a thing decided; then it is the caller's turn to try again.
const MOST: u32 = 32;

/// Callers that met two conflicts take turns on what they changed: within one process they wait for each other, and only
/// those that come meanwhile are in the way.
pub(super) struct Turns([Mutex<()>; 256]);

impl Turns {
    pub(super) fn new() -> Self {
        Self([const { Mutex::const_new(()) }; 256])
    }

    pub(super) fn at_session(&self, id: SessionId) -> Attempts<'_> {
        self.attempts(id.as_bytes()[SessionId::LEN - 1])
    }

    pub(super) fn at_user(&self, user: &str) -> Attempts<'_> {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        self.attempts(hasher.finish().to_be_bytes()[0])
    }

    fn attempts(&self, place: u8) -> Attempts<'_> {
        Attempts { made: 0, at: &self.0[usize::from(place)], turn: None }
    }
}

/// The attempts at one thing. A caller that has a turn must not wait for another one.
pub(super) struct Attempts<'a> {
    made: u32,
    at: &'a Mutex<()>,
    turn: Option<MutexGuard<'a, ()>>,
}

impl Attempts<'_> {
    /// How many attempts failed.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// Waits until no other caller in this process tries the same.
    pub(super) async fn queue(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.at.lock().await);
        }
    }

    /// Another attempt, if it is not one too many. Waits for a turn after the second, and after more for a moment that is
    /// each time longer: then only other nodes are in the way.
    pub(super) async fn again(&mut self) -> Result<()> {
        self.made += 1;
        match self.made {
            1 => {}
            MOST.. => return Err(Error::Contended { attempts: MOST }),
            _ if self.turn.is_none() => self.queue().await,
            2..8 => tokio::task::yield_now().await,
            _ => Box::pin(tokio::time::sleep(jitter(self.made - 8))).await,
        }
        Ok(())
    }
}

/// Up to 2 ms at first, doubling to 32 ms.
pub(crate) fn jitter(attempt: u32) -> Duration {
    let most = 2_000_u64 << attempt.min(4);
    Duration::from_micros(random_id() % most)
}
