//! A directory of users: who may sign in, from where, how often, and who may stay.

use std::{net::IpAddr, sync::Arc, time::Duration};

use cloakroom::{
    Builder, Ended, Error, Found, Limit, Reason, Refusal, Result, SessionId, Sessions, SignIn, Started, Timestamp,
    User, Users, Visitor, WhenFull,
    record::Acting,
    rules::{Create, Rules},
    store::{BoxFuture, MemoryStore},
    testing::ManualClock,
};
use http::StatusCode;

use super::{
    framework::layer,
    staff::{Staff, at, disabled, from_networks, refusals, world_of, world_where},
    world::{Browser, routes, world_with},
};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

async fn sign_in(sessions: &Sessions, user: &str) -> Started {
    sessions.start(SignIn::new(user)).await.unwrap()
}

async fn sign_in_from(sessions: &Sessions, user: &str, ip: Option<IpAddr>) -> Result<Started> {
    let client = cloakroom::Client { ip, ..Default::default() };
    sessions.start(SignIn::new(user).client(client)).await
}

fn refusal(outcome: Result<Started>) -> Refusal {
    match outcome {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

async fn end_of(sessions: &Sessions, started: &Started) -> Option<Ended> {
    match sessions.resume(&started.token).await.unwrap() {
        Found::Ended(ended) => Some(ended),
        Found::Live(_) => None,
        Found::Unknown => panic!("it is unknown"),
    }
}

#[tokio::test]
async fn validate_user_keeps_a_disabled_user_from_signing_in() {
    let staff = Staff::of([("anna", disabled())]);
    let world = world_of(&staff);
    let mut browser = world.browser();
    let reply = browser.get("/sign-in?user=anna").await;
    assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::FORBIDDEN, &"user_disabled".into()));
    assert!(browser.cookie.is_none());
    assert!(world.sessions.list("anna").await.unwrap().is_empty());

    staff.set("anna", User::default());
    assert_eq!(browser.get("/sign-in?user=anna").await.status, StatusCode::OK, "a sign-in is not answered from memory");
}

#[tokio::test]
async fn r2_validate_user_ends_the_sessions_of_a_user_who_was_disabled() {
    let staff = Staff::of([("anna", User::default())]);
    let world = world_of(&staff);
    let mut browser = world.signed_in("anna").await;
    let others = [sign_in(&world.sessions, "anna").await, sign_in(&world.sessions, "anna").await];
    let ben = sign_in(&world.sessions, "ben").await;
    assert_eq!(browser.text("/who").await, "anna");

    staff.set("anna", disabled());
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(browser.text("/why").await, "user_disabled", "the request is told");
    assert!(browser.cookie.is_none());
    for other in others {
        assert_eq!(end_of(&world.sessions, &other).await.unwrap().reason, Reason::UserDisabled);
    }
    assert_eq!(end_of(&world.sessions, &ben).await, None);

    // The directory decides, and nothing else remembers.
    staff.set("anna", User::default());
    assert_eq!(browser.get("/sign-in?user=anna").await.status, StatusCode::OK);
}

#[tokio::test]
async fn restrict_ip_is_checked_when_somebody_signs_in() {
    let staff = Staff::of([("anna", from_networks(&["10.0.0.0/8", "2001:db8::/32"]))]);
    let world = world_of(&staff);
    for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
        sign_in_from(&world.sessions, "anna", at(inside)).await.unwrap();
    }
    for outside in ["11.0.0.1", "100.1.2.3", "2001:db9::1", ""].map(at) {
        let refused = refusal(sign_in_from(&world.sessions, "anna", outside).await);
        assert_eq!(refused, Refusal::NetworkNotAllowed, "{outside:?}");
    }
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 3);
    sign_in_from(&world.sessions, "ben", None).await.unwrap();
}

