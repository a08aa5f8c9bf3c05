//! The console in a real browser: every page and every action.
//!
//! Each test starts a server of its own and has `browser/console.mjs` play the scenario of the test's name. It needs
//! Node.js, Chromium, playwright-core and axe-core, which `cargo xtask test` provides; without them the tests are skipped.

use std::{process::Command, time::Duration};

use crate::common::TestServer;
use cloakroom_server::Bounds;

macro_rules! scenarios {
    ($($name:ident;)+) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })+
    };
}

scenarios! {
    an_operator_finds_a_session_looks_at_it_and_ends_it;
    what_a_filter_shows_is_what_ends_after_a_look;
    a_user_is_limited_disabled_enabled_and_signed_out_everywhere;
    the_audit_log_shows_what_comes_and_goes_back_in_time;
    the_overview_counts_and_draws;
    every_page_is_for_everyone_in_the_light_in_the_dark_and_on_a_phone;
    nothing_that_a_stranger_wrote_runs;
    a_keyboard_is_enough;
    scripts_are_not_needed;
    f1_another_site_cannot_end_a_session_with_an_operators_browser;
    r1_going_back_after_signing_out_shows_nothing;
    c1_c2_c5_c6_the_consoles_cookie_is_closed_and_leaves_the_applications_alone;
}

fn play(scenario: &str) {
    for variable in ["CLOAKROOM_TEST_BROWSER", "CLOAKROOM_TEST_PLAYWRIGHT"] {
        if needs::variable(variable).is_none() {
            return;
        }
    }
    let events_interval = Duration::from_millis(50);
    let server = TestServer::with_bounds(Bounds { events_interval, ..Bounds::default() });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/console/browser/console.mjs");
    // Where pictures of a failure go.
    let pictures = env!("CARGO_TARGET_TMPDIR");
    let played = Command::new("node")
        .args([script, scenario, &format!("http://{}", server.address), pictures])
        .envs([("READ_KEY", &server.read), ("WRITE_KEY", &server.write), ("ADMIN_KEY", &server.admin)])
        .output()
        .expect("node runs");
    let (said, complained) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{}: {said}{complained}", played.status);
    // Node.js ends well, too, when nothing is left to wait for.
    assert_eq!(said, format!("{scenario}: played\n"));
}
