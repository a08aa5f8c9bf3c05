//! Files of keys that records are sealed with: one a line, the first to write with.

use std::path::{Path, PathBuf};

use crate::private::{self, PrivateFileError};

/// Why keys for records are not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordKeyError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("{}, line {line}: a key is 64 hexadecimal digits, as `openssl rand -hex 32` makes them", path.display())]
    NoKey { path: PathBuf, line: usize },
    #[error("{}: there is no key in it; make one with `openssl rand -hex 32`", path.display())]
    Empty { path: PathBuf },
}

/// The keys in a private file. Empty lines and those that begin with # are none.
pub(crate) fn read(path: &Path) -> Result<Vec<[u8; 32]>, RecordKeyError> {
    let keys = parse(&private::read(path)?).map_err(|line| RecordKeyError::NoKey { path: path.into(), line })?;
    if keys.is_empty() {
        return Err(RecordKeyError::Empty { path: path.into() });
    }
    Ok(keys)
}

/// The number of the first line that is no key is the error.
fn parse(text: &str) -> Result<Vec<[u8; 32]>, usize> {
    let lines = text.lines().map(str::trim).zip(1..);
    let keys = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    keys.map(|(line, number)| key(line).ok_or(number)).collect()
}

fn key(line: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if line.len() != 64 {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(line.as_bytes().chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines_of_hexadecimal_digits_and_the_first_line_that_is_none_is_named() {
        let (one, other) = ("0f".repeat(32), "A0".repeat(32));
        let text = format!("# since autumn\n{one}\n\n  {other}\n# the end");
        assert_eq!(parse(&text), Ok(vec![[0x0f; 32], [0xa0; 32]]));
        for (text, line) in [
            (format!("{one}\n{}", &one[1..]), 2),
            (format!("# one\n{}g", &one[1..]), 2),
            (format!("{one} {other}"), 1),
            (format!("{one}\n{}", "é".repeat(32)), 2),
        ] {
            assert_eq!(parse(&text), Err(line), "{text}");
        }
        assert_eq!(parse("# nothing\n"), Ok(Vec::new()));
    }
}
