//! I12: exclusive access to a session, for those who ask for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cloakroom::{Error, Session, SignIn, testing::Call, web::Locking};

use super::{
    framework::{Router, get, layer},
    world::{Browser, World, spied, world},
};

async fn two_requests(world: &World) -> (Session, Session) {
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let first = Session::resume(&world.sessions, &token).await.unwrap();
    (first, Session::resume(&world.sessions, &token).await.unwrap())
}

#[tokio::test]
async fn acquire_lock_and_release_lock_give_one_request_after_the_other() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let inside = Arc::new(AtomicU32::new(0));
    let requests = (0..20).map(|_| {
        let (sessions, token, inside) = (world.sessions.clone(), token.clone(), Arc::clone(&inside));
        tokio::spawn(async move {
            let session = Session::resume(&sessions, &token).await.unwrap();
            let lock = session.lock().await.unwrap();
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "nobody else");
            // Read and set, which without a lock would lose some.
            let count = session.get::<u32>("count").unwrap().unwrap_or(0);
            tokio::task::yield_now().await;
            session.set("count", &(count + 1)).unwrap();
            inside.fetch_sub(1, Ordering::SeqCst);
            drop(lock);
            session.commit().await.unwrap();
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    let session = Session::resume(&world.sessions, &token).await.unwrap();
    assert_eq!(session.get::<u32>("count").unwrap(), Some(20));
}

#[tokio::test(start_paused = true)]
async fn lock_timeout_is_an_error_that_says_how_long_was_waited() {
    let world = world();
    let (first, second) = two_requests(&world).await;
    let held = first.lock().await.unwrap();
    let Err(Error::Locked { waited }) = second.lock().await else { panic!("it is held") };
    assert_eq!(waited, Duration::from_secs(10));
    drop(held);
    let _lock = second.lock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn i12_a_holder_that_crashed_delays_others_by_its_lease_at_most() {
    let (world, spy) = spied();
    let (first, second) = two_requests(&world).await;
    let held = first.lock().await.unwrap();
    first.set("a", &1).unwrap();
    // The holder dies: what it held is never given back.
    std::mem::forget(held);
    second.lock().await.unwrap_err();
    world.clock.advance(Duration::from_secs(30));
    let lock = second.lock().await.unwrap();
    second.set("a", &2).unwrap();
    second.commit().await.unwrap();
    drop(lock);

    // It was not dead after all, only slow: it cannot write any more.
    assert!(matches!(first.commit().await, Err(Error::LockLost)));
    assert!(matches!(first.modify_now("b", |n: Option<u8>| n.unwrap_or(0)).await, Err(Error::LockLost)));
    assert_eq!(second.get("a").unwrap(), Some(2));
    assert!(spy.counts().read > 2);
}

#[tokio::test]
async fn i12_what_was_decided_under_a_lock_is_written_under_it_though_the_guard_is_gone() {
    let world = world();
    let (first, second) = two_requests(&world).await;
    let lock = first.lock().await.unwrap();
    first.set("a", &1).unwrap();
    drop(lock);
    world.clock.advance(Duration::from_secs(31));
    let _lock = second.lock().await.unwrap();
    assert!(matches!(first.commit().await, Err(Error::LockLost)));
}

#[tokio::test]
async fn i12_taking_a_lock_shows_the_session_as_it_is_by_then() {
    let world = world();
    let (first, second) = two_requests(&world).await;
    first.set("a", &1).unwrap();
    first.commit().await.unwrap();
    assert_eq!(second.get::<u8>("a").unwrap(), None);
    let _lock = second.lock().await.unwrap();
    assert_eq!(second.get::<u8>("a").unwrap(), Some(1));
}

#[tokio::test]
async fn i12_a_lock_excludes_neither_those_who_do_not_ask_nor_endings() {
    let world = world();
    let (first, second) = two_requests(&world).await;
    let lock = first.lock().await.unwrap();
    lock.renew().await.unwrap();
    second.set("a", &1).unwrap();
    second.commit().await.unwrap();
    second.sign_out().await.unwrap();
    first.set("b", &1).unwrap();
    assert!(matches!(first.commit().await, Err(Error::Ended(_))));
    assert!(matches!(lock.renew().await, Err(Error::LockLost)));
}

/// How many requests of one session are in the handler at a time, at most.
async fn at_most_inside(locking: Locking, asks: bool) -> u32 {
    let world = world();
    let browser = world.signed_in("anna").await;
    let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let work = {
        let most = Arc::clone(&most);
        move || {
            let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
            async move {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    let work_unasked = work.clone();
    let app = Router::new()
        .route("/asks", get(move |_: Session| work()))
        .route("/asks-not", get(work_unasked))
        .layer(layer(&world.sessions).locking(locking));
    let path = if asks { "/asks" } else { "/asks-not" };
    let requests = (0..10).map(|_| {
        let mut browser = Browser { app: app.clone(), ..browser.clone() };
        tokio::spawn(async move { browser.text(path).await })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    most.load(Ordering::SeqCst)
}

#[tokio::test]
async fn locking_implicit_locks_when_the_session_is_asked_for() {
    assert_eq!(at_most_inside(Locking::Implicit, true).await, 1);
    assert!(at_most_inside(Locking::Implicit, false).await > 1);
}

#[tokio::test]
async fn locking_early_locks_before_the_handler_runs() {
    assert_eq!(at_most_inside(Locking::Early, true).await, 1);
    assert_eq!(at_most_inside(Locking::Early, false).await, 1);
}

#[tokio::test]
async fn locking_explicit_locks_nothing_by_itself() {
    assert!(at_most_inside(Locking::Explicit, true).await > 1);
}

#[tokio::test]
async fn a_visitor_of_whom_nothing_is_stored_has_nobody_to_exclude() {
    let (world, spy) = spied();
    let session = Session::anonymous(&world.sessions);
    session.lock().await.unwrap().renew().await.unwrap();
    assert_eq!(spy.counts().total(), 0);
    spy.fail_next(Call::Head);
    session.sign_in(SignIn::new("anna")).await.unwrap();
    assert!(matches!(session.lock().await, Err(Error::Unavailable { .. })));
}
