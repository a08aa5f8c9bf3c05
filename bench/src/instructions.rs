//! What the hot paths cost, in instructions: they do not vary as times do, so they can be tested.
//!
//! `cargo xtask test` says where valgrind is by setting `CLOAKROOM_TEST_VALGRIND`. A change that makes a path slower on
//! purpose raises its budget and says why; one that makes it faster lowers it.

use std::{process::Command, sync::OnceLock};

/// Digests count as valgrind runs them, without the processor's own instructions for SHA-256.
macro_rules! budgets {
    ($($operation:ident: $budget:expr;)*) => {
        $(
            #[test]
            fn $operation() {
                assert_costs(stringify!($operation), $budget);
            }
        )*
    };
}

budgets! {
    parse_and_digest: 4_500;
    write_cookie: 3_000;
    load: 180;
    resume: 4_800;
    get: 880;
    set_and_commit: 5_800;
    untouched_request: 8_800;
    read_request: 18_200;
    // The rules are reached through one more pointer, and the change carries what its caller knows.
    write_request: 22_250;
}

macro_rules! flat {
    ($($name:ident: $operation:ident;)*) => {
        $(
            #[test]
            fn $name() {
                assert_flat(stringify!($operation));
            }
        )*
    };
}

flat! {
    resuming_costs_the_same_among_many: resume;
    updating_costs_the_same_among_many: update;
    listing_a_user_costs_the_same_among_many: list;
    starting_and_ending_cost_the_same_among_many: start_and_end;
}

fn assert_costs(operation: &str, budget: u64) {
    let Some(hot) = hot() else { return };
    let cost = cost(&hot, operation, 100, 5000);
    assert!(
        cost <= budget,
        "{operation} takes {cost} instructions, its budget is {budget}. To see where they go:\n  \
         valgrind --tool=callgrind --callgrind-out-file=callgrind.out {hot} {operation} 10000 && \
         callgrind_annotate --inclusive=yes callgrind.out"
    );
}

/// A hundred times as many sessions may cost a little more: trees are a level or two deeper.
fn assert_flat(operation: &str) {
    let Some(hot) = hot() else { return };
    // Starting 30,000 takes a little more or less each time: so many repetitions that this does not count.
    let (few, many) = (cost(&hot, operation, 300, 1000), cost(&hot, operation, 30_000, 20_000));
    assert!(
        many <= few + few / 10,
        "{operation} takes {few} instructions among 300 sessions, and {many} among 30,000: it must not depend on them"
    );
}

/// Instructions of one operation: what so many repetitions more add.
fn cost(hot: &str, operation: &str, stored: usize, repetitions: u64) -> u64 {
    let collected = |repetitions: u64| {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", hot, operation]);
        let run = valgrind.args([repetitions.to_string(), stored.to_string()]).output().expect("valgrind runs");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{operation} fails under valgrind:\n{said}");
        let collected = said.lines().find_map(|line| line.split_once("Collected : "));
        let (_, number) = collected.unwrap_or_else(|| panic!("callgrind tells no number:\n{said}"));
        number.trim().parse::<u64>().expect("callgrind tells a number")
    };
    let (once, twice) = (collected(repetitions), collected(2 * repetitions));
    twice.saturating_sub(once) / repetitions
}

/// The optimised program that repeats one operation; `None` without valgrind.
fn hot() -> Option<String> {
    static HOT: OnceLock<String> = OnceLock::new();
    needs::variable("CLOAKROOM_TEST_VALGRIND")?;
    Some(HOT.get_or_init(build).clone())
}

fn build() -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--package", "cloakroom-bench", "--bin", "hot", "--message-format=json"]);
    let build = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    let said = String::from_utf8_lossy(&build.stdout);
    assert!(build.status.success(), "hot does not build:\n{}", String::from_utf8_lossy(&build.stderr));
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(str::to_owned));
    executables.next_back().expect("cargo names the program it built")
}
