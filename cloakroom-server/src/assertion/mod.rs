//! Assertions: what forward authentication says of a visitor, signed. An application that verifies them with the published
//! key need not trust the network between, nor that the proxy strips what clients send.
//!
//! `docs/forward-auth.md` says what is in one; `docs/decisions/0018-signed-assertions.md` why it is as it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cloakroom::{Assurance, SessionId, SessionInfo, Timestamp};
use serde::Serialize;

pub mod keys;

pub use keys::{AssertionKeyError, AssertionKeys};

/// How long an assertion is good at most.
const LIFETIME: Duration = Duration::from_mins(1);
/// How long it is handed out again: a signature costs more than all else that a request does.
const REUSED_FOR: Duration = Duration::from_secs(30);
/// More are not kept.
const MOST_KEPT: usize = 10_000;

/// Makes assertions.
#[derive(Debug, Default)]
pub(crate) struct Assertions {
    keys: Option<Arc<AssertionKeys>>,
    kept: Mutex<HashMap<(Arc<str>, SessionId), Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// What it says, without its times.
    said: String,
    issued_at: Timestamp,
    /// In seconds.
    expires_at: i64,
    text: Arc<str>,
}

/// Names of JWT (RFC 7519), OpenID Connect and RFC 8176 where there are any, else those of the API.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'static str,
    aud: &'a str,
    sid: SessionId,
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amr: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_user: Option<&'a str>,
}

impl Assertions {
    pub(crate) fn new(keys: Option<Arc<AssertionKeys>>) -> Self {
        Self { keys, kept: Mutex::default() }
    }

