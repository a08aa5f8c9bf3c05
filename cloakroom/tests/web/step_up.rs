//! Proving once more who one is: how lately and how strongly, what asks for it, and what it makes of the session.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Assurance, Ending, Error, Found, Fresh, Lifetimes, Limit, Reason, Session, SessionInfo, Sessions, SignIn, SignedIn,
    Visitor,
    audit::Event,
    sessions::RotatedToken,
    store::{AuditQuery, MemoryStore},
};
use http::StatusCode;

use super::{
    framework::{Params, Router, get, layer},
    world::{Browser, World, routes, world, world_with},
};

/// The world's application, and pages that ask for more than somebody signed in.
fn app() -> Router {
    routes()
        .route("/pay", get(|user: Fresh<600>| async move { user.user().to_owned() }))
        .route("/vault", get(|user: SignedIn| async move { user.require_at_least(Assurance::Aal2).map(|()| "gold") }))
        .route(
            "/again",
            get(|session: Session, q: Params| async move {
                let mut sign_in = SignIn::new(session.user().unwrap_or("anna".into())).methods("pwd otp");
                if let Some(level) =
                    q.values().next().and_then(|level| Assurance::from_number(level.parse::<u8>().unwrap()))
                {
                    sign_in = sign_in.authenticated_level(level);
                }
                session.reauthenticate(sign_in).await.map(drop)
            }),
        )
}

async fn browser(world: &World, user: &str) -> Browser {
    Browser { app: app().layer(layer(&world.sessions)), ..world.signed_in(user).await }
}

async fn info(world: &World, browser: &Browser) -> SessionInfo {
    let Found::Live(record) = world.sessions.resume(Visitor::new(&browser.token()).touch(false)).await.unwrap() else {
        panic!("it lives")
    };
    record.info.clone()
}

#[tokio::test]
async fn r7_what_takes_a_fresh_sign_in_refuses_a_stale_one_and_says_what_it_takes() {
    let world = world();
    let mut anna = browser(&world, "anna").await;
    world.clock.advance(Duration::from_mins(10));
    assert_eq!(anna.text("/pay").await, "anna", "ten minutes are within ten minutes");
    world.clock.advance(Duration::from_millis(1));
    let reply = anna.get("/pay").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let problem = reply.problem();
    assert_eq!((&problem["code"], &problem["max_age"]), (&"reauthentication_required".into(), &600.into()));
    assert_eq!(reply.set_cookie(), None, "the session lives on");
    assert_eq!(anna.text("/me").await, "anna");
    anna.text("/again").await;
    assert_eq!(anna.text("/pay").await, "anna");
    let stranger = Browser { cookie: None, ..anna }.get("/pay").await;
    assert_eq!(stranger.problem()["code"], "not_signed_in");
}

#[tokio::test]
async fn r7_a_page_sends_a_stale_visitor_to_the_sign_in_page_and_back() {
    let world = world();
    let app = app().layer(layer(&world.sessions).sign_in_page("/sign-in?a=1"));
    let mut anna = Browser { app, ..world.signed_in("anna").await };
    world.clock.advance(Duration::from_mins(11));
    let reply = anna.get("/pay?to=ben&sum=1").await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    assert_eq!(reply.header("location"), Some("/sign-in?a=1&next=/pay%3Fto%3Dben%26sum%3D1&max_age=600"));
    anna.cookie = None;
    let reply = anna.get("/pay").await;
    assert_eq!(reply.header("location"), Some("/sign-in?a=1&next=/pay"));
}

