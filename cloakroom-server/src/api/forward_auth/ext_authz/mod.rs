//! The decisions of forward authentication over gRPC, as Envoy's filter `ext_authz` asks for them:
//! `envoy.service.auth.v3.Authorization/Check`.
//!
//! The policy is `policy` among the context extensions, which stand in the proxy's configuration. What cannot be answered is
//! an error, which Envoy takes for a refusal unless it is told to fail open.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::net::TcpStream;
use tonic::{Code, Status, body::Body, server::UnaryService};
use tonic_prost::ProstCodec;

use super::{super::request_log, App, Decision, Visitor, decision, identity};
use crate::{policy::Policies, server::Peer};

mod messages;

use messages::{
    AppendAction, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption,
    HttpRequest, HttpResponse, HttpStatus, OkHttpResponse,
};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Which of the context extensions is the policy's name.
const POLICY: &str = "policy";

/// How often a proxy that says nothing is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Serves a connection of a proxy to its end.
pub(crate) fn serve(
    stream: TcpStream,
    peer: Peer,
    app: &App,
    connections: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    stream.set_nodelay(true).unwrap_or_default();
    let app = app.clone();
    let service = service_fn(move |request| {
        let check = Check { app: app.clone(), peer };
        async move { Ok::<_, Infallible>(check.answer(request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, client = %peer.0, "a connection of gRPC broke");
        }
    }
}

#[derive(Clone)]
struct Check {
    app: App,
    peer: Peer,
}

impl Check {
    async fn answer(self, request: http::Request<Incoming>) -> http::Response<Body> {
        if request.uri().path() != PATH || request.method() != Method::POST {
            return Status::unimplemented(format!("this server has {PATH} alone")).into_http();
        }
        tonic::server::Grpc::new(ProstCodec::default()).unary(self, request).await
    }

    async fn check(self, request: CheckRequest) -> CheckResponse {
        let started = Instant::now();
        let attributes = request.attributes.unwrap_or_default();
        let headers = attributes.request.as_ref().and_then(|request| request.http.as_ref()).map(headers);
        let headers = headers.unwrap_or_default();
        let decision = if let Some(policy) = policy_of(&attributes) {
            decision::decide(&self.app, policy, &Visitor { peer: Some(self.peer), headers: &headers }).await
        } else {
            self.app.forward_auth.said.no_policy_extension(&self.app);
            Decision::refused(decision::no_such_policy())
        };
        request_log::log_check(&self.app, super::ROUTE, decision.status(), started.elapsed());
        respond(decision, &headers)
    }
}

impl UnaryService<CheckRequest> for Check {
    type Response = CheckResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<CheckResponse>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let check = self.clone();
        Box::pin(async move { Ok(tonic::Response::new(check.check(request.into_inner()).await)) })
    }
}

/// The name of the policy that the proxy's configuration asks for. `None` where it has context extensions, and no policy among
/// them: a slip of the pen must not ask for less.
fn policy_of(attributes: &AttributeContext) -> Option<&str> {
    if attributes.context_extensions.is_empty() {
        return Some(Policies::DEFAULT);
    }
    attributes.context_extensions.get(POLICY).map(String::as_str)
}

/// The visitor's headers. Those that cannot be are left out.
fn headers(request: &HttpRequest) -> HeaderMap {
    let raw = request.header_map.iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        (&header.key, value)
    });
    let plain = request.headers.iter().map(|(name, value)| (name, value.as_bytes()));
    let mut headers = HeaderMap::new();
    for (name, value) in plain.chain(raw) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), http::HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn respond(decision: Decision, sent: &HeaderMap) -> CheckResponse {
    let identity = identity::headers(decision.session(), decision.ended(), decision.assertion());
    // Envoy leaves out headers with an empty value: what a client made up would stay.
    let (said, unsaid): (Vec<_>, Vec<_>) = identity.into_iter().partition(|(_, value)| !value.is_empty());
    let said = said.into_iter().map(|(name, value)| overwrite(name, &value));
    let (code, message, http_response) = match decision.verdict {
        Ok(()) => {
            let headers_to_remove = unsaid.into_iter().map(|(name, _)| name.to_owned()).chain(misspelt(sent)).collect();
            let ok = OkHttpResponse { headers: said.collect(), headers_to_remove };
            (Code::Ok, String::new(), HttpResponse::Ok(ok))
        }
        Err(problem) => {
            let status = problem.status();
            let code = match status {
                StatusCode::UNAUTHORIZED => Code::Unauthenticated,
                StatusCode::FORBIDDEN => Code::PermissionDenied,
                _ => Code::Unavailable,
            };
            let body = serde_json::to_string(&problem).unwrap_or_default();
            let mut headers: Vec<_> = said.collect();
            headers.push(overwrite(CONTENT_TYPE.as_str(), "application/problem+json"));
            headers.push(overwrite(CACHE_CONTROL.as_str(), "no-store"));
            if status == StatusCode::SERVICE_UNAVAILABLE {
                headers.push(overwrite(RETRY_AFTER.as_str(), "1"));
            }
            let status = Some(HttpStatus { code: i32::from(status.as_u16()) });
            (code, problem.detail().to_owned(), HttpResponse::Denied(DeniedHttpResponse { status, headers, body }))
        }
    };
    let status = Some(messages::Status { code: code.into(), message });
    CheckResponse { status, http_response: Some(http_response) }
}

