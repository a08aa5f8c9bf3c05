//! Read-only mode: what is stored is served, nothing changes, and nothing is lost when it ends.

use std::time::Duration;

use cloakroom::{Change, Ending, Error, Found, Reason, Session, SignIn, rules::EndAnswer};
use http::StatusCode;

use super::world::{world, world_with};

#[tokio::test]
async fn read_only_of_the_frappe_seed_refuses_every_change_and_serves_what_is_stored() {
    let world = world();
    let started = world.sessions.start(SignIn::new("anna")).await.unwrap();
    let (id, token) = (started.token.id(), started.token);
    world.sessions.set_read_only(true);

    assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)));
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 1);
    let mut change = Change::new(1024);
    change.set("a", cloakroom::Json::from_text("1").unwrap());
    let ending = Ending::new(Reason::RevokedByAdmin);
    for (what, refused) in [
        ("start", world.sessions.start(SignIn::anonymous()).await.map(drop)),
        ("update", world.sessions.update(id, &change).await.map(drop)),
        ("rotate", world.sessions.rotate(&token).await.map(drop)),
        ("lock", world.sessions.lock(id).await.map(drop)),
        ("end", world.sessions.end(id, &ending).await.map(drop)),
        ("end_all_of", world.sessions.end_all_of("anna", Vec::new(), &ending).await.map(drop)),
        ("disable_user", world.sessions.users().disable("anna", None).await.map(drop)),
        ("enable_user", world.sessions.users().enable("anna").await),
        ("reap", world.sessions.reap().await.map(drop)),
    ] {
        assert!(matches!(refused, Err(Error::ReadOnly)), "{what}: {refused:?}");
    }

    world.sessions.set_read_only(false);
    let Found::Live(record) = world.sessions.get(id).await.unwrap() else { panic!("nothing ended it") };
    assert_eq!((record.info.version, record.data.len(), record.secrets.rotations), (0, 0, 0));
    assert!(matches!(world.sessions.end(id, &ending).await.unwrap(), EndAnswer::EndedNow(_)));
}

#[tokio::test]
async fn read_only_remembers_uses_and_writes_them_when_it_is_over() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let started_at = world.sessions.now();
    world.sessions.set_read_only(true);
    world.clock.advance(Duration::from_mins(30));
    let session = Session::resume(&world.sessions, &token).await.unwrap();
    session.flush().await.unwrap();
    world.sessions.flush().await.unwrap();
    let last_seen = async || match world.sessions.get(token.id()).await.unwrap() {
        Found::Live(record) => record.info.last_seen_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(last_seen().await, started_at, "nothing was written");

    let used_at = world.sessions.now();
    world.clock.advance(Duration::from_mins(5));
    world.sessions.set_read_only(false);
    world.sessions.flush().await.unwrap();
    assert_eq!(last_seen().await, used_at, "nothing was lost");
}

#[tokio::test]
async fn read_only_pages_that_write_are_answered_503_and_others_as_ever() {
    let world = world();
    let mut browser = world.browser();
    assert_eq!(browser.get("/set?key=a&value=1").await.status, StatusCode::OK);
    world.sessions.set_read_only(true);
    assert_eq!(browser.text("/get?key=a").await, "1");
    for path in ["/set?key=a&value=2", "/sign-in?user=anna", "/sign-out", "/rotate", "/count-now"] {
        let reply = browser.get(path).await;
        assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"read_only".into()));
        assert_eq!(reply.header("retry-after"), Some("1"), "{path}");
        assert_eq!(reply.set_cookie(), None, "{path}: the browser keeps what it has");
    }
    world.sessions.set_read_only(false);
    assert_eq!(browser.text("/get?key=a").await, "1");
    assert_eq!(browser.get("/set?key=a&value=3").await.status, StatusCode::OK);
    assert_eq!(browser.text("/get?key=a").await, "3");
}

#[tokio::test]
async fn read_only_expires_sessions_and_reaps_them_afterwards() {
    let world = world_with(|builder| builder.read_only(false));
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.sessions.set_read_only(true);
    world.clock.advance(Duration::from_mins(61));
    let Found::Ended(ended) = world.sessions.resume(&token).await.unwrap() else { panic!("its time is over") };
    assert_eq!(ended.reason, Reason::IdleTimeout);
    world.sessions.set_read_only(false);
    assert_eq!(world.sessions.reap().await.unwrap(), 1);
}

#[tokio::test]
async fn read_only_serves_those_who_go_on_using_it() {
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let unused = world.sessions.start(SignIn::new("berta")).await.unwrap().token;
    world.sessions.set_read_only(true);
    for _ in 0..10 {
        world.clock.advance(Duration::from_mins(50));
        assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Live(_)));
    }
    assert!(matches!(world.sessions.resume(&unused).await.unwrap(), Found::Ended(_)));
    world.clock.advance(Duration::from_hours(1));
    assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Ended(_)), "not for ever");
}

#[tokio::test]
async fn read_only_does_not_serve_a_stolen_token_only_because_it_cannot_end_the_session() {
    let world = world();
    let stolen = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let cloakroom::sessions::RotatedToken::Rotated { token, .. } = world.sessions.rotate(&stolen).await.unwrap() else {
        panic!("nobody else rotates")
    };
    world.sessions.resume(&token).await.unwrap();
    world.sessions.flush().await.unwrap();
    world.clock.advance(Duration::from_mins(1));
    world.sessions.set_read_only(true);
    assert!(matches!(world.sessions.resume(&stolen).await, Err(Error::ReadOnly)));
    world.sessions.set_read_only(false);
    let Found::Ended(ended) = world.sessions.resume(&stolen).await.unwrap() else { panic!("it was replaced") };
    assert_eq!(ended.reason, Reason::TokenReuse);
}
