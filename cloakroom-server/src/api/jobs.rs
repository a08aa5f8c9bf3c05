//! Calls that took longer than their callers waited.

use axum::{extract::Path, response::Response};

use super::{
    call::Call,
    problem::{Code, Problem},
};

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Problem> {
    let Call { app, caller, .. } = call;
    let shown = app.operations.show(&id, caller.as_ref(), app.bounds.answer_within).await;
    shown.ok_or_else(|| {
        let detail = "This server knows no such job of this API key. Jobs are those of one process, and gone after a \
                      restart, which breaks off what is not done by then: repeat the call, and what is left ends.";
        Problem::new(Code::JobUnknown, detail)
    })
}
