//! Text of strangers made safe to show, on a terminal and in a log: user names, user agents and notes hold whatever people
//! put into them. Everything that this program shows goes through here.

use std::{borrow::Cow, fmt::Write};

use crate::redact;

/// The text on one line, without secrets of a store's address, with escapes such as `\u{202e}` for all that a terminal
/// would obey, show in another order or not show at all.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    escaped(redact::hidden(text), |text, c| match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c => write!(text, "{}", c.escape_unicode()).expect("writing to a string cannot fail"),
    })
}

/// The same JSON, in which strings hold such characters as escapes of JSON.
pub(crate) fn shown_json(json: &str) -> Cow<'_, str> {
    escaped(redact::hidden(json), |text, c| match c {
        // These can only stand between values.
        '\n' | '\r' | '\t' => text.push(' '),
        c => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("writing to a string cannot fail");
            }
        }
    })
}

fn escaped(text: Cow<'_, str>, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) { safe.push(c) } else { escape(&mut safe, c) }
    }
    safe.into()
}

/// Whether a character is shown as itself, in its place.
fn is_plain(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    !is_ignorable(c) && (c.is_alphanumeric() || is_printable(c))
}

/// The standard library knows which characters are controls, formats, blanks, separators, private or unassigned.
fn is_printable(c: char) -> bool {
    // Behind a letter, marks such as accents are as good as any.
    let mut text = String::from('a');
    text.push(c);
    text.escape_debug().eq(text.chars())
}

/// Default_Ignorable_Code_Point of Unicode 16: no width, and no sign of being there. Some of them count as letters.
fn is_ignorable(c: char) -> bool {
    matches!(
        u32::from(c),
        0xAD | 0x34F
            | 0x61C
            | 0x115F..=0x1160
            | 0x17B4..=0x17B5
            | 0x180B..=0x180F
            | 0x200B..=0x200F
            | 0x202A..=0x202E
            | 0x2060..=0x206F
            | 0x3164
            | 0xFE00..=0xFE0F
            | 0xFEFF
            | 0xFFA0
            | 0xFFF0..=0xFFF8
            | 0x1_BCA0..=0x1_BCA3
            | 0x1_D173..=0x1_D17A
            | 0xE_0000..=0xE_0FFF
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What strangers may try, each with what it must be shown as.
    const TRICKS: [(&str, &str); 12] = [
        ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
        ("a\nb", "a\\nb"),
        ("a\rb", "a\\rb"),
        ("anna\u{202e}toor", "anna\\u{202e}toor"),
        ("a\u{2028}b\u{2029}c", "a\\u{2028}b\\u{2029}c"),
        ("an\u{200b}na\u{feff}", "an\\u{200b}na\\u{feff}"),
        ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
        ("a\u{7f}\u{9b}31m", "a\\u{7f}\\u{9b}31m"),
        ("a\u{3164}b\u{115f}", "a\\u{3164}b\\u{115f}"),
        ("a\u{e0041}b", "a\\u{e0041}b"),
        ("anna\u{a0}", "anna\\u{a0}"),
        ("a\u{ad}b\u{fe0f}", "a\\u{ad}b\\u{fe0f}"),
    ];

    #[test]
    fn what_a_terminal_obeys_reorders_or_hides_is_escaped() {
        for (text, wanted) in TRICKS {
            assert_eq!(shown(text), wanted);
        }
    }

    #[test]
    fn names_of_every_script_are_shown_as_they_are() {
        for name in
            ["Åsa Öst", "José", "e\u{301}", "王小明", "محمد", "नरेन्द्र", "עדי", "CORP\\anna", "a🦀b", "ไทย", "“q”"]
        {
            assert_eq!(shown(name), name);
            assert!(matches!(shown(name), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        for (text, _) in TRICKS {
            let json = serde_json::json!({ "user": text, text: [1] });
            let safe = shown_json(&json.to_string()).into_owned();
            assert!(safe.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), json);
        }
        assert_eq!(shown_json("{\"a\":\r\n 1}"), "{\"a\":   1}");
    }
}
