//! The audit log as it grows, as server-sent events.

use std::{collections::VecDeque, convert::Infallible, future::ready, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use cloakroom::{
    Result, Sessions,
    store::{AuditQuery, Cursor, Logged},
};
use cloakroom_api::Events;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;

use super::{call::Call, problem::Problem};

/// How many entries are read at a time.
const BATCH: usize = 500;

pub(super) async fn follow(headers: HeaderMap, Call { app, params, .. }: Call<Events>) -> Result<Response, Problem> {
    let after = last_event_id(&headers)?.or(params.after).map(Cursor::new);
    let mut follower = Follower {
        sessions: app.sessions,
        query: AuditQuery { user: params.user, session: params.session },
        after,
        waiting: VecDeque::new(),
        interval: app.bounds.events_interval,
        closing: app.closing.subscribe(),
    };
    // A wrong cursor is told before anything else, and so is a store that cannot be reached.
    follower.read().await.map_err(|error| Problem::of_cursor("after", error))?;
    // A client sees at once that it is connected, though nothing may happen for hours.
    let begun = stream::once(ready(Ok::<_, Infallible>(Event::default().comment("following"))));
    let events = stream::unfold(follower, async |mut follower| {
        let logged = follower.next().await?;
        Some((Ok(event(&logged)), follower))
    });
    let mut response = Sse::new(begun.chain(events)).keep_alive(KeepAlive::default()).into_response();
    // nginx would hold events back until its buffer is full.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Where a client was when its connection broke: the cursor of the last entry that it got.
fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::parameter("Last-Event-ID", "it is not ASCII"))?;
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn event(logged: &Logged) -> Event {
    let data = serde_json::to_string(logged).expect("entries are text and numbers");
    Event::default().id(logged.cursor.as_str()).event(logged.entry.event.to_string()).data(data)
}

struct Follower {
    sessions: Sessions,
    query: AuditQuery,
    after: Option<Cursor>,
    waiting: VecDeque<Logged>,
    interval: Duration,
    closing: watch::Receiver<bool>,
}

impl Follower {
    /// The next entry, once there is one; `None` when the server shuts down or cannot go on: the client comes again.
    async fn next(&mut self) -> Option<Logged> {
        // However much there is left to read: the client goes on elsewhere, or later.
        while !*self.closing.borrow() {
            if let Some(logged) = self.waiting.pop_front() {
                return Some(logged);
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        () = tokio::time::sleep(self.interval) => {}
                        _ = self.closing.wait_for(|closing| *closing) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "audit entries cannot be read: a client that follows them is cut off");
                    return None;
                }
            }
        }
        None
    }

    /// Reads on; says whether there was anything, or may be more.
    async fn read(&mut self) -> Result<bool> {
        let page = self.sessions.audit_log().page(&self.query, self.after.as_ref(), BATCH).await?;
        let last = page.items.last().map(|last| last.cursor.clone());
        let read_on = last.is_some() || page.next.is_some();
        self.after = page.next.or(last).or(self.after.take());
        self.waiting.extend(page.items);
        Ok(read_on)
    }
}
