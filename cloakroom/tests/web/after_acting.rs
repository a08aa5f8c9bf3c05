//! What becomes of a session in which somebody acts as another, and of their own, when either is over.

use cloakroom::{
    Change, Error, Found, Json, Limit, Reason, Session, SessionId, SignIn, Token,
    rules::{Gone, Updated},
    store::Query,
    testing::Call,
};
use http::StatusCode;

use super::{
    impersonation::{MINUTE, acting, as_anna, info, log_of, reason, root, shop},
    world::{Browser, World, spied, world, world_with},
};

/// A browser in which root acts as anna, and the id of root's own session.
async fn browser_acting(world: &World) -> (Browser, SessionId) {
    let mut browser = shop(world);
    browser.text("/sign-in?user=root").await;
    let own = browser.token().id();
    browser.text("/act").await;
    (browser, own)
}

async fn ended_reason(world: &World, id: SessionId) -> Reason {
    match world.sessions.get(id).await.unwrap() {
        Found::Ended(ended) => ended.reason,
        other => panic!("it should have ended: {other:?}"),
    }
}

async fn sessions_of(world: &World, user: &str) -> usize {
    world.sessions.find(&Query::of_user(user), None, 10).await.unwrap().items.len()
}

#[tokio::test]
async fn set_impersonated_a_sign_in_ends_the_actors_own_session_too() {
    for user in ["carl", "root", "anna"] {
        let world = world();
        let (mut browser, own) = browser_acting(&world).await;
        let acting = browser.token().id();
        browser.text("/set?key=note&value=as-anna").await;
        let mut late = browser.clone();
        browser.text(&format!("/sign-in?user={user}")).await;
        assert_eq!((browser.text("/me").await, browser.text("/actor").await), (user.to_owned(), String::new()));
        assert_eq!(browser.text("/get?key=note").await, "-", "{user}: root put it in, and not {user}");

        let mut left: Vec<_> = Vec::new();
        for person in ["root", "anna", "carl"] {
            left.extend(world.sessions.find(&Query::of_user(person), None, 10).await.unwrap().items);
        }
        assert_eq!(left.iter().map(|info| info.id).collect::<Vec<_>>(), [browser.token().id()], "{user}");
        for id in [own, acting] {
            assert_eq!(ended_reason(&world, id).await, Reason::Replaced, "{user}");
            assert_eq!(log_of(&world, id).await.pop().unwrap().reason, Some(Reason::Replaced), "{user}");
        }
        // A request that was under way leaves the new cookie alone (I2).
        let reply = late.get("/who").await;
        assert_eq!((reply.body.as_str(), reply.set_cookie()), ("nobody", None), "{user}");
    }
}

#[tokio::test]
async fn set_impersonated_a_sign_in_answers_with_both_sessions_that_ended() {
    let world = world();
    let (root, acting) = acting(&world).await;
    let session = Session::resume(&world.sessions, &acting.token).await.unwrap();
    let ended = session.sign_in(SignIn::new("carl")).await.unwrap();
    assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [root.token.id(), acting.token.id()]);
    assert!(ended.iter().all(|ended| ended.reason == Reason::Replaced));
}

#[tokio::test]
async fn a_limit_does_not_count_the_session_that_waits_for_its_actor() {
    let world = world_with(|builder| builder.limit(Limit::refuse(1)));
    let (mut browser, own) = browser_acting(&world).await;
    browser.text("/sign-in?user=root").await;
    let living = world.sessions.list("root").await.unwrap();
    assert_eq!(living.iter().map(|info| info.id).collect::<Vec<_>>(), [browser.token().id()]);
    assert_eq!(ended_reason(&world, own).await, Reason::Replaced);
}

#[tokio::test]
async fn set_impersonated_a_sign_in_that_is_refused_leaves_both_sessions_as_they_were() {
    let world = world();
    world.sessions.users().disable("carl", None).await.unwrap();
    let (mut browser, own) = browser_acting(&world).await;
    assert_eq!(browser.get("/sign-in?user=carl").await.status, StatusCode::FORBIDDEN);
    assert_eq!((browser.text("/me").await, browser.text("/actor").await), ("anna".into(), "root".into()));
    browser.text("/back").await;
    assert_eq!(browser.token().id(), own);
    assert_eq!(browser.text("/me").await, "root");
}

#[tokio::test]
async fn set_impersonated_a_sign_in_that_breaks_off_leaves_nothing_that_can_be_used() {
    let (world, spy) = spied();
    let (root, acting) = acting(&world).await;
    let session = Session::resume(&world.sessions, &acting.token).await.unwrap();
    spy.fail_next(Call::End);
    let ended = session.sign_in(SignIn::new("carl")).await.unwrap();
    assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [root.token.id()]);
    assert_eq!(sessions_of(&world, "anna").await, 0);
    assert_eq!(reason(&world, &acting.token).await, Reason::Replaced);
}

