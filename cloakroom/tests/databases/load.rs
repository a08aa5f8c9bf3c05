//! Writers under which servers and connections fail, and the accounting of what was acknowledged to them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use cloakroom::{
    Error, SessionId,
    store::{Loaded, Store, Updated},
};

use super::{NOW, begin, private::eventually, set};

/// Writers that set keys of a session of their own, and what was acknowledged to them.
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
    pub(super) async fn start(store: &Arc<dyn Store>, writers: usize) -> Self {
        let mut load = Self { acknowledged: Arc::default(), is_over: Arc::default(), writers: Vec::new() };
        for _ in 0..writers {
            let mut outcome = Outcome { id: begin(&**store, "anna").await, keys: Vec::new(), unknown: 0 };
            let (store, acknowledged, is_over) =
                (Arc::clone(store), Arc::clone(&load.acknowledged), Arc::clone(&load.is_over));
            load.writers.push(tokio::spawn(async move {
                for n in 0.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let key = format!("key {n}");
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
    /// Every acknowledged write is there, and nothing was applied twice.
    pub(super) async fn assert_kept(&self, store: &dyn Store) {
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
