//! A script of calls in which every single call to the disk fails, or is the last one before a crash.
//!
//! What the directory holds is compared byte for byte with what it holds after the same script without a fault: a call
//! that was answered is there, one that was not is there as a whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{LIMITS, MemoryDisk, at, commit, journal, new_store, sign_in};
use crate::{
    Change, Ending, Fields, Json, Partition, PartitionKey, Reason, SessionId, Timestamp, Token,
    store::{
        Create, Fence, Limit, Loaded, Reap, Rotation, Touch, Which,
        file::{
            fault::Fault,
            journal::{Journal, Limits},
            layout,
            sweep::Sweep,
            tables, writes,
        },
    },
};

type Step = Box<dyn Fn(&Journal) -> Result<(), Fault>>;
type Dump = BTreeMap<String, Vec<u8>>;

/// Small enough for several checkpoints and several files of the audit log in the script.
const SMALL: Limits = Limits { journal: 6000, audit_file: 1000, ..LIMITS };
/// More calls than the script makes.
const EVER: usize = usize::MAX;

struct Script {
    /// A disk with an empty store.
    disk: MemoryDisk,
    steps: Vec<Step>,
    /// What the disk holds before each step and after the last one.
    dumps: Vec<Dump>,
}

impl Script {
    fn new() -> Self {
        let (disk, key) = new_store();
        let steps = steps(&key);
        let run = disk.copy();
        let journal = journal(&run, SMALL);
        let mut dumps = vec![run.dump()];
        for step in &steps {
            step(&journal).unwrap();
            dumps.push(run.dump());
        }
        for pair in dumps.windows(2) {
            assert_ne!(pair[0], pair[1], "a step that does nothing shows nothing");
        }
        Self { disk, steps, dumps }
    }

    /// Runs the script from step `next` on until a step fails. Answers with the number of steps that were done.
    fn run(&self, disk: &MemoryDisk, next: usize) -> (usize, Result<(), Fault>) {
        let journal = journal(disk, SMALL);
        for (number, step) in self.steps.iter().enumerate().skip(next) {
            if let Err(fault) = step(&journal) {
                return (number, Err(fault));
            }
            // That the journal stays long does no harm.
            let _ = journal.checkpoint_if_long();
        }
        (self.steps.len(), Ok(()))
    }

    /// How many steps a disk holds, given how many were answered.
    fn steps_on(&self, disk: &MemoryDisk, answered: usize) -> usize {
        let dump = disk.dump();
        if dump == self.dumps[answered] {
            return answered;
        }
        assert!(
            self.dumps.get(answered + 1) == Some(&dump),
            "half of step {answered} is there, or less than before it"
        );
        answered + 1
    }

    fn go_on_to_the_end(&self, disk: &MemoryDisk, next: usize) {
        let (done, outcome) = self.run(disk, next);
        outcome.unwrap();
        assert_eq!(done, self.steps.len());
        assert!(disk.dump() == *self.dumps.last().unwrap(), "going on after step {next} ends differently");
    }
}

fn reopen(disk: &MemoryDisk) {
    journal(disk, SMALL).recover().unwrap();
}

#[test]
fn a_crash_at_any_call_leaves_every_answered_step_and_no_half_of_another() {
    let script = Script::new();
    let mut crashes = 0;
    loop {
        let disk = script.disk.copy();
        disk.fail(crashes + 1..EVER);
        let (answered, outcome) = script.run(&disk, 0);
        disk.fail(0..0);
        if outcome.is_ok() {
            break;
        }
        crashes += 1;
        reopen(&disk);
        let done = script.steps_on(&disk, answered);
        script.go_on_to_the_end(&disk, done);
    }
    assert!(crashes > 300, "{crashes}");
}

#[test]
fn another_process_goes_on_after_a_crash_without_reopening() {
    let script = Script::new();
    for crash in 1.. {
        let disk = script.disk.copy();
        disk.fail(crash..EVER);
        let (answered, outcome) = script.run(&disk, 0);
        disk.fail(0..0);
        if outcome.is_ok() {
            break;
        }
        journal(&disk, SMALL).read(|_| Ok(())).unwrap();
        let done = script.steps_on(&disk, answered);
        script.go_on_to_the_end(&disk, done);
    }
}

