//! Ending all sessions that match, after a look at which those are.

use axum::{
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use cloakroom::{Reason, SessionInfo, Sessions, store::Query};
use http::Method;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::{
    Console,
    access::Operator,
    calls::Answer,
    fault::Fault,
    fields::Fields,
    filter::Filter,
    html::{Section, count, csrf, number, page, stranger},
    list::table,
};
use crate::{keys::Scope, percent};

/// So many are counted before it is "more than".
const COUNTED: usize = 10_000;
const SHOWN: usize = 20;

/// `GET /console/sessions/end`: the dry run.
pub(super) async fn confirm(
    State(console): State<Console>,
    operator: Operator,
    uri: http::Uri,
) -> Result<Response, Fault> {
    operator.require(Scope::Admin)?;
    let filter = Filter::of(&Fields::of_query(uri.query(), &Filter::FIELDS)?)?;
    let now = console.app.sessions.now();
    let mut matching = preview(&console.app.sessions, &filter.query(now)).await?;
    matching.leave_out(operator.id());
    let body = html! {
        p.path { a href={ "/console/sessions?" (filter.to_query()) } { "Sessions" } }
        h1 { "End sessions" (filter.words()) }
        @if matching.count == 0 && !matching.more {
            p.empty { "No session matches: there is nothing to end." }
        } @else {
            p.big { strong { (matching.words()) } " would end now." }
            @if matching.own { p.hint { "Your own session in this console stays." } }
            (form(&filter, &operator, &matching))
            h2 { @if matching.count > matching.first.len() || matching.more { "The first " (number(matching.first.len())) } @else { "These" } }
            (table(now, &matching.first, operator.id()))
        }
    };
    Ok(page(&operator, Section::Sessions, "End sessions", &body))
}

fn form(filter: &Filter, operator: &Operator, matching: &Matching) -> Markup {
    html! {
        form.card.end method="post" action="/console/sessions/end" {
            (csrf(operator))
            (filter.hidden())
            div.field {
                label for="reason" { "Reason" }
                select #reason name="reason" {
                    @for reason in [Reason::RevokedByAdmin, Reason::AllRevoked, Reason::SignedOutElsewhere] {
                        option value=(reason.code()) selected[filter.is_empty() && reason == Reason::AllRevoked] {
                            (reason.text())
                        }
                    }
                }
            }
            div.field {
                label for="note" { "Note for the audit log" }
                input #note name="note" maxlength="200" autocomplete="off";
            }
            label.tick {
                input type="checkbox" name="sure" value="yes" required;
                span { "Yes, end " (matching.words()) (filter.words()) "." }
            }
            div.actions {
                button.danger type="submit" { "End them" }
                a.button href={ "/console/sessions?" (filter.to_query()) } { "Leave them" }
            }
        }
    }
}

/// `POST /console/sessions/end`
pub(super) async fn end(State(console): State<Console>, operator: Operator, body: Bytes) -> Result<Response, Fault> {
    let fields = Fields::parse(&body, &[&Filter::FIELDS[..], &["reason", "note", "sure"]].concat())?;
    let filter = Filter::of(&fields)?;
    fields.require("sure", "Tick the box that says that you mean it.")?;
    let mut call = filter.body();
    let own: Vec<_> = operator.id().into_iter().map(|id| id.to_string()).collect();
    call.insert("except".into(), json!(own));
    for name in ["reason", "note"] {
        if let Some(text) = fields.text(name) {
            call.insert(name.into(), text.into());
        }
    }
    match console.calls.make(&operator, Method::POST, "/v1/sessions/revoke", Some(&Value::Object(call))).await? {
        Answer::Done(answer) => {
            let ended = answer["ended"].as_array().map_or(0, Vec::len);
            operator.notify(format!("{} ended.", count(ended, "session", "sessions")))?;
            Ok(Redirect::to(&format!("/console/sessions?{}", filter.to_query())).into_response())
        }
        Answer::Job(id) => Ok(Redirect::to(&format!("/console/jobs/{}", percent::encoded(&id))).into_response()),
    }
}

/// `GET /console/jobs/{id}`
pub(super) async fn job(
    State(console): State<Console>,
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Response, Fault> {
    let path = format!("/v1/jobs/{}", percent::encoded(&id));
    let Answer::Done(answer) = console.calls.make(&operator, Method::GET, &path, None).await? else {
        return Err(Fault::field("job", "its state is not known"));
    };
    let job = &answer["job"];
    let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    let ended = usize::try_from(job["ended"].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
    let state = text("state");
    let body = html! {
        p.path { a href="/console/sessions" { "Sessions" } }
        div.head {
            h1 { "Ending sessions" }
            span.state.good[state == "done"].bad[state == "failed"] { (state) }
        }
        section.card data-refresh[state == "running"] {
            p.big role="status" { strong { (count(ended, "session", "sessions")) } @if state == "running" { " ended so far." } @else { " ended." } }
            dl {
                dt { "Call" } dd { code { (text("call")) } }
                dt { "Started" } dd { (text("started_at")) }
                @if let Some(detail) = job.pointer("/answer/detail").and_then(Value::as_str) {
                    dt { "Problem" } dd { (stranger(detail)) }
                }
            }
            @if state == "running" {
                p.hint { "It goes on, whether or not this page is open." }
                a.button href={ "/console/jobs/" (percent::encoded(&id)) } { "Look again" }
            } @else {
                a.button href="/console/sessions" { "Back to the sessions" }
            }
        }
    };
    Ok(page(&operator, Section::Sessions, "Ending sessions", &body))
}

/// What ending would end.
struct Matching {
    first: Vec<SessionInfo>,
    count: usize,
    /// Not all were counted.
    more: bool,
    /// The operator's own is among the first, and stays.
    own: bool,
}

impl Matching {
    fn words(&self) -> String {
        let more = if self.more { "More than " } else { "" };
        format!("{more}{}", count(self.count, "session", "sessions"))
    }

    fn leave_out(&mut self, own: Option<cloakroom::SessionId>) {
        let before = self.first.len();
        self.first.retain(|info| Some(info.id) != own);
        self.own = self.first.len() < before;
        self.count -= before - self.first.len();
        self.first.truncate(SHOWN);
    }
}

async fn preview(sessions: &Sessions, query: &Query) -> Result<Matching, Fault> {
    let mut first = Vec::new();
    let (mut count, mut after) = (0, None);
    loop {
        let page = sessions.find(query, after.as_ref(), 500).await?;
        count += page.items.len();
        if first.is_empty() {
            first = page.items;
        }
        after = page.next;
        if after.is_none() || count >= COUNTED {
            return Ok(Matching { first, count, more: after.is_some(), own: false });
        }
    }
}
