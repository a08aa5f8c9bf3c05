//! A session server for tests: real HTTP on a port of its own, a real database in a directory that goes with it.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod binary;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use cloakroom::{Clock, Sessions, Timestamp, clock::SystemClock, store};
use cloakroom_server::{ApiKey, ApiKeys, Bounds, Scope, Server, keys};
use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Time that a test moves.
#[derive(Clone, Debug)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct TestServer {
    pub(crate) address: String,
    pub(crate) read: String,
    pub(crate) write: String,
    pub(crate) admin: String,
    pub(crate) clock: TestClock,
    agent: ureq::Agent,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        Self::with(|server| server)
    }

    pub(crate) fn with_bounds(bounds: Bounds) -> Self {
        Self::with(move |server| server.bounds(bounds))
    }

    pub(crate) fn with(configure: impl FnOnce(Server) -> Server + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [read, write, admin] = std::array::from_fn(|_| keys::generate().unwrap());
        let api_keys = ApiKeys::new(vec![
            ApiKey::new("reader", Scope::Read, &read).unwrap(),
            ApiKey::new("writer", Scope::Write, &write).unwrap(),
            ApiKey::new("root", Scope::Admin, &admin).unwrap(),
        ]);
        let clock = TestClock(Arc::new(AtomicI64::new(SystemClock.now().as_millis())));
        let url = format!("sqlite:{}", database_in(directory.path()).display());
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = std::sync::mpsc::channel();
        let server_clock = clock.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let store = store::open(&url).await.unwrap();
                let sessions =
                    Sessions::builder(store).stored_users().clock(server_clock).without_upkeep().build().unwrap();
                let listener = cloakroom_server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
                ready.send(listener.local_addr().unwrap().to_string()).unwrap();
                let server = configure(Server::new(sessions, api_keys));
                cloakroom_server::run(listener, server, async { stopped.await.unwrap_or_default() }).await;
            });
        });
        Self {
            address: address.recv().unwrap(),
            read,
            write,
            admin,
            clock,
            agent: agent(),
            directory,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        database_in(self.directory.path())
    }

    /// Stops the server in peace, as a signal does. The database stays until this is dropped.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }

    pub(crate) fn call(&self, key: &str, method: Method, path: &str, body: &str) -> Answer {
        send(&self.agent, &format!("http://{}{path}", self.address), Some(key), method, body)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.call(&self.admin, Method::GET, path, "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.call(&self.admin, Method::POST, path, body)
    }

    pub(crate) fn patch(&self, id: &str, body: &str) -> Answer {
        self.call(&self.admin, Method::PATCH, &format!("/v1/sessions/{id}"), body)
    }

    pub(crate) fn end(&self, id: &str) -> Answer {
        self.call(&self.admin, Method::DELETE, &format!("/v1/sessions/{id}"), "")
    }

    /// Starts a session: its token and its id.
    pub(crate) fn start_session(&self, body: &str) -> (String, String) {
        let answer = self.post("/v1/sessions", body).expect(201);
        (answer.text_of("/token"), answer.text_of("/session/id"))
    }

    pub(crate) fn resume(&self, token: &str) -> Answer {
        self.post("/v1/sessions/resume", &serde_json::json!({ "token": token }).to_string())
    }

    /// A call that may be repeated under this key.
    pub(crate) fn repeatable(&self, idempotency_key: &str, method: Method, path: &str, body: &str) -> Answer {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("authorization", format!("Bearer {}", self.admin))
            .header("idempotency-key", idempotency_key)
            .header("content-type", "application/json");
        Answer::of(self.agent.run(request.body(body.to_owned()).unwrap()).unwrap())
    }

    /// A request with these headers alone.
    pub(crate) fn plain(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = http::Request::get(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(self.agent.run(request.body(()).unwrap()).unwrap())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends bytes as they are, and reads until the server closes.
pub(crate) fn raw(server: &TestServer, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn database_in(directory: &Path) -> PathBuf {
    directory.join("test.db")
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

pub(crate) fn send(agent: &ureq::Agent, url: &str, key: Option<&str>, method: Method, body: &str) -> Answer {
    try_send(agent, url, key, method, body).unwrap()
}

/// An error is a connection that broke.
pub(crate) fn try_send(
    agent: &ureq::Agent,
    url: &str,
    key: Option<&str>,
    method: Method,
    body: &str,
) -> Result<Answer, ureq::Error> {
    let mut request = http::Request::builder().method(method).uri(url);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let response = if body.is_empty() {
        agent.run(request.body(()).unwrap())?
    } else {
        agent.run(request.header("content-type", "application/json").body(body.to_owned()).unwrap())?
    };
    Answer::try_of(response)
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn of(response: http::Response<ureq::Body>) -> Self {
        Self::try_of(response).unwrap()
    }

    fn try_of(mut response: http::Response<ureq::Body>) -> Result<Self, ureq::Error> {
        let text = response.body_mut().read_to_string()?;
        Ok(Self { status: response.status().as_u16(), headers: response.headers().clone(), text })
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A refusal with this code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.at("/code"), code, "{}", answer.text);
        assert_eq!(answer.at("/status"), status);
        answer
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn at(&self, pointer: &str) -> Value {
        self.json().pointer(pointer).cloned().unwrap_or_else(|| panic!("no {pointer}: {}", self.text))
    }

    pub(crate) fn text_of(&self, pointer: &str) -> String {
        self.at(pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text: {}", self.text)).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("(none)", |value| value.to_str().unwrap())
    }
}
