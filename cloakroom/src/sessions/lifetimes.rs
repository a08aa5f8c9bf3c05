//! How long sessions live.

use std::time::Duration;

use super::sign_in::AbsoluteEnd;
use crate::{
    assurance::Assurance,
    clock::Timestamp,
    error::{Error, Result},
    period::format_period,
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// How long sessions live, by default and at most.
///
/// ```
/// use std::time::Duration;
/// use cloakroom::Lifetimes;
///
/// let lifetimes = Lifetimes::default();
/// assert_eq!(lifetimes.idle, Duration::from_mins(60));
/// assert_eq!(lifetimes.absolute, Some(Duration::from_hours(24)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// How long a session may go unused. Default 60 minutes.
    pub idle: Duration,
    /// How long a signed-in session may live at all; `None` for as long as it is used. Default 24 hours.
    pub absolute: Option<Duration>,
    /// `idle` of a sign-in that asks to be remembered. Default 240 hours.
    pub remember_idle: Duration,
    /// `absolute` of a sign-in that asks to be remembered. Default 30 days.
    pub remember_absolute: Option<Duration>,
    /// The authentication assurance level whose bounds hold for every session. Default none.
    pub assurance: Option<Assurance>,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            idle: HOUR,
            absolute: Some(DAY),
            remember_idle: 240 * HOUR,
            remember_absolute: Some(30 * DAY),
            assurance: None,
        }
    }
}

impl Lifetimes {
    /// As long as a level allows, and never longer: a sign-in that asks for more is refused.
    pub fn nist(level: Assurance) -> Self {
        let defaults = Self::default();
        let idle = level.max_idle();
        Self {
            idle: idle.unwrap_or(defaults.idle),
            absolute: Some(level.max_absolute()),
            remember_idle: idle.unwrap_or(defaults.remember_idle),
            remember_absolute: Some(level.max_absolute()),
            assurance: Some(level),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.check_idle(Some(self.idle))?;
        self.check_idle(Some(self.remember_idle))?;
        self.check_absolute(self.absolute)?;
        self.check_absolute(self.remember_absolute)
    }

    pub(super) fn check_idle(&self, idle: Option<Duration>) -> Result<()> {
        if idle.is_some_and(|idle| idle.as_millis() == 0) {
            return Err(too_short("idle timeout"));
        }
        match self.assurance.and_then(|level| Some((level, level.max_idle()?))) {
            Some((level, most)) if idle.is_none_or(|idle| idle > most) => Err(too_long("idle timeout", level, most)),
            _ => Ok(()),
        }
    }

    pub(super) fn check_absolute(&self, absolute: Option<Duration>) -> Result<()> {
        if absolute.is_some_and(|absolute| absolute.as_millis() == 0) {
            return Err(too_short("absolute lifetime"));
        }
        match self.assurance {
            Some(level) if absolute.is_none_or(|absolute| absolute > level.max_absolute()) => {
                Err(too_long("absolute lifetime", level, level.max_absolute()))
            }
            _ => Ok(()),
        }
    }

    /// The deadlines of a session that starts `now`, from what its start asks for.
    pub(crate) fn deadlines(&self, asked: &Asked, now: Timestamp) -> Result<(Option<Duration>, Option<Timestamp>)> {
        let idle = asked.idle.unwrap_or(if asked.remember { self.remember_idle } else { self.idle });
        let absolute = if asked.remember { self.remember_absolute } else { self.absolute };
        let ends_at = match asked.end {
            AbsoluteEnd::At(at) if at <= now => {
                let problem = format!("{at} has passed already; it is {now}");
                return Err(Error::InvalidArgument { what: "ends_at", problem });
            }
            AbsoluteEnd::At(at) => Some(at),
            AbsoluteEnd::Configured | AbsoluteEnd::Assurance if asked.signed_in => {
                absolute.map(|absolute| now.after(absolute))
            }
            AbsoluteEnd::Configured | AbsoluteEnd::Assurance | AbsoluteEnd::Never => None,
        };
        self.check_idle(Some(idle))?;
        if asked.signed_in {
            self.check_absolute(ends_at.map(|at| at.since(now)))?;
        }
        Ok((Some(idle), ends_at))
    }
}

/// What a start asks of its lifetimes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) signed_in: bool,
    pub(crate) remember: bool,
    pub(crate) idle: Option<Duration>,
    pub(crate) end: AbsoluteEnd,
}

fn too_short(what: &'static str) -> Error {
    Error::InvalidArgument { what, problem: "it must be at least one millisecond".into() }
}

fn too_long(what: &'static str, level: Assurance, most: Duration) -> Error {
    Error::InvalidArgument { what, problem: format!("{level:?} allows at most {} (h:m:s)", format_period(most)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x3_presets_bound_every_lifetime() {
        for level in [Assurance::Aal1, Assurance::Aal2, Assurance::Aal3] {
            let preset = Lifetimes::nist(level);
            preset.check().unwrap();
            let longer = Lifetimes { absolute: Some(level.max_absolute() + Duration::from_secs(1)), ..preset };
            assert!(longer.check().is_err());
            assert!(Lifetimes { remember_absolute: None, ..preset }.check().is_err());
            if let Some(idle) = level.max_idle() {
                assert!(Lifetimes { remember_idle: idle + Duration::from_secs(1), ..preset }.check().is_err());
            }
        }
        assert_eq!(Lifetimes::nist(Assurance::Aal3).idle.as_secs(), 15 * 60);
    }

    #[test]
    fn x3_a_start_that_asks_for_more_than_its_level_is_refused() {
        let now = Timestamp::from_millis(1_000_000);
        let preset = Lifetimes::nist(Assurance::Aal2);
        let asked = Asked { signed_in: true, ..Asked::default() };
        assert!(preset.deadlines(&asked, now).is_ok());
        assert!(preset.deadlines(&Asked { idle: Some(2 * HOUR), ..asked }, now).is_err());
        assert!(preset.deadlines(&Asked { end: AbsoluteEnd::At(now.after(2 * DAY)), ..asked }, now).is_err());
        let unbounded = Lifetimes::default();
        assert!(unbounded.deadlines(&Asked { end: AbsoluteEnd::At(now), ..asked }, now).is_err());
    }
}
