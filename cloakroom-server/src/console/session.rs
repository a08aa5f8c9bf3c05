//! One session.

use axum::{
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use cloakroom::{
    Ended, Found, Reason, Record, SessionId, SessionInfo, Timestamp,
    period::format_period,
    store::{AuditQuery, Logged},
};
use http::{Method, StatusCode};
use maud::{Markup, html};

use super::{
    Console,
    access::Operator,
    calls::Answer,
    fault::Fault,
    fields::Fields,
    html::{Section, acting, count, csrf, exact, page, session_link, stranger, time, whose},
    list::{address, filtered},
};
use crate::{keys::Scope, percent};

/// So much of a session's trail is shown.
const TRAIL: usize = 500;

/// `GET /console/sessions/{id}`
pub(super) async fn show(
    State(console): State<Console>,
    Path(id): Path<String>,
    operator: Operator,
    uri: http::Uri,
) -> Result<Response, Fault> {
    let fields = Fields::of_query(uri.query(), &["show"])?;
    let Ok(id) = id.parse::<SessionId>() else { return Err(unknown()) };
    let sessions = &console.app.sessions;
    let now = sessions.now();
    let found = sessions.get(id).await?;
    let query = AuditQuery { user: None, session: Some(id) };
    let entries = sessions.audit_log().page(&query, None, TRAIL).await?;
    if matches!(found, Found::Unknown) && entries.items.is_empty() {
        return Err(unknown());
    }
    let body = html! {
        p.path { a href="/console/sessions" { "Sessions" } }
        @match &found {
            Found::Live(record) => (living(now, record, &operator, fields.text("show"))),
            Found::Ended(ended) => (ended_session(now, ended)),
            Found::Unknown => {
                h1 { "Session " span.id { (id) } }
                p.notice { "It ended so long ago that only the audit log knows of it." }
            }
        }
        section {
            h2 { "Audit trail" }
            (trail(now, &entries.items))
            @if entries.next.is_some() { p.soft { "The first " (count(entries.items.len(), "entry", "entries")) "." } }
        }
    };
    Ok(page(&operator, Section::Sessions, &format!("Session {id}"), &body))
}

/// `POST /console/sessions/{id}/end`
pub(super) async fn end(
    State(console): State<Console>,
    Path(id): Path<String>,
    operator: Operator,
    body: Bytes,
) -> Result<Response, Fault> {
    let fields = Fields::parse(&body, &["note"])?;
    let mut path = format!("/v1/sessions/{}?reason={}", percent::encoded(&id), Reason::RevokedByAdmin.code());
    if let Some(note) = fields.text("note") {
        path.push_str("&note=");
        path.push_str(&percent::encoded(note));
    }
    let answer = console.calls.make(&operator, Method::DELETE, &path, None).await?;
    // An operator who ends their own session is out, and has no next page to be told on.
    if operator.id().is_some_and(|own| own.to_string() == id) {
        return Ok(Redirect::to("/console/sign-in").into_response());
    }
    operator.notify(match answer {
        Answer::Done(answer) if answer["ended_now"] == true => "The session ended.",
        Answer::Done(_) => "The session had ended before.",
        Answer::Job(_) => "The session is being ended.",
    })?;
    Ok(Redirect::to(&format!("/console/sessions/{}", percent::encoded(&id))).into_response())
}

fn unknown() -> Fault {
    let detail = "There is no such session, or it ended so long ago that it is forgotten.";
    Fault::new(StatusCode::NOT_FOUND, "There is no such session", detail)
}

fn living(now: Timestamp, record: &Record, operator: &Operator, shown: Option<&str>) -> Markup {
    let info = &record.info;
    html! {
        div.head {
            h1 { (whose(info)) }
            span.state.good { "Active" }
        }
        @if let Some(actor) = info.impersonator() {
            p.notice.warn {
                strong { bdi { (stranger(actor)) } } " acts as this user."
                @if let Some(own) = info.returns_to() { " Their own session is " (session_link(own)) "." }
            }
        }
        @if let Some(auditor) = &info.audit_user {
            p.notice.warn { strong { bdi { (stranger(auditor)) } } " looks into this user's account in it." }
        }
        div.columns {
            section.card {
                h2 { "Session" }
                dl { (times(now, info)) (identity(info)) }
            }
            section.card {
                h2 { "Client" }
                dl {
                    dt { "Device" } dd { (filtered("device", info.client.device.as_deref())) }
                    dt { "Address" } dd { (address(info)) }
                    dt { "User agent" }
                    dd.agent {
                        @match &info.client.user_agent {
                            Some(agent) => bdi { (stranger(agent)) },
                            None => span.soft { "unknown" },
                        }
                    }
                }
                @if operator.may(Scope::Write) { (end_form(info, operator)) }
                @else { p.hint { "Ending it takes a key of scope write." } }
            }
        }
        section.card {
            h2 { "Data" }
            (data(record, shown))
        }
    }
}

fn times(now: Timestamp, info: &SessionInfo) -> Markup {
    html! {
        dt { "Id" } dd { span.id { (info.id) } }
        dt { "Started" } dd { (exact(info.created_at)) ", " (time(now, info.created_at)) }
        dt { "Last seen" } dd { (exact(info.last_seen_at)) ", " (time(now, info.last_seen_at)) }
        dt { "Idle timeout" }
        dd { @match info.idle_timeout { Some(idle) => (format_period(idle)), None => "none" } }
        dt { "Ends if unused" }
        dd { @match info.expires_at() { Some(at) => { (exact(at)) ", " (time(now, at)) }, None => "never" } }
        dt { "Ends in any case" }
        dd { @match info.ends_at { Some(at) => { (exact(at)) ", " (time(now, at)) }, None => "never" } }
        dt { "Remembered" } dd { (if info.remember { "yes" } else { "no" }) }
        dt { "Version" } dd { (info.version) }
    }
}

fn identity(info: &SessionInfo) -> Markup {
    html! {
        @if let Some(at) = info.authenticated_at() { dt { "Authenticated" } dd { (exact(at)) } }
        @if let Some(methods) = info.methods() { dt { "Methods" } dd { (stranger(methods)) } }
        @if let Some(level) = info.level() { dt { "Level" } dd { "AAL" (level.number()) } }
    }
}

fn end_form(info: &SessionInfo, operator: &Operator) -> Markup {
    html! {
        form.end method="post" action={ "/console/sessions/" (info.id) "/end" } {
            (csrf(operator))
            label for="note" { "Note for the audit log" }
            input #note name="note" maxlength="200" autocomplete="off" placeholder="lost phone";
            button.danger type="submit" { "End this session" }
        }
    }
}

/// Names of keys, with the values that were asked for.
fn data(record: &Record, shown: Option<&str>) -> Markup {
    let id = record.info.id;
    if record.data.is_empty() {
        return html! { p.soft { "It holds nothing." } };
    }
    html! {
        p.soft {
            (count(record.data.len(), "key", "keys")) ", " (count(record.data.size(), "byte", "bytes"))
            ". Values may be personal: one is shown when you ask for it."
        }
        table.list.data {
            thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } } }
            tbody {
                @for (key, value) in record.data.iter() {
                    tr {
                        td data-label="Key" { code { bdi { (stranger(key)) } } }
                        td data-label="Value" {
                            @if shown == Some(key) { pre tabindex="0" { (stranger(value.as_str())) } }
                            @else {
                                a href={ "/console/sessions/" (id) "?show=" (percent::encoded(key)) }
                                    aria-label={ "Show the value of " (stranger(key)) } { "Show" }
                                span.soft { " " (count(value.as_str().len(), "byte", "bytes")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn ended_session(now: Timestamp, ended: &Ended) -> Markup {
    html! {
        div.head {
            h1 { "Session " span.id { (ended.id) } }
            span.state.bad { "Ended" }
        }
        section.card {
            dl {
                dt { "User" }
                dd {
                    @match &ended.user {
                        Some(user) => (filtered("user", Some(user))),
                        None => "Anonymous visitor",
                    }
                }
                dt { "Ended" } dd { (exact(ended.at)) ", " (time(now, ended.at)) }
                dt { "Reason" } dd { (ended.reason.text()) " " span.tag { (ended.reason.code()) } }
                @if let Some(by) = &ended.by { dt { "By" } dd { bdi { (stranger(by)) } } }
                @if let Some(note) = &ended.note { dt { "Note" } dd { bdi { (stranger(note)) } } }
            }
        }
    }
}

/// Entries of the audit log about one session.
fn trail(now: Timestamp, entries: &[Logged]) -> Markup {
    html! {
        @if entries.is_empty() { p.empty { "The audit log has no entry about it." } }
        @else {
            table.list {
                thead {
                    tr {
                        th scope="col" { "Time" }
                        th scope="col" { "Event" }
                        th scope="col" { "By" }
                        th scope="col" { "Note" }
                    }
                }
                tbody {
                    @for Logged { entry, .. } in entries {
                        tr {
                            td data-label="Time" { (exact(entry.at)) " " span.soft { (time(now, entry.at)) } }
                            td data-label="Event" {
                                span.tag { (entry.event.code().replace('_', " ")) }
                                @if let Some(reason) = entry.reason { " " (reason.text()) }
                                (acting(entry.impersonated_by.as_deref(), entry.audit_user.as_deref()))
                            }
                            td data-label="By" { @if let Some(by) = &entry.by { bdi { (stranger(by)) } } }
                            td data-label="Note" { @if let Some(note) = &entry.note { bdi { (stranger(note)) } } }
                        }
                    }
                }
            }
        }
    }
}
