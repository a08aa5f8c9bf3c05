//! Calls that end sessions, and what became of them. Their callers may ask again: with the same `Idempotency-Key`, or, where
//! the answer was late, for the job.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::{Ended, Ending, SessionId, Sessions, Timestamp, rules::EndAnswer, store::Query};
use cloakroom_api::{Job, JobState, Jobs};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    json,
    problem::{Code, Problem},
};
use crate::keys::{Caller, Scope};

/// The header by which a caller says that a call is a repeat.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// One try of a call that its caller may repeat. A repeat has the same key, path, parameters and body, from the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    /// Of the key and of what it is for.
    call: [u8; 32],
    /// Of what was asked for under it.
    request: [u8; 32],
}

impl Attempt {
    pub(super) fn of(caller: &Caller, parts: &Parts, body: &[u8]) -> Result<Option<Self>, Problem> {
        let Some(key) = idempotency_key(&parts.headers)? else { return Ok(None) };
        let call =
            digest(&[caller.name.as_bytes(), parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), key]);
        let request = digest(&[parts.uri.query().unwrap_or_default().as_bytes(), body]);
        Ok(Some(Self { call, request }))
    }

    /// A number for what is the same at every repeat, and differs otherwise.
    pub(super) fn number(&self) -> u64 {
        let digest = digest(&[&self.call, &self.request]);
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.as_bytes();
    if values.next().is_some() || !(1..=256).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        let detail = "Idempotency-Key: give one, of 1 to 256 visible ASCII characters";
        return Err(Problem::field(Code::InvalidField, "Idempotency-Key", detail));
    }
    Ok(Some(key))
}

/// A call that ends sessions.
#[derive(Debug)]
pub(super) struct Operation {
    id: Id,
    caller: Arc<str>,
    /// Its method and path.
    call: String,
    /// Of a call that may be repeated.
    request: Option<[u8; 32]>,
    started_at: Timestamp,
    endings: Mutex<Endings>,
    /// How many sessions all operations name that are there.
    named: Arc<AtomicUsize>,
    state: watch::Sender<State>,
}

impl Drop for Operation {
    fn drop(&mut self) {
        let ended = self.endings().ended.len();
        self.named.fetch_sub(ended, Relaxed);
    }
}

type Id = [u8; 16];

/// What it ended, over all of its tries.
#[derive(Debug, Default)]
struct Endings {
    ended: Vec<SessionId>,
    /// Those that a try was about to end when it failed: it may have.
    unsure: Vec<SessionId>,
}

#[derive(Clone, Debug)]
enum State {
    Running,
    Done(Answer),
    /// A repeat tries again.
    Failed(Answer),
}

/// A response that can be given several times.
#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    retry_after: Option<HeaderValue>,
    body: Bytes,
}

impl Operation {
    /// Notes which sessions are about to end, in case that the outcome stays unknown.
    pub(super) fn is_about_to_end(&self, ids: &[SessionId]) {
        self.endings().unsure = ids.to_vec();
    }

    /// As [`is_about_to_end`](Self::is_about_to_end), for all sessions of a user but these. They are looked for only where
    /// a repeat would be recognised.
    pub(super) async fn may_end_all_of(
        &self,
        sessions: &Sessions,
        user: &Arc<str>,
        except: &HashSet<SessionId>,
    ) -> cloakroom::Result<()> {
        if self.request.is_some() {
            let mut ids = sessions.ids_where(&Query::of_user(Arc::clone(user)), &[]).await?;
            ids.retain(|id| !except.contains(id));
            self.is_about_to_end(&ids);
        }
        Ok(())
    }

    /// Notes what ended; nothing is in doubt any more.
    pub(super) fn has_ended(&self, ended: impl IntoIterator<Item = SessionId>) {
        let mut endings = self.endings();
        let before = endings.ended.len();
        endings.unsure.clear();
        endings.ended.extend(ended);
        self.named.fetch_add(endings.ended.len() - before, Relaxed);
    }

    /// All that it ended, by earlier tries too.
    pub(super) fn ended(&self) -> Vec<SessionId> {
        self.endings().ended.clone()
    }

