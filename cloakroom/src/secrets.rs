//! Which secrets open a session: the current one, its predecessors while their grace lasts, and how the reuse of a
//! dead one is noticed.

use std::time::Duration;

use crate::{clock::Timestamp, token::Digest};

/// Digests of a session's current secret and of the last few before it.
///
/// A rotation makes a new secret current. Its predecessor keeps working until the grace ends, and the grace starts only
/// when the successor is first presented: a client whose answer was lost still holds the predecessor, and is served.
/// A predecessor presented after its grace means that two parties hold the session's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// The secret that was issued last.
    pub current: Digest,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// How often the secret was replaced. Together with the version it orders two states of a record.
    pub rotations: u32,
    /// Earlier secrets, newest first, at most [`PREDECESSORS`](Self::PREDECESSORS).
    pub predecessors: Vec<Predecessor>,
}

/// A secret that was replaced by a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its digest.
    pub digest: Digest,
    /// Until when it is served; `None` while its successor was not presented yet, [`WITHDRAWN`](Self::WITHDRAWN) if
    /// it never was after its successor was issued.
    pub grace_ends: Option<Timestamp>,
}

/// What presenting a secret means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    /// The current secret.
    Current,
    /// The current secret, and a predecessor still waits to hear of it: its grace must start now.
    Successor,
    /// A predecessor, still served.
    Predecessor,
    /// A predecessor that was taken back: it opens nothing any more. Its holder was given something else in its
    /// place, so it is evidence of nothing.
    Withdrawn,
    /// A predecessor whose grace is over: somebody else holds the session's newer token, or this one was stolen.
    Reused,
    /// Never issued, or so long ago that it is forgotten.
    Unknown,
}

impl Secrets {
    /// How many predecessors are kept for grace and reuse detection.
    pub const PREDECESSORS: usize = 4;

    /// The secrets of a new session.
    pub fn new(current: Digest, now: Timestamp) -> Self {
        Self { current, issued_at: now, rotations: 0, predecessors: Vec::new() }
    }

    /// What it means that a client presents `secret`.
    pub fn present(&self, secret: &Digest, now: Timestamp) -> Presented {
        if *secret == self.current {
            let waiting = self.predecessors.iter().any(|predecessor| predecessor.grace_ends.is_none());
            return if waiting { Presented::Successor } else { Presented::Current };
        }
        match self.predecessors.iter().find(|predecessor| predecessor.digest == *secret) {
            Some(predecessor) if predecessor.grace_ends == Some(Predecessor::WITHDRAWN) => Presented::Withdrawn,
            Some(predecessor) if predecessor.served(now) => Presented::Predecessor,
            Some(_) => Presented::Reused,
            None => Presented::Unknown,
        }
    }

    /// Notes that the current secret was presented: predecessors that waited for it are served until `grace_ends`.
    /// Says whether anything changed.
    pub fn confirm(&mut self, grace_ends: Timestamp) -> bool {
        let mut changed = false;
        for predecessor in &mut self.predecessors {
            if predecessor.grace_ends.is_none() {
                predecessor.grace_ends = Some(grace_ends);
                changed = true;
            }
        }
        changed
    }

    /// Makes `successor` current on behalf of a client that presented `presented`. Says whether it did: one that
    /// holds a predecessor already has a successor, unless that one was issued longer than `grace` ago and never
    /// presented, which means its answer was lost. Said again after a cut connection, it says yes and changes nothing.
    pub fn rotate(&mut self, presented: &Digest, successor: Digest, grace: Duration, now: Timestamp) -> bool {
        if successor == self.current {
            return true;
        }
        match self.present(presented, now) {
            Presented::Current | Presented::Successor => {
                self.confirm(now.after(grace));
                self.predecessors.insert(0, Predecessor { digest: self.current, grace_ends: None });
                self.predecessors.truncate(Self::PREDECESSORS);
            }
            Presented::Predecessor if self.answer_was_lost(presented, grace, now) => {}
            Presented::Predecessor | Presented::Withdrawn | Presented::Reused | Presented::Unknown => return false,
        }
        self.current = successor;
        self.issued_at = now;
        self.rotations += 1;
        true
    }

    /// Takes back every earlier secret: none is served from now on.
    pub fn withdraw_predecessors(&mut self) {
        for predecessor in &mut self.predecessors {
            predecessor.grace_ends = Some(Predecessor::WITHDRAWN);
        }
    }

    fn answer_was_lost(&self, presented: &Digest, grace: Duration, now: Timestamp) -> bool {
        let newest = self.predecessors.first();
        newest.is_some_and(|newest| newest.digest == *presented && newest.grace_ends.is_none())
            && now.since(self.issued_at) >= grace
    }
}