#[tokio::test]
async fn restrict_ip_refuses_a_request_from_elsewhere_and_leaves_the_session() {
    let staff = Staff::of([("anna", from_networks(&["10.0.0.0/8"]))]);
    let world = world_of(&staff);
    let sessions = &world.sessions;
    let started = sign_in_from(sessions, "anna", at("10.1.2.3")).await.unwrap();
    world.clock.advance(Duration::from_mins(10));
    for outside in ["192.0.2.1", ""].map(at) {
        for refused in [
            sessions.resume(Visitor::new(&started.token).ip(outside)).await,
            sessions.resume(Visitor::new(&started.token).ip(outside).touch(false)).await,
        ] {
            assert!(matches!(refused, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{refused:?}");
        }
    }
    sessions.flush().await.unwrap();
    let Found::Live(record) = sessions.get(started.token.id()).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.info.last_seen_at, started.record.info.last_seen_at, "a refused request is no use");
    for inside in ["10.9.9.9", "::ffff:10.9.9.9"] {
        let found = sessions.resume(Visitor::new(&started.token).ip(at(inside))).await.unwrap();
        assert!(matches!(found, Found::Live(_)));
    }
    // What was narrowed later counts for sessions that are there.
    staff.set("anna", from_networks(&["10.1.0.0/16"]));
    world.clock.advance(Duration::from_secs(5));
    assert!(sessions.resume(Visitor::new(&started.token).ip(at("10.9.9.9"))).await.is_err());
    assert!(sessions.resume(Visitor::new(&started.token).ip(at("10.1.9.9"))).await.is_ok());
}

#[tokio::test]
async fn restrict_ip_in_the_layer_goes_by_its_client_ip() {
    let staff = Staff::of([("anna", from_networks(&["10.0.0.0/8"]))]);
    let world = world_of(&staff);
    let app_at = |address: &'static str| {
        let layer = layer(&world.sessions).client_ip(move |_| address.parse().ok());
        routes().layer(layer)
    };
    let mut browser = Browser { app: app_at("10.1.2.3"), cookie: None };
    browser.text("/sign-in?user=anna").await;
    assert_eq!(browser.text("/me").await, "anna");

    for nowhere_allowed in [app_at("192.0.2.1"), app_at("")] {
        let mut elsewhere = Browser { app: nowhere_allowed, cookie: browser.cookie.clone() };
        for path in ["/me", "/who", "/set?key=a&value=1", "/count-now"] {
            let reply = elsewhere.get(path).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
            assert_eq!(reply.problem()["code"], "network_not_allowed", "{path}");
            assert_eq!(reply.set_cookie(), None, "{path}");
        }
    }
    assert_eq!(browser.text("/me").await, "anna");
    assert_eq!(browser.text("/get?key=a").await, "-");
}

#[tokio::test]
async fn insert_session_record_takes_the_name_and_type_that_a_sign_in_does_not_give() {
    let anna = User { full_name: Some("Anna Berg".into()), user_type: Some("staff".into()), ..User::default() };
    let world = world_of(&Staff::of([("anna", anna)]));
    let info = sign_in(&world.sessions, "anna").await.record.info.clone();
    assert_eq!((info.full_name.as_deref(), info.user_type.as_deref()), (Some("Anna Berg"), Some("staff")));
    let start = SignIn::new("anna").full_name("A. B.").user_type("guest");
    let info = world.sessions.start(start).await.unwrap().record.info.clone();
    assert_eq!((info.full_name.as_deref(), info.user_type.as_deref()), (Some("A. B."), Some("guest")));
}

#[tokio::test]
async fn simultaneous_sessions_is_the_calls_then_the_directorys_then_the_configured_limit() {
    let two = User { session_limit: Some(2), ..User::default() };
    let refusing = User { session_limit: Some(2), when_full: Some(WhenFull::Refuse), ..User::default() };
    let refusing_only = User { when_full: Some(WhenFull::Refuse), ..User::default() };
    let staff = Staff::of([("two", two), ("refusing", refusing), ("refusing only", refusing_only)]);
    let world = world_where(&staff, |builder| builder.limit(Limit::evict(3)));
    let count = async |user: &str| world.sessions.list(user).await.unwrap().len();

    for user in ["two", "nobody"] {
        for _ in 0..5 {
            sign_in(&world.sessions, user).await;
        }
    }
    assert_eq!((count("two").await, count("nobody").await), (2, 3));
    world.sessions.start(SignIn::new("two").limit(Limit::evict(1))).await.unwrap();
    assert_eq!(count("two").await, 1, "the call goes before the directory");

    for (user, max) in [("refusing", 2), ("refusing only", 3)] {
        for _ in 0..max {
            sign_in(&world.sessions, user).await;
        }
        let refused = refusal(world.sessions.start(SignIn::new(user)).await);
        assert_eq!(refused, Refusal::LimitReached { max }, "{user}");
    }
}

