//! On actix-session.

use std::net::TcpListener;

use actix_session::{Session, SessionMiddleware, config::PersistentSession, storage::RedisSessionStore};
use actix_web::{
    App, HttpServer,
    cookie::{Key, time::Duration},
    error::{ErrorInternalServerError, ErrorUnauthorized},
    web::{Path, get, post},
};

use crate::{
    application::{READ_KEY, WRITTEN_KEY, data_of, user_of},
    refuse,
};

/// Its stores are Redis and the cookie itself.
pub(crate) fn serve(store: &str) {
    if !store.starts_with("redis:") {
        refuse("actix-session", store);
    }
    actix_web::rt::System::new().block_on(async {
        let store = RedisSessionStore::new(store).await.expect("Redis answers");
        let key = Key::from(&[7; 64]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        println!("{}", listener.local_addr().expect("it has one"));
        let application = move || {
            let lifecycle = PersistentSession::default().session_ttl(Duration::hours(1));
            let sessions = SessionMiddleware::builder(store.clone(), key.clone()).session_lifecycle(lifecycle).build();
            App::new()
                .wrap(sessions)
                .route("/start/{number}", post().to(start))
                .route("/untouched", get().to(async || ""))
                .route("/read", get().to(read))
                .route("/write", post().to(write))
                .route("/sign-in", post().to(sign_in))
                .route("/visits", get().to(visits))
        };
        HttpServer::new(application).listen(listener).expect("it listens").run().await.expect("it serves");
    });
}

async fn start(session: Session, number: Path<usize>) -> actix_web::Result<&'static str> {
    for (key, value) in data_of(*number).filter(|(key, _)| *key != WRITTEN_KEY) {
        session.insert(key, value)?;
    }
    session.insert(WRITTEN_KEY, 0_u64)?;
    session.insert("user", user_of(*number))?;
    Ok("")
}

async fn read(session: Session) -> actix_web::Result<String> {
    session.get(READ_KEY).map_err(ErrorInternalServerError)?.ok_or_else(|| ErrorUnauthorized(""))
}

async fn write(session: Session) -> actix_web::Result<&'static str> {
    let visits = session.get::<u64>(WRITTEN_KEY).map_err(ErrorInternalServerError)?;
    session.insert(WRITTEN_KEY, visits.ok_or_else(|| ErrorUnauthorized(""))? + 1)?;
    Ok("")
}

async fn sign_in(session: Session) -> actix_web::Result<&'static str> {
    let user = session.get::<String>("user").map_err(ErrorInternalServerError)?;
    session.renew();
    session.insert("user", user.ok_or_else(|| ErrorUnauthorized(""))?)?;
    Ok("")
}

async fn visits(session: Session) -> actix_web::Result<String> {
    let visits = session.get::<u64>(WRITTEN_KEY).map_err(ErrorInternalServerError)?;
    Ok(visits.ok_or_else(|| ErrorUnauthorized(""))?.to_string())
}
