//! PgBouncer between the store and the server: as it comes, and in each of its modes.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
    sync::Arc,
};

use cloakroom::{
    rules::{Loaded, Rules},
    store::{self, Query, Severity},
};
use futures_util::future::join_all;
use needs::Port;
use tempfile::TempDir;

use super::{Kind, NOW, begin, is_here, load::Load, private, private::PrivateServer, set};
use crate::common::eventually;

/// A PgBouncer that ends with this.
struct Bouncer {
    process: Child,
    port: Port,
    _directory: TempDir,
}

impl Bouncer {
    /// In front of a server, with these settings.
    fn start(server: &PrivateServer, settings: &str) -> Option<Self> {
        if !needs::is_met(Kind::program("pgbouncer").is_some(), "pgbouncer is not here") {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("cloakroom-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let port = Port::take().unwrap();
        let (host, number) = (server.host(), port.number());
        let (host, server_port) = host.split_once(':').unwrap();
        let text = format!(
            "[databases]\npostgres = host={host} port={server_port} user=cloakroom\n[pgbouncer]\nauth_type = any\n\
             listen_addr = 127.0.0.1\nlisten_port = {number}\nunix_socket_dir =\n{settings}"
        );
        let file = directory.path().join("pgbouncer.ini");
        fs::write(&file, text).unwrap();
        let mut command = Kind::Postgres.command("pgbouncer");
        let process = command.arg("-q").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { process, port, _directory: directory })
    }

    fn address(&self) -> String {
        format!("postgres://cloakroom@127.0.0.1:{}/postgres", self.port.number())
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn works_behind(settings: &str) {
    if !is_here(Kind::Postgres) {
        return;
    }
    let Some((server, direct)) = private(Kind::Postgres, &[]).await else {
        return;
    };
    let Some(bouncer) = Bouncer::start(&server, settings) else { return };
    let store = Rules::new(eventually(|| async { store::open(&bouncer.address()).await.ok() }).await);
    // Two nodes of many writers, so that servers change hands all the time.
    let other = Rules::new(store::open(&bouncer.address()).await.unwrap());
    let loads = [Load::start(&store, 12).await, Load::start_on_one(&other, 8).await];
    for load in &loads {
        load.reaches(200).await;
    }
    let [many, one] = loads;
    many.stop().await.assert_kept(&direct).await;
    one.stop().await.assert_kept_by_one(&direct).await;

    let user = "it's $1 \\ анна";
    let id = begin(&store, user).await;
    let (key, text) = ("quotes \" ' \\ $2", r#""\u0000 ' \\ $3 ☂""#);
    store.update(id, &set(key, text), NOW).await.unwrap();
    let Loaded::Live(record) = store.load(id, NOW).await.unwrap() else { panic!("it lives") };
    assert_eq!(direct.load(id, NOW).await.unwrap(), Loaded::Live(Arc::clone(&record)));
    assert_eq!(record.data.get(key).unwrap().as_str(), text);
    let query = Query::of_user(user);
    let finds = (0..30).map(|_| store.find(&query, None, 10, NOW));
    assert!(join_all(finds).await.into_iter().all(|found| found.unwrap().items.len() == 1));
    store.ping().await.unwrap();
    let findings = store.examine(NOW, false).await.unwrap();
    assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.subject == "pooler"), "{findings:?}");
}

/// As it comes: a server for each connection, and parameters that it does not know are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_work_behind_a_pgbouncer_as_it_comes() {
    works_behind("").await;
}

/// Each transaction may go to another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_work_behind_a_pgbouncer_in_transaction_mode() {
    works_behind("pool_mode = transaction\ndefault_pool_size = 3\n").await;
}

/// And where it takes parameters away in silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_work_behind_a_pgbouncer_that_ignores_parameters() {
    works_behind(
        "pool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\n\
         ignore_startup_parameters = options,extra_float_digits\n",
    )
    .await;
}