#[tokio::test]
async fn a_full_limit_refuses_a_second_sign_in_until_the_first_has_ended() {
    let one = User { session_limit: Some(1), when_full: Some(WhenFull::Refuse), ..User::default() };
    let world = world_of(&Staff::of([("anna", one)]));
    let mut first = world.signed_in("anna").await;
    let mut second = world.browser();
    let reply = second.get("/sign-in?user=anna").await;
    assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::CONFLICT, &"session_limit".into()));
    assert_eq!(first.text("/me").await, "anna");
    first.text("/sign-out").await;
    assert_eq!(second.get("/sign-in?user=anna").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_directory_is_asked_anew_when_its_answer_is_old_or_forgotten() {
    let staff = Staff::of([("anna", User::default())]);
    let world = world_of(&staff);
    let sessions = &world.sessions;
    let (anna, ben) = (sign_in(sessions, "anna").await, sign_in(sessions, "ben").await);
    assert_eq!(staff.asked(), 2);
    for _ in 0..10 {
        sessions.resume(&anna.token).await.unwrap();
        sessions.resume(&ben.token).await.unwrap();
    }
    assert_eq!(staff.asked(), 0, "what is not known is remembered too");

    world.clock.advance(Duration::from_millis(4_999));
    sessions.resume(&anna.token).await.unwrap();
    assert_eq!(staff.asked(), 0);
    world.clock.advance(Duration::from_millis(1));
    sessions.resume(&anna.token).await.unwrap();
    sessions.resume(&anna.token).await.unwrap();
    assert_eq!(staff.asked(), 1);

    sessions.users().forget("anna");
    sessions.resume(&anna.token).await.unwrap();
    assert_eq!(staff.asked(), 1);
    let anonymous = sessions.start(SignIn::anonymous()).await.unwrap();
    sessions.resume(&anonymous.token).await.unwrap();
    assert_eq!(staff.asked(), 0, "a visitor is nobody to look up");

    let world = world_where(&staff, |builder| builder.users_cache(Duration::ZERO));
    let anna = sign_in(&world.sessions, "anna").await;
    world.sessions.resume(&anna.token).await.unwrap();
    assert_eq!(staff.asked(), 2);
}

#[tokio::test]
async fn a_directory_that_fails_lets_nobody_in_and_ends_nothing() {
    let staff = Staff::of([("anna", User::default())]);
    let world = world_of(&staff);
    let mut browser = world.signed_in("anna").await;
    // Waiting helps against the first alone.
    let errors: [(fn() -> Error, StatusCode); 2] = [
        (|| Error::unavailable("it is away", "a test"), StatusCode::SERVICE_UNAVAILABLE),
        (|| Error::InvalidArgument { what: "it", problem: "broke".into() }, StatusCode::INTERNAL_SERVER_ERROR),
    ];
    for (error, status) in errors {
        staff.fail(Some(error));
        world.clock.advance(Duration::from_secs(5));
        for path in ["/me", "/who", "/sign-in?user=ben"] {
            let reply = browser.get(path).await;
            assert_eq!(reply.status, status, "{path}");
            assert_eq!(reply.set_cookie(), None);
        }
    }
    assert!(world.sessions.list("ben").await.unwrap().is_empty());
    staff.fail(None);
    assert_eq!(browser.text("/me").await, "anna");
}

#[derive(Debug)]
struct Silent;

impl Users for Silent {
    fn find<'a>(&'a self, _user: &'a str) -> BoxFuture<'a, Result<Option<User>>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_does_not_answer_is_waited_for_as_long_as_a_store() {
    let world = world_with(|builder| builder.users(Silent));
    let error = world.sessions.start(SignIn::new("anna")).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("the directory of users did not answer"), "{error}");
}

#[tokio::test]
async fn only_known_users_lets_nobody_else_in_or_stay() {
    let staff = Staff::of([("anna", User::default())]);
    let world = world_where(&staff, Builder::only_known_users);
    let mut browser = world.browser();
    let reply = browser.get("/sign-in?user=ben").await;
    assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::FORBIDDEN, &"not_in_directory".into()));
    let mut browser = world.signed_in("anna").await;
    staff.remove("anna");
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(browser.text("/why").await, "user_disabled");

    let store = Arc::new(MemoryStore::new().unwrap());
    let error = Sessions::builder(store).without_upkeep().only_known_users().build().unwrap_err().to_string();
    assert!(error.contains("stored_users"), "{error}");
}

