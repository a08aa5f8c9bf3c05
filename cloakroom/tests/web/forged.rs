//! What a writer to the database can do, with the MAC and without.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Change, Error, Found, Json, JsonRef, Reason, Record, RotatedToken, Secrets, Session, SessionId, SignIn, Start,
    Token,
    store::{Create, Created, Gone, Loaded, MemoryStore, Store, Updated},
    testing::{Call, SpyStore},
};

use super::{
    framework::layer,
    world::{World, data, routes, world, world_on, world_with},
};

const KEY: [u8; 32] = [7; 32];
const NEXT_KEY: [u8; 32] = [8; 32];
/// Where the seal is kept.
const SEAL: &str = "\u{1}mac";

type Forge = fn(&mut Record);

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new().unwrap())
}

fn sealed(store: &Arc<MemoryStore>) -> World {
    world_on(Arc::clone(store) as Arc<dyn Store>, |builder| builder.record_mac_key(KEY))
}

async fn sign_in(world: &World, user: &str) -> Token {
    world.sessions.start(SignIn::new(user).user_type("guest")).await.unwrap().token
}

/// What lies in the store, seal included.
async fn row(world: &World, store: &MemoryStore, id: SessionId) -> Record {
    match store.load(id, world.sessions.now()).await.unwrap() {
        Loaded::Live(record) => Record::clone(&record),
        other => panic!("{other:?}"),
    }
}

/// A store in which somebody put this row.
async fn holding(world: &World, record: Record) -> Arc<MemoryStore> {
    let store = memory();
    let create = Create { record, limit: None, replaces: None, by: None, note: None };
    assert!(matches!(store.create(&create, world.sessions.now()).await.unwrap(), Created::Created { .. }));
    store
}

async fn is_live(world: &World, token: &Token) -> bool {
    matches!(world.sessions.resume(token).await.unwrap(), Found::Live(_))
}

/// No way leads to the session, and it is still in the store.
async fn assert_refused(world: &World, store: &MemoryStore, token: &Token, what: &str) {
    let (sessions, id) = (&world.sessions, token.id());
    assert!(matches!(sessions.resume(token).await.unwrap(), Found::Unknown), "{what}");
    assert!(matches!(sessions.get(id).await.unwrap(), Found::Unknown), "{what}");
    assert!(matches!(sessions.rotate(token).await.unwrap_err(), Error::UnknownSession), "{what}");
    let mut changes = [sessions.change(), sessions.change(), sessions.change()];
    changes[0].set("a", Json::from_text("1").unwrap());
    changes[1].remove_all();
    changes[2].fields.user_type = Some(Some("admin".into()));
    for change in changes {
        let updated = sessions.update(id, &change).await.unwrap();
        assert_eq!(updated, Updated::Gone(Gone::Unknown), "{what}");
    }
    row(world, store, id).await;
}

#[tokio::test]
async fn t10_a_forged_row_opens_nothing() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "mallory").await;
    let genuine = row(&world, &store, token.id()).await;
    let forgeries: [(&str, Forge); 13] = [
        ("user", |row| row.info.user = Some("anna".into())),
        ("nobody", |row| row.info.user = None),
        ("user_type", |row| row.info.user_type = Some("admin".into())),
        ("ends_at", |row| row.info.ends_at = row.info.ends_at.map(|end| end.after(Duration::from_hours(24)))),
        ("idle_timeout", |row| row.info.idle_timeout = None),
        ("authenticated_at", |row| row.info.authenticated_at = Some(row.info.created_at.after(Duration::from_mins(5)))),
        ("remember", |row| row.info.remember = true),
        ("audit_user", |row| row.info.audit_user = Some("auditor".into())),
        ("methods", |row| row.info.methods = Some("pwd hwk".into())),
        ("level", |row| row.info.level = Some(cloakroom::Assurance::Aal3)),
        ("returns_to", |row| row.info.returns_to = Some(row.info.id)),
        ("no seal", |row| drop(row.data.remove(SEAL))),
        ("another seal", |row| drop(row.data.insert(SEAL, Json::from_text("\"\"").unwrap()))),
    ];
    for (what, forge) in forgeries {
        let mut forged = genuine.clone();
        forge(&mut forged);
        let store = holding(&world, forged).await;
        assert_refused(&sealed(&store), &store, &token, what).await;
    }
    let store = holding(&world, genuine).await;
    assert!(is_live(&sealed(&store), &token).await, "what was not forged");
}

