//! Auditors: people who look into somebody else's account, in a session that names both.

use std::time::Duration;

use cloakroom::{
    Builder, Client, Ending, Error, Found, Impersonate, Lifetimes, Limit, Reason, Refusal, Session, Sessions, SignIn,
    Started, User, Visitor, error::ImpersonationRefusal, sessions::Person, store::Query, users::UserPatch,
};
use http::StatusCode;

use super::{
    framework::{Params, Router, get, layer},
    impersonation::{MINUTE, info, log_of, reason},
    staff::{Staff, at, disabled, from_networks, refusals, world_of, world_where},
    world::{Browser, World, spied, world, world_with},
};

fn olga_audits_anna() -> SignIn {
    SignIn::new("anna").audit_user("olga")
}

fn of_type(user_type: &str) -> User {
    User { user_type: Some(user_type.into()), ..User::default() }
}

fn is_forbidden(outcome: &cloakroom::Result<Started>) -> bool {
    matches!(outcome, Err(Error::Refused(Refusal::AuditForbidden)))
}

#[tokio::test]
async fn audit_user_is_somebody_else_and_in_every_entry() {
    let world = world();
    for wrong in [SignIn::new("anna").audit_user("anna"), SignIn::anonymous().audit_user("olga")] {
        let error = world.sessions.start(wrong).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { what: "audit_user", .. }), "{error:?}");
    }
    let audited = world.sessions.start(olga_audits_anna()).await.unwrap();
    world.sessions.rotate(&audited.token).await.unwrap();
    world.sessions.end(audited.token.id(), &Ending::new(Reason::SignedOut)).await.unwrap();
    let log = log_of(&world, audited.token.id()).await;
    assert_eq!(log.len(), 3);
    for entry in log {
        assert_eq!((entry.user.as_deref(), entry.audit_user.as_deref()), (Some("anna"), Some("olga")));
    }
    world.sessions.users().disable("anna", None).await.unwrap();
    let refused = world.sessions.start(olga_audits_anna()).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::UserDisabled))));
}

#[tokio::test]
async fn audit_user_is_kept_out_of_administrators_accounts_and_the_refusal_is_in_the_audit_log() {
    let world = world();
    let start = SignIn::new("boss").user_type("administrator").audit_user("olga").note("ticket 17");
    assert!(is_forbidden(&world.sessions.start(start).await));
    assert!(world.sessions.list("boss").await.unwrap().is_empty());
    let [entry] = &*refusals(&world.sessions, "boss").await else { panic!("there is one") };
    assert_eq!(entry.audit_user.as_deref(), Some("olga"));
    let note = "the policy does not let this auditor into the user's account (ticket 17)";
    assert_eq!(entry.note.as_deref(), Some(note));
    world.sessions.start(SignIn::new("boss").user_type("administrator")).await.unwrap();
}

#[tokio::test]
async fn audit_user_follows_the_deployments_own_policy() {
    let world = world_with(|builder| {
        builder.may_audit(|auditor, user| {
            &*auditor.user == "olga"
                && auditor.user_type.is_none()
                && &*user.user == "anna"
                && user.user_type.as_deref() == Some("customer")
                && user.full_name.as_deref() == Some("Anna Berg")
        })
    });
    let customer = || olga_audits_anna().full_name("Anna Berg").user_type("customer");
    for other in [customer().audit_user("ben"), olga_audits_anna(), customer().user_type("staff")] {
        assert!(is_forbidden(&world.sessions.start(other).await));
    }
    world.sessions.start(customer()).await.unwrap();
}

