//! Secrets are nowhere but with those who hold them.

use std::fs;

use crate::common::binary::Directory;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use http::Method;
use serde_json::json;

/// Every spelling in which a secret could lie around.
fn spellings(token: &str) -> Vec<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let secret = &bytes[18..];
    let hex = secret.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let texts = [
        token.to_owned(),
        token[24..].to_owned(),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        STANDARD.encode(&bytes),
        hex.to_uppercase(),
        hex,
    ];
    texts.into_iter().map(String::into_bytes).chain([secret.to_vec()]).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn t7_i7_no_secret_is_in_the_database_the_logs_or_the_audit_log() {
    for format in ["text", "json"] {
        let directory = Directory::new();
        let server = directory.serve(&["--log", "trace", "--log-format", format]);
        let post = |path: &str, body: serde_json::Value| server.call(Method::POST, path, &body.to_string());

        let started = post("/v1/sessions", json!({"user": "anna", "data": {"cart": [1]}})).expect(201);
        let (first, id) = (started.text_of("/token"), started.text_of("/session/id"));
        let second = post("/v1/sessions/rotate", json!({"token": first})).expect(200).text_of("/token");
        let third = post("/v1/sessions", json!({"user": "anna", "replaces": second})).expect(201).text_of("/token");
        for token in [&first, &second, &third] {
            post("/v1/sessions/resume", json!({"token": token}));
            // Where it does not belong, it must not be repeated either.
            server.call(Method::GET, &format!("/v1/sessions/{token}"), "").expect(404);
            server.call(Method::GET, &format!("/{token}"), "").expect(404);
            server.call(Method::GET, &format!("/v1/sessions?{token}=1"), "").expect(422);
            post("/v1/sessions/resume", json!({"touch": token})).expect(422);
            post("/v1/sessions/resume", json!({ token.as_str(): 1 })).expect(422);
        }
        let wrong = format!("{}{}", &third[..24], &first[24..]);
        post("/v1/sessions/resume", json!({ "token": wrong })).expect(404);
        let shown = [
            server.call(Method::GET, &format!("/v1/sessions/{id}"), "").text,
            server.call(Method::GET, "/v1/sessions", "").text,
            server.call(Method::GET, "/v1/audit", "").text,
        ]
        .concat();
        let key = server.key().to_owned();

        // While it runs, so that what only the write-ahead log holds is seen, and after it has ended.
        let read_all = || -> Vec<(String, Vec<u8>)> {
            let files = directory.files().into_iter().filter(|file| !file.ends_with("cloakroom.key"));
            files.map(|file| (file.display().to_string(), fs::read(&file).unwrap())).collect()
        };
        let mut places = read_all();
        assert_eq!(server.terminate(), Some(0));
        places.extend(read_all());
        places.push(("answers".into(), shown.into_bytes()));

        let log = directory.log();
        assert!(log.contains("session started") && log.contains("/v1/sessions/resume"), "the log is there: {log}");
        assert!(places.iter().any(|(_, bytes)| contains(bytes, b"anna")), "the database is there");
        for (place, bytes) in &places {
            for token in [&first, &second, &third] {
                for spelling in spellings(token) {
                    let shown = String::from_utf8_lossy(&spelling);
                    assert!(!contains(bytes, &spelling), "{place} holds {shown}");
                }
            }
            assert!(
                !contains(bytes, key.as_bytes()) && !contains(bytes, &key.as_bytes()[3..]),
                "{place} holds the key"
            );
        }
    }
}

#[test]
fn t7_the_test_would_find_a_secret() {
    let token = URL_SAFE_NO_PAD.encode([7; 50]);
    for spelling in spellings(&token) {
        let place = [b"before ".as_slice(), &spelling, b" after"].concat();
        assert!(spellings(&token).iter().any(|spelling| contains(&place, spelling)));
    }
    assert!(!contains(b"nothing here", token.as_bytes()));
}
