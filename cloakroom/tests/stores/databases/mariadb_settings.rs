//! MariaDB servers that are set up otherwise: what is neutralised, what is refused by name, and what a refusal says.

use cloakroom::{
    Change, Ending, Error, Json, Reason,
    rules::{Created, EndAnswer, Fence, Loaded, Rules, Updated, Which},
    store::{self, Query},
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

use super::{Kind, NOW, begin, load::Load, private, private_address, set, start, with_parameter};
use crate::common::disks::{Mounted, remount};

async fn run(address: &str, statements: &[&str]) {
    let mut connection = MySqlConnection::connect(address).await.unwrap();
    for statement in statements {
        let told = |error| panic!("{statement}: {error}");
        connection.execute(sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))).await.unwrap_or_else(told);
    }
}

/// An account that has nothing but the rights that the documentation names.
async fn with_documented_rights(address: &str) -> String {
    run(
        address,
        &[
            "CREATE USER IF NOT EXISTS poor@'127.0.0.1' IDENTIFIED BY 'poor'",
            "GRANT CREATE, ALTER, SELECT, INSERT, UPDATE, DELETE ON cloakroom.* TO poor@'127.0.0.1'",
        ],
    )
    .await;
    address.replace("cloakroom:cloakroom@", "poor:poor@")
}

/// Settings that change what statements mean, or end them early, are set on connect, wherever they come from.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settings_of_a_mariadb_do_not_leak_in() {
    let Some((server, _)) = private(Kind::MariaDb, &["innodb-default-row-format=compact"]).await else { return };
    let address = private_address(Kind::MariaDb, &server);
    let settings = [
        "SET GLOBAL completion_type = CHAIN",
        "SET GLOBAL sql_safe_updates = 1",
        "SET GLOBAL max_join_size = 1",
        "SET GLOBAL sql_select_limit = 1",
        "SET GLOBAL group_concat_max_len = 1024",
        "SET GLOBAL default_regex_flags = 'EXTENDED'",
        "SET GLOBAL autocommit = 0",
        "SET GLOBAL sql_mode = 'ORACLE,NO_BACKSLASH_ESCAPES,ANSI_QUOTES'",
    ];
    run(&address, &settings).await;
    let store = Rules::new(store::open(&format!("{address}?prefix=anew")).await.unwrap());
    let id = begin(&store, "анна").await;
    for (key, text) in [("a b.c*", r#""📱 \\ ' \u0000""#), ("a b", "1"), ("a b.c*", "2")] {
        assert!(matches!(store.update(id, &set(key, text), NOW).await.unwrap(), Updated::Applied(_)));
        let Loaded::Live(record) = store.load(id, NOW).await.unwrap() else { panic!("it lives") };
        assert_eq!(record.data.get(key).unwrap().as_str(), text);
    }
    let load = Load::start_on_one(&store, 6).await;
    load.reaches(60).await;
    load.stop().await.assert_kept_by_one(&store).await;
    // Another connection sees what this one committed.
    let other = Rules::new(store::open(&format!("{address}?prefix=anew")).await.unwrap());
    assert!(matches!(other.load(id, NOW).await.unwrap(), Loaded::Live(_)));

    for _ in 0..160 {
        begin(&store, "ben").await;
    }
    let all = Which::OfUser { user: "ben".into(), except: Vec::new(), fence: Fence::Disabled };
    assert_eq!(store.end(&all, &Reason::UserDisabled.into(), NOW).await.unwrap().len(), 160);
    assert!(other.find(&Query::of_user("ben"), None, 200, NOW).await.unwrap().items.is_empty());
}

/// With the binary log on, the documented rights suffice to make the tables and to use them; a format that cannot hold what
/// we write is refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_a_binary_log_the_documented_rights_suffice() {
    let Some((server, _)) = private(Kind::MariaDb, &["log-bin=bin", "binlog-format=MIXED"]).await else { return };
    let address = private_address(Kind::MariaDb, &server);
    let poor = format!("{}?prefix=poor", with_documented_rights(&address).await);
    let store = Rules::new(store::open(&poor).await.unwrap());
    let id = begin(&store, "anna").await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    store.end(&Which::Ids(vec![id]), &Reason::SignedOut.into(), NOW).await.unwrap();
    store.ping().await.unwrap();

    run(&address, &["SET GLOBAL binlog_format = STATEMENT"]).await;
    let refused = store::open(&poor).await.unwrap_err();
    assert!(matches!(&refused, Error::Store { message, .. } if message.contains("binlog_format")), "{refused}");
}

