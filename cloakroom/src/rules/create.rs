//! Starting sessions: who is admitted, and who makes room.

use std::sync::Arc;

use crate::{
    admission::{Limit, Refusal, WhenFull},
    change::random_id,
    clock::Timestamp,
    ended::{Ended, Ending, Reason},
    error::Result,
    record::{Extra, Record, SessionInfo},
    rules::{Create, Created},
    rules::{
        Rules,
        end::{self, Conclusion},
        look,
        transaction::commit,
        user_text::User,
    },
    store::{
        LastSignIn,
        slots::{Ask, Expect, Outcome, Slot, Transaction, Write},
    },
    token::{Digest, Partition, SessionId},
};

pub(super) async fn create(rules: &Rules, create: &Create, now: Timestamp) -> Result<Created> {
    let asked = Asked::by(rules, create);
    let mut attempts = match &create.record.info.user {
        Some(user) => rules.turns.at_user(user),
        None => rules.turns.at_session(create.record.info.id),
    };
    if asked.limit.is_some() {
        // Each sign-in changes what the others count.
        attempts.queue().await;
    }
    let (mut ended, elsewhere) = loop {
        // Most often nothing is settled about a user, and there was no earlier try.
        let guess = attempts.made() == 0 && asked.limit.is_none() && asked.replaces.is_none();
        let seen = if guess { Some(Seen::default()) } else { Seen::look(rules, &asked, attempts.made() > 0).await? };
        let Some(seen) = seen else { return Ok(Created::Created { ended: Vec::new() }) };
        let (transaction, created) = match asked.admit(&seen, now) {
            Ok(evicted) => {
                let (transaction, ended) = asked.start(&seen, &evicted, now);
                (transaction, Ok(ended))
            }
            Err(refusal) => (asked.refuse(&seen, refusal, now), Err(refusal)),
        };
        match (commit(rules, &transaction).await?, created) {
            (Outcome::Conflict(_), _) => attempts.again().await?,
            (Outcome::Committed(_), Ok(ended)) => break (ended, asked.elsewhere),
            (Outcome::Committed(_), Err(refusal)) => return Ok(Created::Refused(refusal)),
        }
    };
    drop(attempts);
    if let Some(replaced) = elsewhere {
        let answers = end::end(rules, &[replaced], &asked.ending(Reason::Replaced), now).await?;
        ended.extend(answers.into_iter().filter_map(crate::rules::EndAnswer::ended_now));
    }
    Ok(Created::Created { ended })
}

/// What is to be created, and what must be looked at for it.
struct Asked<'a> {
    create: &'a Create,
    user: Option<&'a Arc<str>>,
    /// Nobody's limit holds for a session in which somebody acts as another.
    limit: Option<Limit>,
    idempotency: Option<(Partition, Digest)>,
    /// The session it replaces, where both fit into one transaction.
    replaces: Option<SessionId>,
    /// The session it replaces, where they do not.
    elsewhere: Option<SessionId>,
}

impl<'a> Asked<'a> {
    fn by(rules: &Rules, create: &'a Create) -> Self {
        let info = &create.record.info;
        let home = info.id.partition();
        let together = |id: &SessionId| rules.store.spans_groups() || id.partition().group() == home.group();
        Self {
            create,
            user: info.user.as_ref(),
            limit: create.limit.filter(|_| info.user.is_some() && info.impersonator().is_none()),
            idempotency: create.record.idempotency.map(|key| (home, key)),
            replaces: create.replaces.filter(together),
            elsewhere: create.replaces.filter(|id| !together(id)),
        }
    }

    fn info(&self) -> &SessionInfo {
        &self.create.record.info
    }

    fn ending(&self, reason: Reason) -> Ending {
        Ending { reason, by: self.create.by.clone(), note: None }
    }

    /// Whether it may start, and who must go for it.
    fn admit(&self, seen: &Seen, now: Timestamp) -> Result<Vec<Arc<Record>>, Refusal> {
        if seen.user.disabled {
            return Err(Refusal::UserDisabled);
        }
        if seen.user.ended_before.is_some_and(|ended| self.info().fenced_at() < ended) {
            return Err(Refusal::EndedMeanwhile);
        }
        let Some(Limit { max, when_full }) = self.limit else { return Ok(Vec::new()) };
        let room_for = max as usize;
        let uncounted = |record: &&Arc<Record>| seen.uncounted.iter().any(|other| other.info.id == record.info.id);
        let mut counted: Vec<_> = seen.counted(now).filter(|record| !uncounted(record)).cloned().collect();
        if counted.len() < room_for {
            return Ok(Vec::new());
        }
        if when_full == WhenFull::Refuse {
            return Err(Refusal::LimitReached { max });
        }
        let surplus = (counted.len() + 1).saturating_sub(room_for.max(1));
        counted.sort_unstable_by_key(|record| (record.info.last_seen_at, record.info.created_at, record.info.id));
        counted.truncate(surplus);
        Ok(counted)
    }

