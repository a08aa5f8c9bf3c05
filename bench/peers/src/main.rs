//! `cloakroom-bench-peers PEER STORE`: the application on `tower-sessions` or `actix-session`, each with its own store at
//! this address. Serves a free port of this machine and prints which.

mod actix;
#[path = "../../src/application.rs"]
#[allow(dead_code, unreachable_pub, reason = "the benchmark in one process uses the rest")]
mod application;
mod tower;

use std::{env, process::exit};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tower-sessions", store] => runtime().block_on(tower::serve(store)),
        ["actix-session", store] => actix::serve(store),
        _ => {
            eprintln!("usage: cloakroom-bench-peers tower-sessions|actix-session STORE");
            exit(2);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts")
}

fn refuse(peer: &str, store: &str) -> ! {
    let scheme = store.split(':').next().unwrap_or_default();
    eprintln!("{peer} has no store for {scheme}:");
    exit(3);
}
