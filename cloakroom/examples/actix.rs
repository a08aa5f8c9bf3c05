//! Sessions in an actix-web application: `cargo run --example actix --features actix`, then http://localhost:3000.

use actix_web::{
    App, HttpServer,
    web::{Html, Redirect, get, post},
};
use cloakroom::{Key, Next, Result, Session, Sessions, SignIn, SignedIn, web::CsrfMiddleware};

const VISITS: Key<u32> = Key::new("visits");

async fn home(session: Session) -> Result<Html> {
    // Stored at once: parallel requests answer 1, 2, 3, each once, whichever workers they meet.
    let visits = session.modify_now(VISITS, |n| n.unwrap_or(0) + 1).await?;
    Ok(Html::new(format!(
        r#"visit {visits} <form method="post" action="/sign-in?next=/account"><button>Sign in as Anna</button></form>"#
    )))
}

async fn sign_in(session: Session, next: Next) -> Result<Redirect> {
    // Check a password first. Then: a new session, a new token, the visitor's data carried over.
    session.sign_in(SignIn::new("anna").full_name("Anna Berg")).await?;
    Ok(Redirect::to(next.to_string()).see_other()) // A path of this site, whatever the address says.
}

async fn account(user: SignedIn) -> String {
    format!("Hello, {}", user.user()) // Nobody else gets here: they are answered 401.
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let sessions = Sessions::open("sqlite:sessions.db").await?; // Before the server: its workers share it.
    let middleware = sessions.middleware();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(CsrfMiddleware::new()) // Refuses what other sites make browsers post. Within the sessions, so before them.
            .wrap(middleware.clone())
            .route("/", get().to(home))
            .route("/sign-in", post().to(sign_in))
            .route("/account", get().to(account))
    });
    server.bind("127.0.0.1:3000")?.run().await?; // Until Ctrl-C.
    sessions.shutdown().await; // Writes what is still in memory, stops the reaper.
    Ok(())
}