    /// The start, and those that end for it. What had expired ends too, but for that.
    fn start(&self, seen: &Seen, evicted: &[Arc<Record>], now: Timestamp) -> (Transaction, Vec<Ended>) {
        let mut transaction = Transaction::new(now).relying_on(self.seen(seen, now));
        let mut record = self.create.record.clone();
        record.revision = random_id();
        record.user_epoch = seen.user.epoch;
        if let Some(replaced) = self.elsewhere {
            record.extra.get_or_insert_with(Box::<Extra>::default).replaces = Some(replaced);
        }
        transaction.writes.push(Write::Create(Arc::new(record)));

        let mut ended = Vec::new();
        let (replace, evict) = (self.ending(Reason::Replaced), self.ending(Reason::SignedInElsewhere));
        let ends = seen.uncounted.iter().map(|record| (record, &replace));
        for (record, ending) in ends.chain(evicted.iter().map(|record| (record, &evict))) {
            let conclusion = Conclusion::of(record, ending, now);
            conclusion.write(record, &mut transaction);
            if ending.reason == Reason::SignedInElsewhere {
                // It goes for being the least recently seen.
                let seen = record.info.last_seen_at;
                transaction.relies_on.push(Expect::NotSeenSince(record.info.id, seen));
            }
            ended.extend(conclusion.lived.then_some(conclusion.ended));
        }
        if seen.user.settings.is_some()
            && let Some((user, sign_in)) = LastSignIn::of(self.info())
        {
            transaction.writes.push(Write::SignedIn(Arc::clone(user), sign_in));
        }
        transaction.log(self.create.started(now));
        (transaction, ended)
    }

    fn refuse(&self, seen: &Seen, refusal: Refusal, now: Timestamp) -> Transaction {
        // An earlier try of this very call may have been admitted.
        let new = Expect::Empty(self.info().id);
        Transaction::new(now)
            .relying_on(self.seen(seen, now))
            .relying_on([new])
            .telling(self.create.refused(refusal, now))
    }

    /// That what was seen is still so.
    fn seen(&self, seen: &Seen, now: Timestamp) -> Vec<Expect> {
        let mut expects = Vec::new();
        expects.extend(self.user.map(|user| seen.user.unchanged(user)));
        if let (Some(user), Some(_)) = (self.user, self.limit) {
            expects.push(Expect::Count(Arc::clone(user), seen.counted(now).count()));
        }
        expects.extend(self.idempotency.map(|(partition, key)| Expect::Try(partition, key, seen.earlier_try)));
        expects
    }
}

/// What was found before it was decided.
#[derive(Default)]
struct Seen {
    user: User,
    /// The user's open rules, where there is a limit.
    heads: Vec<Arc<Record>>,
    earlier_try: Option<SessionId>,
    /// The open slots of the replaced session and of the earlier try.
    uncounted: Vec<Arc<Record>>,
}

impl Seen {
    /// So many of a user's sessions are asked for at first.
    const HEADS: usize = 32;

    /// `None` if the session is there already: an earlier try of this very call succeeded. That is only looked at where
    /// something went wrong before.
    async fn look(rules: &Rules, asked: &Asked<'_>, again: bool) -> Result<Option<Self>> {
        let mut limit = Self::HEADS.max(asked.limit.map_or(0, |limit| limit.max as usize + 2));
        loop {
            let mut asks = Vec::new();
            asks.extend(asked.user.map(|user| Ask::User(Arc::clone(user))));
            let listed = asked.user.filter(|_| asked.limit.is_some());
            asks.extend(listed.map(|user| Ask::HeadsOf(Arc::clone(user), limit)));
            asks.extend(asked.idempotency.map(|(partition, key)| Ask::Try(partition, key)));
            asks.extend(asked.replaces.map(Ask::Head));
            asks.extend(again.then_some(Ask::Head(asked.info().id)));

            let mut answers = look::read(rules, asks).await?;
            let mut seen = Self::default();
            if asked.user.is_some() {
                seen.user = User::of(answers.user()?)?;
            }
            if listed.is_some() {
                seen.heads = answers.heads()?;
            }
            if asked.idempotency.is_some() {
                seen.earlier_try = answers.earlier_try()?;
            }
            let replaced = if asked.replaces.is_some() { answers.slot()? } else { None };
            if again && answers.slot()?.is_some() {
                return Ok(None);
            }
            if seen.heads.len() >= limit {
                limit *= 2;
                continue;
            }
            if let Some(Slot::Open(record)) = replaced {
                seen.uncounted.push(record);
            }
            seen.find_earlier_try(rules).await?;
            return Ok(Some(seen));
        }
    }

    async fn find_earlier_try(&mut self, rules: &Rules) -> Result<()> {
        let Some(id) = self.earlier_try.filter(|id| self.uncounted.iter().all(|other| other.info.id != *id)) else {
            return Ok(());
        };
        let listed = self.heads.iter().find(|record| record.info.id == id).cloned();
        let found = match listed {
            Some(record) => Some(record),
            None => match look::head(rules, id).await? {
                Some(Slot::Open(record)) => Some(record),
                // It ended just now: the commit will notice.
                Some(Slot::Ended(_)) | None => None,
            },
        };
        self.uncounted.extend(found);
        Ok(())
    }

    /// The user's sessions that a limit counts.
    fn counted(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Record>> {
        let counts = move |info: &SessionInfo| info.impersonator().is_none() && info.expiry(now).is_none();
        self.heads.iter().filter(move |record| counts(&record.info))
    }
}
