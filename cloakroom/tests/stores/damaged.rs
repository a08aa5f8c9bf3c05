//! One record that was damaged by hand harms no other session, no user and no entry of the log, on any store that lies
//! somewhere; doctor names it.

use std::{fs, time::Duration};

use cloakroom::{
    Ending, Error, Limit, Reason, Refusal, SessionId, Sessions, SignIn, Timestamp,
    audit::AuditEntry,
    rules::{Created, Fence, Loaded, Reap, Rules, Which},
    store::{self, AuditQuery, Finding, MemoryStore, PutUser, Query, Store},
    transfer,
};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;

use crate::{
    common::{is_there, namespace, service, with_parameter},
    redis::load::{NOW, begin, live, sign_in},
};

/// The same for each store.
macro_rules! on_each {
    ($($name:ident;)+) => {
        on_each!(@store sqlite None $($name)+);
        on_each!(@store file None $($name)+);
        on_each!(@store postgres Some("CLOAKROOM_TEST_POSTGRES_URL") $($name)+);
        on_each!(@store mariadb Some("CLOAKROOM_TEST_MARIADB_URL") $($name)+);
        on_each!(@store redis Some("CLOAKROOM_TEST_REDIS_URL") $($name)+);
    };
    (@store $store:ident None $($name:ident)+) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(&super::Place::new(stringify!($store), None)).await })+
        }
    };
    (@store $store:ident Some($variable:literal) $($name:ident)+) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if super::is_there($variable) {
                    super::$name(&super::Place::new(stringify!($store), Some($variable))).await
                }
            })+
        }
    };
}

on_each! {
    a_damaged_session_harms_no_other;
    a_damaged_session_counts_where_it_is_counted_and_ends_with_the_others;
    a_damaged_session_that_expired_stops_no_reaper;
    a_damaged_user_harms_no_other;
    a_damaged_entry_hides_none_behind_it;
}

/// Where sessions lie, and how to get at them by hand.
struct Place {
    kind: &'static str,
    address: String,
    directory: TempDir,
}

/// What is damaged.
#[derive(Clone, Copy)]
enum Damage {
    Head(SessionId),
    User(&'static str),
    /// The first entry about this session.
    Entry(SessionId),
}

impl Place {
    fn new(kind: &'static str, variable: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = namespace(directory.path());
        let path = directory.path().join("sessions");
        let address = match (kind, variable) {
            ("postgres", Some(variable)) => with_parameter(&service(variable), "schema", &name),
            ("redis", Some(variable)) => with_parameter(&service(variable), "prefix", &format!("{name}:")),
            (_, Some(variable)) => with_parameter(&service(variable), "prefix", &name),
            (kind, None) => format!("{kind}:{}", path.display()),
        };
        Self { kind, address, directory }
    }

    async fn open(&self) -> Rules {
        Rules::new(store::open(&self.address).await.unwrap())
    }

    /// Writes what nothing can read over it.
    async fn damage(&self, damage: Damage) {
        let (server, parameters) = self.address.split_once('?').unwrap_or((&self.address, ""));
        let name = parameters.rsplit_once('=').map_or("", |(_, name)| name);
        let done = match self.kind {
            "postgres" => {
                let text = sql(damage, |id| format!("'\\x{}'", hex(id))).replace('~', &format!("\"{name}\"."));
                let mut connection = PgConnection::connect(server).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap().rows_affected()
            }
            "mariadb" => {
                let text = sql(damage, |id| format!("X'{}'", hex(id))).replace('~', &format!("{name}_"));
                let mut connection = MySqlConnection::connect(server).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap().rows_affected()
            }
            "sqlite" => {
                let text = match damage {
                    Damage::User(name) => format!("UPDATE user SET text = '{{' WHERE name = '{name}'"),
                    other => sql(other, |id| format!("X'{}'", hex(id))).replace('~', ""),
                };
                rusqlite::Connection::open(self.directory.path().join("sessions")).unwrap().execute(&text, []).unwrap()
                    as u64
            }
            "redis" => damage_redis(server, name, damage).await,
            _ => self.damage_file(damage),
        };
        assert!(done > 0, "nothing was damaged");
    }

