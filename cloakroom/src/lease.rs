//! A lock on a session, as its record keeps it: a lease with a fencing number.
//!
//! A lock excludes lockers alone. Whoever holds it writes with the number the lease was granted under, and a write whose
//! lease ran out is refused; whoever does not lock writes as ever, and endings ask nobody. A holder that crashed
//! delays others until its lease runs out.

use std::time::Duration;

use crate::clock::Timestamp;

/// The state of a session's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Of the last grant; each grant's is one higher. Zero if the session was never locked.
    pub number: u64,
    /// When it runs out, or when it was given back.
    pub until: Timestamp,
}

impl Lease {
    /// Whether somebody holds the lock.
    pub fn is_held(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Grants the lock, unless somebody holds it. Says whether it did; the number is then the grant's.
    pub fn take(&mut self, lease: Duration, now: Timestamp) -> bool {
        if self.is_held(now) {
            return false;
        }
        *self = Self { number: self.number + 1, until: now.after(lease) };
        true
    }

    /// Gives the holder of grant `number` more time, counted from now. Says whether it still held the lock.
    pub fn renew(&mut self, number: u64, lease: Duration, now: Timestamp) -> bool {
        let held = self.permits(number, now);
        if held {
            self.until = self.until.max(now.after(lease));
        }
        held
    }

    /// Takes the lock back from the holder of grant `number`. Says whether it still held it.
    pub fn release(&mut self, number: u64, now: Timestamp) -> bool {
        let held = self.permits(number, now);
        if held {
            self.until = now;
        }
        held
    }

    /// Whether the holder of grant `number` may still write.
    pub fn permits(&self, number: u64, now: Timestamp) -> bool {
        self.number == number && self.is_held(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn i12_a_lease_excludes_until_it_runs_out_or_is_given_back() {
        let mut lease = Lease::default();
        assert!(lease.take(SECOND, at(1000)) && lease.number == 1);
        assert!(!lease.take(SECOND, at(1999)));
        assert!(lease.take(SECOND, at(2000)) && lease.number == 2);
        assert!(!lease.release(1, at(2001)), "its lease ran out");
        assert!(!lease.permits(1, at(2001)) && lease.permits(2, at(2001)));
        assert!(lease.release(2, at(2001)));
        assert!(!lease.permits(2, at(2001)));
        assert!(lease.take(SECOND, at(2001)) && lease.number == 3);
        assert!(lease.renew(3, SECOND, at(2500)) && lease.until == at(3500));
        assert!(!lease.renew(3, SECOND, at(3500)));
    }
}