#[tokio::test]
async fn t10_a_row_that_is_forged_while_it_is_in_use_is_refused_from_then_on() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "mallory").await;
    let session = world.sessions.resume(&token).await.unwrap();
    let Found::Live(record) = session else { panic!("{session:?}") };
    let mut change = Change::new(1 << 20);
    change.fields.user_type = Some(Some("admin".into()));
    store.update(token.id(), &change, world.sessions.now()).await.unwrap();
    let decided = world.sessions.modify(record, |_| {
        let mut change = world.sessions.change();
        change.set("a", Json::from_text("1").unwrap());
        Ok(change)
    });
    assert!(matches!(decided.await.unwrap_err(), Error::UnknownSession));
    assert_refused(&world, &store, &token, "user_type").await;
}

#[tokio::test]
async fn t10_the_digest_of_a_secret_of_one_s_own_opens_nothing() {
    let store = memory();
    let world = sealed(&store);
    let victim = sign_in(&world, "anna").await;
    let mallory = sign_in(&world, "mallory").await;
    let victims_row = row(&world, &store, victim.id()).await;
    let own_row = row(&world, &store, mallory.id()).await;
    assert_ne!(victims_row.secrets.current, victim.digest(), "the stored digest is keyed");

    let made_up = Token::generate(victim.id()).unwrap();
    let own_secret_there = [&victim.reveal()[..SessionId::TEXT_LEN], &mallory.reveal()[SessionId::TEXT_LEN..]].concat();
    let own_secret_there = Token::parse(&own_secret_there).unwrap();
    for (what, token, digest) in [
        ("a plain digest", &made_up, made_up.digest()),
        ("a digest from one's own row", &own_secret_there, own_row.secrets.current),
    ] {
        let mut forged = victims_row.clone();
        forged.secrets = Secrets::new(digest, forged.info.created_at);
        let store = holding(&world, forged).await;
        let world = sealed(&store);
        assert!(matches!(world.sessions.resume(token).await.unwrap(), Found::Unknown), "{what}");
        assert!(matches!(world.sessions.rotate(token).await.unwrap_err(), Error::UnknownSession), "{what}");
    }
}

#[tokio::test]
async fn t10_without_the_mac_rows_are_believed() {
    let store = memory();
    let world = world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| builder);
    let victim = sign_in(&world, "anna").await;
    let mut forged = row(&world, &store, victim.id()).await;
    let made_up = Token::generate(victim.id()).unwrap();
    forged.secrets = Secrets::new(made_up.digest(), forged.info.created_at);
    let store = holding(&world, forged).await;
    assert!(is_live(&world_on(store, |builder| builder), &made_up).await);
}

#[tokio::test]
async fn t10_a_row_copied_to_another_id_opens_nothing() {
    let store = memory();
    let world = sealed(&store);
    let victim = sign_in(&world, "anna").await;
    let mallory = sign_in(&world, "mallory").await;
    let victims_row = row(&world, &store, victim.id()).await;
    let own_row = row(&world, &store, mallory.id()).await;
    // All of it, but for the id and the secret that opens it.
    let mut copied = victims_row.clone();
    copied.info.id = mallory.id();
    copied.secrets = own_row.secrets.clone();
    let planted = holding(&world, copied).await;
    assert_refused(&sealed(&planted), &planted, &mallory, "the victim's row").await;
    // The seal alone.
    let mut copied = own_row;
    copied.data = victims_row.data;
    let planted = holding(&world, copied).await;
    assert_refused(&sealed(&planted), &planted, &mallory, "the victim's seal").await;
}

#[tokio::test]
async fn t10_what_is_said_to_stay_possible_does() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "anna").await;
    let early = row(&world, &store, token.id()).await;
    world.sessions.end(token.id(), &Reason::SignedOut.into()).await.unwrap();

    // All of a session as it was, after its end.
    assert!(is_live(&sealed(&holding(&world, early.clone()).await), &token).await);
    // Its data, its name, its last use; its end stays.
    let mut edited = early.clone();
    edited.data.insert("role", Json::from_text("\"admin\"").unwrap());
    edited.info.full_name = Some("Anna the Great".into());
    edited.info.last_seen_at = early.info.created_at.after(Duration::from_hours(23));
    let world = sealed(&holding(&world, edited).await);
    world.clock.advance(Duration::from_hours(23));
    assert!(is_live(&world, &token).await);
    world.clock.advance(Duration::from_hours(1));
    let found = world.sessions.resume(&token).await.unwrap();
    assert!(matches!(&found, Found::Ended(ended) if ended.reason == Reason::AbsoluteTimeout), "{found:?}");
}

