//! Writers under which servers and connections fail, and the accounting of what was acknowledged to them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use cloakroom::{
    Error, SessionId,
    rules::{Loaded, Rules, Updated},
};

use super::{NOW, begin, set};
use crate::common::eventually;

/// Writers that set keys of their own, and what was acknowledged to them.
pub(super) struct Load {
    acknowledged: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Outcome>>,
}

#[derive(Debug)]
struct Outcome {
    id: SessionId,
    keys: Vec<String>,
    unknown: usize,
}

impl Load {
    /// Each in a session of its own.
    pub(super) async fn start(store: &Rules, writers: usize) -> Self {
        let mut sessions = Vec::new();
        for _ in 0..writers {
            sessions.push(begin(store, "anna").await);
        }
        Self::start_on(store, sessions)
    }

    /// All in one session.
    pub(super) async fn start_on_one(store: &Rules, writers: usize) -> Self {
        let id = begin(store, "anna").await;
        Self::start_on(store, vec![id; writers])
    }

    fn start_on(store: &Rules, sessions: Vec<SessionId>) -> Self {
        let mut load = Self { acknowledged: Arc::default(), is_over: Arc::default(), writers: Vec::new() };
        for (writer, id) in sessions.into_iter().enumerate() {
            let mut outcome = Outcome { id, keys: Vec::new(), unknown: 0 };
            let (store, acknowledged, is_over) =
                (store.clone(), Arc::clone(&load.acknowledged), Arc::clone(&load.is_over));
            load.writers.push(tokio::spawn(async move {
                for n in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let key = format!("{writer}.{n}");
                    match store.update(outcome.id, &set(&key, "1"), NOW).await {
                        Ok(Updated::Applied(_)) => {
                            outcome.keys.push(key);
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(other) => panic!("a write was answered with {other:?}"),
                        Err(Error::OutcomeUnknown { .. }) => outcome.unknown += 1,
                        Err(Error::Unavailable { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    match store.load(outcome.id, NOW).await {
                        Ok(Loaded::Live(_)) | Err(Error::Unavailable { .. }) => {}
                        other => panic!("a load was answered with {other:?}"),
                    }
                }
                outcome
            }));
        }
        load
    }

    /// Waits until so many writes were acknowledged.
    pub(super) async fn reaches(&self, acknowledged: usize) {
        eventually(|| async { (self.acknowledged.load(Ordering::SeqCst) >= acknowledged).then_some(()) }).await;
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    pub(super) async fn stop(self) -> Outcomes {
        self.is_over.store(true, Ordering::SeqCst);
        let mut outcomes = Vec::new();
        for writer in self.writers {
            outcomes.push(writer.await.unwrap());
        }
        Outcomes(outcomes)
    }
}

pub(super) struct Outcomes(Vec<Outcome>);

impl Outcomes {
    /// Every acknowledged write to the one session is there, and nothing was applied twice.
    pub(super) async fn assert_kept_by_one(&self, store: &Rules) {
        let Loaded::Live(record) = store.load(self.0[0].id, NOW).await.unwrap() else { panic!("the session is gone") };
        let keys: Vec<_> = self.0.iter().flat_map(|outcome| &outcome.keys).collect();
        let lost: Vec<_> = keys.iter().filter(|key| record.data.get(key).is_none()).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        // Each key was set by one change.
        let twice = usize::try_from(record.info.version).unwrap() - record.data.len();
        assert_eq!(twice, 0, "of {} changes so many were applied twice", record.data.len());
    }

    /// Every acknowledged write is there, and nothing was applied twice.
    pub(super) async fn assert_kept(&self, store: &Rules) {
        for outcome in &self.0 {
            let loaded = eventually(|| async { store.load(outcome.id, NOW).await.ok() }).await;
            let Loaded::Live(record) = loaded else { panic!("the session is gone: {loaded:?}") };
            let lost: Vec<_> = outcome.keys.iter().filter(|key| record.data.get(key).is_none()).collect();
            assert!(lost.is_empty(), "lost: {lost:?} of {outcome:?}");
            assert_eq!(usize::try_from(record.info.version).unwrap(), record.data.len(), "each was applied once");
            assert!(record.data.len() <= outcome.keys.len() + outcome.unknown, "{outcome:?}");
        }
    }
}
