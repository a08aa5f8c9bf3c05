//! Tables.

use std::time::Duration;

use super::{load::Run, options::Request};

pub(crate) const HEADINGS: &str = "\
| request | | requests/s | p50 | p99 | p99 / p50 | subject's CPU a request | backend's | failed |
|---|---|---|---|---|---|---|---|---|";

pub(crate) const MINUTES: &str = "\
| minute | requests/s | p50 | p99 | subject's CPU a request | backend's | failed |
|---|---|---|---|---|---|---|";

/// The rounds of one subject with one request.
#[derive(Default)]
pub(crate) struct Cell(Vec<Run>);

impl Cell {
    pub(crate) fn add(&mut self, run: Run) {
        self.0.push(run);
    }

    /// Least and greatest of the rounds.
    fn range(&self, of: impl Fn(&Run) -> Option<f64>, digits: usize) -> String {
        let mut values: Vec<_> = self.0.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        match values.as_slice() {
            [] => String::new(),
            [first, .., last] if format!("{first:.digits$}") != format!("{last:.digits$}") => {
                format!("{first:.digits$}–{last:.digits$}")
            }
            [first, ..] => format!("{first:.digits$}"),
        }
    }
}

pub(crate) fn line(system: &str, request: Request, meets: bool, cell: &Cell) -> String {
    let request = if meets { format!("{request}, meeting") } else { request.to_string() };
    format!(
        "| {request} | {system} | {} | {} ms | {} ms | {} | {} µs | {} | {} |",
        cell.range(|run| Some(rate(run)), 0),
        cell.range(|run| Some(millis(run.latencies.within(500))), 2),
        cell.range(|run| Some(millis(run.latencies.within(990))), 2),
        cell.range(|run| Some(spread(run)), 1),
        cell.range(|run| Some(micros_each(run.own_cpu, run)), 1),
        match cell.range(|run| Some(micros_each(run.backend_cpu?, run)), 1) {
            none if none.is_empty() => none,
            micros => micros + " µs",
        },
        cell.0.iter().map(|run| run.failed).sum::<u64>(),
    )
}

pub(crate) fn minute(number: usize, run: &Run) -> String {
    let backend = run.backend_cpu.map_or_else(String::new, |cpu| format!("{:.1} µs", micros_each(cpu, run)));
    format!(
        "| {number} | {:.0} | {:.2} ms | {:.2} ms | {:.1} µs | {backend} | {} |",
        rate(run),
        millis(run.latencies.within(500)),
        millis(run.latencies.within(990)),
        micros_each(run.own_cpu, run),
        run.failed,
    )
}

/// How the last minute stands beside the second.
pub(crate) fn of_second(second: &Run, last: &Run) -> String {
    format!(
        "the last minute's throughput is {:.2} of the second's, its p99 {:.2}",
        rate(last) / rate(second),
        millis(last.latencies.within(990)) / millis(second.latencies.within(990)),
    )
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many")]
fn rate(run: &Run) -> f64 {
    run.answered as f64 / run.time.as_secs_f64()
}

fn spread(run: &Run) -> f64 {
    millis(run.latencies.within(990)) / millis(run.latencies.within(500))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many")]
fn micros_each(time: Duration, run: &Run) -> f64 {
    time.as_secs_f64() * 1e6 / (run.answered + run.failed).max(1) as f64
}
