//! What `doctor` looks at: whose store each group is, every slot, whether the indexes have what they must of it, and every
//! entry of the indexes, whether there is what it is about.
//!
//! Keys are walked by `SCAN`, indexes by `ZSCAN` and `HSCAN`, some at a time. What looks wrong is mended by a transaction that
//! relies on what was seen, so that what others change meanwhile is never taken for damage.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, Value, cmd};

use super::{
    Inner,
    address::Layout,
    calls::{Call, Effect},
    health, keys,
    keys::{OfGroup, Place, groups},
    reply::{Damaged, Hash, Reply},
    settings, slot,
    slot::Row,
    transaction::{Body, Fit, by_group},
};
use crate::{
    clock::Timestamp,
    error::Result,
    record::Record,
    store::{BoxFuture, Damage, Finding, slots::Slot},
    token::SessionId,
};

/// So many keys or entries are asked for at a time.
const PAGE: usize = 256;

/// What is wrong, and what to say of it: subject, what reads on from a number, consequence, remedy.
type Kind = [&'static str; 4];

const USERS: Kind = [
    "user index",
    "sessions are not in it",
    "Lists miss them, limits do not count them, and signing a user out everywhere leaves them.",
    "Use --repair.",
];
const SEEN: Kind = [
    "last-seen",
    "sessions have no time of last use",
    "Requests with them fail.",
    "Use --repair: it takes the time from when their token was made.",
];
const DUE: Kind = ["due index", "sessions are not in it", "They are reaped late, or never.", "Use --repair."];
const TRIES: Kind =
    ["idempotency index", "sessions are not in it", "A sign-in that is repeated makes two.", "Use --repair."];
const ENDED: Kind = ["ended sessions", "of them have no time to be forgotten", "They take space.", "Use --repair."];
const DAMAGED: Kind = [
    "sessions",
    "sessions cannot be read",
    "Requests with them fail or find nothing.",
    "Restore a backup, or delete these keys: their people sign in again.",
];
const UNMARKED: Kind = [
    "store",
    "of 1,024 groups do not say that they are this store's",
    "Their server was emptied or replaced: calls on them fail, and what was in them is gone.",
    "Restore it, or use --repair to go on without.",
];

/// Indexes, and what to say of an entry that leads nowhere.
const ENTRIES: [(OfGroup, Kind); 5] = [
    (OfGroup::Index, ["user index", "entries have no session", "Lists and limits are slower.", "Use --repair."]),
    (OfGroup::Seen, ["last-seen", "entries have no session", "They take space.", "Use --repair."]),
    (OfGroup::Due, ["due index", "entries have no session", "The reaper looks at them in vain.", "Use --repair."]),
    (OfGroup::Tries, ["idempotency index", "entries have no session", "They take space.", "Use --repair."]),
    (OfGroup::Ended, ["ended sessions", "entries have no slot", "They take space.", "Use --repair."]),
];

impl Inner {
    pub(super) fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async move {
            let mut findings = settings::examine(&self.servers, self.layout == Layout::Cluster).await?;
            findings.push(match self.ping().await {
                Ok(_) => Finding::fine("writes", "A change was made by the script that all changes are made by."),
                Err(error) => Finding::error("writes", format!("No change can be made: {error}.")),
            });
            let mut examination = Examination {
                store: self,
                now,
                repair,
                slots: 0,
                damage: BTreeMap::new(),
                unreadable: BTreeSet::new(),
            };
            examination.marks().await?;
            examination.slots().await?;
            examination.entries().await?;
            findings.extend(examination.findings());
            Ok(findings)
        })
    }
}

struct Examination<'a> {
    store: &'a Inner,
    now: Timestamp,
    repair: bool,
    slots: usize,
    damage: BTreeMap<Kind, Damage>,
    unreadable: BTreeSet<SessionId>,
}

/// What there is of one session.
struct Seen {
    slot: Slot,
    last_seen: bool,
}

