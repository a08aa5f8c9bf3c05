//! Users: who may have sessions, how many, from where; and all of one user's sessions.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use cloakroom::{Reason, Timestamp, User, WhenFull, sessions::DirectoryEntry, store::Cursor};
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
    html::{Section, count, csrf, exact, page, stranger, time},
    list::{find, table},
};
use crate::{keys::Scope, percent};

const PAGE: usize = 50;

/// `GET /console/users`
pub(super) async fn list(
    State(console): State<Console>,
    operator: Operator,
    uri: http::Uri,
) -> Result<Response, Fault> {
    operator.require(Scope::Admin)?;
    let fields = Fields::of_query(uri.query(), &["user", "cursor"])?;
    if let Some(user) = fields.text("user") {
        return Ok(Redirect::to(&path_of(user)).into_response());
    }
    let after = fields.text("cursor").map(Cursor::new);
    let found = console.app.sessions.users().list(after.as_ref(), PAGE).await?;
    let now = console.app.sessions.now();
    let body = html! {
        h1 { "Users" }
        form.filter.short method="get" action="/console/users" role="search" aria-label="Open a user" {
            div.field {
                label for="user" { "User" }
                input #user name="user" placeholder="anna" autocomplete="off" spellcheck="false" autocapitalize="none" required;
            }
            div.actions { button.primary type="submit" { "Open" } }
        }
        @if found.items.is_empty() {
            p.empty { @if after.is_some() { "There are no more." } @else { "The directory is empty: every user may have sessions, without limits of their own." } }
        } @else {
            p.soft { "Users of the directory. Others may have sessions too, without limits of their own." }
            (directory(now, &found.items))
        }
        @if after.is_some() || found.next.is_some() {
            nav.pages aria-label="Pages" {
                @if after.is_some() { a.button href="/console/users" { "First page" } }
                @if let Some(next) = &found.next {
                    a.button rel="next" href={ "/console/users?cursor=" (percent::encoded(next.as_str())) } { "Next page" }
                }
            }
        }
    };
    Ok(page(&operator, Section::Users, "Users", &body))
}

