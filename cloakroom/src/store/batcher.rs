//! Work that arrives together travels together: one batch, one round trip, to each piece of it its own answer.
//!
//! Nothing waits for company. Work that finds a batch to spare leaves at once; what arrives while all batches are in flight is
//! queued, and the next batch takes all of it along. Work with a key in common is in flight in one batch at a time, so it
//! keeps its order and never waits for itself in the server.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::BoxFuture;
use crate::error::{Error, Result};

/// One piece of what travels.
pub(in crate::store) trait Work: Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Send + 'static;

    /// What it names, hashed: pieces with a key in common keep their order.
    fn keys(&self) -> impl Iterator<Item = u64>;

    /// How many bytes it has, about.
    fn weight(&self) -> usize;

    /// What its caller is told when there is no answer in time; `was_sent` if it may be carried out nevertheless.
    fn late(after: Duration, was_sent: bool) -> Error;
}

/// Sends batches and hands out their answers.
pub(in crate::store) trait Carrier<W: Work>: Send + Sync + 'static {
    /// Gets ready to send, with a connection for instance, [takes](Departure::take) what is queued by then, and answers
    /// each piece of it.
    fn carry(self: Arc<Self>, departure: Departure<W>) -> BoxFuture<'static, ()>;
}

/// How much travels.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Limits {
    /// So many batches are in flight at once: few, so that they fill up, and more than one, so that a slow one does not
    /// hold up all others.
    pub(in crate::store) batches: usize,
    /// So many pieces in one batch.
    pub(in crate::store) pieces: usize,
    /// So many bytes in a batch of more than one piece.
    pub(in crate::store) bytes: usize,
    /// So many pieces with a key in common in one batch.
    pub(in crate::store) of_one_key: u32,
}

/// The queue of what waits, and what is in flight.
pub(in crate::store) struct Batcher<W: Work> {
    shared: Arc<Shared<W>>,
}

struct Shared<W: Work> {
    carrier: Arc<dyn Carrier<W>>,
    limits: Limits,
    state: Mutex<State<W>>,
}

struct State<W: Work> {
    queue: VecDeque<Queued<W>>,
    /// Keys of what is in flight, and how many pieces have each.
    in_flight: HashMap<u64, u32>,
    batches: usize,
    /// Whether one of them has not [taken](Departure::take) its pieces yet: then what comes leaves with it.
    is_departing: bool,
    last_ticket: u64,
}

struct Queued<W: Work> {
    ticket: u64,
    work: W,
    answer: oneshot::Sender<Result<W::Answer>>,
}

impl<W: Work> Batcher<W> {
    pub(in crate::store) fn new(carrier: Arc<dyn Carrier<W>>, limits: Limits) -> Self {
        let state = State {
            queue: VecDeque::new(),
            in_flight: HashMap::new(),
            batches: 0,
            is_departing: false,
            last_ticket: 0,
        };
        Self { shared: Arc::new(Shared { carrier, limits, state: Mutex::new(state) }) }
    }

    /// Has pieces carried out, and answers in their order. What a caller that goes away had queued leaves nothing behind;
    /// what was sent is carried out.
    pub(in crate::store) async fn submit(
        &self,
        pieces: impl IntoIterator<Item = W>,
        patience: Duration,
    ) -> Vec<Result<W::Answer>> {
        let came = Instant::now();
        let waiting: Vec<_> = {
            let mut state = self.shared.state();
            pieces.into_iter().map(|work| state.enqueue(work)).collect()
        };
        self.shared.dispatch();
        let mut answers = Vec::with_capacity(waiting.len());
        for (ticket, answered) in waiting {
            answers.push(match timeout_at(came + patience, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Error::Store { message: "a call to the store stopped midway".into(), source: None }),
                Err(_) => {
                    let was_sent = !self.shared.state().withdraw(ticket);
                    Err(W::late(came.elapsed(), was_sent))
                }
            });
        }
        answers
    }

    /// As [`submit`](Self::submit), for one.
    pub(in crate::store) async fn submit_one(&self, work: W, patience: Duration) -> Result<W::Answer> {
        self.submit([work], patience).await.remove(0)
    }
}

