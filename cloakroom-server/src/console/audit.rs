//! The audit log, the latest first.

use std::time::Duration;

use axum::{extract::State, response::Response};
use cloakroom::{
    Timestamp,
    audit::Event,
    store::{Cursor, Logged},
};
use maud::{Markup, html};

use super::{
    Console,
    access::Operator,
    fault::Fault,
    fields::Fields,
    html::{Section, acting, exact, number, page, session_link, stranger},
    ledger::Which,
    list::filtered,
};
use crate::percent;

const PAGE: usize = 50;
const WITHIN: Duration = Duration::from_millis(60);
/// An operator sees what was found after so long.
const PATIENCE: Duration = Duration::from_millis(100);

/// The names of what says which entries.
pub(super) const FIELDS: [&str; 5] = ["user", "session", "event", "since", "until"];

/// `GET /console/audit`
pub(super) async fn show(
    State(console): State<Console>,
    operator: Operator,
    uri: http::Uri,
) -> Result<Response, Fault> {
    let fields = Fields::of_query(uri.query(), &[&FIELDS[..], &["before", "skip"]].concat())?;
    let which = which(&fields)?;
    let before = fields.read::<i64>("before")?.map(Timestamp::from_millis);
    let skip = fields.read::<usize>("skip")?.unwrap_or_default().min(10_000);
    let sessions = &console.app.sessions;
    let standing = console.ledger.read_on(sessions, WITHIN).await;
    let until = [which.until, before].into_iter().flatten().min();
    let mut latest = console.ledger.latest(sessions, &Which { until, ..which.clone() }, PAGE + skip, PATIENCE).await?;
    // Those of this very time that the page before has shown.
    let shown = latest.entries.iter().take(skip).take_while(|logged| Some(logged.entry.at) == before).count();
    latest.entries.drain(..shown);
    let next = latest.more.map(|more| {
        let same = latest.entries.iter().filter(|logged| logged.entry.at == more).count();
        let skip = if Some(more) == before { shown + same } else { same };
        format!("/console/audit?{}before={}&skip={skip}", query(&fields), more.as_millis())
    });
    let is_live = before.is_none() && which.until.is_none();
    let body = html! {
        div.head {
            h1 { "Audit log" }
            div.actions {
                a.button href={ "/console/audit/export?" (query(&fields)) "format=jsonl" } download { "Export JSON Lines" }
                a.button href={ "/console/audit/export?" (query(&fields)) "format=csv" } download { "Export CSV" }
            }
        }
        (form(&fields))
        @if !standing.complete {
            p.notice role="status" data-refresh {
                "The log is being read: " (number(standing.entries)) " entries so far. The latest are not there yet."
            }
        }
        @if is_live { (live(&fields, standing.after.as_ref())) }
        @if latest.entries.is_empty() {
            p.empty #none { @if next.is_some() { "None so far; older entries were not looked at yet." } @else { "No entry matches." } }
        }
        (table(&latest.entries))
        @if before.is_some() || next.is_some() {
            nav.pages aria-label="Pages" {
                @if before.is_some() { a.button href={ "/console/audit?" (query(&fields)) } { "Latest" } }
                @if let Some(next) = next { a.button rel="next" href=(next) { "Older" } }
            }
        }
    };
    Ok(page(&operator, Section::Audit, "Audit log", &body))
}

/// Which entries a page or an export is about.
pub(super) fn which(fields: &Fields) -> Result<Which, Fault> {
    Ok(Which {
        user: fields.text("user").map(Into::into),
        session: fields.read("session")?,
        event: fields.read::<Event>("event")?,
        since: time_of(fields, "since")?,
        until: time_of(fields, "until")?,
    })
}

/// As browsers write what is picked, in UTC, or RFC 3339.
fn time_of(fields: &Fields, name: &str) -> Result<Option<Timestamp>, Fault> {
    let Some(text) = fields.text(name).map(str::trim) else { return Ok(None) };
    let in_utc = [format!("{text}:00Z"), format!("{text}Z"), format!("{text}T00:00:00Z")];
    let mut readings = std::iter::once(text).chain(in_utc.iter().map(String::as_str)).map(str::parse);
    let first = readings.next();
    match (first, readings.find_map(Result::ok)) {
        (Some(Ok(at)), _) | (_, Some(at)) => Ok(Some(at)),
        _ => Err(Fault::field(name, "write 2026-01-31T12:00, in UTC")),
    }
}

/// What says which entries, as the beginning of a query.
fn query(fields: &Fields) -> String {
    let pairs = FIELDS.iter().filter_map(|name| Some(format!("{name}={}&", percent::encoded(fields.text(name)?))));
    pairs.collect()
}

