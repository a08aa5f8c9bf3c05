//! Servers reached over TLS.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use cloakroom::{
    Error,
    rules::{Loaded, Rules},
    store::{self},
};

use super::{Kind, NOW, begin, is_here, private::PrivateServer, private_address, with_parameter};
use crate::common::{certificates::Authority, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_trusted_by_its_certificate_alone() {
    if is_here(Kind::Postgres) {
        trusted_by_its_certificate_alone(Kind::Postgres).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_trusted_by_its_certificate_alone() {
    if is_here(Kind::MariaDb) {
        trusted_by_its_certificate_alone(Kind::MariaDb).await;
    }
}

async fn trusted_by_its_certificate_alone(kind: Kind) {
    let directory = tempfile::Builder::new().prefix("cloakroom-").tempdir_in("/tmp").unwrap();
    let Some(authority) = Authority::new(directory.path(), "right") else { return };
    let other = Authority::new(directory.path(), "wrong").unwrap();
    authority.sign("server");
    let (certificate, key) = (authority.certificate("server"), authority.key("server"));
    for path in [directory.path(), certificate.parent().unwrap()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    kind.hand_over(&key);
    // No connection without encryption.
    let rules = directory.path().join("pg_hba.conf");
    fs::write(&rules, "hostssl all all 127.0.0.1/32 trust\n").unwrap();
    let show = |path: &Path| path.display().to_string();
    let settings = match kind {
        Kind::Postgres => vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", show(&certificate)),
            format!("ssl_key_file={}", show(&key)),
            format!("hba_file={}", show(&rules)),
        ],
        Kind::MariaDb => vec![
            format!("ssl-cert={}", show(&certificate)),
            format!("ssl-key={}", show(&key)),
            "require-secure-transport=ON".to_owned(),
        ],
    };
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let Some(server) = PrivateServer::start(kind, &settings) else { return };
    let (mode, full, off, ca) = match kind {
        Kind::Postgres => ("sslmode", "verify-full", "disable", "sslrootcert"),
        Kind::MariaDb => ("ssl-mode", "VERIFY_IDENTITY", "DISABLED", "ssl-ca"),
    };
    let address = private_address(kind, &server).replace("127.0.0.1", "localhost");
    let verified = with_parameter(&address, mode, full);
    let trusting =
        |address: &str, authority: &Authority| with_parameter(address, ca, &show(&authority.certificate("authority")));

    let right = trusting(&verified, &authority);
    let store = Rules::new(eventually(|| async { store::open(&right).await.ok() }).await);
    let id = begin(&store, "anna").await;
    assert!(matches!(store.load(id, NOW).await.unwrap(), Loaded::Live(_)));

    // Another authority, that of the system, another name, and no encryption at all.
    let elsewhere = right.replace("localhost", "127.0.0.1");
    for (refused, told) in [
        (trusting(&verified, &other), "certificate"),
        (verified, "certificate"),
        (with_parameter(&address, mode, off), ""),
        (elsewhere, "certificate"),
    ] {
        let error = store::open(&refused).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. } | Error::Store { .. }), "{error:?}");
        assert!(error.to_string().contains(told), "{error}");
    }
}
