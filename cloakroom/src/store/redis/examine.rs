//! What `doctor` looks at: every session and tombstone, whether the indexes have what they must of it, and every entry of
//! the indexes, whether there is what it is about.
//!
//! Keys are walked by `SCAN`, indexes by `ZSCAN` and `HSCAN`, some at a time. Scripts compare and mend, so that what
//! others change meanwhile is never taken for damage.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::{Value, cmd};

use super::{
    Inner, RedisStore,
    address::Layout,
    by_group, groups,
    keys::{self, Place},
    reply::{Damaged, Reply},
    rows, scripts,
    scripts::{Call, Effect},
    settings,
};
use crate::{
    Result, SessionId, Timestamp,
    store::{BoxFuture, Damage, Examine, Finding},
};

/// So many keys or entries are asked for at a time.
const PAGE: usize = 256;
/// So many sessions or entries are compared in one script; then others get their turn.
const BATCH: usize = 64;

impl Examine for RedisStore {
    fn examine(&self, now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async move {
            let mut findings = settings::examine(&self.inner.servers, self.inner.layout == Layout::Cluster).await?;
            let mut examination = Examination { store: &self.inner, now, repair, sessions: 0, damage: BTreeMap::new() };
            examination.sessions().await?;
            examination.entries().await?;
            findings.extend(examination.findings());
            Ok(findings)
        })
    }
}

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
    "Use --repair: it takes the time from the deadline, or else from when their token was made.",
];
const EXPIRY: Kind =
    ["expiry index", "sessions are not in it at their deadline", "They are reaped late, or never.", "Use --repair."];
const RETRIES: Kind =
    ["idempotency index", "sessions are not in it", "A sign-in that is repeated makes two.", "Use --repair."];
const TOMBSTONES: Kind = ["tombstones", "of them have no time to be forgotten", "They take space.", "Use --repair."];
const DAMAGED: Kind = [
    "sessions",
    "sessions cannot be read",
    "Requests with them fail or find nothing.",
    "Restore a backup, or delete these keys: their people sign in again.",
];
const MISPLACED: Kind = [
    "partition key",
    "sessions are not where their user's sessions are looked for",
    "Lists and limits miss them: the partition key is another one than when they were started.",
    "Restore the field partition_key of the key meta from a backup, or end these sessions.",
];
const ENTRIES: [(&str, Kind); 5] = [
    ("users", ["user index", "entries have no session", "Lists and limits are slower.", "Use --repair."]),
    ("seen", ["last-seen", "entries have no session", "They take space.", "Use --repair."]),
    ("expiry", ["expiry index", "entries have no session", "The reaper looks at them in vain.", "Use --repair."]),
    ("retries", ["idempotency index", "entries have no session", "They take space.", "Use --repair."]),
    ("tombstones", ["tombstones", "entries have no tombstone", "They take space.", "Use --repair."]),
];

struct Examination<'a> {
    store: &'a Inner,
    now: Timestamp,
    repair: bool,
    sessions: usize,
    damage: BTreeMap<Kind, Damage>,
}

