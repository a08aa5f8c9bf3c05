//! What a browser is told, and keeps, when its token opens nothing any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header, request},
    response::Redirect,
    routing::{get, post},
};
use cloakroom::{Clock, Ending, Reason, Result, Session, Sessions, SignIn, SignedIn, Timestamp, store};
use tower_service::Service;

#[tokio::test]
async fn r3_the_sign_in_page_knows_why_the_visitor_was_sent_there() {
    let shop = Shop::open().await;
    let token = shop.post("/sign-in", None).await.token();
    shop.sessions.end_all_of("anna", Vec::new(), &Ending::new(Reason::SignedOutElsewhere)).await.unwrap();

    let sent = shop.get("/account", &token).await;
    assert_eq!(sent.0.status(), StatusCode::SEE_OTHER);
    assert_eq!(sent.0.headers()[header::LOCATION], "/why?next=/account");
    assert_eq!(sent.set_cookie(), None, "the page it leads to would not know the reason");

    let told = shop.get("/why", &token).await;
    assert!(told.deletes_cookie(), "now the token is of no use");
    assert_eq!(told.text().await, "signed_out_elsewhere");
}

#[tokio::test]
async fn a_redirect_after_a_form_does_not_lose_the_reason() {
    let shop = Shop::open().await;
    let token = shop.post("/sign-in", None).await.token();
    shop.sessions.end_all_of("anna", Vec::new(), &Ending::new(Reason::RevokedByAdmin)).await.unwrap();

    assert_eq!(shop.post("/nothing", Some(&token)).await.set_cookie(), None);
    assert_eq!(shop.get("/why", &token).await.text().await, "revoked_by_admin");
}

#[tokio::test]
async fn r8_signing_out_deletes_the_cookie_on_a_redirect_too() {
    let shop = Shop::open().await;
    let token = shop.post("/sign-in", None).await.token();
    let answer = shop.post("/sign-out", Some(&token)).await;
    assert_eq!(answer.0.status(), StatusCode::SEE_OTHER);
    assert!(answer.deletes_cookie());
}

#[tokio::test]
async fn a_visitor_whose_sign_in_was_lost_on_the_way_is_not_locked_out() {
    let shop = Shop::open().await;
    let token = shop.post("/add", None).await.token();
    shop.post("/sign-in", Some(&token)).await;

    // The answer may still be on its way, and its cookie must stand.
    let too_early = shop.post("/add", Some(&token)).await;
    assert_eq!((too_early.0.status(), too_early.set_cookie()), (StatusCode::UNAUTHORIZED, None));
    shop.wait(Duration::from_secs(29));
    assert_eq!(shop.get("/why", &token).await.set_cookie(), None);

    // By now it is not: the browser still has the old token because it never got another.
    shop.wait(Duration::from_secs(1));
    let added = shop.post("/add", Some(&token)).await;
    assert_eq!(added.0.status(), StatusCode::SEE_OTHER);
    assert_ne!(added.token(), token);
    assert!(shop.get("/why", &token).await.deletes_cookie());
}

async fn sign_in(session: Session) -> Result<Redirect> {
    session.sign_in(SignIn::new("anna")).await?;
    Ok(Redirect::to("/"))
}

async fn sign_out(session: Session) -> Result<Redirect> {
    session.sign_out().await?;
    Ok(Redirect::to("/"))
}

async fn add(session: Session) -> Result<Redirect> {
    session.set("cart", "hat")?;
    Ok(Redirect::to("/"))
}

async fn why(session: Session) -> &'static str {
    session.lapsed().map(|ended| ended.reason.code()).unwrap_or_default()
}

struct Shop {
    sessions: Sessions,
    app: Router,
    now: Arc<AtomicI64>,
}

impl Shop {
    async fn open() -> Self {
        let now = Arc::new(AtomicI64::new(1_767_225_600_000));
        let store = store::open("memory:").await.unwrap();
        let sessions = Sessions::builder(store).clock(ManualClock(Arc::clone(&now))).without_upkeep().build().unwrap();
        let app = Router::new()
            .route("/account", get(async |user: SignedIn| user.user().to_owned()))
            .route("/why", get(why))
            .route("/nothing", post(async |_: Session| Redirect::to("/")))
            .route("/add", post(add))
            .route("/sign-in", post(sign_in))
            .route("/sign-out", post(sign_out))
            .layer(sessions.layer().sign_in_page("/why"));
        Self { sessions, app, now }
    }

    fn wait(&self, time: Duration) {
        self.now.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(Request::get(path), Some(token)).await
    }

    async fn post(&self, path: &str, token: Option<&str>) -> Answer {
        self.send(Request::post(path), token).await
    }

    async fn send(&self, mut request: request::Builder, token: Option<&str>) -> Answer {
        if let Some(token) = token {
            request = request.header(header::COOKIE, format!("__Host-session={token}"));
        }
        Answer(self.app.clone().call(request.body(Body::empty()).unwrap()).await.unwrap())
    }
}

struct Answer(Response<Body>);

impl Answer {
    fn set_cookie(&self) -> Option<&str> {
        self.0.headers().get(header::SET_COOKIE).map(|value| value.to_str().unwrap())
    }

    fn deletes_cookie(&self) -> bool {
        self.set_cookie().is_some_and(|cookie| cookie.starts_with("__Host-session=;") && cookie.contains("Max-Age=0"))
    }

    fn token(&self) -> String {
        let cookie = self.set_cookie().expect("a cookie is set");
        cookie.split([';', '=']).nth(1).unwrap().to_owned()
    }

    async fn text(self) -> String {
        let bytes = axum::body::to_bytes(self.0.into_body(), 1 << 16).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }
}

#[derive(Debug)]
struct ManualClock(Arc<AtomicI64>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}