impl<W: Work> Shared<W> {
    /// Starts a batch for what is queued, if there may be one more.
    fn dispatch(self: &Arc<Self>) {
        let mut state = self.state();
        if state.batches < self.limits.batches && !state.is_departing && state.may_any_leave() {
            state.batches += 1;
            state.is_departing = true;
            drop(state);
            let departure = Departure { shared: Arc::clone(self), is_empty: true };
            let carrier = Arc::clone(&self.carrier);
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                carrier.carry(departure).await;
                shared.dispatch();
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Work> State<W> {
    fn enqueue(&mut self, work: W) -> (u64, oneshot::Receiver<Result<W::Answer>>) {
        let (answer, answered) = oneshot::channel();
        self.last_ticket += 1;
        self.queue.push_back(Queued { ticket: self.last_ticket, work, answer });
        (self.last_ticket, answered)
    }

    /// Whether it was still queued.
    fn withdraw(&mut self, ticket: u64) -> bool {
        let place = self.queue.iter().position(|queued| queued.ticket == ticket);
        place.is_some_and(|place| self.queue.remove(place).is_some())
    }

    /// Whether [`take`](Self::take) would find anything.
    fn may_any_leave(&self) -> bool {
        let mut left_behind = HashSet::new();
        self.queue.iter().filter(|queued| !queued.answer.is_closed()).any(|queued| {
            let may_leave =
                queued.work.keys().all(|key| !self.in_flight.contains_key(&key) && !left_behind.contains(&key));
            if !may_leave {
                left_behind.extend(queued.work.keys());
            }
            may_leave
        })
    }

    /// What leaves together, in the order in which it came.
    fn take(&mut self, limits: Limits) -> Vec<Queued<W>> {
        let (mut taken, mut staying, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        let mut leaving: HashMap<u64, u32> = HashMap::new();
        let mut left_behind = HashSet::new();
        for queued in self.queue.drain(..).filter(|queued| !queued.answer.is_closed()) {
            let weight = queued.work.weight();
            let fits = taken.is_empty() || (taken.len() < limits.pieces && bytes + weight <= limits.bytes);
            let may_leave = queued.work.keys().all(|key| {
                leaving.get(&key).is_none_or(|count| *count < limits.of_one_key)
                    && !self.in_flight.contains_key(&key)
                    && !left_behind.contains(&key)
            });
            if fits && may_leave {
                bytes += weight;
                queued.work.keys().for_each(|key| *leaving.entry(key).or_default() += 1);
                taken.push(queued);
            } else {
                left_behind.extend(queued.work.keys());
                staying.push_back(queued);
            }
        }
        self.in_flight.extend(leaving);
        self.queue = staying;
        taken
    }

    fn land(&mut self, work: &W) {
        for key in work.keys() {
            if let Some(count) = self.in_flight.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.in_flight.remove(&key);
                }
            }
        }
    }
}

/// A batch that is about to be sent. Gone, it makes room for the next.
pub(in crate::store) struct Departure<W: Work> {
    shared: Arc<Shared<W>>,
    is_empty: bool,
}

impl<W: Work> Departure<W> {
    /// Takes what is queued now and may leave, in the order in which it came.
    pub(in crate::store) fn take(&mut self) -> Vec<Piece<W>> {
        let taken = {
            let mut state = self.shared.state();
            state.is_departing = false;
            state.take(self.shared.limits)
        };
        self.is_empty = false;
        let piece =
            |Queued { work, answer, .. }| Piece { work, answer: Some(answer), shared: Arc::clone(&self.shared) };
        let pieces = taken.into_iter().map(piece).collect();
        // What did not fit leaves with another one.
        self.shared.dispatch();
        pieces
    }
}

// Where a task is broken off in its middle, too. Nothing is dispatched from here: there may be no more tasks to be had.
impl<W: Work> Drop for Departure<W> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.batches -= 1;
        state.is_departing &= !self.is_empty;
    }
}

/// Work in flight. Until it is answered, no other of its keys is sent.
pub(in crate::store) struct Piece<W: Work> {
    work: W,
    answer: Option<oneshot::Sender<Result<W::Answer>>>,
    shared: Arc<Shared<W>>,
}

impl<W: Work> Piece<W> {
    pub(in crate::store) fn work(&self) -> &W {
        &self.work
    }

    pub(in crate::store) fn answer(mut self, answer: Result<W::Answer>) {
        if let Some(channel) = self.answer.take() {
            // A caller that has gone away need not be told.
            let _ = channel.send(answer);
        }
        let shared = Arc::clone(&self.shared);
        drop(self);
        shared.dispatch();
    }
}

impl<W: Work> Drop for Piece<W> {
    fn drop(&mut self) {
        self.shared.state().land(&self.work);
    }
}

