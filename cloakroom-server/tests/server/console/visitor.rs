//! A browser without a window: it keeps the console's cookie and follows nothing by itself.

use crate::common::{Answer, TestServer};

pub(super) struct Visitor<'a> {
    server: &'a TestServer,
    pub(super) cookie: Option<String>,
}

impl<'a> Visitor<'a> {
    pub(super) fn new(server: &'a TestServer) -> Self {
        Self { server, cookie: None }
    }

    /// Signed in with this key.
    pub(super) fn signed_in(server: &'a TestServer, key: &str) -> Self {
        let mut visitor = Self::new(server);
        visitor.sign_in(key).expect(303);
        visitor
    }

    pub(super) fn sign_in(&mut self, key: &str) -> Answer {
        self.post("/console/sign-in", &format!("key={key}"))
    }

    pub(super) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[("accept", "text/html")], "")
    }

    /// As a form on one of the console's own pages does.
    pub(super) fn post(&mut self, path: &str, form: &str) -> Answer {
        self.send("POST", path, &[("accept", "text/html"), ("sec-fetch-site", "same-origin")], form)
    }

    pub(super) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let mut request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.server.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent: ureq::Agent = config.build().into();
        let answer = if method == "GET" {
            agent.run(request.body(()).unwrap())
        } else {
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            agent.run(request.body(form.to_owned()).unwrap())
        };
        let answer = Answer::of(answer.unwrap());
        for set in answer.headers.get_all("set-cookie") {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        answer
    }
}
