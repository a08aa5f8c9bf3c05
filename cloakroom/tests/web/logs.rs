//! What the log tells, and what it never holds.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use cloakroom::{
    Ending, Found, Json, Limit, Reason, Record, SessionId, SignIn, Token,
    rules::{Create, Loaded, Rules},
    sessions::RotatedToken,
    store::{MemoryStore, Store},
    testing::Call,
};
use http::{Request, header};

use super::{
    framework::{Csrf, guard, layer, send},
    world::{Browser, NAME, World, routes, spied, world, world_on, world_with},
};

/// All that is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Listens on this thread.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    /// What was logged since the last call; it must hold a line with each of `words`, and no secret.
    fn expect(&self, words: &[&str], tokens: &[&Token]) {
        let log = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in:\n{log}");
        for token in tokens {
            let text = token.reveal();
            let secret = &text[SessionId::TEXT_LEN..];
            // Half of it is too much.
            assert!(!log.contains(&secret[..20]) && !log.contains(&secret[23..]), "a secret in:\n{log}");
        }
    }
}

async fn request(world: &World, cookies: &str) {
    let request = Request::get("/who").header(header::COOKIE, cookies).body(Bytes::new()).unwrap();
    assert_eq!(send(&world.app, request).await.body, "nobody");
}

#[tokio::test]
async fn o1_a_session_s_whole_life_is_logged_without_its_tokens() {
    let log = Log::default();
    let _listening = log.listen();
    let world = world_with(|builder| builder.limit(Limit::refuse(2)));
    let mut browser = world.browser();

    browser.text("/set?key=cart&value=umbrella").await;
    let visitor = browser.token();
    log.expect(&["INFO", "session started", &visitor.id().to_string()], &[&visitor]);

    browser.text("/sign-in?user=anna").await;
    let first = browser.token();
    log.expect(&["INFO", "session started", &first.id().to_string(), "anna"], &[&visitor, &first]);

    browser.text("/rotate").await;
    let second = browser.token();
    log.expect(&["INFO", "token rotated", &second.id().to_string()], &[&first, &second]);

    browser.text("/who").await;
    world.sessions.flush().await.unwrap();
    world.clock.advance(Duration::from_secs(30));
    Browser { app: world.app.clone(), cookie: Some(first.reveal()) }.text("/who").await;
    log.expect(&["WARN", "used again", &first.id().to_string()], &[&first, &second]);

    browser.text("/sign-in?user=anna").await;
    let third = browser.token();
    browser.text("/sign-out").await;
    log.expect(&["INFO", "session ended", "signed_out", &third.id().to_string()], &[&first, &second, &third]);

    let revoked = world.sessions.start(SignIn::new("ben")).await.unwrap().token;
    world.sessions.end(revoked.id(), &Ending::new(Reason::RevokedByAdmin).by("root")).await.unwrap();
    log.expect(&["INFO", "session ended", "revoked_by_admin", "root", &revoked.id().to_string()], &[&revoked]);

    let lapsed = world.sessions.start(SignIn::new("ben")).await.unwrap().token;
    world.clock.advance(Duration::from_hours(1));
    assert_eq!(world.sessions.reap().await.unwrap(), 1);
    log.expect(&["INFO", "expired sessions ended", "count=1"], &[&lapsed]);
}

