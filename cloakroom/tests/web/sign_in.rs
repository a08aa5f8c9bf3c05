//! Coming and going: sign-in, sign-out, limits, endings and their reasons.

use std::time::Duration;

use cloakroom::{
    Ending, Error, Found, Limit, Next, Reason, Refusal, Session, SignIn, audit::Event, rules::EndAnswer,
    store::AuditQuery,
};
use http::StatusCode;

use super::{
    framework::{Router, get, layer},
    world::{Browser, World, world, world_with},
};

#[tokio::test]
async fn i14_a_visitor_s_cart_survives_the_sign_in() {
    let world = world();
    let mut browser = world.browser();
    browser.text("/set?key=cart&value=umbrella").await;
    browser.text("/sign-in?user=anna").await;
    assert_eq!(browser.text("/get?key=cart").await, "umbrella");
}

#[tokio::test]
async fn i14_pending_values_are_carried_too_and_fresh_data_carries_none() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    session.set("cart", "umbrella").unwrap();
    session.sign_in(SignIn::new("anna")).await.unwrap();
    assert_eq!(session.get::<String>("cart").unwrap().as_deref(), Some("umbrella"));
    session.sign_in(SignIn::new("anna").fresh_data()).await.unwrap();
    assert!(session.is_empty());
}

#[tokio::test]
async fn i14_another_user_starts_with_fresh_data() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    browser.text("/set?key=secret&value=anna-s").await;
    browser.text("/sign-in?user=ben").await;
    assert_eq!(browser.text("/get?key=secret").await, "-");
    assert!(world.sessions.list("anna").await.unwrap().is_empty());
}

#[tokio::test]
async fn i14_sign_out_keeps_the_named_keys_alone() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    browser.text("/set?key=cart&value=umbrella").await;
    browser.text("/set?key=address&value=Main-Street").await;
    let signed_in = browser.token();
    browser.text("/sign-out-keeping?key=cart").await;
    assert_eq!(browser.text("/get?key=cart").await, "umbrella");
    assert_eq!(browser.text("/get?key=address").await, "-");
    assert_eq!(browser.text("/who").await, "nobody");
    let Found::Ended(ended) = world.sessions.resume(&signed_in).await.unwrap() else { panic!("it ended") };
    assert_eq!(ended.reason, Reason::SignedOut);
}

#[tokio::test]
async fn l1_regenerate_a_sign_in_makes_a_new_token_and_the_old_one_is_dead_at_once() {
    let world = world();
    let mut browser = world.browser();
    browser.text("/set?key=a&value=1").await;
    for user in ["anna", "anna", "ben"] {
        let mut old = browser.clone();
        browser.text(&format!("/sign-in?user={user}")).await;
        assert_ne!(old.cookie, browser.cookie);
        assert_eq!(old.text("/who").await, "nobody", "no grace");
        assert_eq!(old.text("/why").await, "replaced");
    }
}

#[tokio::test]
async fn r1_sign_out_is_final() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    let mut stolen = browser.clone();
    browser.text("/sign-out").await;
    assert_eq!(stolen.text("/who").await, "nobody");
    assert_eq!(stolen.clone().get("/me").await.problem()["code"], "not_signed_in");
    let mut stolen = world.signed_in("ben").await;
    world.sessions.end(stolen.token().id(), &Reason::SignedOut.into()).await.unwrap();
    let reply = stolen.get("/me").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.problem()["reason"], "signed_out");
}

