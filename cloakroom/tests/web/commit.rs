//! When changes are stored, and when they are not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cloakroom::{Ending, Error, Found, Reason, Session, SignIn};
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    framework::{App, HEAD_RUNS_BODIES, Page, Router, get, layer, plain_answer, send, send_and_leave, serve},
    world::{Browser, NAME, World, world},
};

fn with(world: &World, app: Router) -> Browser {
    Browser { app: app.layer(layer(&world.sessions)), cookie: None }
}

#[tokio::test]
async fn changes_are_there_for_the_next_request() {
    let mut browser = world().browser();
    assert_eq!(browser.text("/get?key=name").await, "-");
    browser.text("/set?key=name&value=Anna").await;
    assert_eq!(browser.text("/get?key=name").await, "Anna");
}

#[tokio::test]
async fn start_as_guest_stores_nothing_until_something_is_put_in() {
    let mut browser = world().browser();
    for path in ["/nothing", "/get?key=a", "/who", "/why"] {
        assert_eq!(browser.get(path).await.set_cookie(), None, "{path}");
    }
    assert!(browser.get("/set?key=a&value=1").await.set_cookie().is_some());
}

#[tokio::test]
async fn i15_a_response_sets_the_cookie_only_when_it_changes() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    for path in ["/nothing", "/get?key=a", "/set?key=a&value=1", "/count", "/count-now", "/me"] {
        assert_eq!(browser.get(path).await.set_cookie(), None, "{path}");
        world.clock.advance(Duration::from_mins(5));
    }
    assert!(browser.get("/rotate").await.set_cookie().is_some());
}

#[tokio::test]
async fn a_server_error_drops_what_is_pending_and_keeps_a_sign_in() {
    let world = world();
    let app = Router::new()
        .route(
            "/fail",
            get(|session: Session| async move {
                session.set("kept", "no").unwrap();
                StatusCode::INTERNAL_SERVER_ERROR
            }),
        )
        .route(
            "/sign-in-and-fail",
            get(|session: Session| async move {
                session.sign_in(SignIn::new("anna")).await.unwrap();
                session.set("kept", "no").unwrap();
                StatusCode::BAD_GATEWAY
            }),
        )
        .merge(super::world::routes());
    let mut browser = with(&world, app);
    assert_eq!(browser.get("/fail").await.set_cookie(), None);
    assert!(browser.get("/sign-in-and-fail").await.set_cookie().is_some());
    assert_eq!(browser.text("/me").await, "anna");
    assert_eq!(browser.text("/get?key=kept").await, "-");
}

#[tokio::test]
async fn a_server_error_keeps_what_is_pending_where_that_is_asked_for() {
    let world = world();
    let app = Router::new().route(
        "/fail",
        get(|session: Session| async move {
            session.set("kept", "yes").unwrap();
            StatusCode::INTERNAL_SERVER_ERROR
        }),
    );
    let app = app.layer(layer(&world.sessions).keep_on_server_error(true));
    let mut browser = Browser { app, cookie: None };
    assert!(browser.get("/fail").await.set_cookie().is_some());
}

#[tokio::test]
async fn a_panic_drops_what_is_pending() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let app = Router::new().route(
        "/panic",
        get(|session: Session| async move {
            session.set("kept", "no").unwrap();
            assert!(!session.is_dirty(), "a handler's own panic");
        }),
    );
    let mut panicking = Browser { app: app.layer(layer(&world.sessions)), ..browser.clone() };
    assert!(tokio::spawn(async move { panicking.get("/panic").await }).await.unwrap_err().is_panic());
    let Found::Live(record) = world.sessions.resume(&browser.token()).await.unwrap() else { panic!("it lives") };
    assert!(record.data.is_empty());
}

#[tokio::test]
async fn a_cancelled_request_stores_nothing() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let entered = Arc::new(Notify::new());
    let signal = Arc::clone(&entered);
    let app = Router::new().route(
        "/slow",
        get(move |session: Session| {
            let signal = Arc::clone(&signal);
            async move {
                session.set("kept", "no").unwrap();
                signal.notify_one();
                std::future::pending::<()>().await;
            }
        }),
    );
    let mut slow = Browser { app: app.layer(layer(&world.sessions)), ..browser.clone() };
    let request = tokio::spawn(async move { slow.get("/slow").await });
    entered.notified().await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    let Found::Live(record) = world.sessions.resume(&browser.token()).await.unwrap() else { panic!("it lives") };
    assert!(record.data.is_empty());
}

