//! In the library arrows point one way: a module uses what stands in its own layer or below.

use std::fs;

use crate::workspace::root;

/// The modules of the library, from the ground up. What stands first knows nothing of what follows.
const LAYERS: [(&str, &[&str]); 7] = [
    (
        "words",
        &[
            "admission",
            "assurance",
            "audit",
            "change",
            "client",
            "clock",
            "cookie",
            "csrf",
            "data",
            "ended",
            "error",
            "future",
            "lease",
            "network",
            "period",
            "record",
            "seal",
            "secrets",
            "token",
            "users",
        ],
    ),
    ("stores", &["store"]),
    ("rules", &["rules", "transfer"]),
    ("the service", &["boot", "sessions"]),
    ("a session in use", &["session"]),
    ("the web", &["web"]),
    ("tests", &["testing"]),
];

/// Arrows that point back, and why.
const KNOWN: [(&str, &str, &str); 1] = [("boot", "session", "a provider of boot information is given the session")];

/// Macros, which stand on the front page wherever they are written.
const MACROS: [&str; 4] = ["conformance", "slots", "__each_check", "__each_slot_check"];

#[test]
fn no_arrow_points_back() {
    let mut back = Vec::new();
    let mut arrows = 0;
    for (path, module, text) in sources() {
        for used in uses(&text).into_iter().filter(|used| !MACROS.contains(&used.as_str())) {
            arrows += 1;
            if let Err(problem) = judge(&module, &used) {
                back.push(format!("{path}: {problem}"));
            }
        }
    }
    assert!(arrows > 500, "they are found: {arrows}");
    assert!(back.is_empty(), "{}", back.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    for (path, module, _) in sources() {
        assert!(layer(&module).is_some(), "{path}: {module} stands in no layer");
    }
}

#[test]
fn a_planted_arrow_is_noticed() {
    let planted = "use crate::{\n    record::{Record, SessionInfo},\n    web::cookie::Presented,\n};\n// crate::session::Session\n";
    assert_eq!(uses(planted), ["record", "web"]);
    assert!(judge("store", "record").is_ok() && judge("web", "session").is_ok() && judge("boot", "session").is_ok());
    assert!(judge("store", "web").unwrap_err().contains("points back"));
    assert!(judge("store", "Record").unwrap_err().contains("name its module"));
    assert_eq!(uses("fn f() -> crate::token::Token { crate::sessions::refused() }"), ["token", "sessions"]);
    assert_eq!(uses("#[cfg(test)]\nmod tests {\n    use crate::web;\n}\n"), [""; 0]);
}

/// Whether one module may use another.
fn judge(module: &str, used: &str) -> Result<(), String> {
    let Some(below) = layer(used) else {
        return Err(format!("crate::{used} is a name of the front page: name its module"));
    };
    let is_known = KNOWN.iter().any(|(from, to, _)| *from == module && *to == used);
    if layer(module).is_some_and(|layer| below <= layer) || is_known {
        return Ok(());
    }
    Err(format!("the arrow from {module} to {used} points back"))
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

/// The library's files: their path, the module of the crate they belong to, and their text.
fn sources() -> Vec<(String, String, String)> {
    let source = root().join("cloakroom/src");
    let (mut sources, mut directories) = (Vec::new(), vec![source.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let within = path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
            let module = within.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            let is_tests = within.contains("/tests/") || within.ends_with("/tests.rs");
            if module != "lib" && !is_tests {
                sources.push((within, module, fs::read_to_string(path).unwrap()));
            }
        }
    }
    sources
}

/// The names behind `crate::` in code, without comments and without a module of tests at the end.
fn uses(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (place, _) in code.match_indices("crate::") {
        let is_other =
            code[..place].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$');
        let rest = &code[place + "crate::".len()..];
        match rest.strip_prefix('{') {
            _ if is_other => {}
            Some(list) => used.extend(heads(list)),
            None => used.push(name(rest).to_owned()),
        }
    }
    used
}

/// The first name of each item of a list, up to its closing brace.
fn heads(list: &str) -> Vec<String> {
    let (mut heads, mut depth, mut begins) = (Vec::new(), 0, true);
    for (place, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if depth == 0 && begins && !c.is_whitespace() => {
                heads.push(name(&list[place..]).to_owned());
                begins = false;
            }
            _ => {}
        }
    }
    heads
}

fn name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}
