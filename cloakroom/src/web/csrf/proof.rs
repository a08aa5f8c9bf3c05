//! What a request's head says of where it comes from.

use http::{HeaderMap, Method, header, request};

use super::{CsrfLayer, Guard, origin::WebOrigin};

/// What becomes of a request, by its head alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Nothing shows where it comes from: a token must.
    Unproven,
    /// It comes from somewhere else: a token alone lets it pass.
    Foreign,
}

impl Guard {
    pub(super) fn judge(&self, parts: &request::Parts) -> Verdict {
        let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        if safe && !parts.headers.contains_key(header::UPGRADE) {
            return Verdict::Pass;
        }
        match self.origin(parts) {
            Verdict::Pass if self.token_required => Verdict::Unproven,
            verdict => verdict,
        }
    }

    /// What the browser says.
    fn origin(&self, parts: &request::Parts) -> Verdict {
        let headers = &parts.headers;
        let origin = single(headers, header::ORIGIN.as_str()).and_then(WebOrigin::sent);
        if origin.as_ref().is_some_and(|origin| self.trusted.contains(origin)) {
            return Verdict::Pass;
        }
        if headers.contains_key("sec-fetch-site") {
            return match single(headers, "sec-fetch-site") {
                Some("same-origin" | "none") => Verdict::Pass,
                _ => Verdict::Foreign,
            };
        }
        match origin {
            Some(origin) if origin.is_target(headers, &parts.uri) => Verdict::Pass,
            _ if headers.contains_key(header::ORIGIN) => Verdict::Foreign,
            _ => Verdict::Unproven,
        }
    }
}

pub(super) fn token_in_header(parts: &request::Parts) -> Option<Vec<u8>> {
    let mut tokens = parts.headers.get_all(CsrfLayer::HEADER).iter();
    let token = tokens.next()?;
    // Two are one too many: neither is looked at.
    Some(if tokens.next().is_some() { Vec::new() } else { token.as_bytes().to_vec() })
}

/// A header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
