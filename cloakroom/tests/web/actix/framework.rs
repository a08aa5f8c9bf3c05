//! actix-web, as far as these tests know it: the same words as axum's.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread,
};

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, HttpServer, Responder, ResponseError,
    body::{EitherBody, MessageBody, SizedStream},
    dev::{Payload, ServerHandle, Service, ServiceResponse},
    error::PayloadError,
    http::Method,
    middleware::Condition,
    test::{TestRequest, init_service},
    web::{self, ServiceConfig},
};
use bytes::Bytes;
use cloakroom::{Sessions, store::MemoryStore, web::SessionMiddleware};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::world::Reply;

pub(crate) use cloakroom::web::CsrfMiddleware as Csrf;

pub(crate) type Params = web::Query<HashMap<String, String>>;

/// For HEAD, actix-web makes the body and sends none of it.
pub(crate) const HEAD_RUNS_BODIES: bool = true;

/// What gives the requests of an application their sessions.
pub(crate) fn layer(sessions: &Sessions) -> SessionMiddleware {
    sessions.middleware()
}

/// What a path is answered with, made anew by each worker.
type Route = Arc<dyn Fn() -> actix_web::Route + Send + Sync>;

/// Handlers by path, and what is around them.
#[derive(Clone, Default)]
pub(crate) struct Router {
    routes: Vec<(String, Route)>,
    csrf: Option<Csrf>,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn route(mut self, path: &str, route: Route) -> Self {
        self.routes.push((path.to_owned(), route));
        self
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.routes.extend(other.routes);
        self
    }

    pub(crate) fn layer(self, middleware: SessionMiddleware) -> App {
        App::start(self, middleware, true)
    }

    fn configure(&self, config: &mut ServiceConfig) {
        for (path, route) in &self.routes {
            config.route(path, route());
        }
    }
}

/// Puts the rules against requests from other sites before routes.
pub(crate) fn guard(routes: Router, csrf: Csrf) -> Router {
    Router { csrf: Some(csrf), ..routes }
}

/// A handler, under GET and HEAD.
pub(crate) fn get<F, Args>(handler: F) -> Route
where
    F: Handler<Args> + Send + Sync,
    F::Output: Answer + 'static,
    Args: FromRequest + 'static,
{
    let any = any(handler);
    Arc::new(move || any().guard(actix_web::guard::Any(actix_web::guard::Get()).or(actix_web::guard::Head())))
}

/// A handler, under any method.
pub(crate) fn any<F, Args>(handler: F) -> Route
where
    F: Handler<Args> + Send + Sync,
    F::Output: Answer + 'static,
    Args: FromRequest + 'static,
{
    Arc::new(move || {
        let handler = handler.clone();
        let answering = move |args: Args| {
            let answer = handler.call(args);
            async move { Answering(answer.await) }
        };
        web::route().to(answering)
    })
}

/// What handlers answer in these tests: what axum takes, actix-web shall take too.
pub(crate) trait Answer {
    fn answer(self, request: &HttpRequest) -> HttpResponse;
}

struct Answering<T>(T);

impl<T: Answer> Responder for Answering<T> {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        self.0.answer(request)
    }
}

impl Answer for () {
    fn answer(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().finish()
    }
}

impl Answer for &'static str {
    fn answer(self, request: &HttpRequest) -> HttpResponse {
        self.respond_to(request).map_into_boxed_body()
    }
}

impl Answer for String {
    fn answer(self, request: &HttpRequest) -> HttpResponse {
        self.respond_to(request).map_into_boxed_body()
    }
}

impl Answer for Bytes {
    fn answer(self, request: &HttpRequest) -> HttpResponse {
        self.respond_to(request).map_into_boxed_body()
    }
}

impl Answer for StatusCode {
    fn answer(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::new(actix_web::http::StatusCode::from_u16(self.as_u16()).unwrap())
    }
}

impl Answer for [(HeaderName, &str); 1] {
    fn answer(self, _: &HttpRequest) -> HttpResponse {
        let [(name, value)] = self;
        HttpResponse::Ok().insert_header((name.as_str(), value)).finish()
    }
}

impl<T: Answer, E: ResponseError> Answer for Result<T, E> {
    fn answer(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Ok(answer) => answer.answer(request),
            Err(error) => error.error_response(),
        }
    }
}

