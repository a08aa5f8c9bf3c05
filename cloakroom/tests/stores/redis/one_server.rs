//! One server that is killed, restarted, cut off, stopped or full.

use std::time::Duration;

use cloakroom::{
    Ending, Error, Reason,
    rules::{Loaded, Rules, Updated, Which},
    store::RedisStore,
};

use super::{
    load::{Load, NOW, anonymous, begin, live, setting, settle, sign_in},
    servers::{Server, is_here},
};
use crate::common::{eventually, proxy::Proxy, until};

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_is_lost_when_the_server_is_killed_and_nobody_sees_an_error() {
    if !is_here() {
        return;
    }
    let mut server = Server::start(&DURABLE);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let load = Load::start(&store, 8);
    for _ in 0..3 {
        load.answers(50).await;
        server.kill();
        server.start_again();
    }
    load.answers(50).await;
    assert_eq!(settle(&store, load.stop().await, true).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_connections_that_are_cut_are_not_noticed() {
    if !is_here() {
        return;
    }
    let mut server = Server::start(&DURABLE);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let load = Load::start(&store, 8);
    for _ in 0..20 {
        load.answers(10).await;
        server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    server.signal("TERM");
    server.wait_until_ended();
    server.start_again();
    load.answers(50).await;
    assert_eq!(settle(&store, load.stop().await, true).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_many_writers_of_one_session_repeat_nothing_when_connections_are_cut() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let direct = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let proxy = Proxy::start(server.address().trim_start_matches("redis://").to_owned()).await;
    let store = Rules::on(RedisStore::open(&format!("redis://{}", proxy.address)).await.unwrap());
    let id = begin(&direct, anonymous()).await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..60 {
                    // One that is in doubt may be there or not: once, if it is.
                    match store.update(id, &setting(&format!("{writer}.{n}"), n), NOW).await {
                        Ok(Updated::Applied(_)) | Err(Error::OutcomeUnknown { .. } | Error::Unavailable { .. }) => {}
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    // As often as answers come: a machine that is slow is cut less often.
    let cutting = tokio::spawn(async move {
        let mut cut_at = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if proxy.exchanges() >= cut_at + 20 {
                cut_at = proxy.exchanges();
                proxy.cut_all();
            }
        }
    });
    for writer in writers {
        writer.await.unwrap();
    }
    cutting.abort();
    let record = live(&direct, id).await;
    assert_eq!(usize::try_from(record.info.version).unwrap(), record.data.len(), "each was applied once");
    assert!(record.data.len() > 240, "most were applied at all: {}", record.data.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_its_scripts_is_told_them_again() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let load = Load::start(&store, 8);
    for _ in 0..20 {
        load.answers(10).await;
        assert_eq!(server.ask(&["SCRIPT", "FLUSH", "SYNC"]), "OK");
    }
    assert_eq!(settle(&store, load.stop().await, true).await.len(), 0);
}

/// A store that gives up soon. On a busy machine too soon to be opened at once.
async fn impatient(address: &str) -> Rules {
    eventually(|| async { RedisStore::open(&format!("{address}?timeout_ms=400")).await.ok().map(Rules::on) }).await
}

/// Whether a call was given up when the time was up that an [`impatient`] store has for it.
fn gave_up_in_time<T>(answer: &cloakroom::Result<T>) -> bool {
    matches!(answer, Err(Error::Unavailable { message, .. }) if message.contains("within 400ms"))
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_a_server_that_does_not_answer_is_an_error_and_never_an_empty_session() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    let patient = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let store = impatient(&server.address()).await;
    let id = begin(&patient, sign_in(&patient, "anna")).await;
    let change = setting("a", 1);
    let ending = Ending::new(Reason::SignedOut);
    let other = begin(&patient, anonymous()).await;
    let which = Which::Ids(vec![other]);

    server.signal("STOP");
    let (loaded, updated, ended, created) =
        tokio::join!(store.load(id, NOW), store.update(id, &change, NOW), store.end(&which, &ending, NOW), async {
            store.create(&sign_in(&store, "anna"), NOW).await
        },);
    assert!(gave_up_in_time(&loaded), "{loaded:?}");
    assert!(matches!(updated, Err(Error::OutcomeUnknown { .. })), "{updated:?}");
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "it had only looked: {ended:?}");
    assert!(matches!(created, Err(Error::OutcomeUnknown { .. })), "{created:?}");

    server.signal("CONT");
    // What was under way may have happened; asked again, it has happened once.
    let again = patient.update(id, &change, NOW).await.unwrap();
    assert!(matches!(again, Updated::Applied(record) if record.info.version == 1));
    assert_eq!(live(&patient, id).await.info.version, 1);
    patient.end(&Which::Ids(vec![other]), &ending, NOW).await.unwrap();
    assert!(matches!(patient.load(other, NOW).await.unwrap(), Loaded::Ended(_)));
    // The one that gave up goes on as well.
    eventually(|| async { store.load(id, NOW).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_unavailable_after_the_timeout() {
    if !is_here() {
        return;
    }
    let mut server = Server::start(&[]);
    let store = impatient(&server.address()).await;
    server.kill();
    let updated = store.update(anonymous().record.info.id, &setting("a", 1), NOW).await;
    // It was never sent, or the connection broke as it was: both may be said, and neither is an answer.
    assert!(updated.unwrap_err().is_retryable());
    let loaded = store.load(anonymous().record.info.id, NOW).await;
    assert!(gave_up_in_time(&loaded), "{loaded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_takes_nothing_new_but_lets_sessions_end() {
    if !is_here() {
        return;
    }
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let id = begin(&store, sign_in(&store, "anna")).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);

    let refused = store.create(&sign_in(&store, "anna"), NOW).await;
    let Err(Error::Unavailable { message, .. }) = &refused else { panic!("{refused:?}") };
    assert!(message.contains("maxmemory"), "{message}");
    assert!(matches!(store.update(id, &setting("a", 1), NOW).await, Err(Error::Unavailable { .. })));
    assert_eq!(live(&store, id).await.info.version, 0, "it is readable, and nothing is half-written");
    store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_evicts_or_was_emptied_cannot_be_used() {
    if !is_here() {
        return;
    }
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let store = Rules::on(RedisStore::open(&server.address()).await.unwrap());
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }) && error.to_string().contains("noeviction"), "{error:?}");

    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert!(store.ping().await.unwrap().is_some());
    server.ask(&["FLUSHALL"]);
    let error = store.ping().await.unwrap_err().to_string();
    assert!(error.contains("emptied"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_too_few_replicas_have_is_said_to_be_in_doubt() {
    if !is_here() {
        return;
    }
    let server = Server::start(&[]);
    // What is in doubt is so before the time for a call is up, which is long enough for any machine.
    let store =
        Rules::on(RedisStore::open(&format!("{}?wait_replicas=1&timeout_ms=60000", server.address())).await.unwrap());
    let create = sign_in(&store, "anna");
    let created = store.create(&create, NOW).await;
    let Err(Error::OutcomeUnknown { after }) = &created else { panic!("{created:?}") };
    assert!(*after < Duration::from_mins(1), "it waited for an answer: {after:?}");
    // It is there, but who answers for it?
    let id = create.record.info.id;
    assert_eq!(live(&store, id).await.info.user.as_deref(), Some("anna"));
    assert!(matches!(store.update(id, &setting("a", 1), NOW).await, Ok(Updated::Applied(_))), "changes do not wait");

    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    until(|| replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    begin(&store, sign_in(&store, "anna")).await;
    let ended = store.end(&Which::Ids(vec![id]), &Ending::new(Reason::SignedOut), NOW).await;
    assert!(ended.is_ok(), "{ended:?}");
}
