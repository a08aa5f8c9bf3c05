//! How it is now, and how it was.

use std::time::Duration;

use axum::{extract::State, response::Response};
use cloakroom::{Reason, Timestamp};
use http::StatusCode;
use maud::{Markup, html};
use serde_json::json;

use super::{
    Console,
    access::Operator,
    assets,
    fault::Fault,
    fields::Fields,
    html::{Section, exact, number, page, stranger, time},
    ledger::Hour,
    living::{Count, Tally},
};
use crate::percent;

/// What the charts show: how far back, and in which steps.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Period {
    name: &'static str,
    text: &'static str,
    hours: u64,
    step: u64,
}

const PERIODS: [Period; 3] = [
    Period { name: "day", text: "24 hours", hours: 24, step: 1 },
    Period { name: "week", text: "7 days", hours: 7 * 24, step: 6 },
    Period { name: "month", text: "30 days", hours: 30 * 24, step: 24 },
];

const WITHIN: Duration = Duration::from_millis(60);

/// `GET /console`
pub(super) async fn show(
    State(console): State<Console>,
    operator: Operator,
    uri: http::Uri,
) -> Result<Response, Fault> {
    let fields = Fields::of_query(uri.query(), &["period"])?;
    let wanted = fields.text("period").unwrap_or("day");
    let Some(period) = PERIODS.into_iter().find(|period| period.name == wanted) else {
        return Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "There is no such period", "day, week or month"));
    };
    let sessions = &console.app.sessions;
    let (standing, (count, so_far)) =
        tokio::join!(console.ledger.read_on(sessions, WITHIN), console.living.count(sessions, WITHIN));
    let now = sessions.now();
    let steps = steps(&console.ledger.hours(now.before(Duration::from_hours(period.hours))), now, period);
    let mut sum = Hour::default();
    for (_, hour) in &steps {
        sum.add(hour);
    }
    let body = html! {
        div.head {
            h1 { "Overview" }
            nav.periods aria-label="Period" {
                @for one in PERIODS {
                    a href={ "/console?period=" (one.name) } aria-current=[(one == period).then_some("true")] { (one.text) }
                }
            }
        }
        @if !standing.complete {
            p.notice role="status" data-refresh {
                "The audit log is being read: " (number(standing.entries)) " entries so far. Counts of the past are not whole yet."
            }
        }
        (figures(now, count.as_deref(), so_far, &sum, period))
        section.card {
            h2 { "Sign-ins and endings" }
            (chart(&steps, period))
        }
        div.columns.three {
            section.card {
                h2 { "Endings by reason" }
                (bars(by_reason(&sum), "Nothing ended.", None))
            }
            (living(count.as_deref()))
        }
    };
    Ok(page(&operator, Section::Overview, "Overview", &body))
}

/// One for each step of the period, those without anything too.
fn steps(hours: &[(Timestamp, Hour)], now: Timestamp, period: Period) -> Vec<(Timestamp, Hour)> {
    let step = Duration::from_hours(period.step);
    let length = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
    let last = Timestamp::from_millis(now.as_millis().div_euclid(length) * length);
    let count = u32::try_from(period.hours / period.step).unwrap_or(u32::MAX);
    let starts = (0..count).rev().map(|back| last.before(step * back));
    starts
        .map(|start| {
            let mut sum = Hour::default();
            let within = hours.iter().filter(|(hour, _)| (start..start.after(step)).contains(hour));
            for (_, hour) in within {
                sum.add(hour);
            }
            (start, sum)
        })
        .collect()
}

fn figures(now: Timestamp, count: Option<&Count>, so_far: Option<usize>, sum: &Hour, period: Period) -> Markup {
    let figure = |name: &str, value: Option<usize>, note: Markup| {
        html! {
            div.card.figure {
                dt { (name) }
                dd {
                    @match value { Some(value) => strong { (number(value)) }, None => strong.soft { "…" } }
                    span.soft { (note) }
                }
            }
        }
    };
    let over = || html! { "in " (period.text) };
    let counted = html! {
        @match (count, so_far) {
            (Some(count), _) => { "counted " (time(now, count.at)) },
            (None, Some(so_far)) => { span data-refresh { "counting: " (number(so_far)) " so far" } },
            (None, None) => "cannot be counted",
        }
    };
    html! {
        dl.figures {
            (figure("Active now", count.map(|count| count.all), counted))
            (figure("Signed in", count.map(|count| count.signed_in), html! { "of those active" }))
            (figure("Impersonated", count.map(|count| count.impersonated), html! { "of those active" }))
            (figure("Sign-ins", Some(sum.sign_ins), over()))
            (figure("Endings", Some(sum.all_ended()), over()))
            (figure("Refused", Some(sum.refused), over()))
        }
    }
}

