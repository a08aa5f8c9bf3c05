//! Every route, once. The router, the scopes, the labels of metrics and the tests come from this list, and the
//! documentation is compared with it.

use std::fmt;

use axum::{
    Router,
    extract::{MatchedPath, Request},
    routing::{MethodFilter, on},
};
use cloakroom_api::{self as wire, Code, schemars::SchemaGenerator};
use http::Method;

use super::{
    App, audit, config, docs_page, events, forward_auth, health, impersonate, jobs, locks, metrics,
    openapi::{self, Answers, Taken},
    patch, resume, revoke, sessions, start, users,
};
use crate::keys::Scope::{self, Admin, Read, Write};

/// A method on a path.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Its name in the OpenAPI document, for those who generate clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// The scope of API key that it takes; `None` for calls without one.
    pub(super) scope: Option<Scope>,
    pub(super) effect: Effect,
    /// What its handler takes.
    pub(super) takes: fn(&mut SchemaGenerator) -> Taken,
    pub(super) answers: &'static [(u16, Answers)],
    /// What can go wrong that cannot with every call.
    pub(super) problems: &'static [Code],
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// What a call does, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It looks, and may note that a session was used. It ends with its caller.
    Looks,
    /// It looks, and where it is asked to it changes something too: that goes on to its end without its caller.
    MayChange,
    /// It changes something, and goes on to its end without its caller.
    Changes,
    /// It changes something, in portions perhaps, and its answer holds no token: it goes on without its caller, who may ask
    /// for the answer again.
    Ends,
}
use Effect::{Changes, Ends, Looks, MayChange};

macro_rules! routes {
    ($(
        #[doc = $summary:literal]
        $method:ident $path:literal $id:ident $scope:expr, $effect:ident => $handler:path,
        $([$status:literal $($answer:tt)+])+ !$($code:ident)*;
    )+) => {
        pub(super) static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            id: stringify!($id),
            summary: $summary.trim_ascii(),
            scope: $scope,
            effect: $effect,
            takes: |generator| openapi::taken($handler, generator),
            answers: &[$(($status, answers!($($answer)+))),+],
            problems: &[$(Code::$code),*],
        }),+];

        /// All of them.
        pub(super) fn router() -> Router<App> {
            Router::new()$(.route($path, on(MethodFilter::$method, $handler)))+
        }
    };
}

macro_rules! answers {
    ($content_type:literal) => {
        Answers::Other($content_type)
    };
    ($type:ty) => {
        Answers::Json(openapi::shape::<$type>)
    };
}