#[tokio::test]
async fn audit_user_goes_by_what_the_directory_says_of_both() {
    let staff = Staff::of([
        ("anna", of_type("customer")),
        ("boss", of_type("administrator")),
        ("olga", of_type("auditor")),
        ("ben", of_type("customer")),
    ]);
    let world = world_where(&staff, |builder| {
        builder.may_audit(|auditor, user| {
            auditor.user_type.as_deref() == Some("auditor") && user.user_type.as_deref() != Some("administrator")
        })
    });
    let ask = async |start: SignIn| world.sessions.start(start).await;
    let disguised = SignIn::new("boss").user_type("customer").audit_user("olga");
    assert!(is_forbidden(&ask(disguised).await), "what the call says does not count");
    assert!(is_forbidden(&ask(SignIn::new("anna").audit_user("ben")).await));
    assert!(is_forbidden(&ask(SignIn::new("anna").audit_user("stranger")).await));
    let audited = ask(olga_audits_anna().user_type("administrator")).await.unwrap();
    assert_eq!(audited.record.info.user_type.as_deref(), Some("customer"), "the session is what the policy saw");
    // Of whom the directory does not know, the call says it.
    assert!(is_forbidden(&ask(SignIn::new("carl").user_type("administrator").audit_user("olga")).await));
    ask(SignIn::new("carl").user_type("customer").audit_user("olga")).await.unwrap();
}

#[tokio::test]
async fn audit_user_looks_in_for_no_longer_than_somebody_may_act_as_another() {
    let world = world_with(|builder| builder.impersonation_limit(120 * MINUTE));
    let now = world.sessions.now();
    let end_of = async |start: SignIn| world.sessions.start(start).await.map(|started| started.record.info.ends_at);
    for start in
        [olga_audits_anna(), olga_audits_anna().remember(true), olga_audits_anna().ends_at(now.after(120 * MINUTE))]
    {
        assert_eq!(end_of(start).await.unwrap(), Some(now.after(120 * MINUTE)));
    }
    assert_eq!(end_of(olga_audits_anna().ends_at(now.after(MINUTE))).await.unwrap(), Some(now.after(MINUTE)));
    let error = end_of(olga_audits_anna().ends_at(now.after(121 * MINUTE))).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument { what: "ends_at", .. }), "{error:?}");
    assert!(error.to_string().contains("02:00:00"), "{error}");
    assert_eq!(end_of(SignIn::new("anna")).await.unwrap(), Some(now.after(Duration::from_hours(24))));

    let endless = Lifetimes { absolute: None, ..Lifetimes::default() };
    let world = world_with(|builder| builder.lifetimes(endless));
    let audited = world.sessions.start(olga_audits_anna()).await.unwrap();
    assert_eq!(audited.record.info.ends_at, Some(world.sessions.now().after(Duration::from_hours(8))));
}

#[tokio::test]
async fn audit_user_who_is_disabled_in_the_directory_looks_into_no_account() {
    let staff = Staff::of([("anna", User::default()), ("olga", disabled())]);
    let world = world_where(&staff, Builder::only_known_users);
    let refused = world.sessions.start(olga_audits_anna()).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::UserDisabled))), "{refused:?}");
    staff.remove("olga");
    let refused = world.sessions.start(olga_audits_anna()).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::NotInDirectory))), "{refused:?}");

    let entries = refusals(&world.sessions, "anna").await;
    let notes: Vec<_> = entries.iter().map(|entry| entry.note.as_deref().unwrap()).collect();
    assert_eq!(notes, ["olga: the user is disabled", "olga: the user is not in the directory"]);
    assert!(world.sessions.list("anna").await.unwrap().is_empty());
}

#[tokio::test]
async fn audit_user_who_is_disabled_loses_the_sessions_they_look_in_at_the_next_request() {
    let staff = Staff::of([("anna", User::default()), ("olga", User::default())]);
    let world = world_of(&staff);
    let sessions = &world.sessions;
    let annas = sessions.start(SignIn::new("anna")).await.unwrap();
    let own = sessions.start(SignIn::new("olga")).await.unwrap();
    let (audited, other) =
        (sessions.start(olga_audits_anna()).await.unwrap(), sessions.start(olga_audits_anna()).await.unwrap());
    info(&world, &audited.token).await;

    staff.set("olga", disabled());
    world.clock.advance(Duration::from_secs(5));
    for lost in [&audited, &other, &own] {
        assert_eq!(reason(&world, &lost.token).await, Reason::UserDisabled);
    }
    info(&world, &annas.token).await;
    let entry = log_of(&world, audited.token.id()).await.pop().unwrap();
    assert_eq!((entry.reason, entry.audit_user.as_deref()), (Some(Reason::UserDisabled), Some("olga")));
}

