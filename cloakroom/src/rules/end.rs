//! Ending sessions.

use std::collections::HashMap;

use crate::{
    audit::AuditEntry,
    clock::Timestamp,
    ended::{Ended, Ending},
    error::{Error, Result},
    record::Record,
    rules::EndAnswer,
    rules::{Rules, look, look::unasked, transaction::commit},
    store::slots::{Expect, Outcome, Slot, Transaction, Write},
    token::SessionId,
};

/// So many sessions end in one call of the store.
pub(super) const PORTION: usize = 256;

/// How a session in an open slot ends.
pub(super) struct Conclusion {
    pub(super) ended: Ended,
    /// Whether it lived until now. Otherwise it had expired, and ends for that reason.
    pub(super) lived: bool,
}

impl Conclusion {
    pub(super) fn of(record: &Record, ending: &Ending, now: Timestamp) -> Self {
        match record.info.expired(now) {
            Some(ended) => Self { ended, lived: false },
            None => Self { ended: ending.of(record.info.id, record.info.user.clone(), now), lived: true },
        }
    }

    pub(super) fn write(&self, record: &Record, transaction: &mut Transaction) {
        let id = record.info.id;
        if self.lived {
            transaction.relies_on.push(Expect::Live(id));
        } else {
            let seen = record.info.last_seen_at;
            transaction.relies_on.extend([Expect::Head(id, record.revision), Expect::NotSeenSince(id, seen)]);
        }
        transaction.writes.push(Write::End(self.ended.clone()));
        transaction.log(AuditEntry::ended(&record.info, &self.ended));
    }

    pub(super) fn answer(self) -> EndAnswer {
        if self.lived { EndAnswer::EndedNow(self.ended) } else { EndAnswer::EndedBefore(self.ended) }
    }
}

pub(super) async fn end(rules: &Rules, ids: &[SessionId], ending: &Ending, now: Timestamp) -> Result<Vec<EndAnswer>> {
    if let [id] = ids {
        return Ok(vec![end_one(rules, *id, ending, now).await?]);
    }
    let mut answers = Vec::with_capacity(ids.len());
    let mut known: HashMap<SessionId, EndAnswer> = HashMap::new();
    for portion in ids.chunks(PORTION) {
        let mut new: Vec<SessionId> = Vec::with_capacity(portion.len());
        for id in portion {
            if !known.contains_key(id) && !new.contains(id) {
                new.push(*id);
            }
        }
        for answer in end_portion(rules, new, ending, now).await? {
            known.insert(id_of(&answer), answer);
        }
        for id in portion {
            let answer = known.get_mut(id).ok_or_else(unasked)?;
            answers.push(answer.clone());
            // Whoever names it twice hears of its end twice, but ended it once.
            if let EndAnswer::EndedNow(ended) = answer {
                *answer = EndAnswer::EndedBefore(ended.clone());
            }
        }
    }
    Ok(answers)
}

async fn end_one(rules: &Rules, id: SessionId, ending: &Ending, now: Timestamp) -> Result<EndAnswer> {
    let mut attempts = rules.turns.at_session(id);
    let mut slot = look::head(rules, id).await?;
    loop {
        let record = match slot {
            Some(Slot::Open(record)) => record,
            Some(Slot::Ended(slot)) => return Ok(EndAnswer::EndedBefore(slot.ended.clone())),
            None => return Ok(EndAnswer::Unknown(id)),
        };
        let conclusion = Conclusion::of(&record, ending, now);
        let mut transaction = Transaction::new(now);
        conclusion.write(&record, &mut transaction);
        drop(record);
        match commit(rules, &transaction).await? {
            Outcome::Committed(_) => return Ok(conclusion.answer()),
            Outcome::Conflict(fresh) => slot = fresh,
        }
        attempts.again().await?;
    }
}

fn id_of(answer: &EndAnswer) -> SessionId {
    match answer {
        EndAnswer::EndedNow(ended) | EndAnswer::EndedBefore(ended) => ended.id,
        EndAnswer::Unknown(id) => *id,
    }
}

/// Different sessions, each in a transaction of its own. Answers in any order.
async fn end_portion(
    rules: &Rules,
    mut left: Vec<SessionId>,
    ending: &Ending,
    now: Timestamp,
) -> Result<Vec<EndAnswer>> {
    let mut answers = Vec::with_capacity(left.len());
    let Some(first) = left.first() else { return Ok(answers) };
    let mut attempts = rules.turns.at_session(*first);
    loop {
        let mut open = Vec::with_capacity(left.len());
        let found = match look::heads(rules, &left).await {
            Err(Error::Store { .. }) if left.len() > 1 => {
                answers.extend(end_each(rules, &left, ending, now).await?);
                return Ok(answers);
            }
            found => found?,
        };
        for (id, slot) in left.drain(..).zip(found) {
            match slot {
                Some(Slot::Open(record)) => open.push(record),
                Some(Slot::Ended(slot)) => answers.push(EndAnswer::EndedBefore(slot.ended.clone())),
                None => answers.push(EndAnswer::Unknown(id)),
            }
        }
        for (id, answer) in conclude(rules, open, ending, now).await? {
            match answer {
                Some(conclusion) => answers.push(conclusion.answer()),
                None => left.push(id),
            }
        }
        if left.is_empty() {
            return Ok(answers);
        }
        attempts.again().await?;
    }
}

/// Ends sessions one by one, because one of them cannot be read: it must not keep the others alive. They end first, then
/// it is the error.
async fn end_each(rules: &Rules, ids: &[SessionId], ending: &Ending, now: Timestamp) -> Result<Vec<EndAnswer>> {
    let mut answers = Ok(Vec::with_capacity(ids.len()));
    for id in ids {
        match (end_one(rules, *id, ending, now).await, &mut answers) {
            (Ok(answer), Ok(answers)) => answers.push(answer),
            (Err(error @ Error::Store { .. }), Ok(_)) => answers = Err(error),
            (Ok(_) | Err(Error::Store { .. }), Err(_)) => {}
            (Err(error), _) => return Err(error),
        }
    }
    answers
}

/// Ends the sessions of these open slots; `None` for each of which something else is so by now.
pub(super) async fn conclude(
    rules: &Rules,
    open: Vec<std::sync::Arc<Record>>,
    ending: &Ending,
    now: Timestamp,
) -> Result<Vec<(SessionId, Option<Conclusion>)>> {
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let (conclusions, transactions): (Vec<_>, Vec<_>) = open
        .into_iter()
        .map(|record| {
            let conclusion = Conclusion::of(&record, ending, now);
            let mut transaction = Transaction::new(now);
            conclusion.write(&record, &mut transaction);
            (conclusion, transaction)
        })
        .unzip();
    let outcomes = rules.store.commit(&transactions, false).await?;
    if outcomes.len() != conclusions.len() {
        return Err(unasked());
    }
    let answers = conclusions.into_iter().zip(outcomes).map(|(conclusion, outcome)| {
        let id = conclusion.ended.id;
        (id, matches!(outcome, Outcome::Committed(_)).then_some(conclusion))
    });
    Ok(answers.collect())
}
