//! Sessions that travel through all six stores arrive as they were.

use std::{collections::BTreeMap, sync::Arc};

use crate::common::{is_there, namespace, service, with_parameter};
use cloakroom::{
    Assurance, Client, Ending, Json, Reason, Record, SessionId, SessionInfo, Timestamp,
    audit::{AuditEntry, Event},
    record::{Acting, Authentication},
    rules::{Imported, Item, Loaded, Rules, Tombstone, UserFence},
    store::{
        self, AuditQuery, Digest, LastSignIn, Lease, MemoryStore, Partition, Predecessor, PutUser, Query,
        RecentChanges, Secrets, StoredUser,
    },
    testing::ScratchDir,
    transfer,
};

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

/// A session with something in every field; of every fifth user there are several, every seventh is anonymous.
fn session(store: &Rules, n: i64) -> Record {
    let user = (n % 7 != 0).then(|| format!("user {}", n / 5));
    let partition =
        user.as_ref().map_or_else(|| Partition::random().unwrap(), |user| store.partition_key().partition_of(user));
    let digest = |byte: i64| Digest::from_bytes([(n + byte).to_le_bytes()[0]; Digest::LEN]);
    let id = SessionId::generate(partition).unwrap();
    let info = SessionInfo {
        full_name: user.as_ref().map(|user| format!("{user} of Łódź").into()),
        user_type: (n % 3 == 0).then(|| "System User".into()),
        last_seen_at: at(n),
        idle_timeout: (n % 4 != 0).then(|| std::time::Duration::from_hours(1000)),
        ends_at: (n % 5 != 0).then(|| at(1_000_000_000 + n)),
        remember: n % 2 == 0,
        client: Client {
            ip: Some(std::net::Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into()),
            user_agent: Some(format!("Mozilla/{n}").into()),
            device: (n % 9 == 0).then(|| "phone".into()),
            country: (n % 2 == 0).then(|| "PL".into()),
        },
        version: n.unsigned_abs(),
        authentication: user.as_ref().map(|_| Authentication {
            at: at(-n - 1),
            methods: (n % 3 == 0).then(|| "pwd otp".into()),
            level: (n % 4 == 0).then_some(Assurance::Aal2),
        }),
        user: user.map(Into::into),
        acting: (n % 11 == 0).then(|| Acting { by: "root".into(), returns_to: Some(id) }),
        ..SessionInfo::new(id, at(-n))
    };
    let values = (0..n % 6).map(|key| {
        (format!("key.{key}").into(), Json::from_text(&format!("{{\"n\":{n},\"z\":-0.0,\"a\":\"\\u0000\"}}")).unwrap())
    });
    let mut secrets = Secrets::new(digest(0), at(-n));
    secrets.rotations = 2;
    secrets.predecessors = vec![
        Predecessor { digest: digest(1), grace_ends: None },
        Predecessor { digest: digest(2), grace_ends: Some(at(5)) },
    ];
    Record {
        data: values.collect(),
        recent_changes: RecentChanges::from_ids([n.unsigned_abs(), u64::MAX]),
        lease: Lease { number: 3, until: at(-5) },
        ..Record::new(info, secrets)
    }
}

async fn source(sessions: i64) -> Rules {
    let store = Rules::on(MemoryStore::new().unwrap());
    let mut items: Vec<_> = (0..sessions).map(|n| Item::Session(session(&store, n).into())).collect();
    for (n, reason) in (0..sessions / 10).zip(Reason::ALL.iter().cycle()) {
        let Record { info, secrets, .. } = session(&store, n);
        let ending = Ending::new(*reason).by("root").note(format!("note {n}"));
        items.push(Item::Ended(Tombstone { ended: ending.of(info.id, info.user, at(n / 3)), secrets }.into()));
    }
    for n in 0..sessions / 10 {
        let (user, ended_before) = (format!("fenced {n}").into(), (n % 3 != 0).then(|| at(n)));
        items.push(Item::Fence(UserFence { user, disabled: n % 3 != 1, ended_before }));
    }
    for n in 0..sessions / 100 {
        let last_sign_in = (n % 2 == 0).then(|| LastSignIn { at: at(n), ip: None });
        let (user, settings) = (format!("user {n}").into(), Some(format!("{{\"session_limit\":{n}}}").into()));
        assert!(store.put_user(&PutUser { user, was: None, settings, last_sign_in }).await.unwrap());
    }
    assert!(store.import(&items).await.unwrap().iter().all(|imported| *imported == Imported::Added));
    for item in items.iter().step_by(50) {
        let Item::Session(record) = item else { continue };
        for n in 0..3 {
            let entry = AuditEntry {
                note: Some(format!("{n}").into()),
                ..AuditEntry::about(&record.info, Event::Changed, at(n))
            };
            store.log(&entry, at(n)).await.unwrap();
        }
    }
    store
}