routes! {
    /// List living sessions.
    GET "/v1/sessions" listSessions Some(Read), Looks => sessions::list,
        [200 wire::Listed<'static>] !;
    /// Start a session.
    POST "/v1/sessions" startSession Some(Write), Changes => start::start,
        [201 wire::Started<'static>]
        ! UserDisabled NetworkNotAllowed NotInDirectory AuditForbidden SessionUnknown SessionLimit EndedMeanwhile
          DataTooLarge InvalidKey NestedTooDeep;
    /// Count living sessions.
    GET "/v1/sessions/count" countSessions Some(Read), Looks => sessions::count,
        [200 wire::Counted] !;
    /// Look a session up by its token, and change its data on the way.
    POST "/v1/sessions/resume" resumeSession Some(Read), MayChange => resume::resume,
        [200 wire::Shown<'static>] [201 wire::Started<'static>]
        ! UserDisabled NetworkNotAllowed NotInDirectory AuditForbidden SessionUnknown SessionEnded VersionConflict LockLost
          EndedMeanwhile DataTooLarge InvalidKey NestedTooDeep NotANumber NumberOverflow;
    /// Look several sessions up by their tokens.
    POST "/v1/sessions/resume-many" resumeSessions Some(Read), Looks => resume::resume_many,
        [200 wire::ResumedMany] !;
    /// Give the holder of a token a new one.
    POST "/v1/sessions/rotate" rotateToken Some(Write), Changes => sessions::rotate,
        [200 wire::Rotated<'static>]
        ! UserDisabled NetworkNotAllowed NotInDirectory AuditForbidden SessionUnknown SessionEnded;
    /// Act as another user.
    POST "/v1/sessions/impersonate" impersonate Some(Admin), Changes => impersonate::start,
        [201 wire::HandedOver<'static>]
        ! ImpersonationRefused UserDisabled NetworkNotAllowed NotInDirectory AuditForbidden SessionUnknown SessionEnded
          EndedMeanwhile SessionLimit;
    /// Go back from acting as another.
    POST "/v1/sessions/impersonate/stop" stopImpersonating Some(Admin), Changes => impersonate::stop,
        [201 wire::HandedOver<'static>]
        ! ImpersonationRefused UserDisabled NetworkNotAllowed NotInDirectory AuditForbidden SessionUnknown SessionEnded;
    /// End all sessions that match.
    POST "/v1/sessions/revoke" revokeSessions Some(Admin), Ends => revoke::revoke,
        [200 wire::Revoked] ! QueryEmpty;
    /// Show a session.
    GET "/v1/sessions/{id}" showSession Some(Read), Looks => sessions::show,
        [200 wire::Shown<'static>] ! SessionUnknown SessionEnded;
    /// Change a session.
    PATCH "/v1/sessions/{id}" changeSession Some(Write), Changes => patch::patch,
        [200 wire::Shown<'static>]
        ! SessionUnknown SessionEnded VersionConflict LockLost DataTooLarge InvalidKey NestedTooDeep NotANumber
          NumberOverflow;
    /// End a session.
    DELETE "/v1/sessions/{id}" endSession Some(Write), Ends => sessions::end,
        [200 wire::Ended] ! SessionUnknown;
    /// Take a session's lock.
    POST "/v1/sessions/{id}/lock" lockSession Some(Write), Changes => locks::lock,
        [200 wire::Locked<'static>] ! SessionUnknown SessionEnded Locked;
    /// Hold a lock for longer.
    POST "/v1/sessions/{id}/renew" renewLock Some(Write), Changes => locks::renew,
        [200 wire::Renewed] ! SessionUnknown SessionEnded LockLost;
    /// Give a lock back.
    POST "/v1/sessions/{id}/unlock" unlockSession Some(Write), Changes => locks::unlock,
        [200 wire::Unlocked] ! SessionUnknown SessionEnded;
    /// List the directory of users.
    GET "/v1/users" listUsers Some(Admin), Looks => users::list,
        [200 wire::ListedUsers<'static>] !;
    /// Show a user.
    GET "/v1/users/{user}" showUser Some(Admin), Looks => users::show,
        [200 wire::ShownUser<'static>] ! UserUnknown InvalidField;
    /// Change a user, or add one.
    PATCH "/v1/users/{user}" changeUser Some(Admin), Ends => users::patch,
        [200 wire::PatchedUser<'static>] !;
    /// Delete a user.
    DELETE "/v1/users/{user}" deleteUser Some(Admin), Ends => users::delete,
        [200 wire::Deleted] !;
    /// End a user's other sessions.
    POST "/v1/users/{user}/clear-sessions" clearSessions Some(Write), Ends => users::clear_sessions,
        [200 wire::Revoked] !;
    /// Ask about a call that takes long.
    GET "/v1/jobs/{id}" showJob Some(Write), Looks => jobs::show,
        [200 wire::Jobs<'static>] ! JobUnknown;
    /// Read the audit log.
    GET "/v1/audit" listAudit Some(Read), Looks => audit::list,
        [200 wire::Audited<'static>] !;
    /// Follow the audit log.
    GET "/v1/events" followAudit Some(Read), Looks => events::follow,
        [200 "text/event-stream"] !;
    /// Say how the server is set up.
    GET "/v1/config" showConfig Some(Read), Looks => config::show,
        [200 wire::Config] !;
    /// End what has expired.
    POST "/v1/reap" reap Some(Admin), Ends => audit::reap,
        [200 wire::Reaped] !;
    /// Whether the process answers.
    GET "/healthz" alive None, Looks => health::alive,
        [200 wire::Health] !;
    /// Whether the server can work.
    GET "/readyz" ready None, Looks => health::ready,
        [200 wire::Health] ! ClockSkew NotReady StoreUnavailable OutcomeUnknown OutOfFiles ReadOnly Contended;
    /// What is counted.
    GET "/metrics" metrics None, Looks => metrics::show,
        [200 "text/plain"] !;
    /// This document.
    GET "/openapi.json" openapi None, Looks => openapi::show,
        [200 wire::schema::Object] !;
    /// This document, to be read.
    GET "/docs" docs None, Looks => docs_page::show,
        [200 "text/html"] !;
    /// The keys that verify assertions.
    GET "/.well-known/jwks.json" assertionKeys None, Looks => forward_auth::jwks,
        [200 "application/jwk-set+json"] !;
}

/// The route of a request, where the path takes its method.
pub(super) fn of(request: &Request) -> Option<&'static Route> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    ROUTES.iter().find(|route| route.path == path && route.method == *method)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of the table of calls in the documentation: method, path, scope.
    fn documented() -> Vec<(String, String, String)> {
        let documentation = include_str!("../../../docs/api.md");
        let table = documentation.split("## Calls").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| [`"));
        rows.map(|row| {
            let mut cells = row.trim_matches('|').split(" | ");
            let call = cells.next().unwrap().split('`').nth(1).unwrap();
            let (method, path) = call.split_once(' ').unwrap();
            (method.to_owned(), path.to_owned(), cells.next().unwrap().trim().to_owned())
        })
        .collect()
    }

    #[test]
    fn the_documentation_has_every_route_with_its_scope_and_no_other() {
        let mut documented = documented();
        documented.retain(|(_, path, _)| !path.starts_with("/auth"));
        let mut routes: Vec<_> = ROUTES
            .iter()
            .map(|route| {
                let scope = route.scope.map_or("none", Scope::name);
                (route.method.to_string(), route.path.to_owned(), scope.to_owned())
            })
            .collect();
        documented.sort();
        routes.sort();
        assert_eq!(documented, routes);
    }
}
