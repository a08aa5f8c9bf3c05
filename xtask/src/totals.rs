//! How many tests passed, failed and were skipped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::{Context, Result};

/// What came of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// As test runners count: skipped tests are among them.
    ended_well: usize,
    /// How many failed.
    pub(crate) failed: usize,
    /// Tests that were skipped, by what they lacked.
    pub(crate) skipped: BTreeMap<String, BTreeSet<String>>,
}

impl Totals {
    /// Adds what a report in the format of JUnit counts.
    pub(crate) fn add_report(&mut self, report: &str) -> Result<()> {
        let unexpected = "the report of the test runner has no totals";
        let (_, root) = report.split_once("<testsuites ").context(unexpected)?;
        let root = root.split('>').next().unwrap_or_default();
        let number = |name: &str| {
            let (_, value) = root.split_once(&format!(" {name}=\""))?;
            value.split('"').next()?.parse::<usize>().ok()
        };
        let [tests, failures, errors] = ["tests", "failures", "errors"].map(number);
        let failed = failures.context(unexpected)? + errors.context(unexpected)?;
        self.ended_well += tests.context(unexpected)?.saturating_sub(failed);
        self.failed += failed;
        Ok(())
    }

    /// Adds what a line of `cargo test` counts, if it is the last one of a program.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let number = |what: &str| {
            let before = counts.split_once(what)?.0;
            before.rsplit([' ', ';']).find(|word| !word.is_empty())?.parse::<usize>().ok()
        };
        self.ended_well += number(" passed").unwrap_or_default();
        self.failed += number(" failed").unwrap_or_default();
    }

    /// Adds the tests that noted that they were skipped, if any did.
    pub(crate) fn add_skipped(&mut self, notes: &Path) {
        let notes = fs::read_to_string(notes).unwrap_or_default();
        for (test, why) in notes.lines().filter_map(|line| line.split_once('\t')) {
            self.skipped.entry(why.to_owned()).or_default().insert(test.to_owned());
        }
    }

    fn count_skipped(&self) -> usize {
        self.skipped.values().flatten().collect::<BTreeSet<_>>().len()
    }

    /// What was skipped and why, for people.
    pub(crate) fn show_skipped(&self) {
        const SHOWN: usize = 3;
        for (why, tests) in &self.skipped {
            let names: Vec<_> = tests.iter().take(SHOWN).map(String::as_str).collect();
            let more = if tests.len() > SHOWN { ", …" } else { "" };
            eprintln!("skipped {}: {why}: {}{more}", count(tests.len(), "test"), names.join(", "));
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.count_skipped();
        let passed = self.ended_well.saturating_sub(skipped);
        write!(f, "{passed} passed, {} failed, {skipped} skipped", self.failed)
    }
}

/// "1 test", "2 tests".
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_counted() {
        let mut totals = Totals::default();
        let report = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="12" failures="2" errors="1" uuid="5" timestamp="" time="0.2">
    <testsuite name="a" tests="12" disabled="0" errors="0" failures="2">"#;
        totals.add_report(report).unwrap();
        assert_eq!(totals.to_string(), "9 passed, 3 failed, 0 skipped");
        assert!(totals.add_report("<testsuites name=\"x\">").is_err());
        assert!(totals.add_report("").is_err());
    }

    #[test]
    fn lines_of_cargo_test_are_counted() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: FAILED. 41 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.2s",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        ] {
            totals.add_line(line);
        }
        assert_eq!(totals.to_string(), "46 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn a_skipped_test_is_not_among_those_that_passed_and_counts_once() {
        let mut totals = Totals::default();
        totals.add_line("test result: ok. 5 passed; 0 failed; 0 ignored");
        let notes = std::env::temp_dir().join(format!("cloakroom-xtask-skipped-{}", std::process::id()));
        fs::write(&notes, "one\tno redis\ntwo\tno redis\none\tno redis\ntwo\tno postgres\n").unwrap();
        totals.add_skipped(&notes);
        fs::remove_file(&notes).unwrap();
        totals.add_skipped(&notes);
        assert_eq!(totals.to_string(), "3 passed, 0 failed, 2 skipped");
        assert_eq!(totals.skipped["no redis"].len(), 2);
    }
}
