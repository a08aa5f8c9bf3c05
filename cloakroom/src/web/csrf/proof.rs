//! What a request's head says of where it comes from.

use http::{HeaderName, header};

use super::{Guard, HEADER, origin::WebOrigin};
use crate::web::visit::{Framework, host};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What becomes of a request, by its head alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) enum Verdict {
    Pass,
    /// Nothing shows where it comes from: a token must.
    Unproven,
    /// It comes from somewhere else: a token alone lets it pass.
    Foreign,
}

impl Guard {
    pub(in crate::web) fn judge<F: Framework>(&self, request: &F::Request) -> Verdict {
        let safe = matches!(F::method(request), "GET" | "HEAD" | "OPTIONS" | "TRACE");
        if safe && !has::<F>(request, &header::UPGRADE) {
            return Verdict::Pass;
        }
        match self.origin::<F>(request) {
            Verdict::Pass if self.token_required => Verdict::Unproven,
            verdict => verdict,
        }
    }

    /// What the browser says.
    fn origin<F: Framework>(&self, request: &F::Request) -> Verdict {
        let origin = single::<F>(request, &header::ORIGIN).and_then(WebOrigin::sent);
        if origin.as_ref().is_some_and(|origin| self.trusted.contains(origin)) {
            return Verdict::Pass;
        }
        if has::<F>(request, &SEC_FETCH_SITE) {
            return match single::<F>(request, &SEC_FETCH_SITE) {
                Some("same-origin" | "none") => Verdict::Pass,
                _ => Verdict::Foreign,
            };
        }
        match origin {
            Some(origin) if host::<F>(request).is_some_and(|host| origin.is_at(host)) => Verdict::Pass,
            _ if has::<F>(request, &header::ORIGIN) => Verdict::Foreign,
            _ => Verdict::Unproven,
        }
    }
}

pub(super) fn token_in_header<F: Framework>(request: &F::Request) -> Option<Vec<u8>> {
    let name = HeaderName::from_static(HEADER);
    let mut tokens = F::header_values(request, &name);
    let token = tokens.next()?;
    // Two are one too many: neither is looked at.
    Some(if tokens.next().is_some() { Vec::new() } else { token.to_vec() })
}

fn has<F: Framework>(request: &F::Request, name: &HeaderName) -> bool {
    F::header_values(request, name).next().is_some()
}

/// A header that is there once.
fn single<'a, F: Framework>(request: &'a F::Request, name: &HeaderName) -> Option<&'a str> {
    let mut values = F::header_values(request, name);
    match (values.next(), values.next()) {
        (Some(value), None) => str::from_utf8(value).ok(),
        _ => None,
    }
}
