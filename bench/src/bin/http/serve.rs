//! The application without sessions, and with Cloakroom. Serves a free port of this machine and prints which.

use axum::{
    Router,
    extract::Path,
    routing::{get, post},
};
use cloakroom::{Error, Json, Result, Session, SignIn};
use cloakroom_bench::{READ_KEY, WRITTEN_KEY, data_of, user_of};
use tokio::net::TcpListener;

pub(crate) async fn serve(system: &str, store: &str) {
    let router = if system == "floor" { floor() } else { cloakroom(store).await };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    println!("{}", listener.local_addr().expect("it has one"));
    axum::serve(listener, router).await.expect("it serves");
}

fn floor() -> Router {
    Router::new()
        .route("/start/{number}", post(async || ()))
        .route("/untouched", get(async || ()))
        .route("/read", get(async || "last_page---000000000000"))
        .route("/write", post(async || ()))
        .route("/sign-in", post(async || ()))
}

/// Every setting as it comes.
async fn cloakroom(store: &str) -> Router {
    let store = cloakroom::store::open(&own(store)).await.expect("the store opens");
    let sessions = cloakroom::Sessions::builder(store).build().expect("defaults are right");
    Router::new()
        .route("/start/{number}", post(start))
        .route("/untouched", get(async || ()))
        .route("/read", get(read))
        .route("/write", post(write))
        .route("/sign-in", post(sign_in))
        .route("/visits", get(visits))
        .layer(sessions.layer())
}

/// Where its tables are, apart from those of others.
fn own(store: &str) -> String {
    let parameter = match store.split(':').next().unwrap_or_default() {
        "postgres" => "schema",
        "mysql" => "prefix",
        _ => return store.to_owned(),
    };
    let sign = if store.contains('?') { '&' } else { '?' };
    format!("{store}{sign}{parameter}={}", super::backend::SCHEMA)
}

async fn start(session: Session, Path(number): Path<usize>) -> Result<()> {
    let values = data_of(number).filter(|(key, _)| *key != WRITTEN_KEY);
    session.extend(values.map(|(key, value)| (key, Json::encode(&value).expect("text is JSON"))))?;
    session.set(WRITTEN_KEY, &0_u64)?;
    session.sign_in(SignIn::new(user_of(number))).await.map(drop)
}

async fn read(session: Session) -> Result<String> {
    session.get(READ_KEY)?.ok_or(Error::UnknownSession)
}

async fn write(session: Session) -> Result<()> {
    session.modify(WRITTEN_KEY, |visits: Option<u64>| visits.map_or(1, |visits| visits + 1)).map(drop)
}

async fn sign_in(session: Session) -> Result<()> {
    let user = session.user().ok_or(Error::UnknownSession)?;
    session.sign_in(SignIn::new(user)).await.map(drop)
}

async fn visits(session: Session) -> Result<String> {
    let visits: u64 = session.get(WRITTEN_KEY)?.ok_or(Error::UnknownSession)?;
    Ok(visits.to_string())
}