/// A handler that waits at a gate, between having its session and changing it.
fn gated(world: &World, browser: &Browser) -> (Browser, Arc<Notify>, Arc<Notify>) {
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (signal, wait) = (Arc::clone(&entered), Arc::clone(&gate));
    let app = Router::new().route(
        "/slow",
        get(move |session: Session| {
            let (signal, wait) = (Arc::clone(&signal), Arc::clone(&wait));
            async move {
                signal.notify_one();
                wait.notified().await;
                session.set("late", "yes")
            }
        }),
    );
    (Browser { app: app.layer(layer(&world.sessions)), ..browser.clone() }, entered, gate)
}

#[tokio::test]
async fn l5_a_slow_handler_cannot_bring_an_ended_session_back() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let (mut slow, entered, gate) = gated(&world, &browser);
    let request = tokio::spawn(async move { slow.get("/slow").await });
    entered.notified().await;
    let ending = Ending::new(Reason::RevokedByAdmin).by("root");
    world.sessions.end(browser.token().id(), &ending).await.unwrap();
    gate.notify_one();

    let reply = request.await.unwrap();
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.problem()["reason"], "revoked_by_admin");
    assert!(reply.set_cookie().unwrap().contains("Max-Age=0"));
    assert!(matches!(world.sessions.get(browser.token().id()).await.unwrap(), Found::Ended(_)));
    assert!(world.sessions.list("anna").await.unwrap().is_empty());
}

#[tokio::test]
async fn i2_a_request_whose_session_was_replaced_leaves_the_cookie_alone() {
    let world = world();
    let mut browser = world.browser();
    browser.text("/set?key=cart&value=umbrella").await;
    let (mut slow, entered, gate) = gated(&world, &browser);
    let request = tokio::spawn(async move { slow.get("/slow").await });
    entered.notified().await;
    let old = browser.clone();
    browser.text("/sign-in?user=anna").await;
    gate.notify_one();

    let reply = request.await.unwrap();
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.set_cookie(), None);
    // Nor does one that arrives late with the old token, whether it reads or writes.
    assert_eq!(old.clone().get("/get?key=cart").await.set_cookie(), None);
    let write = old.clone().get("/set?key=a&value=1").await;
    assert_eq!((write.status, write.set_cookie()), (StatusCode::UNAUTHORIZED, None));
    assert_eq!(browser.text("/me").await, "anna");
}

#[tokio::test]
async fn four_hundred_increments_through_modify_are_four_hundred() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let requests = (0..400).map(|_| {
        let mut browser = browser.clone();
        tokio::spawn(async move { browser.text("/count").await })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    let Found::Live(record) = world.sessions.resume(&browser.token()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("count").unwrap().as_str(), "400");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_parallel_modify_now_answer_one_to_fifty() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let requests = (0..50).map(|_| {
        let mut browser = browser.clone();
        tokio::spawn(async move { browser.text("/count-now").await.parse::<u32>().unwrap() })
    });
    let mut answers = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        answers.push(request.await.unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (1..=50).collect::<Vec<_>>());
}

/// A page that changes its session while it is sent.
async fn streaming(session: Session) -> Page {
    let parts = stream::unfold((0, session), |(part, session)| async move {
        session.set("part", &part.to_string()).unwrap();
        let refused = matches!(session.rotate().await, Err(Error::HeadSent));
        (part < 3).then(|| (Ok::<_, Error>(Bytes::from(format!("{part}{refused} "))), (part + 1, session)))
    });
    Page { length: None, parts: parts.boxed() }
}

#[tokio::test]
async fn what_a_streamed_body_changes_is_stored_at_its_end() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    let mut streamed =
        Browser { cookie: browser.cookie.clone(), ..with(&world, Router::new().route("/s", get(streaming))) };
    assert_eq!(streamed.text("/s").await, "0true 1true 2true ");
    assert_eq!(browser.text("/get?key=part").await, "3");
}