    /// Finds out what an earlier try did that did not hear whether it was done, and does it if it was not.
    pub(super) async fn settle(&self, sessions: &Sessions, ending: &Ending) -> cloakroom::Result<()> {
        let unsure = self.endings().unsure.clone();
        if unsure.is_empty() {
            return Ok(());
        }
        let by = sessions.attributed(ending.by.clone());
        let is_ours = |ended: &Ended| ended.at >= self.started_at && ended.reason == ending.reason && ended.by == by;
        let answers = sessions.end_many(unsure, ending).await?;
        self.has_ended(answers.into_iter().filter_map(|answer| match answer {
            EndAnswer::EndedNow(ended) => Some(ended.id),
            EndAnswer::EndedBefore(ended) => is_ours(&ended).then_some(ended.id),
            EndAnswer::Unknown(_) => None,
        }));
        Ok(())
    }

    /// Keeps the answer for those who wait, and for those who ask again.
    pub(super) async fn finish(&self, response: Response) {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let answer = Answer {
            status: parts.status,
            content_type: parts.headers.get(header::CONTENT_TYPE).cloned(),
            retry_after: parts.headers.get(header::RETRY_AFTER).cloned(),
            body,
        };
        if self.state.receiver_count() == 0 {
            let (status, ended) = (parts.status.as_u16(), self.endings().ended.len());
            tracing::info!(call = self.call, key = &*self.caller, status, ended, "done, although the caller had gone");
        }
        let failed = parts.status.is_server_error();
        self.state.send_replace(if failed { State::Failed(answer) } else { State::Done(answer) });
    }

    /// Its answer, if it is there in time.
    async fn answer(&self, within: Duration) -> Option<Answer> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Running));
        match &*tokio::time::timeout(within, settled).await.ok()?.ok()? {
            State::Running => None,
            State::Done(answer) | State::Failed(answer) => Some(answer.clone()),
        }
    }

    fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), State::Running)
    }

    fn endings(&self) -> MutexGuard<'_, Endings> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, Body::from(self.body)).into_response();
        let headers = response.headers_mut();
        headers.extend(self.content_type.map(|value| (header::CONTENT_TYPE, value)));
        headers.extend(self.retry_after.map(|value| (header::RETRY_AFTER, value)));
        response
    }
}

/// What callers may ask about again. It is this process's: another one, or this one after a restart, does not know it.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    kept: Mutex<Kept>,
    named: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Kept {
    operations: HashMap<Id, Arc<Operation>>,
    /// Oldest first.
    order: VecDeque<Id>,
    /// The sessions that calls handed to their callers, by the call.
    handed: HashMap<Attempt, Handed>,
    handed_order: VecDeque<Attempt>,
}

/// What a call handed to its caller.
#[derive(Clone, Copy, Debug)]
struct Handed {
    session: SessionId,
    /// The number of its lock, where that was it.
    lock: Option<u64>,
}

/// Whether an operation is to be carried out.
pub(super) enum Begun {
    /// It is.
    New(Arc<Operation>),
    /// It is under way, or done.
    Again(Arc<Operation>),
}

impl Operations {
    /// How long one is kept.
    const KEPT_FOR: Duration = Duration::from_hours(24);
    /// How many are kept, and how many sessions' ids all of them may name.
    const MOST: usize = 10_000;
    const MOST_IDS: usize = 1_000_000;

    pub(super) fn begin(
        &self,
        caller: &Caller,
        parts: &Parts,
        attempt: Option<&Attempt>,
        now: Timestamp,
    ) -> Result<Begun, Problem> {
        let new = |id| {
            Arc::new(Operation {
                id,
                caller: Arc::clone(&caller.name),
                call: format!("{} {}", parts.method, parts.uri.path()),
                request: attempt.map(|attempt| attempt.request),
                started_at: now,
                endings: Mutex::default(),
                named: Arc::clone(&self.named),
                state: watch::Sender::new(State::Running),
            })
        };
        let mut id = Id::default();
        let Some(attempt) = attempt else {
            let random = getrandom::fill(&mut id);
            random.map_err(|error| Problem::new(Code::Internal, format!("There are no random bytes: {error}")))?;
            return Ok(Begun::New(new(id)));
        };
        id.copy_from_slice(&attempt.call[..16]);
        let mut kept = self.kept();
        let Some(known) = kept.operations.get(&id) else {
            let operation = new(id);
            self.keep(&mut kept, &operation, now);
            return Ok(Begun::New(operation));
        };
        if known.request != Some(attempt.request) {
            let detail = "Idempotency-Key: it was used for another request; a new request takes a new key";
            return Err(Problem::field(Code::InvalidField, "Idempotency-Key", detail));
        }
        let again = known.state.send_if_modified(|state| {
            let again = matches!(state, State::Failed(_));
            if again {
                *state = State::Running;
            }
            again
        });
        let known = Arc::clone(known);
        Ok(if again { Begun::New(known) } else { Begun::Again(known) })
    }

