//! Deciding anew, because what was relied on changed meanwhile.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::sync::{Mutex, MutexGuard};

use crate::{Error, Result, SessionId, change::random_id};

/// So often is a thing decided; then it is the caller's turn to try again.
const MOST: u32 = 32;

/// Turns of those who met two conflicts. Within one process they wait for each other, and so all but those who come
/// meanwhile are in nobody's way.
static TURNS: [Mutex<()>; 256] = [const { Mutex::const_new(()) }; 256];

/// The attempts at one thing. Whoever has a turn must not wait for another one.
pub(super) struct Attempts {
    made: u32,
    place: usize,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Attempts {
    pub(super) fn at_session(id: SessionId) -> Self {
        Self { made: 0, place: usize::from(id.as_bytes()[SessionId::LEN - 1]), turn: None }
    }

    pub(super) fn at_user(user: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        Self { made: 0, place: usize::from(hasher.finish().to_be_bytes()[0]), turn: None }
    }

    /// How many attempts failed.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// Waits until nobody else in this process tries the same.
    pub(super) async fn queue(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(TURNS[self.place % TURNS.len()].lock().await);
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
