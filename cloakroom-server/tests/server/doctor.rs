//! `cloakroom doctor`, and servers whose clock is off.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::common::{agent, binary::Directory, send};
use cloakroom::{Clock, Sessions, Timestamp, clock::SystemClock, store};
use cloakroom_server::{ApiKeys, Server};
use http::Method;
use needs::Port;
use rusqlite::Connection;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn doctor_finds_names_and_repairs_what_is_wrong() {
    let directory = Directory::new();
    for user in ["anna", "ben"] {
        directory.run(&["start", "--user", user, "--data", r#"{"a":1}"#, "--store", "sqlite:cloakroom.db"]).expect(0);
    }
    let sound = directory.run(&["doctor", "sqlite:cloakroom.db"]).expect(0);
    assert!(sound.out.lines().all(|line| !line.starts_with("error")), "{sound:?}");
    assert!(sound.out.contains("integrity") && sound.out.contains("Nothing is wrong"), "{sound:?}");
    assert_eq!(directory.run(&["doctor"]).expect(0).out, sound.out, "the server's own store is meant");

    {
        let db = Connection::open(directory.path("cloakroom.db")).unwrap();
        db.execute_batch("DROP INDEX slot_by_user; UPDATE slot SET user_id = 'zoe' WHERE user_id = 'anna'").unwrap();
    }
    let found = directory.run(&["doctor", "sqlite:cloakroom.db"]).expect(6);
    assert!(found.out.contains("slot_by_user is gone") && found.out.contains("--repair"), "{found:?}");
    assert!(found.out.contains("\n2 things are wrong.") && found.err.contains("not sound"), "{found:?}");
    let found = json(&directory.run(&["doctor", "sqlite:cloakroom.db", "--json"]).expect(6).out);
    assert_eq!(found["sound"], false);
    let findings = found["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["severity"] == "error" && finding["repaired"] == false), "{found}");

    let repaired = directory.run(&["doctor", "sqlite:cloakroom.db", "--repair"]).expect(0).out;
    assert!(repaired.contains("\nNothing is wrong, 2 repaired"), "{repaired}");
    assert!(repaired.lines().filter(|line| line.starts_with("repaired")).count() == 2, "{repaired}");
    let sound = json(&directory.run(&["doctor", "sqlite:cloakroom.db", "--json"]).expect(0).out);
    assert_eq!(sound["sound"], true);
    let list = directory.run(&["list", "--json", "--store", "sqlite:cloakroom.db"]).expect(0).out;
    assert_eq!(json(&list)["sessions"].as_array().unwrap().len(), 2, "nobody was signed out");
}

#[test]
fn t7_a_store_that_cannot_be_reached_is_told_and_no_password_is() {
    let directory = Directory::new();
    let free = Port::take().unwrap();
    let port = free.number();
    for store in [
        format!("postgres://app:s3cr3t@127.0.0.1:{port}/db"),
        format!("postgres://127.0.0.1:{port}/db?user=app&password=s3cr3t"),
        format!("mysql://app:s3cr3t@127.0.0.1:{port}/db"),
        format!("redis://app:s3cr3t@127.0.0.1:{port}?timeout_ms=300"),
    ] {
        let refused = directory.run(&["doctor", &store]).expect(3);
        assert!(refused.err.contains(&port.to_string()) && refused.err.contains("firewall"), "{refused:?}");
        let told = directory.run(&["doctor", &store, "--json"]).expect(3);
        assert_eq!(json(&told.out)["sound"], false);
        for text in [refused.err, refused.out, told.err, told.out] {
            assert!(!text.contains("s3cr3t"), "{text}");
        }
    }
    assert!(directory.run(&["doctor", "mongodb://db"]).expect(2).err.contains("sqlite:FILE"));
    std::fs::write(directory.path("notes.db"), "this is no database, and somebody needs it as it is").unwrap();
    assert!(directory.run(&["doctor", "sqlite:notes.db"]).expect(3).err.contains("notes.db"));
}

#[test]
fn doctor_makes_no_store_and_migrates_none() {
    let directory = Directory::new();
    for store in ["sqlite:typo.db", "file:typo"] {
        let refused = directory.run(&["doctor", store, "--repair"]).expect(3);
        assert!(refused.err.contains("there is no store yet"), "{refused:?}");
    }
    assert!(directory.files().is_empty());
}

/// The system's clock, and how far off.
#[derive(Clone, Debug)]
struct Shifted(Arc<AtomicI64>);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().as_millis() + self.0.load(Ordering::SeqCst))
    }
}

#[test]
fn i5_a_server_whose_clock_is_off_is_not_ready() {
    let Some(redis) = needs::variable("CLOAKROOM_TEST_REDIS_URL") else { return };
    let prefix = format!("clock{}-{}:", std::process::id(), SystemClock.now().as_millis());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shift = Shifted(Arc::default());
    let (address, _serving) = runtime.block_on(async {
        let store = store::open(&format!("{redis}?prefix={prefix}")).await.unwrap();
        let sessions = Sessions::builder(store).clock(shift.clone()).without_upkeep().build().unwrap();
        let listener = cloakroom_server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(sessions, ApiKeys::new(Vec::new()));
        (address, tokio::spawn(cloakroom_server::run(listener, server, std::future::pending())))
    });
    let get = |path: &str| send(&agent(), &format!("http://{address}{path}"), None, Method::GET, "");
    assert!(!get("/metrics").expect(200).text.contains("cloakroom_clock_offset_seconds"), "it was not measured yet");
    for (millis, status, told) in
        [(0, 200, "ready"), (60_000, 503, "ahead of"), (-60_000, 503, "behind"), (0, 200, "ready")]
    {
        shift.0.store(millis.into(), Ordering::SeqCst);
        let answer = get("/readyz").expect(status);
        assert!(answer.text.contains(told), "{answer:?}");
        if status == 503 {
            assert_eq!(answer.at("/code"), "clock_skew");
            assert!(answer.text.contains("synchronise"), "{answer:?}");
        }
        let metrics = get("/metrics").expect(200).text;
        let line = metrics.lines().find_map(|line| line.strip_prefix("cloakroom_clock_offset_seconds ")).unwrap();
        let offset: f64 = line.parse().unwrap();
        assert!((offset - f64::from(millis) / 1000.0).abs() < 2.0, "{line}");
    }
}
