//! Damage that is done by hand is found, named and repaired, and nothing that lives is lost.

use cloakroom::{
    Ending, Reason,
    rules::{Loaded, Rules, Which},
    store::{self, Finding, Query, Severity},
};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};

use super::{Kind, NOW, address, begin, private, set, start};

/// What is wrong before the repair. Afterwards nothing is.
async fn repaired(store: &Rules) -> Vec<Finding> {
    let found = wrong(store.examine(NOW, false).await.unwrap());
    assert_eq!(found, wrong(store.examine(NOW, false).await.unwrap()), "looking changes nothing");
    let mended = store.examine(NOW, true).await.unwrap();
    assert!(mended.iter().all(|finding| !finding.is_wrong()), "{mended:?}");
    assert!(mended.iter().filter(|finding| finding.repaired).count() >= found.len(), "{mended:?}");
    let after = store.examine(NOW, true).await.unwrap();
    assert!(after.iter().all(|finding| !finding.is_wrong() && !finding.repaired), "{after:?}");
    found
}

fn wrong(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(Finding::is_wrong).collect()
}

/// The finding about a subject.
#[track_caller]
fn about<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).unwrap_or_else(|| panic!("{subject}: {findings:?}"))
}

/// Runs statements as anybody with the account could. `~` stands before the names of tables and routines.
async fn damage(kind: Kind, address: &str, statements: &str) {
    let (place, parameters) = address.split_once('?').unwrap_or((address, ""));
    let name = parameters.split_once('=').map_or("cloakroom", |(_, name)| name);
    match kind {
        Kind::Postgres => {
            let mut connection = PgConnection::connect(place).await.unwrap();
            let statements = statements.replace('~', &format!("\"{name}\"."));
            sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
        }
        Kind::MariaDb => {
            let mut connection = MySqlConnection::connect(place).await.unwrap();
            let statements = statements.replace('~', &format!("{name}_"));
            sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
        }
    }
}

async fn living_of(store: &Rules, user: &str) -> usize {
    store.find(&Query::of_user(user), None, 100, NOW).await.unwrap().items.len()
}

pub(crate) async fn a_sound_database_is_found_so(kind: Kind) {
    let store = Rules::new(store::open(&address(kind)).await.unwrap());
    let id = begin(&store, "anna").await;
    store.update(id, &set("a", "1"), NOW).await.unwrap();
    let findings = store.examine(NOW, false).await.unwrap();
    for subject in ["version", "schema", "sessions"] {
        assert_eq!(about(&findings, subject).severity, Severity::Fine, "{findings:?}");
    }
    // All was compared: nothing was left out for want of a right.
    assert!(findings.iter().all(|finding| finding.severity != Severity::Note), "{findings:?}");
    // Whose settings are those of a server for tests.
    assert!(about(&findings, "durability").severity <= Severity::Warning);
}

pub(crate) async fn i4_rows_that_do_not_fit_together_are_mended(kind: Kind) {
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    let (anna, ben) = (begin(&store, "anna").await, begin(&store, "ben").await);
    store.update(anna, &set("a", "1"), NOW).await.unwrap();
    let literal = |id: cloakroom::SessionId| match kind {
        Kind::Postgres => format!("'\\x{}'", super::hex(id.as_bytes())),
        Kind::MariaDb => format!("X'{}'", super::hex(id.as_bytes())),
    };
    let done = format!(
        "UPDATE ~slot SET user_id = NULL WHERE id = {}; UPDATE ~slot SET due_at = NULL WHERE id = {}",
        literal(anna),
        literal(ben)
    );
    damage(kind, &address, &done).await;
    assert_eq!(living_of(&store, "anna").await, 0);

    let later = NOW.after(std::time::Duration::from_hours(2));
    let found = wrong(store.examine(later, false).await.unwrap());
    for (finding, (subject, id)) in found.iter().zip([("users", anna), ("expiry", ben)]) {
        assert!(finding.subject == subject && finding.text.contains(&id.to_string()), "{finding:?}");
    }
    assert_eq!(found.len(), 2, "{found:?}");
    let mended = store.examine(later, true).await.unwrap();
    assert_eq!(mended.iter().filter(|finding| finding.repaired).count(), 2, "{mended:?}");
    assert_eq!(wrong(store.examine(later, false).await.unwrap()), []);
    let Loaded::Live(record) = store.load(anna, NOW).await.unwrap() else { panic!("it lives") };
    assert_eq!(record.data.get("a").unwrap().as_str(), "1");
    assert_eq!(living_of(&store, "anna").await, 1);
    let reap = cloakroom::rules::Reap { limit: 10, tombstones_before: NOW, audit_before: NOW };
    let ended = store.reap(&reap, later).await.unwrap().ended;
    assert!(ended.iter().any(|ended| ended.id == ben), "it is in the index again: {ended:?}");
}

