//! Changes that arrive together travel together: one statement, one transaction, to each its own answer.
//!
//! Nobody waits for company. A change that finds nothing under way leaves at once; those that arrive while others are under
//! way stand in line, and whoever has a connection next takes all of them along. A session is in one transport at a time,
//! so its changes keep their order and never wait for each other in the server.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sqlx::Database;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    Arg, Dialect,
    answers::Answers,
    connections::{Borrowed, CALL_TIMEOUT, Connections, Fault, Kind},
};
use crate::{Error, Result, SessionId};

/// Changes on their way to one server.
pub(super) struct Together<D: Dialect> {
    connections: Arc<Connections<D>>,
    /// So many transports are under way at once.
    transports: usize,
    line: Mutex<Line<D>>,
}

struct Line<D: Dialect> {
    waiting: VecDeque<Waiting<D>>,
    /// Sessions whose changes are under way: others of theirs wait.
    away: HashSet<SessionId>,
    transports: usize,
    last_ticket: u64,
}

struct Waiting<D: Dialect> {
    ticket: u64,
    id: SessionId,
    args: Arc<[Arg]>,
    answer: oneshot::Sender<Result<Answers<D>>>,
}

impl<D: Dialect> Together<D> {
    /// Few, so that they fill up, and more than one, so that a slow one does not hold up everybody.
    const TRANSPORTS: usize = 4;
    const LARGEST: usize = 128;
    /// So many changes of one session at most. A record remembers four times as many, so that all of them are recognised
    /// when the answer is lost and they are sent again.
    const OF_ONE_SESSION: u32 = 16;
    /// What a transport with more than one change may weigh, in bytes of arguments.
    const HEAVIEST: usize = 256 * 1024;

    pub(super) fn new(connections: Arc<Connections<D>>) -> Self {
        let transports = connections.max().clamp(1, Self::TRANSPORTS);
        let line = Line { waiting: VecDeque::new(), away: HashSet::new(), transports: 0, last_ticket: 0 };
        Self { connections, transports, line: Mutex::new(line) }
    }

    /// Changes one session. A caller that goes away while it stands in line leaves nothing behind; later its change is
    /// carried out.
    pub(super) async fn change(self: &Arc<Self>, id: SessionId, args: Vec<Arg>) -> Result<Answers<D>> {
        let came = Instant::now();
        let (answer, answered) = oneshot::channel();
        let ticket = self.line().queue(id, args.into(), answer);
        self.set_off();
        match timeout(CALL_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Store { message: "a call to the store stopped midway".into(), source: None }),
            Err(_) => {
                let was_sent = !self.line().leave(ticket);
                Err(Fault::Slow { after: came.elapsed(), was_sent }.into_error::<D>(Kind::Write))
            }
        }
    }

    /// Starts a transport for those who wait, if there may be one more.
    fn set_off(self: &Arc<Self>) {
        let mut line = self.line();
        if line.transports < self.transports && line.may_anybody_leave() {
            line.transports += 1;
            drop(line);
            let transport = Away { together: Arc::clone(self), ids: HashSet::new(), is_transport: true };
            tokio::spawn(transport.go());
        }
    }

    fn line(&self) -> MutexGuard<'_, Line<D>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Dialect> Line<D> {
    fn queue(&mut self, id: SessionId, args: Arc<[Arg]>, answer: oneshot::Sender<Result<Answers<D>>>) -> u64 {
        self.last_ticket += 1;
        self.waiting.push_back(Waiting { ticket: self.last_ticket, id, args, answer });
        self.last_ticket
    }

    /// Whether it was still in line.
    fn leave(&mut self, ticket: u64) -> bool {
        let place = self.waiting.iter().position(|waiting| waiting.ticket == ticket);
        place.is_some_and(|place| self.waiting.remove(place).is_some())
    }

    fn may_anybody_leave(&self) -> bool {
        self.waiting.iter().any(|waiting| !self.away.contains(&waiting.id))
    }

    /// Those who leave together, by session, and those of one session in the order in which they came.
    fn board(&mut self) -> Vec<Waiting<D>> {
        let (mut aboard, mut staying, mut weight) = (Vec::new(), VecDeque::new(), 0);
        let mut leaving: HashMap<SessionId, u32> = HashMap::new();
        let mut left_behind = HashSet::new();
        for waiting in self.waiting.drain(..) {
            if waiting.answer.is_closed() {
                continue;
            }
            let weighs: usize = waiting.args.iter().map(Arg::weight).sum();
            let fits = aboard.is_empty()
                || (aboard.len() < Together::<D>::LARGEST && weight + weighs <= Together::<D>::HEAVIEST);
            let before_it = leaving.get(&waiting.id).copied().unwrap_or_default();
            let may_leave = before_it < Together::<D>::OF_ONE_SESSION
                && !self.away.contains(&waiting.id)
                && !left_behind.contains(&waiting.id);
            if fits && may_leave {
                weight += weighs;
                leaving.insert(waiting.id, before_it + 1);
                aboard.push(waiting);
            } else {
                left_behind.insert(waiting.id);
                staying.push_back(waiting);
            }
        }
        self.away.extend(leaving.into_keys());
        self.waiting = staying;
        aboard.sort_unstable_by_key(|waiting| (waiting.id, waiting.ticket));
        aboard
    }
}

