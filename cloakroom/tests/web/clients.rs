//! What a session's record says of the client it started from, and what follows from it.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use cloakroom::{
    Assurance, Client, Error, Lifetimes, Reason, Session, SignIn,
    client::TrustedProxies,
    store::{AuditQuery, Query},
};
use http::{Request, header};

use super::{
    framework::{App, Router, connected_from, get, layer, send},
    world::{World, world, world_with},
};

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                     Version/18.6 Mobile/15E148 Safari/604.1";
const COMPUTER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// The client that is recorded for a sign-in from this peer with these headers.
async fn recorded(world: &World, peer: Option<&str>, headers: &[(&str, &str)]) -> Client {
    let proxies = TrustedProxies::parse("10.0.0.0/8").unwrap();
    let sign_in = |session: Session| async move {
        session.sign_in(SignIn::new("anna").fresh_data()).await?;
        Ok::<_, Error>(session.id().unwrap().to_string())
    };
    let layer = layer(&world.sessions).trusted_proxies(proxies);
    let app: App = Router::new().route("/", get(sign_in)).layer(layer);
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Bytes::new()).unwrap();
    if let Some(peer) = peer {
        connected_from(&mut request, peer.parse().unwrap());
    }
    let id = send(&app, request).await.body;
    let sessions = world.sessions.list("anna").await.unwrap();
    sessions.into_iter().find(|info| info.id.to_string() == id).expect("it is listed").client
}

#[tokio::test]
async fn the_address_is_the_client_s_behind_trusted_proxies_and_the_peer_s_otherwise() {
    let world = world();
    let headers = [("x-forwarded-for", "6.6.6.6, 192.0.2.7"), (header::USER_AGENT.as_str(), PHONE)];
    for (peer, address) in [
        (Some("10.1.2.3:4711"), Some("192.0.2.7")),
        (Some("203.0.113.9:4711"), Some("203.0.113.9")),
        (Some("[::ffff:10.1.2.3]:4711"), Some("192.0.2.7")),
        (Some("[2001:db8::1]:4711"), Some("2001:db8::1")),
        (None, None),
    ] {
        let client = recorded(&world, peer, &headers).await;
        assert_eq!(client.ip, address.map(|address| address.parse().unwrap()), "{peer:?}");
        assert_eq!(client.device.as_deref(), Some("Safari on iPhone"));
    }
    let garbage = [("x-forwarded-for", "\t, 999.9.9.9"), ("forwarded", "\"\\")];
    assert_eq!(recorded(&world, Some("10.1.2.3:1"), &garbage).await.ip, None);
}

#[tokio::test]
async fn r4_an_address_is_stored_and_asked_for_in_one_spelling() {
    let world = world();
    let spellings = ["192.0.2.9", "::ffff:192.0.2.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
    for stored in spellings {
        for asked in spellings {
            let client = Client { ip: Some(stored), ..Client::default() };
            let started = world.sessions.start(SignIn::new("anna").client(client)).await.unwrap();
            assert_eq!(started.record.info.client.ip, Some(spellings[0]));
            let query = Query { ip: Some(asked), ..Query::default() };
            let id = started.token.id();
            assert_eq!(world.sessions.ids_where(&query, &[]).await.unwrap(), [id], "{stored} {asked}");
            let ended = world.sessions.end_where(&query, &[], &Reason::RevokedByAdmin.into()).await.unwrap();
            assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [id], "{stored} {asked}");
        }
    }
    let log = world.sessions.audit_log().page(&AuditQuery::default(), None, 100).await.unwrap().items;
    assert!(log.iter().all(|logged| logged.entry.ip == Some(spellings[0])), "{log:?}");
    // A layer whose own function names an address as a socket of both families does.
    let layer = layer(&world.sessions).client_ip(move |_| Some(spellings[1]));
    let sign_in = |session: Session| async move { session.sign_in(SignIn::new("ben")).await.map(drop) };
    let app: App = Router::new().route("/", get(sign_in)).layer(layer);
    send(&app, Request::get("/").body(Bytes::new()).unwrap()).await;
    assert_eq!(world.sessions.list("ben").await.unwrap()[0].client.ip, Some(spellings[0]));
}