#[tokio::test]
async fn r7_a_session_knows_when_and_how_its_person_authenticated() {
    let world = world();
    let started = world.sessions.now();
    let session = Session::anonymous(&world.sessions);
    assert!(!session.authenticated_within(Duration::MAX), "nobody did");
    session.sign_in(SignIn::new("anna").methods("pwd").authenticated_level(Assurance::Aal1)).await.unwrap();
    world.clock.advance(Duration::from_mins(5));
    let info = session.info().unwrap();
    assert_eq!((info.authenticated_at(), info.methods()), (Some(started), Some("pwd")));
    assert!(session.authenticated_within(Duration::from_mins(5)));
    assert!(!session.authenticated_within(Duration::from_secs(299)));
    // Neither use nor a new token is a proof.
    session.rotate().await.unwrap();
    assert_eq!(session.info().unwrap().authenticated_at(), Some(started));
    // Another system's clock that is ahead makes nobody fresh for longer.
    let ahead = world.sessions.now().after(Duration::from_hours(1));
    session.reauthenticate(SignIn::new("anna").authenticated_at(ahead)).await.unwrap();
    assert_eq!(session.info().unwrap().authenticated_at(), Some(world.sessions.now()));
}

#[tokio::test]
async fn r7_x7_a_level_is_asked_for_and_reached_by_proving_more() {
    let world = world();
    let mut anna = browser(&world, "anna").await;
    let problem = anna.get("/vault").await.problem();
    assert_eq!((&problem["code"], &problem["acr_values"]), (&"reauthentication_required".into(), &"aal2".into()));
    for (level, opens) in [(1, false), (2, true), (3, true), (1, false)] {
        anna.text(&format!("/again?level={level}")).await;
        assert_eq!(anna.get("/vault").await.status.is_success(), opens, "level {level}");
    }
    anna.text("/again?level=3").await;
    anna.text("/again").await;
    assert_eq!(anna.get("/vault").await.status, StatusCode::UNAUTHORIZED, "a level is that of the latest proof");
}

#[tokio::test]
async fn x7_no_session_counts_for_more_than_its_authentication() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.sign_in(SignIn::new("anna").authenticated_level(Assurance::Aal1)).await.unwrap();
    let before = session.id();
    for sign_in in [
        SignIn::new("anna").authenticated_level(Assurance::Aal1).level(Assurance::Aal2),
        SignIn::new("anna").level(Assurance::Aal1),
    ] {
        let refused = session.reauthenticate(sign_in).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { what: "level", .. })), "{refused:?}");
        assert_eq!(session.id(), before, "nothing changed");
    }
    let lower = SignIn::new("anna").authenticated_level(Assurance::Aal3).level(Assurance::Aal2);
    session.reauthenticate(lower).await.unwrap();
    assert!(session.at_least(Assurance::Aal2) && !session.at_least(Assurance::Aal3));
}

#[tokio::test]
async fn x4_authenticating_again_resets_both_timers_and_nothing_else_moves_the_end() {
    let world = world();
    let mut anna = browser(&world, "anna").await;
    let first = info(&world, &anna).await;
    for _ in 0..20 {
        world.clock.advance(Duration::from_mins(30));
        anna.text("/set?key=a&value=1").await;
        let RotatedToken::Rotated { token, .. } = world.sessions.rotate(&anna.token()).await.unwrap() else {
            panic!("nobody else rotates")
        };
        anna.cookie = Some(token.reveal());
        world.sessions.flush().await.unwrap();
    }
    let used = info(&world, &anna).await;
    assert!(used.last_seen_at > first.last_seen_at);
    assert_eq!(used.ends_at, first.ends_at, "use and rotation leave the absolute end");
    anna.text("/again").await;
    let again = info(&world, &anna).await;
    let now = world.sessions.now();
    assert_eq!((again.last_seen_at, again.authenticated_at()), (now, Some(now)));
    assert_eq!(again.ends_at, Some(now.after(Duration::from_hours(24))));
    assert_eq!(anna.text("/get?key=a").await, "1");
}