type CountOf = fn(&Hour) -> usize;

/// What the chart draws.
const LINES: [(&str, CountOf); 3] = [
    ("Sign-ins", |hour| hour.sign_ins + hour.impersonations),
    ("Endings", Hour::all_ended),
    ("Anonymous starts", |hour| hour.anonymous),
];

/// Drawn by a script from the data beside it, which is there as a table too.
fn chart(steps: &[(Timestamp, Hour)], period: Period) -> Markup {
    let values = |of: &CountOf| steps.iter().map(|(_, hour)| of(hour)).collect::<Vec<_>>();
    let data = json!({
        "times": steps.iter().map(|(at, _)| at.as_millis() / 1000).collect::<Vec<_>>(),
        "series": LINES.iter().map(|(name, of)| json!({ "name": name, "values": values(of) })).collect::<Vec<_>>(),
    });
    html! {
        link rel="stylesheet" href=(assets::path("uplot.min.css"));
        script defer src=(assets::path("uplot.min.js")) {}
        script defer src=(assets::path("chart.js")) {}
        div.chart data-chart=(data) role="img"
            aria-label={ "Sign-ins and endings in the last " (period.text) "; the table below has the numbers" } {}
        details {
            summary { "As a table" }
            table.list {
                thead {
                    tr {
                        th scope="col" { "From" }
                        @for (name, _) in LINES { th scope="col" { (name) } }
                    }
                }
                tbody {
                    @for (at, hour) in steps.iter().rev() {
                        tr {
                            td data-label="From" { (exact(*at)) }
                            @for (name, of) in LINES { td data-label=(name) { (number(of(hour))) } }
                        }
                    }
                }
            }
        }
    }
}

fn by_reason(sum: &Hour) -> Vec<(String, usize)> {
    let reasons = Reason::ALL.iter().zip(sum.ended);
    let mut reasons: Vec<_> = reasons.map(|(reason, count)| (reason.code().replace('_', " "), count)).collect();
    reasons.retain(|(_, count)| *count > 0);
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    reasons
}

fn living(count: Option<&Count>) -> Markup {
    let most = |tally: &Tally| {
        let most = tally.most(8).into_iter().map(|(text, count)| (text.to_string(), count));
        let unknown = Some(("unknown".to_owned(), tally.unknown)).filter(|(_, count)| *count > 0);
        most.chain(unknown).collect::<Vec<_>>()
    };
    html! {
        section.card {
            h2 { "Active by device" }
            @match count {
                Some(count) => (bars(most(&count.devices), "Nobody is here.", Some("device"))),
                None => p.soft { "Being counted." },
            }
        }
        section.card {
            h2 { "Active by country" }
            @match count {
                Some(count) if count.countries.is_empty() => p.soft {
                    "No session has a country: the server needs a " code { "country_database" } "."
                },
                Some(count) => (bars(most(&count.countries), "Nobody is here.", None)),
                None => p.soft { "Being counted." },
            }
        }
    }
}

/// Counts as bars, as links to the sessions that have the value where there is a filter.
fn bars(counts: Vec<(String, usize)>, none: &str, filter: Option<&str>) -> Markup {
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or_default().max(1);
    html! {
        @if counts.is_empty() { p.soft { (none) } }
        ul.bars {
            @for (text, count) in counts {
                li {
                    @match filter.filter(|_| text != "unknown") {
                        Some(filter) => a.plain href={ "/console/sessions?" (filter) "=" (percent::encoded(&text)) } {
                            bdi { (stranger(&text)) }
                        },
                        None => bdi { (stranger(&text)) },
                    }
                    span { (number(count)) }
                    svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" {
                        rect width=(count * 100 / most) height="1" {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_period_is_there_once() {
        let now = Timestamp::from_millis(1_800_000_123_456);
        let hour = |back: u64| {
            let at = now.before(Duration::from_hours(back)).as_millis().div_euclid(3_600_000) * 3_600_000;
            (Timestamp::from_millis(at), Hour { sign_ins: 1, ..Hour::default() })
        };
        for period in PERIODS {
            let hours: Vec<_> = (0..period.hours - period.step).rev().map(hour).collect();
            let steps = steps(&hours, now, period);
            assert_eq!(steps.len() as u64, period.hours / period.step);
            let counted: usize = steps.iter().map(|(_, hour)| hour.sign_ins).sum();
            assert_eq!(counted, hours.len(), "{}", period.name);
            assert!(steps.last().is_some_and(|(at, _)| *at <= now));
        }
    }
}
