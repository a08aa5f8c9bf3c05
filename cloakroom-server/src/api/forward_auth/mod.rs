//! Forward authentication: a reverse proxy asks before each request who sends it.
//!
//! The path names the [policy](crate::policy), in a form that no visitor's path can take. `/auth` alone is the default
//! policy; `/auth:NAME`, with anything beneath, another. A visitor's path begins with a slash, so a proxy that appends
//! it to any of these asks for the same policy still, or, beneath `/auth/`, for none.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{App, call::Call, guard, problem};
use crate::{
    assertion::{AssertionKeys, Assertions},
    policy::Policies,
};

mod decision;
pub(crate) mod ext_authz;
mod identity;
mod said;

use decision::{Decision, Visitor};
use said::Said;

/// What the log and the metrics call all its paths.
pub(super) const ROUTE: &str = "/auth";

/// What forward authentication decides by, for as long as the server runs.
#[derive(Debug, Default)]
pub(crate) struct ForwardAuth {
    policies: Policies,
    assertions: Assertions,
    said: Said,
}

impl ForwardAuth {
    pub(crate) fn new(policies: Policies, keys: Option<Arc<AssertionKeys>>) -> Self {
        Self { policies, assertions: Assertions::new(keys), said: Said::default() }
    }
}

/// Whether a path is one of forward authentication.
pub(super) fn concerns(path: &str) -> bool {
    path.strip_prefix(ROUTE).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
}

/// Answers with 200, 401, 403 or 503, whatever is asked.
pub(super) async fn answer(app: &App, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.query().is_some_and(|query| !query.is_empty()) {
        app.forward_auth.said.query_ignored();
    }
    let decision = if let Some(policy) = policy_of(parts.uri.path()) {
        let peer = parts.extensions.get().copied();
        decision::decide(app, policy, &Visitor { peer, headers: &parts.headers }).await
    } else {
        app.forward_auth.said.beneath(app);
        Decision::refused(decision::no_such_policy())
    };
    let mut response = respond(decision);
    if !body.is_end_stream() {
        // A proxy that announces its visitor's body need not have it yet: waiting for it could take for ever.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let timeout = app.bounds.body_timeout;
        tokio::spawn(async move { guard::discard(&parts.headers, body, timeout).await });
    }
    response
}

/// The keys that assertions are verified with.
pub(super) async fn jwks(Call { app, .. }: Call) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300")),
    ];
    (headers, app.forward_auth.assertions.jwks().to_owned()).into_response()
}

/// The name of the policy that a path asks for.
fn policy_of(path: &str) -> Option<&str> {
    match path.strip_prefix(ROUTE)? {
        "" => Some(Policies::DEFAULT),
        rest => rest.strip_prefix(':')?.split('/').next(),
    }
}

fn respond(decision: Decision) -> Response {
    let identity = identity::headers(decision.session(), decision.ended(), decision.assertion());
    let mut response = match decision.verdict {
        Ok(()) => (StatusCode::OK, Body::empty()).into_response(),
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in identity {
        let value = HeaderValue::try_from(value).expect("percent-encoded text is visible ASCII");
        headers.insert(HeaderName::from_static(name), value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_no_path_of_a_visitor_names_a_policy() {
        for (path, policy) in [
            ("/auth", Some("default")),
            ("/auth:staff", Some("staff")),
            ("/auth:staff/", Some("staff")),
            ("/auth:staff/auth:public", Some("staff")),
            ("/auth:staff/../auth:public", Some("staff")),
            ("/auth:staff//auth:public", Some("staff")),
            ("/auth:staff%2fpublic", Some("staff%2fpublic")),
            ("/auth:", Some("")),
            ("/auth:/public", Some("")),
            ("/auth/", None),
            ("/auth/public", None),
            ("/auth/../auth:public", None),
            ("/auth//auth:public", None),
            ("/auth/:public", None),
        ] {
            assert!(concerns(path), "{path}");
            assert_eq!(policy_of(path), policy, "{path}");
        }
        // Whatever stands where a proxy puts a visitor's path, which begins with a slash, the policy is that of the rest.
        for prefix in ["/auth", "/auth/", "/auth:", "/auth:staff", "/auth:staff/", "/auth:staff/x"] {
            for visitor in ["/", "/public", "//public", "/:public", "/auth:public", "/../auth:public", "/%3Apublic"] {
                let policy = policy_of(&format!("{prefix}{visitor}")).map(str::to_owned);
                let expected = if prefix.starts_with("/auth:") { policy_of(prefix).map(str::to_owned) } else { None };
                assert_eq!(policy, expected, "{prefix} {visitor}");
            }
        }
        for path in ["/", "/authority", "/auth%3Apublic", "/Auth", "/x/auth"] {
            assert!(!concerns(path), "{path}");
        }
    }
}
