//! What a writer to the database can do, with keys for records and without.

use std::{sync::Arc, time::Duration};

use cloakroom::{
    Builder, Change, Error, Found, Json, JsonRef, Limit, Reason, Record, Session, SessionId, SignIn, Timestamp, Token,
    rules::{Gone, Updated},
    sessions::RotatedToken,
    store::{
        MemoryStore, Query, Store,
        slots::{Ask, Found as FoundSlot, Slot, Transaction, Write},
    },
};

use super::{
    framework::layer,
    world::{World, data, routes, world, world_on, world_with},
};

const KEY: [u8; 32] = [7; 32];
const NEXT_KEY: [u8; 32] = [8; 32];

type Forge = fn(&mut Record);
type Kind = fn(Builder) -> Builder;
type Ring = fn(Builder, &[[u8; 32]]) -> Builder;

/// With MACs, and with encryption.
const KINDS: [Kind; 2] = [|builder| builder.record_mac_keys([KEY]), |builder| builder.encryption_keys([KEY])];

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new().unwrap())
}

fn on(store: &Arc<MemoryStore>, kind: Kind) -> World {
    world_on(Arc::clone(store) as Arc<dyn Store>, kind)
}

fn sealed(store: &Arc<MemoryStore>) -> World {
    on(store, KINDS[0])
}

async fn sign_in(world: &World, user: &str) -> Token {
    world.sessions.start(SignIn::new(user).user_type("guest")).await.unwrap().token
}

/// What lies in the store.
async fn row(store: &MemoryStore, id: SessionId) -> Record {
    match store.read(&[Ask::Session(id)]).await.unwrap().pop() {
        Some(FoundSlot::Session(Some(Slot::Open(record)))) => Record::clone(&record),
        other => panic!("{other:?}"),
    }
}

/// What a writer to the database does.
async fn put(store: &MemoryStore, record: Record) {
    let writes = vec![Write::Import(Slot::Open(Arc::new(record)))];
    let now = Timestamp::EPOCH;
    store.commit(&[Transaction { id: 1, now, relies_on: Vec::new(), writes, log: Vec::new() }], false).await.unwrap();
}

/// A store with this row.
async fn holding(record: Record) -> Arc<MemoryStore> {
    let store = memory();
    put(&store, record).await;
    store
}

/// The head as it is stored.
fn head(row: &Record) -> String {
    row.extra.as_ref().unwrap().sealed.as_deref().unwrap().to_owned()
}

fn set_head(row: &mut Record, head: &str) {
    row.extra.as_mut().unwrap().sealed = Some(head.into());
}

/// Changes a head under the MAC that it has.
fn edit(row: &mut Record, key: &str, value: serde_json::Value) {
    let text = head(row);
    let (mac, json) = text.split_at(text.find('{').expect("it is readable"));
    let mut json: serde_json::Value = serde_json::from_str(json).unwrap();
    json[key] = value;
    set_head(row, &format!("{mac}{json}"));
}

async fn is_live(world: &World, token: &Token) -> bool {
    matches!(world.sessions.resume(token).await.unwrap(), Found::Live(_))
}

/// No way leads to the session.
async fn assert_not_found(world: &World, token: &Token, what: &str) {
    let (sessions, id) = (&world.sessions, token.id());
    assert!(matches!(sessions.resume(token).await.unwrap(), Found::Unknown), "{what}");
    assert!(matches!(sessions.get(id).await.unwrap(), Found::Unknown), "{what}");
    assert!(matches!(sessions.rotate(token).await.unwrap_err(), Error::UnknownSession), "{what}");
}

/// No way leads to the session, no change reaches it, and it is still in the store.
async fn assert_refused(world: &World, store: &MemoryStore, token: &Token, what: &str) {
    assert_not_found(world, token, what).await;
    let (sessions, id) = (&world.sessions, token.id());
    let mut changes = [sessions.change(), sessions.change(), sessions.change(), sessions.change()];
    changes[0].set("a", Json::from_text("1").unwrap());
    changes[1].remove_all();
    changes[2].fields.user_type = Some(Some("admin".into()));
    changes[3].remove_all();
    changes[3].set("a", Json::from_text("1").unwrap());
    for change in changes {
        let updated = sessions.update(id, &change).await.unwrap();
        assert_eq!(updated, Updated::Gone(Gone::Unknown), "{what}");
    }
    row(store, id).await;
}

