//! The audit log as it grows, and as a file.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use cloakroom::{
    Sessions,
    audit::AuditEntry,
    store::{Cursor, Logged},
};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    Console,
    access::Operator,
    audit::{FIELDS, which},
    fault::Fault,
    fields::Fields,
    ledger::{Ledger, Which},
};

/// `GET /console/audit/live`: the API's events, for as long as the operator is signed in.
pub(super) async fn live(
    State(console): State<Console>,
    operator: Operator,
    headers: HeaderMap,
    uri: http::Uri,
) -> Result<Response, Fault> {
    let path = uri.query().map_or_else(|| "/v1/events".to_owned(), |query| format!("/v1/events?{query}"));
    let events = console.calls.follow(&operator, &path, headers.get("last-event-id")).await?;
    let session = operator.session;
    let signed_out = async move { drop(session.ended().await) };
    Ok(events.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(signed_out)))))
}

#[derive(Clone, Copy)]
enum Format {
    JsonLines,
    Csv,
}

/// `GET /console/audit/export`
pub(super) async fn export(State(console): State<Console>, _: Operator, uri: http::Uri) -> Result<Response, Fault> {
    let fields = Fields::of_query(uri.query(), &[&FIELDS[..], &["format"]].concat())?;
    let which = which(&fields)?;
    let (format, media_type, name) = match fields.text("format") {
        Some("csv") => (Format::Csv, "text/csv; charset=utf-8", "audit.csv"),
        Some("jsonl") | None => (Format::JsonLines, "application/jsonl", "audit.jsonl"),
        Some(_) => {
            let detail = "format: jsonl or csv";
            return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "There is no such format", detail));
        }
    };
    let export = Export::begin(console.app.sessions, &console.ledger, which, format).await?;
    let text = stream::unfold(Some(export), async |export| export?.next().await);
    let mut response = Body::from_stream(text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    let attachment = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
    headers.extend(attachment.ok().map(|attachment| (header::CONTENT_DISPOSITION, attachment)));
    Ok(response)
}

/// Entries on their way out, oldest first.
struct Export {
    sessions: Sessions,
    which: Which,
    after: Option<Cursor>,
    format: Format,
    /// What is next.
    text: Option<String>,
    is_done: bool,
}

const COLUMNS: [&str; 10] =
    ["at", "event", "session", "user", "impersonated_by", "audit_user", "ip", "reason", "by", "note"];

impl Export {
    const PORTION: usize = 500;

    /// With its first portion, so that a store which cannot be read is told as a page.
    async fn begin(sessions: Sessions, ledger: &Arc<Ledger>, which: Which, format: Format) -> Result<Self, Fault> {
        let standing = ledger.read_on(&sessions, std::time::Duration::ZERO).await;
        let after = if standing.complete { ledger.start(&which) } else { None };
        let mut export = Self { sessions, which, after, format, text: None, is_done: false };
        let mut text = match format {
            Format::Csv => COLUMNS.join(",") + "\r\n",
            Format::JsonLines => String::new(),
        };
        text += &export.read().await?;
        export.text = Some(text);
        Ok(export)
    }

    async fn next(mut self) -> Option<(Result<Bytes, cloakroom::Error>, Option<Self>)> {
        if let Some(text) = self.text.take() {
            return Some((Ok(text.into()), Some(self)));
        }
        if self.is_done {
            return None;
        }
        match self.read().await {
            Ok(text) => Some((Ok(text.into()), Some(self))),
            // The download breaks off, and the browser says so.
            Err(error) => {
                tracing::error!(%error, "an export of the audit log broke off");
                Some((Err(error), None))
            }
        }
    }

    async fn read(&mut self) -> cloakroom::Result<String> {
        let page = self.sessions.audit_log().page(&self.which.query(), self.after.as_ref(), Self::PORTION).await?;
        self.is_done = page.next.is_none();
        self.after = page.next;
        let matching = page.items.iter().filter(|logged| self.which.matches(&logged.entry));
        Ok(matching.map(|logged| self.format.line(logged)).collect())
    }
}

impl Format {
    fn line(self, logged: &Logged) -> String {
        match self {
            Self::JsonLines => serde_json::to_string(logged).unwrap_or_default() + "\n",
            Self::Csv => {
                let AuditEntry { at, event, session, user, impersonated_by, audit_user, ip, reason, by, note } =
                    &logged.entry;
                let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
                let cells: [String; COLUMNS.len()] = [
                    at.to_string(),
                    event.to_string(),
                    session.to_string(),
                    text(user),
                    text(impersonated_by),
                    text(audit_user),
                    ip.map(|ip| ip.to_string()).unwrap_or_default(),
                    reason.map(|reason| reason.code().to_owned()).unwrap_or_default(),
                    text(by),
                    text(note),
                ];
                cells.map(|cell| csv(&cell)).join(",") + "\r\n"
            }
        }
    }
}

/// A cell. Spreadsheets take some beginnings for formulas: those have an apostrophe before them.
fn csv(cell: &str) -> String {
    let guard = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !cell.contains([',', '"', '\n', '\r', ';']) {
        return cell.to_owned();
    }
    format!("\"{guard}{}\"", cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_what_they_hold_and_no_formula() {
        assert_eq!(csv("anna"), "anna");
        assert_eq!(csv("a,b"), "\"a,b\"");
        assert_eq!(csv("say \"hi\"\r\n"), "\"say \"\"hi\"\"\r\n\"");
        assert_eq!(csv("=HYPERLINK(1)"), "\"'=HYPERLINK(1)\"");
        assert_eq!(csv("@x"), "\"'@x\"");
    }
}
