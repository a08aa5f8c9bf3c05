//! Acting as somebody else, and going back.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Assurance, Builder, Client, Error, Found, Impersonate, Limit, Reason, Refusal, Session, SessionId, SessionInfo,
    SignIn, Started, Token, User, Visitor,
    audit::{AuditEntry, Event},
    error::ImpersonationRefusal,
    rules::Rules,
    store::{AuditQuery, Query},
    testing::Call,
    users::UserPatch,
};
use http::StatusCode;

use super::{
    framework::{Router, get, layer},
    world::{Browser, World, spied, world, world_with},
};

pub(crate) const MINUTE: Duration = Duration::from_mins(1);

pub(crate) fn as_anna() -> Impersonate {
    Impersonate::new("anna", "ticket 17")
}

pub(crate) async fn root(world: &World) -> Started {
    world.sessions.start(SignIn::new("root").user_type("administrator")).await.unwrap()
}

pub(crate) async fn acting(world: &World) -> (Started, Started) {
    let root = root(world).await;
    let acting = world.sessions.impersonate(&root.token, as_anna()).await.unwrap();
    (root, acting)
}

pub(crate) async fn info(world: &World, token: &Token) -> SessionInfo {
    match world.sessions.resume(token).await.unwrap() {
        Found::Live(record) => record.info.clone(),
        other => panic!("it should live: {other:?}"),
    }
}

pub(crate) async fn reason(world: &World, token: &Token) -> Reason {
    match world.sessions.resume(token).await.unwrap() {
        Found::Ended(ended) => ended.reason,
        other => panic!("it should have ended: {other:?}"),
    }
}

pub(crate) async fn log_of(world: &World, session: SessionId) -> Vec<AuditEntry> {
    let query = AuditQuery { session: Some(session), user: None };
    let page = world.sessions.audit_log().page(&query, None, 100).await.unwrap();
    page.items.into_iter().map(|logged| logged.entry).collect()
}

#[tokio::test]
async fn set_impersonated_keeps_both_identities_the_reason_and_an_end() {
    let world = world();
    let client = Client { ip: Some("192.0.2.9".parse().unwrap()), ..Client::default() };
    let sign_in = SignIn::new("root").client(client).methods("pwd otp").authenticated_level(Assurance::Aal2);
    let root = world.sessions.start(sign_in).await.unwrap();
    world.clock.advance(10 * MINUTE);
    let impersonate = as_anna().full_name("Anna Berg").user_type("customer").minutes(30);
    let acting = world.sessions.impersonate(&root.token, impersonate).await.unwrap();

    let found = info(&world, &acting.token).await;
    let original = &root.record.info;
    let both = (found.user.as_deref(), found.impersonator().map(|by| &**by), found.returns_to());
    assert_eq!(both, (Some("anna"), Some("root"), Some(original.id)));
    assert_eq!((found.full_name.as_deref(), found.user_type.as_deref()), (Some("Anna Berg"), Some("customer")));
    assert_eq!(found.ends_at, Some(world.sessions.now().after(30 * MINUTE)));
    // Who really acts proved it so and then, from there: that counts, whoever they act as.
    assert_eq!((found.level(), found.methods()), (Some(Assurance::Aal2), Some("pwd otp")));
    assert_eq!((found.authenticated_at(), &found.client), (original.authenticated_at(), &original.client));
    assert!(found.id != original.id && acting.record.data.is_empty());

    world.sessions.end(found.id, &Reason::SignedOut.into()).await.unwrap();
    let log = log_of(&world, found.id).await;
    assert_eq!(log.iter().map(|entry| entry.event).collect::<Vec<_>>(), [Event::Impersonated, Event::Ended]);
    assert!(log.iter().all(|entry| entry.user.as_deref() == Some("anna")));
    assert!(log.iter().all(|entry| entry.impersonated_by.as_deref() == Some("root")));
    assert_eq!((log[0].note.as_deref(), log[0].by.as_deref()), (Some("ticket 17"), Some("root")));
}

