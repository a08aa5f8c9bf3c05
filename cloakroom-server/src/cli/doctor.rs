//! `cloakroom doctor`.

use std::error::Error as _;

use clap::Args;
use cloakroom::{
    Error, Sessions,
    sessions::ClockOffset,
    store::{Finding, Schema, Severity},
};
use serde_json::json;

use super::Failure;
use crate::{
    output::{self, Column, Paint, Table},
    redact, stores,
};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// The store, such as sqlite:cloakroom.db or postgres://USER:PASSWORD@HOST/DATABASE, or @FILE for an address in a file
    #[arg(value_name = "URL", env = "CLOAKROOM_STORE", default_value = "sqlite:cloakroom.db")]
    store: String,
    /// Mend what is wrong, where that can be done while the application runs and without guessing
    #[arg(long)]
    repair: bool,
    /// Print all findings as one JSON document
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.store = stores::address(&self.store)?;
        let examined = stores::run(self.examine()).map_err(|error| Failure::new(Failure::FAILED, error.to_string()))?;
        if let Err(error) = &examined
            && !self.json
        {
            return Err(unusable(&self.store, error));
        }
        let code = match &examined {
            Ok(findings) if findings.iter().any(Finding::is_wrong) => Failure::NOT_SOUND,
            Ok(_) => 0,
            Err(Error::StoreUrl(_)) => Failure::USAGE,
            Err(_) => Failure::UNAVAILABLE,
        };
        let findings = examined.unwrap_or_else(|error| vec![Finding::error("store", told(&error))]);
        let summary = summary(&findings);
        if self.json {
            let store = redact::address(&self.store);
            let is_sound = !findings.iter().any(Finding::is_wrong);
            output::json(&json!({ "store": store, "sound": is_sound, "findings": findings }).to_string())?;
        } else {
            let mut table = Table::new([Column::whole(""), Column::whole(""), Column::whole("")]);
            for finding in &findings {
                let (severity, paint) = match finding.severity {
                    _ if finding.repaired => ("repaired".to_owned(), Paint::Good),
                    severity @ Severity::Error => (severity.to_string(), Paint::Bad),
                    severity @ Severity::Warning => (severity.to_string(), Paint::Warning),
                    severity => (severity.to_string(), Paint::Plain),
                };
                table.row([
                    (severity.as_str(), paint),
                    (&finding.subject, Paint::Plain),
                    (&finding.text, Paint::Plain),
                ]);
            }
            table.print(true)?;
            output::line(&summary)?;
        }
        if code == 0 { Ok(()) } else { Err(Failure::new(code, "the store is not sound: see above")) }
    }

    async fn examine(&self) -> Result<Vec<Finding>, Error> {
        let shown = redact::address(&self.store);
        if self.store != "memory:" {
            // Opening makes what is not there and migrates what is old, and looking shall change nothing.
            match stores::schema(&self.store).await? {
                Schema { found: None, .. } => {
                    let message =
                        "there is no store yet: see whether the address is right, or make one with cloakroom migrate";
                    return Err(Error::Store { message: message.into(), source: None });
                }
                Schema { found: Some(found), latest } if found < latest => {
                    let text = format!(
                        "Its version is {found}, and this program works with {latest}: bring it up to date with cloakroom \
                         migrate, then look again."
                    );
                    return Ok(vec![reachable(&shown), Finding::error("schema", text)]);
                }
                Schema { .. } => {}
            }
        }
        let store = stores::open(&self.store).await?;
        let sessions = Sessions::builder(store).without_upkeep().build()?;
        // The first call may have to connect, and is no measure.
        let mut findings = vec![reachable(&shown)];
        match async {
            sessions.measure_clock_offset().await?;
            sessions.measure_clock_offset().await
        }
        .await
        {
            Ok(offset) => findings.push(clock(offset)),
            Err(error) => findings.push(Finding::error("usable", told(&error))),
        }
        findings.extend(sessions.examine(self.repair).await?);
        Ok(findings)
    }
}

fn reachable(store: &str) -> Finding {
    Finding::fine("reachable", format!("{store} answers."))
}

fn clock(offset: Option<ClockOffset>) -> Finding {
    match offset {
        None => Finding::fine("clock", "The store goes by this machine's clock."),
        Some(offset) if offset.is_too_large() => Finding::error(
            "clock",
            format!(
                "This machine's clock is {offset}, and at most {:?} are allowed: a server here is not ready. Synchronise \
                 both.",
                ClockOffset::MAX
            ),
        ),
        Some(offset) => Finding::fine("clock", format!("This machine's clock is {offset}.")),
    }
}

/// The error and what it comes from.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn unusable(store: &str, error: &Error) -> Failure {
    match error {
        Error::StoreUrl(_) => Failure::new(Failure::USAGE, error.to_string()),
        error => {
            let advice = if error.is_retryable() {
                "; see that it runs, that host and port are right, and that no firewall stands between"
            } else {
                ""
            };
            let message = format!("{} cannot be looked at: {}{advice}", redact::address(store), told(error));
            Failure::new(Failure::UNAVAILABLE, message)
        }
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |is_so: fn(&&Finding) -> bool| findings.iter().filter(is_so).count();
    let wrong = count(|finding| finding.is_wrong());
    let repaired = count(|finding| finding.repaired);
    let warnings = count(|finding| finding.severity == Severity::Warning && !finding.repaired);
    let notes = count(|finding| finding.severity == Severity::Note && !finding.repaired);
    let mut parts = vec![match wrong {
        0 => "Nothing is wrong".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        wrong => format!("{wrong} things are wrong"),
    }];
    for (count, one, many) in
        [(repaired, "repaired", "repaired"), (warnings, "warning", "warnings"), (notes, "note", "notes")]
    {
        if count > 0 {
            parts.push(format!("{count} {}", if count == 1 { one } else { many }));
        }
    }
    parts.join(", ") + "."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_matters() {
        let fine = Finding::fine("a", "");
        assert_eq!(summary(std::slice::from_ref(&fine)), "Nothing is wrong.");
        let error = Finding::error("a", "");
        let all = [fine, error.clone(), error.repaired(true), Finding::warning("a", ""), Finding::warning("b", "")];
        assert_eq!(summary(&all), "1 thing is wrong, 1 repaired, 2 warnings.");
    }
}
