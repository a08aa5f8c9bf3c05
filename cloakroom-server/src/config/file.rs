//! The settings file: its mistakes are told with their place.

use std::{fs, path::Path};

use super::{ConfigError, Settings};

/// Mistakes are told without the line itself: it may hold a password.
pub(super) fn parse(file: &Path, text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let (lines, last) =
            before.rsplit_once('\n').map_or((0, before), |(lines, last)| (lines.matches('\n').count() + 1, last));
        let (line, column) = (lines + 1, last.chars().count() + 1);
        ConfigError::File { path: file.into(), line, column, message: error.message().to_owned() }
    })
}

/// Where a setting stands.
pub(super) fn place(file: &Path, text: &str, name: &str) -> String {
    let is_it = |line: &str| line.split_once('=').is_some_and(|(before, _)| before.trim() == name);
    match text.lines().position(is_it) {
        Some(before) => format!("{}, line {}", file.display(), before + 1),
        None => file.display().to_string(),
    }
}

/// Another account could add a key of its own.
#[cfg(unix)]
pub(super) fn check_private(file: &Path) -> Result<(), ConfigError> {
    use std::os::unix::fs::PermissionsExt;

    let wrong = |source| ConfigError::Read { path: file.into(), source };
    let mode = fs::metadata(file).map_err(wrong)?.permissions().mode();
    if mode & 0o002 == 0 {
        return Ok(());
    }
    let problem = format!("may be written by every account (its mode is {:03o}): chmod o-w it", mode & 0o777);
    Err(ConfigError::Unsafe { path: file.into(), problem })
}

#[cfg(not(unix))]
pub(super) fn check_private(_file: &Path) -> Result<(), ConfigError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_with_their_line() {
        let file = Path::new("a.toml");
        for (text, place, told) in [
            ("idel = '1:00'", "a.toml, line 1, column 1", "idel"),
            ("\n# a comment\nidle = 'soon'\n", "a.toml, line 3, column 8", "HH:MM"),
            ("store = 'memory:'\n  absolute = '90'", "line 2, column 14", "without a unit"),
            ("log = 'cloakroom=loud'", "line 1, column 7", "level"),
            ("trusted_proxies = '10.0.0.0/8, nowhere'", "line 1", "nowhere"),
            ("listen = 'here'", "line 1", "localhost:7600"),
            ("\nstore = 'memory:\nidle = '1h'", "line 2", "invalid"),
        ] {
            let error = parse(file, text).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(told), "{text}: {error}");
        }
        let error = parse(file, "stroe = 'postgres://app:s3cr3t@db'").unwrap_err().to_string();
        assert!(error.contains("stroe") && !error.contains("s3cr3t"), "{error}");
    }
}
