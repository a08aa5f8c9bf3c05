//! What is answered where the server or its store cannot work, and whether waiting helps.

use crate::common::TestServer;
use http::Method;
use serde_json::json;

#[test]
fn what_waiting_does_not_help_is_told_without_retry_after() {
    let server = TestServer::start();
    let (token, _) = server.start_session(r#"{"user":"anna"}"#);
    let db = rusqlite::Connection::open(server.database()).unwrap();
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for table in tables {
        db.execute_batch(&format!("ALTER TABLE \"{table}\" RENAME TO \"gone {table}\"")).unwrap();
    }
    let token = json!({ "token": token }).to_string();
    for (method, path, body) in [
        (Method::POST, "/v1/sessions", r#"{"user":"anna"}"#),
        (Method::POST, "/v1/sessions/resume", &*token),
        (Method::POST, "/v1/sessions/rotate", &*token),
        (Method::GET, "/v1/sessions", ""),
        (Method::GET, "/v1/users/anna", ""),
        (Method::PATCH, "/v1/users/anna", "{}"),
        (Method::POST, "/v1/sessions/revoke", r#"{"user":"anna"}"#),
        (Method::POST, "/v1/users/anna/clear-sessions", "{}"),
        (Method::GET, "/v1/audit", ""),
        (Method::POST, "/v1/reap", ""),
    ] {
        let failed = server.call(&server.admin, method, path, body).expect_problem(500, "store_failed");
        assert_eq!(failed.header("retry-after"), "(none)", "{path}");
    }
    let ready = server.plain("/readyz", &[]);
    assert!([200, 503].contains(&ready.status), "{}", ready.text);
}