fn overwrite(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append_action: AppendAction::OverwriteIfExistsOrAdd.into() }
}

/// What the client sent that an application may take for one of ours: `X_User` is `X-User` for many.
fn misspelt(sent: &HeaderMap) -> impl Iterator<Item = String> {
    let names = sent.keys().map(HeaderName::as_str).filter(|name| name.contains('_'));
    names.filter(|name| identity::HEADERS.contains(&&*name.replace('_', "-"))).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(context_extensions: &[(&str, &str)]) -> AttributeContext {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        AttributeContext { request: None, context_extensions: context_extensions.iter().map(owned).collect() }
    }

    #[test]
    fn s1_a_policy_comes_from_the_context_extensions_alone() {
        assert_eq!(policy_of(&request(&[])), Some("default"));
        assert_eq!(policy_of(&request(&[("policy", "staff"), ("x", "y")])), Some("staff"));
        assert_eq!(policy_of(&request(&[("polcy", "staff")])), None);
    }

    #[test]
    fn headers_come_in_either_form() {
        let (key, value) = ("cookie".to_owned(), "a=1".to_owned());
        let plain = HttpRequest {
            headers: [(key.clone(), value.clone()), (":path".into(), "/".into())].into(),
            header_map: None,
        };
        assert_eq!(headers(&plain).get_all("cookie").iter().collect::<Vec<_>>(), ["a=1"]);
        let raw =
            |raw_value: &[u8]| HeaderValue { key: key.clone(), value: String::new(), raw_value: raw_value.into() };
        let header_map = messages::HeaderMap { headers: vec![raw(b"a=1"), raw(b"b=\xff")] };
        let both = headers(&HttpRequest { headers: [].into(), header_map: Some(header_map) });
        assert_eq!(
            both.get_all("cookie").iter().map(http::HeaderValue::as_bytes).collect::<Vec<_>>(),
            [&b"a=1"[..], b"b=\xff"]
        );
    }

    #[test]
    fn s1_what_a_client_misspelt_is_removed() {
        let mut sent = HeaderMap::new();
        for name in ["x_user", "x-impersonated_by", "x_session_assertion", "x-user", "x_other"] {
            sent.insert(HeaderName::from_static(name), http::HeaderValue::from_static("root"));
        }
        let mut found: Vec<_> = misspelt(&sent).collect();
        found.sort();
        assert_eq!(found, ["x-impersonated_by", "x_session_assertion", "x_user"]);
    }
}