#[tokio::test]
async fn t10_an_earlier_key_counts_until_it_is_dropped() {
    let store = memory();
    let world = sealed(&store);
    let (kept, rotated, prolonged) =
        (sign_in(&world, "anna").await, sign_in(&world, "anna").await, sign_in(&world, "anna").await);
    let ended = sign_in(&world, "anna").await;
    world.sessions.end(ended.id(), &Reason::RevokedByAdmin.into()).await.unwrap();

    let both = world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| {
        builder.record_mac_key(NEXT_KEY).earlier_record_mac_keys([KEY])
    });
    for token in [&kept, &rotated, &prolonged] {
        assert!(is_live(&both, token).await);
    }
    assert!(matches!(both.sessions.resume(&ended).await.unwrap(), Found::Ended(_)), "its holder is told");
    let RotatedToken::Rotated { token: successor, .. } = both.sessions.rotate(&rotated).await.unwrap() else {
        panic!("nobody else rotates")
    };
    assert!(is_live(&both, &successor).await);
    assert!(is_live(&both, &rotated).await, "its grace");
    both.clock.advance(Duration::from_secs(30));
    both.sessions.flush().await.unwrap();
    let reused = both.sessions.resume(&rotated).await.unwrap();
    assert!(matches!(&reused, Found::Ended(ended) if ended.reason == Reason::TokenReuse), "{reused:?}");

    let mut change = both.sessions.change();
    change.fields.ends_at = Some(Some(both.sessions.now().after(Duration::from_hours(48))));
    assert!(matches!(both.sessions.update(prolonged.id(), &change).await.unwrap(), Updated::Applied(_)));

    let next = world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| builder.record_mac_key(NEXT_KEY));
    assert_refused(&next, &store, &kept, "sealed with a key that was dropped").await;
    assert!(matches!(next.sessions.get(prolonged.id()).await.unwrap(), Found::Live(_)), "it was sealed anew");
}

#[tokio::test]
async fn t10_sessions_from_before_the_key_are_refused_and_keys_that_are_none() {
    let store = memory();
    let before = world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| builder);
    let token = sign_in(&before, "anna").await;
    assert_refused(&sealed(&store), &store, &token, "no seal").await;

    let builder = || cloakroom::Sessions::builder(memory()).without_upkeep();
    for builder in [builder().record_mac_key([0; 32]), builder().earlier_record_mac_keys([KEY])] {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { what: "record MAC key", .. }), "{error}");
    }
    let shown = format!("{:?}", builder().record_mac_key([0xab; 32]).earlier_record_mac_keys([[0xab; 32]]));
    assert!(!shown.contains("171") && !shown.contains("ab, ab"), "{shown}");
}

