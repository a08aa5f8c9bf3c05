//! A handler that a timeout cuts off has done half of its work: none of that is stored.

use std::{future::pending, time::Duration};

use cloakroom::{Session, SignIn};
use http::StatusCode;
use tower_http::timeout::TimeoutLayer;

use super::{
    framework::{Router, get, layer},
    world::{Browser, World, routes, world},
};

/// Half of it, and then it waits for something that never comes.
async fn half(session: Session) {
    session.set("half", "yes").unwrap();
    session.modify("count", |count: Option<u32>| count.unwrap_or(0) + 1).unwrap();
    pending::<()>().await;
}

async fn signed_in_and_half(session: Session) {
    session.sign_in(SignIn::new("ben")).await.unwrap();
    half(session).await;
}

fn handlers() -> Router {
    Router::new().route("/half", get(half)).route("/sign-in-and-half", get(signed_in_and_half))
}

fn timeout(status: StatusCode) -> TimeoutLayer {
    TimeoutLayer::with_status_code(status, Duration::from_secs(10))
}

async fn assert_that_nothing_is_stored(world: &World, browser: &Browser) {
    let mut browser = Browser { app: routes().layer(layer(&world.sessions)), ..browser.clone() };
    assert_eq!((browser.text("/get?key=half").await, browser.text("/get?key=count").await), ("-".into(), "-".into()));
}

// Time is paused, and goes on when every task waits.
#[tokio::test(start_paused = true)]
async fn what_a_handler_did_before_a_timeout_cut_it_off_is_dropped() {
    for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT] {
        let world = world();
        let app = handlers().layer(timeout(status)).layer(layer(&world.sessions));
        let mut anna = Browser { app: app.clone(), ..world.signed_in("anna").await };
        let reply = anna.get("/half").await;
        assert_eq!((reply.status, reply.set_cookie()), (status, None));
        assert_that_nothing_is_stored(&world, &anna).await;
        let mut visitor = Browser { app, cookie: None };
        assert_eq!(visitor.get("/half").await.set_cookie(), None, "no session was started for it");
    }
}

#[tokio::test(start_paused = true)]
async fn keeping_what_fails_keeps_nothing_of_a_handler_that_was_cut_off() {
    let world = world();
    let layer = layer(&world.sessions).keep_on_server_error(true);
    let app = handlers().layer(timeout(StatusCode::REQUEST_TIMEOUT)).layer(layer);
    let mut anna = Browser { app, ..world.signed_in("anna").await };
    assert_eq!(anna.get("/half").await.status, StatusCode::REQUEST_TIMEOUT);
    assert_that_nothing_is_stored(&world, &anna).await;
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_was_done_before_the_timeout_keeps_its_cookie() {
    let world = world();
    let app = handlers().layer(timeout(StatusCode::REQUEST_TIMEOUT)).layer(layer(&world.sessions));
    let mut browser = Browser { app, cookie: None };
    assert_eq!(browser.get("/sign-in-and-half").await.status, StatusCode::REQUEST_TIMEOUT);
    assert_that_nothing_is_stored(&world, &browser).await;
    browser.app = world.app.clone();
    assert_eq!(browser.text("/me").await, "ben");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_around_the_layer_drops_it_too() {
    let world = world();
    let app = handlers().layer(layer(&world.sessions)).layer(timeout(StatusCode::REQUEST_TIMEOUT));
    let mut anna = Browser { app, ..world.signed_in("anna").await };
    let reply = anna.get("/half").await;
    assert_eq!((reply.status, reply.set_cookie()), (StatusCode::REQUEST_TIMEOUT, None));
    assert_that_nothing_is_stored(&world, &anna).await;
}
