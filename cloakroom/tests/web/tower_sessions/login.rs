//! Whole applications: their handlers know nothing of Cloakroom.

use std::{convert::Infallible, time::Duration};

use axum::{Router, extract::Path, routing::get};
use axum_login::{
    AuthManagerLayerBuilder, AuthUser, AuthnBackend,
    tower_sessions::{SessionManagerLayer as LoginSessionLayer, cookie::SameSite},
};
use cloakroom::{Reason, audit::Event, store::AuditQuery, web::TowerSessionsStore};
use http::StatusCode;
use tower_sessions::{Expiry, Session, SessionManagerLayer};

use super::world::{Browser, sessions, store};

async fn visits(session: Session) -> String {
    let visits = session.get::<u32>("visits").await.unwrap().unwrap_or(0) + 1;
    session.insert("visits", visits).await.unwrap();
    visits.to_string()
}

async fn sign_in(session: Session, Path(user): Path<String>) {
    session.cycle_id().await.unwrap();
    session.insert("user", user).await.unwrap();
}

async fn sign_out(session: Session) {
    session.flush().await.unwrap();
}

async fn forget_me(session: Session) {
    session.insert("forgotten", true).await.unwrap();
    session.delete().await.unwrap();
}

#[tokio::test]
async fn an_application_of_tower_sessions_replaces_its_store_alone() {
    let (sessions, clock) = sessions();
    let layer = SessionManagerLayer::new(store(&sessions)).with_expiry(Expiry::OnInactivity(time::Duration::hours(1)));
    let app = Router::new()
        .route("/", get(visits))
        .route("/sign-in/{user}", get(sign_in))
        .route("/sign-out", get(sign_out))
        .route("/forget-me", get(forget_me))
        .layer(layer);
    let mut browser = Browser::of(app);
    assert_eq!(browser.text("/").await, "1");
    assert_eq!(browser.text("/").await, "2");
    let visitor = browser.clone();
    browser.text("/sign-in/anna").await;
    assert_ne!(browser.cookie, visitor.cookie);
    assert_eq!(browser.text("/").await, "3", "what the visitor had is carried over");
    assert_eq!(visitor.clone().text("/").await, "1", "the old cookie is dead");

    let listed = sessions.list("anna").await.unwrap();
    assert_eq!(listed.len(), 1);
    sessions.end_all_of("anna", vec![], &Reason::RevokedByAdmin.into()).await.unwrap();
    assert_eq!(browser.text("/").await, "1", "what is revoked is gone");

    browser.text("/sign-in/anna").await;
    browser.text("/sign-out").await;
    assert_eq!(browser.cookie, None);
    let log = sessions.audit_log().page(&AuditQuery::default(), None, 100).await.unwrap().items;
    assert!(
        log.iter().any(|logged| logged.entry.event == Event::SignedIn && logged.entry.user.as_deref() == Some("anna"))
    );
    assert_eq!(sessions.list("anna").await.unwrap().len(), 0);

    assert_eq!(browser.text("/").await, "1");
    browser.text("/forget-me").await; // The middleware saves what was deleted, and is not told off for it.
    assert_eq!(browser.text("/").await, "1");
    clock.advance(Duration::from_mins(61));
    assert_eq!(browser.text("/").await, "1", "it expired");
}

#[derive(Clone, Debug)]
struct User(i64);

impl AuthUser for User {
    type Id = i64;

    fn id(&self) -> i64 {
        self.0
    }

    fn session_auth_hash(&self) -> &[u8] {
        b"the password's hash"
    }
}

/// Lets everybody in by their number.
#[derive(Clone)]
struct Everybody;

impl AuthnBackend for Everybody {
    type User = User;
    type Credentials = i64;
    type Error = Infallible;

    async fn authenticate(&self, number: i64) -> Result<Option<User>, Infallible> {
        Ok(Some(User(number)))
    }

    async fn get_user(&self, number: &i64) -> Result<Option<User>, Infallible> {
        Ok(Some(User(*number)))
    }
}

type AuthSession = axum_login::AuthSession<Everybody>;

async fn log_in(mut auth: AuthSession, Path(number): Path<i64>) {
    let user = auth.authenticate(number).await.unwrap().unwrap();
    auth.login(&user).await.unwrap();
}

async fn log_out(mut auth: AuthSession) {
    auth.logout().await.unwrap();
}

async fn who(auth: AuthSession) -> String {
    auth.user.map_or_else(|| "nobody".to_owned(), |user| user.0.to_string())
}

#[tokio::test]
async fn an_application_of_axum_login_replaces_its_store_alone() {
    let (sessions, _) = sessions();
    let store = TowerSessionsStore::new(&sessions).user_of_axum_login();
    let layer = LoginSessionLayer::new(store).with_same_site(SameSite::Lax);
    let app = Router::new()
        .route("/log-in/{number}", get(log_in))
        .route("/log-out", get(log_out))
        .route("/who", get(who))
        .layer(AuthManagerLayerBuilder::new(Everybody, layer).build());
    let mut browser = Browser::of(app);
    assert_eq!(browser.text("/who").await, "nobody");
    browser.text("/log-in/42").await;
    assert_eq!(browser.text("/who").await, "42");
    assert_eq!(sessions.list("42").await.unwrap().len(), 1);

    let mut stolen = browser.clone();
    browser.text("/log-out").await;
    assert_eq!((browser.text("/who").await.as_str(), stolen.text("/who").await.as_str()), ("nobody", "nobody"));
    assert_eq!(sessions.list("42").await.unwrap().len(), 0);

    browser.text("/log-in/42").await;
    sessions.users().disable("42", Some("root".into())).await.unwrap();
    assert_eq!(browser.text("/who").await, "nobody", "at once");
    assert_eq!(browser.get("/log-in/42").await.0, StatusCode::INTERNAL_SERVER_ERROR, "and for good");
}
