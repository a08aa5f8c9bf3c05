//! A script of calls in which every single call to the disk fails, or is the last one before a crash.
//!
//! What the directory holds is compared byte for byte with what it holds after the same script without a fault: a call
//! that was answered is there, one that was not is there as a whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    LIMITS, MemoryDisk, apply, at, commit, ended, journal, new_store, run, session, setting, sign_in, started, tx,
};
use crate::{
    lease::Lease,
    store::{
        LastSignIn,
        file::{
            fault::Fault,
            format::Part,
            journal::{Journal, Limits},
            layout, lists, look,
            tables::Within,
        },
        slots::{EndedSlot, Expect, Forget, SeenAt, Slot, Transaction, UserSlot, Write},
    },
    token::{Partition, PartitionKey, SessionId, Token},
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
            let loaded = look(&journal(&disk, SMALL), *id, Part::All).unwrap();
            let known = |dump: &Dump| ids_in(dump).contains(id);
            let may_be_missing = !known(&script.dumps[answered]) || !known(after);
            assert!(may_be_missing || loaded.is_some(), "{id} is gone at call {crash}");
            let is_annas = |slot| matches!(slot, Slot::Open(record) if record.info.user.as_deref() == Some("anna"));
            of_anna += usize::from(loaded.is_some_and(is_annas));
        }
        assert!(of_anna <= 2, "{of_anna} sessions live at call {crash}, the limit is 2");
    }
}

fn ids_in(dump: &Dump) -> BTreeSet<SessionId> {
    let names = dump.keys().filter_map(|file| file.strip_prefix("sessions/"));
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

#[expect(clippy::too_many_lines, reason = "one script, to be read from its first step to its last")]
fn steps(key: &PartitionKey) -> Vec<Step> {
    let mut first = session(key, "anna", at(0));
    first.idempotency = Some(key.keyed_digest(b"once"));
    let mut again = session(key, "anna", at(1));
    again.idempotency = first.idempotency;
    let second = session(key, "anna", at(2));
    let third = session(key, "anna", at(3));
    let mut short = session(key, "ben", at(3));
    short.info.idle_timeout = Some(Duration::from_secs(10));
    let mut visitor = session(key, "nobody", at(4));
    visitor.info.user = None;
    visitor.info.id = SessionId::generate(Partition::random().unwrap()).unwrap();
    let fourth = session(key, "anna", at(6));
    let [second_id, fourth_id] = [&second, &fourth].map(|record| record.info.id);

    let mut rotated = third.clone();
    rotated.revision = 2;
    assert!(rotated.secrets.rotate(
        &third.secrets.current,
        Token::generate(third.info.id).unwrap().digest(),
        Duration::from_secs(30),
        at(5),
    ));
    let mut ending = second.clone();
    (ending.revision, ending.info.ends_at) = (2, Some(at(600)));
    let mut held = fourth.clone();
    (held.revision, held.lease) = (2, Lease { number: 1, until: at(12) });
    let head = |number, old: &crate::record::Record, new: &crate::record::Record, seconds| {
        let relies_on = vec![Expect::Head(old.info.id, old.revision)];
        tx(number, at(seconds), relies_on, vec![Write::Head(Arc::new(new.clone()))], [])
    };
    let end = |number, record: &crate::record::Record, seconds| {
        let (end, entry) = ended(record, at(seconds));
        tx(number, at(seconds), vec![], vec![end], [entry])
    };
    let user = |revision, due| UserSlot {
        text: r#"{"disabled":true}"#.into(),
        revision,
        last_sign_in: Some(LastSignIn { at: at(revision), ip: None }),
        due_at: due,
    };
    let anna = |number, seconds, known, slot| {
        tx(number, at(seconds), vec![Expect::User("anna".into(), known)], vec![Write::User("anna".into(), slot)], [])
    };
    let disabled = anna(16, 61, 0, Some(user(7, Some(at(61)))));
    let signed_in = tx(
        17,
        at(61),
        vec![],
        vec![Write::SignedIn("anna".into(), LastSignIn { at: at(900), ip: None })],
        [started(&session(key, "anna", at(61)), at(61))],
    );
    let moved = {
        let record = session(key, "cleo", at(9));
        let (Write::End(ended), _) = ended(&record, at(9)) else { unreachable!() };
        let slot = EndedSlot { record: Arc::new(record), ended, transaction: 3 };
        tx(18, at(62), vec![], vec![Write::Import(Slot::Ended(Arc::new(slot)))], [])
    };
    let expired = {
        let mut expired = end(14, &short, 60);
        let id = short.info.id;
        expired.relies_on = vec![Expect::Head(id, 1), Expect::NotSeenSince(id, at(3))];
        expired
    };

    let one = |transaction: Transaction| -> Step {
        let key = key.clone();
        Box::new(move |journal| run(journal, &key, &transaction))
    };
    let together: Step = {
        let key = key.clone();
        let all = [setting(10, fourth_id, "n", "1", at(7)), end(11, &third, 7), head(12, &fourth, &held, 7)];
        Box::new(move |journal| {
            commit(journal, |view| all.iter().try_for_each(|transaction| apply(view, &key, transaction)))
        })
    };
    let touched: Step = {
        let key = key.clone();
        let touch = SeenAt { id: second_id, at: at(100) };
        Box::new(move |journal| commit(journal, |view| Within::new(view, &key).touch(&touch, at(100))).map(drop))
    };
    let forget = |before| -> Step {
        let key = key.clone();
        let forget = Forget { ended_before: before, audit_before: before, limit: 10 };
        Box::new(move |journal| commit(journal, |view| lists::forget(Within::new(view, &key), &forget, 10)).map(drop))
    };
    let filled = format!("\"{}\"", "x".repeat(3000));
    vec![
        one(sign_in(1, &first, &[])),
        one(sign_in(2, &again, &[&first])),
        one(sign_in(3, &second, &[])),
        one(sign_in(4, &third, &[&again])),
        one(sign_in(5, &short, &[])),
        one(setting(6, second_id, "cart", &filled, at(4))),
        one(head(7, &second, &ending, 4)),
        touched,
        one(head(8, &third, &rotated, 5)),
        one(sign_in(9, &visitor, &[])),
        one(sign_in(10, &fourth, &[&visitor, &second])),
        together,
        one(expired),
        forget(at(2)),
        one(tx(15, at(60), vec![Expect::Head(fourth_id, 2)], vec![Write::Due(fourth_id, Some(at(4000)))], [])),
        one(disabled),
        one(signed_in),
        one(anna(19, 62, 7, Some(user(8, None)))),
        one(moved),
        one(end(20, &fourth, 63)),
        one(anna(21, 64, 8, None)),
        forget(at(7200)),
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
            .write(false, |directory| {
                directory.mark("sessions/00/half".into());
                panic!("on purpose")
            })
            .await;
        assert!(matches!(panicked, Err(Fault::Panicked)));
        assert_eq!(disk.dump(), before);
        writer
            .write(false, |directory| {
                directory.mark("sessions/00/whole".into());
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(disk.dump().len(), before.len() + 1);
    });
}
