//! The list of sessions.

use std::time::{Duration, Instant};

use axum::{extract::State, response::Response};
use cloakroom::{
    SessionId, SessionInfo, Sessions, Timestamp,
    store::{Cursor, Page, Query},
};
use maud::{Markup, html};

use super::{
    Console,
    access::Operator,
    fault::Fault,
    fields::Fields,
    filter::Filter,
    html::{Section, count, page, session_link, stranger, time, whose},
};
use crate::{keys::Scope, percent};

const PAGE: usize = 50;
/// A store that has no index for what is asked looks through all sessions, some at a time. An operator sees what there is
/// after so long.
const PATIENCE: Duration = Duration::from_millis(100);

/// `GET /console/sessions`
pub(super) async fn show(
    State(console): State<Console>,
    operator: Operator,
    uri: http::Uri,
) -> Result<Response, Fault> {
    let fields = Fields::of_query(uri.query(), &[&Filter::FIELDS[..], &["cursor"]].concat())?;
    let filter = Filter::of(&fields)?;
    let now = console.app.sessions.now();
    let after = fields.text("cursor").map(Cursor::new);
    let found = find(&console.app.sessions, &filter.query(now), after.clone()).await?;
    let more = |cursor: &Cursor| {
        let query = filter.to_query();
        let and = if query.is_empty() { "" } else { "&" };
        format!("/console/sessions?{query}{and}cursor={}", percent::encoded(cursor.as_str()))
    };
    let body = html! {
        div.head {
            h1 { "Sessions" }
            @if operator.may(Scope::Admin) {
                a.button.danger href={ "/console/sessions/end?" (filter.to_query()) } {
                    @if filter.is_empty() { "End all sessions…" } @else { "End all that match…" }
                }
            }
        }
        (filter.form())
        @if found.items.is_empty() {
            p.empty {
                @if found.next.is_some() { "None so far, and not all sessions were looked at." }
                @else if after.is_some() { "There are no more." }
                @else if filter.is_empty() { "Nobody has a session." }
                @else { "No session matches." }
            }
        } @else {
            p.soft {
                @if after.is_none() && found.next.is_none() { (count(found.items.len(), "session", "sessions")) }
                @else { "A page of " (count(found.items.len(), "session", "sessions")) }
                @if filter.user.is_some() { ", newest first" }
                "."
            }
            (table(now, &found.items, operator.id()))
        }
        @if after.is_some() || found.next.is_some() {
            nav.pages aria-label="Pages" {
                @if after.is_some() { a.button href={ "/console/sessions?" (filter.to_query()) } { "First page" } }
                @if let Some(next) = &found.next { a.button rel="next" href=(more(next)) { "Next page" } }
            }
        }
    };
    Ok(page(&operator, Section::Sessions, "Sessions", &body))
}

/// A page of what matches, or as much of one as there is in time.
pub(super) async fn find(
    sessions: &Sessions,
    query: &Query,
    mut after: Option<Cursor>,
) -> Result<Page<SessionInfo>, Fault> {
    let begun = Instant::now();
    let mut items = Vec::new();
    loop {
        let page = sessions.find(query, after.as_ref(), PAGE - items.len()).await?;
        items.extend(page.items);
        after = page.next;
        if after.is_none() || items.len() >= PAGE || begun.elapsed() > PATIENCE {
            return Ok(Page { items, next: after });
        }
    }
}

/// Sessions, a row each. `own` is the operator's.
pub(super) fn table(now: Timestamp, sessions: &[SessionInfo], own: Option<SessionId>) -> Markup {
    html! {
        table.list {
            thead {
                tr {
                    th scope="col" { "User" }
                    th scope="col" { "Session" }
                    th scope="col" { "Device" }
                    th scope="col" { "Address" }
                    th scope="col" { "Started" }
                    th scope="col" { "Last seen" }
                    th scope="col" { "Ends" }
                }
            }
            tbody {
                @for info in sessions {
                    tr.acting[info.impersonator().is_some() || info.audit_user.is_some()] {
                        td data-label="User" {
                            (whose(info))
                            @if own == Some(info.id) { " " span.tag { "This console" } }
                        }
                        td data-label="Session" { (session_link(info.id)) }
                        td data-label="Device" { (filtered("device", info.client.device.as_deref())) }
                        td data-label="Address" { (address(info)) }
                        td data-label="Started" { (time(now, info.created_at)) }
                        td data-label="Last seen" { (time(now, info.last_seen_at)) }
                        td data-label="Ends" {
                            @match info.expires_at() { Some(end) => (time(now, end)), None => span.soft { "never" } }
                        }
                    }
                }
            }
        }
    }
}

/// Where a session was started from, as a link to all from there.
pub(super) fn address(info: &SessionInfo) -> Markup {
    let ip = info.client.ip.map(|ip| ip.to_string());
    html! {
        (filtered("ip", ip.as_deref()))
        @if let Some(country) = &info.client.country { " " span.tag { (stranger(country)) } }
    }
}

/// A value as a link to all sessions that have it.
pub(super) fn filtered(name: &str, value: Option<&str>) -> Markup {
    html! {
        @match value {
            Some(value) => a.plain href={ "/console/sessions?" (name) "=" (percent::encoded(value)) } {
                bdi { (stranger(value)) }
            },
            None => span.soft { "unknown" },
        }
    }
}
