//! What slots should be, looked at in every store; and what is particular to the store.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    change::random_id,
    clock::Timestamp,
    error::{Error, Result},
    record::Record,
    rules::{
        Rules,
        look::{self, unasked},
        transaction::commit,
        user_text::User,
    },
    store::{
        Cursor, Damage, Finding,
        slots::{Ask, Expect, List, Listed, Outcome, Slot, Transaction, Write},
    },
    token::SessionId,
};

/// So many slots are looked at together.
const PAGE: usize = 500;

pub(super) async fn examine(rules: &Rules, now: Timestamp, repair: bool) -> Result<Vec<Finding>> {
    // What the store mends need not be looked at twice, and slots that it cannot read cannot be looked at.
    let mut findings = rules.store.examine(now, repair).await?;
    findings.extend(match look_at_all(rules, now, repair).await {
        Err(error @ Error::Store { .. }) => vec![Finding::error("sessions", format!("They cannot be read: {error}."))],
        looked_at => looked_at?,
    });
    Ok(findings)
}

async fn look_at_all(rules: &Rules, now: Timestamp, repair: bool) -> Result<Vec<Finding>> {
    let mut examination = Examination { due: due(rules, now).await?, ..Examination::default() };
    examination.look_at_users(rules).await?;
    let mut after: Option<Cursor> = None;
    loop {
        let page = rules.store.list(&List::Everything, after.as_ref(), PAGE).await?;
        let mut open = Vec::new();
        for listed in page.items {
            match listed {
                Listed::Session(Slot::Open(record)) => open.push(record),
                Listed::Session(Slot::Ended(_)) => examination.ended += 1,
                Listed::Damaged(id, problem) => examination.damaged.add(format_args!("{id}: {problem}"), false),
                Listed::User(..) => return Err(unasked()),
            }
        }
        examination.open += open.len();
        examination.look_at(rules, &open, now, repair).await?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(examination.findings())
}

/// Everything that is due.
async fn due(rules: &Rules, now: Timestamp) -> Result<HashSet<SessionId>> {
    let (mut due, mut after) = (HashSet::new(), None);
    loop {
        let page = rules.store.list(&List::Due(now), after.as_ref(), PAGE).await?;
        due.extend(page.items.into_iter().filter_map(|listed| match listed {
            Listed::Session(Slot::Open(record)) => Some(record.info.id),
            Listed::Session(Slot::Ended(_)) | Listed::User(..) | Listed::Damaged(..) => None,
        }));
        after = page.next;
        if after.is_none() {
            return Ok(due);
        }
    }
}

#[derive(Default)]
struct Examination {
    due: HashSet<SessionId>,
    open: usize,
    ended: usize,
    misplaced: Damage,
    unlisted: Damage,
    listed: Damage,
    not_due: Damage,
    damaged: Damage,
    damaged_users: Damage,
}

impl Examination {
    async fn look_at_users(&mut self, rules: &Rules) -> Result<()> {
        let mut after: Option<Cursor> = None;
        loop {
            let page = rules.store.list(&List::Users, after.as_ref(), PAGE).await?;
            for listed in page.items {
                let Listed::User(name, slot) = listed else { return Err(unasked()) };
                if let Err(error) = User::of(Some(slot)) {
                    self.damaged_users.add(format_args!("{name:?}: {error}"), false);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn look_at(&mut self, rules: &Rules, open: &[Arc<Record>], now: Timestamp, repair: bool) -> Result<()> {
        let mut of_users: HashMap<&Arc<str>, Vec<&Arc<Record>>> = HashMap::new();
        for record in open {
            let info = &record.info;
            if info.expiry(now).is_some() && !self.due.contains(&info.id) && still_open(rules, record).await? {
                self.not_due.add(info.id, repair && rewrite(rules, record, now).await?);
            }
            let Some(user) = &info.user else { continue };
            if rules.store.partition_key().partition_of(user) == info.id.partition() {
                of_users.entry(user).or_default().push(record);
            } else {
                self.misplaced.add(info.id, false);
            }
        }
        for (user, records) in of_users {
            let listed = listed(rules, user).await?;
            for record in records {
                if !listed.contains(&record.info.id) && still_open(rules, record).await? {
                    self.unlisted.add(record.info.id, repair && rewrite(rules, record, now).await?);
                }
            }
            for id in listed {
                let there = look::head(rules, id).await?;
                let is_theirs = matches!(&there, Some(Slot::Open(record)) if record.info.user.as_ref() == Some(user));
                if !is_theirs && self::listed(rules, user).await?.contains(&id) {
                    self.listed.add(id, false);
                }
            }
        }
        Ok(())
    }

    fn findings(self) -> Vec<Finding> {
        let Self { due: _, open, ended, misplaced, unlisted, listed, not_due, damaged, damaged_users } = self;
        let remedy = "Run this again with repair.";
        let wrong = [
            damaged.finding(
                "sessions",
                "sessions are damaged",
                "They cannot be used, and lists leave them out.",
                "End or delete them, or correct what stands there.",
            ),
            damaged_users.finding(
                "users",
                "users' entries are damaged",
                "Nobody can sign in as one of them.",
                "Restore what stood there from a backup.",
            ),
            misplaced.finding(
                "partitions",
                "sessions are not in the partition of their user",
                "Limits do not count them, and ending all of a user's sessions misses them.",
                "End them one by one.",
            ),
            unlisted.finding(
                "users",
                "sessions are missing from the list of their user",
                "Limits do not count them, and ending all of a user's sessions misses them.",
                remedy,
            ),
            listed.finding(
                "users",
                "entries in the lists of users stand for no open session",
                "Lists and limits look at them in vain.",
                remedy,
            ),
            not_due.finding(
                "expiry",
                "sessions have expired and are not due to be reaped",
                "They open nothing; but they are never forgotten.",
                remedy,
            ),
        ];
        let mut findings: Vec<_> = wrong.into_iter().flatten().collect();
        if findings.is_empty() {
            let text = format!("{open} open and {ended} ended sessions are as they should be.");
            findings.push(Finding::fine("sessions", text));
        }
        findings
    }
}

/// The list of a user's sessions.
async fn listed(rules: &Rules, user: &Arc<str>) -> Result<Vec<SessionId>> {
    let mut limit = 64;
    loop {
        let heads = look::read(rules, [Ask::HeadsOf(Arc::clone(user), limit)]).await?.heads()?;
        if heads.len() < limit {
            return Ok(heads.into_iter().map(|record| record.info.id).collect());
        }
        limit *= 2;
    }
}

/// Whether it was not ended, or written anew, since it was looked at.
async fn still_open(rules: &Rules, record: &Record) -> Result<bool> {
    let there = look::head(rules, record.info.id).await?;
    Ok(matches!(there, Some(Slot::Open(there)) if there.revision == record.revision))
}

/// Writes the head as it is, from which the store makes its columns and indexes anew. Says whether it did.
async fn rewrite(rules: &Rules, record: &Record, now: Timestamp) -> Result<bool> {
    let head = Record { revision: random_id(), ..record.clone() };
    let transaction = Transaction::new(now)
        .relying_on([Expect::Head(record.info.id, record.revision)])
        .writing(Write::Head(Arc::new(head)));
    Ok(matches!(commit(rules, &transaction).await?, Outcome::Committed(_)))
}
