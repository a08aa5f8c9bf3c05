//! A service whose time stands still, an application, and browsers that use it.

use std::sync::Arc;

use bytes::Bytes;
use cloakroom::{
    Builder, Data, Error, Json, Session, Sessions, SignIn, SignedIn, Timestamp, Token,
    store::{MemoryStore, Store},
    testing::{ManualClock, SpyStore},
};
use http::{HeaderMap, Request, StatusCode, header};

use super::framework::{App, Params, Router, get, layer, send};

pub(crate) const NAME: &str = "__Host-session";

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) sessions: Sessions,
    pub(crate) app: App,
}

pub(crate) fn world() -> World {
    world_with(|builder| builder)
}

pub(crate) fn world_with(configure: impl FnOnce(Builder) -> Builder) -> World {
    world_on(Arc::new(MemoryStore::new().unwrap()), configure)
}

/// A world whose store is on another machine, as far as the service can tell, and counts and fails on demand.
pub(crate) fn spied() -> (World, Arc<SpyStore<MemoryStore>>) {
    let spy = Arc::new(SpyStore::remote(MemoryStore::new().unwrap()));
    (world_on(spy.clone(), |builder| builder), spy)
}

pub(crate) fn world_on(store: Arc<dyn Store>, configure: impl FnOnce(Builder) -> Builder) -> World {
    let clock = ManualClock::new(Timestamp::from_millis(1_800_000_000_000));
    let builder = Sessions::builder(store).clock(clock.clone()).without_upkeep();
    let sessions = configure(builder).build().unwrap();
    let app = routes().layer(layer(&sessions));
    World { clock, sessions, app }
}

/// What most tests need; a test that needs more brings its own routes.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/nothing", get(|| async { "nothing" }))
        .route(
            "/get",
            get(|session: Session, q: Params| async move {
                Ok::<_, Error>(session.get::<String>(&q["key"])?.unwrap_or_else(|| "-".into()))
            }),
        )
        .route("/set", get(|session: Session, q: Params| async move { session.set(&q["key"], &q["value"]) }))
        .route(
            "/count",
            get(|session: Session| async move {
                let count = session.modify("count", |n: Option<u32>| n.unwrap_or(0) + 1)?;
                Ok::<_, Error>(count.to_string())
            }),
        )
        .route(
            "/count-now",
            get(|session: Session| async move {
                let count = session.modify_now("count", |n: Option<u32>| n.unwrap_or(0) + 1).await?;
                Ok::<_, Error>(count.to_string())
            }),
        )
        .route(
            "/sign-in",
            get(|session: Session, q: Params| async move {
                session.sign_in(SignIn::new(q["user"].as_str())).await.map(drop)
            }),
        )
        .route("/sign-out", get(|session: Session| async move { session.sign_out().await }))
        .route(
            "/sign-out-keeping",
            get(|session: Session, q: Params| async move { session.sign_out_keeping(&[&q["key"]]).await }),
        )
        .route("/rotate", get(|session: Session| async move { session.rotate().await }))
        .route("/me", get(|user: SignedIn| async move { user.user().to_owned() }))
        .route(
            "/who",
            get(|user: Option<SignedIn>| async move {
                user.map_or_else(|| "nobody".to_owned(), |user| user.user().to_owned())
            }),
        )
        .route(
            "/why",
            get(|session: Session| async move {
                session.lapsed().map_or_else(|| "-".to_owned(), |ended| ended.reason.code().to_owned())
            }),
        )
        .route(
            "/id",
            get(|session: Session| async move { session.id().map_or_else(|| "-".to_owned(), |id| id.to_string()) }),
        )
}

impl World {
    pub(crate) fn browser(&self) -> Browser {
        Browser { app: self.app.clone(), cookie: None }
    }

    /// A browser that is signed in.
    pub(crate) async fn signed_in(&self, user: &str) -> Browser {
        let mut browser = self.browser();
        assert_eq!(browser.get(&format!("/sign-in?user={user}")).await.status, StatusCode::OK);
        browser
    }
}

/// A browser with room for one cookie.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) app: App,
    pub(crate) cookie: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Browser {
    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        let request = Request::get(path).header(header::ACCEPT, "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        let request = request.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
        let request = match &self.cookie {
            Some(cookie) => request.header(header::COOKIE, format!("{NAME}={cookie}")),
            None => request,
        };
        let reply = send(&self.app, request.body(Bytes::new()).unwrap()).await;
        match reply.set_cookie() {
            Some(set) if set.contains("Max-Age=0") => self.cookie = None,
            Some(set) => {
                let pair = set.split(';').next().unwrap();
                self.cookie = Some(pair.split_once('=').unwrap().1.to_owned());
            }
            None => {}
        }
        reply
    }

    /// The body of a page that must be there.
    pub(crate) async fn text(&mut self, path: &str) -> String {
        let reply = self.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.body);
        reply.body
    }

    pub(crate) fn token(&self) -> Token {
        Token::parse(self.cookie.as_deref().expect("the browser has a cookie")).expect("it is a token")
    }
}

impl Reply {
    pub(crate) fn set_cookie(&self) -> Option<&str> {
        let mut cookies = self.headers.get_all(header::SET_COOKIE).iter();
        let cookie = cookies.next().map(|value| value.to_str().unwrap());
        assert!(cookies.next().is_none(), "one Set-Cookie at most");
        cookie
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn problem(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) fn data<const N: usize>(entries: [(&str, &str); N]) -> Data {
    entries.map(|(key, text)| (key.into(), Json::from_text(text).unwrap())).into_iter().collect()
}
