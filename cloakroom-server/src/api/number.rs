//! Adding to numbers without losing a digit: integers stay integers.

use cloakroom::Json;

/// Why two numbers have no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSum {
    /// One of them is no number.
    NotANumber,
    /// It would be larger than can be written.
    Overflow,
}

/// The sum of two JSON numbers. Exact for integers, within 128 bits; in floating point if either has a fraction or an
/// exponent.
pub(super) fn sum(a: &Json, b: &Json) -> Result<Json, NoSum> {
    let text = match (Number::read(a)?, Number::read(b)?) {
        (Number::Integer(a), Number::Integer(b)) => a.checked_add(b).ok_or(NoSum::Overflow)?.to_string(),
        (a, b) => {
            let sum = a.float() + b.float();
            if !sum.is_finite() {
                return Err(NoSum::Overflow);
            }
            return Json::encode(&sum).map_err(|_| NoSum::Overflow);
        }
    };
    Ok(Json::from_stored(text))
}

#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    fn read(json: &Json) -> Result<Self, NoSum> {
        let text = json.as_str();
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Err(NoSum::NotANumber);
        }
        if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
            return text.parse().map(Self::Integer).map_err(|_| NoSum::Overflow);
        }
        text.parse().map(Self::Float).map_err(|_| NoSum::NotANumber)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum with a fraction is a float, as in every language clients use"
    )]
    fn float(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(a: &str, b: &str) -> Result<String, NoSum> {
        let json = |text| Json::from_text(text).unwrap();
        sum(&json(a), &json(b)).map(|sum| sum.as_str().to_owned())
    }

    #[test]
    fn integers_are_added_exactly() {
        for (a, b, sum) in [
            ("0", "1", "1"),
            ("5", "-7", "-2"),
            ("9007199254740993", "2", "9007199254740995"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("-9223372036854775808", "-1", "-9223372036854775809"),
        ] {
            assert_eq!(add(a, b).unwrap(), sum);
        }
        assert_eq!(add(&i128::MAX.to_string(), "1"), Err(NoSum::Overflow));
        assert_eq!(add("1", &format!("{}0", i128::MAX)), Err(NoSum::Overflow));
    }

    #[test]
    fn fractions_are_added_as_floats() {
        assert_eq!(add("1.5", "2").unwrap(), "3.5");
        assert_eq!(add("1e2", "0.25").unwrap(), "100.25");
        assert_eq!(add("1e308", "1e308"), Err(NoSum::Overflow));
        assert_eq!(add("1e400", "-1"), Err(NoSum::Overflow));
    }

    #[test]
    fn only_numbers_can_be_added() {
        for other in ["\"1\"", "null", "true", "[1]", "{}"] {
            assert_eq!(add(other, "1"), Err(NoSum::NotANumber));
            assert_eq!(add("1", other), Err(NoSum::NotANumber));
        }
    }
}
