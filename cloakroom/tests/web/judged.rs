//! What the directory of users says counts wherever a token is used, not when a request arrives alone.

use std::time::Duration;

use cloakroom::{
    Client, Error, Found, Impersonate, Reason, Refusal, Session, Sessions, SignIn, Started, Token, User, Visitor,
    audit::Event, sessions::RotatedToken,
};

use super::{
    impersonation::{acting, as_anna, info, log_of, reason},
    staff::{Staff, at, disabled, from_networks, world_of},
    world::{World, spied, world_on},
};

fn ended_for<T: std::fmt::Debug>(outcome: cloakroom::Result<T>) -> Reason {
    match outcome {
        Err(Error::Ended(ended)) => ended.reason,
        other => panic!("it should have ended: {other:?}"),
    }
}

fn two() -> Staff {
    Staff::of([("anna", User::default()), ("root", User::default())])
}

async fn anna(world: &World) -> Started {
    world.sessions.start(SignIn::new("anna")).await.unwrap()
}

/// Lets the directory say it, and be asked anew.
fn disable(world: &World, staff: &Staff, user: &str) {
    staff.set(user, disabled());
    world.clock.advance(Duration::from_secs(5));
}

#[tokio::test]
async fn r2_validate_user_a_rotation_ends_the_sessions_of_a_user_who_was_disabled() {
    let staff = two();
    let world = world_of(&staff);
    let (first, second) = (anna(&world).await, anna(&world).await);
    disable(&world, &staff, "anna");
    assert_eq!(ended_for(world.sessions.rotate(&first.token).await), Reason::UserDisabled);
    assert!(world.sessions.list("anna").await.unwrap().is_empty());
    assert_eq!(reason(&world, &second.token).await, Reason::UserDisabled);
    let log = log_of(&world, first.token.id()).await;
    assert!(log.iter().all(|entry| entry.event != Event::Rotated), "no token was made: {log:?}");
}

#[tokio::test]
async fn r2_validate_user_a_handlers_rotation_asks_the_directory_too() {
    let staff = two();
    let world = world_of(&staff);
    let token = anna(&world).await.token;
    let session = Session::resume(&world.sessions, &token).await.unwrap();
    disable(&world, &staff, "anna");
    assert_eq!(ended_for(session.rotate().await), Reason::UserDisabled);
    assert_eq!(reason(&world, &token).await, Reason::UserDisabled);
}

#[tokio::test]
async fn restrict_ip_a_rotation_from_elsewhere_is_refused_and_leaves_the_token() {
    let staff = Staff::of([("anna", from_networks(&["10.0.0.0/8"]))]);
    let world = world_of(&staff);
    let client = Client { ip: at("10.1.2.3"), ..Client::default() };
    let token = world.sessions.start(SignIn::new("anna").client(client)).await.unwrap().token;
    for elsewhere in ["192.0.2.1", ""].map(at) {
        let refused = world.sessions.rotate(Visitor::new(&token).ip(elsewhere)).await;
        assert!(matches!(refused, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{refused:?}");
    }
    let refused = world.sessions.rotate(&token).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{refused:?}");
    // It is the current one still: a token that was replaced could not be rotated.
    let session = Session::resume(&world.sessions, Visitor::new(&token).ip(at("10.9.9.9"))).await.unwrap();
    session.rotate().await.unwrap();
    let rotated = world.sessions.rotate(Visitor::new(&token).ip(at("10.9.9.9"))).await.unwrap();
    assert!(matches!(rotated, RotatedToken::Superseded { .. }), "{rotated:?}");
    let events: Vec<_> = log_of(&world, token.id()).await.into_iter().map(|entry| entry.event).collect();
    assert_eq!(events, [Event::SignedIn, Event::Refused, Event::Refused, Event::Refused, Event::Rotated]);
}

#[tokio::test]
async fn r2_rotating_a_session_in_which_somebody_acts_ends_it_once_either_is_disabled() {
    for who in ["anna", "root"] {
        let staff = two();
        let world = world_of(&staff);
        let (_, acting) = acting(&world).await;
        disable(&world, &staff, who);
        assert_eq!(ended_for(world.sessions.rotate(&acting.token).await), Reason::UserDisabled, "{who}");
        assert_eq!(reason(&world, &acting.token).await, Reason::UserDisabled, "{who}");
    }
}

#[tokio::test]
async fn r2_who_was_disabled_cannot_begin_to_act_as_another() {
    let staff = two();
    let world = world_of(&staff);
    let root = world.sessions.start(SignIn::new("root")).await.unwrap();
    disable(&world, &staff, "root");
    assert_eq!(ended_for(world.sessions.impersonate(&root.token, as_anna()).await), Reason::UserDisabled);
    assert!(world.sessions.list("root").await.unwrap().is_empty());
}

#[tokio::test]
async fn r2_nobody_goes_back_once_either_is_disabled() {
    for who in ["anna", "root"] {
        let staff = two();
        let world = world_of(&staff);
        let (root, acting) = acting(&world).await;
        disable(&world, &staff, who);
        assert_eq!(ended_for(world.sessions.stop_impersonating(&acting.token).await), Reason::UserDisabled, "{who}");
        assert_eq!(reason(&world, &acting.token).await, Reason::UserDisabled, "{who}");
        let own = world.sessions.get(root.token.id()).await.unwrap();
        assert_eq!(matches!(own, Found::Live(_)), who == "anna", "{own:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_a_connection_that_waits_for_its_sessions_end_hears_of_it() {
    let staff = two();
    let world = world_of(&staff);
    let session = Session::resume(&world.sessions, &anna(&world).await.token).await.unwrap();
    disable(&world, &staff, "anna");
    let ended = tokio::time::timeout(Sessions::WATCH_INTERVAL, session.ended()).await.expect("it waits for ever");
    assert_eq!(ended.unwrap().unwrap().reason, Reason::UserDisabled);
}

#[tokio::test]
async fn i9_a_rotation_costs_two_trips_and_with_a_directory_one_more() {
    let (world, spy) = spied();
    let token = anna(&world).await.token;
    spy.reset();
    world.sessions.rotate(&token).await.unwrap();
    assert_eq!((spy.counts().read, spy.counts().head, spy.counts().total()), (1, 1, 2));

    let world = world_on(spy.clone(), |builder| builder.users(two()));
    let token: Token = anna(&world).await.token;
    spy.reset();
    world.sessions.rotate(&token).await.unwrap();
    assert_eq!((spy.counts().read, spy.counts().head, spy.counts().total()), (2, 1, 3));
}

#[tokio::test]
async fn the_actors_networks_count_where_they_begin_to_act_and_the_refusal_names_them() {
    let staff = two();
    let world = world_of(&staff);
    let root = world.sessions.start(SignIn::new("root")).await.unwrap();
    staff.set("root", from_networks(&["10.0.0.0/8"]));
    let client = Client { ip: at("192.0.2.1"), ..Client::default() };
    let away = world.sessions.impersonate(&root.token, Impersonate::new("anna", "ticket 17").client(client)).await;
    assert!(matches!(away, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{away:?}");
    let [entry] = &*super::staff::refusals(&world.sessions, "anna").await else { panic!("there is one") };
    assert_eq!(entry.note.as_deref(), Some("root: the user may not come from this address (ticket 17)"));
    staff.set("root", User::default());
    world.clock.advance(Duration::from_secs(5));
    info(&world, &root.token).await;
}
