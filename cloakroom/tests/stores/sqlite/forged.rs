//! What somebody does who edits the file.

use std::sync::Arc;

use cloakroom::{Found, Sessions, SignIn, Token};

use super::Place;

async fn sessions(place: &Place, key: Option<[u8; 32]>) -> Sessions {
    let builder = Sessions::builder(Arc::clone(place.open().await.store())).without_upkeep();
    let builder = match key {
        Some(key) => builder.record_mac_keys([key]),
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

/// The head of a sealed row is a MAC, a dot, and JSON.
fn in_head(set: &str, value: &str) -> String {
    let json = "instr(head, '{')";
    format!(
        "UPDATE slot SET head = CASE WHEN head LIKE 'm1.%' THEN substr(head, 1, {json} - 1) ELSE '' END || \
         json_set(substr(head, {json}), '$.{set}', {value}) WHERE id = ?2 AND id <> ?1"
    )
}

/// A field of the other's head.
fn of_the_other(field: &str) -> String {
    format!("(SELECT substr(head, instr(head, '{{')) ->> '{field}' FROM slot WHERE id = ?1)")
}

#[tokio::test]
async fn t10_a_row_with_another_user_is_refused() {
    let edit = in_head("user", &of_the_other("user"));
    assert_eq!(after(KEY, &edit).await, (Some("anna".into()), None));
    assert_eq!(after(None, &edit).await, (Some("anna".into()), Some("anna".into())), "without the key it is believed");
}

#[tokio::test]
async fn t10_a_later_end_is_refused() {
    let later = "(substr(head, instr(head, '{')) ->> 'ends') + 1";
    assert_eq!(after(KEY, &in_head("ends", later)).await, (Some("anna".into()), None));
}

#[tokio::test]
async fn t10_a_head_or_a_secret_from_another_row_is_refused() {
    let edit = "UPDATE slot SET head = (SELECT head FROM slot WHERE id = ?1) WHERE id = ?2";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), None));
    assert_eq!(after(KEY, &in_head("secret", &of_the_other("secret"))).await, (Some("anna".into()), None));
}

#[tokio::test]
async fn t10_a_row_that_its_columns_put_into_another_list_is_refused() {
    let edit = "UPDATE slot SET user_id = (SELECT user_id FROM slot WHERE id = ?1) WHERE id = ?2";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), None));
}

#[tokio::test]
async fn t10_what_was_not_edited_is_believed() {
    let edit = "UPDATE slot SET seen = seen + 1 WHERE id IN (?1, ?2)";
    assert_eq!(after(KEY, edit).await, (Some("anna".into()), Some("mallory".into())));
}
