//! The command line, as scripts and people use it.

use std::{fs, net::TcpListener};

use crate::common::binary::{Directory, Done, is_whole};
use http::Method;
use needs::Port;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn without_any_setting_it_serves_on_a_database_and_a_key_of_its_own() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    assert_eq!(server.ready, format!("cloakroom ready on {}, store sqlite:cloakroom.db\n", server.url));
    server.call(Method::POST, "/v1/sessions", "{}").expect(201);
    #[cfg(unix)]
    for file in ["cloakroom.key", "cloakroom.db"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(directory.path(file)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let key = server.key().to_owned();
    assert_eq!(server.terminate(), Some(0));
    assert!(!directory.log().contains(&key));

    // The next start keeps both.
    let server = directory.serve(&[]);
    assert_eq!(server.key(), key);
    assert_eq!(server.call(Method::GET, "/v1/sessions", "").expect(200).at("/sessions").as_array().unwrap().len(), 1);
}

#[test]
fn sessions_are_started_shown_listed_and_ended_over_the_api_and_on_the_store() {
    for over_the_api in [true, false] {
        let directory = Directory::new();
        let server = over_the_api.then(|| directory.serve(&[]));
        let target = match &server {
            Some(server) => ["--server", server.url.as_str()],
            None => ["--store", "sqlite:cloakroom.db"],
        };
        let run = |arguments: &[&str]| directory.run(&[arguments, &target[..]].concat());

        let started = run(&["start", "--user", "anna", "--full-name", "Anna Berg", "--data", r#"{"a":1}"#, "--json"]);
        let started = json(&started.expect(0).out);
        let id = started["session"]["id"].as_str().unwrap();
        assert_eq!(started["token"].as_str().unwrap().len(), 67);
        let token = run(&["start", "--user", "ben"]).expect(0).out;
        assert_eq!((token.len(), token.lines().count()), (68, 1), "a pipe gets the token alone");

        let shown = run(&["show", id]).expect(0).out;
        for line in ["user              anna", "full name         Anna Berg", "data              a = 1"] {
            assert!(shown.contains(line), "{shown}");
        }
        assert_eq!(json(&run(&["show", id, "--json"]).expect(0).out)["session"]["data"]["a"], 1);

        let listed = run(&["list"]).expect(0).out;
        assert!(listed.starts_with("ID ") && listed.contains("anna") && listed.contains("ben"), "{listed}");
        let listed = json(&run(&["list", "--user", "anna", "--json"]).expect(0).out);
        assert_eq!(listed["sessions"].as_array().unwrap().len(), 1);
        assert_eq!(run(&["list", "--limit", "1"]).expect(0).out.lines().count(), 2);

        let preview = run(&["revoke", "--user", "ben", "--dry-run"]).expect(0).out;
        assert!(preview.ends_with("1 would end\n"), "{preview}");
        assert!(run(&["revoke", "--user", "ben"]).expect(0).out.ends_with("1 ended\n"));
        assert_eq!(run(&["reap"]).expect(0).out, "0 expired and ended\n");

        let revoked = run(&["revoke", id, "--note", "lost phone"]).expect(0).out;
        assert!(revoked.contains("ended: revoked_by_admin"), "{revoked}");
        assert!(run(&["revoke", id]).expect(0).out.contains("had ended before"));
        let gone = run(&["show", id]).expect(4);
        assert!(gone.err.contains("Revoked by an administrator"), "{gone:?}");
        assert_eq!(json(&run(&["show", id, "--json"]).expect(4).out)["reason"], "revoked_by_admin");
        run(&["show", "unknown"]).expect(4);
        run(&["revoke", "unknown"]).expect(4);

        let audit = run(&["audit", "--session", id]).expect(0).out;
        assert!(audit.contains("signed_in") && audit.contains("note: lost phone"), "{audit}");
        let entries = run(&["audit", "--json"]).expect(0).out;
        assert_eq!(entries.lines().map(|line| json(line)["event"].clone()).filter(|event| event == "ended").count(), 2);
    }
}

#[test]
fn an_id_that_begins_with_a_hyphen_is_an_id() {
    let directory = Directory::new();
    let store = ["--store", "sqlite:cloakroom.db"];
    let run = |arguments: &[&str]| directory.run(&[arguments, &store[..]].concat());
    run(&["start"]).expect(0);
    for beginning in ["-E", "-h", "-V", "--", "-_"] {
        let id = format!("{beginning}{}", "A".repeat(22));
        let gone = run(&["show", &id]).expect(4);
        assert!(gone.out.is_empty(), "{gone:?}");
        run(&["revoke", &id, "--note", "lost phone"]).expect(4);
        run(&["revoke", "--user", "anna", "--except", &id]).expect(0);
        run(&["audit", "--session", &id]).expect(0);
    }
    run(&["list", "--no-such-flag"]).expect(2);
}

#[test]
fn r4_an_administrator_ends_all_from_the_command_line() {
    let directory = Directory::new();
    let store = ["--store", "sqlite:cloakroom.db"];
    let run = |arguments: &[&str]| directory.run(&[arguments, &store[..]].concat());
    for user in ["anna", "ben", "cleo"] {
        run(&["start", "--user", user]).expect(0);
    }
    assert!(run(&["revoke", "--all"]).expect(0).out.ends_with("3 ended\n"));
    assert_eq!(run(&["list"]).expect(0).out.lines().count(), 1);
    run(&["revoke"]).expect(2);
    run(&["revoke", "--all", "--user", "anna"]).expect(2);
}

#[test]
fn a_port_in_use_is_told_with_its_own_exit_code() {
    let directory = Directory::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = directory.run(&["serve", "--listen", &address]).expect(5);
    assert!(refused.err.contains(&address) && refused.err.contains("--listen"), "{refused:?}");
    assert!(refused.out.is_empty());
    assert!(directory.files().is_empty(), "nothing is made before it can serve");
}

#[test]
fn a_database_that_cannot_be_used_is_told_and_left_alone() {
    let directory = Directory::new();
    let garbage = "this is no database, and somebody needs it as it is. ".repeat(100);
    fs::write(directory.path("notes.db"), &garbage).unwrap();
    fs::create_dir(directory.path("folder.db")).unwrap();
    for store in ["sqlite:notes.db", "sqlite:folder.db", "sqlite:missing/folder/a.db"] {
        for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["list"]] {
            let refused = directory.run(&[command, &["--store", store]].concat()).expect(3);
            assert!(refused.err.contains(&store[7..]) && refused.out.is_empty(), "{refused:?}");
        }
    }
    assert_eq!(fs::read_to_string(directory.path("notes.db")).unwrap(), garbage);
    assert!(!directory.path("cloakroom.key").exists());
    let refused = directory.run(&["serve", "--store", "mongodb://db", "--listen", "127.0.0.1:0"]).expect(2);
    assert!(refused.err.contains("sqlite:FILE"), "{refused:?}");
}

#[test]
fn a_database_that_is_locked_is_unavailable_for_the_time_and_loses_nothing() {
    let directory = Directory::new();
    let server = directory.serve(&[]);
    let started = server.call(Method::POST, "/v1/sessions", "{}").expect(201);
    let path = format!("/v1/sessions/{}", started.text_of("/session/id"));

    // Another program at work on the file. Locks are a process's own, and the server is another one.
    let other = rusqlite::Connection::open(directory.path("cloakroom.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = server.call(Method::PATCH, &path, r#"{"set":{"a":1}}"#).expect(503);
    assert_eq!(refused.header("retry-after"), "1");
    server.call(Method::GET, &path, "").expect(200);
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);

    server.call(Method::PATCH, &path, r#"{"set":{"b":2}}"#).expect(200);
    assert_eq!(server.call(Method::GET, &path, "").at("/session/data/b"), 2);
    assert_eq!(server.terminate(), Some(0));
    assert!(is_whole(&directory.path("cloakroom.db")));
}

#[test]
fn settings_come_from_flags_over_the_environment_over_the_file() {
    let directory = Directory::new();
    let key = directory.run(&["key", "--name", "shop", "--scope", "write"]).expect(0).out;
    let text = key.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    let lines = &key[key.find("[[keys]]").unwrap()..];
    assert!(!lines.contains(&text));
    fs::write(directory.path("cloakroom.toml"), format!("store = \"sqlite:of-file.db\"\nidle = \"0:30\"\n\n{lines}"))
        .unwrap();

    let server = directory.serve(&[]);
    assert!(server.ready.ends_with("store sqlite:of-file.db\n"), "{}", server.ready);
    assert!(!directory.path("cloakroom.key").exists(), "a key is configured");
    let started = Done::of(
        directory
            .command(&["start", "--user", "anna", "--json", "--server", &server.url])
            .env("CLOAKROOM_API_KEY", &text)
            .output()
            .unwrap(),
    );
    assert_eq!(json(&started.expect(0).out)["session"]["idle_seconds"], 1800);
    let with_key = |key: &str, command: &str| {
        directory.run_reading(&format!("{key}\n"), &[command, "--server", &server.url, "--api-key-file", "-"])
    };
    let refused = with_key(&text, "reap").expect(1);
    assert!(refused.err.contains("scope admin"), "{refused:?}");
    let refused = with_key(&"x".repeat(40), "list").expect(1);
    assert!(refused.err.contains("--api-key-file"), "{refused:?}");
    drop(server);

    let environment = [("CLOAKROOM_STORE", "sqlite:of-environment.db")];
    let server = directory.serve_with(&[], &environment);
    assert!(server.ready.ends_with("store sqlite:of-environment.db\n"), "{}", server.ready);
    drop(server);
    let server = directory.serve_with(&["--store", "memory:"], &environment);
    assert!(server.ready.ends_with("store memory:\n"), "{}", server.ready);
}

#[test]
fn mistakes_in_settings_are_told_by_name() {
    let directory = Directory::new();
    fs::write(directory.path("cloakroom.toml"), "idel = '1:00'\n").unwrap();
    let refused = directory.run(&["serve", "--listen", "127.0.0.1:0"]).expect(2);
    assert!(refused.err.contains("idel") && refused.err.contains("cloakroom.toml"), "{refused:?}");
    fs::remove_file(directory.path("cloakroom.toml")).unwrap();

    directory.run(&["serve", "--config", "missing.toml", "--listen", "127.0.0.1:0"]).expect(2);
    directory.run(&["serve", "--idle", "soon", "--store", "memory:", "--listen", "127.0.0.1:0"]).expect(2);
    directory.run(&["serve", "--log", "cloakroom=loud", "--listen", "127.0.0.1:0"]).expect(2);
    directory.run(&["serve", "--no-such-flag", "--listen", "127.0.0.1:0"]).expect(2);
    let weak = directory
        .command(&["serve", "--store", "memory:", "--listen", "127.0.0.1:0"])
        .env("CLOAKROOM_API_KEY", "secret")
        .output()
        .unwrap();
    let weak = Done::of(weak).expect(2);
    assert!(weak.err.contains("cloakroom key") && !weak.err.contains("secret"), "{weak:?}");
}

#[test]
fn a_server_that_is_not_there_is_told_with_what_to_do() {
    let directory = Directory::new();
    let free = Port::take().unwrap();
    let url = format!("http://127.0.0.1:{}", free.number());
    let refused = directory.run_reading(&"k".repeat(40), &["list", "--server", &url, "--api-key-file", "-"]).expect(3);
    assert!(refused.err.contains(&url) && refused.err.contains("cloakroom serve"), "{refused:?}");
    let refused = directory.run(&["list", "--server", &url]).expect(2);
    assert!(refused.err.contains("cloakroom.key") && refused.err.contains("--store"), "{refused:?}");
}

#[test]
fn help_does_not_show_the_key_in_the_environment() {
    let directory = Directory::new();
    let help = directory.command(&["list", "--help"]).env("CLOAKROOM_API_KEY", "very-secret-key").output().unwrap();
    assert!(!Done::of(help).expect(0).out.contains("very-secret-key"));
}
