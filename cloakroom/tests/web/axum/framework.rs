//! axum, as far as these tests know it.

use std::{collections::HashMap, net::SocketAddr};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cloakroom::{Sessions, web::SessionLayer};
use futures_util::stream::{self, BoxStream};
use http::{Request, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::world::Reply;

pub(crate) use axum::{
    Router,
    response::Redirect,
    routing::{any, get},
};
pub(crate) use cloakroom::web::CsrfLayer as Csrf;

/// An application that answers requests.
pub(crate) type App = Router;

pub(crate) type Params = axum::extract::Query<HashMap<String, String>>;

/// For HEAD, hyper drops the body.
pub(crate) const HEAD_RUNS_BODIES: bool = false;

/// What gives the requests of an application their sessions.
pub(crate) fn layer(sessions: &Sessions) -> SessionLayer {
    sessions.layer()
}

/// Puts the rules against requests from other sites before routes.
pub(crate) fn guard(routes: Router, csrf: Csrf) -> Router {
    routes.layer(csrf)
}

/// A response whose body is made while it is sent.
pub(crate) struct Page {
    pub(crate) length: Option<u64>,
    pub(crate) parts: BoxStream<'static, cloakroom::Result<Bytes>>,
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::from_stream(self.parts));
        if let Some(length) = self.length {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        response
    }
}

/// A commit error's answer.
pub(crate) fn plain_answer(status: u16, body: String) -> http::Response<Bytes> {
    http::Response::builder().status(status).body(body.into()).unwrap()
}

/// Says where a request comes from.
pub(crate) fn connected_from(request: &mut Request<Bytes>, peer: SocketAddr) {
    request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
}

pub(crate) async fn send<B>(app: &App, request: Request<B>) -> Reply
where
    axum::body::Body: From<B>,
{
    let response = app.clone().oneshot(request.map(axum::body::Body::from)).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: head.status, headers: head.headers, body: String::from_utf8(body.into()).unwrap() }
}

/// Sends a body in parts, and breaks off at the first that is an error.
pub(crate) async fn send_parts(app: &App, request: Request<Vec<Result<Bytes, &'static str>>>) -> Reply {
    send(app, request.map(|parts| axum::body::Body::from_stream(stream::iter(parts)))).await
}

/// Takes a response's first part and goes away.
pub(crate) async fn send_and_leave(app: &App, request: Request<Bytes>) {
    let response = app.clone().oneshot(request.map(axum::body::Body::from)).await.unwrap();
    response.into_body().frame().await.unwrap().unwrap();
}

/// A real server, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) async fn serve(app: App) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Server { address, task: tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }) }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