fn directory(now: Timestamp, entries: &[DirectoryEntry]) -> Markup {
    html! {
        table.list {
            thead {
                tr {
                    th scope="col" { "User" }
                    th scope="col" { "State" }
                    th scope="col" { "Sessions" }
                    th scope="col" { "Networks" }
                    th scope="col" { "Last sign-in" }
                }
            }
            tbody {
                @for DirectoryEntry { user, settings, last_sign_in } in entries {
                    tr {
                        td data-label="User" {
                            a.user href=(path_of(user)) { bdi { (stranger(user)) } }
                            @if let Some(name) = &settings.full_name { " " span.soft { bdi { (stranger(name)) } } }
                            @if let Some(kind) = &settings.user_type { " " span.tag { (stranger(kind)) } }
                        }
                        td data-label="State" { (state(settings)) }
                        td data-label="Sessions" {
                            @match settings.session_limit { Some(limit) => { "at most " (limit) }, None => span.soft { "as configured" } }
                        }
                        td data-label="Networks" {
                            @if settings.allowed_networks.is_empty() { span.soft { "any" } }
                            @else { (networks(settings, ", ")) }
                        }
                        td data-label="Last sign-in" {
                            @match last_sign_in {
                                Some(last) => {
                                    (time(now, last.at))
                                    @if let Some(ip) = last.ip { span.soft { " from " (ip) } }
                                },
                                None => span.soft { "not yet" },
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `GET /console/users/{user}`
pub(super) async fn show(
    State(console): State<Console>,
    Path(user): Path<String>,
    operator: Operator,
) -> Result<Response, Fault> {
    operator.require(Scope::Admin)?;
    let sessions = &console.app.sessions;
    let entry = sessions.users().get(&user).await?;
    let now = sessions.now();
    let filter = Filter::of_user(user.as_str().into());
    let found = find(sessions, &filter.query(now), None).await?;
    let settings = entry.as_ref().map(|entry| entry.settings.clone()).unwrap_or_default();
    let body = html! {
        p.path { a href="/console/users" { "Users" } }
        div.head {
            h1 {
                bdi { (stranger(&user)) }
                @if let Some(name) = &settings.full_name { " " span.soft { bdi { (stranger(name)) } } }
            }
            (state(&settings))
        }
        @if entry.is_none() {
            p.notice { "The directory has no entry of this user. Saving makes one." }
        }
        div.columns {
            (settings_form(&user, &settings, &operator))
            div {
                section.card {
                    h2 { "Sign in" }
                    dl {
                        dt { "Last sign-in" }
                        dd {
                            @match entry.as_ref().and_then(|entry| entry.last_sign_in) {
                                Some(last) => {
                                    (exact(last.at)) ", " (time(now, last.at))
                                    @if let Some(ip) = last.ip { " from " (ip) }
                                },
                                None => span.soft { "none since the user is in the directory" },
                            }
                        }
                    }
                    (switch(&user, &settings, &operator))
                }
                section.card {
                    h2 { "Sign out everywhere" }
                    form.end method="post" action={ (path_of(&user)) "/sign-out" } {
                        (csrf(&operator))
                        label for="note" { "Note for the audit log" }
                        input #note name="note" maxlength="200" autocomplete="off";
                        button.danger type="submit" { "Sign out everywhere" }
                    }
                }
            }
        }
        h2 {
            @if found.next.is_some() { "The newest " }
            (count(found.items.len(), "session", "sessions"))
        }
        @if found.items.is_empty() { p.empty { "No session." } }
        @else { (table(now, &found.items, operator.id())) }
        nav.pages aria-label="More of this user" {
            a.button href={ "/console/sessions?" (filter.to_query()) } { "All sessions" }
            a.button href={ "/console/audit?user=" (percent::encoded(&user)) } { "Audit log" }
        }
    };
    Ok(page(&operator, Section::Users, &user, &body))
}

fn settings_form(user: &str, settings: &User, operator: &Operator) -> Markup {
    let limit = settings.session_limit.map(|limit| limit.to_string());
    let field = |name: &str, label: &str, value: Option<&str>, note: &str| {
        html! {
            div.field {
                label for=(name) { (label) }
                input id=(name) name=(name) value=[value] autocomplete="off" placeholder=(note);
            }
        }
    };
    html! {
        section.card {
            h2 { "Settings" }
            form.stack method="post" action=(path_of(user)) {
                (csrf(operator))
                (field("full_name", "Full name", settings.full_name.as_deref(), ""))
                (field("user_type", "Kind of user", settings.user_type.as_deref(), "staff"))
                (field("session_limit", "Sessions at most", limit.as_deref(), "as configured"))
                div.field {
                    label for="when_full" { "A sign-in beyond that" }
                    select #when_full name="when_full" {
                        @for (value, text, when) in [
                            ("", "does as configured", None),
                            ("evict", "ends the least recently used session", Some(WhenFull::Evict)),
                            ("refuse", "is refused", Some(WhenFull::Refuse)),
                        ] {
                            option value=(value) selected[settings.when_full == when] { (text) }
                        }
                    }
                }
                div.field {
                    label for="allowed_networks" { "Allowed networks, one a line; none for anywhere" }
                    textarea #allowed_networks name="allowed_networks" rows="3" spellcheck="false"
                        placeholder="203.0.113.0/24" { (networks(settings, "\n")) }
                }
                button.primary type="submit" { "Save" }
            }
        }
    }
}

fn switch(user: &str, settings: &User, operator: &Operator) -> Markup {
    html! {
        @if settings.enabled {
            form.end method="post" action={ (path_of(user)) "/disable" } {
                (csrf(operator))
                label.tick {
                    input type="checkbox" name="sure" value="yes" required;
                    span { "All sessions of this user end, and none can start." }
                }
                button.danger type="submit" { "Disable" }
            }
        } @else {
            form.end method="post" action={ (path_of(user)) "/enable" } {
                (csrf(operator))
                p.hint { "This user is disabled: no session can start." }
                button type="submit" { "Enable" }
            }
        }
    }
}

fn state(settings: &User) -> Markup {
    html! {
        @if settings.enabled { span.state.good { "Enabled" } } @else { span.state.bad { "Disabled" } }
    }
}

fn networks(settings: &User, between: &str) -> String {
    let networks = settings.allowed_networks.iter().map(ToString::to_string);
    networks.collect::<Vec<_>>().join(between)
}

fn path_of(user: &str) -> String {
    format!("/console/users/{}", percent::encoded(user))
}

/// `POST /console/users/{user}`
pub(super) async fn save(
    State(console): State<Console>,
    Path(user): Path<String>,
    operator: Operator,
    body: Bytes,
) -> Result<Response, Fault> {
    let known = ["full_name", "user_type", "session_limit", "when_full", "allowed_networks"];
    let fields = Fields::parse(&body, &known)?;
    let networks = fields.text("allowed_networks").unwrap_or_default();
    let networks: Vec<_> = networks.split(['\n', ',']).map(str::trim).filter(|text| !text.is_empty()).collect();
    let patch = json!({
        "full_name": fields.text("full_name"),
        "user_type": fields.text("user_type"),
        "session_limit": fields.read::<u32>("session_limit")?,
        "when_full": fields.text("when_full"),
        "allowed_networks": networks,
    });
    change(&console, &operator, &user, &patch, "Saved.").await
}

/// `POST /console/users/{user}/disable`
pub(super) async fn disable(
    State(console): State<Console>,
    Path(user): Path<String>,
    operator: Operator,
    body: Bytes,
) -> Result<Response, Fault> {
    let fields = Fields::parse(&body, &["sure"])?;
    fields.require("sure", "Tick the box that says that you mean it.")?;
    change(&console, &operator, &user, &json!({ "enabled": false }), "Disabled.").await
}

/// `POST /console/users/{user}/enable`
pub(super) async fn enable(
    State(console): State<Console>,
    Path(user): Path<String>,
    operator: Operator,
    body: Bytes,
) -> Result<Response, Fault> {
    Fields::parse(&body, &[])?;
    change(&console, &operator, &user, &json!({ "enabled": true }), "Enabled.").await
}

async fn change(
    console: &Console,
    operator: &Operator,
    user: &str,
    patch: &Value,
    done: &str,
) -> Result<Response, Fault> {
    let path = format!("/v1/users/{}", percent::encoded(user));
    let answer = console.calls.make(operator, Method::PATCH, &path, Some(patch)).await?;
    after(operator, user, &answer, done)
}

/// `POST /console/users/{user}/sign-out`
pub(super) async fn sign_out(
    State(console): State<Console>,
    Path(user): Path<String>,
    operator: Operator,
    body: Bytes,
) -> Result<Response, Fault> {
    let fields = Fields::parse(&body, &["note"])?;
    let user: Arc<str> = user.into();
    let mut call = Filter::of_user(Arc::clone(&user)).body();
    call.insert("reason".into(), Reason::RevokedByAdmin.code().into());
    if let Some(note) = fields.text("note") {
        call.insert("note".into(), note.into());
    }
    let call = Value::Object(call);
    let answer = console.calls.make(&operator, Method::POST, "/v1/sessions/revoke", Some(&call)).await?;
    after(&operator, &user, &answer, "Signed out everywhere.")
}

/// Back to the user's page, which says what was done.
fn after(operator: &Operator, user: &str, answer: &Answer, done: &str) -> Result<Response, Fault> {
    match answer {
        Answer::Done(answer) => {
            let ended = answer["ended"].as_array().map_or(0, Vec::len);
            let ended =
                if ended > 0 { format!(" {} ended.", count(ended, "session", "sessions")) } else { String::new() };
            operator.notify(format!("{done}{ended}"))?;
            Ok(Redirect::to(&path_of(user)).into_response())
        }
        Answer::Job(id) => Ok(Redirect::to(&format!("/console/jobs/{}", percent::encoded(id))).into_response()),
    }
}