#[tokio::test]
async fn r8_expire_sign_out_deletes_the_cookie_and_clears_cache_and_storage() {
    let world = world();
    let mut browser = world.signed_in("anna").await;
    let reply = browser.get("/sign-out").await;
    let expected = "__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
    assert_eq!(reply.set_cookie(), Some(expected));
    assert_eq!(reply.header("clear-site-data"), Some(r#""cache", "storage""#));

    let app = Router::new().route("/out", get(|session: Session| async move { session.sign_out().await }));
    let app = app.layer(layer(&world.sessions).clear_cookies_at_sign_out(true));
    let mut browser = Browser { app, ..world.signed_in("anna").await };
    assert_eq!(browser.get("/out").await.header("clear-site-data"), Some(r#""cache", "storage", "cookies""#));
}

#[tokio::test]
async fn r3_sign_out_everywhere_else_leaves_this_one() {
    let world = world();
    let mut devices = [world.signed_in("anna").await, world.signed_in("anna").await, world.signed_in("anna").await];
    let mut ben = world.signed_in("ben").await;
    let app = Router::new().route(
        "/others",
        get(|session: Session| async move { Ok::<_, Error>(session.sign_out_others().await?.len().to_string()) }),
    );
    let mut here = Browser { app: app.layer(layer(&world.sessions)), ..devices[1].clone() };
    assert_eq!(here.text("/others").await, "2");
    assert_eq!(devices[1].text("/who").await, "anna");
    assert_eq!(ben.text("/who").await, "ben");
    for at in [0, 2] {
        assert_eq!(devices[at].clone().text("/why").await, "signed_out_elsewhere");
        assert_eq!(devices[at].text("/who").await, "nobody");
    }
    assert_eq!(Reason::SignedOutElsewhere.text(), "Force Logged out by the user");
}

#[tokio::test]
async fn r5_people_end_their_own_sessions_and_nobody_else_s() {
    let world = world();
    let anna = world.signed_in("anna").await.token();
    let ben = world.signed_in("ben").await.token();
    let session = Session::anonymous(&world.sessions);
    assert!(!session.sign_out_other(anna.id()).await.unwrap(), "a visitor has none");
    session.sign_in(SignIn::new("anna")).await.unwrap();
    assert!(!session.sign_out_other(ben.id()).await.unwrap());
    assert!(matches!(world.sessions.resume(&ben).await.unwrap(), Found::Live(_)));
    assert!(session.sign_out_other(anna.id()).await.unwrap());
    assert!(matches!(world.sessions.resume(&anna).await.unwrap(), Found::Ended(_)));
}

#[tokio::test]
async fn delete_session_ends_once_and_says_what_it_did() {
    let world = world();
    let token = world.signed_in("anna").await.token();
    let ending = Ending::new(Reason::RevokedByAdmin).by("root").note("ticket 17");
    let EndAnswer::EndedNow(ended) = world.sessions.end(token.id(), &ending).await.unwrap() else { panic!("now") };
    assert_eq!((ended.by.as_deref(), ended.note.as_deref()), (Some("root"), Some("ticket 17")));
    let again = world.sessions.end(token.id(), &Reason::SignedOut.into()).await.unwrap();
    assert_eq!(again, EndAnswer::EndedBefore(ended));
    let unknown = cloakroom::SessionId::generate(cloakroom::store::Partition::random().unwrap()).unwrap();
    assert_eq!(world.sessions.end(unknown, &ending).await.unwrap(), EndAnswer::Unknown(unknown));
}

async fn parallel_sign_ins(world: &World, limit: Limit) -> (Vec<cloakroom::Token>, usize) {
    let sign_ins = (0..50).map(|_| {
        let sessions = world.sessions.clone();
        tokio::spawn(async move { sessions.start(SignIn::new("anna").limit(limit)).await })
    });
    let (mut tokens, mut refused) = (Vec::new(), 0);
    for sign_in in sign_ins.collect::<Vec<_>>() {
        match sign_in.await.unwrap() {
            Ok(started) => tokens.push(started.token),
            Err(Error::Refused(Refusal::LimitReached { max: 3 })) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (tokens, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r6_fifty_parallel_sign_ins_evicting_leave_exactly_three_and_each_loser_is_told_why() {
    let world = world();
    let (tokens, refused) = parallel_sign_ins(&world, Limit::evict(3)).await;
    assert_eq!((tokens.len(), refused), (50, 0));
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 3);
    let mut living = 0;
    for token in &tokens {
        match world.sessions.resume(token).await.unwrap() {
            Found::Live(_) => living += 1,
            Found::Ended(ended) => assert_eq!(ended.reason, Reason::SignedInElsewhere),
            Found::Unknown => panic!("every loser is told why"),
        }
    }
    assert_eq!(living, 3);
    assert_eq!(Reason::SignedInElsewhere.text(), "Logged In From Another Session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r6_fifty_parallel_sign_ins_refusing_let_exactly_three_in() {
    let world = world();
    let (tokens, refused) = parallel_sign_ins(&world, Limit::refuse(3)).await;
    assert_eq!((tokens.len(), refused), (3, 47));
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 3);
}

#[tokio::test]
async fn simultaneous_sessions_the_least_recently_seen_is_evicted() {
    let world = world_with(|builder| builder.limit(Limit::evict(2)));
    let first = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_mins(2));
    let second = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_mins(2));
    world.sessions.resume(&first).await.unwrap();
    world.sessions.flush().await.unwrap();
    let third = world.sessions.start(SignIn::new("anna")).await.unwrap();
    assert_eq!(third.ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [second.id()]);
    assert!(matches!(world.sessions.resume(&first).await.unwrap(), Found::Live(_)));
}

#[tokio::test]
async fn deny_multiple_sessions_ends_the_older_ones_at_a_sign_in() {
    let world = world_with(|builder| builder.limit(Limit::evict(1)));
    let mut older = world.signed_in("anna").await;
    let mut newer = world.browser();
    newer.text("/sign-in?user=anna").await;
    assert_eq!((newer.text("/who").await, older.clone().text("/who").await), ("anna".into(), "nobody".into()));
    assert_eq!(older.text("/why").await, "signed_in_elsewhere");
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_limit_that_refuses_leaves_everything_as_it_was() {
    let world = world_with(|builder| builder.limit(Limit::refuse(1)));
    let mut first = world.signed_in("anna").await;
    let mut second = world.browser();
    second.text("/set?key=cart&value=umbrella").await;
    let reply = second.get("/sign-in?user=anna").await;
    assert_eq!((reply.status, reply.set_cookie()), (StatusCode::CONFLICT, None));
    assert_eq!(reply.problem()["code"], "session_limit");
    assert_eq!(second.text("/get?key=cart").await, "umbrella");
    assert_eq!(first.text("/who").await, "anna");
    // Signing in again in the same browser replaces its own session, which does not count.
    assert_eq!(first.get("/sign-in?user=anna").await.status, StatusCode::OK);
}

#[tokio::test]
async fn r2_validate_user_disabling_ends_all_sessions_and_refuses_new_ones() {
    let world = world();
    let tokens = [world.signed_in("anna").await.token(), world.signed_in("anna").await.token()];
    let ended = world.sessions.users().disable("anna", Some("root".into())).await.unwrap();
    assert_eq!(ended.len(), 2);
    for token in &tokens {
        let Found::Ended(ended) = world.sessions.resume(token).await.unwrap() else { panic!("it ended") };
        assert_eq!((ended.reason, ended.by.as_deref()), (Reason::UserDisabled, Some("root")));
    }
    let reply = world.browser().get("/sign-in?user=anna").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(reply.problem()["code"], "user_disabled");
    world.sessions.users().enable("anna").await.unwrap();
    world.signed_in("anna").await;
}

#[tokio::test]
async fn i3_a_sign_in_under_way_does_not_slip_past_the_end_of_all() {
    let world = world();
    let authenticated = world.sessions.now();
    world.clock.advance(Duration::from_millis(1));
    world.sessions.end_all_of("anna", vec![], &Reason::RevokedByAdmin.into()).await.unwrap();
    let late = SignIn::new("anna").authenticated_at(authenticated);
    let refused = world.sessions.start(late).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::EndedMeanwhile)));
    world.sessions.start(SignIn::new("anna")).await.unwrap();
}

#[tokio::test]
async fn a_visitor_without_a_session_is_sent_to_the_sign_in_page() {
    let world = world();
    let app = Router::new().route("/account", get(|user: cloakroom::SignedIn| async move { user.user().to_owned() }));
    let app = app.layer(layer(&world.sessions).sign_in_page("/sign-in"));
    let reply = Browser { app, cookie: None }.get("/account?tab=orders&x=%22").await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    assert_eq!(reply.header("location"), Some("/sign-in?next=/account%3Ftab%3Dorders%26x%3D%2522"));
}

#[tokio::test]
async fn a_visitor_comes_back_to_what_they_asked_for_and_is_led_nowhere_else() {
    let world = world();
    let app = Router::new()
        .route("/sign-in", get(|next: Next| async move { next.to_string() }))
        .route("/account", get(|user: cloakroom::SignedIn| async move { user.user().to_owned() }));
    let mut browser = Browser { app: app.layer(layer(&world.sessions).sign_in_page("/sign-in")), cookie: None };
    for wanted in ["/account", "/account?tab=orders&x=%22&y=a+b", "/account?next=//evil.example"] {
        let sent = browser.get(wanted).await.header("location").unwrap().to_owned();
        assert_eq!(browser.text(&sent).await, wanted);
    }
    for hostile in ["//evil.example", "/%5Cevil.example", "%2F/evil.example", "https://evil.example", "", "/a&next=/b"]
    {
        assert_eq!(browser.text(&format!("/sign-in?next={hostile}")).await, "/", "{hostile}");
    }
    assert_eq!(browser.text("/sign-in").await, "/");
}

#[tokio::test]
async fn i16_every_coming_and_going_has_its_audit_entry() {
    let world = world();
    let mut browser = world.browser();
    browser.text("/set?key=a&value=1").await;
    let visitor = browser.token().id();
    browser.text("/sign-in?user=anna").await;
    let anna = browser.token().id();
    browser.text("/rotate").await;
    browser.text("/set?key=a&value=2").await;
    browser.text("/sign-out").await;
    let log = world.sessions.audit_log().page(&AuditQuery::default(), None, 100).await.unwrap().items;
    let told: Vec<_> =
        log.iter().map(|logged| (logged.entry.event, logged.entry.session, logged.entry.reason)).collect();
    let expected = [
        (Event::Started, visitor, None),
        (Event::Ended, visitor, Some(Reason::Replaced)),
        (Event::SignedIn, anna, None),
        (Event::Rotated, anna, None),
        (Event::Ended, anna, Some(Reason::SignedOut)),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn ended_wakes_a_connection_that_outlives_its_request() {
    let world = world();
    let session = Session::anonymous(&world.sessions);
    assert!(session.ended().await.unwrap().is_none(), "nothing is stored");
    session.sign_in(SignIn::new("anna")).await.unwrap();
    let connection = session.clone();
    let waiting = tokio::spawn(async move { connection.ended().await.unwrap().unwrap().reason });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let ending = Reason::RevokedByAdmin.into();
    world.sessions.end(session.id().unwrap(), &ending).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Reason::RevokedByAdmin);
    assert_eq!(session.ended().await.unwrap().unwrap().reason, Reason::RevokedByAdmin);
}

#[tokio::test(start_paused = true)]
async fn ended_notices_what_another_process_did() {
    let store: std::sync::Arc<dyn cloakroom::store::Store> =
        std::sync::Arc::new(cloakroom::store::MemoryStore::new().unwrap());
    let node =
        |store: &std::sync::Arc<_>| cloakroom::Sessions::builder(std::sync::Arc::clone(store)).without_upkeep().build();
    let (here, there) = (node(&store).unwrap(), node(&store).unwrap());
    let id = here.start(SignIn::new("anna")).await.unwrap().token.id();
    let waiting = tokio::spawn(async move { here.ended(id).await.unwrap().unwrap().reason });
    tokio::task::yield_now().await;
    there.end(id, &Reason::SignedOut.into()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Reason::SignedOut);
}