pub(crate) async fn indexes_and_routines_that_are_gone_are_made_anew(kind: Kind) {
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    let id = begin(&store, "anna").await;
    let statements = match kind {
        Kind::Postgres => {
            "DROP INDEX ~slot_by_user; DROP INDEX ~audit_by_user; CREATE INDEX audit_by_user ON ~audit (entry); \
             DROP FUNCTION ~admitted_1; \
             CREATE OR REPLACE FUNCTION ~size_1(data bytea) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0'"
        }
        Kind::MariaDb => {
            "DROP INDEX slot_by_user ON ~slot; DROP INDEX audit_by_user ON ~audit; CREATE INDEX audit_by_user ON ~audit (at)"
        }
    };
    damage(kind, &address, statements).await;
    if kind == Kind::Postgres {
        store.create(&start(&store, "anna").1, NOW).await.unwrap_err();
    }

    let found = repaired(&store).await;
    let broken: &[_] = match kind {
        Kind::Postgres => &[
            ("slot_by_user", "is gone"),
            ("audit_by_user", "is another one"),
            ("admitted_1", "is gone"),
            ("size_1", "is another one"),
        ],
        Kind::MariaDb => &[("slot_by_user", "is gone"), ("audit_by_user", "is another one")],
    };
    for (object, problem) in broken {
        let finding = found.iter().find(|finding| finding.text.contains(*object));
        assert!(
            finding.is_some_and(|finding| finding.subject == "schema" && finding.text.contains(*problem)),
            "{found:?}"
        );
    }
    assert_eq!(found.len(), broken.len(), "{found:?}");
    store.enable_user("anna", NOW).await.unwrap();
    assert!(store.ping().await.unwrap().unwrap() > NOW);
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));
    assert_eq!(living_of(&store, "anna").await, 1);
}

pub(crate) async fn a_table_that_was_changed_is_named_and_left_alone(kind: Kind) {
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    let done = "ALTER TABLE ~slot DROP COLUMN device; DROP TABLE ~account";
    damage(kind, &address, done).await;
    for repair in [false, true] {
        let found = wrong(store.examine(NOW, repair).await.unwrap());
        assert!(
            found.iter().any(|finding| finding.text.contains("device") && finding.text.contains("backup")),
            "{found:?}"
        );
        let names_it = |finding: &Finding| finding.text.contains("account is gone") && finding.text.contains("backup");
        assert!(found.iter().any(names_it), "{found:?}");
    }
}

pub(crate) async fn settings_that_lose_or_refuse_are_told(kind: Kind) {
    let settings: &[&str] = match kind {
        Kind::Postgres => &[
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "max_connections=8",
            "superuser_reserved_connections=1",
            "default_transaction_isolation=repeatable read",
        ],
        Kind::MariaDb => &[
            "innodb_flush_log_at_trx_commit=2",
            "innodb_doublewrite=0",
            "log_bin=bin",
            "sync_binlog=0",
            "max_connections=10",
        ],
    };
    let Some((server, store)) = private(kind, settings).await else { return };
    let findings = store.examine(NOW, false).await.unwrap();
    let told: &[&str] = match kind {
        Kind::Postgres => &["fsync is off", "synchronous_commit is off", "full_page_writes is off"],
        Kind::MariaDb => {
            &["innodb_flush_log_at_trx_commit is not 1", "innodb_doublewrite is off", "sync_binlog is not 1"]
        }
    };
    for told in told {
        let is_told = |finding: &Finding| finding.severity == Severity::Warning && finding.text.contains(told);
        assert!(findings.iter().any(is_told), "{told}: {findings:?}");
    }
    if kind == Kind::Postgres {
        assert_eq!(about(&findings, "connections").severity, Severity::Warning);
        // Set on connect: what the server has by default does not matter.
        assert!(findings.iter().all(|finding| finding.subject != "isolation"), "{findings:?}");
    }
    let damaging = match kind {
        Kind::Postgres => "ALTER DATABASE postgres SET default_transaction_read_only = on",
        Kind::MariaDb => "SET GLOBAL read_only = 1",
    };
    damage(kind, &super::private_address(kind, &server), damaging).await;
    let reopened = match kind {
        // Settings of a database hold for connections made afterwards.
        Kind::Postgres => Rules::new(store::open(&super::private_address(kind, &server)).await.unwrap()),
        Kind::MariaDb => store,
    };
    assert!(about(&reopened.examine(NOW, false).await.unwrap(), "writable").is_wrong());
}

