//! Servers that are set up otherwise: what is neutralised, what is refused by name, and what a refusal says.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use cloakroom::{
    Client, Error, Json,
    rules::{Created, Loaded, Rules},
    store::{self},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{
    Kind, NOW, at, begin, create, is_here, load::Load, private, private::PrivateServer, private_address, set, start,
    with_parameter,
};
use crate::common::{
    disks::{Mounted, remount},
    eventually,
};

async fn run(address: &str, statements: &[&str]) {
    let mut connection = PgConnection::connect(address).await.unwrap();
    for statement in statements {
        connection.execute(sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))).await.unwrap();
    }
}

/// Settings that change what statements mean or how they fail are set on connect, wherever they come from.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settings_of_the_server_do_not_leak_in() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let settings = [
        "standard_conforming_strings=off",
        "bytea_output=escape",
        "default_transaction_isolation=serializable",
        "default_transaction_deferrable=on",
        "enable_indexscan=off",
        "lock_timeout=1ms",
        "search_path=nowhere",
        "DateStyle=German",
        "xmloption=document",
    ];
    let Some((server, before)) = private(Kind::Postgres, &settings).await else { return };
    let address = private_address(Kind::Postgres, &server);
    run(&address, &["ALTER ROLE cloakroom SET client_encoding = LATIN1"]).await;
    for store in [before, Rules::new(store::open(&address).await.unwrap())] {
        let (token, _) = start(&store, "анна");
        let mut creation = create(&token, Some("анна"));
        creation.record.info.client = Client { device: Some("it's a \\ \u{1f4f1}".into()), ..Client::default() };
        assert!(matches!(store.create(&creation, NOW).await.unwrap(), Created::Created { .. }));
        let (key, text) = ("ключ \\ '", r#""📱 \\ \u0000""#);
        store.update(token.id(), &set(key, text), NOW).await.unwrap();
        let Loaded::Live(record) = store.load(token.id(), NOW).await.unwrap() else { panic!("it lives") };
        assert_eq!(record.data.get(key).unwrap().as_str(), text);
        assert_eq!(record.info.client, creation.record.info.client);
        let load = Load::start_on_one(&store, 6).await;
        load.reaches(60).await;
        load.stop().await.assert_kept_by_one(&store).await;
    }
}

/// A database in an encoding that cannot keep every text is refused, by the name of the setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_is_not_in_utf_8_is_refused() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let Some((server, _)) = private(Kind::Postgres, &[]).await else { return };
    let address = private_address(Kind::Postgres, &server);
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = encoding.to_lowercase();
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        run(&address, &[&create]).await;
        let error = store::open(&address.replace("/postgres", &format!("/{name}"))).await.unwrap_err();
        let told = error.to_string();
        let names_it = told.contains("server_encoding") && told.contains(encoding);
        assert!(matches!(error, Error::Store { .. }) && names_it, "{told}");
    }
}

/// What keeps writes from working is told by ping, and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_takes_no_writes_says_so() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let Some((server, store)) = private(Kind::Postgres, &[]).await else { return };
    let address = private_address(Kind::Postgres, &server);
    let id = begin(&store, "anna").await;
    store.ping().await.unwrap();
    run(&address, &["ALTER DATABASE postgres SET default_transaction_read_only = on"]).await;
    let store = Rules::new(store::open(&address).await.unwrap());
    let told = store.ping().await.unwrap_err();
    let names_it = told.to_string().contains("default_transaction_read_only");
    assert!(matches!(told, Error::Unavailable { .. }) && names_it, "{told}");
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)), "what is there can be read");
    // It heals without a restart.
    let heal =
        ["SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET default_transaction_read_only"];
    run(&address, &heal).await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    store.ping().await.unwrap();
}

/// A full disk fails writes, and ping tells as long as it is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_is_told_by_ping_until_there_is_room() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let place = tempfile::Builder::new().prefix("cloakroom-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let at = place.path().join("disk");
    let Some(_disk) = Mounted::new(&at, "4m") else { return };
    Kind::Postgres.hand_over(&at);
    let Some((server, _)) = private(Kind::Postgres, &[]).await else { return };
    let address = private_address(Kind::Postgres, &server);
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", at.display());
    run(&address, &[&tablespace, "ALTER DATABASE postgres SET default_tablespace = small"]).await;
    let store = Rules::new(store::open(&with_parameter(&address, "schema", "on_small_disk")).await.unwrap());
    let text = format!("\"{}\"", "x".repeat(3000));
    let mut ids = Vec::new();
    let error = loop {
        let (token, mut creation) = start(&store, &format!("user {}", ids.len()));
        creation.record.data.insert("a", Json::from_text(&text).unwrap());
        match store.create(&creation, NOW).await {
            Ok(_) => ids.push(token.id()),
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable() && error.to_string().contains("No space left"), "{error}");
    let told = store.ping().await.unwrap_err();
    assert!(told.is_retryable() && told.to_string().contains("No space left"), "{told}");
    assert!(matches!(store.load(ids[0], NOW).await.unwrap(), Loaded::Live(_)));

    remount(&at, "size=64m");
    store.ping().await.unwrap();
    begin(&store, "anna").await;
    drop(server);
}

/// What a server refuses is told at once, in its own words and without lines of its own source.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_refusal_is_told_at_once_in_the_servers_words() {
    if !is_here(Kind::Postgres) {
        return;
    }
    let rules = tempfile::Builder::new().prefix("cloakroom-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(rules.path(), Permissions::from_mode(0o755)).unwrap();
    let file = rules.path().join("pg_hba.conf");
    fs::write(&file, "host all other 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n").unwrap();
    let setting = format!("hba_file={}", file.display());
    let Some(server) = PrivateServer::start(Kind::Postgres, &[&setting]) else { return };
    let address = private_address(Kind::Postgres, &server);
    eventually(|| async { PgConnection::connect(&address).await.ok() }).await;
    run(&address, &["CREATE ROLE other LOGIN PASSWORD 'right'", "CREATE ROLE poor LOGIN"]).await;
    for (address, told) in [
        (address.replace("cloakroom@", "other:wrong@"), "password authentication failed for user \"other\""),
        (address.replace("/postgres", "/nowhere"), "database \"nowhere\" does not exist"),
        (address.replace("cloakroom@", "nobody@"), "role \"nobody\" does not exist"),
        (address.replace("cloakroom@", "poor@"), "permission denied for database postgres"),
    ] {
        let text = store::open(&address).await.unwrap_err().to_string();
        assert!(text.contains(told) && !text.contains("at line") && !text.contains("wrong"), "{text}");
    }
    let store = Rules::new(store::open(&address).await.unwrap());
    let grants = ["GRANT USAGE ON SCHEMA cloakroom TO poor", "GRANT SELECT ON ALL TABLES IN SCHEMA cloakroom TO poor"];
    run(&address, &grants).await;
    let poor = Rules::new(store::open(&address.replace("cloakroom@", "poor@")).await.unwrap());
    let id = begin(&store, "anna").await;
    let refused = poor.update(id, &set("a", "1"), at(1)).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, Error::Store { .. }) && text.contains("permission denied for table slot"), "{text}");
    assert!(!text.contains("at line"), "{text}");
}
