//! Ending what expired, finishing what crashes left, forgetting what is old.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    ended::{Ended, Ending, Reason},
    error::Result,
    record::Record,
    rules::{EndAnswer, Reap, Reaped},
    rules::{
        Rules,
        end::{self, Conclusion},
        end_all,
        heads::{self, Decided, Wants},
        look::unasked,
        user_text::User,
        users,
    },
    store::{
        Cursor,
        slots::{Expect, Forget, List, Listed, Outcome, Slot, Transaction, Write},
    },
};

/// So many slots are looked at between two pauses for others.
const PORTION: usize = 64;

pub(super) async fn reap(rules: &Rules, reap: &Reap, now: Timestamp) -> Result<Reaped> {
    let mut ended = Vec::new();
    expire(rules, reap.limit, now, &mut ended).await?;
    let users = finish_users(rules, reap, now, &mut ended).await?;
    let forget = Forget { ended_before: reap.tombstones_before, audit_before: reap.audit_before, limit: reap.limit };
    let more = rules.store.forget(&forget).await?;
    Ok(Reaped { more: more || users || ended.len() >= reap.limit, ended })
}

/// Ends what has expired, and moves the due times of what was used meanwhile.
async fn expire(rules: &Rules, limit: usize, now: Timestamp, ended: &mut Vec<Ended>) -> Result<()> {
    let mut after: Option<Cursor> = None;
    while ended.len() < limit {
        let page = rules.store.list(&List::Due(now), after.as_ref(), PORTION.min(limit - ended.len())).await?;
        let mut due = Vec::with_capacity(page.items.len());
        for listed in page.items {
            match listed {
                Listed::Session(Slot::Open(record)) => due.push(record),
                // It ended just now.
                Listed::Session(Slot::Ended(_)) => {}
                Listed::User(..) | Listed::Damaged(..) => return Err(unasked()),
            }
        }
        let replacing = |record: &Arc<Record>| record.extra.as_ref().is_some_and(|extra| extra.replaces.is_some());
        for record in due.iter().filter(|record| replacing(record)) {
            ended.extend(Box::pin(finish_replacement(rules, record, now)).await?);
        }
        // What it settles moves the due time, too.
        due.retain(|record| !replacing(record) || record.info.expiry(now).is_some());
        ended.extend(expire_or_move(rules, &due, now).await?);
        after = page.next;
        if after.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Those that expired.
async fn expire_or_move(rules: &Rules, due: &[Arc<Record>], now: Timestamp) -> Result<Vec<Ended>> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let nothing = Ending::new(Reason::IdleTimeout);
    let (expired, transactions): (Vec<_>, Vec<_>) = due
        .iter()
        .map(|record| {
            let mut transaction = Transaction::new(now);
            let conclusion = Conclusion::of(record, &nothing, now);
            if conclusion.lived {
                let id = record.info.id;
                let moved = Write::Due(id, record.info.expires_at());
                return (None, transaction.relying_on([Expect::Head(id, record.revision)]).writing(moved));
            }
            conclusion.write(record, &mut transaction);
            (Some(conclusion.ended), transaction)
        })
        .unzip();
    let outcomes = rules.store.commit(&transactions, false).await?;
    let done = expired.into_iter().zip(outcomes);
    // What was used or ended meanwhile is no business of this call's any more.
    Ok(done.filter_map(|(expired, outcome)| expired.filter(|_| matches!(outcome, Outcome::Committed(_)))).collect())
}

/// Ends the session that this one took the place of, which lives in another group, and settles that it is done.
async fn finish_replacement(rules: &Rules, record: &Record, now: Timestamp) -> Result<Option<Ended>> {
    let Some(replaced) = record.extra.as_ref().and_then(|extra| extra.replaces) else { return Ok(None) };
    let answers = end::end(rules, &[replaced], &Ending::new(Reason::Replaced), now).await?;
    let settle = |record: &mut Record| {
        let Some(extra) = &mut record.extra else { return Decided { answer: (), write: false, log: None } };
        let write = extra.replaces.take().is_some();
        if **extra == crate::record::Extra::default() {
            record.extra = None;
        }
        Decided { answer: (), write, log: None }
    };
    drop(heads::change(rules, record.info.id, Wants::Nothing, now, settle).await?);
    Ok(answers.into_iter().find_map(EndAnswer::ended_now))
}

/// Finishes the endings of all sessions of a user that a crash left, and forgets old fences. Says whether more may be left.
async fn finish_users(rules: &Rules, reap: &Reap, now: Timestamp, ended: &mut Vec<Ended>) -> Result<bool> {
    // A fence is due when it was set, and what is under way at any time: what is listed here is old enough or left.
    let due = List::DueUsers(reap.tombstones_before.max(Timestamp::EPOCH));
    let mut after: Option<Cursor> = None;
    let mut looked_at = 0;
    while looked_at < reap.limit {
        let page = rules.store.list(&due, after.as_ref(), PORTION.min(reap.limit - looked_at)).await?;
        looked_at += page.items.len();
        for listed in page.items {
            let Listed::User(name, slot) = listed else { return Err(unasked()) };
            let user = match User::of(Some(slot)) {
                Ok(user) => user,
                // Others must not wait until it is mended.
                Err(error) => {
                    tracing::error!(user = &*name, "what is settled about the user is left as it is: {error}");
                    continue;
                }
            };
            for left in user.to_end {
                if left.at.after(end_all::LEFT_AFTER) <= now {
                    ended.extend(Box::pin(end_all::finish(rules, &name, &left, now)).await?);
                }
            }
            users::change(rules, &name, now, |user| {
                let before = user.ended_before;
                user.ended_before = before.filter(|at| *at > reap.tombstones_before);
                ((), user.ended_before != before)
            })
            .await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(false);
        }
        tokio::task::yield_now().await;
    }
    Ok(true)
}