#[test]
fn a_crash_while_a_crash_is_made_good_loses_nothing() {
    let script = Script::new();
    for crash in (1..).step_by(5) {
        let disk = script.disk.copy();
        disk.fail(crash..EVER);
        let (answered, outcome) = script.run(&disk, 0);
        disk.fail(0..0);
        if outcome.is_ok() {
            break;
        }
        for second in 1.. {
            let disk = disk.copy();
            disk.fail(second..EVER);
            let recovered = journal(&disk, SMALL).recover();
            disk.fail(0..0);
            if recovered.is_ok() {
                break;
            }
            reopen(&disk);
            script.steps_on(&disk, answered);
        }
    }
}

#[test]
fn who_reads_without_a_lock_never_sees_a_session_missing_or_one_too_many() {
    let script = Script::new();
    for crash in 1.. {
        let disk = script.disk.copy();
        disk.fail(crash..EVER);
        let (answered, outcome) = script.run(&disk, 0);
        disk.fail(0..0);
        let Some(after) = script.dumps.get(answered + 1).filter(|_| outcome.is_err()) else { break };
        let mut of_anna = 0;
        for id in ids_in(&script.dumps[answered]).union(&ids_in(after)) {
            let loaded = tables::load(&disk, *id, at(8)).unwrap();
            let known = |dump: &Dump| ids_in(dump).contains(id);
            let may_be_missing = !known(&script.dumps[answered]) || !known(after);
            assert!(may_be_missing || !matches!(loaded, Loaded::Unknown), "{id} is gone at call {crash}");
            of_anna +=
                usize::from(matches!(loaded, Loaded::Live(record) if record.info.user.as_deref() == Some("anna")));
        }
        assert!(of_anna <= 2, "{of_anna} sessions live at call {crash}, the limit is 2");
    }
}

fn ids_in(dump: &Dump) -> BTreeSet<SessionId> {
    let names = dump.keys().filter_map(|file| file.strip_prefix("sessions/").or(file.strip_prefix("ended/")));
    names.map(|name| layout::session_named(&name[3..]).unwrap()).collect()
}

#[test]
fn a_power_failure_at_any_call_leaves_every_answered_step_and_no_half_of_another() {
    let script = Script::new();
    for crash in 1.. {
        let disk = script.disk.copy();
        disk.fail(crash..EVER);
        let (answered, outcome) = script.run(&disk, 0);
        for seed in 0..8 {
            let disk = disk.after_power_failure(seed + 8 * crash as u64);
            reopen(&disk);
            let done = script.steps_on(&disk, answered);
            if seed == 0 {
                script.go_on_to_the_end(&disk, done);
            }
        }
        if outcome.is_ok() {
            break;
        }
    }
}

#[test]
fn a_full_disk_at_any_call_fails_that_step_alone() {
    let script = Script::new();
    for failing_calls in [1, 2, 7] {
        for first in 1.. {
            let disk = script.disk.copy();
            disk.fail(first..first + failing_calls);
            let (answered, outcome) = script.run(&disk, 0);
            let reached = disk.used().calls >= first;
            disk.fail(0..0);
            let done = match outcome {
                Ok(()) => answered,
                // Nothing was changed, and nothing has to be made good.
                Err(Fault::Io { .. }) => {
                    assert!(
                        disk.dump() == script.dumps[answered],
                        "call {first} failed, and step {answered} did something"
                    );
                    answered
                }
                Err(Fault::Unfinished { .. }) => {
                    journal(&disk, SMALL).read(|_| Ok(())).unwrap();
                    script.steps_on(&disk, answered)
                }
                Err(fault) => panic!("{fault:?}"),
            };
            script.go_on_to_the_end(&disk, done);
            if !reached {
                break;
            }
        }
    }
}