#[tokio::test]
async fn o1_refusals_are_logged_without_what_was_refused() {
    let log = Log::default();
    let _listening = log.listen();
    let world = world_with(|builder| builder.limit(Limit::refuse(1)));
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;

    world.sessions.start(SignIn::new("anna")).await.unwrap_err();
    log.expect(&["WARN", "session refused", "anna", "limit of 1"], &[&token]);
    world.sessions.users().disable("ben", None).await.unwrap();
    world.sessions.start(SignIn::new("ben")).await.unwrap_err();
    log.expect(&["WARN", "session refused", "ben", "disabled"], &[&token]);

    let guessed = Token::generate(token.id()).unwrap();
    request(&world, &format!("{NAME}={}", guessed.reveal())).await;
    log.expect(&["WARN", "token refused", "wrong secret", &token.id().to_string()], &[&token, &guessed]);
    let unknown = Token::generate(SessionId::from_bytes([1; 18])).unwrap();
    request(&world, &format!("{NAME}={}", unknown.reveal())).await;
    log.expect(&["WARN", "token refused", "unknown session"], &[&unknown]);
    request(&world, &format!("{NAME}={}", &token.reveal()[1..])).await;
    log.expect(&["WARN", "not a token"], &[&token]);
    request(&world, &format!("{NAME}={}; {NAME}={}", unknown.reveal(), guessed.reveal())).await;
    log.expect(&["WARN", "none of several session cookies"], &[&token, &guessed, &unknown]);

    // Beside one that is believed, a guess is seen too.
    let both = format!("{NAME}={}; {NAME}={}", token.reveal(), guessed.reveal());
    let ask = || Request::get("/who").header(header::COOKIE, &both).body(Bytes::new()).unwrap();
    assert_eq!(send(&world.app, ask()).await.body, "anna");
    log.expect(&["WARN", "token refused", "wrong secret", &token.id().to_string()], &[&token, &guessed]);
    assert_eq!(send(&world.app, ask()).await.body, "anna");
    log.expect(&["INFO", "of several session cookies", &token.id().to_string()], &[&token, &guessed]);
    let other = world.sessions.start(SignIn::new("carl")).await.unwrap().token;
    request(&world, &format!("{NAME}={}; {NAME}={}", token.reveal(), other.reveal())).await;
    log.expect(&["WARN", "several living sessions: none was believed", &other.id().to_string()], &[&token, &other]);

    // A rotation with a wrong secret is a refused token too.
    world.sessions.rotate(&guessed).await.unwrap_err();
    log.expect(&["WARN", "token refused", "wrong secret", &token.id().to_string()], &[&token, &guessed]);
}

#[tokio::test]
async fn o1_f1_a_refused_request_is_logged_by_what_it_asked_for() {
    let log = Log::default();
    let _listening = log.listen();
    let world = world();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let app = guard(routes(), Csrf::new()).layer(layer(&world.sessions));
    let cookie = format!("{NAME}={}", token.reveal());
    let foreign = Request::post("/set?key=a").header(header::COOKIE, cookie).header("sec-fetch-site", "cross-site");
    send(&app, foreign.body(Bytes::new()).unwrap()).await;
    let id = token.id().to_string();
    log.expect(&["WARN", "refused as forged", "another site", &id, "anna", "method=POST", "path=\"/set\""], &[&token]);
}

#[tokio::test]
async fn o1_t10_a_forged_row_is_logged_as_an_error_that_names_it() {
    let log = Log::default();
    let _listening = log.listen();
    let store = Arc::new(MemoryStore::new().unwrap());
    let world = world_on(Arc::clone(&store) as Arc<dyn Store>, |builder| builder);
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let Loaded::Live(record) = Rules::new(store).load(token.id(), world.sessions.now()).await.unwrap() else {
        panic!("it lives")
    };
    let create = Create { record: Record::clone(&record), limit: None, replaces: None, by: None, note: None };
    let other = Rules::on(MemoryStore::new().unwrap());
    other.create(&create, world.sessions.now()).await.unwrap();
    let world = world_on(Arc::clone(other.store()), |builder| builder.record_mac_keys([[7; 32]]));
    assert!(matches!(world.sessions.resume(&token).await.unwrap(), Found::Unknown));
    log.expect(&["ERROR", "forged", &token.id().to_string()], &[&token]);
}

#[tokio::test]
async fn o1_a_whole_life_under_keys_for_records_logs_no_secret_either() {
    let log = Log::default();
    let _listening = log.listen();
    let world = world_with(|builder| builder.record_mac_keys([[0xab; 32]]).encryption_keys([[0xcd; 32]]));
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let RotatedToken::Rotated { token: next, record } = world.sessions.rotate(&token).await.unwrap() else {
        panic!("nobody else rotates")
    };
    let mut change = world.sessions.change();
    change.remove_all();
    change.set("a", Json::from_text("\"private\"").unwrap());
    world.sessions.update(next.id(), &change).await.unwrap();
    tracing::info!(?record, sessions = ?world.sessions, ?token, ?change, "shown");
    log.expect(&["shown", &next.id().to_string()], &[&token, &next]);
}

#[tokio::test]
async fn a_shutdown_says_how_many_uses_it_could_not_write() {
    let (world, spy) = spied();
    let token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    world.clock.advance(Duration::from_mins(30));
    world.sessions.resume(&token).await.unwrap();
    // It tries twice.
    spy.fail_next(Call::Touch);
    spy.fail_next(Call::Touch);
    let log = Log::default();
    let _listening = log.listen();
    world.sessions.shutdown().await;
    log.expect(&["WARN", "could not be written", "sessions=1"], &[&token]);
}