impl Examination<'_> {
    fn findings(self) -> Vec<Finding> {
        let findings = self.damage.iter().filter_map(|([subject, what, consequence, remedy], damage)| {
            damage.finding(subject, what, consequence, remedy)
        });
        let mut findings: Vec<_> = findings.collect();
        if findings.is_empty() {
            let text = format!("{} sessions and tombstones are stored, and all fits together.", self.sessions);
            findings.push(Finding::fine("sessions", text));
        }
        findings
    }

    fn note(&mut self, kind: Kind, example: impl std::fmt::Display, repaired: bool) {
        self.damage.entry(kind).or_default().add(example, repaired);
    }

    /// Every session and tombstone, on every server.
    async fn sessions(&mut self) -> Result<()> {
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
        let read = |id: &SessionId| {
            let mut read = cmd("HMGET");
            read.arg(self.store.keys.of_session(*id)).arg("w").arg("i").arg("q").arg("t");
            Call::read(keys::slot_of_group(id.partition().group()), read)
        };
        let fixed = self.store.servers.run_all(ids.iter().map(read).collect::<Vec<_>>()).await?;
        let mut known = Vec::with_capacity(ids.len());
        for (id, fixed) in ids.iter().zip(fixed) {
            match Fixed::read(*id, fixed, self.store) {
                Ok(Some(fixed)) => known.push((*id, fixed)),
                // It went meanwhile.
                Ok(None) => {}
                Err(Damaged(_)) => self.note(DAMAGED, id, false),
            }
        }
        self.sessions += known.len();
        for (id, _) in known.iter().filter(|(_, fixed)| fixed.is_misplaced) {
            self.note(MISPLACED, id, false);
        }
        let ids: Vec<_> = known.iter().map(|(id, _)| *id).collect();
        let batches = by_group(&ids, BATCH);
        let calls = batches.iter().map(|(group, places)| {
            let mut arguments = self.store.begin(*group, self.now).flag(self.repair);
            for (id, fixed) in places.iter().map(|place| &known[*place]) {
                arguments = arguments.text(id.to_string()).text(&fixed.place).number(fixed.since.as_millis());
            }
            let ids: Vec<_> = places.iter().map(|place| ids[*place]).collect();
            let call = self.store.on_group(&scripts::EXAMINE_SESSIONS, *group, &ids, arguments);
            if self.repair { call } else { call.with(Effect::Reads) }
        });
        let answers = self.store.servers.run_all(calls.collect::<Vec<_>>()).await?;
        for (answer, (_, places)) in answers.into_iter().zip(&batches) {
            for (wrong, place) in answer.array()?.into_iter().zip(places) {
                for word in wrong.array()? {
                    let kind = match word.text()?.as_str() {
                        "users" => USERS,
                        "seen" => SEEN,
                        "expiry" => EXPIRY,
                        "retries" => RETRIES,
                        "tombstones" => TOMBSTONES,
                        _ => DAMAGED,
                    };
                    self.note(kind, ids[*place], self.repair && kind != DAMAGED);
                }
            }
        }
        Ok(())
    }

    /// Every entry of every index.
    async fn entries(&mut self) -> Result<()> {
        const NAMES: [(&str, &str); 5] = [
            ("users", "index"),
            ("seen", "seen"),
            ("expiry", "expiry"),
            ("retries", "retries"),
            ("tombstones", "buried"),
        ];
        let all: Vec<_> = groups().flat_map(|group| NAMES.map(|(kind, name)| (group, kind, name))).collect();
        let is_there = all.iter().map(|(group, _, name)| {
            let mut exists = cmd("EXISTS");
            exists.arg(self.store.keys.of_group(name, *group));
            Call::read(keys::slot_of_group(*group), exists)
        });
        let there = self.store.servers.run_all(is_there.collect::<Vec<_>>()).await?;
        for ((group, kind, name), there) in all.into_iter().zip(there) {
            if there == Value::Int(1) {
                self.entries_of(group, kind, name).await?;
            }
        }
        Ok(())
    }

    async fn entries_of(&mut self, group: u16, kind: &'static str, name: &str) -> Result<()> {
        let is_hash = ["seen", "retries"].contains(&kind);
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = cmd(if is_hash { "HSCAN" } else { "ZSCAN" });
            scan.arg(self.store.keys.of_group(name, group)).arg(&cursor).arg("COUNT").arg(PAGE);
            let (next, flat) = page(self.store.servers.run(&Call::read(keys::slot_of_group(group), scan)).await?)?;
            // Each is followed by its score or value.
            let entries = flat.into_iter().step_by(2).map(Reply::bytes).collect::<Result<Vec<_>, _>>()?;
            for batch in entries.chunks(BATCH) {
                let arguments = self.store.begin(group, self.now).flag(self.repair).text(kind).extend(batch.to_vec());
                let call = self.store.on_group(&scripts::EXAMINE_ENTRIES, group, &[], arguments);
                let call = if self.repair { call } else { call.with(Effect::Reads) };
                let answers = self.store.servers.run(&call).await?.array()?;
                for (entry, answer) in batch.iter().zip(answers) {
                    if answer == Value::Int(1) {
                        let said = ENTRIES.iter().find(|(name, _)| *name == kind).expect("all kinds are there").1;
                        self.note(said, shown(kind, entry), self.repair);
                    }
                }
            }
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// An entry for people.
fn shown(kind: &str, entry: &[u8]) -> String {
    match kind {
        // A place ends in the id.
        "users" if entry.len() == Place::LEN => URL_SAFE_NO_PAD.encode(&entry[Place::LEN - SessionId::LEN..]),
        "users" | "retries" => URL_SAFE_NO_PAD.encode(entry),
        _ => String::from_utf8_lossy(entry).into_owned(),
    }
}

/// What of a session never changes, and what follows from it.
struct Fixed {
    place: Vec<u8>,
    /// It was used then or later.
    since: Timestamp,
    /// Its user's sessions lie in another group.
    is_misplaced: bool,
}

impl Fixed {
    /// Nothing of what is gone.
    fn read(id: SessionId, fields: Value, store: &Inner) -> Result<Option<Self>, Damaged> {
        let [who, origin, issued_at, ended_at] =
            fields.array()?.try_into().map_err(|_| Damaged("the fields of a session"))?;
        if [&who, &origin, &issued_at, &ended_at].iter().all(|value| **value == Value::Nil) {
            return Ok(None);
        }
        if ended_at != Value::Nil {
            return Ok(Some(Self { place: Vec::new(), since: Timestamp::EPOCH, is_misplaced: false }));
        }
        let (user, created_at) = rows::origin(who, origin)?;
        let group = user.as_deref().map(|user| store.partition_key.partition_of(user).group());
        Ok(Some(Self {
            place: Place::new(user.as_deref(), created_at, id, &store.partition_key).as_bytes().to_vec(),
            since: created_at.max(issued_at.time()?),
            is_misplaced: group.is_some_and(|group| group != id.partition().group()),
        }))
    }
}

/// Where a scan goes on, and what it found.
fn page(answer: Value) -> Result<(Vec<u8>, Vec<Value>), Damaged> {
    let [next, found] = answer.array()?.try_into().map_err(|_| Damaged("a page"))?;
    Ok((next.bytes()?, found.array()?))
}
