//! The shop of `examples/shop.rs` in a real browser: what jars, histories and pages really do.
//!
//! Each test starts a shop of its own and has `browser/shop.mjs` play the scenario of the test's name. It needs Node.js,
//! Chromium and playwright-core, which `cargo xtask test` provides; without them the tests are skipped.
//!
//! Chromium counts `http://localhost` and `http://127.0.0.1` as trustworthy: it stores `Secure` cookies from there, and
//! names with `__Host-` too. So the shop needs no certificate, and its cookie is the one of production.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

#[test]
fn i14_the_cart_survives_signing_in() {
    play("i14_the_cart_survives_signing_in");
}

#[test]
fn c1_c2_c5_c6_the_jar_holds_a_host_cookie_that_scripts_cannot_read() {
    play("c1_c2_c5_c6_the_jar_holds_a_host_cookie_that_scripts_cannot_read");
}

#[test]
fn f1_a_form_on_another_site_is_refused() {
    play("f1_a_form_on_another_site_is_refused");
}

#[test]
fn no_link_to_the_sign_in_page_leads_elsewhere_afterwards() {
    play("no_link_to_the_sign_in_page_leads_elsewhere_afterwards");
}

#[test]
fn l1_the_token_from_before_the_sign_in_opens_nothing() {
    play("l1_the_token_from_before_the_sign_in_opens_nothing");
}

#[test]
fn r1_going_back_does_not_bring_a_signed_out_session_back() {
    play("r1_going_back_does_not_bring_a_signed_out_session_back");
}

#[test]
fn r3_signing_out_everywhere_else_ends_the_others_alone() {
    play("r3_signing_out_everywhere_else_ends_the_others_alone");
}

#[test]
fn r3_r5_a_device_that_is_signed_out_from_another_learns_why() {
    play("r3_r5_a_device_that_is_signed_out_from_another_learns_why");
}

#[test]
fn set_impersonated_an_administrator_looks_around_as_a_customer_and_goes_back() {
    play("set_impersonated_an_administrator_looks_around_as_a_customer_and_goes_back");
}

#[test]
fn r8_signing_out_deletes_the_cookie_and_keeps_the_cart() {
    play("r8_signing_out_deletes_the_cookie_and_keeps_the_cart");
}

fn play(scenario: &str) {
    for variable in ["CLOAKROOM_TEST_BROWSER", "CLOAKROOM_TEST_PLAYWRIGHT"] {
        if needs::variable(variable).is_none() {
            return;
        }
    }
    let shop = Shop::open();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/web/browser/shop.mjs");
    // Where pictures of a failure go.
    let pictures = env!("CARGO_TARGET_TMPDIR");
    let played = Command::new("node").args([script, scenario, &shop.url, pictures]).output().expect("node runs");
    let (said, complained) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{}: {said}{complained}", played.status);
    // Node.js ends well, too, when nothing is left to wait for.
    assert_eq!(said, format!("{scenario}: played\n"));
}

struct Shop {
    process: Child,
    url: String,
}

impl Shop {
    fn open() -> Self {
        let shop = example();
        let mut process = Command::new(&shop)
            .envs([("SHOP_LISTEN", "127.0.0.1:0"), ("SHOP_STORE", "memory:")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (`cargo build --example shop` makes it)", shop.display()));
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().filter(|word| word.starts_with("http://"));
        let url = url.unwrap_or_else(|| panic!("the shop said {line:?}")).to_owned();
        Self { process, url }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Cargo builds the examples along with the tests, beside their directory.
fn example() -> PathBuf {
    let test = env::current_exe().unwrap();
    let built = test.parent().and_then(|tests| tests.parent()).unwrap();
    built.join("examples").join(format!("shop{}", env::consts::EXE_SUFFIX))
}