/// A server that takes no writes says so by name, and heals without a restart of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mariadb_that_takes_no_writes_says_so() {
    let Some((server, _)) = private(Kind::MariaDb, &[]).await else { return };
    let address = private_address(Kind::MariaDb, &server);
    let store = Rules::new(store::open(&with_documented_rights(&address).await).await.unwrap());
    let id = begin(&store, "anna").await;
    store.ping().await.unwrap();
    run(&address, &["SET GLOBAL read_only = 1"]).await;
    let creation = start(&store, "ben").1;
    for told in [store.ping().await.map(drop), store.create(&creation, NOW).await.map(drop)] {
        let told = told.unwrap_err();
        assert!(matches!(told, Error::Unavailable { .. }) && told.to_string().contains("read_only"), "{told}");
    }
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)), "what is there can be read");
    let found = store.examine(NOW, false).await.unwrap();
    assert!(found.iter().any(|finding| finding.is_wrong() && finding.text.contains("read_only")), "{found:?}");

    run(&address, &["SET GLOBAL read_only = 0"]).await;
    store.ping().await.unwrap();
    assert!(matches!(store.create(&creation, NOW).await.unwrap(), Created::Created { .. }));
}

fn large(change: &str, most: usize) -> Change {
    let mut large = Change::new(most);
    large.set("large", Json::from_text(change).unwrap());
    large
}

/// The smallest packets that are documented suffice for a hundred large changes at once, and one that fits in none fails by
/// itself and for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_smallest_packets_that_will_do_do() {
    let Some((server, store)) = private(Kind::MariaDb, &["max-allowed-packet=262144"]).await else { return };
    let address = private_address(Kind::MariaDb, &server);
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(begin(&store, &format!("user {n}")).await);
    }
    // Backslashes take twice their room.
    for (text, count) in [("x".repeat(60_000), 100), ("\\\\".repeat(30_000), 20)] {
        let change = large(&format!("\"{text}\""), 64 * 1024);
        let many = ids[..count].iter().map(|id| {
            let (store, id, change): (Rules, _, _) = (store.clone(), *id, change.clone());
            tokio::spawn(async move { store.update(id, &change, NOW).await })
        });
        for updated in join_all(many).await {
            let updated = updated.unwrap();
            assert!(matches!(updated, Ok(Updated::Applied(_))), "{updated:?}");
        }
    }
    let too_large = large(&format!("\"{}\"", "x".repeat(250_000)), 1 << 20);
    let (small, place) = (set("a", "1"), 17);
    let changes = ids[..40].iter().enumerate().map(|(n, id)| (*id, if n == place { &too_large } else { &small }));
    let updated = join_all(changes.map(|(id, change)| store.update(id, change, NOW))).await;
    for (n, updated) in updated.into_iter().enumerate() {
        match updated {
            Ok(Updated::Applied(_)) if n != place => {}
            Err(error) if n == place => {
                assert!(!error.is_retryable() && error.to_string().contains("max_allowed_packet"), "{error}");
            }
            other => panic!("{n}: {other:?}"),
        }
    }

    run(&address, &["SET GLOBAL max_allowed_packet = 131072"]).await;
    let refused = store::open(&address).await.unwrap_err();
    assert!(matches!(&refused, Error::Store { message, .. } if message.contains("max_allowed_packet")), "{refused}");
}

/// Tables that cannot grow fail writes in time, reads go on, and ping tells as long as there is no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_of_a_mariadb_is_told_by_ping_until_there_is_room() {
    let Some((server, _)) = private(Kind::MariaDb, &[]).await else { return };
    let address = private_address(Kind::MariaDb, &server);
    // A database is a directory.
    run(&address, &["DROP DATABASE cloakroom"]).await;
    let database = server.data().join("cloakroom");
    let Some(_disk) = Mounted::new(&database, "6m") else { return };
    let store = Rules::new(store::open(&with_parameter(&address, "prefix", "on_small_disk")).await.unwrap());
    let text = format!("\"{}\"", "x".repeat(12_000));
    let mut ids = Vec::new();
    let error = loop {
        let (token, mut creation) = start(&store, &format!("user {}", ids.len()));
        creation.record.data.insert("a", Json::from_text(&text).unwrap());
        match store.create(&creation, NOW).await {
            Ok(_) => ids.push(token.id()),
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable() && error.to_string().contains("is full"), "{error}");
    let told = store.ping().await.unwrap_err();
    assert!(told.is_retryable() && told.to_string().contains("is full"), "{told}");
    for id in [ids[0], ids[ids.len() - 1]] {
        assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
    }
    // An ending needs room as well. What is answered is what is so.
    let ending = Ending::new(Reason::SignedOut);
    match store.end(&Which::Ids(vec![ids[0]]), &ending, NOW).await {
        Ok(_) => assert!(matches!(store.load(ids[0], NOW).await.unwrap(), Loaded::Ended(_))),
        Err(error) => {
            assert!(error.is_retryable() && error.to_string().contains("is full"), "{error}");
            assert!(matches!(store.load(ids[0], NOW).await.unwrap(), Loaded::Live(_)));
        }
    }

    remount(&database, "size=64m");
    store.ping().await.unwrap();
    let ended = store.end(&Which::Ids(vec![ids[1]]), &ending, NOW).await.unwrap();
    assert!(matches!(ended[..], [EndAnswer::EndedNow(_)]), "{ended:?}");
    begin(&store, "anna").await;
    drop(store);
    drop(server);
}
