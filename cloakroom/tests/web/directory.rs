//! The directory in the store itself, and what changing it does to sessions.

use std::sync::Arc;

use cloakroom::{
    Client, Error, Found, Reason, Refusal, SignIn, User,
    rules::Rules,
    sessions::DirectoryEntry,
    store::{LastSignIn, MemoryStore, PutUser},
    testing::{Call, SpyStore},
    transfer,
    users::UserPatch,
};
use http::StatusCode;

use super::world::{World, world_on};

fn world() -> (World, Arc<SpyStore<MemoryStore>>) {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    (world_on(spy.clone(), cloakroom::Builder::stored_users), spy)
}

fn enabled(enabled: bool) -> UserPatch {
    UserPatch { enabled: Some(enabled), ..UserPatch::default() }
}

async fn settings(world: &World, user: &str) -> Option<User> {
    world.sessions.users().get(user).await.unwrap().map(|entry| entry.settings)
}

async fn refused(world: &World, user: &str) -> Option<Refusal> {
    match world.sessions.start(SignIn::new(user)).await {
        Ok(_) => None,
        Err(Error::Refused(refusal)) => Some(refusal),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_user_is_written_read_and_listed() {
    let (world, _) = world();
    let sessions = &world.sessions;
    assert_eq!(settings(&world, "anna").await, None);
    let anna = User {
        full_name: Some("Anna \"\u{1F9E5}\" Berg".into()),
        session_limit: Some(3),
        allowed_networks: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        ..User::default()
    };
    let (entry, ended) = sessions.users().put("anna", anna.clone(), None).await.unwrap();
    assert_eq!(entry, DirectoryEntry { user: "anna".into(), settings: anna.clone(), last_sign_in: None });
    assert!(ended.is_empty());
    assert_eq!(settings(&world, "anna").await, Some(anna.clone()));

    let patch = UserPatch { full_name: Some(None), user_type: Some(Some("staff".into())), ..UserPatch::default() };
    sessions.users().patch("anna", &patch, None).await.unwrap();
    let patched = User { full_name: None, user_type: Some("staff".into()), ..anna };
    assert_eq!(settings(&world, "anna").await, Some(patched.clone()), "the rest stays");

    sessions.users().patch("ben", &UserPatch::default(), None).await.unwrap();
    assert_eq!(settings(&world, "ben").await, Some(User::default()), "a patch creates");
    let mut listed = sessions.users().list(None, 10).await.unwrap().items;
    listed.sort_by(|one, other| one.user.cmp(&other.user));
    assert_eq!(listed.iter().map(|entry| &*entry.user).collect::<Vec<_>>(), ["anna", "ben"]);
    assert_eq!(listed[0].settings, patched);

    let client = Client { ip: "10.1.2.3".parse().ok(), ..Client::default() };
    let started = sessions.start(SignIn::new("anna").client(client)).await.unwrap();
    let expected = LastSignIn { at: started.record.info.created_at, ip: "10.1.2.3".parse().ok() };
    let (entry, _) = sessions.users().patch("anna", &UserPatch::default(), None).await.unwrap();
    assert_eq!(entry.last_sign_in, Some(expected));
    assert_eq!(started.record.info.user_type.as_deref(), Some("staff"));
}

#[tokio::test]
async fn r2_disabling_a_user_ends_all_of_their_sessions() {
    let (world, _) = world();
    let mut browsers = [world.signed_in("anna").await, world.signed_in("anna").await, world.signed_in("anna").await];
    let mut ben = world.signed_in("ben").await;
    let (entry, ended) = world.sessions.users().patch("anna", &enabled(false), Some("root".into())).await.unwrap();
    assert!(!entry.settings.enabled);
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|ended| ended.reason == Reason::UserDisabled && ended.by.as_deref() == Some("root")));
    for browser in &mut browsers {
        assert_eq!(browser.text("/why").await, "user_disabled");
    }
    assert_eq!(ben.text("/me").await, "ben");
    let reply = world.browser().get("/sign-in?user=anna").await;
    assert_eq!((reply.status, &reply.problem()["code"]), (StatusCode::FORBIDDEN, &"user_disabled".into()));

    world.sessions.users().patch("anna", &enabled(true), None).await.unwrap();
    world.signed_in("anna").await;
}

