//! What pages are made of.

use std::{borrow::Cow, time::Duration};

use axum::response::{Html, IntoResponse, Response};
use cloakroom::{SessionId, SessionInfo, Timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{access::Operator, assets};
use crate::{escape, keys::Scope, percent};

/// What the navigation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Sessions,
    Users,
    Audit,
}

impl Section {
    const ALL: &[Self] = &[Self::Overview, Self::Sessions, Self::Users, Self::Audit];

    const fn parts(self) -> (&'static str, &'static str, Scope) {
        match self {
            Self::Overview => ("/console", "Overview", Scope::Read),
            Self::Sessions => ("/console/sessions", "Sessions", Scope::Read),
            Self::Users => ("/console/users", "Users", Scope::Admin),
            Self::Audit => ("/console/audit", "Audit log", Scope::Read),
        }
    }
}

/// A page for an operator.
pub(super) fn page(operator: &Operator, section: Section, title: &str, body: &Markup) -> Response {
    let notice = operator.notice();
    let shown = Section::ALL.iter().map(|section| (*section, section.parts()));
    let shown = shown.filter(|(_, (_, _, scope))| operator.may(*scope));
    let page = document(
        title,
        &html! {
            a.skip href="#main" { "Skip to the content" }
            header.top {
                a.brand href="/console" aria-label="Cloakroom" { (logo()) span { "Cloakroom" } }
                nav aria-label="Console" {
                    @for (of, (path, name, _)) in shown {
                        a href=(path) aria-current=[(of == section).then_some("page")] { (name) }
                    }
                }
                form.who method="post" action="/console/sign-out" {
                    (csrf(operator))
                    span { bdi { (stranger(&operator.caller.name)) } " " span.tag { (operator.caller.scope.name()) } }
                    button.quiet type="submit" { "Sign out" }
                }
            }
            main #main tabindex="-1" {
                @if let Some(notice) = notice {
                    p.notice.good role="status" { (stranger(&notice)) }
                }
                (body)
            }
        },
    );
    Html(page.into_string()).into_response()
}

/// A page for anyone.
pub(super) fn bare(title: &str, body: &Markup) -> Markup {
    document(title, &html! { main #main .centre { (body) } })
}

fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (stranger(title)) " · Cloakroom" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" type="image/svg+xml" href=(assets::path("icon.svg"));
                link rel="stylesheet" href=(assets::path("console.css"));
                script defer src=(assets::path("console.js")) {}
            }
            body { (body) }
        }
    }
}

pub(super) fn logo() -> Markup {
    PreEscaped(
        "<svg class=\"logo\" viewBox=\"0 0 24 24\" width=\"24\" height=\"24\" fill=\"none\" stroke=\"currentColor\" \
         stroke-width=\"1.8\" stroke-linecap=\"round\" stroke-linejoin=\"round\" aria-hidden=\"true\"><path d=\"M12 \
         9.5V8.4c1.5-.4 2.4-1.4 2.4-2.7A2.4 2.4 0 0 0 9.6 5.7\"/><path d=\"M12 9.5 21 16c.9.7.5 2-.6 2H3.6c-1.1 \
         0-1.5-1.3-.6-2z\"/></svg>"
            .to_owned(),
    )
}

/// The hidden field that shows that a form is ours.
pub(super) fn csrf(operator: &Operator) -> Markup {
    html! { input type="hidden" name="csrf_token" value=(operator.csrf.as_str()); }
}

/// Text of a stranger: nothing in it is obeyed, hidden or shown in another order.
pub(super) fn stranger(text: &str) -> Cow<'_, str> {
    escape::shown(text)
}

/// How long ago, or how far ahead, with the exact time for those who point at it.
pub(super) fn time(now: Timestamp, at: Timestamp) -> Markup {
    let exact = exact(at);
    html! { time datetime=(at) title=(exact) { (distance(now, at)) } }
}

/// To the second, in UTC.
pub(super) fn exact(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {} UTC", time.get(..8).unwrap_or(time)),
        None => text,
    }
}

fn distance(now: Timestamp, at: Timestamp) -> String {
    if at > now { format!("in {}", span(at.since(now))) } else { format!("{} ago", span(now.since(at))) }
}

/// A time span in its largest unit.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let unit = units.iter().find(|(length, _)| seconds >= *length);
    unit.map_or_else(|| "0 s".to_owned(), |(length, name)| format!("{} {name}", seconds / length))
}

/// Whose session it is, and who really acts in it.
pub(super) fn whose(info: &SessionInfo) -> Markup {
    html! {
        @match &info.user {
            Some(user) => {
                a.user href={ "/console/sessions?user=" (percent::encoded(user)) } { bdi { (stranger(user)) } }
                @if let Some(name) = &info.full_name { " " span.soft { bdi { (stranger(name)) } } }
                @if let Some(kind) = &info.user_type { " " span.tag { (stranger(kind)) } }
            }
            None => span.soft { "Anonymous visitor" }
        }
        (acting(info.impersonator().map(|by| &**by), info.audit_user.as_deref()))
    }
}

/// Who is behind a user.
pub(super) fn acting(impersonated_by: Option<&str>, audit_user: Option<&str>) -> Markup {
    html! {
        @if let Some(actor) = impersonated_by {
            " " span.tag.warn { "Impersonated by " bdi { (stranger(actor)) } }
        }
        @if let Some(auditor) = audit_user {
            " " span.tag.warn { "Audited by " bdi { (stranger(auditor)) } }
        }
    }
}

pub(super) fn session_link(id: SessionId) -> Markup {
    html! { a.id href={ "/console/sessions/" (id) } { (id) } }
}

/// A number with its thousands apart.
pub(super) fn number(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// How many of a thing.
pub(super) fn count(number_of: usize, one: &str, many: &str) -> String {
    format!("{} {}", number(number_of), if number_of == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_are_easy_to_read() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(1, "session", "sessions"), "1 session");
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7_300, "2 h"), (200_000, "2 d")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(exact(Timestamp::EPOCH), "1970-01-01 00:00:00 UTC");
    }
}
