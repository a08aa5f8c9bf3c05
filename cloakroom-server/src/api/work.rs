//! Carrying calls out. What changes something belongs to the server and goes on to its end, whether or not the caller stays;
//! a shutdown waits for it.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::request::Parts;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App,
    operation::{Attempt, Begun},
    problem::{Code, Problem},
    routes::{Effect, Route},
};
use crate::keys::Caller;

/// Tasks that outlive the calls that began them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    tasks: TaskTracker,
    cut_off: CancellationToken,
}

impl Work {
    pub(super) fn start(&self, work: impl Future<Output = Response> + Send + 'static) -> JoinHandle<Response> {
        let cut_off = self.cut_off.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                response = work => response,
                () = cut_off.cancelled() => {
                    let detail = "The server shut down before this was done. Repeat it: what was done stays done.";
                    Problem::new(Code::ShuttingDown, detail).into_response()
                }
            }
        })
    }

    /// Waits until all of it is done.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends what is not done, between two of its steps.
    pub(crate) async fn cut_off(&self) {
        self.cut_off.cancel();
        self.finish().await;
    }
}

/// A request that was admitted.
pub(super) struct Request {
    pub(super) route: &'static Route,
    pub(super) caller: Option<Caller>,
    pub(super) parts: Parts,
    pub(super) body: Bytes,
}

pub(super) async fn carry_out(app: &App, request: Request, next: Next) -> Response {
    let Request { route, caller, mut parts, body } = request;
    let (Some(caller), Effect::MayChange | Effect::Changes | Effect::Ends) = (caller, route.effect) else {
        return next.run(http::Request::from_parts(parts, Body::from(body))).await;
    };
    let attempt = match Attempt::of(&caller, &parts, &body) {
        Ok(attempt) => attempt,
        Err(problem) => return problem.into_response(),
    };
    if route.effect != Effect::Ends {
        if let Some(attempt) = attempt {
            parts.extensions.insert(attempt);
        }
        if route.effect == Effect::MayChange {
            return next.run(http::Request::from_parts(parts, Body::from(body))).await;
        }
        let response = app.work.start(next.run(http::Request::from_parts(parts, Body::from(body))));
        return joined(response).await;
    }
    let operation = match app.operations.begin(&caller, &parts, attempt.as_ref(), app.sessions.now()) {
        Ok(Begun::Again(operation)) => operation,
        Ok(Begun::New(operation)) => {
            parts.extensions.insert(Arc::clone(&operation));
            let response = app.work.start(next.run(http::Request::from_parts(parts, Body::from(body))));
            let finished = Arc::clone(&operation);
            app.work.tasks.spawn(async move { finished.finish(joined(response).await).await });
            operation
        }
        Err(problem) => return problem.into_response(),
    };
    app.operations.answer(&operation, app.bounds.answer_within, app.sessions.now()).await
}

pub(super) async fn joined(response: JoinHandle<Response>) -> Response {
    response.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request failed");
        Problem::new(Code::Internal, "The server failed; its log says more.").into_response()
    })
}

/// The response of a handler.
pub(super) fn response(answered: Result<Response, Problem>) -> Response {
    answered.unwrap_or_else(IntoResponse::into_response)
}