#[tokio::test]
async fn set_impersonated_leaves_the_others_sessions_limits_and_last_sign_in_alone() {
    let world = world_with(|builder| builder.limit(Limit::evict(1)));
    let own = world.sessions.start(SignIn::new("anna")).await.unwrap();
    let before = world.sessions.list("anna").await.unwrap();
    world.clock.advance(5 * MINUTE);
    let (root, acting) = acting(&world).await;
    info(&world, &acting.token).await;
    world.sessions.flush().await.unwrap();
    assert_eq!(world.sessions.list("anna").await.unwrap(), before, "the list of her own devices is as it was");
    assert_eq!(info(&world, &own.token).await.id, own.token.id(), "nor was she signed out");

    // Her next sign-in ends her own session, and not that of who acts as her.
    let next = world.sessions.start(SignIn::new("anna")).await.unwrap();
    assert_eq!(next.ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [own.token.id()]);
    info(&world, &acting.token).await;

    // An administrator sees who acts as whom.
    let of_anna = world.sessions.find(&Query::of_user("anna"), None, 10).await.unwrap().items;
    assert_eq!(of_anna.iter().filter(|info| info.impersonator().is_some()).count(), 1);
    let query = Query { impersonated_by: Some("root".into()), ..Query::default() };
    let by_root = world.sessions.find(&query, None, 10).await.unwrap().items;
    assert_eq!(by_root.iter().map(|info| info.id).collect::<Vec<_>>(), [acting.token.id()]);
    world.sessions.end(root.token.id(), &Reason::RevokedByAdmin.into()).await.unwrap();
    assert!(world.sessions.find(&query, None, 10).await.unwrap().items.is_empty(), "nobody acts any more");
}

#[tokio::test]
async fn l2_the_actors_tokens_are_dead_at_once_and_nobody_is_taken_for_a_thief() {
    let world = world();
    let first = root(&world).await;
    // One that another request is still served with, for the grace of a rotation.
    let cloakroom::sessions::RotatedToken::Rotated { token: second, .. } =
        world.sessions.rotate(&first.token).await.unwrap()
    else {
        panic!("nobody else rotates")
    };
    let acting = world.sessions.impersonate(&second, as_anna()).await.unwrap();
    for dead in [&first.token, &second] {
        assert_eq!(reason(&world, dead).await, Reason::Replaced);
        assert!(matches!(world.sessions.rotate(dead).await, Err(Error::Ended(_))));
        assert!(matches!(world.sessions.impersonate(dead, as_anna()).await, Err(Error::Ended(_))));
    }
    info(&world, &acting.token).await;

    let returned = world.sessions.stop_impersonating(&acting.token).await.unwrap();
    assert_eq!(returned.token.id(), first.token.id(), "the same session");
    assert_eq!(info(&world, &returned.token).await.user.as_deref(), Some("root"));
    assert_eq!(reason(&world, &acting.token).await, Reason::ImpersonationEnded);
    for dead in [&first.token, &second] {
        assert_eq!(reason(&world, dead).await, Reason::Replaced, "dead, and no evidence of theft");
    }
    info(&world, &returned.token).await;
    let events: Vec<_> = log_of(&world, first.token.id()).await.into_iter().map(|entry| entry.event).collect();
    assert_eq!(events, [Event::SignedIn, Event::Rotated, Event::Rotated, Event::Rotated]);
}