impl Predecessor {
    /// The end of a grace that there never was.
    pub const WITHDRAWN: Timestamp = Timestamp::EPOCH;

    fn served(&self, now: Timestamp) -> bool {
        self.grace_ends.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn l3_a_predecessor_is_served_until_the_grace_that_starts_when_its_successor_is_presented() {
        let mut secrets = Secrets::new(digest(1), at(0));
        assert!(secrets.rotate(&digest(1), digest(2), GRACE, at(10)));
        // The answer with the successor may be under way for as long as it likes.
        assert_eq!(secrets.present(&digest(1), at(10_000)), Presented::Predecessor);
        assert_eq!(secrets.present(&digest(2), at(10_000)), Presented::Successor);
        assert!(secrets.confirm(at(10_000).after(GRACE)));
        assert!(!secrets.confirm(at(20_000)), "the grace starts once");
        assert_eq!(secrets.present(&digest(2), at(10_000)), Presented::Current);
        assert_eq!(secrets.present(&digest(1), at(10_029)), Presented::Predecessor);
        assert_eq!(secrets.present(&digest(1), at(10_030)), Presented::Reused);
        assert_eq!(secrets.present(&digest(9), at(10_030)), Presented::Unknown);
    }

    #[test]
    fn l2_a_withdrawn_secret_is_dead_at_once_and_no_evidence_of_theft() {
        let mut secrets = Secrets::new(digest(1), at(0));
        assert!(secrets.rotate(&digest(1), digest(2), GRACE, at(10)));
        assert!(secrets.rotate(&digest(2), digest(3), GRACE, at(10)));
        secrets.withdraw_predecessors();
        for dead in [1, 2] {
            assert_eq!(secrets.present(&digest(dead), at(10)), Presented::Withdrawn);
            assert!(!secrets.rotate(&digest(dead), digest(4), GRACE, at(1000)));
        }
        assert_eq!(secrets.present(&digest(3), at(10)), Presented::Current, "nobody waits for a grace");
        assert!(secrets.rotate(&digest(3), digest(4), GRACE, at(11)));
        assert_eq!(secrets.present(&digest(3), at(11)), Presented::Predecessor);
        assert_eq!(secrets.present(&digest(2), at(1000)), Presented::Withdrawn);
    }

    #[test]
    fn l4_the_losers_of_a_concurrent_rotation_keep_a_working_secret() {
        let mut secrets = Secrets::new(digest(1), at(0));
        assert!(secrets.rotate(&digest(1), digest(2), GRACE, at(10)));
        assert!(!secrets.rotate(&digest(1), digest(3), GRACE, at(10)));
        assert_eq!(secrets.current, digest(2));
        assert_eq!(secrets.present(&digest(1), at(10)), Presented::Predecessor);
        let before = secrets.clone();
        assert!(secrets.rotate(&digest(1), digest(2), GRACE, at(11)), "the winner's retry");
        assert_eq!(secrets, before);
    }

    #[test]
    fn l3_a_lost_answer_lets_the_predecessor_rotate_again() {
        let mut secrets = Secrets::new(digest(1), at(0));
        assert!(secrets.rotate(&digest(1), digest(2), GRACE, at(10)));
        assert!(secrets.rotate(&digest(1), digest(3), GRACE, at(40)));
        assert_eq!(secrets.present(&digest(3), at(40)), Presented::Successor);
        assert_eq!(secrets.present(&digest(1), at(40)), Presented::Predecessor);
        // The lost secret never arrived anywhere, so it is not evidence of theft.
        assert_eq!(secrets.present(&digest(2), at(40)), Presented::Unknown);
    }

    #[test]
    fn l3_two_rotations_in_a_row_still_give_the_first_secret_its_grace() {
        let mut secrets = Secrets::new(digest(1), at(0));
        assert!(secrets.rotate(&digest(1), digest(2), GRACE, at(10)));
        assert!(secrets.rotate(&digest(2), digest(3), GRACE, at(11)));
        assert_eq!(secrets.present(&digest(1), at(40)), Presented::Predecessor);
        assert_eq!(secrets.present(&digest(1), at(41)), Presented::Reused);
        assert_eq!(secrets.present(&digest(2), at(41)), Presented::Predecessor);
    }

    #[test]
    fn only_the_last_few_predecessors_are_kept() {
        let mut secrets = Secrets::new(digest(0), at(0));
        for n in 1..=6 {
            assert!(secrets.rotate(&digest(n - 1), digest(n), GRACE, at(i64::from(n))));
        }
        assert_eq!(secrets.predecessors.len(), Secrets::PREDECESSORS);
        assert_eq!(secrets.present(&digest(0), at(6)), Presented::Unknown);
        assert_eq!(secrets.rotations, 6);
    }
}