    fn damage_file(&self, damage: Damage) -> u64 {
        let directory = self.directory.path().join("sessions");
        let (below, wanted) = match damage {
            Damage::Head(id) => ("sessions", format!("{id}.json")),
            Damage::User(_) => ("users", "user.json".into()),
            Damage::Entry(_) => ("audit", ".log".into()),
        };
        let mut done = 0;
        for file in files(&directory.join(below)) {
            let text = fs::read_to_string(&file).unwrap();
            let hit = file.to_str().unwrap().ends_with(&wanted);
            let damaged = match damage {
                Damage::Head(_) if hit => "{".to_owned(),
                Damage::User(name) if hit && text.contains(name) => "{".to_owned(),
                Damage::Entry(id) if hit && text.contains(&id.to_string()) => {
                    let line = text.lines().find(|line| line.contains(&id.to_string())).unwrap();
                    text.replacen(line, &"x".repeat(line.len()), 1)
                }
                _ => continue,
            };
            fs::write(&file, damaged).unwrap();
            done += 1;
        }
        done
    }
}

fn sql(damage: Damage, literal: impl Fn(SessionId) -> String) -> String {
    match damage {
        Damage::Head(id) => format!("UPDATE ~slot SET head = '{{' WHERE id = {}", literal(id)),
        Damage::User(name) => format!("UPDATE ~account SET settled = '{{' WHERE user_id = '{name}'"),
        Damage::Entry(id) => format!("UPDATE ~audit SET entry = '{{' WHERE session = {}", literal(id)),
    }
}

async fn damage_redis(server: &str, prefix: &str, damage: Damage) -> u64 {
    // There are the keys of all other tests.
    let patient = ::redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_mins(1)));
    let client = ::redis::Client::open(server).unwrap();
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    let pattern = match damage {
        Damage::Head(id) => format!("{prefix}s:*:{id}"),
        Damage::User(_) => format!("{prefix}users:*"),
        Damage::Entry(_) => format!("{prefix}audit:*"),
    };
    let keys: Vec<String> = ::redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
    let mut done = 0;
    for key in keys {
        let mut write = match damage {
            Damage::Head(_) | Damage::User(_) => ::redis::cmd("HSET"),
            Damage::Entry(_) => ::redis::cmd("XADD"),
        };
        write.arg(&key);
        match damage {
            Damage::Head(_) => write.arg("h").arg("{"),
            Damage::User(name) => {
                let there: bool =
                    ::redis::cmd("HEXISTS").arg(&key).arg(name).query_async(&mut connection).await.unwrap();
                if !there {
                    continue;
                }
                write.arg(name).arg("7  {")
            }
            // An entry of a stream cannot be changed, but anybody can add one.
            Damage::Entry(_) => write.arg("*").arg("e").arg("{"),
        };
        let _: ::redis::Value = write.query_async(&mut connection).await.unwrap();
        done += 1;
    }
    done
}

fn files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn hex(id: SessionId) -> String {
    id.as_bytes().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

async fn ids_of(store: &Rules, query: &Query) -> Vec<SessionId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = store.find(query, after.as_ref(), 2, NOW).await.unwrap();
        ids.extend(page.items.into_iter().map(|info| info.id));
        after = page.next;
        if after.is_none() {
            ids.sort_unstable();
            return ids;
        }
    }
}

/// What doctor finds wrong.
async fn wrong(store: &Rules) -> String {
    let findings = store.examine(NOW, false).await.unwrap();
    let wrong = findings.into_iter().filter(Finding::is_wrong);
    wrong.map(|finding| format!("{}: {}", finding.subject, finding.text)).collect::<Vec<_>>().join("\n")
}

async fn a_damaged_session_harms_no_other(place: &Place) {
    let store = place.open().await;
    let mut whole = Vec::new();
    for user in ["anna", "anna", "anna", "ben"] {
        whole.push(begin(&store, sign_in(&store, user)).await);
    }
    let damaged = whole.remove(1);
    place.damage(Damage::Head(damaged)).await;

    let mut annas = whole[..2].to_vec();
    annas.sort_unstable();
    assert_eq!(ids_of(&store, &Query::of_user("anna")).await, annas);
    let mut all = whole.clone();
    all.sort_unstable();
    assert_eq!(ids_of(&store, &Query::default()).await, all);

    // Those that are read at the same time travel together.
    let mut loads = tokio::task::JoinSet::new();
    for n in 0..60 {
        let (store, id) = (store.clone(), if n % 20 == 0 { damaged } else { whole[n % 3] });
        loads.spawn(async move { (id, store.load(id, NOW).await) });
    }
    while let Some(loaded) = loads.join_next().await {
        match loaded.unwrap() {
            (id, Ok(Loaded::Live(record))) => assert_eq!(record.info.id, id),
            (id, Err(Error::Store { .. })) => assert_eq!(id, damaged),
            (id, other) => panic!("{id}: {other:?}"),
        }
    }

    let told = wrong(&store).await;
    assert!(told.contains(&damaged.to_string()), "{told}");
    for id in &whole {
        assert!(!told.contains(&id.to_string()), "{told}");
    }

    // A copy takes along what can be read.
    let target: std::sync::Arc<dyn Store> = std::sync::Arc::new(MemoryStore::new().unwrap());
    let copied = transfer::copy(store.store(), &target, None, |_| ()).await.unwrap();
    assert_eq!(copied.sessions.added, 3);

    // Those that are named with it are ended.
    let ending = Ending::new(Reason::AllRevoked);
    let ids = vec![whole[0], damaged, whole[2]];
    drop(store.end(&Which::Ids(ids), &ending, NOW).await);
    for id in [whole[0], whole[2]] {
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Ended(_)));
    }
    live(&store, whole[1]).await;
}

