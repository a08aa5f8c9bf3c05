//! How strongly a person proved who they are, and what a session may make of it.

use std::time::Duration;

/// An authentication assurance level of NIST SP 800-63B-4, which bounds how long a session may live before its user
/// proves again who they are (sections 2.1.3, 2.2.3 and 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assurance {
    /// At most 30 days; no bound on idleness.
    Aal1,
    /// At most 24 hours, idle at most 1 hour.
    Aal2,
    /// At most 12 hours, idle at most 15 minutes.
    Aal3,
}

impl Assurance {
    /// Every level, the lowest first.
    pub const ALL: &[Self] = &[Self::Aal1, Self::Aal2, Self::Aal3];

    /// The level's number, 1 to 3, as stores and the API keep it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Aal1 => 1,
            Self::Aal2 => 2,
            Self::Aal3 => 3,
        }
    }

    /// The level of a number; `None` if there is none.
    pub fn from_number(number: impl TryInto<u8>) -> Option<Self> {
        let number = number.try_into().ok()?;
        Self::ALL.iter().copied().find(|level| level.number() == number)
    }

    /// The longest absolute lifetime.
    pub const fn max_absolute(self) -> Duration {
        match self {
            Self::Aal1 => Duration::from_hours(30 * 24),
            Self::Aal2 => Duration::from_hours(24),
            Self::Aal3 => Duration::from_hours(12),
        }
    }

    /// The longest idle timeout, if there is a bound.
    pub const fn max_idle(self) -> Option<Duration> {
        match self {
            Self::Aal1 => None,
            Self::Aal2 => Some(Duration::from_hours(1)),
            Self::Aal3 => Some(Duration::from_mins(15)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_numbers_that_lead_back_to_them() {
        for level in Assurance::ALL {
            assert_eq!(Assurance::from_number(level.number()), Some(*level));
        }
        assert_eq!([0, 4, -1, 257].map(Assurance::from_number), [None; 4]);
    }
}
