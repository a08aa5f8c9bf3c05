//! Every route, once. The router, the scopes, the labels of metrics and the tests come from this list, and the
//! documentation is compared with it.

use axum::{
    Router,
    extract::{MatchedPath, Request},
    routing::{MethodFilter, on},
};
use http::Method;

use super::{
    App, audit, config, events, forward_auth, health, impersonate, jobs, locks, metrics, patch, resume, revoke,
    sessions, start, users,
};
use crate::keys::Scope::{self, Admin, Read, Write};

/// A method on a path.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// The scope of API key that it takes; `None` for calls without one.
    pub(super) scope: Option<Scope>,
    pub(super) effect: Effect,
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
    ($($method:ident $path:literal $scope:expr, $effect:ident => $handler:path;)+) => {
        pub(super) static ROUTES: &[Route] = &[
            $(Route { method: Method::$method, path: $path, scope: $scope, effect: $effect }),+
        ];

        /// All of them.
        pub(super) fn router() -> Router<App> {
            Router::new()$(.route($path, on(MethodFilter::$method, $handler)))+
        }
    };
}

routes! {
    GET    "/v1/sessions"                     Some(Read),  Looks   => sessions::list;
    POST   "/v1/sessions"                     Some(Write), Changes => start::start;
    GET    "/v1/sessions/count"               Some(Read),  Looks   => sessions::count;
    POST   "/v1/sessions/resume"              Some(Read),  MayChange => resume::resume;
    POST   "/v1/sessions/resume-many"         Some(Read),  Looks   => resume::resume_many;
    POST   "/v1/sessions/rotate"              Some(Write), Changes => sessions::rotate;
    POST   "/v1/sessions/impersonate"         Some(Admin), Changes => impersonate::start;
    POST   "/v1/sessions/impersonate/stop"    Some(Admin), Changes => impersonate::stop;
    POST   "/v1/sessions/revoke"              Some(Admin), Ends    => revoke::revoke;
    GET    "/v1/sessions/{id}"                Some(Read),  Looks   => sessions::show;
    PATCH  "/v1/sessions/{id}"                Some(Write), Changes => patch::patch;
    DELETE "/v1/sessions/{id}"                Some(Write), Ends    => sessions::end;
    POST   "/v1/sessions/{id}/lock"           Some(Write), Changes => locks::lock;
    POST   "/v1/sessions/{id}/renew"          Some(Write), Changes => locks::renew;
    POST   "/v1/sessions/{id}/unlock"         Some(Write), Changes => locks::unlock;
    GET    "/v1/users"                        Some(Admin), Looks   => users::list;
    GET    "/v1/users/{user}"                 Some(Admin), Looks   => users::show;
    PATCH  "/v1/users/{user}"                 Some(Admin), Ends    => users::patch;
    DELETE "/v1/users/{user}"                 Some(Admin), Ends    => users::delete;
    POST   "/v1/users/{user}/clear-sessions"  Some(Write), Ends    => users::clear_sessions;
    GET    "/v1/jobs/{id}"                    Some(Write), Looks   => jobs::show;
    GET    "/v1/audit"                        Some(Read),  Looks   => audit::list;
    GET    "/v1/events"                       Some(Read),  Looks   => events::follow;
    GET    "/v1/config"                       Some(Read),  Looks   => config::show;
    POST   "/v1/reap"                         Some(Admin), Ends    => audit::reap;
    GET    "/healthz"                         None,        Looks   => health::alive;
    GET    "/readyz"                          None,        Looks   => health::ready;
    GET    "/metrics"                         None,        Looks   => metrics::show;
    GET    "/.well-known/jwks.json"           None,        Looks   => forward_auth::jwks;
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
