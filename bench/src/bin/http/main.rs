//! The application over HTTP: each session system serves it in a process of its own, on each of its stores, and they take
//! turns under the same load in one run.

mod backend;
mod client;
mod histogram;
mod load;
mod options;
mod process;
mod proxy;
mod report;
mod serve;

use std::{env, fmt::Write as _, time::Duration};

use self::{
    backend::Backend,
    load::{Load, Run},
    options::{Options, Request, StoreKind},
    process::Subject,
    report::Cell,
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    if let [command, system, store] = arguments.as_slice()
        && command == "serve"
    {
        return runtime.block_on(serve::serve(system, store));
    }
    let options = Options::read(&arguments);
    runtime.block_on(async {
        for store in options.stores.iter().copied() {
            match store.address() {
                Some(address) if options.minutes > 0 => endure(&options, store, &address).await,
                Some(address) => compare(&options, store, &address).await,
                None => eprintln!("{store}: skipped, {} is not set", store.variable()),
            }
        }
    });
}

/// Every subject that has the store, one after the other with each request, several rounds.
async fn compare(options: &Options, store: StoreKind, address: &str) {
    let backend = Backend::at(store, address).await;
    let mut subjects = Vec::new();
    for system in &options.systems {
        if let Some(subject) = Subject::start(system, address).await {
            eprintln!("{store}: {system}, {} sessions …", options.sessions);
            let load = Load::start(subject.address, options).await;
            subjects.push((system.clone(), subject, load));
        }
    }
    println!("\n{store}\n\n{}", report::HEADINGS);
    for request in options.requests.iter().copied() {
        for meets in options.meets.iter().copied().filter(|meets| !meets || request.may_meet()) {
            let mut cells: Vec<Cell> = subjects.iter().map(|_| Cell::default()).collect();
            for _ in 0..options.rounds {
                for ((_, subject, load), cell) in subjects.iter_mut().zip(&mut cells) {
                    cell.add(measure(subject, load, &backend, request, meets, options.time).await);
                }
            }
            for ((system, ..), cell) in subjects.iter().zip(&cells) {
                println!("{}", report::line(system, request, meets, cell));
            }
        }
    }
    for (system, subject, load) in subjects {
        match load.survived().await {
            Some((acknowledged, found)) if acknowledged != found => {
                println!("\n{system} on {store}: of {acknowledged} answered increments {found} are there");
            }
            Some((acknowledged, _)) => {
                println!("\n{system} on {store}: all {acknowledged} answered increments are there");
            }
            None => {}
        }
        drop(subject);
    }
    if options.trips && backend.is_remote() {
        trips(options, store, address).await;
    }
    backend.clear(address).await;
}

async fn measure(
    subject: &Subject,
    load: &mut Load,
    backend: &Backend,
    request: Request,
    meets: bool,
    time: Duration,
) -> Run {
    // What the one before left to be done is not counted.
    load.run(request, meets, Duration::from_millis(200)).await;
    let (own, of_backend) = (subject.cpu(), backend.cpu().await);
    let mut run = load.run(request, meets, time).await;
    run.own_cpu = subject.cpu().saturating_sub(own);
    run.backend_cpu = match (of_backend, backend.cpu().await) {
        (Some(before), Some(after)) => Some(after.saturating_sub(before)),
        _ => None,
    };
    run
}

/// Round trips of each request to the store, counted by a proxy while one request at a time is answered.
async fn trips(options: &Options, store: StoreKind, address: &str) {
    println!("\n| {store} | {} |\n|---|{}", names(&options.requests), "---|".repeat(options.requests.len()));
    for system in options.systems.iter().filter(|system| *system != "floor") {
        let proxy = proxy::Proxy::before(address).await;
        let Some(subject) = Subject::start(system, &proxy.address).await else { continue };
        let mut load = Load::start(subject.address, &Options { connections: 1, sessions: 64, ..options.clone() }).await;
        let mut line = format!("| {system} |");
        for request in options.requests.iter().copied() {
            let counted = load.count(request, 64, || proxy.trips()).await;
            let _ = write!(line, " {counted:.1} |");
        }
        println!("{line}");
    }
}

fn names(requests: &[Request]) -> String {
    requests.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

/// The same request for minutes: what becomes of throughput and latency.
async fn endure(options: &Options, store: StoreKind, address: &str) {
    let backend = Backend::at(store, address).await;
    for system in &options.systems {
        let Some(subject) = Subject::start(system, address).await else { continue };
        let mut load = Load::start(subject.address, options).await;
        for request in options.requests.iter().copied() {
            println!("\n{system} on {store}, {request}\n\n{}", report::MINUTES);
            let mut minutes = Vec::new();
            for minute in 1..=options.minutes {
                let meets = options.meets.contains(&true) && request.may_meet();
                let run = measure(&subject, &mut load, &backend, request, meets, options.time).await;
                println!("{}", report::minute(minute, &run));
                minutes.push(run);
            }
            if let [_, second, .., last] = minutes.as_slice() {
                println!("\n{}", report::of_second(second, last));
            }
        }
        if let Some((acknowledged, found)) = load.survived().await {
            println!("\nof {acknowledged} answered increments {found} are there");
        }
    }
    backend.clear(address).await;
}