#[tokio::test]
async fn audit_user_disabled_through_the_stored_directory_is_out_at_once() {
    let world = world_with(Builder::stored_users);
    let audited = world.sessions.start(olga_audits_anna()).await.unwrap();
    info(&world, &audited.token).await;
    let off = UserPatch { enabled: Some(false), ..UserPatch::default() };
    world.sessions.users().patch("olga", &off, None).await.unwrap();
    assert_eq!(reason(&world, &audited.token).await, Reason::UserDisabled);
}

#[tokio::test]
async fn i9_audit_user_is_looked_up_without_another_call_of_the_store() {
    let staff = Staff::of([("anna", User::default()), ("olga", User::default())]);
    let world = world_of(&staff);
    let audited = world.sessions.start(olga_audits_anna()).await.unwrap();
    assert_eq!(staff.asked(), 2);
    for _ in 0..10 {
        info(&world, &audited.token).await;
    }
    assert_eq!(staff.asked(), 0, "both are remembered");

    let (world, spy) = spied();
    world.sessions.measure_clock_offset().await.unwrap();
    spy.reset();
    let audited = world.sessions.start(olga_audits_anna()).await.unwrap();
    assert_eq!(spy.counts().total(), 1);
    spy.reset();
    info(&world, &audited.token).await;
    assert_eq!(spy.counts().total(), 1, "and nothing where there is no directory");
}