#[tokio::test]
async fn set_impersonated_ends_when_either_persons_sessions_do() {
    type End = fn(&World, SessionId) -> futures_util::future::BoxFuture<'_, ()>;
    let endings: [(End, Reason); 7] = [
        (
            |world, root| Box::pin(async move { drop(world.sessions.end(root, &Reason::RevokedByAdmin.into()).await) }),
            Reason::RevokedByAdmin,
        ),
        (
            |world, _| {
                Box::pin(
                    async move { drop(world.sessions.end_all_of("root", vec![], &Reason::AllRevoked.into()).await) },
                )
            },
            Reason::AllRevoked,
        ),
        (
            |world, _| Box::pin(async move { drop(world.sessions.users().disable("root", None).await) }),
            Reason::UserDisabled,
        ),
        (
            |world, _| {
                Box::pin(
                    async move { drop(world.sessions.end_all_of("anna", vec![], &Reason::AllRevoked.into()).await) },
                )
            },
            Reason::AllRevoked,
        ),
        (
            |world, _| Box::pin(async move { drop(world.sessions.users().disable("anna", None).await) }),
            Reason::UserDisabled,
        ),
        (|world, _| Box::pin(async move { world.clock.advance(59 * MINUTE) }), Reason::IdleTimeout),
        // The tombstone of the actor's session was forgotten.
        (
            |world, root| {
                Box::pin(async move {
                    world.sessions.end(root, &Reason::RevokedByAdmin.into()).await.unwrap();
                    let now = world.sessions.now();
                    let reap =
                        cloakroom::rules::Reap { limit: 9, tombstones_before: now, audit_before: now.before(MINUTE) };
                    Rules::new(Arc::clone(world.sessions.store())).reap(&reap, now).await.unwrap();
                })
            },
            Reason::ImpersonationEnded,
        ),
    ];
    for (number, (end, expected)) in endings.into_iter().enumerate() {
        let world = world();
        let root = world.sessions.start(SignIn::new("root").idle_timeout(59 * MINUTE)).await.unwrap();
        let acting = world.sessions.impersonate(&root.token, as_anna()).await.unwrap();
        info(&world, &acting.token).await;
        end(&world, root.token.id()).await;
        // By its id, too.
        let found = world.sessions.get(acting.token.id()).await.unwrap();
        assert!(matches!(&found, Found::Ended(ended) if ended.reason == expected), "{number}: {found:?}");
        assert_eq!(reason(&world, &acting.token).await, expected, "{number}");
        assert!(world.sessions.stop_impersonating(&acting.token).await.is_err(), "there is no way back");
    }
}

#[tokio::test]
async fn set_impersonated_lives_no_longer_than_the_actors_own_session() {
    let world = world();
    let end = world.sessions.now().after(20 * MINUTE);
    let root = world.sessions.start(SignIn::new("root").ends_at(end)).await.unwrap();
    let acting = world.sessions.impersonate(&root.token, as_anna()).await.unwrap();
    assert_eq!(acting.record.info.ends_at, Some(end));
    world.clock.advance(20 * MINUTE);
    assert_eq!(reason(&world, &acting.token).await, Reason::AbsoluteTimeout);
    assert!(matches!(world.sessions.stop_impersonating(&acting.token).await, Err(Error::Ended(_))));
}

#[tokio::test]
async fn set_impersonated_use_keeps_both_sessions_alive() {
    let world = world();
    let root = world.sessions.start(SignIn::new("root")).await.unwrap();
    let acting = world.sessions.impersonate(&root.token, as_anna().lasting(5 * 60 * MINUTE)).await.unwrap();
    for _ in 0..5 {
        world.clock.advance(55 * MINUTE);
        info(&world, &acting.token).await;
        world.sessions.flush().await.unwrap();
    }
    let returned = world.sessions.stop_impersonating(&acting.token).await.unwrap();
    assert_eq!(info(&world, &returned.token).await.id, root.token.id());
    // Looking is not use.
    world.clock.advance(59 * MINUTE);
    world.sessions.resume(Visitor::new(&returned.token).touch(false)).await.unwrap();
    world.clock.advance(MINUTE);
    assert_eq!(reason(&world, &returned.token).await, Reason::IdleTimeout);
}

