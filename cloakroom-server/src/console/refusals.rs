//! Pages for what the layers around the console refuse.

use axum::body::Bytes;
use cloakroom::{Error, web::Refused};
use http::Response;

use super::fault::Fault;

/// A request that was refused before a page was asked.
pub(super) fn page_of_refusal(refused: &Refused<'_>) -> Response<Bytes> {
    let fault = match refused {
        Refused::NotLoaded(error) => Fault::of_error(error),
        Refused::Forged { advice } => Fault::new(refused.status(), "That did not come from this console", *advice),
        _ => Fault::new(refused.status(), "You are not signed in", "Sign in with an API key."),
    };
    fault.into_bytes()
}

/// What a page changed in the operator's own session could not be stored.
pub(super) fn page_of_error(error: &Error) -> Response<Bytes> {
    Fault::of_error(error).into_bytes()
}