impl<W: Work> fmt::Debug for Batcher<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::Semaphore;

    use super::*;

    /// A key, and a weight.
    struct Parcel(u64, usize);

    impl Work for Parcel {
        /// With which batch it travelled, and at which place in it.
        type Answer = (usize, usize);

        fn keys(&self) -> impl Iterator<Item = u64> {
            [self.0].into_iter()
        }

        fn weight(&self) -> usize {
            self.1
        }

        fn late(after: Duration, was_sent: bool) -> Error {
            if was_sent {
                Error::OutcomeUnknown { after }
            } else {
                Error::Unavailable { message: "queued".into(), source: None }
            }
        }
    }

    /// Lets a batch go for each permit, and notes what was in it.
    struct Ferry {
        permits: Semaphore,
        carried: Mutex<Vec<Vec<u64>>>,
    }

    impl Carrier<Parcel> for Ferry {
        fn carry(self: Arc<Self>, mut departure: Departure<Parcel>) -> BoxFuture<'static, ()> {
            Box::pin(async move {
                let pieces = departure.take();
                let batch = {
                    let mut carried = self.carried.lock().unwrap();
                    carried.push(pieces.iter().map(|piece| piece.work().0).collect());
                    carried.len() - 1
                };
                self.permits.acquire().await.unwrap().forget();
                pieces.into_iter().enumerate().for_each(|(place, piece)| piece.answer(Ok((batch, place))));
            })
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    fn batcher(batches: usize) -> (Arc<Ferry>, Batcher<Parcel>) {
        let ferry = Arc::new(Ferry { permits: Semaphore::new(0), carried: Mutex::default() });
        let limits = Limits { batches, pieces: 4, bytes: 100, of_one_key: 2 };
        (Arc::clone(&ferry), Batcher::new(ferry, limits))
    }

    #[tokio::test]
    async fn what_waits_leaves_together_and_what_has_a_key_in_common_keeps_its_order() {
        let (ferry, batcher) = batcher(1);
        let first = batcher.submit([Parcel(1, 1)], PATIENCE);
        let rest = async {
            tokio::task::yield_now().await;
            batcher.submit([1, 2, 1, 1, 3, 1].map(|key| Parcel(key, 1)), PATIENCE).await
        };
        let (first, rest, ()) = tokio::join!(first, rest, async {
            while ferry.carried.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            ferry.permits.add_permits(9);
        });
        assert!(first[0].is_ok() && rest.iter().all(Result::is_ok));
        assert_eq!(*ferry.carried.lock().unwrap(), [vec![1], vec![1, 2, 1, 3], vec![1, 1]]);
    }

    #[tokio::test]
    async fn a_key_is_in_flight_in_one_batch_at_a_time() {
        let (ferry, batcher) = batcher(3);
        let all = batcher.submit([7, 7, 7, 8].map(|key| Parcel(key, 1)), PATIENCE);
        let (answers, ()) = tokio::join!(all, async {
            while ferry.carried.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(*ferry.carried.lock().unwrap(), [vec![7, 7, 8]], "the third waits, though there is room");
            ferry.permits.add_permits(9);
        });
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(*ferry.carried.lock().unwrap(), [vec![7, 7, 8], vec![7]]);
    }

    #[tokio::test]
    async fn heavy_pieces_travel_alone() {
        let (ferry, batcher) = batcher(1);
        ferry.permits.add_permits(9);
        let weights = [60, 60, 300, 40, 40];
        let answers = batcher.submit((0..).zip(weights).map(|(key, weight)| Parcel(key, weight)), PATIENCE).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(*ferry.carried.lock().unwrap(), [vec![0, 3], vec![1, 4], vec![2]]);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_the_queue_leaves_nothing_behind() {
        let (ferry, batcher) = batcher(1);
        let mut first = pin!(batcher.submit_one(Parcel(1, 1), PATIENCE));
        tokio::select! { biased; _ = &mut first => panic!(), () = tokio::task::yield_now() => {} }
        {
            let gone = pin!(batcher.submit_one(Parcel(2, 1), PATIENCE));
            tokio::select! { biased; _ = gone => panic!(), () = tokio::task::yield_now() => {} }
        }
        ferry.permits.add_permits(9);
        first.await.unwrap();
        batcher.submit_one(Parcel(3, 1), PATIENCE).await.unwrap();
        assert_eq!(*ferry.carried.lock().unwrap(), [vec![1], vec![3]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_says_whether_it_was_sent() {
        let (ferry, batcher) = batcher(1);
        let both = batcher.submit([Parcel(1, 1), Parcel(1, 1), Parcel(1, 1)], PATIENCE).await;
        assert!(matches!(both[0], Err(Error::OutcomeUnknown { after }) if after >= PATIENCE));
        assert!(matches!(both[2], Err(Error::Unavailable { .. })), "it was queued still: {:?}", both[2]);
        ferry.permits.add_permits(9);
        tokio::task::yield_now().await;
        assert_eq!(*ferry.carried.lock().unwrap(), [vec![1, 1]]);
    }
}
