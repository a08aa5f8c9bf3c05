//! The OpenAPI document against the server that it describes.

use std::{collections::BTreeSet, process::Command};

use http::Method;
use serde_json::Value;

use crate::common::{Answer, TestServer, agent, send};

fn document(server: &TestServer) -> Value {
    server.plain("/openapi.json", &[]).expect(200).json()
}

/// Method, path and description of every call.
fn calls(document: &Value) -> Vec<(Method, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let calls = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap();
        methods.iter().map(|(method, call)| (method.to_uppercase().parse().unwrap(), path.clone(), call.clone()))
    });
    calls.collect()
}

/// Everything in a document that has this name.
fn all<'a>(document: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match document {
        Value::Object(members) => {
            found.extend(members.get(name));
            members.values().for_each(|member| all(member, name, found));
        }
        Value::Array(items) => items.iter().for_each(|item| all(item, name, found)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole() {
    let server = TestServer::start();
    let document = document(&server);
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = Vec::new();
    all(&document, "$ref", &mut references);
    assert!(references.len() > 100, "{}", references.len());
    for reference in references {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let calls = calls(&document);
    let names: BTreeSet<_> = calls.iter().map(|(_, _, call)| call["operationId"].as_str().unwrap()).collect();
    assert!(calls.len() >= 30 && names.len() == calls.len(), "{names:?}");
    let fields = document["components"]["schemas"].as_object().unwrap().iter().flat_map(|(name, schema)| {
        schema["properties"].as_object().into_iter().flatten().map(move |(field, schema)| (name, field, schema))
    });
    for (schema, field, described) in fields {
        assert!(described["description"].is_string(), "{schema}.{field} is not described");
    }
}

/// Every call of the router × no key, a wrong one, and one of each scope.
#[test]
fn every_call_takes_keys_of_its_scope_and_larger_ones_alone() {
    let server = TestServer::with(|server| {
        server.bounds(cloakroom_server::Bounds { key_attempts: 1000, ..cloakroom_server::Bounds::default() })
    });
    let scopes = ["read", "write", "admin"];
    let keys =
        [None, Some("wrong"), Some(server.read.as_str()), Some(server.write.as_str()), Some(server.admin.as_str())];
    let mut cells = 0;
    for (method, path, call) in calls(&document(&server)) {
        // What never ends is not waited for.
        let follows = path == "/v1/events";
        let path = path.replace("{id}", &"A".repeat(24)).replace("{user}", "nobody");
        let needs = call["x-scope"].as_str().map(|scope| scopes.iter().position(|known| *known == scope).unwrap());
        for (has, key) in keys.into_iter().enumerate() {
            let is_enough = needs.is_none_or(|needs| has >= 2 && has - 2 >= needs);
            if follows && is_enough {
                continue;
            }
            let takes_a_body = call.get("requestBody").is_some();
            let body = if takes_a_body { "{}" } else { "" };
            let answer = send(&agent(), &format!("http://{}{path}", server.address), key, method.clone(), body);
            let about = format!("{method} {path} with {key:?}: {}", answer.text);
            if is_enough {
                assert_ne!(answer.status, 401, "{about}");
                assert!(!answer.text.contains("\"code\":\"scope_missing\""), "{about}");
            } else if has < 2 {
                answer.expect_problem(401, "unauthorized");
            } else {
                assert_eq!(answer.expect_problem(403, "scope_missing").at("/scope"), scopes[needs.unwrap()], "{about}");
            }
            cells += 1;
        }
    }
    assert!(cells >= 30 * 5 - 3, "{cells}");
}

#[test]
fn the_page_shows_every_call_and_asks_nobody_else_for_anything() {
    let server = TestServer::start();
    let page: Answer = server.plain("/docs", &[]).expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; style-src 'sha256-"));
    for outside in ["<script", "<img", "<link", "http:", "https:", "@import", "url("] {
        assert!(!page.text.contains(outside), "{outside}");
    }
    for (method, path, call) in calls(&document(&server)) {
        let id = call["operationId"].as_str().unwrap();
        assert!(
            page.text.contains(&format!("<section id=\"{id}\"><h3><b>{method}</b> {path}</h3>")),
            "{method} {path}"
        );
    }
}

/// Requests that the document allows, and requests that it does not: no failure of the server, and no answer that the document
/// does not tell of.
#[test]
fn schemathesis_finds_no_answer_that_is_not_documented() {
    let Some(modules) = needs::variable("CLOAKROOM_TEST_SCHEMATHESIS") else { return };
    let server = TestServer::start();
    let directory = tempfile::tempdir().unwrap();
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                  response_schema_conformance,negative_data_rejection";
    let done = Command::new("python3")
        .current_dir(directory.path())
        .env("PYTHONPATH", modules)
        .args(["-m", "schemathesis.cli", "run", &format!("http://{}/openapi.json", server.address)])
        .args(["--header", &format!("Authorization: Bearer {}", server.admin), "--checks", checks])
        // It would be waited for without end.
        .args(["--exclude-path", "/v1/events", "--phases", "examples,coverage,fuzzing", "--max-examples", "10"])
        .args(["--seed", "7", "--request-timeout", "30", "--suppress-health-check", "all", "--no-color"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    // All but that one, and the document itself.
    let tested = calls(&document(&server)).len() - 2;
    assert!(said.contains(&format!("Tested: {tested}\n")), "{said}");
}
