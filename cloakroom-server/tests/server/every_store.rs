//! Every command straight on every store: it does its work, says so, and ends in peace.

use std::{io::Read, process::Stdio};

use crate::common::binary::{Directory, Done};
use cloakroom::{Clock, clock::SystemClock};
use serde_json::Value;

/// An address of a place of our own, if there is such a server.
fn place(service: &str, parameter: &str) -> Option<String> {
    let url = needs::variable(&format!("CLOAKROOM_TEST_{service}_URL"))?;
    let name = format!("commands_{}_{}", std::process::id(), SystemClock.now().as_millis());
    let joint = if url.contains('?') { '&' } else { '?' };
    let tail = if parameter == "prefix" && service.starts_with("REDIS") { ":" } else { "" };
    Some(format!("{url}{joint}{parameter}={name}{tail}"))
}

#[test]
fn every_command_works_on_sqlite() {
    works_on(Some("sqlite:cloakroom.db".to_owned()));
}

#[test]
fn every_command_works_on_files() {
    works_on(Some("file:sessions".to_owned()));
}

#[test]
fn every_command_works_on_postgres() {
    works_on(place("POSTGRES", "schema"));
}

#[test]
fn every_command_works_on_mariadb() {
    works_on(place("MARIADB", "prefix"));
}

#[test]
fn every_command_works_on_redis() {
    works_on(place("REDIS", "prefix"));
}

#[test]
fn every_command_works_on_a_redis_cluster() {
    works_on(place("REDIS_CLUSTER", "prefix"));
}

fn works_on(store: Option<String>) {
    let Some(store) = store else { return };
    let directory = Directory::new();
    // Where every command looks for it. An address in an argument would be warned of if it holds a password.
    let run = |input: &str, arguments: &[&str]| {
        let mut command = directory.command(arguments);
        command.env("CLOAKROOM_STORE", &store).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).ok();
        let done = Done::of(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{arguments:?} on {store}: {}", done.out);
        done.out
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));

    assert!(run("", &["migrate", "--dry-run"]).contains("would be made"));
    assert!(run("", &["migrate"]).contains("was made"));
    let id = json(&run("", &["start", "--user", "anna", "--json"]))["session"]["id"].as_str().unwrap().to_owned();
    let token = run("", &["start", "--user", "root"]);
    assert!(run("", &["show", &id]).contains("anna"));
    assert_eq!(run("", &["list"]).lines().count(), 3);
    assert!(run("", &["users", "set", "anna", "--session-limit", "5"]).contains("session limit     5"));
    assert!(run("", &["users", "show", "anna"]).contains("anna"));
    assert!(run("", &["users", "list"]).contains("anna"));
    let acting = run(&token, &["impersonate", "anna", "--reason", "ticket 17"]);
    assert_eq!(run(&acting, &["stop-impersonating"]).trim().len(), 67);
    assert!(run("", &["clear-sessions", "anna", "--dry-run"]).ends_with("would end\n"));
    assert!(run("", &["audit", "--all"]).lines().count() >= 4);
    let cursor =
        json(run("", &["audit", "--all", "--json"]).lines().next().unwrap())["cursor"].as_str().unwrap().to_owned();
    assert!(run("", &["doctor"]).contains("Nothing is wrong"));
    assert!(run("", &["copy", "sqlite:copy.db", "--dry-run"]).contains("would be made"));
    assert!(run("", &["copy", "sqlite:copy.db"]).contains("sessions "));
    assert!(run("", &["revoke", &id]).contains("ended: revoked_by_admin"));
    assert_eq!(run("", &["reap"]), "0 expired and ended\n");
    assert!(run("", &["users", "delete", "anna"]).contains("anna deleted"));

    // Until its reader has gone.
    let mut command = directory.command(&["watch", "--after", &cursor]);
    let mut watch =
        command.env("CLOAKROOM_STORE", &store).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 20];
    let mut out = watch.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    run("", &["start", "--user", "ben"]);
    let watched = Done::of(watch.wait_with_output().unwrap()).expect(0);
    assert_eq!(watched.err, "");

    let key = run("", &["key", "--name", "shop", "--scope", "read"]);
    let key = key.lines().next().unwrap().rsplit(' ').next().unwrap();
    let server = directory.serve_with(&[], &[("CLOAKROOM_STORE", &store), ("CLOAKROOM_API_KEY", key)]);
    assert_eq!(server.terminate(), Some(0));
    assert!(!directory.log().contains("panicked"), "{}", directory.log());
}
