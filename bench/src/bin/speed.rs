//! Times of one run, the subjects in turn: what each adds to the application without sessions, and how it scales.

use std::{
    env,
    fmt::Write as _,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use cloakroom::{
    Ending, Lifetimes, Reason, Sessions, SignIn,
    store::{MemoryStore, Store},
};
use cloakroom_bench::{Route, Subject, drive, just_read, sent_back, user_of};
use cpu_time::ThreadTime;
use http::HeaderValue;
use tokio::runtime::{Builder, Runtime};

/// Sessions whose requests are sent, at most: enough that processor caches do not hold them all.
const SAMPLE: usize = 8192;

fn main() {
    let options = Options::read();
    let runtime = runtime();
    let mut report = String::new();
    for stored in options.stored.iter().copied() {
        eprintln!("{stored} stored sessions …");
        let sample = SAMPLE.min(stored);
        let subjects = runtime.block_on(async {
            [
                Subject::floor(sample),
                Subject::cloakroom(stored, sample).await,
                Subject::tower_sessions(stored, sample).await,
            ]
        });
        compare(&runtime, subjects, stored, options.rounds, &mut report);
    }
    println!("{HEADINGS}\n{report}");
    runtime.block_on(flatness(&options));
    runtime.block_on(reaping(options.reaped_of));
}

const HEADINGS: &str = "\
| stored | request | floor | cloakroom adds | tower-sessions adds | ratio | two threads: floor | cloakroom | tower-sessions | \
cloakroom / floor |
|---|---|---|---|---|---|---|---|---|---|";

struct Options {
    stored: Vec<usize>,
    rounds: usize,
    reaped_of: usize,
}

impl Options {
    fn read() -> Self {
        if env::args().any(|argument| argument == "--quick") {
            Self { stored: vec![1, 10_000], rounds: 9, reaped_of: 100_000 }
        } else {
            Self { stored: vec![1, 10_000, 1_000_000], rounds: 41, reaped_of: 1_000_000 }
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime starts")
}

/// One line of the table for each route.
fn compare(runtime: &Runtime, mut subjects: [Subject; 3], stored: usize, rounds: usize, report: &mut String) {
    for route in Route::ALL {
        let mut alone = [const { Vec::new() }; 3];
        let mut together = [const { Vec::new() }; 3];
        for round in 0..=rounds {
            for (at, subject) in subjects.iter_mut().enumerate() {
                let one = on_one_thread(runtime, subject, route, round);
                // The first round warms up.
                if round > 0 {
                    alone[at].push(one);
                }
                if stored > 1 {
                    let two = on_two_threads(subject, route, round);
                    if round > 0 {
                        together[at].push(two);
                    }
                }
            }
        }
        let [floor, ours, theirs] = alone.map(median);
        let (our_cost, their_cost) = (ours - floor, theirs - floor);
        let ratio = our_cost / their_cost;
        write!(report, "| {stored} | {route:?} | {floor:.0} ns | {our_cost:.0} ns | {their_cost:.0} ns | {ratio:.2} |")
            .expect("writing to a string cannot fail");
        if stored > 1 {
            let [alone_floor, alone_ours, alone_theirs] = [floor, ours, theirs];
            let [floor, ours, theirs] = together.map(median);
            let (floor, ours, theirs) = (alone_floor / floor, alone_ours / ours, alone_theirs / theirs);
            let relative = ours / floor;
            writeln!(report, " {floor:.2} × | {ours:.2} × | {theirs:.2} × | {relative:.2} |")
        } else {
            writeln!(report, " | | | |")
        }
        .expect("writing to a string cannot fail");
    }
}

/// Nanoseconds a request, on the first half of the sessions: as many as a thread has where there are two.
fn on_one_thread(runtime: &Runtime, subject: &mut Subject, route: Route, round: usize) -> f64 {
    let mut router = subject.router.clone();
    let half = subject.cookies.len().div_ceil(2);
    runtime.block_on(batch(&mut router, &mut subject.cookies[..half], route, round, || ()))
}

/// Nanoseconds between two answers of both threads together. Each has half of the sessions.
fn on_two_threads(subject: &mut Subject, route: Route, round: usize) -> f64 {
    let start = Barrier::new(2);
    let middle = subject.cookies.len() / 2;
    let (first, second) = subject.cookies.split_at_mut(middle);
    let work = |cookies| {
        let mut router = subject.router.clone();
        let start = &start;
        let wait = move || {
            start.wait();
        };
        move || runtime().block_on(batch(&mut router, cookies, route, round, wait))
    };
    let (first, second) = (work(first), work(second));
    std::thread::scope(|scope| {
        let threads = [scope.spawn(first), scope.spawn(second)];
        let rate: f64 = threads.map(|thread| 1.0 / thread.join().expect("it does not panic")).iter().sum();
        1.0 / rate
    })
}

/// Makes and sends a batch of requests, and keeps the cookies that are set. Nanoseconds a request: the median of small
/// portions, so that what else the machine does in between does not count.
async fn batch(
    router: &mut axum::Router,
    cookies: &mut [HeaderValue],
    route: Route,
    round: usize,
    wait: impl FnOnce(),
) -> f64 {
    const PORTION: usize = 64;
    // A sign-in replaces its session's cookie, so each session signs in once a batch.
    let size = if route == Route::SignIn { cookies.len().min(1024) } else { 2048 };
    // Another stretch of the sample each round, in steps that visit every session of it.
    let places: Vec<_> = (0..size).map(|n| (n + round * size).wrapping_mul(4099) % cookies.len()).collect();
    let mut set = Vec::with_capacity(size);
    let mut times = Vec::with_capacity(size / PORTION + 1);
    wait();
    for places in places.chunks(PORTION) {
        let portion: Vec<_> = places.iter().map(|place| just_read(&cookies[*place])).collect();
        let start = Instant::now();
        for cookie in portion {
            // Made here and not beforehand: a request that a server has just read is in the processor's cache.
            set.push(drive(router, Subject::request(route, cookie)).await);
        }
        times.push(nanoseconds(start.elapsed(), places.len()));
    }
    for (place, cookie) in places.into_iter().zip(set) {
        if let Some(cookie) = cookie {
            cookies[place] = sent_back(&cookie);
        }
    }
    median(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn service(sessions: usize, idle: impl Fn(usize) -> Duration) -> (Sessions, Vec<cloakroom::Token>) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new().expect("there is randomness"));
    let service = Sessions::builder(store).lifetimes(Lifetimes::default()).without_upkeep().build();
    let service = service.expect("defaults are right");
    let mut tokens = Vec::with_capacity(sessions);
    for number in 0..sessions {
        let start = SignIn::new(user_of(number)).idle_timeout(idle(number));
        tokens.push(service.start(start).await.expect("it starts").token);
    }
    (service, tokens)
}

/// What one resumption, listing and ending take among few and many sessions.
async fn flatness(options: &Options) {
    println!("| stored | resume | list by user | end |\n|---|---|---|---|");
    for stored in [1_000, options.reaped_of] {
        let (service, tokens) = service(stored, |_| Duration::from_hours(1)).await;
        // The same number at either size, spread over all.
        let sample: Vec<_> = (0..1000).map(|n| n * (stored / 1000)).collect();
        let mut times = [const { Vec::new() }; 3];
        for portion in sample.chunks(20) {
            let start = Instant::now();
            for number in portion {
                service.resume(&tokens[*number]).await.expect("it resumes");
            }
            times[0].push(nanoseconds(start.elapsed(), portion.len()));
            let start = Instant::now();
            for number in portion {
                assert_eq!(service.list(user_of(*number)).await.expect("it lists").len(), 1);
            }
            times[1].push(nanoseconds(start.elapsed(), portion.len()));
        }
        let ending = Ending::new(Reason::SignedOut);
        for portion in sample.chunks(20) {
            let start = Instant::now();
            for number in portion {
                service.end(tokens[*number].id(), &ending).await.expect("it ends");
            }
            times[2].push(nanoseconds(start.elapsed(), portion.len()));
        }
        let [resume, list, end] = times.map(median);
        println!("| {stored} | {resume:.0} ns | {list:.0} ns | {end:.0} ns |");
    }
    println!();
}

/// A tenth of the sessions expire: what reaping them takes, and the longest it works without letting others on its thread.
#[expect(clippy::cast_precision_loss, reason = "there are not that many")]
async fn reaping(stored: usize) {
    let expiring = |number: usize| if number.is_multiple_of(10) { 1 } else { 3600 };
    let (service, _) = service(stored, |number| Duration::from_secs(expiring(number))).await;
    std::thread::sleep(Duration::from_millis(1100));
    let mut longest = Duration::ZERO;
    let start = ThreadTime::now();
    let mut reap = pin!(service.reap());
    let count = poll_fn(|context| {
        let start = ThreadTime::now();
        let polled = reap.as_mut().poll(context);
        longest = longest.max(start.elapsed());
        polled
    });
    let count = count.await.expect("it reaps");
    let all = start.elapsed();
    println!(
        "{count} of {stored} sessions reaped in {:.1} ms, {:.0} ns each; the longest pause was {:.2} ms",
        all.as_secs_f64() * 1e3,
        all.as_nanos() as f64 / count as f64,
        longest.as_secs_f64() * 1e3,
    );
}

#[expect(clippy::cast_precision_loss, reason = "batches are small")]
fn nanoseconds(time: Duration, operations: usize) -> f64 {
    time.as_nanos() as f64 / operations as f64
}