#[tokio::test]
async fn audit_user_may_come_from_the_auditors_networks() {
    let staff = Staff::of([("anna", from_networks(&["203.0.113.0/24"])), ("olga", from_networks(&["192.0.2.0/24"]))]);
    let world = world_of(&staff);
    let (annas, olgas) = (at("203.0.113.1"), at("192.0.2.9"));
    let from = |ip| olga_audits_anna().client(Client { ip, ..Client::default() });
    let refused = world.sessions.start(from(annas)).await;
    assert!(matches!(refused, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{refused:?}");
    let audited = world.sessions.start(from(olgas)).await.unwrap();
    let away = world.sessions.resume(Visitor::new(&audited.token).ip(annas)).await;
    assert!(matches!(away, Err(Error::Refused(Refusal::NetworkNotAllowed))), "{away:?}");
    assert!(matches!(world.sessions.resume(Visitor::new(&audited.token).ip(olgas)).await, Ok(Found::Live(_))));
}

#[tokio::test]
async fn audit_user_is_in_lists_and_counts_as_one_of_the_users_sessions() {
    let world = world_with(|builder| builder.limit(Limit::evict(1)));
    let own = world.sessions.start(SignIn::new("anna")).await.unwrap();
    let audited = world.sessions.start(olga_audits_anna()).await.unwrap();
    assert_eq!(audited.ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [own.token.id()]);
    let found = world.sessions.find(&Query::of_user("anna"), None, 10).await.unwrap().items;
    assert_eq!(found.iter().map(|info| info.audit_user.as_deref()).collect::<Vec<_>>(), [Some("olga")]);
}

#[tokio::test]
async fn audit_user_with_a_session_of_their_own_is_bound_to_it_and_goes_back_to_it() {
    let world = world();
    world.sessions.start(SignIn::new("anna").limit(Limit::refuse(1))).await.unwrap();
    let olga = world.sessions.start(SignIn::new("olga")).await.unwrap();
    let look_in = || Impersonate::new("anna", "audit 2026").as_auditor();

    let looking = world.sessions.impersonate(&olga.token, look_in()).await.unwrap();
    let info = &looking.record.info;
    assert_eq!((info.audit_user.as_deref(), info.impersonator().map(|by| &**by)), (Some("olga"), Some("olga")));
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 1, "it is none of the user's, whatever their limit");
    let returned = world.sessions.stop_impersonating(&looking.token).await.unwrap();
    assert_eq!(returned.record.info.user.as_deref(), Some("olga"));
    for entry in log_of(&world, looking.token.id()).await {
        assert_eq!((entry.user.as_deref(), entry.audit_user.as_deref()), (Some("anna"), Some("olga")));
    }

    let looking = world.sessions.impersonate(&returned.token, look_in()).await.unwrap();
    world.sessions.end_all_of("olga", Vec::new(), &Reason::RevokedByAdmin.into()).await.unwrap();
    assert_eq!(reason(&world, &looking.token).await, Reason::RevokedByAdmin, "it ends with the auditor's own");

    let olga = world.sessions.start(SignIn::new("olga")).await.unwrap();
    let looking = world.sessions.impersonate(&olga.token, look_in()).await.unwrap();
    world.sessions.users().disable("anna", None).await.unwrap();
    assert_eq!(reason(&world, &looking.token).await, Reason::UserDisabled, "and with the user's");
}

#[tokio::test]
async fn audit_user_with_a_session_of_their_own_goes_by_the_rule_for_auditors() {
    let world = world_with(|builder| {
        let builder = builder.may_impersonate(|_, _| false);
        builder.may_audit(|auditor, user| auditor.user_type.as_deref() == Some("auditor") && &*user.user != "boss")
    });
    let of = async |user_type| world.sessions.start(SignIn::new("olga").user_type(user_type)).await.unwrap().token;
    let (auditor, clerk) = (of("auditor").await, of("clerk").await);
    let look_in = async |token, user| world.sessions.impersonate(token, Impersonate::new(user, "x").as_auditor()).await;
    for refused in [look_in(&clerk, "anna").await, look_in(&auditor, "boss").await] {
        assert!(matches!(refused, Err(Error::ImpersonationRefused(ImpersonationRefusal::Policy))), "{refused:?}");
    }
    let as_actor = world.sessions.impersonate(&auditor, Impersonate::new("anna", "x")).await;
    assert!(matches!(as_actor, Err(Error::ImpersonationRefused(ImpersonationRefusal::Policy))));
    look_in(&auditor, "anna").await.unwrap();
}

#[tokio::test]
async fn audit_user_with_a_session_of_their_own_is_who_the_directory_says_they_are() {
    let staff = Staff::of([("olga", of_type("clerk")), ("vera", of_type("auditor")), ("anna", User::default())]);
    let only_auditors = |auditor: &Person, _: &Person| auditor.user_type.as_deref() == Some("auditor");
    let world = world_where(&staff, |builder| builder.may_audit(only_auditors));
    let look_in = async |name: &str, says: &str| {
        let own = world.sessions.start(SignIn::new(name).user_type(says)).await.unwrap();
        world.sessions.impersonate(&own.token, Impersonate::new("anna", "x").as_auditor()).await
    };
    let refused = look_in("olga", "auditor").await;
    assert!(matches!(refused, Err(Error::ImpersonationRefused(ImpersonationRefusal::Policy))), "{refused:?}");
    look_in("vera", "clerk").await.unwrap();
}

fn office(sessions: &Sessions) -> Browser {
    let routes = Router::new()
        .route(
            "/look",
            get(|session: Session, q: Params| async move {
                let sign_in = SignIn::new(q["user"].as_str()).user_type(q["type"].as_str());
                session.sign_in(sign_in.audit_user("olga")).await.map(drop)
            }),
        )
        .merge(super::world::routes())
        .layer(layer(sessions));
    Browser { app: routes, cookie: None }
}

#[tokio::test]
async fn audit_user_who_is_refused_is_answered_403_and_stays_who_they_were() {
    let World { sessions, .. } = world();
    let mut browser = office(&sessions);
    browser.text("/sign-in?user=olga").await;
    let reply = browser.get("/look?user=boss&type=administrator").await;
    assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::FORBIDDEN, &"audit_forbidden".into()));
    assert_eq!(browser.text("/me").await, "olga");
    browser.text("/look?user=anna&type=customer").await;
    assert_eq!(browser.text("/me").await, "anna");
}

#[tokio::test]
async fn i14_what_an_auditor_put_in_is_not_carried_into_the_users_own_session_nor_back() {
    let World { sessions, .. } = world();
    let mut browser = office(&sessions);
    browser.text("/sign-in?user=anna").await;
    browser.text("/set?key=note&value=hers").await;
    browser.text("/look?user=anna&type=customer").await;
    assert_eq!(browser.text("/get?key=note").await, "-");
    browser.text("/set?key=note&value=olgas").await;
    browser.text("/look?user=anna&type=customer").await;
    assert_eq!(browser.text("/get?key=note").await, "olgas", "the same two people");
    browser.text("/sign-in?user=anna").await;
    assert_eq!(browser.text("/get?key=note").await, "-");
}