impl Examination<'_> {
    fn findings(self) -> Vec<Finding> {
        let findings = self.damage.iter().filter_map(|([subject, what, consequence, remedy], damage)| {
            damage.finding(subject, what, consequence, remedy)
        });
        let mut findings: Vec<_> = findings.collect();
        if findings.is_empty() {
            let text = format!("{} sessions, open and ended, and the indexes have what they must of them.", self.slots);
            findings.push(Finding::fine("indexes", text));
        }
        findings
    }

    fn note(&mut self, kind: Kind, example: impl std::fmt::Display, repaired: bool) {
        self.damage.entry(kind).or_default().add(example, repaired);
    }

    /// Whether each group says that it is this store's.
    async fn marks(&mut self) -> Result<()> {
        let marks = health::marks(&self.store.servers, &self.store.keys, groups()).await?;
        let ours = |mark: &Option<Vec<u8>>| mark.as_deref() == Some(self.store.identity().as_bytes());
        let unmarked: Vec<_> = groups().zip(&marks).filter(|(_, mark)| !ours(mark)).map(|(group, _)| group).collect();
        if self.repair && !unmarked.is_empty() {
            health::mark_groups(&self.store.servers, &self.store.keys, &self.store.partition_key, "HSET").await?;
        }
        for group in unmarked {
            self.note(UNMARKED, group, self.repair);
        }
        Ok(())
    }

    /// Every slot, on every server.
    async fn slots(&mut self) -> Result<()> {
        let begin = format!("{}s:{{", self.store.keys.prefix());
        for slot in self.store.servers.slot_of_each().await {
            let mut cursor = b"0".to_vec();
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(format!("{begin}*")).arg("COUNT").arg(PAGE).arg("TYPE").arg("hash");
                let (next, keys) = page(self.store.servers.run(&Call::read(slot, scan)).await?)?;
                let mut ids = Vec::with_capacity(keys.len());
                for key in keys {
                    let key = key.bytes()?;
                    match self.id_of(&key) {
                        Some(id) => ids.push(id),
                        None => self.note(DAMAGED, String::from_utf8_lossy(&key), false),
                    }
                }
                self.compare(&ids).await?;
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    }

    /// The session under a key, if it is where calls look for it.
    fn id_of(&self, key: &[u8]) -> Option<SessionId> {
        let id = str::from_utf8(key).ok()?.rsplit_once(':')?.1.parse().ok()?;
        (self.store.keys.of_session(id) == key).then_some(id)
    }

    async fn compare(&mut self, ids: &[SessionId]) -> Result<()> {
        let mut wrong = Vec::new();
        for (id, seen) in self.look(ids).await? {
            self.slots += 1;
            let missing = self.missing(id, &seen).await?;
            if !missing.is_empty() {
                wrong.push((id, seen, missing));
            }
        }
        for (id, seen, missing) in wrong {
            // Another look: it may have been made, moved or ended between the first and that at the indexes.
            let again = self.look(&[id]).await?.into_iter().next();
            let Some((_, again)) = again.filter(|(_, again)| revision(&again.slot) == revision(&seen.slot)) else {
                continue;
            };
            let still = self.missing(id, &again).await?;
            let still: Vec<_> = missing.into_iter().filter(|kind| still.contains(kind)).collect();
            if self.repair && !still.is_empty() {
                self.mend(id, &again.slot).await?;
            }
            for kind in still {
                self.note(kind, id, self.repair);
            }
        }
        Ok(())
    }

    /// The slots, without data. Those that cannot be read are noted.
    async fn look(&mut self, ids: &[SessionId]) -> Result<Vec<(SessionId, Seen)>> {
        let batches = by_group(ids, PAGE);
        let calls = batches.iter().map(|(group, places)| {
            let mut commands = Vec::new();
            for place in places {
                let id = ids[*place];
                let (mut head, mut seen) = (cmd("HMGET"), cmd("HGET"));
                head.arg(self.store.keys.of_session(id)).arg(&slot::HEAD);
                seen.arg(self.store.keys.of_group(OfGroup::Seen, *group)).arg(&keys::text(id)[..]);
                commands.extend([head, seen]);
            }
            Call::read_all(keys::slot_of_group(*group), commands)
        });
        let answers = self.store.servers.run_all(calls).await?;
        let mut found = Vec::new();
        for (answer, (_, places)) in answers.into_iter().zip(&batches) {
            let mut answers = answer.array()?.into_iter();
            for place in places {
                let (head, seen) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
                let last_seen = seen != Value::Nil;
                let seen = if last_seen { seen } else { Value::Int(0) };
                match slot::of_head(ids[*place], seen, head) {
                    Ok(Some(slot)) => found.push((ids[*place], Seen { slot, last_seen })),
                    Err(_) if self.unreadable.insert(ids[*place]) => self.note(DAMAGED, ids[*place], false),
                    // It went meanwhile, or was noted.
                    Ok(None) | Err(_) => {}
                }
            }
        }
        Ok(found)
    }

    /// What the indexes miss of a slot.
    async fn missing(&self, id: SessionId, seen: &Seen) -> Result<Vec<Kind>> {
        let group = id.partition().group();
        let ask = |command: &str, key: OfGroup, member: &[u8]| {
            let mut ask = cmd(command);
            ask.arg(self.store.keys.of_group(key, group)).arg(member);
            ask
        };
        let text = keys::text(id);
        let mut asked: Vec<(Kind, Cmd)> = Vec::new();
        match &seen.slot {
            Slot::Ended(_) => asked.push((ENDED, ask("ZSCORE", OfGroup::Ended, &text))),
            Slot::Open(record) => {
                let row = Row::of(record, &self.store.partition_key);
                asked.push((USERS, ask("ZSCORE", OfGroup::Index, row.place.as_bytes())));
                if record.info.expires_at().is_some() {
                    asked.push((DUE, ask("ZSCORE", OfGroup::Due, &text)));
                }
                if let Some(idempotency) = &row.idempotency {
                    asked.push((TRIES, ask("HGET", OfGroup::Tries, idempotency)));
                }
            }
        }
        let (kinds, commands): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let answers = self.store.servers.run(&Call::read_all(keys::slot_of_group(group), commands)).await?.array()?;
        let missing = kinds.into_iter().zip(answers).filter(|(_, answer)| *answer == Value::Nil).map(|(kind, _)| kind);
        let mut missing: Vec<_> = missing.collect();
        if !seen.last_seen {
            missing.push(SEEN);
        }
        Ok(missing)
    }

    /// Makes the entries of a slot anew, if its head is the same still.
    async fn mend(&self, id: SessionId, slot: &Slot) -> Result<()> {
        let mut body = Body::of_store(self.now);
        let text = keys::text(id);
        let since = |record: &Record| record.info.created_at.max(record.secrets.issued_at).as_millis().to_string();
        match slot {
            Slot::Open(record) => {
                body.check("revision", id, record.revision);
                body.enter(id, &Row::of(record, &self.store.partition_key));
                body.command("HSETNX", OfGroup::Seen, &[&text, since(record).as_bytes()]);
                // A lower bound. The reaper moves it.
                body.due(OfGroup::Due, &text, record.info.expires_at().map(|_| record.info.created_at));
            }
            Slot::Ended(ended) => {
                body.must_be("ended", id);
                let at = ended.ended.at.as_millis().to_string();
                body.command("HSETNX", OfGroup::Seen, &[&text, since(&ended.record).as_bytes()]);
                body.command("ZADD", OfGroup::Ended, &[at.as_bytes(), &text]);
            }
        }
        self.store.servers.run(&self.store.call(id.partition().group(), &body, Fit::WhenFull)).await?;
        Ok(())
    }

    /// Every entry of every index.
    async fn entries(&mut self) -> Result<()> {
        let all: Vec<_> = groups().flat_map(|group| ENTRIES.map(|(of, kind)| (group, of, kind))).collect();
        let is_there = all.iter().map(|(group, of, _)| {
            let mut exists = cmd("EXISTS");
            exists.arg(self.store.keys.of_group(*of, *group));
            Call::read(keys::slot_of_group(*group), exists)
        });
        let there = self.store.servers.run_all(is_there.collect::<Vec<_>>()).await?;
        for ((group, of, kind), there) in all.into_iter().zip(there) {
            if there == Value::Int(1) {
                self.entries_of(group, of, kind).await?;
            }
        }
        Ok(())
    }

    async fn entries_of(&mut self, group: u16, of: OfGroup, kind: Kind) -> Result<()> {
        let is_hash = matches!(of, OfGroup::Seen | OfGroup::Tries);
        let key = self.store.keys.of_group(of, group);
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = cmd(if is_hash { "HSCAN" } else { "ZSCAN" });
            scan.arg(&key).arg(&cursor).arg("COUNT").arg(PAGE);
            let (next, flat) = page(self.store.servers.run(&Call::read(keys::slot_of_group(group), scan)).await?)?;
            let mut entries = Vec::new();
            for (member, value) in Hash::read(Value::Array(flat))?.into_fields() {
                let id = match of {
                    OfGroup::Index => Place::from_bytes(&member).map(|place| place.id()),
                    OfGroup::Tries => value.id().ok(),
                    _ => Value::BulkString(member.clone()).id().ok(),
                };
                match id {
                    Some(id) => entries.push((member, id)),
                    // Whose store it is, and when it was last asked whether it works.
                    None if of == OfGroup::Seen => {}
                    None => self.stray(group, of, kind, &member, &String::from_utf8_lossy(&member)).await?,
                }
            }
            let ids: Vec<_> = entries.iter().map(|(_, id)| *id).collect();
            let found: BTreeMap<_, _> = self.look(&ids).await?.into_iter().collect();
            for (member, id) in entries {
                let leads = match (of, found.get(&id).map(|seen| &seen.slot)) {
                    (OfGroup::Seen, slot) => slot.is_some(),
                    (OfGroup::Ended, slot) => matches!(slot, Some(Slot::Ended(_))),
                    (_, slot) => matches!(slot, Some(Slot::Open(_))),
                };
                let unknown = self.unreadable.contains(&id);
                if !leads && !unknown && !self.moved_on(&key, of, &member, id).await? {
                    self.stray(group, of, kind, &member, &id.to_string()).await?;
                }
            }
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Whether the entry went, or its slot came, since the first look.
    async fn moved_on(&mut self, key: &[u8], of: OfGroup, member: &[u8], id: SessionId) -> Result<bool> {
        let mut ask = cmd(if matches!(of, OfGroup::Seen | OfGroup::Tries) { "HGET" } else { "ZSCORE" });
        ask.arg(key).arg(member);
        let gone = self.store.servers.run(&Call::read(keys::slot_of_group(id.partition().group()), ask)).await?;
        let slot = self.look(&[id]).await?.into_iter().next().map(|(_, seen)| seen.slot);
        let leads = match of {
            OfGroup::Seen => slot.is_some(),
            OfGroup::Ended => matches!(slot, Some(Slot::Ended(_))),
            _ => matches!(slot, Some(Slot::Open(_))),
        };
        Ok(leads || gone == Value::Nil)
    }

    /// An entry that leads nowhere: ids never come back, so nothing will be there later.
    async fn stray(&mut self, group: u16, of: OfGroup, kind: Kind, member: &[u8], example: &str) -> Result<()> {
        if self.repair {
            let mut remove = cmd(if matches!(of, OfGroup::Seen | OfGroup::Tries) { "HDEL" } else { "ZREM" });
            remove.arg(self.store.keys.of_group(of, group)).arg(member);
            let call = Call::read(keys::slot_of_group(group), remove).with(Effect::Repeatable);
            self.store.servers.run(&call).await?;
        }
        self.note(kind, example, self.repair);
        Ok(())
    }
}

fn revision(slot: &Slot) -> (bool, u64) {
    match slot {
        Slot::Open(record) => (true, record.revision),
        Slot::Ended(ended) => (false, ended.record.revision),
    }
}

/// Where a scan goes on, and what it found.
fn page(answer: Value) -> Result<(Vec<u8>, Vec<Value>), Damaged> {
    let [next, found] = answer.array()?.try_into().map_err(|_| Damaged("a page"))?;
    Ok((next.bytes()?, found.array()?))
}
