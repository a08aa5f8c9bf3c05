//! Random interleavings of requests on one session, compared with a plain model of what must survive.
//!
//! Each request loads the session, works on it in several steps and commits; other requests run between any two steps. The
//! model knows what the store must hold after each commit: the last value of each key set, every increment, no key
//! that was removed after it was set, nothing after the session ended.

use std::collections::BTreeMap;

use cloakroom::{Error, Found, Reason, Session, SignIn, Token};
use proptest::prelude::*;

use super::world::{World, world};

const KEYS: [&str; 3] = ["a", "b", "count"];
const REQUESTS: usize = 4;

/// What one request does next.
#[derive(Clone, Debug)]
enum Step {
    Set(usize, u32),
    Remove(usize),
    RemoveAll,
    Add(u32),
    AddNow(u32),
    Take(usize),
    Commit,
    Rotate,
    EndByAdmin,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        4 => (0..2_usize, any::<u32>()).prop_map(|(key, value)| Step::Set(key, value)),
        2 => (0..3_usize).prop_map(Step::Remove),
        1 => Just(Step::RemoveAll),
        5 => (1..9_u32).prop_map(Step::Add),
        2 => (1..9_u32).prop_map(Step::AddNow),
        1 => (0..3_usize).prop_map(Step::Take),
        5 => Just(Step::Commit),
        1 => Just(Step::Rotate),
    ];
    (0..REQUESTS, prop_oneof![40 => step, 1 => Just(Step::EndByAdmin)])
}

/// What a request does to the stored values when it commits, in words of the values alone.
#[derive(Clone, Debug)]
enum Effect {
    Set(usize, u32),
    Remove(usize),
    RemoveAll,
    Add(u32),
    /// Removes whatever is there then, if this request saw a value.
    Take(usize),
}

type Values = BTreeMap<usize, u32>;

fn play(effects: &[Effect], values: &mut Values) {
    for effect in effects {
        match effect {
            Effect::Set(key, value) => drop(values.insert(*key, *value)),
            Effect::Remove(key) | Effect::Take(key) => drop(values.remove(key)),
            Effect::RemoveAll => values.clear(),
            Effect::Add(n) => *values.entry(2).or_insert(0) += n,
        }
    }
}

/// One request: the session as the library has it, and as the model has it.
struct Request {
    session: Session,
    /// What the store held when this request last heard of it.
    seen: Values,
    pending: Vec<Effect>,
}

impl Request {
    async fn arrive(world: &World, token: &Token, stored: &Values) -> Self {
        let session = Session::resume(&world.sessions, token).await.unwrap();
        Self { session, seen: stored.clone(), pending: Vec::new() }
    }

    /// What the request itself sees now.
    fn view(&self) -> Values {
        let mut view = self.seen.clone();
        play(&self.pending, &mut view);
        view
    }

    fn check_view(&self) -> Result<(), TestCaseError> {
        let view = self.view();
        for (at, key) in KEYS.into_iter().enumerate() {
            prop_assert_eq!(self.session.get::<u32>(key).unwrap(), view.get(&at).copied(), "{}", key);
        }
        prop_assert_eq!(self.session.len(), view.len());
        Ok(())
    }
}

async fn run(steps: Vec<(usize, Step)>) -> Result<(), TestCaseError> {
    let world = world();
    let mut token = world.sessions.start(SignIn::new("anna")).await.unwrap().token;
    let mut stored = Values::new();
    let mut ended = false;
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        requests.push(Request::arrive(&world, &token, &stored).await);
    }
    for (number, step) in steps {
        let request = &mut requests[number];
        match step {
            Step::Set(key, value) => {
                request.session.set(KEYS[key], &value).unwrap();
                request.pending.push(Effect::Set(key, value));
            }
            Step::Remove(key) => {
                if request.session.remove(KEYS[key]) {
                    request.pending.push(Effect::Remove(key));
                }
            }
            Step::RemoveAll => {
                request.session.remove_all();
                request.pending.push(Effect::RemoveAll);
            }
            Step::Add(n) => {
                request.session.modify("count", move |count: Option<u32>| count.unwrap_or(0) + n).unwrap();
                request.pending.push(Effect::Add(n));
            }
            Step::Take(key) => {
                if request.session.take::<u32>(KEYS[key]).unwrap().is_some() {
                    request.pending.push(Effect::Take(key));
                }
            }
            Step::AddNow(n) => {
                let added = request.session.modify_now("count", move |count: Option<u32>| count.unwrap_or(0) + n).await;
                if ended {
                    prop_assert!(matches!(added, Err(Error::Ended(_))));
                    break;
                }
                // What it stores at once: everything if all keys were removed before, otherwise its own key's changes.
                let removes_all = request.pending.iter().any(|effect| matches!(effect, Effect::RemoveAll));
                let of_count = |effect: &Effect| {
                    matches!(effect, Effect::Add(_) | Effect::Remove(2) | Effect::Take(2) | Effect::Set(2, _))
                };
                let (now, later) = if removes_all {
                    (std::mem::take(&mut request.pending), Vec::new())
                } else {
                    request.pending.drain(..).partition(of_count)
                };
                play(&now, &mut stored);
                play(&[Effect::Add(n)], &mut stored);
                prop_assert_eq!(added.unwrap(), stored[&2]);
                request.pending = later;
                request.seen = stored.clone();
            }
            Step::Commit => {
                let dirty = !request.pending.is_empty();
                let committed = request.session.commit().await;
                if ended && dirty {
                    prop_assert!(matches!(committed, Err(Error::Ended(_))));
                } else {
                    prop_assert!(committed.is_ok());
                    if dirty {
                        play(&request.pending, &mut stored);
                    }
                }
                *request = Request::arrive(&world, &token, &stored).await;
            }
            Step::Rotate => {
                if let Ok(cloakroom::sessions::RotatedToken::Rotated { token: new, .. }) =
                    world.sessions.rotate(&token).await
                {
                    token = new;
                }
            }
            Step::EndByAdmin => {
                world.sessions.end(token.id(), &Reason::RevokedByAdmin.into()).await.unwrap();
                ended = true;
            }
        }
        if ended {
            prop_assert!(matches!(world.sessions.get(token.id()).await.unwrap(), Found::Ended(_)));
        } else {
            requests[number].check_view()?;
            let Found::Live(record) = world.sessions.get(token.id()).await.unwrap() else { panic!("it lives") };
            let found: Values =
                (0..KEYS.len()).filter_map(|at| Some((at, record.data.get(KEYS[at])?.decode().unwrap()))).collect();
            prop_assert_eq!(&found, &stored);
        }
        if ended && requests[number].session.id().is_none() {
            break;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_must_survive_survives_any_interleaving(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
