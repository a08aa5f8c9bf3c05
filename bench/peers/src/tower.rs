//! On tower-sessions.

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use time::Duration;
use tower_sessions::{Expiry, MemoryStore, Session, SessionManagerLayer, SessionStore, session::Error};
use tower_sessions_redis_store::{
    RedisStore,
    fred::prelude::{ClientLike, Config, Pool},
};
use tower_sessions_sqlx_store::{
    MySqlStore, PostgresStore, SqliteStore,
    sqlx::{MySqlPool, PgPool, SqlitePool},
};

use crate::{
    application::{READ_KEY, WRITTEN_KEY, data_of, user_of},
    refuse,
};

/// Stores are made as their documentation makes them. Pools of sqlx have its default of 10 connections, which is
/// Cloakroom's.
pub(crate) async fn serve(store: &str) {
    match store.split(':').next().unwrap_or_default() {
        "memory" => run(MemoryStore::default()).await,
        "redis" => {
            let config = Config::from_url(store).expect("it is an address");
            let pool = Pool::new(config, None, None, None, 6).expect("it has clients");
            pool.connect();
            pool.wait_for_connect().await.expect("Redis answers");
            run(RedisStore::new(pool)).await;
        }
        "postgres" => {
            let store = PostgresStore::new(PgPool::connect(store).await.expect("PostgreSQL answers"));
            store.migrate().await.expect("the table is made");
            run(store).await;
        }
        "mysql" => {
            let pool = MySqlPool::connect(store).await.expect("MariaDB answers");
            // Its own way makes a database, which the account may not be allowed to.
            let database = store.rsplit('/').next().unwrap_or_default();
            let store = MySqlStore::new(pool).with_schema_name(database).expect("it is a name");
            store.migrate().await.expect("the table is made");
            run(store).await;
        }
        "sqlite" => {
            let pool = SqlitePool::connect(&format!("{store}-peer?mode=rwc")).await.expect("the file opens");
            let store = SqliteStore::new(pool);
            store.migrate().await.expect("the table is made");
            run(store).await;
        }
        _ => refuse("tower-sessions", store),
    }
}

async fn run<S: SessionStore + Clone>(store: S) {
    let layer = SessionManagerLayer::new(store).with_expiry(Expiry::OnInactivity(Duration::hours(1)));
    let router = Router::new()
        .route("/start/{number}", post(start))
        .route("/untouched", get(async || ()))
        .route("/read", get(read))
        .route("/write", post(write))
        .route("/sign-in", post(sign_in))
        .route("/visits", get(visits))
        .layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    println!("{}", listener.local_addr().expect("it has one"));
    axum::serve(listener, router).await.expect("it serves");
}

async fn start(session: Session, Path(number): Path<usize>) -> Result<(), StatusCode> {
    for (key, value) in data_of(number).filter(|(key, _)| *key != WRITTEN_KEY) {
        session.insert(key, value).await.map_err(failed)?;
    }
    session.insert(WRITTEN_KEY, 0_u64).await.map_err(failed)?;
    session.insert("user", user_of(number)).await.map_err(failed)
}

async fn read(session: Session) -> Result<String, StatusCode> {
    session.get(READ_KEY).await.map_err(failed)?.ok_or(StatusCode::UNAUTHORIZED)
}

async fn write(session: Session) -> Result<(), StatusCode> {
    let visits: u64 = session.get(WRITTEN_KEY).await.map_err(failed)?.ok_or(StatusCode::UNAUTHORIZED)?;
    session.insert(WRITTEN_KEY, visits + 1).await.map_err(failed)
}

async fn sign_in(session: Session) -> Result<(), StatusCode> {
    let user: String = session.get("user").await.map_err(failed)?.ok_or(StatusCode::UNAUTHORIZED)?;
    session.cycle_id().await.map_err(failed)?;
    session.insert("user", user).await.map_err(failed)
}

async fn visits(session: Session) -> Result<String, StatusCode> {
    let visits: u64 = session.get(WRITTEN_KEY).await.map_err(failed)?.ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(visits.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "it is mapped over")]
fn failed(error: Error) -> StatusCode {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR
}
