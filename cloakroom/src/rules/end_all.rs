//! Ending all sessions of a user.
//!
//! First it is settled in the user's slot, so that no sign-in under way slips past; then the sessions end, in portions;
//! then the note of what is still to be ended goes. The reaper finishes what a crash left.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    ended::{Ended, Ending},
    error::Result,
    rules::{EndAnswer, Fence},
    rules::{
        Rules,
        end::{self, PORTION},
        look,
        user_text::{ToEnd, newest_first},
        users,
    },
    store::slots::Ask,
    token::SessionId,
};

/// For so long the call that began it may be at work; then the reaper goes on.
pub(super) const LEFT_AFTER: Duration = Duration::from_secs(10);

pub(super) async fn end_all(
    rules: &Rules,
    user: &Arc<str>,
    except: &[SessionId],
    fence: Fence,
    ending: &Ending,
    now: Timestamp,
) -> Result<Vec<EndAnswer>> {
    let to_end = users::change(rules, user, now, |user| (user.end_all(fence, ending, except, now), true)).await?;
    let ended = finish(rules, user, &to_end, now).await?;
    Ok(ended.into_iter().map(EndAnswer::EndedNow).collect())
}

/// Ends what is still to be ended, and settles that it is done. Answers those that lived until now, newest first.
pub(super) async fn finish(rules: &Rules, user: &Arc<str>, to_end: &ToEnd, now: Timestamp) -> Result<Vec<Ended>> {
    let mut ended = Vec::new();
    let mut limit = PORTION + to_end.except.len();
    let mut attempts = rules.turns.at_user(user);
    loop {
        let heads = look::read(rules, [Ask::HeadsOf(Arc::clone(user), limit)]).await?.heads()?;
        let full = heads.len() >= limit;
        let open: Vec<_> = heads.into_iter().filter(|record| to_end.covers(record)).take(PORTION).collect();
        if open.is_empty() && !full {
            break;
        }
        if open.is_empty() {
            // All that were shown stay: look behind them.
            limit *= 2;
            continue;
        }
        let started: Vec<_> = open.iter().map(|record| record.info.created_at).collect();
        let mut conflicts = false;
        for (started, (_, conclusion)) in
            started.into_iter().zip(end::conclude(rules, open, &to_end.ending, now).await?)
        {
            match conclusion {
                Some(conclusion) if conclusion.lived => ended.push((started, conclusion.ended)),
                Some(_) => {}
                None => conflicts = true,
            }
        }
        if conflicts {
            attempts.again().await?;
        }
    }
    drop(attempts);
    users::change(rules, user, now, |user| {
        let before = user.to_end.len();
        user.to_end.retain(|other| other.epoch != to_end.epoch);
        ((), user.to_end.len() != before)
    })
    .await?;
    Ok(newest_first(ended))
}
