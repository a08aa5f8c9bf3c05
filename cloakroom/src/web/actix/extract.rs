//! Extractors for actix-web: [`Session`] and [`SignedIn`].

use std::{fmt, future::Future, pin::Pin, rc::Rc};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    dev::Payload,
    error::InternalError,
    http::{Method, StatusCode},
};

use super::{Guest, answer};
use crate::{
    Error, Session, SignedIn,
    web::{problem, signed_in::Stranger},
};

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T, actix_web::Error>>>>;

impl FromRequest for Session {
    type Error = actix_web::Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { guest(&request)?.session(&request).await.cloned() })
    }
}

/// `Option<SignedIn>` lets anybody in; while the store cannot be asked, the answer is 503 all the same.
impl FromRequest for SignedIn {
    type Error = actix_web::Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let guest = guest(&request)?;
            let session = guest.session(&request).await?;
            SignedIn::of(session).ok_or_else(|| {
                let reads = request.method() == Method::GET || request.method() == Method::HEAD;
                let wanted = request.uri().path_and_query().map_or("/", |path| path.as_str());
                let stranger = Stranger { session, reads, wanted };
                let response = stranger.turned_away(guest.visit.config().sign_in_page.as_deref());
                InternalError::from_response("nobody is signed in", answer(response)).into()
            })
        })
    }
}

impl Guest {
    async fn session(&self, request: &HttpRequest) -> Result<&Session, actix_web::Error> {
        match self.visit.session(request).await {
            Ok(session) => {
                self.failure.take();
                Ok(session)
            }
            Err(error) => {
                let error = Rc::new(error);
                self.failure.replace(Some(Rc::clone(&error)));
                Err(Failed(error).into())
            }
        }
    }
}

fn guest(request: &HttpRequest) -> Result<Rc<Guest>, actix_web::Error> {
    let guest = request.extensions().get::<Rc<Guest>>().cloned();
    guest.ok_or_else(|| {
        tracing::error!(
            "a handler asks for its session, but no session middleware is around it: add .wrap(sessions.middleware())"
        );
        InternalError::from_response("no session middleware", answer(problem::set_up_wrongly())).into()
    })
}

/// Why a session could not be loaded, for the handler and for the middleware.
#[derive(Debug)]
struct Failed(Rc<Error>);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Failed {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        self.0.error_response()
    }
}
