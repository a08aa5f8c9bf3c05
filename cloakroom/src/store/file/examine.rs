//! What `doctor` looks at: every file, whether it is whole, and whether the markers that lead to sessions, tombstones and
//! fences are there and lead to what is there.
//!
//! It goes one subdirectory at a time, under the lock, so that what others change meanwhile is never taken for damage. What
//! is mended goes through the journal as every change does.

use std::collections::BTreeMap;

use super::{
    FileStore, audit,
    fault::Fault,
    format,
    layout::{self, Dated, Due, UserDigest},
    tables,
    transaction::{Changes, Transaction},
};
use crate::{
    PartitionKey, Result, SessionId, Timestamp,
    store::{AuditQuery, BoxFuture, Cursor, Damage, Examine, Finding, place},
};

impl Examine for FileStore {
    fn examine(&self, _now: Timestamp, repair: bool) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async move {
            let mut findings = place::examine(&self.directory, "has no locks and renames as this store needs them");
            findings.push(Finding::fine(
                "layout",
                format!("Its version is {}, and the journal is whole.", super::open::VERSION),
            ));
            findings.extend(self.examine_temporary(repair).await?);
            let mut damage: BTreeMap<Kind, Damage> = BTreeMap::new();
            let of_bytes = [Step::Tombstones, Step::Sessions, Step::Users, Step::Tries];
            let steps = of_bytes.into_iter().flat_map(|step| (0..=u8::MAX).map(step));
            let mut sessions = 0;
            for step in steps.chain(self.days().await?) {
                let mut looked = self.look(step.clone(), false).await?;
                if repair && looked.found.iter().any(|found| found.kind.can_be_mended()) {
                    looked = self.look(step, true).await?;
                }
                sessions += looked.sessions;
                for Found { kind, example } in looked.found {
                    damage.entry(kind).or_default().add(example, repair && kind.can_be_mended());
                }
            }
            if damage.is_empty() {
                findings.push(Finding::fine("sessions", format!("{sessions} are stored, and all fits together.")));
            }
            findings.extend(damage.iter().filter_map(|(kind, damage)| kind.finding(damage)));
            findings.push(self.examine_audit().await?);
            Ok(findings)
        })
    }
}

impl FileStore {
    async fn examine_temporary(&self, repair: bool) -> Result<Option<Finding>> {
        let left = self.read(|directory| Ok(directory.list(layout::TEMPORARY)?.len())).await?;
        if left == 0 {
            return Ok(None);
        }
        if !repair {
            let text = format!("{left} are left in tmp. They do no harm; --repair removes them.");
            return Ok(Some(Finding::note("temporary files", text)));
        }
        self.block(super::Journal::recover).await?;
        Ok(Some(Finding::note("temporary files", format!("{left} were left in tmp. Repaired.")).repaired(true)))
    }

    /// The steps through the markers of what is due.
    async fn days(&self) -> Result<Vec<Step>> {
        let days = |directory: &Transaction<'_>| {
            let mut steps = Vec::new();
            for kind in [Due::Session, Due::Tombstone, Due::Fence] {
                steps.extend(directory.list(kind.root())?.into_iter().map(|day| Step::Due(kind, day)));
            }
            Ok(steps)
        };
        self.read(days).await
    }

    async fn look(&self, step: Step, repair: bool) -> Result<Looked> {
        let key = self.key.clone();
        if repair {
            return self.write(move |directory| look(directory, &key, &step)).await;
        }
        let look = move |journal: &super::Journal| {
            // What it would change is dropped.
            let nothing = Changes::default();
            journal.read(|_| look(&mut Transaction::new(journal.disk(), &nothing), &key, &step))
        };
        self.block(look).await
    }

    async fn examine_audit(&self) -> Result<Finding> {
        let mut after: Option<u64> = None;
        let mut entries = 0;
        loop {
            let read =
                move |directory: &Transaction<'_>| match audit::read(directory, &AuditQuery::default(), after, PAGE) {
                    Err(Fault::Damaged { file, problem }) => Ok(Err((file, problem))),
                    Ok(page) => Ok(Ok(page)),
                    Err(fault) => Err(fault),
                };
            match self.read(read).await? {
                Err((file, problem)) => {
                    let text = format!(
                        "{file} is damaged ({problem}): readers stop there after {entries} entries. Restore it from a backup."
                    );
                    return Ok(Finding::error("audit log", text));
                }
                // Entries that were read were forgotten meanwhile.
                Ok(Err(_)) => after = None,
                Ok(Ok(page)) => {
                    entries += page.items.len();
                    match page.next.as_ref().map(Cursor::parse).transpose()? {
                        Some(next) => after = Some(next),
                        None => {
                            return Ok(Finding::fine("audit log", format!("{entries} entries, all of them whole.")));
                        }
                    }
                }
            }
        }
    }
}

/// So many audit entries are read under one lock.
const PAGE: usize = 1000;

/// What is looked at under one lock: what of a kind begins with a byte, or what is due on a day.
#[derive(Clone, Debug)]
enum Step {
    Tombstones(u8),
    Sessions(u8),
    Users(u8),
    Tries(u8),
    Due(Due, String),
}