    /// The answer of an operation, or, if that takes longer, where it will be.
    pub(super) async fn answer(&self, operation: &Arc<Operation>, within: Duration, now: Timestamp) -> Response {
        if let Some(answer) = operation.answer(within).await {
            return answer.into_response();
        }
        self.keep(&mut self.kept(), operation, now);
        let mut response = json::answer(StatusCode::ACCEPTED, &Jobs { job: job(operation, None) });
        let location = HeaderValue::from_str(&format!("/v1/jobs/{}", text_of(&operation.id)));
        response.headers_mut().extend(location.ok().map(|location| (header::LOCATION, location)));
        response
    }

    /// The operation of this id, waited for, as its caller or an administrator may see it.
    pub(super) async fn show(&self, id: &str, caller: Option<&Caller>, within: Duration) -> Option<Response> {
        let mut bytes = Id::default();
        let decoded = URL_SAFE_NO_PAD.decode_slice(id, &mut bytes);
        let operation = self.kept().operations.get(&bytes).filter(|_| decoded == Ok(bytes.len())).cloned()?;
        let may = caller.is_some_and(|caller| caller.name == operation.caller || caller.scope == Scope::Admin);
        if !may {
            return None;
        }
        let answer = operation.answer(within).await;
        Some(json::ok(&Jobs { job: job(&operation, answer.as_ref()) }))
    }

    /// The session that an earlier try of the same call handed to its caller.
    pub(super) fn handed(&self, attempt: Option<&Attempt>) -> Option<SessionId> {
        self.kept().handed.get(attempt?).map(|handed| handed.session)
    }

    pub(super) fn hand(&self, attempt: Option<Attempt>, session: SessionId) {
        self.note(attempt, Handed { session, lock: None });
    }

    /// The lock that an earlier try of the same call took.
    pub(super) fn lock_of(&self, attempt: Option<&Attempt>) -> Option<(SessionId, u64)> {
        self.kept().handed.get(attempt?).and_then(|handed| Some((handed.session, handed.lock?)))
    }

    pub(super) fn hand_lock(&self, attempt: Option<Attempt>, session: SessionId, number: u64) {
        self.note(attempt, Handed { session, lock: Some(number) });
    }

    fn note(&self, attempt: Option<Attempt>, handed: Handed) {
        let Some(attempt) = attempt else { return };
        let mut kept = self.kept();
        if kept.handed.insert(attempt, handed).is_none() {
            kept.handed_order.push_back(attempt);
        }
        if kept.handed_order.len() > Self::MOST
            && let Some(oldest) = kept.handed_order.pop_front()
        {
            kept.handed.remove(&oldest);
        }
    }

    /// Keeps one more. What is too old goes, and the oldest of what is too much; not what still runs.
    fn keep(&self, kept: &mut Kept, operation: &Arc<Operation>, now: Timestamp) {
        for _ in 0..kept.order.len() {
            let Some(oldest) = kept.order.front().and_then(|id| kept.operations.get(id)) else { break };
            let too_many = kept.order.len() >= Self::MOST || self.named.load(Relaxed) > Self::MOST_IDS;
            if !too_many && now.since(oldest.started_at) < Self::KEPT_FOR {
                break;
            }
            if oldest.is_running() {
                kept.order.rotate_left(1);
            } else if let Some(id) = kept.order.pop_front() {
                kept.operations.remove(&id);
            }
        }
        if kept.operations.insert(operation.id, Arc::clone(operation)).is_none() {
            kept.order.push_back(operation.id);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text_of(id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

type JobView<'a> = Job<'a, &'a RawValue>;

fn job<'a>(operation: &'a Operation, answer: Option<&'a Answer>) -> JobView<'a> {
    let state = match answer {
        None => JobState::Running,
        Some(answer) if answer.status.is_server_error() => JobState::Failed,
        Some(_) => JobState::Done,
    };
    Job {
        id: text_of(&operation.id),
        call: operation.call.as_str().into(),
        state,
        started_at: operation.started_at,
        ended: operation.endings().ended.len(),
        status: answer.map(|answer| answer.status.as_u16()),
        answer: answer.and_then(|answer| serde_json::from_slice(&answer.body).ok()),
    }
}
