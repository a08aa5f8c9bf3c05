//! What requests cost: calls of a store behind a network.

use std::sync::Arc;

use cloakroom::{
    Sessions,
    store::MemoryStore,
    testing::{Counts, SpyStore},
};

use crate::world::{Browser, routes};

#[tokio::test]
async fn i9_a_request_costs_the_calls_it_needs_and_no_more() {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    let sessions = Sessions::builder(spy.clone()).without_upkeep().build().unwrap();
    let app = routes().with_state(sessions.clone()).layer(sessions.layer());
    let mut browser = Browser { app, cookie: None };

    let mut cost = async |path: &str| {
        spy.reset();
        browser.text(path).await;
        let counts = spy.counts();
        let Counts { load, update, create, .. } = counts;
        assert_eq!(counts.total(), load + update + create, "{path}: {counts:?}");
        (load, update, create)
    };
    assert_eq!(cost("/who").await, (0, 0, 0), "a visitor without a token");
    assert_eq!(cost("/set?key=a&value=1").await, (0, 0, 1), "their first value");
    assert_eq!(cost("/sign-in?user=anna").await, (1, 0, 1));
    assert_eq!(cost("/nothing").await, (0, 0, 0), "nobody asks for the session");
    assert_eq!(cost("/me").await, (1, 0, 0));
    assert_eq!(cost("/set?key=a&value=2").await, (1, 1, 0));
    assert_eq!(cost("/count-now").await, (1, 1, 0));
}