/// Sessions whose changes are under way, and the transport that carries them. Gone, it makes room for the next.
struct Away<D: Dialect> {
    together: Arc<Together<D>>,
    ids: HashSet<SessionId>,
    is_transport: bool,
}

impl<D: Dialect> Away<D> {
    async fn go(mut self) {
        // Who arrives while there is no connection comes along.
        let borrowed = self.together.connections.borrow(false).await;
        let aboard = self.together.line().board();
        self.ids = aboard.iter().map(|waiting| waiting.id).collect();
        match borrowed {
            Ok(borrowed) if aboard.is_empty() => self.together.connections.give_back(borrowed),
            Ok(borrowed) => self.carry(aboard, borrowed).await,
            Err(fault) => tell_all(aboard, &fault),
        }
        self.arrive();
    }

    async fn carry(&mut self, mut aboard: Vec<Waiting<D>>, borrowed: Borrowed<D>) {
        let connections = &self.together.connections;
        if aboard.len() == 1 {
            let Some(only) = aboard.pop() else { return };
            let rows = connections.run(Some(borrowed), "update", &only.args).await;
            return only.tell(rows);
        }
        let calls = Arg::Calls(aboard.iter().map(|waiting| Arc::clone(&waiting.args)).collect());
        let alone = match connections.run(Some(borrowed), "update_many", &[calls]).await {
            Ok(rows) => tell_each(aboard, rows),
            Err(fault) if fault.is_of_the_connection() => return tell_all(aboard, &fault),
            // Nothing was changed, and one of them may be to blame: each for itself.
            Err(_) => aboard,
        };
        let mut alone = alone.into_iter().peekable();
        while let Some(first) = alone.next() {
            let id = first.id;
            let mut of_one = vec![first];
            while let Some(next) = alone.next_if(|next| next.id == id) {
                of_one.push(next);
            }
            self.ids.remove(&id);
            tokio::spawn(send_alone(Arc::clone(&self.together), of_one));
        }
    }

    /// Makes room, and lets the next ones go.
    fn arrive(self) {
        let together = Arc::clone(&self.together);
        drop(self);
        together.set_off();
    }
}

/// Sends changes of one session once more, one after the other. It stays away until they are done.
async fn send_alone<D: Dialect>(together: Arc<Together<D>>, changes: Vec<Waiting<D>>) {
    let ids = changes.iter().map(|change| change.id).collect();
    let away = Away { together, ids, is_transport: false };
    for change in changes {
        let rows = away.together.connections.run(None, "update", &change.args).await;
        change.tell(rows);
    }
    away.arrive();
}

// Where a task is broken off in its middle, too. Nobody is let go from here: there may be no more tasks to be had.
impl<D: Dialect> Drop for Away<D> {
    fn drop(&mut self) {
        let mut line = self.together.line();
        line.away.retain(|id| !self.ids.contains(id));
        line.transports -= usize::from(self.is_transport);
    }
}

impl<D: Dialect> Waiting<D> {
    fn tell(self, rows: Result<Vec<<D::Db as Database>::Row>, Fault>) {
        // Who has gone away need not be told.
        let _ = self.answer.send(rows.map(Answers::new).map_err(|fault| fault.into_error::<D>(Kind::Write)));
    }
}

fn tell_all<D: Dialect>(waiting: Vec<Waiting<D>>, fault: &Fault) {
    for waiting in waiting {
        waiting.tell(Err(fault.copy()));
    }
}

/// Hands out the answers. Those whose rows somebody else has locked are left: the others need not wait for that.
fn tell_each<D: Dialect>(waiting: Vec<Waiting<D>>, rows: Vec<<D::Db as Database>::Row>) -> Vec<Waiting<D>> {
    let mut locked = Vec::new();
    match Answers::apart(rows, waiting.len()) {
        Ok(answers) => {
            for (waiting, answers) in waiting.into_iter().zip(answers) {
                if answers.is_locked() {
                    locked.push(waiting);
                } else {
                    let _ = waiting.answer.send(Ok(answers));
                }
            }
        }
        Err(error) => {
            for waiting in waiting {
                let _ = waiting.answer.send(Err(Error::Store { message: error.to_string(), source: None }));
            }
        }
    }
    locked
}
