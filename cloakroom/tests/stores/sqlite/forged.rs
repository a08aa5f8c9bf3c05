//! What somebody does who edits the file.

use std::sync::Arc;

use cloakroom::{Found, Sessions, SignIn, Token};

use super::Place;

async fn sessions(place: &Place, key: Option<[u8; 32]>) -> Sessions {
    let builder = Sessions::builder(Arc::new(place.open().await)).without_upkeep();
    let builder = match key {
        Some(key) => builder.record_mac_key(key),
        None => builder,
    };
    builder.build().unwrap()
}

async fn user(sessions: &Sessions, token: &Token) -> Option<String> {
    match sessions.resume(token).await.unwrap() {
        Found::Live(record) => record.info.user.as_deref().map(Into::into),
        _ => None,
    }
}

/// Two people sign in; then `edit` happens to the file, with the ids of both, while nobody has it open.
async fn after(key: Option<[u8; 32]>, edit: &str) -> (Option<String>, Option<String>) {
    let place = Place::new();
    let service = sessions(&place, key).await;
    let anna = service.start(SignIn::new("anna")).await.unwrap().token;
    let mallory = service.start(SignIn::new("mallory")).await.unwrap().token;
    service.shutdown().await;
    drop(service);

    let ids = [anna.id(), mallory.id()].map(|id| id.as_bytes().to_vec());
    assert!(place.sqlite().execute(edit, ids).unwrap() > 0, "{edit}");
    let service = sessions(&place, key).await;
    (user(&service, &anna).await, user(&service, &mallory).await)
}

const KEY: Option<[u8; 32]> = Some([7; 32]);

#[tokio::test]
async fn t10_a_row_with_another_user_is_refused() {
    let edit = "UPDATE slot SET head = json_set(head, '$.user', (SELECT head ->> 'user' FROM slot WHERE id = ?1)) WHERE id = ?2";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), None));
    assert_eq!(after(None, edit).await, (Some("anna".into()), Some("anna".into())), "without the key it is believed");
}

#[tokio::test]
async fn t10_a_later_end_is_refused() {
    let edit = "UPDATE slot SET head = json_set(head, '$.ends', (head ->> 'ends') + 1) WHERE id = ?2 AND id <> ?1";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), None));
}

#[tokio::test]
async fn t10_a_seal_or_a_secret_from_another_row_is_refused() {
    let edit = "UPDATE slot SET data = (SELECT data FROM slot WHERE id = ?1) WHERE id = ?2";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), None));
    let edit = "UPDATE slot SET head = json_set(head, '$.secret', (SELECT head ->> 'secret' FROM slot WHERE id = ?1)) WHERE id = ?2";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), None));
}

#[tokio::test]
async fn t10_what_was_not_edited_is_believed() {
    let edit = "UPDATE slot SET head = json_set(head, '$.name', 'A') WHERE id IN (?1, ?2)";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), Some("mallory".into())));
}