fn steps(key: &PartitionKey) -> Vec<Step> {
    let with_limit = |mut create: Create, seconds| {
        create.limit = Some(Limit::evict(2));
        create.record.info.created_at = at(seconds);
        create.record.info.last_seen_at = at(seconds);
        create
    };
    let mut first = with_limit(sign_in(key, "anna"), 0);
    first.record.idempotency = Some(key.keyed_digest(b"once"));
    let mut again = with_limit(sign_in(key, "anna"), 1);
    again.record.idempotency = first.record.idempotency;
    let second = with_limit(sign_in(key, "anna"), 2);
    let third = with_limit(sign_in(key, "anna"), 3);
    let mut visitor = sign_in(key, "nobody");
    visitor.record.info.user = None;
    visitor.record.info.id = SessionId::generate(Partition::random().unwrap()).unwrap();
    let fourth = Create { replaces: Some(visitor.record.info.id), ..with_limit(sign_in(key, "anna"), 4) };
    let [second_id, third_id, fourth_id] = [&second, &third, &fourth].map(|create| create.record.info.id);
    let rotation = Rotation {
        presented: third.record.secrets.current,
        successor: Token::generate(third_id).unwrap().digest(),
        grace: Duration::from_secs(30),
        at_once: false,
        by: None,
    };
    let mut filled = Change::new(64 << 10);
    filled.set("cart", Json::encode(&"x".repeat(3000)).unwrap());
    filled.fields = Fields { ends_at: Some(Some(at(600))), ..Fields::default() };
    let mut counted = Change::new(64 << 10);
    counted.set("n", Json::from_text("1").unwrap());
    let touch = Touch { id: second_id, seen_at: at(100), grace_ends: None };
    let everything = Which::OfUser { user: "anna".into(), except: vec![fourth_id], fence: Fence::Disabled };
    let refused = sign_in(key, "anna");
    let short = {
        let mut create = sign_in(key, "ben");
        create.record.info.idle_timeout = Some(Duration::from_secs(10));
        create
    };

    let create = |create: Create, seconds| -> Step {
        let key = key.clone();
        Box::new(move |journal| {
            commit(journal, |directory| writes::create(directory, &key, &create, at(seconds))).map(drop)
        })
    };
    let end = |which: Which, seconds| -> Step {
        let (key, ending) = (key.clone(), Ending::new(Reason::SignedOut).by("root"));
        Box::new(move |journal| {
            commit(journal, |directory| writes::end(directory, &key, &which, &ending, at(seconds))).map(drop)
        })
    };
    let update = |id, change: Change, seconds| -> Step {
        Box::new(move |journal| {
            commit(journal, |directory| writes::update(directory, id, &change, at(seconds))).map(drop)
        })
    };
    let reap = |now: Timestamp, before: Timestamp| -> Step {
        let key = key.clone();
        let reap = Reap { limit: 10, tombstones_before: before, audit_before: before };
        Box::new(move |journal| commit(journal, |directory| Sweep::new(reap, now).step(directory, &key)).map(drop))
    };
    let together: Step = {
        let (key, counted) = (key.clone(), counted.clone());
        Box::new(move |journal| {
            commit(journal, |directory| {
                writes::update(directory, fourth_id, &counted, at(7))?;
                writes::end(directory, &key, &Which::Ids(vec![third_id]), &Ending::new(Reason::SignedOut), at(7))?;
                writes::lock(directory, fourth_id, Duration::from_secs(5), at(7))
            })
            .map(drop)
        })
    };
    let enable: Step = {
        let key = key.clone();
        Box::new(move |journal| commit(journal, |directory| writes::enable_user(directory, &key, "anna")))
    };

    vec![
        create(first, 0),
        create(again, 1),
        create(second, 2),
        create(third, 3),
        create(short, 3),
        update(second_id, filled, 4),
        Box::new(move |journal| commit(journal, |directory| writes::touch(directory, &touch, at(100))).map(drop)),
        Box::new(move |journal| {
            commit(journal, |directory| writes::rotate(directory, third_id, &rotation, at(5))).map(drop)
        }),
        create(visitor, 4),
        create(fourth, 6),
        together,
        reap(at(60), at(2)),
        end(everything, 61),
        create(refused, 62),
        enable,
        end(Which::Ids(vec![fourth_id, second_id]), 63),
        reap(at(7200), at(7200)),
    ]
}

#[test]
fn a_panic_inside_costs_one_call_and_changes_nothing() {
    let (disk, _) = new_store();
    let before = disk.dump();
    let journal: Arc<Journal> = Arc::from(journal(&disk, SMALL));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let writer = crate::store::file::writer::Writer::start(journal).unwrap();
        let panicked: Result<(), Fault> = writer
            .write(|directory| {
                directory.mark("sessions/00/half".into());
                panic!("on purpose")
            })
            .await;
        assert!(matches!(panicked, Err(Fault::Panicked)));
        assert_eq!(disk.dump(), before);
        writer
            .write(|directory| {
                directory.mark("sessions/00/whole".into());
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(disk.dump().len(), before.len() + 1);
    });
}
