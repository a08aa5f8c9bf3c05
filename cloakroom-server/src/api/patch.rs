//! Changing a session by its id.

use std::time::Duration;

use axum::response::Response;
use cloakroom::sessions::Deadlines;
use cloakroom_api::{End, Nothing, PatchSession};

use super::{
    call::Call,
    edit::{Edit, given},
    json::{PathId, ok},
    problem::{Code, Problem},
    view,
};

pub(super) async fn patch(
    PathId(id): PathId,
    Call { app, attempt, body: request, .. }: Call<Nothing, PatchSession>,
) -> Result<Response, Problem> {
    let deadlines = Deadlines {
        idle: idle(request.idle_seconds, request.idle_milliseconds)?,
        ends_at: request.ends_at.map(|end| match end {
            End::Never => None,
            End::At(time) => Some(time),
        }),
    };
    let touch = request.touch;
    let mut edit = Edit::read(given!(request), &app.sessions, attempt.as_ref())?;
    edit.deadlines = deadlines;
    let at_once = touch && deadlines.idle.is_some();
    if at_once {
        // It may have been unused for longer than the new idle time.
        app.sessions.touch(id).await?;
    }
    let record = edit.apply(&app.sessions, id, None).await?;
    if touch && !at_once {
        app.sessions.note_used(&record).await;
    }
    Ok(ok(&view::shown(&record)))
}

/// How long a session may go unused, in either of two units.
pub(super) fn idle(seconds: Option<u64>, milliseconds: Option<u64>) -> Result<Option<Duration>, Problem> {
    let wrong =
        |field: &str, problem: &str| Err(Problem::field(Code::InvalidField, field, format!("{field}: {problem}")));
    match (seconds, milliseconds) {
        (Some(_), Some(_)) => wrong("idle_milliseconds", "give it, or idle_seconds, and not both"),
        (Some(0), None) => wrong("idle_seconds", "it must be at least 1"),
        (None, Some(0)) => wrong("idle_milliseconds", "it must be at least 1"),
        (Some(seconds), None) => Ok(Some(Duration::from_secs(seconds))),
        (None, Some(milliseconds)) => Ok(Some(Duration::from_millis(milliseconds))),
        (None, None) => Ok(None),
    }
}