async fn a_damaged_session_counts_where_it_is_counted_and_ends_with_the_others(place: &Place) {
    let store = place.open().await;
    let (whole, damaged) = (begin(&store, sign_in(&store, "anna")).await, begin(&store, sign_in(&store, "anna")).await);
    place.damage(Damage::Head(damaged)).await;

    // A limit neither keeps the user out for it nor lets more in.
    let mut next = sign_in(&store, "anna");
    next.limit = Some(Limit::evict(1));
    next.record.info.created_at = Timestamp::from_millis(NOW.as_millis() + 1);
    next.record.info.last_seen_at = next.record.info.created_at;
    let new = begin(&store, next).await;
    assert!(matches!(store.load(whole, NOW).await.unwrap(), Loaded::Ended(_)));
    assert_eq!(ids_of(&store, &Query::of_user("anna")).await, [new]);

    let which = Which::OfUser { user: "anna".into(), except: vec![], fence: Fence::Disabled };
    store.end(&which, &Ending::new(Reason::UserDisabled), NOW).await.unwrap();
    assert_eq!(ids_of(&store, &Query::of_user("anna")).await, []);
    let refused = store.create(&sign_in(&store, "anna"), NOW).await.unwrap();
    assert_eq!(refused, Created::Refused(Refusal::UserDisabled));
    assert!(!matches!(store.load(damaged, NOW).await, Ok(Loaded::Live(_))));
}

async fn a_damaged_session_that_expired_stops_no_reaper(place: &Place) {
    let store = place.open().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut idle = sign_in(&store, "anna");
        idle.record.info.idle_timeout = Some(Duration::from_mins(1));
        ids.push(begin(&store, idle).await);
    }
    place.damage(Damage::Head(ids[1])).await;
    let later = NOW.after(Duration::from_hours(1));
    let reap = Reap { limit: 100, tombstones_before: NOW, audit_before: NOW };
    let reaped = store.reap(&reap, later).await.unwrap();
    for id in [ids[0], ids[2]] {
        assert!(reaped.ended.iter().any(|ended| ended.id == id), "{reaped:?}");
    }
    assert!(!reaped.more);
}

async fn a_damaged_user_harms_no_other(place: &Place) {
    let store = place.open().await;
    let put = |user: &str| PutUser { user: user.into(), was: None, settings: Some("{}".into()), last_sign_in: None };
    for user in ["anna", "ben", "cleo"] {
        assert!(store.put_user(&put(user)).await.unwrap());
    }
    place.damage(Damage::User("ben")).await;
    let mut users: Vec<_> =
        store.users(None, 10).await.unwrap().items.iter().map(|user| user.user.to_string()).collect();
    users.sort_unstable();
    assert_eq!(users, ["anna", "cleo"]);
    store.user("ben").await.unwrap_err();
    begin(&store, sign_in(&store, "anna")).await;
    let reap = Reap { limit: 10, tombstones_before: NOW, audit_before: NOW };
    store.reap(&reap, NOW).await.unwrap();
    let told = wrong(&store).await;
    assert!(told.contains("damaged"), "{told}");
}

async fn a_damaged_entry_hides_none_behind_it(place: &Place) {
    let store = place.open().await;
    let first = begin(&store, sign_in(&store, "anna")).await;
    let second = begin(&store, sign_in(&store, "anna")).await;
    place.damage(Damage::Entry(first)).await;
    let third = begin(&store, sign_in(&store, "anna")).await;
    let (mut told, mut after) = (Vec::new(), None);
    loop {
        let page = store.audit(&AuditQuery::default(), after.as_ref(), 1).await.unwrap();
        told.extend(page.items.into_iter().map(|logged| logged.entry));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let sessions: Vec<_> = told.iter().map(|entry: &AuditEntry| entry.session).collect();
    assert!(sessions.ends_with(&[second, third]), "{sessions:?}");
    // Of what cannot be read the server's clock tells when it was written.
    let later = NOW.after(Duration::from_hours(24 * 3650));
    let reap = Reap { limit: 10, tombstones_before: NOW, audit_before: later };
    store.reap(&reap, later).await.unwrap();
    assert_eq!(store.audit(&AuditQuery::default(), None, 10).await.unwrap().items, []);
}

#[tokio::test]
async fn who_holds_a_damaged_session_is_told_that_the_store_is_at_fault() {
    let place = Place::new("sqlite", None);
    let sessions = Sessions::builder(store::open(&place.address).await.unwrap()).without_upkeep().build().unwrap();
    let token = sessions.start(SignIn::new("anna")).await.unwrap().token;
    place.damage(Damage::Head(token.id())).await;
    assert!(matches!(sessions.resume(&token).await, Err(Error::Store { .. })));
}