#[tokio::test]
async fn t10_a_forged_row_opens_nothing() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "mallory").await;
    let genuine = row(&store, token.id()).await;
    let forgeries: [(&str, Forge); 22] = [
        ("user", |row| {
            edit(row, "user", "anna".into());
            row.info.user = Some("anna".into());
        }),
        ("the user of the head alone", |row| edit(row, "user", "anna".into())),
        ("no user", |row| edit(row, "user", serde_json::Value::Null)),
        ("name", |row| edit(row, "name", "Anna".into())),
        ("type", |row| edit(row, "type", "admin".into())),
        ("end", |row| edit(row, "ends", 4_000_000_000_000_i64.into())),
        ("idle timeout", |row| edit(row, "idle", serde_json::Value::Null)),
        ("authentication", |row| edit(row, "proved", 4_000_000_000_000_i64.into())),
        ("remember", |row| edit(row, "remember", true.into())),
        ("auditor", |row| edit(row, "auditor", "auditor".into())),
        ("methods", |row| edit(row, "methods", "pwd hwk".into())),
        ("level", |row| edit(row, "level", 3.into())),
        ("return", |row| edit(row, "returns_to", row.info.id.to_string().into())),
        ("a field that no version knows", |row| edit(row, "admin", true.into())),
        ("the column of the user", |row| row.info.user = Some("anna".into())),
        ("the column of the end", |row| {
            row.info.ends_at = row.info.ends_at.map(|end| end.after(Duration::from_hours(24)));
        }),
        ("the column of the idle timeout", |row| row.info.idle_timeout = None),
        ("the column of the address", |row| row.info.client.ip = Some([10, 0, 0, 1].into())),
        ("no MAC", |row| {
            let text = head(row);
            set_head(row, &text[text.find('{').unwrap()..]);
        }),
        ("no seal", |row| row.extra = None),
        ("half a head", |row| {
            let text = head(row);
            set_head(row, &text[..text.len() / 2]);
        }),
        ("another form", |row| {
            let text = head(row).replacen("m1.", "e1.", 1);
            set_head(row, &text);
        }),
    ];
    for (what, forge) in forgeries {
        let mut forged = genuine.clone();
        forge(&mut forged);
        let store = holding(forged).await;
        assert_refused(&sealed(&store), &store, &token, what).await;
    }
    let store = holding(genuine).await;
    assert!(is_live(&sealed(&store), &token).await, "what was not forged");
}

#[tokio::test]
async fn t10_an_encrypted_row_that_was_changed_opens_nothing() {
    let store = memory();
    let world = on(&store, KINDS[1]);
    let token =
        world.sessions.start(SignIn::new("mallory").data(data([("role", "\"guest\""), ("plan", "\"free\"")]))).await;
    let (token, other) = (token.unwrap().token, sign_in(&world, "anna").await);
    let (genuine, others) = (row(&store, token.id()).await, row(&store, other.id()).await);
    assert!(!head(&genuine).contains("mallory") && !format!("{:?}", genuine.data.get("role")).contains("guest"));
    let value = |key: &str| genuine.data.get(key).map(JsonRef::to_json).unwrap();
    let text = head(&genuine);
    let mut forgeries = Vec::new();
    let mut forge = |what: &'static str, forge: &dyn Fn(&mut Record)| {
        let mut forged = genuine.clone();
        forge(&mut forged);
        forgeries.push((what, forged));
    };
    let other_byte = if text.as_bytes()[30] == b'A' { "B" } else { "A" };
    forge("a byte", &|row| set_head(row, &format!("{}{other_byte}{}", &text[..30], &text[31..])));
    forge("the other's head", &|row| set_head(row, &head(&others)));
    forge("a readable head", &|row| set_head(row, "{\"created\":1}"));
    forge("a plain value", &|row| drop(row.data.insert("role", Json::from_text("\"admin\"").unwrap())));
    forge("another key's value", &|row| drop(row.data.insert("role", value("plan"))));
    forge("a value that is the head", &|row| {
        drop(row.data.insert("role", Json::from_text(&format!("\"{text}\"")).unwrap()));
    });
    for (what, forged) in forgeries {
        let store = holding(forged).await;
        assert_not_found(&on(&store, KINDS[1]), &token, what).await;
    }
    let store = holding(genuine).await;
    assert!(is_live(&on(&store, KINDS[1]), &token).await, "what was not forged");
    assert!(!is_live(&sealed(&store), &token).await, "encrypted, and the key is one for MACs");
}

