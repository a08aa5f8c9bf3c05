//! Text made safe for URLs and headers.

use std::fmt::Write;

/// The text in visible ASCII, all but letters, digits and `-._~` escaped.
pub(crate) fn encoded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            write!(safe, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_for_something_else_is_escaped() {
        assert_eq!(encoded("anna-b.~_9"), "anna-b.~_9");
        assert_eq!(encoded("a b\r\n/ü%"), "a%20b%0D%0A%2F%C3%BC%25");
    }
}
