//! Calls that change nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Arg, Dialect, SqlStore,
    answers::{Answer, Answers},
};
use crate::{
    Result, SessionId, SessionInfo, Timestamp,
    store::{AuditQuery, Cursor, Logged, Page, Query},
};

/// So many sessions are looked at for one page of those that match.
const SCANNED: usize = 4096;

impl<D: Dialect> SqlStore<D> {
    pub(super) async fn find_of_user(
        &self,
        user: &str,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let (before, before_id) = match after {
            Some(cursor) => place_in_user(cursor)?,
            None => (i64::MAX, Vec::new()),
        };
        let mut args = vec![Arg::text(user), Arg::Int(Some(before)), Arg::Bytes(Some(before_id))];
        args.extend(filters(query));
        args.extend([Arg::at(now), Arg::count(limit.saturating_add(1))]);
        let answers = self.read("find_of_user", args).await?;
        let mut items = answers.iter().map(|answer| answer.info()).collect::<Result<Vec<_>>>()?;
        items.sort_unstable_by_key(|info| std::cmp::Reverse((info.created_at, info.id)));
        let is_over = items.len() <= limit;
        items.truncate(limit);
        let next = items.last().filter(|_| !is_over);
        let next = next.map(|last| Cursor::new(format!("{}.{}", last.created_at.as_millis(), last.id)));
        Ok(Page { items, next })
    }

    pub(super) async fn find_anywhere(
        &self,
        query: &Query,
        after: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page<SessionInfo>> {
        let after: Option<SessionId> = after.map(Cursor::parse).transpose()?;
        let mut args = vec![Arg::Bytes(Some(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec())))];
        args.extend(filters(query));
        args.extend([Arg::at(now), Arg::count(limit.saturating_add(1)), Arg::count(SCANNED)]);
        let answers = self.read("find_anywhere", args).await?;
        let mut items = Vec::new();
        let mut scanned = None;
        for answer in answers.iter() {
            if answer.is("scanned")? {
                scanned = Some(answer.id()?);
            } else {
                items.push(answer.info()?);
            }
        }
        items.sort_unstable_by_key(|info| info.id);
        let is_full = items.len() > limit;
        items.truncate(limit);
        // The scan may have ended before the table did: the next page goes on from there.
        let next = if is_full { items.last().map(|last| last.id) } else { scanned };
        Ok(Page { items, next: next.filter(|_| limit > 0).map(|id| Cursor::new(id.to_string())) })
    }

    pub(super) async fn read_audit(
        &self,
        query: &AuditQuery,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<Logged>> {
        let after = after.map_or(Ok([0, 0, 0]), place_in_log)?;
        let mut args: Vec<_> = after.into_iter().map(|number| Arg::Int(Some(number))).collect();
        args.extend([
            Arg::maybe_text(query.user.as_ref()),
            Arg::Bytes(query.session.map(|id| id.as_bytes().to_vec())),
            Arg::count(limit.saturating_add(1)),
        ]);
        let started = Instant::now();
        let mut awaited = None;
        loop {
            let answers = self.read("audit", args.clone()).await?;
            let Some(unsettled) = unsettled(&answers)? else { return page_of_log(&answers, limit) };
            let awaited = *awaited.get_or_insert(unsettled.highest);
            if unsettled.horizon > awaited || started.elapsed() >= SETTLING {
                return page_of_log(&answers, limit);
            }
            sleep(SETTLING / 200).await;
        }
    }
}

/// How long a page waits for transactions under way that may still write before entries which are there already.
const SETTLING: Duration = Duration::from_secs(1);

fn filters(query: &Query) -> [Arg; 4] {
    let ip = query.ip.map(|ip| Arc::from(ip.to_string()));
    [
        Arg::maybe_text(query.impersonated_by.as_ref()),
        Arg::Text(ip),
        Arg::maybe_text(query.device.as_ref()),
        Arg::maybe_at(query.last_seen_before),
    ]
}

fn place_in_user(cursor: &Cursor) -> Result<(i64, Vec<u8>)> {
    let (millis, id) = cursor.as_str().split_once('.').ok_or_else(Cursor::invalid)?;
    let id: SessionId = id.parse().map_err(|_| Cursor::invalid())?;
    Ok((millis.parse().map_err(|_| Cursor::invalid())?, id.as_bytes().to_vec()))
}

/// An era, a place in it, and a number.
fn place_in_log(cursor: &Cursor) -> Result<[i64; 3]> {
    let numbers = cursor.as_str().split('.').map(|part| part.parse().map_err(|_| Cursor::invalid()));
    numbers.collect::<Result<Vec<_>>>()?.try_into().map_err(|_| Cursor::invalid())
}

fn cursor_of<D: Dialect>(answer: &Answer<'_, D>) -> Result<Cursor> {
    Ok(Cursor::new(format!("{}.{}.{}", answer.int_of("era")?, answer.int_of("place")?, answer.int_of("seq")?)))
}

/// Entries are there that a page must not show yet: transactions under way may still write before them.
struct Unsettled {
    /// Pages end before this place.
    horizon: i64,
    /// The last entry is here.
    highest: i64,
}

fn unsettled<D: Dialect>(answers: &Answers<D>) -> Result<Option<Unsettled>> {
    for answer in answers.iter() {
        if answer.is("unsettled")? {
            return Ok(Some(Unsettled { horizon: answer.int_of("number")?, highest: answer.int_of("place")? }));
        }
    }
    Ok(None)
}

fn page_of_log<D: Dialect>(answers: &Answers<D>, limit: usize) -> Result<Page<Logged>> {
    let mut items = Vec::new();
    for answer in answers.iter() {
        if !answer.is("unsettled")? {
            items.push(Logged { id: 0, cursor: cursor_of(&answer)?, entry: answer.audit_entry()? });
        }
    }
    let is_over = items.len() <= limit;
    items.truncate(limit);
    let next = items.last().filter(|_| !is_over).map(|last| last.cursor.clone());
    Ok(Page { items, next })
}