#[derive(Default)]
struct Looked {
    found: Vec<Found>,
    sessions: usize,
}

struct Found {
    kind: Kind,
    example: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    DamagedSession,
    DamagedTombstone,
    DamagedFence,
    EndedAndThere,
    NotOfUser,
    NotDue,
    NotTried,
    StrayOfUser,
    StrayTry,
    StrayDue,
}

impl Kind {
    fn can_be_mended(self) -> bool {
        self != Self::DamagedFence
    }

    fn finding(self, damage: &Damage) -> Option<Finding> {
        const REPAIR: &str = "Use --repair.";
        let [subject, what, consequence, remedy] = match self {
            Self::DamagedSession => [
                "sessions",
                "files of sessions are damaged",
                "Requests with them fail.",
                "Restore them from a backup, or use --repair, which moves them to the directory damaged: their people sign in again.",
            ],
            Self::DamagedTombstone => [
                "tombstones",
                "files of tombstones are damaged",
                "Requests with these sessions fail, as they must, and are not told why.",
                "Use --repair, which moves them to the directory damaged.",
            ],
            Self::DamagedFence => [
                "users",
                "files that say whether a user is disabled are damaged",
                "These users cannot sign in.",
                "Restore them from a backup; or delete them, and disable the user again.",
            ],
            Self::EndedAndThere => [
                "endings",
                "sessions have ended and are there all the same",
                "Who holds their tokens is let in.",
                REPAIR,
            ],
            Self::NotOfUser => [
                "user lists",
                "sessions are not in them",
                "Lists miss them, limits do not count them, and signing a user out everywhere leaves them.",
                REPAIR,
            ],
            Self::NotDue => [
                "expiry",
                "sessions, tombstones or fences are not listed when they are due",
                "They stay for ever.",
                REPAIR,
            ],
            Self::NotTried => {
                ["idempotency", "sessions are not found by their key", "A sign-in that is repeated makes two.", REPAIR]
            }
            Self::StrayOfUser => ["user lists", "entries have no session", "Lists and limits are slower.", REPAIR],
            Self::StrayTry => ["idempotency", "keys have no session", "They take space.", REPAIR],
            Self::StrayDue => {
                ["expiry", "entries have nothing that is due then", "The reaper looks at them in vain.", REPAIR]
            }
        };
        damage.finding(subject, what, consequence, remedy)
    }
}

/// Looks at what belongs to a step, and mends it.
fn look(directory: &mut Transaction<'_>, key: &PartitionKey, step: &Step) -> Result<Looked, Fault> {
    let mut looked = Looked::default();
    match step {
        Step::Tombstones(byte) => tombstones(directory, *byte, &mut looked)?,
        Step::Sessions(byte) => sessions(directory, key, *byte, &mut looked)?,
        Step::Users(byte) => users(directory, key, *byte, &mut looked)?,
        Step::Tries(byte) => tries(directory, *byte, &mut looked)?,
        Step::Due(kind, day) => due(directory, *kind, day, &mut looked)?,
    }
    Ok(looked)
}

impl Looked {
    fn note(&mut self, kind: Kind, example: impl Into<String>) {
        self.found.push(Found { kind, example: example.into() });
    }
}

/// What was read, unless its file is damaged.
fn whole<T>(read: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Damaged { .. }) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn is_there(directory: &Transaction<'_>, file: &str) -> Result<bool, Fault> {
    Ok(directory.read(file)?.is_some())
}

/// Moves a damaged file to where nobody reads it.
fn set_aside(directory: &mut Transaction<'_>, file: String) -> Result<(), Fault> {
    let bytes = directory.read(&file)?.unwrap_or_default();
    // The journal holds UTF-8 alone.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    directory.write(format!("{}/{}", layout::DAMAGED, file.replace('/', "-")), text.into_bytes());
    directory.remove(file);
    Ok(())
}

fn sessions(directory: &mut Transaction<'_>, key: &PartitionKey, byte: u8, looked: &mut Looked) -> Result<(), Fault> {
    for id in directory.list(&layout::sessions(byte))?.iter().filter_map(|name| layout::session_named(name)) {
        let file = layout::session(id);
        let Some(stored) = whole(tables::session(directory, id))? else {
            looked.note(Kind::DamagedSession, &file);
            set_aside(directory, file)?;
            continue;
        };
        let Some(stored) = stored else { continue };
        looked.sessions += 1;
        let info = &stored.record.info;
        let of_user =
            info.user.as_ref().map(|user| layout::session_of_user(&tables::digest_of(key, user), info.created_at, id));
        if whole(tables::ended(directory, id))?.flatten().is_some() {
            looked.note(Kind::EndedAndThere, id.to_string());
            directory.remove(file);
            if let Some(file) = of_user {
                directory.remove(file);
            }
            if let Some(at) = stored.due {
                directory.remove(Due::Session.marker(at, id));
            }
            continue;
        }
        if let Some(of_user) = of_user.filter(|file| !matches!(is_there(directory, file), Ok(true))) {
            looked.note(Kind::NotOfUser, id.to_string());
            directory.mark(of_user);
        }
        if let Some(tried) = &stored.record.idempotency
            && whole(tables::first_try(directory, id, tried))?.flatten().is_none()
        {
            looked.note(Kind::NotTried, id.to_string());
            directory.write(layout::first_try(id, tried), format::encode(&id));
        }
        let deadline = info.expires_at();
        let marker = stored.due.map(|at| Due::Session.marker(at, id));
        let is_right = match (stored.due, deadline) {
            (None, None) => true,
            (Some(due), Some(deadline)) => due <= deadline,
            _ => false,
        };
        if !is_right {
            looked.note(Kind::NotDue, id.to_string());
            tables::put_back(directory, stored);
        } else if let Some(marker) = marker
            && !is_there(directory, &marker)?
        {
            looked.note(Kind::NotDue, id.to_string());
            directory.mark(marker);
        }
    }
    Ok(())
}