#[tokio::test]
async fn x3_authenticating_again_keeps_within_the_preset() {
    let world = world_with(|builder| builder.lifetimes(Lifetimes::nist(Assurance::Aal3)));
    let mut anna = browser(&world, "anna").await;
    world.clock.advance(Duration::from_mins(14));
    anna.text("/again?level=3").await;
    let again = info(&world, &anna).await;
    assert_eq!(again.idle_timeout, Some(Duration::from_mins(15)));
    assert_eq!(again.ends_at, Some(world.sessions.now().after(Duration::from_hours(12))));
    let session = Session::resume(&world.sessions, &anna.token()).await.unwrap();
    let longer = SignIn::new("anna").idle_timeout(Duration::from_mins(16));
    assert!(matches!(session.reauthenticate(longer).await, Err(Error::InvalidArgument { .. })));
}

#[tokio::test]
async fn l1_l2_authenticating_again_makes_a_new_token_and_the_old_one_is_dead_at_once() {
    let world = world();
    let mut anna = browser(&world, "anna").await;
    anna.text("/set?key=cart&value=umbrella").await;
    let mut stolen = anna.clone();
    anna.text("/again?level=2").await;
    assert_eq!(stolen.text("/who").await, "nobody", "no grace");
    assert_eq!(stolen.get("/vault").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(anna.text("/get?key=cart").await, "umbrella");
    let log = world.sessions.audit_log().page(&AuditQuery::default(), None, 100).await.unwrap();
    let entry = log.items.iter().rev().find(|logged| logged.entry.event == Event::SignedIn).unwrap();
    assert_eq!(entry.entry.note.as_deref(), Some("authenticated again"));
}

#[tokio::test]
async fn authenticating_again_keeps_who_one_is_and_counts_for_no_further_session() {
    let world = world_with(|builder| builder.limit(Limit::refuse(1)));
    let session = Session::anonymous(&world.sessions);
    let full = SignIn::new("anna").full_name("Anna Berg").user_type("cashier").audit_user("eve").remember(true);
    session.sign_in(full).await.unwrap();
    session.set("pending", &1).unwrap();
    let ended = session.reauthenticate(SignIn::new("anna").user_type("boss")).await.unwrap();
    assert_eq!(ended.len(), 1, "the session it was before");
    let info = session.info().unwrap();
    assert_eq!(info.full_name.as_deref(), Some("Anna Berg"));
    assert_eq!(info.user_type.as_deref(), Some("boss"));
    assert_eq!(info.audit_user.as_deref(), Some("eve"));
    assert!(info.remember);
    assert_eq!(session.get::<u8>("pending").unwrap(), Some(1));
}

#[tokio::test]
async fn somebody_else_cannot_authenticate_into_a_session() {
    let world = world();
    let visitor = Session::anonymous(&world.sessions);
    assert!(matches!(visitor.reauthenticate(SignIn::new("anna")).await, Err(Error::UnknownSession)));
    visitor.set("cart", &1).unwrap();
    visitor.commit().await.unwrap();
    assert!(matches!(visitor.reauthenticate(SignIn::new("anna")).await, Err(Error::UnknownSession)));
    let anna = Session::anonymous(&world.sessions);
    anna.sign_in(SignIn::new("anna")).await.unwrap();
    let before = anna.id();
    let refused = anna.reauthenticate(SignIn::new("ben")).await;
    assert!(matches!(refused, Err(Error::InvalidArgument { what: "user", .. })));
    assert_eq!((anna.id(), anna.user().as_deref()), (before, Some("anna")));
    assert!(world.sessions.list("ben").await.unwrap().is_empty());
}

#[tokio::test]
async fn authenticating_again_after_the_end_says_how_it_ended() {
    let store = Arc::new(MemoryStore::new().unwrap());
    let sessions = Sessions::builder(store).without_upkeep().build().unwrap();
    let token = sessions.start(SignIn::new("anna")).await.unwrap().token;
    sessions.end(token.id(), &Ending::new(Reason::RevokedByAdmin)).await.unwrap();
    let session = Session::resume(&sessions, &token).await.unwrap();
    let refused = session.reauthenticate(SignIn::new("anna")).await;
    assert!(matches!(refused, Err(Error::Ended(ended)) if ended.reason == Reason::RevokedByAdmin));
}