#[tokio::test]
async fn r2_deleting_a_user_ends_all_of_their_sessions() {
    let (world, _) = world();
    world.sessions.users().put("anna", User::default(), None).await.unwrap();
    let mut browsers = [world.signed_in("anna").await, world.signed_in("anna").await, world.signed_in("anna").await];
    let (was_there, ended) = world.sessions.users().delete("anna", Some("root".into())).await.unwrap();
    assert!(was_there);
    assert_eq!(ended.len(), 3);
    for browser in &mut browsers {
        assert_eq!(browser.text("/why").await, "user_disabled");
    }
    assert_eq!(settings(&world, "anna").await, None);
    let (was_there, ended) = world.sessions.users().delete("anna", None).await.unwrap();
    assert!(!was_there && ended.is_empty(), "repeating it is harmless");
    assert_eq!(refused(&world, "anna").await, None, "who is unknown has no restrictions");

    // Deleting lets nobody in who was kept out.
    world.sessions.users().patch("anna", &enabled(false), None).await.unwrap();
    world.sessions.users().delete("anna", None).await.unwrap();
    assert_eq!(refused(&world, "anna").await, Some(Refusal::UserDisabled));
    world.sessions.users().put("anna", User::default(), None).await.unwrap();
    assert_eq!(refused(&world, "anna").await, None);
}

#[tokio::test]
async fn a_change_that_breaks_off_leaves_the_user_out_and_is_finished_by_repeating_it() {
    let (world, spy) = world();
    let sessions = &world.sessions;
    sessions.users().put("anna", User::default(), None).await.unwrap();
    let started = sessions.start(SignIn::new("anna")).await.unwrap();

    // Disabling breaks off before the entry says so: the fence comes first, and what is left to end is settled.
    spy.pass_next(Call::User);
    spy.pass_next(Call::User);
    spy.fail_next(Call::User);
    assert!(sessions.users().patch("anna", &enabled(false), None).await.is_err());
    assert!(matches!(sessions.resume(&started.token).await.unwrap(), Found::Ended(_)));
    assert_eq!(refused(&world, "anna").await, Some(Refusal::UserDisabled));
    sessions.users().patch("anna", &enabled(false), None).await.unwrap();
    assert!(!settings(&world, "anna").await.unwrap().enabled);

    // Enabling breaks off before the fence is lifted.
    spy.pass_next(Call::User);
    spy.fail_next(Call::User);
    assert!(sessions.users().patch("anna", &enabled(true), None).await.is_err());
    assert_eq!(refused(&world, "anna").await, Some(Refusal::UserDisabled));
    sessions.users().patch("anna", &enabled(true), None).await.unwrap();
    assert_eq!(refused(&world, "anna").await, None);

    // The answer to a write is lost.
    for (patch, now) in [(enabled(false), Some(Refusal::UserDisabled)), (enabled(true), None)] {
        spy.lose_next_answer(Call::User);
        assert!(sessions.users().patch("anna", &patch, None).await.is_err());
        sessions.users().patch("anna", &patch, None).await.unwrap();
        assert_eq!(refused(&world, "anna").await, now);
    }

    // Deleting breaks off between its steps.
    spy.fail_next(Call::User);
    assert!(sessions.users().delete("anna", None).await.is_err());
    assert!(sessions.users().delete("anna", None).await.unwrap().0);
    assert_eq!(settings(&world, "anna").await, None);
}

#[tokio::test]
async fn parallel_changes_of_different_fields_are_all_kept() {
    let (world, _) = world();
    let patches = [
        UserPatch { full_name: Some(Some("Anna".into())), ..UserPatch::default() },
        UserPatch { user_type: Some(Some("staff".into())), ..UserPatch::default() },
        UserPatch { session_limit: Some(Some(2)), ..UserPatch::default() },
        UserPatch { allowed_networks: Some(vec!["10.0.0.0/8".parse().unwrap()]), ..UserPatch::default() },
    ];
    let tasks = patches.map(|patch| {
        let sessions = world.sessions.clone();
        tokio::spawn(async move { sessions.users().patch("anna", &patch, None).await.map(drop) })
    });
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let anna = settings(&world, "anna").await.unwrap();
    assert_eq!((anna.full_name.as_deref(), anna.user_type.as_deref()), (Some("Anna"), Some("staff")));
    assert_eq!((anna.session_limit, anna.allowed_networks.len()), (Some(2), 1));
}