#[tokio::test]
async fn t10_a_seal_is_made_anew_when_what_it_covers_changes_meanwhile() {
    let spy = Arc::new(SpyStore::new(MemoryStore::new().unwrap()));
    let world = world_on(Arc::clone(&spy) as Arc<dyn Store>, |builder| builder.record_mac_key(KEY));
    let token = sign_in(&world, "anna").await;
    spy.reset();
    let mut change = world.sessions.change();
    change.set("cart", Json::from_text("1").unwrap());
    world.sessions.update(token.id(), &change).await.unwrap();
    assert_eq!((spy.counts().load, spy.counts().update), (0, 1), "data alone needs no other seal");

    let gate = spy.hold_next(Call::Update);
    let emptying = {
        let (sessions, id) = (world.sessions.clone(), token.id());
        let mut change = sessions.change();
        change.remove_all();
        tokio::spawn(async move { sessions.update(id, &change).await.unwrap() })
    };
    gate.reached().await;
    let mut change = world.sessions.change();
    change.fields.user_type = Some(Some("admin".into()));
    world.sessions.update(token.id(), &change).await.unwrap();
    gate.release();
    let Updated::Applied(record) = emptying.await.unwrap() else { panic!("nobody else touched the data") };
    assert_eq!((record.data.len(), record.info.user_type.as_deref()), (0, Some("admin")));
    assert_eq!((spy.counts().load, spy.counts().update), (2, 4), "a load each, and one update again");
    assert!(is_live(&world, &token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t10_every_change_leaves_a_seal_that_holds() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "anna").await;
    let tasks = (0..30).map(|number| {
        let (sessions, id) = (world.sessions.clone(), token.id());
        tokio::spawn(async move {
            let mut change = sessions.change();
            match number % 3 {
                0 => change.remove_all(),
                1 => change.fields.user_type = Some(Some(format!("type {number}").into())),
                _ => change.fields.idle_timeout = Some(Some(Duration::from_secs(1000 + number))),
            }
            change.set(format!("key {number}"), Json::from_text("1").unwrap());
            sessions.update(id, &change).await.unwrap()
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        let updated = task.await.unwrap();
        assert!(matches!(updated, Updated::Applied(_)), "{updated:?}");
    }
    let mut change = world.sessions.change();
    change.remove_all();
    let Updated::Applied(record) = world.sessions.update(token.id(), &change).await.unwrap() else {
        panic!("it is there")
    };
    assert!(record.data.is_empty());
    let Found::Live(record) = world.sessions.resume(&token).await.unwrap() else { panic!("its seal holds") };
    assert_eq!(record.info.version, 31, "each was applied once");
    assert!(record.info.user_type.as_deref().is_some_and(|user_type| user_type.starts_with("type ")));
}

#[tokio::test]
async fn t10_a_change_that_needs_another_seal_still_answers_a_conflict_of_its_own() {
    let world = world_with(|builder| builder.record_mac_key(KEY));
    let token = sign_in(&world, "anna").await;
    let mut change = world.sessions.change();
    change.fields.user_type = Some(Some("admin".into()));
    change.if_version = Some(7);
    let Updated::Conflict(record) = world.sessions.update(token.id(), &change).await.unwrap() else {
        panic!("version 0")
    };
    assert!(record.data.is_empty() && record.info.user_type.as_deref() == Some("guest"));
    change.if_version = Some(0);
    for _ in 0..2 {
        // The second is a retry after a cut connection.
        let Updated::Applied(record) = world.sessions.update(token.id(), &change).await.unwrap() else {
            panic!("applied")
        };
        assert_eq!((record.info.version, record.info.user_type.as_deref()), (1, Some("admin")));
    }
}

#[tokio::test]
async fn t10_no_application_sees_sets_or_removes_the_seal() {
    let store = memory();
    let world = sealed(&store);
    let mut browser = world.browser();
    browser.text("/set?key=cart&value=umbrella").await;
    let anonymous = browser.token().id();
    let seal = row(&world, &store, anonymous).await.data.get(SEAL).map(JsonRef::to_json).expect("it is sealed");
    let Found::Live(record) = world.sessions.get(anonymous).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data, data([("cart", "\"umbrella\"")]));

    browser.text("/sign-in?user=anna").await;
    assert_eq!(browser.text("/get?key=cart").await, "umbrella", "carried over");
    let id = browser.token().id();
    let signed_in = row(&world, &store, id).await;
    assert_eq!(signed_in.data.len(), 2);
    assert_ne!(signed_in.data.get(SEAL), Some(seal.as_ref()), "its own seal, not the visitor's");

    let named: [fn(&mut Change); 3] = [
        |change| change.set(SEAL, Json::from_text("1").unwrap()),
        |change| change.remove(SEAL),
        |change| drop(change.relied_on.insert(SEAL.into(), None)),
    ];
    for name in named {
        let mut change = world.sessions.change();
        name(&mut change);
        change.set("a", Json::from_text("1").unwrap());
        let error = world.sessions.update(id, &change).await.unwrap_err();
        assert!(matches!(error, Error::InvalidKey { .. }), "{error}");
    }
    let start = Start::anonymous().data(data([(SEAL, "1")]));
    assert!(matches!(world.sessions.start(start).await.unwrap_err(), Error::InvalidKey { .. }));
    assert_eq!(row(&world, &store, id).await, signed_in);

    let session = Session::anonymous(&world.sessions);
    session.sign_in(SignIn::new("ben")).await.unwrap();
    session.set("a", &1).unwrap();
    session.commit().await.unwrap();
    assert_eq!((session.len(), session.keys()), (1, vec!["a".into()]));
    assert!(!session.contains_key(SEAL) && !session.remove(SEAL));
    session.remove_all();
    session.commit().await.unwrap();
    assert!(session.is_empty());
    session.rotate().await.unwrap();
    assert!(session.is_empty());
}

#[tokio::test]
async fn t10_the_seal_does_not_count_towards_the_size_limit() {
    for world in [world(), world_with(|builder| builder.record_mac_key(KEY))] {
        let token = world.sessions.start(Start::anonymous()).await.unwrap().token;
        let fits = format!("\"{}\"", "x".repeat(97));
        for (text, remove_all) in [(&fits, false), (&fits, true)] {
            let mut change = Change::new(100);
            if remove_all {
                change.remove_all();
            }
            change.set("k", Json::from_text(text).unwrap());
            assert!(matches!(world.sessions.update(token.id(), &change).await.unwrap(), Updated::Applied(_)));
            let mut change = Change::new(100);
            change.set("kk", Json::from_text(text).unwrap());
            change.remove("k");
            let error = world.sessions.update(token.id(), &change).await.unwrap_err();
            assert!(matches!(error, Error::TooLarge { size: 101, limit: 100, .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn t10_a_browser_with_a_forged_session_is_a_visitor() {
    let store = memory();
    let world = sealed(&store);
    let mut browser = world.signed_in("mallory").await;
    let mut forged = row(&world, &store, browser.token().id()).await;
    forged.info.user = Some("anna".into());
    let world = sealed(&holding(&world, forged).await);
    browser.app = routes().layer(layer(&world.sessions));
    assert_eq!(browser.text("/who").await, "nobody");
}