#[tokio::test]
async fn set_impersonated_is_refused_clearly_and_the_refusal_is_in_the_audit_log() {
    let world = world_with(|builder| builder.impersonation_limit(120 * MINUTE));
    let root = root(&world).await;
    let most = 120 * MINUTE;
    for (impersonate, why, note) in [
        (
            Impersonate::new("root", "ticket 17"),
            ImpersonationRefusal::Oneself,
            "to act as root: this is the same person (ticket 17)",
        ),
        (
            Impersonate::new("anna", ""),
            ImpersonationRefusal::NoReason,
            "to act as anna: say why: the reason is kept in the audit log",
        ),
        (
            Impersonate::new("anna", " "),
            ImpersonationRefusal::NoReason,
            "to act as anna: say why: the reason is kept in the audit log ( )",
        ),
        (
            as_anna().minutes(121),
            ImpersonationRefusal::TooLong { most },
            "to act as anna: it must last some time, and at most 02:00:00 (h:m:s) (ticket 17)",
        ),
        (
            as_anna().minutes(0),
            ImpersonationRefusal::TooLong { most },
            "to act as anna: it must last some time, and at most 02:00:00 (h:m:s) (ticket 17)",
        ),
        (
            as_anna().user_type("administrator"),
            ImpersonationRefusal::Policy,
            "to act as anna: the policy forbids it (ticket 17)",
        ),
    ] {
        let error = world.sessions.impersonate(&root.token, impersonate).await.unwrap_err();
        assert!(matches!(error, Error::ImpersonationRefused(found) if found == why), "{error:?}");
        let entry = log_of(&world, root.token.id()).await.pop().unwrap();
        assert_eq!((entry.event, entry.user.as_deref()), (Event::Refused, Some("root")));
        assert_eq!(entry.note.as_deref(), Some(note));
        assert_eq!(info(&world, &root.token).await.id, root.token.id(), "and nothing has changed");
    }
    let visitor = world.sessions.start(SignIn::anonymous()).await.unwrap();
    let auditor = world.sessions.start(SignIn::new("bert").audit_user("olga")).await.unwrap();
    let acting = world.sessions.impersonate(&root.token, as_anna()).await.unwrap();
    for (token, why) in [
        (&visitor.token, ImpersonationRefusal::NobodySignedIn),
        (&auditor.token, ImpersonationRefusal::Nested),
        (&acting.token, ImpersonationRefusal::Nested),
    ] {
        let error = world.sessions.impersonate(token, Impersonate::new("carl", "x")).await.unwrap_err();
        assert!(matches!(error, Error::ImpersonationRefused(found) if found == why), "{error:?}");
        assert_eq!(log_of(&world, token.id()).await.pop().unwrap().event, Event::Refused);
    }
    let nested = log_of(&world, acting.token.id()).await.pop().unwrap();
    assert_eq!((nested.user.as_deref(), nested.impersonated_by.as_deref()), (Some("anna"), Some("root")));
    for bad in [Impersonate::new("", "x"), Impersonate::new("a\nb", "x"), Impersonate::new("anna", "a\nb")] {
        let error = world.sessions.impersonate(&root.token, bad).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    }
    let unknown =
        Token::generate(SessionId::generate(cloakroom::store::Partition::random().unwrap()).unwrap()).unwrap();
    assert!(matches!(world.sessions.impersonate(&unknown, as_anna()).await, Err(Error::UnknownSession)));
}

#[tokio::test]
async fn set_impersonated_refuses_a_disabled_user() {
    let world = world();
    world.sessions.users().disable("anna", None).await.unwrap();
    let root = root(&world).await;
    let error = world.sessions.impersonate(&root.token, as_anna()).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refusal::UserDisabled)), "{error:?}");
    info(&world, &root.token).await;
    let query = AuditQuery { user: Some("anna".into()), session: None };
    let entry = world.sessions.audit_log().page(&query, None, 10).await.unwrap().items.pop().unwrap().entry;
    assert_eq!((entry.event, entry.impersonated_by.as_deref()), (Event::Refused, Some("root")));
    assert_eq!(entry.note.as_deref(), Some("the user is disabled (ticket 17)"));
}