pub(crate) async fn an_account_with_few_rights_gets_notes(kind: Kind) {
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    begin(&store, "anna").await;
    let (place, parameters) = address.split_once('?').unwrap();
    let name = parameters.split_once('=').unwrap().1;
    let user = format!("u{}", &name[1..name.len().min(20)]).replace('_', "x");
    let grants = match kind {
        Kind::Postgres => format!(
            "CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA \"{name}\" TO {user}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"{name}\" TO {user}; \
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA \"{name}\" TO {user}"
        ),
        Kind::MariaDb => format!(
            "CREATE USER {user} IDENTIFIED BY 'secret'; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON cloakroom.* TO {user}"
        ),
    };
    damage(kind, &address, &grants).await;
    let host = place.split_once('@').unwrap().1;
    let limited = match kind {
        Kind::Postgres => format!("postgres://{user}@{host}?{parameters}"),
        Kind::MariaDb => format!("mysql://{user}:secret@{host}?{parameters}"),
    };
    let store = Rules::new(store::open(&limited).await.unwrap());
    begin(&store, "ben").await;
    for repair in [false, true] {
        let findings = store.examine(NOW, repair).await.unwrap();
        assert!(findings.iter().all(|finding| !finding.is_wrong()), "{findings:?}");
        assert!(findings.iter().any(|finding| finding.severity == Severity::Note), "{findings:?}");
        assert_eq!(about(&findings, "sessions").severity, Severity::Fine, "{findings:?}");
    }
    let drop = match kind {
        Kind::Postgres => format!("DROP OWNED BY {user}; DROP ROLE {user}"),
        Kind::MariaDb => format!("DROP USER {user}"),
    };
    damage(kind, &address, &drop).await;
}

/// An index whose build broke off.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_valid_is_made_anew() {
    let Some((server, store)) = private(Kind::Postgres, &[]).await else { return };
    begin(&store, "anna").await;
    let address = super::private_address(Kind::Postgres, &server);
    let damaging = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'cloakroom.slot_by_user'::regclass";
    damage(Kind::Postgres, &address, damaging).await;
    let found = repaired(&store).await;
    assert!(found.len() == 1 && found[0].text.contains("slot_by_user is not valid"), "{found:?}");
    assert_eq!(living_of(&store, "anna").await, 1);
}

pub(crate) async fn it_is_repaired_while_others_work(kind: Kind) {
    let address = address(kind);
    let store = Rules::new(store::open(&address).await.unwrap());
    let series = match kind {
        Kind::Postgres => {
            "INSERT INTO ~slot (revision, created_at, idle, ends_at, id, head, logged, data, seen, version, recent) \
             SELECT revision, created_at, idle, ends_at, substr(id, 1, 2) || substr(sha256(n::text::bytea), 1, 16), head, \
             logged, data, seen, version, recent FROM ~slot, generate_series(1, 1200) AS n"
        }
        Kind::MariaDb => {
            "INSERT INTO ~slot (revision, created_at, idle, ends_at, id, head, data, seen, version, recent) \
             SELECT revision, created_at, idle, ends_at, CONCAT(LEFT(id, 2), LEFT(UNHEX(SHA2(n.seq, 256)), 16)), head, data, \
             seen, version, recent FROM ~slot, seq_1_to_1200 AS n"
        }
    };
    begin(&store, "anna").await;
    let living = 1251;
    damage(kind, &address, series).await;
    let other = Rules::new(store::open(&address).await.unwrap());
    let working = tokio::spawn(async move {
        for n in 0..100 {
            let (token, create) = start(&other, "anna");
            other.create(&create, NOW).await.unwrap();
            other.update(token.id(), &set("n", &n.to_string()), NOW).await.unwrap();
            if n % 2 == 0 {
                other.end(&Which::Ids(vec![token.id()]), &Ending::new(Reason::SignedOut), NOW).await.unwrap();
            }
        }
    });
    let findings = store.examine(NOW, true).await.unwrap();
    working.await.unwrap();
    let mended: Vec<_> = findings.iter().filter(|finding| finding.repaired).collect();
    assert!(mended.len() == 1 && mended[0].text.starts_with("1200 sessions"), "{findings:?}");
    assert_eq!(wrong(store.examine(NOW, false).await.unwrap()), []);
    assert_eq!(store.find(&Query::of_user("anna"), None, 2000, NOW).await.unwrap().items.len(), living);
}
