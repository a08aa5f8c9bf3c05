//! Extractors for actix-web: [`Session`] and [`SignedIn`].

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, error::InternalError};

use super::{Guest, SessionMiddleware, answer};
use crate::{
    client::TrustedProxies,
    session::Session,
    web::{Fresh, Next, Refused, SignedIn, problem},
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
                let response = guest.visit.refuse(&request, &SignedIn::lacking(session));
                InternalError::from_response("no user is signed in", response).into()
            })
        })
    }
}

impl<const SECONDS: u64> FromRequest for Fresh<SECONDS> {
    type Error = actix_web::Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, user) = (request.clone(), SignedIn::from_request(request, payload));
        Box::pin(async move {
            let user = user.await?;
            let max_age = Duration::from_secs(SECONDS);
            user.require_authenticated_within(max_age).map_err(|error| {
                let response = match guest(&request) {
                    Ok(guest) => guest.visit.refuse(&request, &Refused::NotFresh { max_age }),
                    Err(error) => return error,
                };
                InternalError::from_response(error, response).into()
            })?;
            Ok(Self(user))
        })
    }
}

/// `/` where the parameter is missing or leads elsewhere.
impl FromRequest for Next {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::of_query(request.uri().query()).unwrap_or_default()))
    }
}

impl SessionMiddleware {
    /// Records where a request comes from: the connection's other end or, behind these proxies, whom they name. Takes the
    /// place of [`client_ip`](Self::client_ip).
    pub fn trusted_proxies(self, proxies: TrustedProxies) -> Self {
        self.client_ip(move |request| {
            let named = ["forwarded", "x-forwarded-for"].into_iter().flat_map(|name| {
                let values = request.headers().get_all(name);
                values.filter_map(move |value| Some((name, http::HeaderValue::from_bytes(value.as_bytes()).ok()?)))
            });
            let mut headers = http::HeaderMap::new();
            for (name, value) in named {
                headers.append(name, value);
            }
            proxies.client(request.peer_addr()?.ip(), &headers)
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
                let response = self.visit.refuse(request, &Refused::NotLoaded(&error));
                let error = Rc::new(error);
                self.failure.replace(Some(Rc::clone(&error)));
                Err(InternalError::from_response(error, response).into())
            }
        }
    }
}

fn guest(request: &HttpRequest) -> Result<Rc<Guest>, actix_web::Error> {
    let guest = request.extensions().get::<Rc<Guest>>().cloned();
    guest.ok_or_else(|| {
        let response = problem::set_up_wrongly(
            "a handler asks for its session, but no session middleware is around it: add .wrap(sessions.middleware())",
        );
        InternalError::from_response("no session middleware", answer(response)).into()
    })
}
