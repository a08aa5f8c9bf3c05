//! What holds for every command, whichever it is: no output is lost in silence, and nothing of strangers' text reaches a
//! terminal as it is.

use std::{fs::File, process::Stdio};

use crate::common::binary::{Directory, Done};
use http::Method;
use serde_json::Value;

const STORE: [&str; 2] = ["--store", "sqlite:cloakroom.db"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The names of all commands, as help lists them.
fn commands(directory: &Directory) -> Vec<String> {
    let help = directory.run(&["--help"]).expect(0).out;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // What is longer than a line goes on further in.
    let rows = listed.lines().filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let names = rows.filter_map(|row| row.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// A store with a session, an administrator's session and a user in it; commands that print something there.
struct Sample {
    directory: Directory,
    id: String,
    token: String,
    acting: String,
    cursor: String,
}

impl Sample {
    fn new() -> Self {
        let directory = Directory::new();
        let run = |input: &str, arguments: &[&str]| {
            directory.run_reading(input, &[arguments, &STORE].concat()).expect(0).out.trim().to_owned()
        };
        run("", &["users", "set", "anna"]);
        let id = json(&run("", &["start", "--user", "anna", "--json"]))["session"]["id"].as_str().unwrap().to_owned();
        let other = run("", &["start", "--user", "root"]);
        let acting = run(&other, &["impersonate", "anna", "--reason", "ticket 17"]);
        let token = run("", &["start", "--user", "root"]);
        let first = run("", &["audit", "--all", "--json"]);
        let cursor = json(first.lines().next().unwrap())["cursor"].as_str().unwrap().to_owned();
        Self { directory, id, token, acting, cursor }
    }

    /// Each command, what it reads, and whether it takes `--store`.
    fn calls(&self) -> Vec<(Vec<&str>, &str, bool)> {
        let (id, cursor) = (self.id.as_str(), self.cursor.as_str());
        vec![
            (vec!["start", "--user", "ben"], "", true),
            (vec!["show", id], "", true),
            (vec!["change", id, "--touch", "--set", "a=1"], "", true),
            (vec!["list"], "", true),
            (vec!["users", "set", "ben", "--full-name", "Ben"], "", true),
            (vec!["users", "show", "anna"], "", true),
            (vec!["users", "list"], "", true),
            (vec!["impersonate", "anna", "--reason", "ticket 18"], &self.token, true),
            (vec!["stop-impersonating"], &self.acting, true),
            (vec!["clear-sessions", "anna", "--dry-run"], "", true),
            (vec!["reap"], "", true),
            (vec!["audit"], "", true),
            (vec!["watch", "--after", cursor], "", true),
            (vec!["revoke", "--user", "nobody"], "", true),
            (vec!["revoke", id], "", true),
            (vec!["users", "delete", "nobody"], "", true),
            (vec!["doctor", "sqlite:cloakroom.db"], "", false),
            (vec!["migrate", "sqlite:cloakroom.db"], "", false),
            (vec!["copy", "sqlite:cloakroom.db", "sqlite:other.db", "--dry-run"], "", false),
            (vec!["copy", "sqlite:cloakroom.db", "sqlite:other.db"], "", false),
            (vec!["key", "--name", "shop", "--scope", "read"], "", false),
            (vec!["completions", "bash"], "", false),
            (vec!["man"], "", false),
        ]
    }
}

#[test]
fn no_command_loses_its_output_on_a_full_disk_without_saying_so() {
    let sample = Sample::new();
    let named = |command: &str| sample.calls().iter().any(|(arguments, ..)| arguments[0] == command);
    for command in commands(&sample.directory) {
        assert!(named(&command) || command == "serve", "{command} is not tried");
    }
    for as_json in [true, false] {
        // What is used up is made anew.
        let sample = Sample::new();
        for (mut arguments, input, on_store) in sample.calls() {
            arguments.extend(on_store.then_some(STORE).into_iter().flatten());
            let takes_json = !["key", "completions", "man"].contains(&arguments[0]);
            arguments.extend((as_json && takes_json).then_some("--json"));
            let done = sample.directory.run_into("/dev/full", input, &arguments);
            assert_eq!(done.code, 1, "{arguments:?}: {done:?}");
            assert!(
                done.err.contains("standard output") && done.err.contains("No space left"),
                "{arguments:?}: {done:?}"
            );
            assert!(!done.err.contains("panicked"), "{done:?}");
        }
    }
    for asked in ["--help", "--version", "help"] {
        let done = sample.directory.run_into("/dev/full", "", &[asked]).expect(1);
        assert!(done.err.contains("standard output"), "{done:?}");
    }
}

#[test]
fn a_session_whose_token_is_lost_with_the_output_is_ended_and_named() {
    let sample = Sample::new();
    for (arguments, input) in [
        (&["start", "--user", "cleo"][..], ""),
        (&["impersonate", "anna", "--reason", "ticket 18"], &sample.token),
        (&["stop-impersonating"], &sample.acting),
    ] {
        let lost = sample.directory.run_into("/dev/full", input, &[arguments, &STORE].concat()).expect(1);
        let words = lost.err.split(' ').map(|word| word.trim_end_matches(','));
        let id = words.into_iter().find(|word| word.len() == 24).unwrap_or_else(|| panic!("no id: {lost:?}"));
        assert!(lost.err.contains("its token is lost"), "{lost:?}");
        let gone = sample.directory.run(&[&["show", id][..], &STORE].concat()).expect(4);
        assert!(!gone.err.is_empty());
    }
    let named = sample.directory.run_into("/dev/full", "", &[&["users", "set", "dora"][..], &STORE].concat()).expect(1);
    assert!(named.err.contains("the change itself was made"), "{named:?}");
    sample.directory.run(&[&["users", "show", "dora"][..], &STORE].concat()).expect(0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let sample = Sample::new();
    for arguments in [&["list"][..], &["audit", "--json"], &["watch", "--after", &sample.cursor]] {
        let mut command = sample.directory.command(&[arguments, &STORE].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let done = Done::of(child.wait_with_output().unwrap()).expect(0);
        assert_eq!(done.err, "", "{arguments:?}");
    }
}

#[test]
fn messages_that_cannot_be_written_change_no_exit_code() {
    let directory = Directory::new();
    for (arguments, code) in [
        (&["list", "--store", "sqlite:none.db"][..], 3),
        (&["show", "unknown", "--store", "sqlite:cloakroom.db"], 4),
        (&["list", "--no-such-flag"], 2),
        (&["serve", "--idle", "soon"], 2),
        (&["revoke", "unknown", "--store", "sqlite:cloakroom.db"], 4),
    ] {
        directory.run(&[&["start"][..], &STORE].concat()).expect(0);
        let mut command = directory.command(arguments);
        command.stdout(Stdio::piped()).stderr(File::options().write(true).open("/dev/full").unwrap());
        assert_eq!(command.status().unwrap().code(), Some(code), "{arguments:?}");
    }
}

/// What strangers put into names to be taken for others, each a part of one that is refused nowhere.
const TRICKS: [&str; 5] = ["\u{202e}", "\u{2028}", "\u{200b}", "\u{feff}", "\u{2066}"];

/// Nothing but visible characters and line ends.
#[track_caller]
fn assert_harmless(text: &str) {
    let is_harmless = |c: char| c == '\n' || c == ' ' || c.is_ascii_graphic() || "é…".contains(c);
    assert!(text.chars().all(is_harmless), "{text:?}");
}

#[test]
fn names_of_strangers_are_shown_escaped_in_tables_errors_and_the_log() {
    let directory = Directory::new();
    let server = directory.serve(&["--log", "trace"]);
    let user = format!("anné{}toor", TRICKS.concat());
    let body = serde_json::json!({
        "user": user, "full_name": user, "user_type": user, "data": { &*user: user },
        "client": {"ip": "192.0.2.1", "device": user, "user_agent": format!("{user}\u{1b}[31m")},
    });
    let started = server.call(Method::POST, "/v1/sessions", &body.to_string()).expect(201);
    let id = started.text_of("/session/id");
    server.call(Method::PATCH, "/v1/users/dora", &serde_json::json!({ "full_name": user }).to_string()).expect(200);
    let target = ["--server", &server.url];
    let run = |arguments: &[&str]| directory.run(&[arguments, &target].concat());

    for arguments in [
        &["show", &id][..],
        &["list", "--wide"],
        &["list"],
        &["users", "show", "dora"],
        &["users", "list", "--wide"],
        &["audit"],
        &["show", &user],
        &["users", "show", &user],
        &["users", "set", &user, "--network", &user],
        &["clear-sessions", &user, "--dry-run"],
        &["users", "delete", &user],
    ] {
        for json in [false, true] {
            let done = run(&[arguments, if json { &["--json"] } else { &[] }].concat());
            assert_harmless(&done.out);
            assert_harmless(&done.err);
        }
    }
    // JSON still says what is stored.
    let shown = json(&run(&["show", &id, "--json"]).out);
    if shown["session"].is_object() {
        assert_eq!(shown["session"]["user"], *user);
    }
    assert_eq!(json(run(&["audit", "--json", "--all"]).expect(0).out.lines().next().unwrap())["user"], *user);
    let table = run(&["audit", "--all"]).expect(0).out;
    assert!(table.contains("\\u{202e}"), "{table}");

    assert_eq!(server.terminate(), Some(0));
    assert_harmless(&directory.log());
}

#[test]
fn every_member_of_a_session_that_the_api_shows_is_shown_to_people_too() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    let body = r#"{"user":"anna","methods":"pwd otp","level":2,"remember":true,"data":{"cart":["coat"]},
        "client":{"ip":"192.0.2.1","user_agent":"Mozilla/5.0","country":"SE"}}"#;
    let id = server.call(Method::POST, "/v1/sessions", body).expect(201).text_of("/session/id");
    let run = |arguments: &[&str]| directory.run(&[arguments, &["--server", &server.url][..]].concat()).expect(0).out;
    let (people, programs) = (run(&["show", &id]), json(&run(&["show", &id, "--json"])));
    let session = programs["session"].as_object().unwrap();
    assert!(session.len() > 15, "{session:?}");
    let within = session["client"].as_object().unwrap();
    for (name, value) in session.iter().filter(|(name, _)| !["client", "data"].contains(&name.as_str())).chain(within) {
        let label = name.trim_end_matches("_seconds").replace('_', " ");
        let line = people.lines().find(|line| line.starts_with(&format!("{label:<17} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is not shown:\n{people}"));
        if let (Some(text), false) = (value.as_str(), name.ends_with("_at")) {
            assert!(line.ends_with(text), "{line}");
        }
    }
    for line in
        ["methods           pwd otp", "remember          yes", "idle              240:00:00", "country           SE"]
    {
        assert!(people.contains(line), "{people}");
    }
    assert!(people.contains("data              cart = [\"coat\"]"), "{people}");
}

#[test]
fn lists_fit_eighty_columns_unless_they_are_asked_for_in_full() {
    let directory = Directory::new();
    let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36";
    let server = directory.serve(&[]);
    let long = "a-very-long-name-of-a-user-at-a-company@subsidiary.example.com";
    let body = serde_json::json!({"user": long, "client": {"ip": "2001:db8:1111:2222:3333:4444:5555:6666", "user_agent": agent}});
    let id = server.call(Method::POST, "/v1/sessions", &body.to_string()).expect(201).text_of("/session/id");
    let networks = r#"{"full_name": "王小明王小明王小明王小明", "allowed_networks": ["10.0.0.0/8", "2001:db8::/32"]}"#;
    server.call(Method::PATCH, &format!("/v1/users/{long}"), networks).expect(200);
    let run = |arguments: &[&str]| directory.run(&[arguments, &["--server", &server.url][..]].concat()).expect(0).out;
    for arguments in [["list"].as_slice(), &["users", "list"]] {
        let narrow = run(arguments);
        assert_eq!(narrow.lines().count(), 2);
        for line in narrow.lines() {
            let width: usize = line.chars().map(|c| if ('\u{4e00}'..'\u{9fff}').contains(&c) { 2 } else { 1 }).sum();
            assert!(width <= 80, "{width}: {line}");
        }
        assert!(narrow.contains('…'), "{narrow}");
        let wide = run(&[arguments, &["--wide"]].concat());
        assert!(wide.contains(long) && !wide.contains('…'), "{wide}");
    }
    assert!(run(&["list"]).contains(&id), "ids are never cut");
}
