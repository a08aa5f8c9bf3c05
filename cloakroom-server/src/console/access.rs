//! Signing in to the console, and who a request comes from.
//!
//! A console's session is an anonymous one: an application, or a proxy that asks `/auth`, takes its token for a visitor's.
//! What makes it a console's is a proof in its data that only the holder of the key could have had made, for this session
//! alone. So no key with which sessions can be started or changed makes an operator, and an operator is out as
//! soon as the key is not taken any more.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, State},
    response::{IntoResponse, Redirect, Response},
};
use cloakroom::{Next, Session, SessionId, Timestamp, web::CsrfToken};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::{
    Console,
    fault::Fault,
    fields::Fields,
    html::{bare, logo},
};
use crate::{
    KeyRing,
    api::{App, guard},
    keys::{Caller, Scope, Verdict},
};

/// Someone who signed in with an API key.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) caller: Caller,
    pub(super) session: Session,
    /// For the page's forms.
    pub(super) csrf: CsrfToken,
}

/// What a console's session holds.
#[derive(Debug, Serialize, Deserialize)]
struct SignedIn {
    key: String,
    at: i64,
    proof: String,
}

const SIGNED_IN: &str = "console";
const NOTICE: &str = "notice";
/// After so long an operator shows the key again, however busy they were.
const LONGEST: Duration = Duration::from_hours(12);

impl Operator {
    pub(super) fn may(&self, scope: Scope) -> bool {
        self.caller.scope >= scope
    }

    /// What only some keys may see.
    pub(super) fn require(&self, scope: Scope) -> Result<(), Fault> {
        if self.may(scope) {
            return Ok(());
        }
        let (name, has, needed) = (&self.caller.name, self.caller.scope.name(), scope.name());
        let detail = format!("This needs a key of scope {needed}; {name:?} has scope {has}.");
        Err(Fault::new(StatusCode::FORBIDDEN, "Your key may not do this", detail))
    }

    pub(super) fn id(&self) -> Option<SessionId> {
        self.session.id()
    }

    /// Has the next page say this.
    pub(super) fn notify(&self, text: impl Into<String>) -> Result<(), Fault> {
        Ok(self.session.set(NOTICE, &text.into())?)
    }

    /// What an earlier page had to say. It is said once.
    pub(super) fn notice(&self) -> Option<String> {
        self.session.contains_key(NOTICE).then(|| self.session.take(NOTICE).ok().flatten()).flatten()
    }

    async fn of(console: &Console, session: Session) -> Result<Option<Self>, Fault> {
        let (Some(id), Ok(Some(signed_in))) = (session.id(), session.get::<SignedIn>(SIGNED_IN)) else {
            return Ok(None);
        };
        let App { keys, sessions, .. } = &console.app;
        let Some(caller) = signed_in.caller(id, keys, sessions.now()) else { return Ok(None) };
        let csrf = session.csrf_token().await?;
        Ok(Some(Self { caller, session, csrf }))
    }
}

impl SignedIn {
    /// Nothing if there is no such key.
    fn new(caller: &Caller, id: SessionId, keys: &KeyRing, now: Timestamp) -> Option<Self> {
        let proof = keys.sign(caller, &statement(id, now))?;
        Some(Self { key: caller.name.to_string(), at: now.as_millis(), proof })
    }

    /// Whose key it was, if this is the session that it was shown for, lately, and it is still taken.
    fn caller(&self, id: SessionId, keys: &KeyRing, now: Timestamp) -> Option<Caller> {
        let at = Timestamp::from_millis(self.at);
        let caller = keys.signer(&self.key, &statement(id, at), &self.proof)?;
        (now.since(at) < LONGEST).then_some(caller)
    }
}

fn statement(id: SessionId, at: Timestamp) -> Vec<u8> {
    format!("cloakroom console {id} {}", at.as_millis()).into_bytes()
}

impl FromRequestParts<Console> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Response> {
        let session = Session::from_request_parts(parts, console).await.map_err(IntoResponse::into_response)?;
        match Self::of(console, session).await {
            Ok(Some(operator)) => Ok(operator),
            Ok(None) => Err(to_sign_in(parts)),
            Err(fault) => Err(fault.into_response()),
        }
    }
}

fn to_sign_in(parts: &Parts) -> Response {
    let asks_for_page = parts
        .headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().windows(b"text/html".len()).any(|part| part == b"text/html"));
    if !asks_for_page {
        let detail = "Sign in with an API key at /console/sign-in.";
        return Fault::new(StatusCode::UNAUTHORIZED, "You are not signed in", detail).into_response();
    }
    let path = parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    let next = path.filter(|_| parts.method == Method::GET).and_then(Next::parse);
    let query = next.map(|next| format!("?{}", next.to_query())).unwrap_or_default();
    Redirect::to(&format!("/console/sign-in{query}")).into_response()
}

/// `GET /console/sign-in`
pub(super) async fn show(
    State(console): State<Console>,
    session: Session,
    next: Option<Next>,
    uri: http::Uri,
) -> Result<Response, Fault> {
    let fields = Fields::of_query(uri.query(), &["next", "cookie"])?;
    let ended = session.lapsed().map(|ended| ended.reason.text());
    if Operator::of(&console, session).await?.is_some() {
        return Ok(Redirect::to(&target(next)).into_response());
    }
    let message = match (fields.text("cookie"), ended) {
        (Some(_), _) => Some(
            "The browser did not keep the console's cookie. It is kept over https, and from http://localhost and \
             http://127.0.0.1: open the console there, or have the server speak TLS.",
        ),
        (None, Some(reason)) => Some(reason),
        (None, None) => None,
    };
    Ok(form(StatusCode::OK, next.as_ref(), message))
}