#[tokio::test]
async fn set_impersonated_follows_the_deployments_own_policy() {
    let world = world_with(|builder| {
        builder.may_impersonate(|actor, target| {
            actor.user_type.as_deref() == Some("support") && target.user_type.as_deref() == Some("customer")
        })
    });
    let root = root(&world).await;
    let support = world.sessions.start(SignIn::new("sue").user_type("support")).await.unwrap();
    let customer = || as_anna().user_type("customer");
    for (token, impersonate) in [(&root.token, customer()), (&support.token, as_anna())] {
        let error = world.sessions.impersonate(token, impersonate).await.unwrap_err();
        assert!(matches!(error, Error::ImpersonationRefused(ImpersonationRefusal::Policy)), "{error:?}");
    }
    world.sessions.impersonate(&support.token, customer()).await.unwrap();
}

#[tokio::test]
async fn set_impersonated_goes_by_the_networks_of_who_acts() {
    let world = world_with(Builder::stored_users);
    let sessions = &world.sessions;
    let from = |ip: &str| Client { ip: Some(ip.parse().unwrap()), ..Client::default() };
    for (user, network) in [("root", "192.0.2.0/24"), ("anna", "203.0.113.0/24")] {
        let settings = User { allowed_networks: vec![network.parse().unwrap()], ..User::default() };
        sessions.users().put(user, settings, None).await.unwrap();
    }
    let root = sessions.start(SignIn::new("root").client(from("192.0.2.9"))).await.unwrap();
    let away = sessions.impersonate(&root.token, as_anna().client(from("203.0.113.1"))).await.unwrap_err();
    assert!(matches!(away, Error::Refused(Refusal::NetworkNotAllowed)), "{away:?}");

    // Where their own session was started from, unless told otherwise.
    let acting = sessions.impersonate(&root.token, as_anna()).await.unwrap();
    let away = sessions.resume(Visitor::new(&acting.token).ip(from("203.0.113.1").ip)).await;
    assert!(matches!(away, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{away:?}");
    assert!(matches!(sessions.resume(Visitor::new(&acting.token).ip(from("192.0.2.8").ip)).await, Ok(Found::Live(_))));
    assert_eq!(sessions.users().get("anna").await.unwrap().unwrap().last_sign_in, None, "she did not sign in");
    let returned = sessions.stop_impersonating(&acting.token).await.unwrap();
    assert!(matches!(
        sessions.resume(Visitor::new(&returned.token).ip(from("192.0.2.8").ip)).await,
        Ok(Found::Live(_))
    ));
}

#[tokio::test]
async fn set_impersonated_in_flight_does_not_slip_past_the_end_of_either_person() {
    for (disabled, call) in [("anna", Call::Create), ("anna", Call::Head), ("root", Call::Create), ("root", Call::Head)]
    {
        let (world, spy) = spied();
        let root = root(&world).await;
        let gate = spy.hold_next(call);
        let (sessions, token) = (world.sessions.clone(), root.token.clone());
        let starting = tokio::spawn(async move { sessions.impersonate(&token, as_anna()).await });
        gate.reached().await;
        world.clock.advance(Duration::from_millis(1));
        world.sessions.users().disable(disabled, None).await.unwrap();
        gate.release();
        match starting.await.unwrap() {
            Ok(acting) => assert_eq!(reason(&world, &acting.token).await, Reason::UserDisabled, "{disabled}, {call:?}"),
            Err(error) => {
                assert!(matches!(error, Error::Refused(_) | Error::Ended(_)), "{disabled}, {call:?}: {error:?}");
            }
        }
        let query = Query { impersonated_by: Some("root".into()), ..Query::default() };
        assert!(world.sessions.find(&query, None, 10).await.unwrap().items.is_empty(), "{disabled}, {call:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn set_impersonated_of_many_at_once_none_survives_disabling() {
    let world = world();
    let mut roots = Vec::new();
    for n in 0..32 {
        roots.push(world.sessions.start(SignIn::new(format!("root {n}"))).await.unwrap().token);
    }
    world.clock.advance(MINUTE);
    let starting: Vec<_> = roots
        .into_iter()
        .map(|token| {
            let sessions = world.sessions.clone();
            tokio::spawn(async move { sessions.impersonate(&token, as_anna()).await })
        })
        .collect();
    world.sessions.users().disable("anna", None).await.unwrap();
    for started in starting {
        match started.await.unwrap() {
            Ok(acting) => assert_eq!(reason(&world, &acting.token).await, Reason::UserDisabled),
            Err(error) => assert!(matches!(error, Error::Refused(Refusal::UserDisabled)), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l2_of_parallel_impersonations_with_one_token_one_starts() {
    let world = world();
    let root = root(&world).await;
    let starting: Vec<_> = (0..16)
        .map(|_| {
            let (sessions, token) = (world.sessions.clone(), root.token.clone());
            tokio::spawn(async move { sessions.impersonate(&token, as_anna()).await })
        })
        .collect();
    let mut started = Vec::new();
    for starting in starting {
        match starting.await.unwrap() {
            Ok(acting) => started.push(acting),
            Err(error) => assert!(matches!(error, Error::Ended(_)), "{error:?}"),
        }
    }
    assert_eq!(started.len(), 1);
    let query = Query { impersonated_by: Some("root".into()), ..Query::default() };
    assert_eq!(world.sessions.find(&query, None, 100).await.unwrap().items.len(), 1, "of the others nothing is left");
    world.sessions.stop_impersonating(&started[0].token).await.unwrap();
}

#[tokio::test]
async fn set_impersonated_a_failing_store_leaves_no_half_of_it() {
    for call in [Call::Create, Call::Head] {
        let (world, spy) = spied();
        let root = root(&world).await;
        spy.fail_next(call);
        let error = world.sessions.impersonate(&root.token, as_anna()).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        let query = Query { impersonated_by: Some("root".into()), ..Query::default() };
        assert!(world.sessions.find(&query, None, 10).await.unwrap().items.is_empty(), "{call:?}");
        world.sessions.impersonate(&root.token, as_anna()).await.unwrap();
    }
    // Where going back fails, the way back stays.
    let (world, spy) = spied();
    let (_, other) = acting(&world).await;
    spy.fail_next(Call::Head);
    assert!(world.sessions.stop_impersonating(&other.token).await.unwrap_err().is_retryable());
    let returned = world.sessions.stop_impersonating(&other.token).await.unwrap();
    assert_eq!(info(&world, &returned.token).await.user.as_deref(), Some("root"));
    // Once it is done, it needs no ending to be over.
    let (_, other) = acting(&world).await;
    spy.fail_next(Call::End);
    let returned = world.sessions.stop_impersonating(&other.token).await.unwrap();
    assert_eq!(info(&world, &returned.token).await.user.as_deref(), Some("root"));
    assert_eq!(reason(&world, &other.token).await, Reason::ImpersonationEnded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l2_of_parallel_ways_back_one_is_taken_and_its_token_lives() {
    for _ in 0..50 {
        let world = world();
        let (_, acting) = acting(&world).await;
        let stopping: Vec<_> = (0..8)
            .map(|_| {
                let (sessions, token) = (world.sessions.clone(), acting.token.clone());
                tokio::spawn(async move { sessions.stop_impersonating(&token).await })
            })
            .collect();
        let mut returned = Vec::new();
        for stopping in stopping {
            match stopping.await.unwrap() {
                Ok(back) => returned.push(back.token),
                Err(Error::Ended(ended)) => assert_eq!(ended.reason, Reason::ImpersonationEnded),
                Err(error) => panic!("neither the token nor the truth: {error:?}"),
            }
        }
        assert_eq!(returned.len(), 1);
        assert_eq!(info(&world, &returned[0]).await.user.as_deref(), Some("root"));
        assert_eq!(reason(&world, &acting.token).await, Reason::ImpersonationEnded);
    }
}

#[tokio::test]
async fn l2_a_way_back_that_is_taken_is_closed_between_its_two_steps() {
    let (world, spy) = spied();
    let (_, other) = acting(&world).await;
    let held = spy.hold_next(Call::End);
    let sessions = world.sessions.clone();
    let token = other.token.clone();
    let first = tokio::spawn(async move { sessions.stop_impersonating(&token).await });
    held.reached().await;
    let late = world.sessions.stop_impersonating(&other.token).await;
    assert_eq!(reason(&world, &other.token).await, Reason::ImpersonationEnded, "nor can the token be used");
    held.release();
    let back = first.await.unwrap().unwrap();
    let Err(Error::Ended(ended)) = late else { panic!("it was taken") };
    assert_eq!(ended.reason, Reason::ImpersonationEnded);
    assert_eq!(info(&world, &back.token).await.user.as_deref(), Some("root"));
}

#[tokio::test]
async fn set_impersonated_only_who_acts_can_go_back() {
    let world = world();
    let (root, acting) = acting(&world).await;
    let own = world.sessions.start(SignIn::new("anna")).await.unwrap();
    let error = world.sessions.stop_impersonating(&own.token).await.unwrap_err();
    assert!(matches!(error, Error::ImpersonationRefused(ImpersonationRefusal::NotImpersonating)), "{error:?}");
    assert!(matches!(world.sessions.resume(&own.token).await.unwrap(), Found::Live(_)));
    assert!(matches!(world.sessions.stop_impersonating(&root.token).await, Err(Error::Ended(_))));
    world.sessions.stop_impersonating(&acting.token).await.unwrap();
    let Error::Ended(ended) = world.sessions.stop_impersonating(&acting.token).await.unwrap_err() else { panic!() };
    assert_eq!(ended.reason, Reason::ImpersonationEnded);
}

#[tokio::test]
async fn i9_acting_as_another_costs_one_load_more() {
    let (world, spy) = spied();
    let (_, acting) = acting(&world).await;
    spy.reset();
    info(&world, &acting.token).await;
    assert_eq!(spy.counts().total(), 2);
    assert_eq!(spy.counts().read, 2);
    let own = root(&world).await;
    spy.reset();
    info(&world, &own.token).await;
    assert_eq!(spy.counts().total(), 1, "and nothing where nobody does");
}

pub(crate) fn shop(world: &World) -> Browser {
    let routes =
        Router::new()
            .route("/act", get(|session: Session| async move { session.impersonate(as_anna()).await }))
            .route("/back", get(|session: Session| async move { session.stop_impersonating().await }))
            .route(
                "/actor",
                get(|session: Session| async move {
                    session.impersonator().map_or_else(String::new, |who| who.to_string())
                }),
            )
            .merge(super::world::routes())
            .layer(layer(&world.sessions));
    Browser { app: routes, cookie: None }
}

#[tokio::test]
async fn set_impersonated_in_a_browser_there_and_back() {
    let world = world();
    let mut browser = shop(&world);
    browser.text("/sign-in?user=root").await;
    browser.text("/set?key=note&value=mine").await;
    let mut before = browser.clone();

    browser.text("/act").await;
    assert_eq!((browser.text("/me").await, browser.text("/actor").await), ("anna".into(), "root".into()));
    assert_eq!(browser.text("/get?key=note").await, "-", "another's session has none of the actor's data");
    browser.text("/set?key=note&value=hers").await;
    // A request that was under way with the old cookie gets nothing, and leaves the new cookie alone.
    let late = before.get("/who").await;
    assert_eq!((late.body.as_str(), late.set_cookie()), ("nobody", None));
    assert_eq!(before.get("/act").await.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.get("/act").await.problem()["code"], "impersonation_refused");

    browser.text("/back").await;
    assert_eq!((browser.text("/me").await, browser.text("/actor").await), ("root".into(), String::new()));
    let again = browser.get("/back").await;
    assert_eq!(
        (again.status, again.set_cookie()),
        (StatusCode::FORBIDDEN, None),
        "there is nowhere else to go back to"
    );
    assert_eq!(again.problem()["code"], "impersonation_refused");
    assert_eq!(browser.text("/get?key=note").await, "mine", "the actor's own session waited");
}

#[tokio::test]
async fn set_impersonated_signing_out_signs_out_of_both() {
    let world = world();
    let mut browser = shop(&world);
    browser.text("/sign-in?user=root").await;
    let own = browser.token().id();
    browser.text("/act").await;
    browser.text("/sign-out").await;
    assert_eq!(browser.text("/who").await, "nobody");
    assert!(world.sessions.list("root").await.unwrap().is_empty());
    let found = world.sessions.get(own).await.unwrap();
    assert!(matches!(found, Found::Ended(ended) if ended.reason == Reason::SignedOut));
}

#[tokio::test]
async fn set_impersonated_what_is_done_elsewhere_is_put_down_to_who_acts() {
    let world = world();
    let own = world.sessions.start(SignIn::new("anna")).await.unwrap();
    let (_, acting) = acting(&world).await;
    let session = Session::resume(&world.sessions, &acting.token).await.unwrap();
    let ended = session.sign_out_others().await.unwrap();
    assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [own.token.id()]);
    assert_eq!(ended[0].by.as_deref(), Some("root"));
    assert_eq!(Arc::clone(&session.impersonator().unwrap()).as_ref(), "root");
}

#[tokio::test]
async fn set_impersonated_goes_by_what_the_directory_says_of_the_other() {
    let world = world_with(Builder::stored_users);
    let typed = |kind: &str| UserPatch { user_type: Some(Some(kind.into())), ..UserPatch::default() };
    world.sessions.users().patch("root", &typed("administrator"), None).await.unwrap();
    world.sessions.users().patch("boss", &typed("administrator"), None).await.unwrap();
    let customer = UserPatch { session_limit: Some(Some(1)), ..typed("customer") };
    world.sessions.users().patch("anna", &customer, None).await.unwrap();
    let own = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let root = world.sessions.start(SignIn::new("root")).await.unwrap().token;

    let ask = async |impersonate| world.sessions.impersonate(&root, impersonate).await;
    let unknown = ask(Impersonate::new("ana", "ticket 17")).await;
    assert!(matches!(unknown, Err(Error::ImpersonationRefused(ImpersonationRefusal::UnknownUser))), "{unknown:?}");
    let protected = ask(Impersonate::new("boss", "ticket 17").user_type("customer")).await;
    assert!(matches!(protected, Err(Error::ImpersonationRefused(ImpersonationRefusal::Policy))), "{protected:?}");

    let acting = ask(Impersonate::new("anna", "ticket 17")).await.unwrap();
    assert_eq!(acting.record.info.user_type.as_deref(), Some("customer"));
    assert!(matches!(world.sessions.resume(&own).await.unwrap(), Found::Live(_)), "their limit is for their own");
    let off = UserPatch { enabled: Some(false), ..UserPatch::default() };
    world.sessions.users().patch("anna", &off, None).await.unwrap();
    let Found::Ended(ended) = world.sessions.resume(&acting.token).await.unwrap() else { panic!("anna is disabled") };
    assert_eq!(ended.reason, Reason::UserDisabled);
}

#[tokio::test]
async fn set_impersonated_is_over_with_the_actors_session_even_where_nothing_may_be_written() {
    let world = world();
    let (root, acting) = acting(&world).await;
    world.sessions.end(root.token.id(), &Reason::RevokedByAdmin.into()).await.unwrap();
    world.sessions.set_read_only(true);
    assert_eq!(reason(&world, &acting.token).await, Reason::RevokedByAdmin);
}
