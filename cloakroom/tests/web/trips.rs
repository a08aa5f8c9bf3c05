//! I9: how often a request asks the store, counted.

use std::time::Duration;

use cloakroom::{
    SignIn,
    testing::{Counts, ManualClock},
};
use http::StatusCode;

use super::world::{Browser, spied};

/// What a request costs: round trips, without the peeks and edits that cost none.
async fn trips(
    spy: &cloakroom::testing::SpyStore<cloakroom::store::MemoryStore>,
    browser: &mut Browser,
    path: &str,
) -> Counts {
    spy.reset();
    let reply = browser.get(path).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.body);
    Counts { peek: 0, edit: 0, ..spy.counts() }
}

#[tokio::test]
async fn i9_a_request_that_does_not_ask_for_its_session_costs_nothing() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    assert_eq!(trips(&spy, &mut browser, "/nothing").await, Counts::default());
    assert_eq!(spy.counts().peek, 0, "not even a look into memory");
}

#[tokio::test]
async fn i9_an_anonymous_read_costs_nothing() {
    let (world, spy) = spied();
    let mut browser = world.browser();
    for path in ["/get?key=a", "/who", "/why", "/sign-out"] {
        assert_eq!(trips(&spy, &mut browser, path).await, Counts::default(), "{path}");
    }
}

#[tokio::test]
async fn i9_a_read_costs_one_trip_and_a_read_and_write_two() {
    let (world, spy) = spied();
    let mut browser = world.signed_in("anna").await;
    let load = Counts { read: 1, ..Counts::default() };
    assert_eq!(trips(&spy, &mut browser, "/get?key=a").await, load);
    let load_and_update = Counts { data: 1, ..load };
    for path in ["/set?key=a&value=1", "/count", "/count-now"] {
        assert_eq!(trips(&spy, &mut browser, path).await, load_and_update, "{path}");
    }
    // What depends on the head is decided over the head as it is.
    let look_again = Counts { read: 2, ..load };
    assert_eq!(trips(&spy, &mut browser, "/rotate").await, Counts { head: 1, ..look_again });
    assert_eq!(trips(&spy, &mut browser, "/sign-out").await, Counts { end: 1, ..look_again });
}

#[tokio::test]
async fn i9_a_sign_in_costs_one_trip_and_two_beyond_the_load_where_it_replaces_a_session() {
    let (world, spy) = spied();
    let create = Counts { create: 1, ..Counts::default() };
    // Before a node's first sign-in its clock is compared with the store's, unless the upkeep did.
    world.signed_in("carl").await;
    assert_eq!(spy.counts(), Counts { ping: 1, ..create });
    let mut browser = world.browser();
    assert_eq!(trips(&spy, &mut browser, "/sign-in?user=anna").await, create, "nothing to load, nothing to replace");
    let two_and_create = Counts { read: 2, ..create };
    assert_eq!(trips(&spy, &mut browser, "/sign-in?user=anna").await, two_and_create, "replaces in its own partition");
    assert_eq!(trips(&spy, &mut browser, "/sign-in?user=ben").await, two_and_create, "replaces in another");
    let mut visitor = world.browser();
    assert_eq!(trips(&spy, &mut visitor, "/set?key=a&value=1").await, create);
    assert_eq!(trips(&spy, &mut visitor, "/sign-in?user=anna").await, two_and_create);
}

#[tokio::test]
async fn i6_i9_touches_cost_a_request_nothing_and_travel_together() {
    let (world, spy) = spied();
    let mut browsers = Vec::new();
    for user in 0..20 {
        browsers.push(world.signed_in(&format!("user-{user}")).await);
    }
    world.clock.advance(Duration::from_mins(5));
    for browser in &mut browsers {
        for _ in 0..3 {
            let counts = trips(&spy, browser, "/get?key=a").await;
            assert_eq!(counts, Counts { read: 1, ..Counts::default() });
        }
    }
    spy.reset();
    world.sessions.flush().await.unwrap();
    assert_eq!(spy.counts(), Counts { touch: 1, ..Counts::default() }, "twenty sessions, one trip");
    world.sessions.flush().await.unwrap();
    assert_eq!(spy.counts().touch, 1, "nothing is left");
}

#[tokio::test]
async fn i9_ram_session_is_read_without_a_question_to_the_store() {
    let clock = ManualClock::new(cloakroom::Timestamp::from_millis(1_800_000_000_000));
    let spy = std::sync::Arc::new(cloakroom::testing::SpyStore::new(cloakroom::store::MemoryStore::new().unwrap()));
    let sessions = cloakroom::Sessions::builder(spy.clone()).clock(clock).without_upkeep().build().unwrap();
    let token = sessions.start(SignIn::new("anna")).await.unwrap().token;
    spy.reset();
    sessions.resume(&token).await.unwrap();
    assert_eq!(spy.counts(), Counts { peek: 1, ..Counts::default() });
}
