//! Passing the audit log on.

use std::sync::{Arc, Mutex};

use cloakroom::{
    Ending, Reason, SignIn,
    sessions::AuditSink,
    store::{AuditQuery, BoxFuture, Logged},
};

use super::world::{world, world_with};

/// Keeps what it takes, and fails on demand.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    events: Vec<String>,
    fails: bool,
}

impl Sink {
    fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().events.clone()
    }

    fn fails(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }
}

impl AuditSink for Sink {
    fn take<'a>(
        &'a self,
        entries: &'a [Logged],
    ) -> BoxFuture<'a, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async {
            let mut taken = self.0.lock().unwrap();
            if taken.fails {
                return Err("the queue is full".into());
            }
            taken.events.extend(
                entries.iter().map(|logged| {
                    format!("{} {}", logged.entry.event, logged.entry.user.as_deref().unwrap_or_default())
                }),
            );
            Ok(())
        })
    }
}

#[tokio::test]
async fn i16_a_sink_gets_every_entry_once_and_again_what_it_could_not_take() {
    let world = world();
    let sink = Sink::default();
    let mut after = None;
    let anna = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.sessions.audit_log().pass(&sink, &mut after).await.unwrap();
    assert_eq!(sink.events(), ["signed_in anna"]);

    world.sessions.start(SignIn::new("bert")).await.unwrap();
    world.sessions.end(anna.id(), &Ending::new(Reason::RevokedByAdmin).by("root")).await.unwrap();
    sink.fails(true);
    let error = world.sessions.audit_log().pass(&sink, &mut after).await.unwrap_err();
    assert!(error.is_retryable() && std::error::Error::source(&error).unwrap().to_string() == "the queue is full");
    sink.fails(false);
    world.sessions.audit_log().pass(&sink, &mut after).await.unwrap();
    world.sessions.audit_log().pass(&sink, &mut after).await.unwrap();
    assert_eq!(sink.events(), ["signed_in anna", "signed_in bert", "ended anna"]);

    // A sink that kept its cursor goes on there, another one reads it all.
    let (resumed, other) = (Sink::default(), Sink::default());
    world.sessions.audit_log().pass(&resumed, &mut after).await.unwrap();
    world.sessions.audit_log().pass(&other, &mut None).await.unwrap();
    assert_eq!((resumed.events().len(), other.events().len()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_log_is_followed_until_the_service_stops() {
    let world = world();
    let sink = Sink::default();
    world.sessions.audit_log().follow(sink.clone(), None).unwrap();
    for user in ["anna", "bert"] {
        world.sessions.start(SignIn::new(user)).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    assert_eq!(sink.events(), ["signed_in anna", "signed_in bert"]);
    world.sessions.shutdown().await;
    world.sessions.start(SignIn::new("carl")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(sink.events().len(), 2);
}

/// Panics at the first entry, before or while it takes it, and passes the others on.
struct Panicking {
    at_once: bool,
    panicked: Mutex<bool>,
    sink: Sink,
}

impl AuditSink for Panicking {
    fn take<'a>(
        &'a self,
        entries: &'a [Logged],
    ) -> BoxFuture<'a, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
        let first = !std::mem::replace(&mut *self.panicked.lock().unwrap(), true);
        assert!(!(first && self.at_once), "the test said so");
        Box::pin(async move {
            assert!(!first, "the test said so");
            self.sink.take(entries).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_is_tried_again() {
    for at_once in [true, false] {
        let world = world();
        let sink = Sink::default();
        let panicking = Panicking { at_once, panicked: Mutex::default(), sink: sink.clone() };
        world.sessions.audit_log().follow(panicking, None).unwrap();
        world.sessions.start(SignIn::new("anna")).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(sink.events(), ["signed_in anna"]);
    }
}

/// A place where nothing can be written.
struct Full;

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_audit_log_is_written_out_as_json_lines() {
    let world = world();
    let anna = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.sessions.start(SignIn::new("bert")).await.unwrap();
    let ending = Ending::new(Reason::RevokedByAdmin).by("root").note("lost \"phone\"");
    world.sessions.end(anna.id(), &ending).await.unwrap();
    let mut lines = Vec::new();
    let query = AuditQuery { user: Some("anna".into()), session: None };
    assert_eq!(world.sessions.audit_log().export(&query, &mut lines).await.unwrap(), 2);
    let lines = String::from_utf8(lines).unwrap();
    let entries: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries[1]["event"], "ended");
    assert_eq!(entries[1]["reason"], "revoked_by_admin");
    assert_eq!(entries[1]["note"], "lost \"phone\"");
    assert_eq!(entries[1]["session"], anna.id().to_string());
    assert!(entries[1]["cursor"].is_string() && entries[1]["at"].is_string() && entries[1]["ip"].is_null());

    assert!(world.sessions.audit_log().export(&query, Full).await.unwrap_err().is_retryable());
}

#[tokio::test]
async fn insert_session_record_runs_the_applications_hook_once_the_session_is_stored() {
    let seen: Arc<Mutex<Vec<Option<Arc<str>>>>> = Arc::default();
    let hook = Arc::clone(&seen);
    let world = world_with(|builder| {
        builder.after_start(move |record| {
            hook.lock().unwrap().push(record.info.user.clone());
            async {}
        })
    });
    world.sessions.start(SignIn::new("anna")).await.unwrap();
    world.sessions.users().disable("bert", None).await.unwrap();
    world.sessions.start(SignIn::new("bert")).await.unwrap_err();
    assert_eq!(*seen.lock().unwrap(), [Some("anna".into())], "not for a refused one");
}
