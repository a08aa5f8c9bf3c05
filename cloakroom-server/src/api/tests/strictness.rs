//! S2: what a route does not know is refused, before anything changes.

use axum::body::Body;
use http::{HeaderValue, Method, Request, header};
use serde_json::{Value, json};

use super::{Answer, Api, ROUTES, Route, block_on};

/// A route, a state of its own, and a request that does something.
struct Case {
    api: Api,
    route: &'static Route,
    path: String,
    body: Option<Value>,
}

impl Case {
    /// Sends what must be refused, and looks whether anything is different afterwards.
    async fn refused(&self, request: Request<Body>) -> Answer {
        let before = self.api.state().await;
        let answer = self.api.send(request).await;
        assert_eq!(self.api.state().await, before, "{:?} changed something: {}", self.route, answer.text);
        answer
    }

    fn request(&self, path: &str, body: Option<&Value>) -> Request<Body> {
        self.api.request(&self.route.method, path, body.map(ToString::to_string))
    }

    fn with_header(&self, name: header::HeaderName, value: &'static str) -> Request<Body> {
        let mut request = self.request(&self.path, self.body.as_ref());
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    }
}

/// Each route, again in a fresh state.
fn each(test: &impl AsyncFn(&Case)) {
    block_on(async {
        for route in ROUTES {
            let api = Api::new().await;
            let (path, body) = api.sample(route);
            test(&Case { api, route, path, body }).await;
        }
    });
}

fn takes_a_body(route: &Route) -> bool {
    ![Method::GET, Method::DELETE].contains(&route.method)
}

#[test]
fn s2_every_route_refuses_a_parameter_that_it_does_not_know() {
    each(&async |case: &Case| {
        for query in ["zz=1", "dry_run=true", "zz"] {
            let request = case.request(&format!("{}?{query}", case.path), case.body.as_ref());
            let refused = case.refused(request).await.expect(422, "invalid_parameter", case.route.path);
            assert_eq!(refused.json()["parameter"], query.split('=').next().unwrap());
        }
    });
}

#[test]
fn s2_every_route_refuses_a_list_in_place_of_an_object() {
    each(&async |case: &Case| {
        let by_position: Vec<_> =
            case.body.iter().flat_map(|body| body.as_object().unwrap().values()).cloned().collect();
        let code = if takes_a_body(case.route) { "invalid_field" } else { "unexpected_body" };
        for body in [json!([]), json!(by_position), json!(null), json!(1), json!("text")] {
            case.refused(case.request(&case.path, Some(&body))).await.expect(422, code, case.route.path);
        }
        for (field, value) in case.body.iter().flat_map(|body| body.as_object().unwrap()) {
            let Some(inner) = value.as_object() else { continue };
            let mut body = case.body.clone().unwrap();
            body[field] = inner.values().cloned().collect();
            let refused = case.refused(case.request(&case.path, Some(&body))).await;
            assert_eq!(refused.expect(422, "invalid_field", case.route.path).json()["field"], *field);
        }
    });
}

#[test]
fn s2_calls_without_a_body_refuse_one() {
    each(&async |case: &Case| {
        if !takes_a_body(case.route) {
            for body in [json!({}), json!({"reason": "signed_out"})] {
                let request = case.request(&case.path, Some(&body));
                case.refused(request).await.expect(422, "unexpected_body", case.route.path);
            }
        }
    });
}

#[test]
fn s2_every_route_refuses_a_field_that_it_does_not_know() {
    each(&async |case: &Case| {
        let Some(sample) = &case.body else { return };
        let mut body = sample.clone();
        body["zz"] = 1.into();
        let refused = case.refused(case.request(&case.path, Some(&body))).await;
        assert_eq!(refused.expect(422, "unknown_field", case.route.path).json()["field"], "zz");
        for field in sample.as_object().unwrap().keys().filter(|field| ["limit", "client"].contains(&field.as_str())) {
            let mut body = sample.clone();
            body[field]["zz"] = 1.into();
            let refused = case.refused(case.request(&case.path, Some(&body))).await;
            let refused = refused.expect(422, "unknown_field", case.route.path).json();
            assert_eq!(refused["field"], format!("{field}.zz"));
        }
    });
}

