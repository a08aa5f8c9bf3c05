//! How long sessions live.

use std::time::Duration;

use crate::{Assurance, Error, Result, Timestamp};

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
        let ends_at = match asked.ends_at {
            Some(at) if at <= now => {
                let problem = format!("{at} has passed already; it is {now}");
                return Err(Error::InvalidArgument { what: "ends_at", problem });
            }
            Some(at) => Some(at),
            None if asked.signed_in && !asked.never_ends => absolute.map(|absolute| now.after(absolute)),
            None => None,
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
    pub(crate) ends_at: Option<Timestamp>,
    /// Whether it is to have no absolute end.
    pub(crate) never_ends: bool,
}

fn too_short(what: &'static str) -> Error {
    Error::InvalidArgument { what, problem: "it must be at least one millisecond".into() }
}

fn too_long(what: &'static str, level: Assurance, most: Duration) -> Error {
    Error::InvalidArgument { what, problem: format!("{level:?} allows at most {} (h:m:s)", format_period(most)) }
}

/// Reads a time span: numbers with their units (`90m`, `1h30m`, `7d`; days, hours, minutes and seconds), or `HH:MM` or
/// `HH:MM:SS`, hours as many as it takes: `240:00:00` is ten days.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(cloakroom::parse_period("240:00:00")?, Duration::from_secs(864_000));
/// assert_eq!(cloakroom::parse_period("0:30")?, Duration::from_secs(1_800));
/// assert_eq!(cloakroom::parse_period("1h30m")?, Duration::from_secs(5_400));
/// assert!(cloakroom::parse_period("0:60").is_err());
/// assert!(cloakroom::parse_period("90").is_err(), "90 what?");
/// # Ok::<(), cloakroom::Error>(())
/// ```
pub fn parse_period(text: &str) -> Result<Duration> {
    let wrong = |problem: &str| Error::InvalidArgument {
        what: "time span",
        problem: format!("{text:?} {problem}; write 90m, 1h30m or 7d, or HH:MM or HH:MM:SS, such as 240:00:00"),
    };
    let seconds = if text.contains(':') { clock_seconds(text) } else { unit_seconds(text) }.map_err(wrong)?;
    match Duration::from_secs(seconds) {
        Duration::ZERO => Err(wrong("is no time at all")),
        period => Ok(period),
    }
}

/// Of `HH:MM` or `HH:MM:SS`.
fn clock_seconds(text: &str) -> std::result::Result<u64, &'static str> {
    let parts: Vec<u64> = text.split(':').map(number).collect::<std::result::Result<_, _>>()?;
    let (hours, minutes, seconds) = match parts[..] {
        [hours, minutes] => (hours, minutes, 0),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return Err("does not have two or three parts"),
    };
    if minutes >= 60 || seconds >= 60 {
        return Err("has 60 or more minutes or seconds");
    }
    Ok(hours * 3600 + minutes * 60 + seconds)
}

/// Of numbers with units, the largest first.
fn unit_seconds(text: &str) -> std::result::Result<u64, &'static str> {
    let mut units = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)].into_iter();
    let mut seconds = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or("has a number without a unit")?;
        let (digits, after) = rest.split_at(end);
        let unit = after.chars().next().unwrap_or_default();
        let (_, each) =
            units.find(|(name, _)| *name == unit).ok_or("has a unit that is none of d, h, m and s, in this order")?;
        seconds += number(digits)? * each;
        rest = &after[unit.len_utf8()..];
    }
    Ok(seconds)
}

fn number(digits: &str) -> std::result::Result<u64, &'static str> {
    let is_number = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().ok_or("has a part that is not a number")
}

/// Writes a lifetime as `HH:MM:SS`, the form [`parse_period`] reads. Fractions of a second are left out.
pub fn format_period(period: Duration) -> String {
    let seconds = period.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_expiry_in_seconds_reads_the_seeds_form() {
        for (text, seconds) in [
            ("240:00:00", 864_000),
            ("240:00", 864_000),
            ("00:00:01", 1),
            ("1:02:03", 3723),
            ("90m", 5400),
            ("1h", 3600),
            ("1h30m", 5400),
            ("10d", 864_000),
            ("1d1s", 86_401),
        ] {
            assert_eq!(parse_period(text).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in ["", "1", "1:2:3:4", "1:60", "1:00:60", "-1:00", "a:00", "1: 00", "+1:00", "0:00", "9999999:00"]
            .into_iter()
            .chain(["90", "1h 30m", "m", "1m1h", "1h1h", "0s", "1w", "1.5h", "-1h", "1H", "9999999s", "1é"])
        {
            let error = parse_period(bad).unwrap_err().to_string();
            assert!(error.contains("HH:MM"), "{bad}: {error}");
        }
    }

    #[test]
    fn get_expiry_period_prints_what_it_reads() {
        for text in ["240:00:00", "00:00:01", "01:02:03"] {
            assert_eq!(format_period(parse_period(text).unwrap()), text);
        }
    }

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
        assert!(preset.deadlines(&Asked { ends_at: Some(now.after(2 * DAY)), ..asked }, now).is_err());
        let unbounded = Lifetimes::default();
        assert!(unbounded.deadlines(&Asked { ends_at: Some(now), ..asked }, now).is_err());
    }
}