/// `POST /console/sign-in`
pub(super) async fn sign_in(
    State(console): State<Console>,
    session: Session,
    next: Option<Next>,
    parts: Parts,
    body: Bytes,
) -> Result<Response, Fault> {
    let fields = Fields::parse(&body, &["key"])?;
    let Some(key) = fields.text("key").map(str::trim) else {
        return Ok(form(StatusCode::UNPROCESSABLE_ENTITY, next.as_ref(), Some("Give an API key.")));
    };
    let client = guard::client(&console.app, &parts);
    let caller = match guard::judge(&console.app, client, &as_api_key(key)) {
        Verdict::Admitted(caller) => caller,
        Verdict::TooMany { wait, .. } => {
            let seconds = wait.as_secs() + 1;
            let message = format!("Too many wrong keys came from this address. Try again in {seconds} s.");
            let mut refused = form(StatusCode::TOO_MANY_REQUESTS, next.as_ref(), Some(&message));
            refused.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            return Ok(refused);
        }
        Verdict::Missing | Verdict::Refused { .. } => {
            return Ok(form(StatusCode::FORBIDDEN, next.as_ref(), Some("This server does not take that key.")));
        }
    };
    // Whatever this browser held before opens nothing from now on.
    if session.id().is_some() {
        session.sign_out().await?;
    }
    session.csrf_token().await?;
    let (Some(id), at) = (session.id(), console.app.sessions.now()) else {
        return Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "You are not signed in", "Try again."));
    };
    let Some(signed_in) = SignedIn::new(&caller, id, &console.app.keys, at) else {
        return Ok(form(StatusCode::FORBIDDEN, next.as_ref(), Some("This server does not take that key any more.")));
    };
    let Caller { name, scope } = &caller;
    session.set(SIGNED_IN, &signed_in)?;
    tracing::info!(key = &**name, scope = scope.name(), session = %id, "signed in to the console");
    let query = next.map(|next| format!("&{}", next.to_query())).unwrap_or_default();
    Ok(Redirect::to(&format!("/console/sign-in?cookie=set{query}")).into_response())
}

/// `POST /console/sign-out`
pub(super) async fn sign_out(session: Session) -> Result<Response, Fault> {
    session.sign_out().await?;
    Ok(Redirect::to("/console/sign-in").into_response())
}

/// As the API's guard reads one.
fn as_api_key(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Bearer {key}")).unwrap_or(HeaderValue::from_static("Bearer ?"));
    headers.insert(header::AUTHORIZATION, value);
    headers
}

/// Where an operator goes on: within the console.
fn target(next: Option<Next>) -> String {
    let next = next.map(|next| next.as_str().to_owned());
    next.filter(|path| path.starts_with("/console")).unwrap_or_else(|| "/console".to_owned())
}

fn form(status: StatusCode, next: Option<&Next>, message: Option<&str>) -> Response {
    let action = next.map(|next| format!("/console/sign-in?{}", next.to_query()));
    let page = bare("Sign in", &sign_in_form(action.as_deref().unwrap_or("/console/sign-in"), message));
    (status, axum::response::Html(page.into_string())).into_response()
}

fn sign_in_form(action: &str, message: Option<&str>) -> Markup {
    html! {
        form.card.narrow method="post" action=(action) {
            div.mark { (logo()) }
            h1 { "Sign in to Cloakroom" }
            @if let Some(message) = message {
                p.notice.bad role="alert" { (message) }
            }
            label for="key" { "API key" }
            input #key name="key" type="password" autocomplete="current-password" spellcheck="false" autocapitalize="none"
                required autofocus aria-describedby="which";
            p #which .hint {
                "Any key this server takes. With the embedded store it is the text of "
                code { "cloakroom.key" } ", beside the database."
            }
            button.primary type="submit" { "Sign in" }
        }
    }
}

#[cfg(test)]
mod tests {
    use cloakroom::store::Partition;

    use super::*;
    use crate::{ApiKey, ApiKeys, keys};

    #[test]
    fn a_proof_is_good_for_its_session_its_key_and_twelve_hours() {
        let key = |name: &str, scope| ApiKey::new(name, scope, &keys::generate().unwrap()).unwrap();
        let (shop, root) = (key("shop", Scope::Write), key("root", Scope::Admin));
        let ring = KeyRing::new(ApiKeys::new(vec![shop.clone(), root]));
        let [id, other] = [(); 2].map(|()| SessionId::generate(Partition::random().unwrap()).unwrap());
        let now = Timestamp::from_millis(1_000);
        let caller = Caller { name: "shop".into(), scope: Scope::Write };
        let signed_in = SignedIn::new(&caller, id, &ring, now).unwrap();
        let scope = |signed_in: &SignedIn, id, at| signed_in.caller(id, &ring, at).map(|caller| caller.scope);
        assert_eq!(scope(&signed_in, id, now.after(LONGEST).before(Duration::from_millis(1))), Some(Scope::Write));
        assert_eq!(scope(&signed_in, id, now.after(LONGEST)), None);
        assert_eq!(scope(&signed_in, other, now), None);
        let SignedIn { key: name, at, proof } = &signed_in;
        for (key, at, proof) in [
            ("root", *at, &**proof),
            (name, at + 1, proof),
            (name, *at, ""),
            (name, *at, &proof[1..]),
            ("", *at, proof),
        ] {
            let forged = SignedIn { key: key.into(), at, proof: proof.into() };
            assert_eq!(scope(&forged, id, now), None, "{forged:?}");
        }
        ring.replace(ApiKeys::new(vec![key("shop", Scope::Admin)]));
        assert!(signed_in.caller(id, &ring, now).is_none(), "another key of the same name");
        ring.replace(ApiKeys::new(vec![shop]));
        assert!(signed_in.caller(id, &ring, now).is_some());
    }
}