fn tombstones(directory: &mut Transaction<'_>, byte: u8, looked: &mut Looked) -> Result<(), Fault> {
    for id in directory.list(&layout::tombstones(byte))?.iter().filter_map(|name| layout::session_named(name)) {
        match whole(tables::ended(directory, id))? {
            None => {
                let file = layout::tombstone(id);
                looked.note(Kind::DamagedTombstone, &file);
                set_aside(directory, file)?;
            }
            Some(None) => {}
            Some(Some(ended)) => {
                let marker = Due::Tombstone.marker(ended.at, id);
                if !is_there(directory, &marker)? {
                    looked.note(Kind::NotDue, id.to_string());
                    directory.mark(marker);
                }
            }
        }
    }
    Ok(())
}

fn users(directory: &mut Transaction<'_>, key: &PartitionKey, byte: u8, looked: &mut Looked) -> Result<(), Fault> {
    for user in directory.list(&layout::users(byte))?.iter().filter_map(|name| name.parse::<UserDigest>().ok()) {
        match whole(tables::fence(directory, &user))? {
            None => looked.note(Kind::DamagedFence, layout::fence(&user)),
            Some(fence) => {
                if let Some(marker) = fence.ended_before.map(|at| Due::Fence.marker(at, &user))
                    && !is_there(directory, &marker)?
                {
                    looked.note(Kind::NotDue, layout::fence(&user));
                    directory.mark(marker);
                }
            }
        }
        for Dated { at, name: id } in tables::sessions_of(directory, &user)? {
            // One that is damaged is told of elsewhere.
            let Some(info) = whole(tables::info(directory, id))? else { continue };
            let leads_there = info.is_some_and(|info| {
                info.created_at == at && info.user.is_some_and(|name| tables::digest_of(key, &name) == user)
            });
            if !leads_there {
                looked.note(Kind::StrayOfUser, id.to_string());
                directory.remove(layout::session_of_user(&user, at, id));
            }
        }
    }
    Ok(())
}

fn tries(directory: &mut Transaction<'_>, byte: u8, looked: &mut Looked) -> Result<(), Fault> {
    let within = layout::tries(byte);
    for name in directory.list(&within)? {
        let file = format!("{within}/{name}");
        let bytes = directory.read(&file)?.unwrap_or_default();
        let leads_there = match whole(format::decode::<SessionId>(&file, &bytes))? {
            None => false,
            Some(id) => match whole(tables::session(directory, id))? {
                None => continue,
                Some(stored) => stored
                    .and_then(|stored| stored.record.idempotency)
                    .is_some_and(|key| layout::first_try(id, &key) == file),
            },
        };
        if !leads_there {
            looked.note(Kind::StrayTry, &file);
            directory.remove(file);
        }
    }
    Ok(())
}

fn due(directory: &mut Transaction<'_>, kind: Due, day: &str, looked: &mut Looked) -> Result<(), Fault> {
    let day = format!("{}/{day}", kind.root());
    for minute in directory.list(&day)? {
        let minute = format!("{day}/{minute}");
        for name in directory.list(&minute)? {
            let leads_there = match kind {
                Due::Session => of_marker(&name, |id| {
                    Ok(whole(tables::session(directory, id))?.map(|stored| stored.and_then(|stored| stored.due)))
                }),
                Due::Tombstone => of_marker(&name, |id| {
                    Ok(whole(tables::ended(directory, id))?.map(|ended| ended.map(|ended| ended.at)))
                }),
                Due::Fence => of_marker(&name, |user: UserDigest| {
                    Ok(whole(tables::fence(directory, &user))?.map(|fence| fence.ended_before))
                }),
            }?;
            if !leads_there {
                let file = format!("{minute}/{name}");
                looked.note(Kind::StrayDue, &file);
                directory.remove(file);
            }
        }
    }
    Ok(())
}

/// Whether what a marker is about is due at its time. `due` answers none for what is damaged, which is told of elsewhere.
fn of_marker<N: std::str::FromStr>(
    name: &str,
    due: impl FnOnce(N) -> Result<Option<Option<Timestamp>>, Fault>,
) -> Result<bool, Fault> {
    let Ok(Dated { at, name }) = name.parse::<Dated<N>>() else { return Ok(true) };
    Ok(due(name)?.is_none_or(|due| due == Some(at)))
}
