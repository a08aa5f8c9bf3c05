//! Sessions, and a browser for applications that set a cookie of their own.

use std::sync::Arc;

use axum::{Router, body::Body};
use cloakroom::{Sessions, store::MemoryStore, testing::ManualClock, web::TowerSessionsStore};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

/// The clock starts at the system's time, which tower-sessions goes by.
pub(crate) fn sessions() -> (Sessions, ManualClock) {
    let clock = ManualClock::new(cloakroom::Clock::now(&cloakroom::clock::SystemClock));
    let builder = Sessions::builder(Arc::new(MemoryStore::new().unwrap())).clock(clock.clone()).without_upkeep();
    (builder.build().unwrap(), clock)
}

/// A store that finds the user under `user`.
pub(crate) fn store(sessions: &Sessions) -> TowerSessionsStore {
    TowerSessionsStore::new(sessions).user_from(|data| data.get("user")?.as_str().map(str::to_owned))
}

/// A browser with room for one cookie.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) app: Router,
    pub(crate) cookie: Option<String>,
}

impl Browser {
    pub(crate) fn of(app: Router) -> Self {
        Self { app, cookie: None }
    }

    pub(crate) async fn get(&mut self, path: &str) -> (StatusCode, String) {
        let mut request = Request::get(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        if let Some(set) = head.headers.get(header::SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, String::from_utf8(body.into()).unwrap())
    }

    /// The body of a page that must be there.
    pub(crate) async fn text(&mut self, path: &str) -> String {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }
}
