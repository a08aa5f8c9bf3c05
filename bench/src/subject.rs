//! The application under each of the session systems.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use cloakroom::{
    Json, SignIn,
    store::{MemoryStore, Store},
    web::CookieConfig,
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use time::{Duration, OffsetDateTime};
use tower::{Service, layer::util::Identity};
use tower_sessions::{Expiry, SessionManagerLayer, SessionStore, session::Record};

use crate::application::{READ_KEY, Route, WRITTEN_KEY, data_of, next_number, user_of};

/// An application, and cookies of some of its sessions.
#[derive(Debug)]
pub struct Subject {
    /// The session system.
    pub name: &'static str,
    /// The application.
    pub router: Router,
    /// `Cookie` headers, each of another session.
    pub cookies: Vec<HeaderValue>,
}

/// What the application without sessions answers where the others answer a value of theirs.
const FLOOR_VALUE: &str = "last_page---000000000000";

impl Subject {
    /// The application without sessions. Its requests bring cookies all the same.
    pub fn floor(cookies: usize) -> Self {
        let router = Router::new()
            .route(Route::Untouched.path(), get(untouched))
            .route(Route::Read.path(), get(async || FLOOR_VALUE.to_owned()))
            .route(
                Route::Write.path(),
                post(async || {
                    next_number();
                }),
            )
            .route(Route::SignIn.path(), post(async || ()))
            .layer(Identity::new());
        let cookie = |n: usize| HeaderValue::try_from(format!("__Host-session={n:067}")).expect("it is ASCII");
        Self { name: "floor", router, cookies: (0..cookies).map(cookie).collect() }
    }

    /// With Cloakroom on its memory store, every setting as it comes. Must be called within a runtime.
    pub async fn cloakroom(stored: usize, cookies: usize) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new().expect("there is randomness"));
        let sessions = cloakroom::Sessions::builder(store).build().expect("defaults are right");
        let name = CookieConfig::default().name().to_owned();
        let mut sample = Vec::new();
        for number in 0..stored {
            let data = data_of(number).map(|(key, value)| (key.into(), Json::encode(&value).expect("text is JSON")));
            let start = SignIn::new(user_of(number)).data(data.collect());
            let started = sessions.start(start).await.expect("it starts");
            if sample.len() < cookies && is_in_sample(number, stored, cookies) {
                let cookie = format!("{name}={}", started.token.reveal());
                sample.push(HeaderValue::try_from(cookie).expect("it is ASCII"));
            }
        }
        let router = Router::new()
            .route(Route::Untouched.path(), get(untouched))
            .route(Route::Read.path(), get(cloakroom_read))
            .route(Route::Write.path(), post(cloakroom_write))
            .route(Route::SignIn.path(), post(cloakroom_sign_in))
            .layer(sessions.layer());
        Self { name: "cloakroom", router, cookies: sample }
    }

    /// With tower-sessions on its memory store: sessions expire when they are not used for an hour, as Cloakroom's do.
    pub async fn tower_sessions(stored: usize, cookies: usize) -> Self {
        let store = tower_sessions::MemoryStore::default();
        let mut sample = Vec::new();
        for number in 0..stored {
            let user = ("user".to_owned(), user_of(number).into());
            let data = data_of(number).map(|(key, value)| (key.to_owned(), value.into())).chain([user]).collect();
            let expiry_date = OffsetDateTime::now_utc() + Duration::hours(1);
            let mut record = Record { id: tower_sessions::session::Id::default(), data, expiry_date };
            store.create(&mut record).await.expect("memory does not fail");
            if sample.len() < cookies && is_in_sample(number, stored, cookies) {
                sample.push(HeaderValue::try_from(format!("id={}", record.id)).expect("it is ASCII"));
            }
        }
        let layer = SessionManagerLayer::new(store).with_expiry(Expiry::OnInactivity(Duration::hours(1)));
        let router = Router::new()
            .route(Route::Untouched.path(), get(untouched))
            .route(Route::Read.path(), get(tower_sessions_read))
            .route(Route::Write.path(), post(tower_sessions_write))
            .route(Route::SignIn.path(), post(tower_sessions_sign_in))
            .layer(layer);
        Self { name: "tower-sessions", router, cookies: sample }
    }

    /// A request of the kind browsers send, on the session with this cookie.
    pub fn request(route: Route, cookie: HeaderValue) -> Request<Body> {
        let method = if matches!(route, Route::Write | Route::SignIn) { Method::POST } else { Method::GET };
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::from_static(route.path());
        for (name, value) in [
            (header::HOST, "shop.example.com"),
            (header::USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"),
            (header::ACCEPT, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            (header::ACCEPT_LANGUAGE, "en-GB,en;q=0.5"),
            (header::ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        request.headers_mut().insert(header::COOKIE, cookie);
        request
    }
}

/// A copy that shares nothing: a server has just read it, so it is in the processor's cache, wherever the sample lies.
pub fn just_read(cookie: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(cookie.as_bytes()).expect("it is one already")
}

/// What a browser sends back of a `Set-Cookie` header.
pub fn sent_back(set_cookie: &HeaderValue) -> HeaderValue {
    let text = set_cookie.to_str().expect("it is ASCII");
    HeaderValue::from_str(text.split(';').next().unwrap_or_default()).expect("it is ASCII")
}

/// Has a request answered to the end of its body; returns the cookie it sets.
pub async fn drive(router: &mut Router, request: Request<Body>) -> Option<HeaderValue> {
    let Ok(mut response) = router.call(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let cookie = response.headers_mut().remove(header::SET_COOKIE);
    while let Some(frame) = response.body_mut().frame().await {
        frame.expect("bodies in memory do not fail");
    }
    cookie
}

/// Spreads the sample over all that is stored.
fn is_in_sample(number: usize, stored: usize, sample: usize) -> bool {
    number.is_multiple_of(stored / sample.min(stored))
}

async fn untouched() {}

async fn cloakroom_read(session: cloakroom::Session) -> cloakroom::Result<String> {
    Ok(session.get(READ_KEY)?.expect("every session has it"))
}

async fn cloakroom_write(session: cloakroom::Session) -> cloakroom::Result<()> {
    session.set(WRITTEN_KEY, &next_number())
}

async fn cloakroom_sign_in(session: cloakroom::Session) -> cloakroom::Result<()> {
    let user = session.user().expect("every session has a user");
    session.sign_in(SignIn::new(user)).await.map(drop)
}

async fn tower_sessions_read(session: tower_sessions::Session) -> Result<String, StatusCode> {
    let value = session.get(READ_KEY).await.map_err(failed)?;
    Ok(value.expect("every session has it"))
}

async fn tower_sessions_write(session: tower_sessions::Session) -> Result<(), StatusCode> {
    session.insert(WRITTEN_KEY, next_number()).await.map_err(failed)
}

async fn tower_sessions_sign_in(session: tower_sessions::Session) -> Result<(), StatusCode> {
    let user: String = session.get("user").await.map_err(failed)?.expect("every session has a user");
    session.cycle_id().await.map_err(failed)?;
    session.insert("user", user).await.map_err(failed)
}

fn failed(_error: tower_sessions::session::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
