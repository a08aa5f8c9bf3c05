//! Repeats one operation, for an instruction counter: `hot OPERATION REPETITIONS [STORED]`.
//!
//! What it does before is the same whatever the repetitions, so the difference between two runs is the operation alone.

use std::{env, hint::black_box, sync::Arc};

use cloakroom::{
    Change, Ending, Found, Json, Reason, Session, Sessions, SignIn, Started, Token,
    rules::{Loaded, Rules},
    store::{MemoryStore, Query, Store},
    web::CookieConfig,
};
use cloakroom_bench::{READ_KEY, Route, Subject, data_of, drive, just_read, sent_back, user_of};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [operation, repetitions, stored @ ..] = arguments.as_slice() else {
        panic!("usage: hot OPERATION REPETITIONS [STORED]");
    };
    let repetitions = repetitions.parse().expect("repetitions are a number");
    let stored = stored.first().map_or(100, |stored| stored.parse().expect("stored sessions are a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    runtime.block_on(run(operation, repetitions, stored));
}

async fn run(operation: &str, repetitions: usize, stored: usize) {
    match operation {
        "parse_and_digest" => {
            let text = shop(1).await.tokens[0].reveal();
            (0..repetitions).for_each(|_| {
                black_box(Token::parse(black_box(&text)).map(|token| token.digest()));
            });
        }
        "write_cookie" => {
            let Shop { sessions, tokens } = shop(1).await;
            let Ok(Found::Live(record)) = sessions.resume(&tokens[0]).await else { panic!("it lives") };
            let (cookie, now) = (CookieConfig::default(), sessions.now());
            (0..repetitions).for_each(|_| drop(black_box(cookie.set(&tokens[0], &record.info, now, None))));
        }
        "load" => {
            let Shop { sessions, tokens } = shop(stored).await;
            let (rules, now) = (Rules::new(Arc::clone(sessions.store())), sessions.now());
            for token in tokens.iter().cycle().take(repetitions) {
                assert!(matches!(rules.peek(token.id(), now), Some(Loaded::Live(_))));
            }
        }
        "resume" => {
            let Shop { sessions, tokens } = shop(stored).await;
            for token in tokens.iter().cycle().take(repetitions) {
                assert!(matches!(sessions.resume(token).await, Ok(Found::Live(_))));
            }
        }
        "get" => {
            let session = full_session().await;
            (0..repetitions).for_each(|_| drop(black_box(session.get::<String>(black_box(READ_KEY)))));
        }
        "set_and_commit" => {
            let session = full_session().await;
            for number in 0..repetitions {
                session.set(READ_KEY, &number).expect("it is set");
                session.commit().await.expect("it is stored");
            }
        }
        "update" => {
            let Shop { sessions, tokens } = shop(stored).await;
            for token in tokens.iter().cycle().take(repetitions) {
                let mut change = Change::new(usize::MAX);
                change.set(READ_KEY, Json::from_stored("1"));
                sessions.update(token.id(), &change).await.expect("it is stored");
            }
        }
        "list" => {
            let sessions = shop(stored).await.sessions;
            for number in (0..stored).step_by(apart(stored)).cycle().take(repetitions) {
                let page = sessions.find(&Query::of_user(user_of(number)), None, 10).await;
                assert_eq!(page.expect("it is listed").items.len(), 1);
            }
        }
        "start_and_end" => {
            let sessions = shop(stored).await.sessions;
            for number in (0..stored).step_by(apart(stored)).cycle().take(repetitions) {
                let Started { token, .. } = sessions.start(SignIn::new(user_of(number))).await.expect("it starts");
                sessions.end(token.id(), &Ending::new(Reason::SignedOut)).await.expect("it ends");
            }
        }
        "untouched_request" => requests(Route::Untouched, repetitions, stored).await,
        "read_request" => requests(Route::Read, repetitions, stored).await,
        "write_request" => requests(Route::Write, repetitions, stored).await,
        "sign_in_request" => requests(Route::SignIn, repetitions, stored).await,
        "floor_request" => send(Subject::floor(1), Route::Write, repetitions).await,
        unknown => panic!("there is no operation {unknown:?}"),
    }
}

async fn requests(route: Route, repetitions: usize, stored: usize) {
    send(Subject::cloakroom(stored, stored).await, route, repetitions).await;
}

async fn send(mut subject: Subject, route: Route, repetitions: usize) {
    for number in 0..repetitions {
        let place = number % subject.cookies.len();
        let request = Subject::request(route, just_read(&subject.cookies[place]));
        if let Some(set_cookie) = drive(&mut subject.router, request).await {
            subject.cookies[place] = sent_back(&set_cookie);
        }
    }
}

/// How far the sessions that are used lie apart: a hundred of them, spread over all, whatever is stored.
fn apart(stored: usize) -> usize {
    (stored / 100).max(1)
}

struct Shop {
    sessions: Sessions,
    tokens: Vec<Token>,
}

async fn shop(stored: usize) -> Shop {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new().expect("there is randomness"));
    let sessions = Sessions::builder(store).without_upkeep().build().expect("defaults are right");
    let mut tokens = Vec::new();
    for number in 0..stored {
        let started = sessions.start(SignIn::new(user_of(number))).await.expect("it starts");
        if number.is_multiple_of(apart(stored)) {
            tokens.push(started.token);
        }
    }
    Shop { sessions, tokens }
}

/// A session with ten values.
async fn full_session() -> Session {
    let session = Session::anonymous(&shop(0).await.sessions);
    for (key, value) in data_of(0) {
        session.set(key, &value).expect("it is set");
    }
    session.commit().await.expect("it is stored");
    session
}
