//! The rules against requests from other sites as a middleware.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform},
    error::PayloadError,
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body::{Body, Frame};

use super::{Actix, Guest, answer};
use crate::web::{
    csrf::{CsrfBody, Guard, Verdict, demand_token, settings},
    problem,
};

/// Refuses requests that another site makes a signed-in browser send: see [the module](crate::web::csrf).
///
/// Goes within the [session middleware](super::SessionMiddleware), so before it:
///
/// ```
/// use actix_web::{App, web::post};
/// use cloakroom::{Sessions, web::CsrfMiddleware};
/// # use actix_web::{http::StatusCode, test};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// let sessions = Sessions::open("memory:").await?;
/// let app = App::new()
///     .wrap(CsrfMiddleware::new())
///     .wrap(sessions.middleware())
///     .route("/order", post().to(async || "ordered"));
/// # let app = test::init_service(app).await;
///
/// let send = |site: &str| {
///     let request = test::TestRequest::post().uri("/order").insert_header(("Sec-Fetch-Site", site));
///     test::call_service(&app, request.to_request())
/// };
/// assert_eq!(send("same-origin").await.status(), StatusCode::OK);
/// assert_eq!(send("cross-site").await.status(), StatusCode::FORBIDDEN);
/// # Ok(()) }
/// ```
///
/// Calls that no browser makes (a payment provider's, say) belong outside of it: wrap a scope of the rest instead of the
/// application.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CsrfMiddleware {
    guard: Arc<Guard>,
}

settings!(CsrfMiddleware);

impl<S, B> Transform<S, ServiceRequest> for CsrfMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Transform = CsrfService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(CsrfService { inner: Rc::new(inner), guard: Arc::clone(&self.guard) }))
    }
}

/// A service that other sites cannot use through a visitor's browser. Made by [`CsrfMiddleware`].
#[derive(Debug)]
pub struct CsrfService<S> {
    inner: Rc<S>,
    guard: Arc<Guard>,
}

impl<S, B> Service<ServiceRequest> for CsrfService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let verdict = self.guard.judge::<Actix>(request.request());
        if matches!(verdict, Verdict::Pass) {
            let response = self.inner.call(request);
            return Box::pin(async move { Ok(response.await?.map_into_left_body()) });
        }
        let inner = Rc::clone(&self.inner);
        Box::pin(async move {
            let guest = request.extensions().get::<Rc<Guest>>().cloned();
            let Some(guest) = guest else {
                let refusal = problem::set_up_wrongly(
                    "the CSRF middleware is not within the session middleware: add .wrap(sessions.middleware()) after it",
                );
                return Ok(request.into_response(answer(refusal)).map_into_right_body());
            };
            let body = Sent(request.take_payload());
            match demand_token(&guest.visit, request.request(), body, verdict).await {
                Ok(body) => {
                    request.set_payload(payload(body));
                    Ok(inner.call(request).await?.map_into_left_body())
                }
                Err(refusal) => Ok(request.into_response(refusal).map_into_right_body()),
            }
        })
    }
}

/// What a client sends.
struct Sent(Payload);

impl Body for Sent {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        Pin::new(&mut self.0).poll_next(context).map_ok(Frame::data)
    }
}

/// What a client sends, for handlers.
fn payload(body: CsrfBody<Sent>) -> Payload {
    let mut body = Box::pin(body);
    let parts = stream::poll_fn(move |context| {
        // There are no trailers among the frames.
        body.as_mut().poll_frame(context).map_ok(|frame| frame.into_data().unwrap_or_default())
    });
    Payload::Stream { payload: Box::pin(parts) }
}