#[tokio::test]
async fn a_bad_change_is_refused_before_anything_is_done() {
    let (world, spy) = world();
    let mut browser = world.signed_in("anna").await;
    spy.reset();
    let network = "10.0.0.0/8".parse().unwrap();
    for (patch, what) in [
        (UserPatch { session_limit: Some(Some(0)), ..enabled(false) }, "session_limit"),
        (UserPatch { full_name: Some(Some("x".repeat(257).into())), ..enabled(false) }, "full_name"),
        (UserPatch { user_type: Some(Some("\u{7}".into())), ..enabled(false) }, "user_type"),
        (UserPatch { allowed_networks: Some(vec![network; 257]), ..enabled(false) }, "allowed_networks"),
    ] {
        let error = world.sessions.users().patch("anna", &patch, None).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { what: named, .. } if named == what), "{error}");
    }
    for name in ["", "a\nb", &"x".repeat(257)] {
        assert!(world.sessions.users().patch(name, &enabled(false), None).await.is_err());
        assert!(world.sessions.users().delete(name, None).await.is_err());
    }
    assert_eq!(spy.counts().total(), 0);
    assert_eq!(browser.text("/me").await, "anna");
}

#[tokio::test]
async fn a_damaged_entry_keeps_its_user_out_and_says_so() {
    let (world, spy) = world();
    let put = PutUser { user: "anna".into(), was: None, settings: Some("{".into()), last_sign_in: None };
    Rules::new(spy).put_user(&put).await.unwrap();
    let error = world.sessions.start(SignIn::new("anna")).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("\"anna\" is damaged"), "{error}");
    let error = world.sessions.users().get("anna").await.unwrap_err().to_string();
    assert!(error.contains("\"anna\" is damaged"), "{error}");
    world.sessions.users().delete("anna", None).await.unwrap();
    assert_eq!(refused(&world, "anna").await, None);
}

#[tokio::test]
async fn i9_a_directory_costs_a_call_in_five_seconds_and_none_where_there_is_none() {
    let (world, spy) = world();
    let mut browser = world.signed_in("anna").await;
    spy.reset();
    for _ in 0..5 {
        browser.text("/me").await;
    }
    assert_eq!(spy.counts().total(), 5, "the sign-in asked the directory");
    spy.reset();
    world.clock.advance(std::time::Duration::from_secs(5));
    for _ in 0..5 {
        browser.text("/me").await;
    }
    assert_eq!(spy.counts().total(), 6);

    let (plain, spy) = super::world::spied();
    let mut browser = plain.signed_in("anna").await;
    spy.reset();
    plain.clock.advance(std::time::Duration::from_secs(5));
    browser.text("/me").await;
    assert_eq!(spy.counts().total(), 1);
}

#[tokio::test]
async fn a_copy_of_a_store_takes_its_directory_along() {
    let (world, spy) = world();
    let target = Rules::on(MemoryStore::new().unwrap());
    for n in 0..600 {
        world.sessions.users().put(format!("user {n}"), User::default(), None).await.unwrap();
    }
    world.sessions.start(SignIn::new("user 7")).await.unwrap();
    let source = Rules::new(spy);
    transfer::copy(source.store(), target.store(), None, |_| {}).await.unwrap();
    let users = target.users(None, 1000).await.unwrap().items;
    assert_eq!(users.len(), 600);
    assert_eq!(target.user("user 7").await.unwrap(), source.user("user 7").await.unwrap());
    assert!(target.user("user 7").await.unwrap().unwrap().last_sign_in.is_some());

    // Once more carries over what changed.
    let patch = UserPatch { session_limit: Some(Some(1)), ..UserPatch::default() };
    world.sessions.users().patch("user 7", &patch, None).await.unwrap();
    transfer::copy(source.store(), target.store(), None, |_| {}).await.unwrap();
    assert_eq!(target.user("user 7").await.unwrap(), source.user("user 7").await.unwrap());
}
