//! Allocations a request makes, and bytes that a stored session takes.

use allocation_counter::{AllocationInfo, measure};
use cloakroom_bench::{PAYLOAD_BYTES, Route, Subject, drive, just_read, sent_back};
use tokio::runtime::{Builder, Runtime};

fn main() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    allocations(&runtime);
    bytes(&runtime);
}

fn allocations(runtime: &Runtime) {
    let (floor, ours, theirs) = runtime
        .block_on(async { (Subject::floor(1), Subject::cloakroom(1, 1).await, Subject::tower_sessions(1, 1).await) });
    println!("| request | floor | cloakroom adds | tower-sessions adds |\n|---|---|---|---|");
    for route in Route::ALL {
        let [floor, ours, theirs] = [&floor, &ours, &theirs].map(|subject| one_request(runtime, subject, route));
        let added = |info: AllocationInfo| {
            format!("{} ({} B)", info.count_total - floor.count_total, info.bytes_total - floor.bytes_total)
        };
        println!(
            "| {route:?} | {} ({} B) | {} | {} |",
            floor.count_total,
            floor.bytes_total,
            added(ours),
            added(theirs)
        );
    }
    println!();
}

fn one_request(runtime: &Runtime, subject: &Subject, route: Route) -> AllocationInfo {
    let mut router = subject.router.clone();
    let mut cookie = subject.cookies[0].clone();
    let mut send = || {
        let request = Subject::request(route, just_read(&cookie));
        let mut set = None;
        let info = measure(|| set = runtime.block_on(drive(&mut router, request)));
        if let Some(set) = set {
            cookie = sent_back(&set);
        }
        info
    };
    // The first makes what stays.
    send();
    let info = send();
    if route == Route::SignIn {
        // This subject's only session has another cookie now, and is not asked again.
        assert_eq!(Route::ALL.last(), Some(&route));
    }
    info
}

fn bytes(runtime: &Runtime) {
    const SESSIONS: usize = 100_000;
    println!("| store | bytes a session with ten values | of them payload | beside it |\n|---|---|---|---|");
    let print = |name: &str, info: AllocationInfo| {
        let each = usize::try_from(info.bytes_current).expect("something is stored") / SESSIONS;
        println!("| {name} | {each} | {PAYLOAD_BYTES} | {} |", each - PAYLOAD_BYTES);
    };
    // Both live to the end: what one frees must not be counted for the other.
    let (mut ours, mut theirs) = (None, None);
    let info = measure(|| ours = Some(runtime.block_on(Subject::cloakroom(SESSIONS, 1))));
    print("cloakroom", info);
    let info = measure(|| theirs = Some(runtime.block_on(Subject::tower_sessions(SESSIONS, 1))));
    print("tower-sessions", info);
    drop((ours, theirs));
}