#[tokio::test]
async fn t10_a_row_that_is_forged_while_it_is_in_use_is_refused_from_then_on() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "mallory").await;
    let session = world.sessions.resume(&token).await.unwrap();
    let Found::Live(record) = session else { panic!("{session:?}") };
    let mut forged = row(&store, token.id()).await;
    edit(&mut forged, "type", "admin".into());
    put(&store, forged).await;
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
    let secret = |row: &Record| {
        let text = head(row);
        serde_json::from_str::<serde_json::Value>(&text[text.find('{').unwrap()..]).unwrap()["secret"].clone()
    };
    let victims_row = row(&store, victim.id()).await;
    let own_row = row(&store, mallory.id()).await;
    // Without a key the digest of a secret can be made by whoever knows the secret.
    let plain_store = memory();
    let plain = on(&plain_store, |builder| builder);
    let own = sign_in(&plain, "mallory").await;
    assert_eq!(row(&plain_store, own.id()).await.secrets.current, own.digest());

    let made_up = Token::generate(victim.id()).unwrap();
    let own_secret_there = [&victim.reveal()[..SessionId::TEXT_LEN], &mallory.reveal()[SessionId::TEXT_LEN..]].concat();
    let own_secret_there = Token::parse(&own_secret_there).unwrap();
    for (what, token, digest) in [
        ("one's own digest", &own_secret_there, secret(&own_row)),
        ("one's own digest, to a token made up", &made_up, secret(&own_row)),
    ] {
        let mut forged = victims_row.clone();
        edit(&mut forged, "secret", digest);
        let store = holding(forged).await;
        let world = sealed(&store);
        assert!(matches!(world.sessions.resume(token).await.unwrap(), Found::Unknown), "{what}");
        assert!(matches!(world.sessions.rotate(token).await.unwrap_err(), Error::UnknownSession), "{what}");
    }
}

#[tokio::test]
async fn t10_without_the_mac_rows_are_believed() {
    let store = memory();
    let world = on(&store, |builder| builder);
    let victim = sign_in(&world, "anna").await;
    let mut forged = row(&store, victim.id()).await;
    let made_up = Token::generate(victim.id()).unwrap();
    forged.secrets.current = made_up.digest();
    let store = holding(forged).await;
    assert!(is_live(&on(&store, |builder| builder), &made_up).await);
}

#[tokio::test]
async fn t10_a_row_copied_to_another_id_opens_nothing() {
    for kind in KINDS {
        let store = memory();
        let world = on(&store, kind);
        let victim = sign_in(&world, "anna").await;
        let mallory = sign_in(&world, "mallory").await;
        let victims_row = row(&store, victim.id()).await;
        // All of it but for the id, and the head alone.
        let mut copied = victims_row.clone();
        copied.info.id = mallory.id();
        let mut with_the_head = row(&store, mallory.id()).await;
        set_head(&mut with_the_head, &head(&victims_row));
        for copied in [copied, with_the_head] {
            let planted = holding(copied).await;
            assert_refused(&on(&planted, kind), &planted, &mallory, "the victim's row").await;
        }
    }
}

#[tokio::test]
async fn t10_what_is_said_to_stay_possible_does() {
    let store = memory();
    let world = sealed(&store);
    let token = sign_in(&world, "anna").await;
    let early = row(&store, token.id()).await;
    world.sessions.end(token.id(), &Reason::SignedOut.into()).await.unwrap();

    // All of a session as it was, after its end.
    assert!(is_live(&sealed(&holding(early.clone()).await), &token).await);
    // Its data, its last use; its end stays.
    let mut edited = early.clone();
    edited.data.insert("role", Json::from_text("\"admin\"").unwrap());
    edited.info.last_seen_at = early.info.created_at.after(Duration::from_hours(23));
    let world = sealed(&holding(edited).await);
    world.clock.advance(Duration::from_hours(23));
    assert!(is_live(&world, &token).await);
    world.clock.advance(Duration::from_hours(1));
    let found = world.sessions.resume(&token).await.unwrap();
    assert!(matches!(&found, Found::Ended(ended) if ended.reason == Reason::AbsoluteTimeout), "{found:?}");

    // With encryption a value can be put back or taken away, and no other be made.
    let store = memory();
    let world = on(&store, KINDS[1]);
    let token =
        world.sessions.start(SignIn::new("anna").data(data([("role", "\"admin\""), ("a", "1")]))).await.unwrap().token;
    let early = row(&store, token.id()).await;
    let mut change = world.sessions.change();
    change.set("role", Json::from_text("\"guest\"").unwrap());
    world.sessions.update(token.id(), &change).await.unwrap();
    let mut edited = row(&store, token.id()).await;
    edited.data.insert("role", early.data.get("role").unwrap().to_json());
    edited.data.remove("a");
    put(&store, edited).await;
    let Found::Live(record) = world.sessions.resume(&token).await.unwrap() else { panic!("its seal holds") };
    assert_eq!(record.data, data([("role", "\"admin\"")]));
}

