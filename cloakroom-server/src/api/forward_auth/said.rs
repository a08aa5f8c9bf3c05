//! What the operator hears of a proxy's configuration. A visitor can cause each line, so none comes often.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use super::App;

/// Which lines the log holds already, and since when.
#[derive(Debug, Default)]
pub(crate) struct Said {
    query: AtomicBool,
    /// In milliseconds; 0 for never.
    unknown_policy: AtomicI64,
    beneath: AtomicI64,
    no_policy_extension: AtomicI64,
}

/// Between two lines of one kind.
const PAUSE: Duration = Duration::from_mins(1);

impl Said {
    pub(super) fn query_ignored(&self) {
        if !self.query.swap(true, Relaxed) {
            tracing::info!(
                "the query of requests for /auth is ignored: the proxy passes the visitor's on. What is asked of \
                 visitors stands in [policies.NAME] of the settings file (said once)"
            );
        }
    }

    pub(super) fn unknown_policy(&self, name: &str, app: &App) {
        if due(&self.unknown_policy, app) {
            let name: String = name.chars().take(64).collect();
            let policies = app.forward_auth.policies.names().collect::<Vec<_>>().join(", ");
            tracing::error!(
                policy = name,
                "a proxy asked for a policy that is not there, and its visitor was refused: add [policies.NAME] to the \
                 settings file, or let the proxy ask for one of {policies}, as /auth:NAME"
            );
        }
    }

    pub(super) fn beneath(&self, app: &App) {
        if due(&self.beneath, app) {
            tracing::error!(
                "a proxy asked for a path beneath /auth/, and its visitor was refused: such a path may be the visitor's \
                 own, so it names no policy. Write /auth:NAME; where the proxy appends the visitor's path, as \
                 Envoy's path_prefix does, /auth:default for the policy of /auth"
            );
        }
    }

    pub(super) fn no_policy_extension(&self, app: &App) {
        if due(&self.no_policy_extension, app) {
            tracing::error!(
                "a proxy that asks over gRPC sets context_extensions without a policy among them, and its visitor was \
                 refused: set policy there, or no context_extensions for the policy default"
            );
        }
    }
}

fn due(last: &AtomicI64, app: &App) -> bool {
    let now = app.sessions.now().as_millis();
    let pause = i64::try_from(PAUSE.as_millis()).unwrap_or(i64::MAX);
    let next = |last| (last == 0 || now - last >= pause).then_some(now);
    last.fetch_update(Relaxed, Relaxed, next).is_ok()
}
