//! The project's pages say what is so: tests they name exist, requirements are all there, links lead somewhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::workspace::root;

/// Pages whose tables end in a column that names the tests which prove a row.
const PROVEN: [&str; 3] = ["docs/security.md", "docs/coming-from-frappe.md", "docs/coming-from-cherrypy.md"];

#[test]
fn every_row_is_proven_by_tests_that_exist_or_says_not_yet() {
    let tests = tests();
    for page in PROVEN {
        let text = read(page);
        let rows: Vec<_> = text.lines().filter_map(|line| Some((line, proof(line)?))).collect();
        assert!(rows.len() > 20, "{page} has its tables: {}", rows.len());
        for (row, proof) in rows {
            let named: Vec<_> = quoted(proof).filter(|name| is_test_name(name)).collect();
            for name in &named {
                assert!(tests.contains(*name), "{page}: there is no test {name}\n{row}");
            }
            let honest = !named.is_empty() || proof.to_lowercase().contains("not yet") || proof.contains("No test");
            assert!(honest, "{page}: neither a test nor why there is none\n{row}");
        }
    }
}

#[test]
fn the_table_of_tests_lists_every_check_and_none_that_is_not_there() {
    let (page, list) = (read("docs/stores/tests.md"), read("cloakroom/src/testing/list.rs"));
    let checks = list.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once("::"));
    let checks: Vec<_> = checks.map(|(_, name)| name).filter(|name| is_test_name(name)).collect();
    assert!(checks.len() > 100, "{}", checks.len());
    for check in &checks {
        assert!(page.contains(&format!("| `{check}` |")), "docs/stores/tests.md lacks {check}");
    }
    let tests = tests();
    for name in quoted(&page).filter(|name| is_test_name(name)) {
        assert!(checks.contains(&name) || tests.contains(name), "docs/stores/tests.md: there is no test {name}");
    }
}

#[test]
fn security_lists_every_requirement() {
    let page = read("docs/security.md");
    let listed: Vec<_> = page.lines().filter_map(requirement).collect();
    let groups = [("T", 10), ("L", 5), ("X", 7), ("R", 8), ("C", 11), ("F", 3), ("O", 1), ("S", 6), ("B", 5)];
    let wanted: Vec<_> =
        groups.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}"))).collect();
    assert_eq!(listed, wanted);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut checked = 0;
    for page in files(".", "md") {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !anchor.is_empty() {
                let found = fs::read_to_string(&target).unwrap().lines().any(|line| anchor_of(line) == anchor);
                assert!(found, "{}: {link} leads to no heading", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "links were found: {checked}");
}

/// The last cell of a row of a table whose rows have at least three, unless it is the head or the line below it.
fn proof(line: &str) -> Option<&str> {
    let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let last = cells.last().filter(|_| cells.len() >= 3)?;
    let is_row = *last != "proof" && !last.starts_with("---");
    is_row.then_some(last)
}

fn requirement(line: &str) -> Option<&str> {
    let id = line.strip_prefix("| ")?.split(' ').next()?;
    let number = id.strip_prefix(|letter: char| letter.is_ascii_uppercase())?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Functions of fewer words are parts of the API.
fn is_test_name(text: &str) -> bool {
    text.matches('_').count() >= 3
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Names of all tests: functions that are marked as such, those that macros mark, and the checks of the conformance suite.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files("cloakroom", "rs").into_iter().chain(files("cloakroom-server", "rs")) {
        let text = fs::read_to_string(&file).unwrap();
        let is_list = file.ends_with("testing/list.rs");
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if let Some((_, name)) = line.strip_suffix(',').and_then(|line| line.split_once("::")).filter(|_| is_list) {
                names.insert(name.to_owned());
            }
            // A list of tests that a macro makes.
            let listed = line.strip_suffix(';').map(|line| line.split_once(':').map_or(line, |(name, _)| name));
            if let Some(name) = listed.filter(|name| is_test_name(name)) {
                names.insert(name.to_owned());
            }
            if let Some((_, rest)) = line.split_once("fn ") {
                let name = rest.split('(').next().unwrap_or_default();
                if std::mem::take(&mut marked) {
                    names.insert(name.to_owned());
                }
            } else if line == "#[test]" || line.starts_with("#[tokio::test") {
                marked = true;
            }
        }
    }
    assert!(names.len() > 200, "tests were found: {}", names.len());
    names
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    let lines = text.lines().filter(move |line| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced
    });
    lines.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()))
}

/// The anchor of a heading, as hosts of Markdown make it.
fn anchor_of(line: &str) -> String {
    let Some(heading) = line.strip_prefix('#') else { return String::new() };
    let kept = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|char| char.is_alphanumeric() || *char == '-' || *char == '_').collect()
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Files of the project with this extension, without what was built or installed.
pub(crate) fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root().join(directory), extension, &mut found);
    found
}

fn collect(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}