async fn everything(store: &Rules) -> BTreeMap<String, Item> {
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let page = store.export(after.as_ref(), 1000).await.unwrap();
        for item in page.items {
            let name = match &item {
                Item::Session(record) => format!("session {}", record.info.id),
                Item::Ended(tombstone) => format!("ended {}", tombstone.ended.id),
                Item::Fence(fence) => format!("fence {}", fence.user),
            };
            assert!(all.insert(name, item).is_none());
        }
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// What the journey needs beside this machine's disk.
const SERVICES: [&str; 4] = [
    "CLOAKROOM_TEST_POSTGRES_URL",
    "CLOAKROOM_TEST_REDIS_URL",
    "CLOAKROOM_TEST_MARIADB_URL",
    "CLOAKROOM_TEST_REDIS_CLUSTER_URL",
];

async fn users(store: &Rules) -> BTreeMap<Arc<str>, StoredUser> {
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let page = store.users(after.as_ref(), 100).await.unwrap();
        all.extend(page.items.into_iter().map(|user| (Arc::clone(&user.user), user)));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// The audit log, the entries of each session in their order.
async fn log(store: &Rules) -> BTreeMap<SessionId, Vec<AuditEntry>> {
    let (mut all, mut after) = (BTreeMap::<_, Vec<_>>::new(), None);
    loop {
        let page = store.audit(&AuditQuery::default(), after.as_ref(), 100).await.unwrap();
        page.items.into_iter().for_each(|logged| all.entry(logged.entry.session).or_default().push(logged.entry));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// Where the sessions travel: through each store once, and through SQLite twice.
fn stations(directory: &ScratchDir) -> Vec<String> {
    let place = |name: &str| directory.path().join(name).display().to_string();
    let own = |variable: &str, parameter: &str, end: &str| {
        with_parameter(&service(variable), parameter, &format!("{}{end}", namespace(directory.path())))
    };
    vec![
        format!("sqlite:{}", place("first.db")),
        own("CLOAKROOM_TEST_POSTGRES_URL", "schema", ""),
        own("CLOAKROOM_TEST_REDIS_URL", "prefix", ":"),
        format!("file:{}", place("sessions")),
        own("CLOAKROOM_TEST_MARIADB_URL", "prefix", ""),
        own("CLOAKROOM_TEST_REDIS_CLUSTER_URL", "prefix", ":"),
        format!("sqlite:{}", place("last.db")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_travel_through_all_stores_arrive_as_they_were() {
    if !SERVICES.into_iter().all(is_there) {
        return;
    }
    let directory = ScratchDir::new().unwrap();
    let mut from = source(3000).await;
    let expected = everything(&from).await;
    assert_eq!(expected.len(), 3600);
    let (directory_of, logged) = (users(&from).await, log(&from).await);
    assert_eq!(logged.len(), 60);
    for url in stations(&directory) {
        assert_eq!(store::schema(&url).await.unwrap().found, None, "{url}");
        let to = Rules::new(store::open(&url).await.unwrap());
        let mut told = 0;
        let copied = transfer::copy(from.store(), to.store(), None, |_| told += 1).await.unwrap();
        let added = [copied.sessions.added, copied.tombstones.added, copied.fences.added];
        assert_eq!((added, copied.sessions.total()), ([3000, 300, 300], 3000), "{to:?}");
        assert!(told >= 8, "{told}");
        assert_eq!((copied.users.added, users(&to).await), (30, directory_of.clone()), "{to:?}");
        let arrived = everything(&to).await;
        assert_eq!(arrived.len(), expected.len(), "{to:?}");
        for (name, item) in &arrived {
            assert_eq!(item, &expected[name], "{to:?}");
        }
        assert_eq!((copied.entries, log(&to).await), (180, logged.clone()), "{to:?}");
        // Opened anew, it knows the key it took over.
        let anew = Rules::new(store::open(&url).await.unwrap());
        let listed = anew.find(&Query::of_user("user 17"), None, 10, NOW).await.unwrap().items;
        assert_eq!(listed.len(), 5, "{to:?}");
        assert!(matches!(anew.load(listed[0].id, NOW).await.unwrap(), Loaded::Live(_)), "{to:?}");
        let schema = store::schema(&url).await.unwrap();
        assert_eq!(schema.found, Some(schema.latest), "{url}");
        let again = transfer::copy(from.store(), to.store(), None, |_| {}).await.unwrap();
        let unchanged = [again.sessions.unchanged, again.tombstones.unchanged, again.fences.unchanged];
        assert_eq!((unchanged, again.users.unchanged), ([3000, 300, 300], 30), "{to:?}");
        assert_eq!(log(&to).await, logged, "none is there twice: {to:?}");
        from = to;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_from_any_place_it_had_reached() {
    let (from, whole) = (source(1200).await, source(0).await);
    let mut places = vec![None];
    transfer::copy(from.store(), whole.store(), None, |progress| places.extend(progress.reached.clone().map(Some)))
        .await
        .unwrap();
    assert!(places.len() >= 4);
    let expected = everything(&from).await;
    for (batches, place) in places.into_iter().enumerate() {
        // A target that has taken everything until there, and nothing behind it.
        let to = source(0).await;
        to.adopt_partition_key(from.partition_key()).await.unwrap();
        let mut after = None;
        for batch in 0..batches {
            if batch > 0 && after.is_none() {
                break;
            }
            let page = from.export(after.as_ref(), 500).await.unwrap();
            to.import(&page.items).await.unwrap();
            after = page.next;
        }
        let copied = transfer::copy(from.store(), to.store(), place, |_| {}).await.unwrap();
        assert_eq!(copied.sessions.unchanged, 0, "nothing is read twice");
        assert_eq!(everything(&to).await, expected);
        assert_eq!(log(&to).await, log(&from).await);
    }
}
