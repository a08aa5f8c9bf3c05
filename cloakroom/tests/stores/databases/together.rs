//! Changes that arrive together: how they travel, and that no caller feels the others.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use cloakroom::{
    Change, Json, Reason, SessionId,
    rules::{Gone, Loaded, Rules, Updated, Which},
    store,
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};

use super::{
    Kind, NOW, Proxy, address, begin, eventually, host_of, is_here, place, private, private_address, set, start,
    through, with_parameter,
};

macro_rules! on_both {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {
        mod postgres {
            $($(#[doc = $doc])+ #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { if super::is_here(super::Kind::Postgres) { super::$name(super::Kind::Postgres).await } })+
        }
        mod mariadb {
            $($(#[doc = $doc])+ #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { if super::is_here(super::Kind::MariaDb) { super::$name(super::Kind::MariaDb).await } })+
        }
    };
}

on_both! {
    /// A hundred changes over one connection are a few statements and as many transactions.
    i9_changes_that_arrive_together_travel_together;
    /// Each caller has the answer to its own change, whatever became of the others.
    i9_each_of_those_who_travel_together_has_its_own_answer;
    /// A change that the server refuses does not take the others with it.
    i9_one_change_that_cannot_be_stored_hurts_no_other;
    /// A session that somebody else has locked holds up its own changes alone.
    i9_a_session_that_is_locked_holds_up_nobody_else;
    /// A caller that goes away while it waits leaves nothing behind, and disturbs nobody.
    i9_a_caller_that_goes_away_disturbs_nobody;
    /// A connection that is cut under many changes loses and repeats none of them.
    i9_a_connection_cut_under_many_changes_repeats_none;
    /// Two nodes that change the same sessions in all orders, with touches and endings between, do not deadlock.
    i9_two_nodes_in_opposite_orders_do_not_deadlock;
    /// Changes of one session that arrive together are applied in the order in which they came.
    i9_changes_of_one_session_keep_their_order;
}

async fn begin_many(store: &Rules, count: usize) -> Vec<SessionId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(begin(store, &format!("user {n}")).await);
    }
    ids
}

/// Changes that all arrive before any of them is answered.
async fn update_all(store: &Rules, changes: &[(SessionId, Change)]) -> Vec<cloakroom::Result<Updated>> {
    join_all(changes.iter().map(|(id, change)| store.update(*id, change, NOW))).await
}

fn applied(updated: cloakroom::Result<Updated>) -> Arc<cloakroom::Record> {
    match updated {
        Ok(Updated::Applied(record)) => record,
        other => panic!("{other:?}"),
    }
}

async fn i9_changes_that_arrive_together_travel_together(kind: Kind) {
    let Some((server, direct)) = private(kind, &[]).await else { return };
    let proxy = Proxy::start(server.host()).await;
    let address = private_address(kind, &server);
    let one = with_parameter(&through(&address, &proxy.address.to_string()), "max_connections", "1");
    let store = Rules::new(store::open(&one).await.unwrap());
    let ids = begin_many(&direct, 100).await;
    let mut before = (0, 0);
    // The first round prepares the statements.
    for round in 0..3_u64 {
        before = (proxy.exchanges(), transactions(kind, &address).await);
        let changes: Vec<_> = ids.iter().enumerate().map(|(n, id)| (*id, set("n", &format!("1{n}{round}")))).collect();
        for ((n, id), updated) in ids.iter().enumerate().zip(update_all(&store, &changes).await) {
            let record = applied(updated);
            assert_eq!((record.info.id, record.info.version), (*id, round + 1));
            assert_eq!(record.data.get("n").unwrap().as_str(), format!("1{n}{round}"));
        }
    }
    let statements = proxy.exchanges() - before.0;
    let commits = transactions(kind, &address).await - before.1;
    eprintln!("{kind:?}: 100 changes in {statements} statements and {commits} transactions");
    assert!(statements <= 6, "{statements} statements");
    assert!(commits <= 6, "{commits} transactions");
}

/// How many transactions the server has seen so far, but for those that ask.
async fn transactions(kind: Kind, address: &str) -> i64 {
    match kind {
        Kind::Postgres => {
            let mut connection = PgConnection::connect(address).await.unwrap();
            // Only what writes has a number.
            let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
            connection.fetch_one(next).await.unwrap().get(0)
        }
        Kind::MariaDb => {
            let mut connection = MySqlConnection::connect(address).await.unwrap();
            let commits = "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status \
                           WHERE variable_name = 'COM_COMMIT'";
            connection.fetch_one(commits).await.unwrap().get_unchecked(0)
        }
    }
}

async fn i9_each_of_those_who_travel_together_has_its_own_answer(kind: Kind) {
    let store = Rules::new(store::open(&with_parameter(&address(kind), "max_connections", "1")).await.unwrap());
    let ids = begin_many(&store, 7).await;
    store.update(ids[1], &set("a", "1"), NOW).await.unwrap();
    store.end(&Which::Ids(vec![ids[5]]), &Reason::RevokedByAdmin.into(), NOW).await.unwrap();
    let mut relying = set("a", "3");
    relying.relied_on.insert("a".into(), Some(Json::from_text("2").unwrap()));
    let mut holding = set("a", "3");
    holding.if_version = Some(7);
    let mut large = set("a", "\"0123456789\"");
    large.max_data_bytes = 12;
    let mut locked = set("a", "3");
    locked.lease = Some(9);
    let mut full = set("empty", "\"\"");
    full.remove("b");
    full.set("quotes \" \\ and ☂", Json::from_text("\"\\u0000 \\\" \\\\ ☂\"").unwrap());
    full.fields.full_name = Some(Some("Anna \"O'Neill\" \\ ☂".into()));
    full.fields.user_type = Some(None);
    full.fields.idle_timeout = Some(None);
    full.fields.ends_at = Some(Some(super::at(i64::from(u32::MAX))));
    let (unknown, _) = start(&store, "nobody");
    let changes = [
        (ids[0], set("a", "3")),
        (ids[1], relying),
        (ids[2], holding),
        (ids[3], large),
        (ids[4], locked),
        (ids[5], set("a", "3")),
        (unknown.id(), set("a", "3")),
        (ids[6], full.clone()),
    ];
    for round in 0..2_u64 {
        // Sent a second time all is as before, and what was applied is so already.
        let mut answers = update_all(&store, &changes).await.into_iter();
        let mut next = || answers.next().unwrap();
        assert_eq!(applied(next()).data.get("a").unwrap().as_str(), "3");
        let Ok(Updated::Conflict(record)) = next() else { panic!("it relied on another value") };
        assert_eq!((record.info.id, record.data.get("a").unwrap().as_str()), (ids[1], "1"));
        let Ok(Updated::Conflict(record)) = next() else { panic!("it relied on another version") };
        assert_eq!((record.info.id, record.data.len()), (ids[2], 0));
        assert_eq!(next().unwrap(), Updated::TooLarge(13));
        assert_eq!(next().unwrap(), Updated::LeaseLost);
        let Ok(Updated::Gone(Gone::Ended(ended))) = next() else { panic!("it had ended") };
        assert_eq!((ended.id, ended.reason), (ids[5], Reason::RevokedByAdmin));
        assert_eq!(next().unwrap(), Updated::Gone(Gone::Unknown));
        let record = applied(next());
        assert_eq!((record.info.id, record.info.version), (ids[6], 1), "round {round}");
        assert_eq!(record.info.full_name.as_deref(), Some("Anna \"O'Neill\" \\ ☂"));
        assert_eq!((record.info.idle_timeout, record.info.ends_at), (None, full.fields.ends_at.flatten()));
        assert_eq!(record.data.get("quotes \" \\ and ☂").unwrap().as_str(), "\"\\u0000 \\\" \\\\ ☂\"");
        assert_eq!(record.data.get("empty").unwrap().as_str(), "\"\"");
        let Loaded::Live(stored) = store.load(ids[6], NOW).await.unwrap() else { panic!("it lives") };
        assert_eq!(stored, record, "what was answered is what is stored");
    }
    for id in &ids[2..5] {
        let Loaded::Live(record) = store.load(*id, NOW).await.unwrap() else { panic!("it lives") };
        assert_eq!((record.info.version, record.data.len()), (0, 0), "nothing was changed");
    }
}

async fn i9_one_change_that_cannot_be_stored_hurts_no_other(kind: Kind) {
    let store = Rules::new(store::open(&with_parameter(&address(kind), "max_connections", "1")).await.unwrap());
    let ids = begin_many(&store, 30).await;
    // One server takes no such character, the other none so long. Callers check keys; this one did not.
    let poison = "\0".repeat(2000);
    let changes: Vec<_> =
        ids.iter().enumerate().map(|(n, id)| (*id, set(if n == 17 { &poison } else { "a" }, "1"))).collect();
    for (n, updated) in update_all(&store, &changes).await.into_iter().enumerate() {
        if n == 17 {
            let is_refused =
                matches!(updated, Err(cloakroom::Error::Store { .. } | cloakroom::Error::InvalidKey { .. }));
            assert!(is_refused, "{updated:?}");
        } else {
            assert_eq!(applied(updated).info.version, 1);
        }
    }
    assert_eq!(applied(store.update(ids[17], &set("a", "1"), NOW).await).info.version, 1, "and it goes on");
}

/// Holds a session's row as another program might, until it is dropped.
enum Holder {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

impl Holder {
    async fn of(kind: Kind, address: &str, id: SessionId) -> Self {
        let (server, parameter) = address.split_once('?').unwrap();
        let name = parameter.split_once('=').unwrap().1;
        let id: String = super::hex(id.as_bytes());
        match kind {
            Kind::Postgres => {
                let mut connection = PgConnection::connect(server).await.unwrap();
                let lock = format!("BEGIN; SELECT FROM {name}.slot WHERE id = '\\x{id}' FOR UPDATE");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await.unwrap();
                Self::Postgres(connection)
            }
            Kind::MariaDb => {
                let mut connection = MySqlConnection::connect(server).await.unwrap();
                let lock = format!("BEGIN; SELECT id FROM {name}_slot WHERE id = X'{id}' FOR UPDATE");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await.unwrap();
                Self::MariaDb(connection)
            }
        }
    }

    async fn let_go(self) {
        match self {
            Self::Postgres(connection) => connection.close().await.unwrap(),
            Self::MariaDb(connection) => connection.close().await.unwrap(),
        }
    }
}

async fn i9_a_session_that_is_locked_holds_up_nobody_else(kind: Kind) {
    // Of its own: a transaction that stays open holds back what others read in their logs.
    let Some((server, _)) = private(kind, &[]).await else { return };
    let address = place(kind, &private_address(kind, &server), "held");
    let store = Rules::new(store::open(&address).await.unwrap());
    let ids = begin_many(&store, 40).await;
    let holder = Holder::of(kind, &address, ids[20]).await;
    let waiting = {
        let (store, id) = (store.clone(), ids[20]);
        tokio::spawn(async move { store.update(id, &set("a", "0"), NOW).await })
    };
    for round in 0..3 {
        let others = ids.iter().filter(|id| **id != ids[20]);
        let changes: Vec<_> = others.map(|id| (*id, set("a", &round.to_string()))).collect();
        update_all(&store, &changes).await.into_iter().for_each(|updated| drop(applied(updated)));
    }
    // Also when it comes along with them.
    let mut changes: Vec<_> = ids.iter().map(|id| (*id, set("b", "1"))).collect();
    let late = changes.remove(20);
    let late = {
        let store = store.clone();
        tokio::spawn(async move { store.update(late.0, &late.1, NOW).await })
    };
    update_all(&store, &changes).await.into_iter().for_each(|updated| drop(applied(updated)));
    assert!(!waiting.is_finished() && !late.is_finished(), "its row is locked");
    holder.let_go().await;
    assert_eq!(applied(waiting.await.unwrap()).info.version, 1);
    assert_eq!(applied(late.await.unwrap()).info.version, 2);
}

async fn i9_a_caller_that_goes_away_disturbs_nobody(kind: Kind) {
    // Of its own: a transaction that stays open holds back what others read in their logs.
    let Some((server, _)) = private(kind, &[]).await else { return };
    let address = place(kind, &private_address(kind, &server), "held");
    let direct = Rules::new(store::open(&address).await.unwrap());
    let store = Rules::new(store::open(&with_parameter(&address, "max_connections", "1")).await.unwrap());
    let ids = begin_many(&direct, 20).await;
    // The one connection waits for the row, and so does everybody behind it.
    let holder = Holder::of(kind, &address, ids[0]).await;
    let first = {
        let (store, id) = (store.clone(), ids[0]);
        tokio::spawn(async move { store.update(id, &set("a", "1"), NOW).await })
    };
    eventually(|| async { is_somebody_waiting(kind, &address).await.then_some(()) }).await;
    let changes: Vec<_> = ids.iter().map(|id| (*id, set("a", "1"))).collect();
    let (staying, leaving) = (&changes[1..10], &changes[10..]);
    {
        let mut gone = pin!(update_all(&store, leaving));
        assert!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let (answers, ()) = tokio::join!(update_all(&store, staying), holder.let_go());
    for updated in answers {
        assert_eq!(applied(updated).info.version, 1);
    }
    assert_eq!(applied(first.await.unwrap()).info.version, 1);
    for (id, _) in leaving {
        let Loaded::Live(record) = direct.load(*id, NOW).await.unwrap() else { panic!("it lives") };
        assert_eq!(record.info.version, 0, "who left the line left nothing behind");
    }
}

/// Whether a statement waits for a row of this test's.
async fn is_somebody_waiting(kind: Kind, address: &str) -> bool {
    let (server, parameter) = address.split_once('?').unwrap();
    let name = parameter.split_once('=').unwrap().1;
    match kind {
        Kind::Postgres => {
            let mut connection = PgConnection::connect(server).await.unwrap();
            let waiting = format!(
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE%{name}%slot%'"
            );
            connection.fetch_optional(AssertSqlSafe(waiting)).await.unwrap().is_some()
        }
        Kind::MariaDb => {
            let mut connection = MySqlConnection::connect(server).await.unwrap();
            let waiting = format!(
                "SELECT 1 FROM information_schema.processlist \
                 WHERE command IN ('Query', 'Execute') AND info LIKE '%{name}\\_slot%WHERE%' \
                   AND id <> CONNECTION_ID()"
            );
            connection.fetch_optional(AssertSqlSafe(waiting)).await.unwrap().is_some()
        }
    }
}

async fn i9_a_connection_cut_under_many_changes_repeats_none(kind: Kind) {
    let address = address(kind);
    let direct = Rules::new(store::open(&address).await.unwrap());
    let proxy = Proxy::start(host_of(&address)).await;
    let one = with_parameter(&through(&address, &proxy.address.to_string()), "max_connections", "1");
    let name = address.split_once('=').unwrap().1;
    let store = Rules::new(store::open(&place(kind, &one, name)).await.unwrap());
    let ids = begin_many(&direct, 40).await;
    let warming: Vec<_> = ids.iter().map(|id| (*id, set("warm", "1"))).collect();
    update_all(&store, &warming).await.into_iter().for_each(|updated| drop(applied(updated)));
    // The second answer is that to many at once, for the first change leaves by itself.
    for answers in 0..3 {
        proxy.cut_answer_after(answers);
        let changes: Vec<_> = ids.iter().map(|id| (*id, set(&format!("{answers}"), "1"))).collect();
        for updated in update_all(&store, &changes).await {
            let record = applied(updated);
            assert_eq!(usize::try_from(record.info.version).unwrap(), answers + 2, "applied once");
            assert_eq!(record.data.len(), answers + 2);
        }
    }
}

async fn i9_two_nodes_in_opposite_orders_do_not_deadlock(kind: Kind) {
    let address = address(kind);
    let nodes = [Rules::new(store::open(&address).await.unwrap()), Rules::new(store::open(&address).await.unwrap())];
    let ids = begin_many(&nodes[0], 60).await;
    let mut tasks = Vec::new();
    for n in 0..6_usize {
        let (store, mut ids) = (nodes[n % 2].clone(), ids.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..8_i64 {
                let by = (11 * n + 5) % ids.len();
                ids.rotate_left(by);
                if n % 2 == 1 {
                    ids.reverse();
                }
                let changes: Vec<_> = ids[..50].iter().map(|id| (*id, set(&format!("{n} {round}"), "1"))).collect();
                let seen_at = super::at(round);
                let touches: Vec<_> =
                    ids.iter().map(|id| cloakroom::rules::Touch { id: *id, seen_at, grace_ends: None }).collect();
                let (updated, touched) = tokio::join!(update_all(&store, &changes), store.touch(&touches, NOW));
                touched.unwrap();
                for updated in updated {
                    assert!(matches!(updated, Ok(Updated::Applied(_) | Updated::Gone(_))), "{updated:?}");
                }
                if n == 0 {
                    let ended = Which::Ids(vec![ids[0], ids[59]]);
                    store.end(&ended, &Reason::SignedOut.into(), seen_at).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for id in ids {
        if let Loaded::Live(record) = nodes[0].load(id, NOW).await.unwrap() {
            assert_eq!(usize::try_from(record.info.version).unwrap(), record.data.len(), "each applied once");
        }
    }
}

async fn i9_changes_of_one_session_keep_their_order(kind: Kind) {
    let store = Rules::new(store::open(&address(kind)).await.unwrap());
    let ids = begin_many(&store, 2).await;
    let mut changes: Vec<_> = (0..30).map(|n| (ids[0], set("last", &n.to_string()))).collect();
    changes.insert(15, (ids[1], set("last", "0")));
    let versions: Vec<_> =
        update_all(&store, &changes).await.into_iter().map(|updated| applied(updated).info.version).collect();
    let expected: Vec<_> = (1..=15).chain([1]).chain(16..=30).collect();
    assert_eq!(versions, expected);
    let Loaded::Live(record) = store.load(ids[0], NOW).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("last").unwrap().as_str(), "29");
}
