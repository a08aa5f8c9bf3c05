//! What the server counts, in the text format of Prometheus. Labels are routes and classes of status, so there is a fixed
//! number of them, and none holds what a request brought.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use axum::response::{IntoResponse, Response};
use cloakroom::{sessions::ClockOffset, store::NearFigures};
use http::{StatusCode, header};

use super::{App, call::Call, forward_auth, routes::ROUTES};
use crate::{console, log, server::Cut};

/// What is counted for each route: its path, and after those of the list forward authentication, the console and all else
/// together.
#[derive(Debug)]
pub(crate) struct Metrics(Vec<RouteMetrics>);

impl Default for Metrics {
    fn default() -> Self {
        let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
        paths.dedup();
        paths.extend([forward_auth::ROUTE, console::PATH, OTHER]);
        Self(paths.into_iter().map(|path| RouteMetrics { path, ..RouteMetrics::default() }).collect())
    }
}

const OTHER: &str = "other";

#[derive(Debug, Default)]
struct RouteMetrics {
    path: &'static str,
    /// By class of status, from 1xx.
    requests: [AtomicU64; 5],
    micros: AtomicU64,
}

impl Metrics {
    pub(super) fn count(&self, path: &str, status: StatusCode, took: Duration) {
        let path = if path.starts_with(console::PATH) { console::PATH } else { path };
        let Some(route) = self.0.iter().find(|route| route.path == path).or(self.0.last()) else { return };
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        route.requests[class].fetch_add(1, Relaxed);
        route.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn text(&self) -> String {
        let mut requests = String::from(
            "# HELP cloakroom_requests_total Requests answered, by route and class of status.\n\
             # TYPE cloakroom_requests_total counter\n",
        );
        let mut seconds = String::from(
            "# HELP cloakroom_request_seconds_total Time spent on answering, by route.\n\
             # TYPE cloakroom_request_seconds_total counter\n",
        );
        for metrics in &self.0 {
            let route = metrics.path;
            for (class, count) in (1..).zip(&metrics.requests) {
                let count = count.load(Relaxed);
                if count > 0 {
                    writeln!(requests, "cloakroom_requests_total{{route=\"{route}\",status=\"{class}xx\"}} {count}")
                        .expect("writing to a string cannot fail");
                }
            }
            let spent = Duration::from_micros(metrics.micros.load(Relaxed)).as_secs_f64();
            writeln!(seconds, "cloakroom_request_seconds_total{{route=\"{route}\"}} {spent}")
                .expect("writing to a string cannot fail");
        }
        requests + &seconds
    }
}

pub(super) async fn show(Call { app, .. }: Call) -> Response {
    let near = app.sessions.near_figures().map_or_else(String::new, near_cache);
    let text = app.metrics.text() + &operations(&app) + &near + &clock_offset(app.sessions.clock_offset());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// What the server itself does beside answering.
fn operations(app: &App) -> String {
    let mut text = format!(
        "# HELP cloakroom_connections Connections that are open.\n\
         # TYPE cloakroom_connections gauge\n\
         cloakroom_connections {}\n\
         # HELP cloakroom_api_keys_refused_total Requests refused for a wrong API key.\n\
         # TYPE cloakroom_api_keys_refused_total counter\n\
         cloakroom_api_keys_refused_total {}\n\
         # HELP cloakroom_log_lines_lost_total Lines of the log that could not be written.\n\
         # TYPE cloakroom_log_lines_lost_total counter\n\
         cloakroom_log_lines_lost_total {}\n\
         # HELP cloakroom_connections_cut_total Connections that the server closed, by why.\n\
         # TYPE cloakroom_connections_cut_total counter\n",
        app.crowd.count(),
        app.attempts.refused(),
        log::lost(),
    );
    for why in Cut::ALL {
        let (name, count) = (why.name(), app.crowd.cut(why));
        writeln!(text, "cloakroom_connections_cut_total{{why=\"{name}\"}} {count}")
            .expect("writing to a string cannot fail");
    }
    text
}

/// What the near cache does, where there is one.
fn near_cache(figures: NearFigures) -> String {
    let NearFigures { hits, misses, joined, told, slots, bytes, .. } = figures;
    let (slots, bytes) = (slots as u64, bytes as u64);
    let figures = [
        ("hits_total", "Sessions that were served from memory.", "counter", hits),
        ("misses_total", "Sessions that were loaded.", "counter", misses),
        ("joined_total", "Requests that waited for another one's load.", "counter", joined),
        ("told_total", "Changes that the store's server told of.", "counter", told),
        ("sessions", "Sessions that lie in memory, and ids that are known to be none's.", "gauge", slots),
        ("bytes", "About how many bytes they take.", "gauge", bytes),
    ];
    let mut text = String::new();
    for (name, help, kind, value) in figures {
        let name = format!("cloakroom_near_cache_{name}");
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")
            .expect("writing to a string cannot fail");
    }
    text
}

/// Nothing where the store has no clock of its own.
fn clock_offset(offset: Option<ClockOffset>) -> String {
    offset.map_or_else(String::new, |offset| {
        let millis = offset.ahead_millis();
        let sign = if millis < 0 { "-" } else { "" };
        let ahead = Duration::from_millis(millis.unsigned_abs()).as_secs_f64();
        format!(
            "# HELP cloakroom_clock_offset_seconds How far this machine's clock is ahead of the store's.\n\
             # TYPE cloakroom_clock_offset_seconds gauge\n\
             cloakroom_clock_offset_seconds {sign}{ahead}\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_brought_is_no_label() {
        let metrics = Metrics::default();
        metrics.count("/v1/sessions", StatusCode::CREATED, Duration::from_millis(1500));
        metrics.count("/auth", StatusCode::UNAUTHORIZED, Duration::ZERO);
        metrics.count("/v1/events", StatusCode::OK, Duration::ZERO);
        metrics.count("/console/sessions/{id}", StatusCode::SEE_OTHER, Duration::ZERO);
        metrics.count("/made-up\"} 1", StatusCode::NOT_FOUND, Duration::ZERO);
        let text = metrics.text();
        for line in [
            "cloakroom_requests_total{route=\"/v1/sessions\",status=\"2xx\"} 1\n",
            "cloakroom_requests_total{route=\"/auth\",status=\"4xx\"} 1\n",
            "cloakroom_requests_total{route=\"/v1/events\",status=\"2xx\"} 1\n",
            "cloakroom_requests_total{route=\"/console\",status=\"3xx\"} 1\n",
            "cloakroom_requests_total{route=\"other\",status=\"4xx\"} 1\n",
            "cloakroom_request_seconds_total{route=\"/v1/sessions\"} 1.5\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("made-up"));
    }

    #[test]
    fn every_route_has_a_label_of_its_own() {
        let metrics = Metrics::default();
        for (count, route) in (1..).zip(ROUTES) {
            metrics.count(route.path, StatusCode::OK, Duration::ZERO);
            let counted: u64 = metrics.0.iter().map(|metrics| metrics.requests[1].load(Relaxed)).sum();
            assert_eq!(counted, count);
        }
        assert_eq!(metrics.0.last().unwrap().requests[1].load(Relaxed), 0, "none counts as other");
        let mut paths: Vec<_> = metrics.0.iter().map(|metrics| metrics.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), metrics.0.len());
    }
}
