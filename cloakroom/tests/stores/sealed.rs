//! Sealed stores pass every suite, and what is encrypted lies in no file.

use std::{fs, sync::Arc};

use cloakroom::{
    Client, Data, Found, Json, Sessions, SignIn, Token,
    sessions::RotatedToken,
    store::{MemoryStore, RecordKeys, SealedStore, SqliteStore, Store},
    testing::{ScratchDir, conformance, slots},
    transfer,
};

fn sealed(store: &Arc<impl Store + ?Sized>, keys: &RecordKeys) -> Arc<dyn Store> {
    Arc::new(SealedStore::new(Arc::new(Arc::clone(store)), keys.clone()))
}

fn macs() -> RecordKeys {
    RecordKeys::default().mac([[1; 32], [2; 32]]).unwrap()
}

fn encryption() -> RecordKeys {
    RecordKeys::default().encryption([[1; 32], [2; 32]]).unwrap()
}

async fn sqlite(dir: &std::path::Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(dir.join("sessions.db")).await.unwrap())
}

conformance!(mod memory_with_macs: SealedStore::new(Arc::new(MemoryStore::new().unwrap()), macs()));
conformance!(mod memory_encrypted: SealedStore::new(Arc::new(MemoryStore::new().unwrap()), encryption()));
conformance!(mod sqlite_with_macs: |dir| SealedStore::new(sqlite(&dir).await, macs()));
conformance!(mod sqlite_encrypted: |dir| SealedStore::new(sqlite(&dir).await, encryption()));
slots!(mod slots_with_macs: |dir| SealedStore::new(sqlite(&dir).await, macs()));
slots!(mod slots_encrypted: |dir| SealedStore::new(sqlite(&dir).await, encryption()));
slots!(mod slots_in_memory_encrypted: SealedStore::new(Arc::new(MemoryStore::new().unwrap()), encryption()));

#[cfg(feature = "postgres")]
mod postgres {
    use cloakroom::store::PostgresStore;

    use super::*;
    use crate::common::{is_there, namespace, service, with_parameter};

    const VARIABLE: &str = "CLOAKROOM_TEST_POSTGRES_URL";

    async fn open(dir: &std::path::Path) -> SealedStore {
        let address = with_parameter(&service(VARIABLE), "schema", &namespace(dir));
        let store = PostgresStore::open(&with_parameter(&address, "max_connections", "8")).await.unwrap();
        SealedStore::new(Arc::new(store), encryption())
    }

    conformance!(mod encrypted: |dir| open(&dir).await, if: is_there(VARIABLE));
    slots!(mod slots_encrypted: |dir| open(&dir).await, if: is_there(VARIABLE));
}

const HIDDEN: [&str; 6] = ["Anna Hidden", "hidden-type", "Mozilla/hidden", "hidden-value", "hidden-changed", "pwd otp"];
const SHOWN: [&str; 5] = ["shown@example.com", "Shown Phone", "192.0.2.77", "shown.key", "Shown remark"];

async fn live_through(sessions: &Sessions) -> Token {
    let sign_in = SignIn::new(SHOWN[0]).full_name(HIDDEN[0]).user_type(HIDDEN[1]).methods("pwd otp");
    let data: Data = [(SHOWN[3].into(), Json::encode(HIDDEN[3]).unwrap())].into_iter().collect();
    let client = Client {
        ip: Some([192, 0, 2, 77].into()),
        user_agent: Some(HIDDEN[2].into()),
        device: Some(SHOWN[1].into()),
        country: None,
    };
    let started = sessions.start(sign_in.data(data).client(client).note(SHOWN[4])).await.unwrap();
    let mut change = sessions.change();
    change.set("other", Json::encode(HIDDEN[4]).unwrap());
    sessions.update(started.token.id(), &change).await.unwrap();
    started.token
}

#[tokio::test]
async fn t10_what_is_encrypted_is_in_no_file_and_what_is_said_to_be_readable_is() {
    for encrypted in [false, true] {
        let dir = ScratchDir::new().unwrap();
        let store = sqlite(dir.path()).await;
        let builder = Sessions::builder(store).without_upkeep();
        let sessions = if encrypted { builder.encryption_keys([[1; 32]]) } else { builder }.build().unwrap();
        live_through(&sessions).await;
        sessions.shutdown().await;
        drop(sessions);
        let files = fs::read_dir(dir.path()).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        let bytes: Vec<u8> = files.flatten().collect();
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        for text in SHOWN {
            assert!(holds(text), "{text} is readable, encrypted or not");
        }
        for text in HIDDEN {
            assert_eq!(holds(text), !encrypted, "{text}, encrypted: {encrypted}");
        }
    }
}

/// Copies carry seals along, whatever keys there are.
#[tokio::test]
async fn t10_sealed_records_that_are_copied_stay_sealed_and_open_where_they_go() {
    for keys in [macs(), encryption()] {
        let dir = ScratchDir::new().unwrap();
        let from: Arc<dyn Store> = sqlite(dir.path()).await;
        let sessions = Sessions::builder(sealed(&from, &keys)).without_upkeep().build().unwrap();
        let token = live_through(&sessions).await;
        let to: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        transfer::copy(&from, &to, None, |_| {}).await.unwrap();
        let plain = Sessions::builder(Arc::clone(&to)).without_upkeep().build().unwrap();
        assert!(!matches!(plain.resume(&token).await.unwrap(), Found::Live(_)), "no key, no session");
        let there = Sessions::builder(sealed(&to, &keys)).without_upkeep().build().unwrap();
        let Found::Live(record) = there.resume(&token).await.unwrap() else { panic!("it opens") };
        assert_eq!((record.info.full_name.as_deref(), record.data.len()), (Some(HIDDEN[0]), 2));
    }
}

/// Through the wrappers a copy writes everything under the target's key.
#[tokio::test]
async fn t10_a_copy_from_one_key_to_another_finishes_a_rotation() {
    let ring = |byte: u8| RecordKeys::default().encryption([[byte; 32]]).unwrap();
    let (from, to) = (Arc::new(MemoryStore::new().unwrap()), Arc::new(MemoryStore::new().unwrap()));
    let from = sealed(&from, &ring(1));
    let sessions = Sessions::builder(Arc::clone(&from)).without_upkeep().build().unwrap();
    let token = live_through(&sessions).await;
    let to = sealed(&to, &ring(2));
    transfer::copy(&from, &to, None, |_| {}).await.unwrap();
    let there = Sessions::builder(to).without_upkeep().build().unwrap();
    let Found::Live(record) = there.resume(&token).await.unwrap() else { panic!("it opens") };
    assert_eq!((record.info.full_name.as_deref(), record.data.len()), (Some(HIDDEN[0]), 2));
}

#[tokio::test]
async fn t10_nodes_in_the_middle_of_changing_keys_read_each_others_sessions() {
    let inner = Arc::new(MemoryStore::new().unwrap());
    let of = |ring: &[u8]| {
        let keys = RecordKeys::default().encryption(ring.iter().map(|byte| [*byte; 32])).unwrap();
        Sessions::builder(sealed(&inner, &keys)).without_upkeep().build().unwrap()
    };
    let (before, after) = (of(&[1, 2]), of(&[2, 1]));
    let (one, other) = (live_through(&before).await, live_through(&after).await);
    for (sessions, token) in [(&before, &other), (&after, &one)] {
        assert!(matches!(sessions.resume(token).await.unwrap(), Found::Live(_)));
        assert!(matches!(sessions.rotate(token).await.unwrap(), RotatedToken::Rotated { .. }));
    }
}