#[test]
fn s2_null_is_refused_by_name_wherever_it_does_not_empty_a_field() {
    each(&async |case: &Case| {
        for field in case.body.iter().flat_map(|body| body.as_object().unwrap().keys()) {
            if (case.route.path, field.as_str()) == ("/v1/users/{user}", "session_limit") {
                continue;
            }
            let mut body = case.body.clone().unwrap();
            body[field] = Value::Null;
            let refused = case.refused(case.request(&case.path, Some(&body))).await;
            assert_eq!(refused.expect(422, "invalid_field", case.route.path).json()["field"], *field);
        }
    });
}

#[test]
fn s2_every_route_refuses_what_is_not_plain_json_in_utf_8() {
    each(&async |case: &Case| {
        for encoding in ["gzip", "br", "identity, gzip", ""] {
            let request = case.with_header(header::CONTENT_ENCODING, encoding);
            case.refused(request).await.expect(415, "unsupported_media_type", case.route.path);
        }
        if takes_a_body(case.route) {
            for content_type in [
                "text/plain",
                "application/x-www-form-urlencoded",
                "application/jsonp",
                "application/json; charset=iso-8859-1",
                "application/json; charset=utf-16",
                "application/json; zz=1",
                "",
            ] {
                let request = case.with_header(header::CONTENT_TYPE, content_type);
                case.refused(request).await.expect(415, "unsupported_media_type", content_type);
            }
            let mut twice = case.request(&case.path, case.body.as_ref());
            twice.headers_mut().append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            case.refused(twice).await.expect(415, "unsupported_media_type", "twice");
        }
    });
    each(&async |case: &Case| {
        let plain = case.with_header(header::CONTENT_TYPE, "Application/JSON; Charset=\"UTF-8\"");
        assert_ne!(case.api.send(plain).await.status, 415);
    });
}

#[test]
fn s2_the_examples_that_once_worked_are_refused() {
    block_on(async {
        let api = Api::new().await;
        let before = api.state().await;
        let session = format!("/v1/sessions/{}", api.id);
        for (method, path, body, field) in [
            (Method::PATCH, &*session, r#"[{"y":1},["a"],{"n":5},null]"#, None),
            (Method::POST, "/v1/sessions", r#"{"user":"x","limit":[1,"refuse"]}"#, Some("limit")),
            (Method::POST, "/v1/sessions", r#"{"user":"x","client":["192.0.2.1",null,null,null]}"#, Some("client")),
            (Method::PATCH, "/v1/users/anna", r#"{"enabled":null}"#, Some("enabled")),
            (Method::POST, "/v1/sessions", r#"{"idle_seconds":0}"#, Some("idle_seconds")),
            (Method::POST, "/v1/sessions", r#"{"user":"x","limit":{"max":0}}"#, Some("limit.max")),
        ] {
            let refused = api.send(api.request(&method, path, Some(body.into()))).await;
            let refused = refused.expect(422, "invalid_field", body).json();
            assert_eq!(refused.get("field").and_then(Value::as_str), field, "{refused}");
            let detail = refused["detail"].as_str().unwrap();
            assert!(field.is_none_or(|field| detail.starts_with(&format!("{field}: "))), "{detail}");
        }
        assert_eq!(api.state().await, before);
    });
}

#[test]
fn null_empties_what_can_be_empty() {
    block_on(async {
        let api = Api::new().await;
        let full = json!({"full_name": "Anna", "user_type": "staff", "session_limit": 2, "when_full": "refuse",
                          "allowed_networks": ["10.0.0.0/8"]});
        api.call(&Method::PATCH, "/v1/users/anna", Some(&full)).await;
        for (field, value) in full.as_object().unwrap() {
            let user = api.call(&Method::GET, "/v1/users/anna", None).await.json();
            assert_eq!(user["user"][field], *value, "what is left out stays");
            let answer = api.call(&Method::PATCH, "/v1/users/anna", Some(&json!({ field: null }))).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let emptied = if field == "allowed_networks" { json!([]) } else { Value::Null };
            assert_eq!(answer.json()["user"][field], emptied, "{field}");
        }
    });
}
