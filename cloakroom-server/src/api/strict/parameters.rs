//! Taking a query apart.

use super::{super::problem::Code, Mistake, Path};

/// Names and values in their order, decoded.
pub(super) fn parse(query: &str) -> Result<Vec<(String, String)>, Mistake> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).map_err(|mistake| mistake.at(&Path::Field(&Path::Root, name)))?;
            let value = decoded(value).map_err(|mistake| mistake.at(&Path::Field(&Path::Root, &name)))?;
            Ok((name, value))
        })
        .collect()
}

/// A plus is a blank, as forms write it.
fn decoded(text: &str) -> Result<String, Mistake> {
    let wrong = |problem: &str| Mistake::new(Code::InvalidParameter, problem);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match (first, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = after;
                let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(*high).zip(digit(*low)).map_or(b'%', |(high, low)| high << 4 | low)
            }
            (b'%', _) => return Err(wrong("a % is followed by two hexadecimal digits; write %25 for the sign itself")),
            (byte, _) => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))
}