#[tokio::test]
async fn what_a_directory_must_not_say_is_refused_by_name() {
    for (user, what) in [
        (User { session_limit: Some(0), ..User::default() }, "session_limit"),
        (User { full_name: Some("x".repeat(257).into()), ..User::default() }, "full_name"),
        (User { user_type: Some("a\nb".into()), ..User::default() }, "user_type"),
    ] {
        let world = world_of(&Staff::of([("anna", user)]));
        let error = world.sessions.start(SignIn::new("anna")).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { what: named, .. } if named == what), "{error}");
    }
}

#[tokio::test]
async fn every_refusal_of_the_directory_is_in_the_audit_log() {
    let staff = Staff::of([("anna", from_networks(&["10.0.0.0/8"])), ("ben", disabled())]);
    let world = world_where(&staff, Builder::only_known_users);
    let sessions = &world.sessions;
    let started = sign_in_from(sessions, "anna", at("10.1.2.3")).await.unwrap();
    sign_in_from(sessions, "anna", at("192.0.2.1")).await.unwrap_err();
    sessions.resume(Visitor::new(&started.token).ip(at("192.0.2.2"))).await.unwrap_err();
    sessions.resume(&started.token).await.unwrap_err();
    sessions.start(SignIn::new("ben").by("gateway")).await.unwrap_err();
    sessions.start(SignIn::new("cleo")).await.unwrap_err();

    let annas = refusals(sessions, "anna").await;
    let notes: Vec<_> = annas.iter().map(|entry| entry.note.as_deref().unwrap()).collect();
    assert_eq!(
        notes,
        [
            "the user may not come from this address",
            "the user may not come from this address: 192.0.2.2",
            "the user may not come from this address: an unknown address",
        ]
    );
    assert_eq!(annas[0].ip, at("192.0.2.1"));
    assert!(annas[1..].iter().all(|entry| entry.session == started.token.id()));
    let bens = refusals(sessions, "ben").await;
    assert_eq!((bens[0].note.as_deref(), bens[0].by.as_deref()), (Some("the user is disabled"), Some("gateway")));
    assert_eq!(refusals(sessions, "cleo").await[0].note.as_deref(), Some("the user is not in the directory"));
}

#[tokio::test]
async fn set_impersonated_asks_the_directory_about_both_persons() {
    let staff = Staff::of([("anna", from_networks(&["10.0.0.0/8"])), ("root", from_networks(&["192.0.2.0/24"]))]);
    let (clock, store) = (ManualClock::new(NOW), Arc::new(MemoryStore::new().unwrap()));
    let builder = Sessions::builder(store.clone()).clock(clock.clone()).without_upkeep();
    let sessions = builder.users(staff.clone()).build().unwrap();
    for who in ["anna", "root"] {
        let started = sign_in_from(&sessions, "anna", at("10.1.2.3")).await.unwrap();
        let mut record = (*started.record).clone();
        let token = cloakroom::Token::generate(SessionId::generate(started.token.id().partition()).unwrap()).unwrap();
        record.info.id = token.id();
        record.info.acting = Some(Acting { by: "root".into(), returns_to: None });
        record.secrets = cloakroom::store::Secrets::new(token.digest(), NOW);
        let create = Create { record, limit: None, replaces: None, by: None, note: None };
        Rules::new(store.clone()).create(&create, NOW).await.unwrap();

        // Where the one who acts may come from counts.
        assert!(matches!(sessions.resume(Visitor::new(&token).ip(at("192.0.2.1"))).await.unwrap(), Found::Live(_)));
        assert!(sessions.resume(Visitor::new(&token).ip(at("10.1.2.3"))).await.is_err());
        staff.set(who, disabled());
        sessions.users().forget(who);
        let Found::Ended(ended) = sessions.resume(Visitor::new(&token).ip(at("192.0.2.1"))).await.unwrap() else {
            panic!("{who} is disabled")
        };
        assert_eq!(ended.reason, Reason::UserDisabled);
        staff.set("anna", from_networks(&["10.0.0.0/8"]));
        sessions.users().forget("anna");
        clock.advance(Duration::from_secs(1));
    }
}