/// Somebody who makes rows that no key opens keeps nobody from signing in, and they end as others do.
#[tokio::test]
async fn t10_a_session_whose_seal_does_not_hold_counts_and_ends() {
    for kind in KINDS {
        let store = memory();
        let world = on(&store, kind);
        let mut tokens = Vec::new();
        for _ in 0..3 {
            tokens.push(sign_in(&world, "anna").await);
        }
        for token in &tokens {
            let mut forged = row(&store, token.id()).await;
            set_head(&mut forged, "{\"user\":\"root\",\"created\":1,\"secret\":\"\",\"issued\":1}");
            put(&store, forged).await;
        }
        let limited = world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| kind(builder).limit(Limit::evict(2)));
        let started = limited.sessions.start(SignIn::new("anna")).await.unwrap();
        assert_eq!(started.ended.len(), 2, "they make room");
        assert!(is_live(&limited, &started.token).await);
        let listed = limited.sessions.find(&Query::of_user("anna"), None, 100).await.unwrap().items;
        assert_eq!(
            listed.iter().map(|info| info.id).collect::<Vec<_>>(),
            [started.token.id()],
            "only what opens is shown"
        );
        let ended = limited.sessions.end_all_of("anna", Vec::new(), &Reason::RevokedByAdmin.into()).await.unwrap();
        assert_eq!(ended.len(), 2, "the last of them too");
        limited.clock.advance(Duration::from_hours(24 * 400));
        limited.sessions.reap().await.unwrap();
    }
}

#[tokio::test]
async fn t10_an_earlier_key_counts_until_it_is_dropped() {
    let rings: [Ring; 2] = [
        |builder, ring| builder.record_mac_keys(ring.iter().copied()),
        |builder, ring| builder.encryption_keys(ring.iter().copied()),
    ];
    for ring in rings {
        let store = memory();
        let world_of =
            |keys: &[[u8; 32]]| world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| ring(builder, keys));
        let world = world_of(&[KEY]);
        let (kept, rotated, prolonged) =
            (sign_in(&world, "anna").await, sign_in(&world, "anna").await, sign_in(&world, "anna").await);
        let ended = sign_in(&world, "anna").await;
        world.sessions.end(ended.id(), &Reason::RevokedByAdmin.into()).await.unwrap();

        let both = world_of(&[NEXT_KEY, KEY]);
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

        let next = world_of(&[NEXT_KEY]);
        assert_refused(&next, &store, &kept, "sealed with a key that was dropped").await;
        assert!(matches!(next.sessions.get(prolonged.id()).await.unwrap(), Found::Live(_)), "it was sealed anew");
    }
}

#[tokio::test]
async fn t10_values_under_an_earlier_key_are_relied_on_and_written_anew() {
    let store = memory();
    let world_of = |keys: &[[u8; 32]]| {
        world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| builder.encryption_keys(keys.iter().copied()))
    };
    let old = world_of(&[KEY]);
    let token = old.sessions.start(SignIn::new("anna").data(data([("n", "1"), ("kept", "7")]))).await.unwrap().token;
    let both = world_of(&[NEXT_KEY, KEY]);
    let number = |value: &str| Some(Json::from_text(value).unwrap());
    let mut change = both.sessions.change();
    change.set("n", number("2").unwrap());
    change.relied_on.insert("n".into(), number("9"));
    let updated = both.sessions.update(token.id(), &change).await.unwrap();
    assert!(
        matches!(&updated, Updated::Conflict(record) if record.data == data([("n", "1"), ("kept", "7")])),
        "{updated:?}"
    );
    change.relied_on.insert("n".into(), number("1"));
    change.relied_on.insert("kept".into(), number("7"));
    change.relied_on.insert("other".into(), None);
    for _ in 0..2 {
        // The second is a retry, and finds itself done.
        let Updated::Applied(record) = both.sessions.update(token.id(), &change).await.unwrap() else { panic!() };
        assert_eq!((record.data.clone(), record.info.version), (data([("n", "2"), ("kept", "7")]), 1));
    }
    let stored = row(&store, token.id()).await;
    let name = |key: &str| stored.data.get(key).unwrap().as_str().split('.').nth(1).unwrap().to_owned();
    assert_ne!(name("n"), name("kept"), "what was set is under the new key");
    // The old node reads no key that it does not have, and says so by refusing.
    assert!(!is_live(&old, &token).await);
    assert!(is_live(&both, &token).await);
}