    /// The public keys.
    pub(crate) fn jwks(&self) -> &str {
        self.keys.as_ref().map_or(r#"{"keys":[]}"#, |keys| keys.jwks())
    }

    /// About a session that lives, and that the policy lets in. `None` where no user is signed in, or there is no key.
    pub(crate) fn about(&self, session: &SessionInfo, policy: &Arc<str>, now: Timestamp) -> Option<Arc<str>> {
        let keys = self.keys.as_ref()?;
        let said = serde_json::to_string(&Claims::of(session, policy)?).expect("claims are text and numbers");
        let latest = now.after(LIFETIME);
        let end = session.expires_at().map_or(latest, |end| end.min(latest));
        // A part of a second is not the session's any more.
        let expires_at = seconds(end);
        let key = (Arc::clone(policy), session.id);
        let is_good = |kept: &&Kept| {
            let recent = kept.issued_at <= now && now.since(kept.issued_at) < REUSED_FOR;
            // It was made for an end that may have moved since.
            let lasts = kept.expires_at == expires_at || kept.expires_at >= seconds(now.after(REUSED_FOR));
            recent && lasts && kept.expires_at <= expires_at && kept.said == said
        };
        if let Some(kept) = self.kept().get(&key).filter(is_good) {
            return Some(Arc::clone(&kept.text));
        }
        let issued_at = seconds(now);
        let claims = &said[..said.len() - 1];
        let text: Arc<str> =
            keys.sign(format!(r#"{claims},"iat":{issued_at},"exp":{expires_at}}}"#).as_bytes())?.into();
        self.keep(key, Kept { said, issued_at: now, expires_at, text: Arc::clone(&text) }, now);
        Some(text)
    }

    fn keep(&self, key: (Arc<str>, SessionId), made: Kept, now: Timestamp) {
        let mut kept = self.kept();
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, other| now.since(other.issued_at) < REUSED_FOR);
        }
        if kept.len() < MOST_KEPT {
            kept.insert(key, made);
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(Arc<str>, SessionId), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Claims<'a> {
    /// `None` where no user is signed in.
    fn of(session: &'a SessionInfo, policy: &'a str) -> Option<Self> {
        Some(Self {
            iss: "cloakroom",
            aud: policy,
            sid: session.id,
            sub: session.user.as_deref()?,
            name: session.full_name.as_deref(),
            user_type: session.user_type.as_deref(),
            auth_time: session.authenticated_at().map(seconds),
            amr: session.methods().map(|methods| methods.split(' ').collect()),
            level: session.level().map(Assurance::number),
            impersonated_by: session.impersonator().map(|by| &**by),
            audit_user: session.audit_user.as_deref(),
        })
    }
}

fn seconds(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use cloakroom::{Sessions, SignIn, record::Acting};
    use serde_json::{Value, json};

    use super::*;

    fn claims(text: &str) -> Value {
        let payload = text.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    async fn session() -> SessionInfo {
        let sessions = Sessions::open("memory:").await.unwrap();
        let sign_in = SignIn::new("anna").full_name("Änne \"Berg\"}").user_type("staff").methods("pwd otp");
        sessions.start(sign_in).await.unwrap().record.info.clone()
    }

    fn assertions() -> Assertions {
        Assertions::new(Some(Arc::new(AssertionKeys::from_pem(&keys::generate().unwrap()).unwrap())))
    }

    #[tokio::test]
    async fn s1_an_assertion_says_who_it_is_for_whom_and_never_outlives_the_session() {
        let (assertions, policy, mut session) = (assertions(), Arc::from("staff"), session().await);
        let now = session.created_at;
        session.acting = Some(Acting { by: "root".into(), returns_to: None });
        session.ends_at = Some(now.after(Duration::from_millis(20_900)));
        let said = claims(&assertions.about(&session, &policy, now).unwrap());
        let expected = json!({
            "iss": "cloakroom", "aud": "staff", "sid": session.id, "sub": "anna", "name": "Änne \"Berg\"}",
            "user_type": "staff", "auth_time": seconds(now), "amr": ["pwd", "otp"], "impersonated_by": "root",
            "iat": seconds(now), "exp": seconds(now.after(Duration::from_millis(20_900))),
        });
        assert_eq!(said, expected);
        session.ends_at = None;
        let said = claims(&assertions.about(&session, &policy, now).unwrap());
        assert_eq!(said["exp"], seconds(now) + 60);
        session.user = None;
        assert!(assertions.about(&session, &policy, now).is_none());
        assert!(Assertions::default().about(&session, &policy, now).is_none());
    }

    #[tokio::test]
    async fn s1_an_assertion_is_handed_out_again_only_while_it_is_fresh_and_still_true() {
        let (assertions, staff, mut session) = (assertions(), Arc::from("staff"), session().await);
        let start = session.created_at;
        let at = |session: &SessionInfo, policy: &Arc<str>, millis| {
            assertions.about(session, policy, start.after(Duration::from_millis(millis))).unwrap()
        };
        let first = at(&session, &staff, 0);
        assert_eq!(at(&session, &staff, 29_999), first);
        assert_ne!(at(&session, &Arc::from("default"), 1), first, "each policy has its own");
        let second = at(&session, &staff, 30_000);
        assert_ne!(second, first);
        assert_ne!(at(&session, &staff, 29_000), second, "a clock that went back");
        session.user_type = Some("guest".into());
        let third = at(&session, &staff, 31_000);
        assert_eq!(claims(&third)["user_type"], "guest");
        session.ends_at = Some(start.after(Duration::from_secs(40)));
        assert_eq!(claims(&at(&session, &staff, 32_000))["exp"], seconds(start) + 40);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let (assertions, mut session) = (assertions(), session().await);
        session.ends_at = None;
        for n in 0..MOST_KEPT + 10 {
            let made = Kept { said: String::new(), issued_at: session.created_at, expires_at: 0, text: "".into() };
            assertions.keep((n.to_string().into(), session.id), made, session.created_at);
        }
        assert_eq!(assertions.kept().len(), MOST_KEPT);
        assertions.about(&session, &Arc::from("staff"), session.created_at.after(REUSED_FOR)).unwrap();
        assert_eq!(assertions.kept().len(), 1);
    }
}
