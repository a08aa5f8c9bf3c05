//! What a browser is told, and keeps, when its token opens nothing any more.

use std::time::Duration;

use cloakroom::{Error, Reason, Session};
use http::{StatusCode, header};

use super::{
    framework::{Redirect, get, layer},
    world::{Browser, World, routes, world},
};

#[tokio::test]
async fn r3_the_sign_in_page_knows_why_the_visitor_was_sent_there() {
    let world = world();
    let mut browser = redirected(&world, world.signed_in("anna").await);
    world.sessions.end_all_of("anna", Vec::new(), &Reason::SignedOutElsewhere.into()).await.unwrap();

    let sent = browser.get("/me").await;
    assert_eq!((sent.status, sent.header(header::LOCATION.as_str())), (StatusCode::SEE_OTHER, Some("/why?next=/me")));
    assert_eq!(browser.text("/why").await, "signed_out_elsewhere");
    assert_eq!(browser.cookie, None, "told, the browser has no use for it any more");
}

#[tokio::test]
async fn a_redirect_after_a_form_does_not_lose_the_reason() {
    let world = world();
    let mut browser = redirected(&world, world.signed_in("anna").await);
    world.sessions.end_all_of("anna", Vec::new(), &Reason::RevokedByAdmin.into()).await.unwrap();

    assert_eq!(browser.get("/read").await.status, StatusCode::SEE_OTHER);
    assert_eq!(browser.text("/why").await, "revoked_by_admin");
    assert_eq!(browser.cookie, None);
}

#[tokio::test]
async fn r8_signing_out_deletes_the_cookie_on_a_redirect_too() {
    let world = world();
    let mut browser = redirected(&world, world.signed_in("anna").await);
    assert_eq!(browser.get("/leave").await.status, StatusCode::SEE_OTHER);
    assert_eq!(browser.cookie, None);
}

#[tokio::test]
async fn a_visitor_whose_sign_in_was_lost_on_the_way_is_not_locked_out() {
    let world = world();
    let mut browser = world.browser();
    browser.text("/set?key=cart&value=umbrella").await;
    browser.clone().text("/sign-in?user=anna").await;

    // The answer may still be on its way, and its cookie must stand.
    world.clock.advance(Duration::from_secs(29));
    let too_early = browser.get("/set?key=cart&value=hat").await;
    assert_eq!((too_early.status, too_early.set_cookie()), (StatusCode::UNAUTHORIZED, None));
    assert_eq!(browser.get("/why").await.set_cookie(), None);

    // By now it is not: the browser has the old token because it never got another.
    world.clock.advance(Duration::from_secs(1));
    let mut reader = browser.clone();
    browser.text("/set?key=cart&value=hat").await;
    assert_eq!(browser.text("/get?key=cart").await, "hat");
    assert_eq!(reader.text("/why").await, "replaced");
    assert_eq!(reader.cookie, None);
}

/// The browser, of an application that answers with redirects.
fn redirected(world: &World, browser: Browser) -> Browser {
    let routes = routes().route("/read", get(|_: Session| async { Redirect::to("/why") })).route(
        "/leave",
        get(|session: Session| async move {
            session.sign_out().await?;
            Ok::<_, Error>(Redirect::to("/why"))
        }),
    );
    let app = routes.layer(layer(&world.sessions).sign_in_page("/why"));
    Browser { app, ..browser }
}
