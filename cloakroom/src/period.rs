//! Time spans, as people write them.

use std::time::Duration;

use crate::error::{Error, Result};

/// Reads a time span: numbers with their units (`90m`, `1h30m`, `7d`; days, hours, minutes and seconds), or `HH:MM` or
/// `HH:MM:SS`, hours as many as it takes: `240:00:00` is ten days.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(cloakroom::period::parse_period("240:00:00")?, Duration::from_secs(864_000));
/// assert_eq!(cloakroom::period::parse_period("0:30")?, Duration::from_secs(1_800));
/// assert_eq!(cloakroom::period::parse_period("1h30m")?, Duration::from_secs(5_400));
/// assert!(cloakroom::period::parse_period("0:60").is_err());
/// assert!(cloakroom::period::parse_period("90").is_err(), "90 what?");
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

/// A time that passed, rounded for people: to milliseconds, and from a second on to tenths.
pub(crate) fn rounded(time: Duration) -> String {
    let tenths = (time.as_millis() + 50) / 100;
    match (time.as_micros() + 500) / 1000 {
        0 => "less than 1 ms".into(),
        millis @ 1..950 => format!("{millis} ms"),
        _ if tenths.is_multiple_of(10) => format!("{} s", tenths / 10),
        _ => format!("{}.{} s", tenths / 10, tenths % 10),
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
}