#[tokio::test]
async fn a_device_has_the_application_s_name_or_the_user_agent_s() {
    let world = world();
    let by_agent = Client { user_agent: Some(COMPUTER.into()), ..Client::default() };
    let named = Client { device: Some("till 3".into()), ..by_agent.clone() };
    for (sign_in, device) in [
        (SignIn::new("anna"), None),
        (SignIn::new("anna").client(by_agent.clone()), Some("Firefox on Linux")),
        (SignIn::new("anna").client(named), Some("till 3")),
        (SignIn::new("anna").client(by_agent).device("till 4"), Some("till 4")),
        (SignIn::new("anna").device("till\u{0}5"), Some("till 5")),
    ] {
        let started = world.sessions.start(sign_in).await.unwrap();
        assert_eq!(started.record.info.client.device.as_deref(), device);
    }
    // Naming the device leaves the rest as the request has it.
    let app = Router::new().route(
        "/",
        get(|session: Session| async move { session.sign_in(SignIn::new("ben").device("till 6")).await.map(drop) }),
    );
    let request = Request::get("/").header(header::USER_AGENT, COMPUTER).body(Bytes::new()).unwrap();
    send(&app.layer(layer(&world.sessions)), request).await;
    let client = world.sessions.list("ben").await.unwrap().remove(0).client;
    assert_eq!((client.device.as_deref(), client.user_agent.as_deref()), (Some("till 6"), Some(COMPUTER)));
}

#[tokio::test]
async fn get_expiry_period_phones_may_have_lifetimes_of_their_own() {
    let mobile = Lifetimes {
        idle: Duration::from_hours(720),
        absolute: Some(Duration::from_hours(2000)),
        ..Lifetimes::default()
    };
    let world = world_with(|builder| builder.mobile_lifetimes(mobile));
    let now = world.sessions.now();
    let start = async |agent: &str, sign_in: SignIn| {
        let client = Client { user_agent: Some(agent.into()), ..Client::default() };
        let info = world.sessions.start(sign_in.client(client)).await.unwrap().record.info.clone();
        (info.idle_timeout.unwrap(), info.ends_at.unwrap().since(now))
    };
    let anna = || SignIn::new("anna");
    assert_eq!(start(PHONE, anna()).await, (mobile.idle, mobile.absolute.unwrap()));
    assert_eq!(start(COMPUTER, anna()).await, (Duration::from_hours(1), Duration::from_hours(24)));
    assert_eq!(start("", anna()).await.0, Duration::from_hours(1));
    assert_eq!(start(PHONE, anna().idle_timeout(Duration::from_mins(5))).await.0, Duration::from_mins(5));
    // What the application calls it decides nothing.
    assert_eq!(start(COMPUTER, anna().device("Safari on iPhone")).await.0, Duration::from_hours(1));
}

#[test]
fn x3_mobile_lifetimes_keep_the_bounds_of_the_deployment_s_level() {
    let build = |mobile: Lifetimes| {
        let store = std::sync::Arc::new(cloakroom::store::MemoryStore::new().unwrap());
        let builder = cloakroom::Sessions::builder(store).without_upkeep();
        builder.lifetimes(Lifetimes::nist(Assurance::Aal2)).mobile_lifetimes(mobile).build().map(drop)
    };
    assert!(matches!(build(Lifetimes::default()), Err(Error::InvalidArgument { .. })));
    assert!(matches!(build(Lifetimes::nist(Assurance::Aal1)), Err(Error::InvalidArgument { .. })));
    build(Lifetimes::nist(Assurance::Aal3)).unwrap();
}