fn form(fields: &Fields) -> Markup {
    let field = |name: &str, label: &str, kind: &str, example: &str| {
        html! {
            div.field {
                label for=(name) { (label) }
                input id=(name) name=(name) type=(kind) value=[fields.text(name)] placeholder=(example) autocomplete="off"
                    spellcheck="false" autocapitalize="none";
            }
        }
    };
    let is_filtered = FIELDS.iter().any(|name| fields.text(name).is_some());
    html! {
        form.filter method="get" action="/console/audit" role="search" aria-label="Filter the audit log" {
            (field("user", "User", "text", "anna"))
            div.field {
                label for="event" { "Event" }
                select #event name="event" {
                    option value="" { "Any" }
                    @for event in Event::ALL {
                        option value=(event.code()) selected[fields.text("event") == Some(event.code())] {
                            (event.code().replace('_', " "))
                        }
                    }
                }
            }
            (field("since", "From (UTC)", "datetime-local", ""))
            (field("until", "Until (UTC)", "datetime-local", ""))
            (field("session", "Session", "text", "id"))
            div.actions {
                button.primary type="submit" { "Filter" }
                @if is_filtered { a.button href="/console/audit" { "Clear" } }
            }
        }
    }
}

/// What a script needs to show entries as they come.
fn live(fields: &Fields, after: Option<&Cursor>) -> Markup {
    let stream = |name: &str| fields.text(name).map(|text| format!("{name}={}&", percent::encoded(text)));
    let mut path = "/console/audit/live?".to_owned();
    path.extend(["user", "session"].into_iter().filter_map(stream));
    if let Some(after) = after {
        path.push_str("after=");
        path.push_str(&percent::encoded(after.as_str()));
    }
    html! {
        p.live hidden data-live=(path) data-event=[fields.text("event")] {
            span.dot {} " "
            span role="status" { "Live" }
            button.quiet type="button" { "Pause" }
        }
    }
}

fn table(entries: &[Logged]) -> Markup {
    html! {
        table.list.log hidden[entries.is_empty()] {
            thead {
                tr {
                    th scope="col" { "Time (UTC)" }
                    th scope="col" { "Event" }
                    th scope="col" { "User" }
                    th scope="col" { "Session" }
                    th scope="col" { "Address" }
                    th scope="col" { "By" }
                    th scope="col" { "Note" }
                }
            }
            tbody { @for Logged { entry, .. } in entries { (row(entry)) } }
        }
    }
}

fn row(entry: &cloakroom::audit::AuditEntry) -> Markup {
    let ip = entry.ip.map(|ip| ip.to_string());
    html! {
        tr.acting[entry.impersonated_by.is_some() || entry.audit_user.is_some()] {
            td data-label="Time" { (exact(entry.at).trim_end_matches(" UTC")) }
            td data-label="Event" {
                span.tag.bad[entry.event == Event::Refused] { (entry.event.code().replace('_', " ")) }
                @if let Some(reason) = entry.reason { " " span.soft { (reason.code().replace('_', " ")) } }
            }
            td data-label="User" {
                @match &entry.user {
                    Some(user) => (filtered("user", Some(user))),
                    None => span.soft { "anonymous" },
                }
                (acting(entry.impersonated_by.as_deref(), entry.audit_user.as_deref()))
            }
            td data-label="Session" { (session_link(entry.session)) }
            td data-label="Address" { @if let Some(ip) = ip { (filtered("ip", Some(&ip))) } }
            td data-label="By" { @if let Some(by) = &entry.by { bdi { (stranger(by)) } } }
            td data-label="Note" { @if let Some(note) = &entry.note { bdi { (stranger(note)) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_browsers_write_them() {
        let read = |text: &str| {
            let fields = Fields::of_query(Some(&format!("since={text}")), &FIELDS).unwrap();
            time_of(&fields, "since").ok().flatten().map(|at| at.to_string())
        };
        let at = |time: &str| Some(format!("2026-01-31T{time}.000Z"));
        assert_eq!(read("2026-01-31T12:30"), at("12:30:00"));
        assert_eq!(read("2026-01-31T12:30:15"), at("12:30:15"));
        assert_eq!(read("2026-01-31T12:30:15Z"), at("12:30:15"));
        assert_eq!(read("2026-01-31T12:30:15%2B01:00"), at("11:30:15"));
        assert_eq!(read("2026-01-31"), at("00:00:00"));
        assert_eq!(read("yesterday"), None);
    }
}