#[tokio::test]
async fn set_impersonated_that_is_over_leaves_no_way_back_and_the_actor_signs_in_again() {
    type End = fn(&World, SessionId) -> futures_util::future::BoxFuture<'_, ()>;
    let endings: [(End, Reason); 2] = [
        (|world, _| Box::pin(async move { world.clock.advance(10 * MINUTE) }), Reason::AbsoluteTimeout),
        (
            |world, acting| {
                Box::pin(async move {
                    world.clock.advance(10 * MINUTE);
                    world.sessions.end(acting, &Reason::RevokedByAdmin.into()).await.unwrap();
                })
            },
            Reason::RevokedByAdmin,
        ),
    ];
    for (end, expected) in endings {
        let world = world();
        let root = root(&world).await;
        let minutes = if expected == Reason::AbsoluteTimeout { 10 } else { 30 };
        let acting = world.sessions.impersonate(&root.token, as_anna().minutes(minutes)).await.unwrap();
        end(&world, acting.token.id()).await;
        assert_eq!(reason(&world, &acting.token).await, expected);
        let Error::Ended(ended) = world.sessions.stop_impersonating(&acting.token).await.unwrap_err() else { panic!() };
        assert_eq!(ended.reason, expected, "their own session opens to nobody");
        assert_eq!(reason(&world, &root.token).await, Reason::Replaced);

        // It is in the list until its own time is over, where its owner may end it.
        let again = world.sessions.start(SignIn::new("root")).await.unwrap();
        let list: Vec<_> = world.sessions.list("root").await.unwrap().into_iter().map(|info| info.id).collect();
        assert_eq!(list, [again.token.id(), root.token.id()]);
        world.clock.advance(50 * MINUTE);
        info(&world, &again.token).await;
        assert_eq!(ended_reason(&world, root.token.id()).await, Reason::IdleTimeout);
    }
}

#[tokio::test]
async fn set_impersonated_that_ran_out_tells_the_browser_why() {
    let world = world();
    let (mut browser, _) = browser_acting(&world).await;
    world.clock.advance(60 * MINUTE);
    let reply = browser.get("/back").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        (&reply.problem()["code"], &reply.problem()["reason"]),
        (&"session_ended".into(), &"absolute_timeout".into())
    );
    browser.text("/sign-in?user=root").await;
    assert_eq!(browser.text("/me").await, "root");
}

async fn gone(world: &World, token: &Token, own: SessionId) {
    world.sessions.end(own, &Reason::RevokedByAdmin.into()).await.unwrap();
    let Error::Ended(ended) = world.sessions.rotate(token).await.unwrap_err() else { panic!("its actor is gone") };
    assert_eq!(ended.reason, Reason::RevokedByAdmin);
}

#[tokio::test]
async fn i2_rotating_a_session_whose_actor_is_gone_makes_no_token() {
    let world = world();
    let (root, acting) = acting(&world).await;
    gone(&world, &acting.token, root.token.id()).await;
    assert_eq!(reason(&world, &acting.token).await, Reason::RevokedByAdmin);
    assert_eq!(sessions_of(&world, "anna").await, 0);
}

#[tokio::test]
async fn i2_a_rotation_that_was_overtaken_does_not_serve_a_session_whose_actor_is_gone() {
    let world = world();
    let (root, acting) = acting(&world).await;
    world.sessions.rotate(&acting.token).await.unwrap();
    gone(&world, &acting.token, root.token.id()).await;
}

#[tokio::test]
async fn i2_a_session_whose_actor_is_gone_is_neither_changed_nor_read_nor_locked() {
    type Use = fn(&World, SessionId) -> futures_util::future::BoxFuture<'_, cloakroom::Result<Updated>>;
    let uses: [Use; 3] = [
        |world, id| Box::pin(async move { world.sessions.update(id, &change(world)).await }),
        |world, id| {
            Box::pin(async move {
                let stale = Change { if_version: Some(7), ..change(world) };
                world.sessions.update(id, &stale).await
            })
        },
        |world, id| Box::pin(async move { world.sessions.lock(id).await.map(|(_, record)| Updated::Applied(record)) }),
    ];
    for (number, use_it) in uses.into_iter().enumerate() {
        let world = world();
        let (root, acting) = acting(&world).await;
        world.sessions.end(root.token.id(), &Reason::RevokedByAdmin.into()).await.unwrap();
        let ended = match use_it(&world, acting.token.id()).await {
            Ok(Updated::Gone(Gone::Ended(ended))) => ended,
            Err(Error::Ended(ended)) => *ended,
            other => panic!("{number}: its actor is gone, but {other:?}"),
        };
        assert_eq!(ended.reason, Reason::RevokedByAdmin, "{number}");
    }
}

#[tokio::test]
async fn i2_a_handler_in_flight_is_told_that_the_actor_is_gone() {
    let world = world();
    let (root, acting) = acting(&world).await;
    let session = Session::resume(&world.sessions, &acting.token).await.unwrap();
    world.sessions.end(root.token.id(), &Reason::RevokedByAdmin.into()).await.unwrap();
    let error = session.modify_now("n", |n: Option<u32>| n.unwrap_or(0) + 1).await.unwrap_err();
    assert!(matches!(&error, Error::Ended(ended) if ended.reason == Reason::RevokedByAdmin), "{error:?}");
}

#[tokio::test]
async fn i9_a_change_costs_one_call_and_where_somebody_acts_one_load_more() {
    let (world, spy) = spied();
    let (_, acting) = acting(&world).await;
    let own = root(&world).await;
    for (id, calls) in [(own.token.id(), 1), (acting.token.id(), 2)] {
        spy.reset();
        world.sessions.update(id, &change(&world)).await.unwrap();
        assert_eq!(spy.counts().total(), calls);
    }
}

fn change(world: &World) -> Change {
    let mut change = world.sessions.change();
    change.set("note", Json::from_text("1").unwrap());
    change
}