#[tokio::test]
async fn what_a_streamed_body_changed_is_stored_when_the_client_goes_away() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let app = Router::new().route("/s", get(streaming)).layer(layer(&world.sessions));
    let cookie = format!("{NAME}={}", browser.cookie.as_deref().unwrap());
    let request = Request::get("/s").header(header::COOKIE, cookie).body(Bytes::new()).unwrap();
    send_and_leave(&app, request).await;
    stored(&world, &browser, "part", "\"0\"").await;
}

/// The commit of a dropped body is a task of its own: wait until it is done.
async fn stored(world: &World, browser: &Browser, key: &str, value: &str) {
    for _ in 0..1000 {
        let Found::Live(record) = world.sessions.resume(&browser.token()).await.unwrap() else { panic!("it lives") };
        if record.data.get(key).is_some_and(|stored| stored.as_str() == value) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{key} was not stored");
}

/// Asks a real server, which polls a body of known length no further than that length and a HEAD's not at all.
async fn ask_server(app: App, method: &str, cookie: &str) -> String {
    let server = serve(app).await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let request = format!("{method} /s HTTP/1.1\r\nhost: x\r\ncookie: {NAME}={cookie}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

/// A page of known length that changes its session with its last byte.
async fn of_known_length(session: Session) -> Page {
    session.set("head", "yes").unwrap();
    let parts = stream::once(async move { session.set("body", "yes").map(|()| Bytes::from("page")) });
    Page { length: Some(4), parts: parts.boxed() }
}

#[tokio::test]
async fn what_a_body_of_known_length_changes_is_stored() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let app = Router::new().route("/s", get(of_known_length)).layer(layer(&world.sessions));
    let reply = ask_server(app, "GET", browser.cookie.as_deref().unwrap()).await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("page"), "{reply}");
    stored(&world, &browser, "body", "\"yes\"").await;
}

#[tokio::test]
async fn head_stores_what_its_handler_changed() {
    let world = world();
    let browser = world.signed_in("anna").await;
    let app = Router::new().route("/s", get(of_known_length)).layer(layer(&world.sessions));
    let reply = ask_server(app, "HEAD", browser.cookie.as_deref().unwrap()).await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\n"), "{reply}");
    stored(&world, &browser, "head", "\"yes\"").await;
    let Found::Live(record) = world.sessions.resume(&browser.token()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("body").is_some(), HEAD_RUNS_BODIES, "what runs is kept");
}

#[tokio::test]
async fn a_visitor_s_first_value_comes_too_late_in_a_body() {
    let world = world();
    let app = Router::new().route(
        "/s",
        get(|session: Session| async move {
            let parts = stream::once(async move {
                session.set("late", "yes")?;
                let refused = matches!(session.commit().await, Err(Error::HeadSent));
                session.remove_all();
                Ok(Bytes::from(refused.to_string()))
            });
            Page { length: None, parts: parts.boxed() }
        }),
    );
    assert_eq!(with(&world, app).text("/s").await, "true");
}

#[tokio::test]
async fn a_value_too_large_is_a_server_error_that_names_its_key() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    let app = Router::new().route(
        "/big",
        get(|session: Session| async move {
            session.set("small", "fits").unwrap();
            session.set("photo", &"x".repeat(70_000)).unwrap();
        }),
    );
    let mut big = Browser { cookie: browser.cookie.clone(), ..with(&world, app) };
    let reply = big.get("/big").await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(reply.problem()["detail"].as_str().unwrap().contains("photo"), "{reply:?}");
    assert_eq!(browser.text("/get?key=small").await, "-", "nothing half-written");
}

#[tokio::test]
async fn commit_errors_are_answered_as_the_application_likes() {
    let world = world();
    let app = Router::new().route(
        "/big",
        get(|session: Session| async move {
            session.set("photo", &"x".repeat(70_000)).unwrap();
        }),
    );
    let layer = layer(&world.sessions).on_commit_error(|error| plain_answer(418, format!("custom: {error}")));
    let request = Request::get("/big").body(Bytes::new()).unwrap();
    let reply = send(&app.layer(layer), request).await;
    assert_eq!(reply.status, StatusCode::IM_A_TEAPOT);
    assert!(reply.body.starts_with("custom: the session's data would have"));
}

#[tokio::test]
async fn a_handler_without_the_layer_is_told_what_to_add() {
    let app = Router::new().route("/x", get(|_: Session| async {}));
    let reply = send(&App::from(app), Request::get("/x").body(Bytes::new()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
}
