//! Servers reached over TLS.

use cloakroom::{Error, rules::Rules, store::RedisStore};
use needs::Port;

use super::{
    load::{NOW, begin, live, setting, sign_in},
    servers::{Server, is_here},
};
use crate::common::certificates::Authority;

/// A server with a port for TLS, on which clients show a certificate too if it `asks` for one.
fn start(authority: &Authority, asks: bool) -> (Server, Port, String) {
    let port = Port::take().unwrap();
    authority.sign("server");
    let [certificate, key, ca] =
        [authority.certificate("server"), authority.key("server"), authority.certificate("authority")];
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let server = Server::start(&[
        "--tls-port",
        &port.number().to_string(),
        "--tls-cert-file",
        &path(&certificate),
        "--tls-key-file",
        &path(&key),
        "--tls-ca-cert-file",
        &path(&ca),
        "--tls-auth-clients",
        if asks { "yes" } else { "no" },
    ]);
    let address = format!("rediss://localhost:{}", port.number());
    (server, port, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_its_certificate_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (true, Some(authority)) = (is_here(), Authority::new(directory.path(), "right")) else { return };
    let other = Authority::new(directory.path(), "wrong").unwrap();
    let (server, _port, address) = start(&authority, false);
    let trusting = |authority: &Authority| format!("tls_ca={}", authority.certificate("authority").display());

    let right = format!("{address}?{}", trusting(&authority));
    let store = Rules::on(RedisStore::open(&right).await.unwrap());
    let id = begin(&store, sign_in(&store, "anna")).await;
    store.update(id, &setting("a", 1), NOW).await.unwrap();
    server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(live(&store, id).await.info.version, 1, "also after a cut");
    // Nor does the system trust it, nor is it for another name.
    for (address, query) in [
        (address.clone(), trusting(&other)),
        (address.clone(), "prefix=shop:".to_owned()),
        (address.replace("localhost", "127.0.0.1"), trusting(&authority)),
    ] {
        let error = RedisStore::open(&format!("{address}?{query}")).await.unwrap_err();
        assert!(matches!(&error, Error::Store { message, .. } if message.contains("not to be trusted")), "{error}");
    }
    // Each kind of port hears nothing that it understands.
    let plain = format!("rediss://localhost:{}?timeout_ms=500&{}", server.port, trusting(&authority));
    let plain = RedisStore::open(&plain).await;
    assert!(matches!(plain, Err(Error::Unavailable { .. })), "{plain:?}");
    let unencrypted = RedisStore::open(&format!("{}?timeout_ms=500", address.replace("rediss", "redis"))).await;
    assert!(matches!(unencrypted, Err(Error::Unavailable { .. })), "{unencrypted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let directory = tempfile::tempdir().unwrap();
    let (true, Some(authority)) = (is_here(), Authority::new(directory.path(), "both")) else { return };
    let (_server, _port, address) = start(&authority, true);
    authority.sign("client");
    let address = format!("{address}?timeout_ms=1000&tls_ca={}", authority.certificate("authority").display());
    let shown =
        format!("tls_cert={}&tls_key={}", authority.certificate("client").display(), authority.key("client").display());
    let store = Rules::on(RedisStore::open(&format!("{address}&{shown}")).await.unwrap());
    begin(&store, sign_in(&store, "anna")).await;
    let error = RedisStore::open(&address).await.unwrap_err();
    assert!(error.to_string().contains("tls_cert"), "{error}");
}

#[tokio::test]
async fn addresses_whose_files_cannot_be_used_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let Some(authority) = Authority::new(directory.path(), "files") else { return };
    let [certificate, key] = [authority.certificate("authority"), authority.key("authority")];
    let no_pem = directory.path().join("no.pem");
    std::fs::write(&no_pem, "a certificate").unwrap();
    for (query, told) in [
        ("tls_ca=/nowhere/ca.pem".to_owned(), "/nowhere/ca.pem"),
        (format!("tls_ca={}", no_pem.display()), "no PEM file"),
        (format!("tls_cert={}", certificate.display()), "go together"),
        (format!("tls_cert={}&tls_key={}", certificate.display(), certificate.display()), "cannot be used"),
        (format!("tls_ca={}", key.display()), "no certificate"),
    ] {
        let error = RedisStore::open(&format!("rediss://127.0.0.1:1?{query}")).await.unwrap_err();
        assert!(matches!(&error, Error::StoreUrl(message) if message.contains(told)), "{query}: {error}");
    }
}