pub(crate) struct Redirect(&'static str);

impl Redirect {
    pub(crate) fn to(path: &'static str) -> Self {
        Self(path)
    }
}

impl Answer for Redirect {
    fn answer(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::SeeOther().insert_header(("location", self.0)).finish()
    }
}

/// A response whose body is made while it is sent.
pub(crate) struct Page {
    pub(crate) length: Option<u64>,
    pub(crate) parts: BoxStream<'static, cloakroom::Result<Bytes>>,
}

impl Answer for Page {
    fn answer(self, _: &HttpRequest) -> HttpResponse {
        match self.length {
            Some(length) => HttpResponse::Ok().body(SizedStream::new(length, self.parts)),
            None => HttpResponse::Ok().streaming(self.parts),
        }
    }
}

/// A commit error's answer.
pub(crate) fn plain_answer(status: u16, body: String) -> HttpResponse {
    HttpResponse::with_body(actix_web::http::StatusCode::from_u16(status).unwrap(), body).map_into_boxed_body()
}

/// An application that answers requests, on a thread of its own as actix-web's workers are.
#[derive(Clone)]
pub(crate) struct App {
    router: Router,
    middleware: SessionMiddleware,
    layered: bool,
    worker: mpsc::UnboundedSender<Asked>,
}

/// A body in parts, which breaks off at the first that is an error.
type Parts = Vec<Result<Bytes, &'static str>>;

struct Asked {
    request: Request<Parts>,
    /// Whether the client goes away after the first part.
    leaves: bool,
    reply: oneshot::Sender<Reply>,
    /// Where the asking test listens to logs.
    log: tracing::Dispatch,
}

impl From<Router> for App {
    fn from(router: Router) -> Self {
        let sessions = Sessions::builder(Arc::new(MemoryStore::new().unwrap())).without_upkeep().build().unwrap();
        Self::start(router, sessions.middleware(), false)
    }
}

impl App {
    fn start(router: Router, middleware: SessionMiddleware, layered: bool) -> Self {
        let (worker, mut asked) = mpsc::unbounded_channel::<Asked>();
        let app = Self { router: router.clone(), middleware: middleware.clone(), layered, worker };
        thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = actix_web::App::new()
                    .wrap(Condition::new(router.csrf.is_some(), router.csrf.clone().unwrap_or_default()))
                    .wrap(Condition::new(layered, middleware))
                    .configure(|config| router.configure(config));
                let service = Rc::new(init_service(app).await);
                let mut listening = None;
                while let Some(Asked { request, leaves, mut reply, log }) = asked.recv().await {
                    // What was there before comes back with the drop, so that must be first.
                    drop(listening.take());
                    listening = Some(tracing::dispatcher::set_default(&log));
                    let (head, body) = request.into_parts();
                    let mut request = test_request(&head).to_request();
                    *request.payload() = payload(body);
                    let service = Rc::clone(&service);
                    let answering = async move {
                        tokio::select! {
                            // A client that goes away takes its request with it.
                            () = reply.closed() => {}
                            answer = answer(service.call(request), leaves) => drop(reply.send(answer)),
                        }
                    };
                    actix_web::rt::spawn(answering);
                }
            });
        });
        app
    }

    async fn ask(&self, request: Request<Parts>, leaves: bool) -> Reply {
        let (reply, answered) = oneshot::channel();
        let log = tracing::dispatcher::get_default(Clone::clone);
        self.worker.send(Asked { request, leaves, reply, log }).unwrap_or_else(|_| panic!("the worker runs"));
        answered.await.expect("the handler answers")
    }
}

/// As actix-web's server does it: an error is made a response at last.
async fn answer<B: MessageBody + 'static>(
    response: impl Future<Output = Result<ServiceResponse<B>, actix_web::Error>>,
    leaves: bool,
) -> Reply {
    let (head, body) = match response.await {
        Ok(response) => {
            let (head, body) = response.into_parts().1.into_parts();
            (head, EitherBody::left(body))
        }
        Err(error) => {
            let (head, body) = HttpResponse::from_error(error).into_parts();
            (head, EitherBody::right(body))
        }
    };
    let mut headers = http::HeaderMap::new();
    for (name, value) in head.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let mut body = Box::pin(body);
    let mut text = Vec::new();
    while let Some(part) = poll_fn(|context| body.as_mut().poll_next(context)).await {
        text.extend(part.unwrap());
        if leaves {
            break;
        }
    }
    drop(body);
    if leaves {
        // What a dropped body changed is stored by a task of this thread.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    let status = StatusCode::from_u16(head.status().as_u16()).unwrap();
    Reply { status, headers, body: String::from_utf8(text).unwrap() }
}

/// A request's head of the crate `http`'s as one of actix-web's.
fn test_request(head: &http::request::Parts) -> TestRequest {
    let mut test = TestRequest::default()
        .method(Method::from_bytes(head.method.as_str().as_bytes()).unwrap())
        .uri(&head.uri.to_string());
    if let Some(peer) = head.extensions.get::<SocketAddr>() {
        test = test.peer_addr(*peer);
    }
    for (name, value) in &head.headers {
        test = test.append_header((name.as_str(), value.as_bytes()));
    }
    test
}

fn payload(parts: Parts) -> Payload {
    let parts = stream::iter(parts).map_err(|problem| PayloadError::Io(io::Error::other(problem)));
    Payload::Stream { payload: parts.boxed_local() }
}

/// Says where a request comes from.
pub(crate) fn connected_from(request: &mut Request<Bytes>, peer: SocketAddr) {
    request.extensions_mut().insert(peer);
}

pub(crate) async fn send(app: &App, request: Request<Bytes>) -> Reply {
    app.ask(request.map(|body| vec![Ok(body)]), false).await
}

/// Sends a body in parts, and breaks off at the first that is an error.
pub(crate) async fn send_parts(app: &App, request: Request<Parts>) -> Reply {
    app.ask(request, false).await
}

/// Takes a response's first part and goes away.
pub(crate) async fn send_and_leave(app: &App, request: Request<Bytes>) {
    app.ask(request.map(|body| vec![Ok(body)]), true).await;
}

/// A real server with several workers, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    handle: ServerHandle,
}

pub(crate) async fn serve(app: App) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (started, starting) = oneshot::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let App { router, middleware, layered, .. } = app;
            let server = HttpServer::new(move || {
                actix_web::App::new()
                    .wrap(Condition::new(router.csrf.is_some(), router.csrf.clone().unwrap_or_default()))
                    .wrap(Condition::new(layered, middleware.clone()))
                    .configure(|config| router.configure(config))
            });
            let server = server.workers(4).disable_signals().listen(listener).unwrap().run();
            started.send(server.handle()).unwrap_or_else(|_| panic!("the test waits for it"));
            server.await.unwrap();
        });
    });
    Server { address, handle: starting.await.unwrap() }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}
