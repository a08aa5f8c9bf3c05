//! The headers that tell an application who its visitor is.

use cloakroom::{Ended, SessionInfo};

use crate::percent;

/// Their names. `docs/forward-auth.md` strips each of them from what clients send.
pub(super) const HEADERS: [&str; 8] = [
    "x-session-id",
    "x-user",
    "x-full-name",
    "x-user-type",
    "x-impersonated-by",
    "x-audit-user",
    "x-session-ended",
    "x-session-assertion",
];

/// All of them with their values in visible ASCII, empty where there is nothing to say: a proxy that copies them then
/// overwrites what a client made up.
pub(super) fn headers(
    session: Option<&SessionInfo>,
    ended: Option<&Ended>,
    assertion: Option<&str>,
) -> [(&'static str, String); HEADERS.len()] {
    let id = session.map(|session| session.id.to_string());
    let field = |field: fn(&SessionInfo) -> Option<&str>| session.and_then(field);
    let values = [
        id.as_deref(),
        field(|session| session.user.as_deref()),
        field(|session| session.full_name.as_deref()),
        field(|session| session.user_type.as_deref()),
        field(|session| session.impersonator().map(|by| &**by)),
        field(|session| session.audit_user.as_deref()),
        ended.map(|ended| ended.reason.code()),
        // Its alphabet needs no escapes.
        assertion,
    ];
    let mut values = values.into_iter();
    HEADERS.map(|name| (name, percent::encoded(values.next().flatten().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_every_documented_proxy_strips_and_passes_on_every_header() {
        let page = include_str!("../../../../docs/forward-auth.md").to_lowercase();
        for (proxy, strips, passes_on) in [
            ("nginx", "proxy_set_header NAME $", "$upstream_http_VARIABLE;"),
            ("caddy", "request_header -NAME\n", " NAME"),
            ("haproxy", "del-header NAME\n", "\"NAME\""),
            ("envoy", "remove: NAME\n", "exact: NAME\n"),
            ("traefik", " NAME: \"\"\n", "- NAME\n"),
        ] {
            let section = page.split("\n## ").find(|section| section.lines().next() == Some(proxy)).unwrap();
            for name in HEADERS {
                for line in [strips, passes_on] {
                    let line = line.replace("NAME", name).replace("VARIABLE", &name.replace('-', "_"));
                    assert!(section.contains(&line), "{proxy} has no {line:?}");
                }
            }
        }
    }
}