#[tokio::test]
async fn t10_sessions_from_before_the_key_are_refused_and_keys_that_are_none() {
    let store = memory();
    let before = on(&store, |builder| builder);
    let token = sign_in(&before, "anna").await;
    for kind in KINDS {
        assert_refused(&on(&store, kind), &store, &token, "no seal").await;
    }

    let builder = || cloakroom::Sessions::builder(memory()).without_upkeep();
    for (builder, named) in [
        (builder().record_mac_keys([[0; 32]]), "record_mac_keys"),
        (builder().record_mac_keys([KEY, KEY]), "record_mac_keys"),
        (builder().encryption_keys([KEY, [0; 32]]), "encryption_keys"),
    ] {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { what, .. } if what == named), "{error}");
    }
    let shown = format!("{:?}", builder().record_mac_keys([[0xab; 32]]).encryption_keys([[0xab; 32]]));
    assert!(!shown.contains("171") && !shown.contains("ab, ab"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t10_every_change_leaves_a_seal_that_holds() {
    for kind in KINDS {
        every_change_leaves_a_seal_that_holds(kind).await;
    }
}

async fn every_change_leaves_a_seal_that_holds(kind: Kind) {
    let store = memory();
    let world = on(&store, kind);
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
    let world = world_with(KINDS[0]);
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
async fn t10_no_application_sees_the_seal() {
    for kind in KINDS {
        let store = memory();
        let world = on(&store, kind);
        let mut browser = world.browser();
        browser.text("/set?key=cart&value=umbrella").await;
        let Found::Live(record) = world.sessions.get(browser.token().id()).await.unwrap() else { panic!("it lives") };
        assert_eq!((record.data.clone(), &record.extra), (data([("cart", "\"umbrella\"")]), &None));
        browser.text("/sign-in?user=anna").await;
        assert_eq!(browser.text("/get?key=cart").await, "umbrella", "carried over");
        assert_eq!(row(&store, browser.token().id()).await.data.len(), 1, "nothing beside it");

        let session = Session::anonymous(&world.sessions);
        session.sign_in(SignIn::new("ben")).await.unwrap();
        session.set("a", &1).unwrap();
        session.commit().await.unwrap();
        assert_eq!((session.len(), session.keys()), (1, vec!["a".into()]));
        session.remove_all();
        session.commit().await.unwrap();
        session.rotate().await.unwrap();
        assert!(session.is_empty());
    }
}

#[tokio::test]
async fn t10_the_seal_does_not_count_towards_the_size_limit() {
    for world in [world(), world_with(KINDS[0]), world_with(KINDS[1])] {
        let token = world.sessions.start(SignIn::anonymous()).await.unwrap().token;
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
        // Many small values go for one that is as large as they are stored, not as they count.
        let token = world.sessions.start(SignIn::anonymous()).await.unwrap().token;
        let mut change = Change::new(100);
        (0..33).for_each(|n| change.set(format!("{n:02}"), Json::from_text("1").unwrap()));
        assert!(matches!(world.sessions.update(token.id(), &change).await.unwrap(), Updated::Applied(_)));
        let mut change = Change::new(100);
        change.remove_all();
        change.set("k", Json::from_text(&format!("\"{}\"", "x".repeat(98))).unwrap());
        let error = world.sessions.update(token.id(), &change).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { size: 101, limit: 100, .. }), "{error}");
    }
}

#[tokio::test]
async fn t10_a_browser_with_a_forged_session_is_a_visitor() {
    let store = memory();
    let world = sealed(&store);
    let mut browser = world.signed_in("mallory").await;
    let mut forged = row(&store, browser.token().id()).await;
    edit(&mut forged, "user", "anna".into());
    let world = sealed(&holding(forged).await);
    browser.app = routes().layer(layer(&world.sessions));
    assert_eq!(browser.text("/who").await, "nobody");
}
