//! What `doctor` looks at: every file, whether it is whole, and whether the markers that lead to slots are there and lead
//! to what is there.
//!
//! It goes one subdirectory at a time, under the lock, so that what others change meanwhile is never taken for damage. What
//! is mended goes through the journal as every change does.

use std::collections::BTreeMap;

use super::{
    FileStore, Journal, audit,
    fault::Fault,
    format::{Part, Stored},
    layout::{self, Dated, Due, UserDigest},
    open,
    tables::{Within, markers, set_aside, whole},
    view::{Changes, View},
};
use crate::{
    error::Result,
    store::{AuditQuery, Cursor, Damage, Finding, place, slots::Slot},
    token::SessionId,
};

impl FileStore {
    pub(super) async fn examine_directory(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = place::examine(&self.directory, "has no locks and renames as this store needs them");
        let layout = format!("Its version is {}, and the journal is whole.", open::VERSION);
        findings.push(Finding::fine("layout", layout));
        if let Err(error) = self.block(Journal::try_writing).await {
            findings.push(Finding::error("writing", format!("Nothing can be written: {error}.")));
        }
        findings.extend(self.examine_temporary(repair).await?);
        let mut damage: BTreeMap<Kind, Damage> = BTreeMap::new();
        let of_bytes = [Step::Sessions, Step::Users, Step::Tries];
        let steps = of_bytes.into_iter().flat_map(|step| (0..=u8::MAX).map(step));
        for step in steps.chain(self.days().await?) {
            let mut found = self.look(step.clone(), false).await?;
            if repair && found.iter().any(|found| found.kind.can_be_mended()) {
                found = self.look(step, true).await?;
            }
            for Found { kind, example } in found {
                damage.entry(kind).or_default().add(example, repair && kind.can_be_mended());
            }
        }
        findings.extend(damage.iter().filter_map(|(kind, damage)| kind.finding(damage)));
        findings.push(self.examine_audit().await?);
        Ok(findings)
    }

    async fn examine_temporary(&self, repair: bool) -> Result<Option<Finding>> {
        let left = self.read(|view| Ok(view.list(layout::TEMPORARY)?.len())).await?;
        if left == 0 {
            return Ok(None);
        }
        if !repair {
            let text = format!("{left} are left in tmp. They do no harm; --repair removes them.");
            return Ok(Some(Finding::note("temporary files", text)));
        }
        self.block(Journal::recover).await?;
        Ok(Some(Finding::note("temporary files", format!("{left} were left in tmp. Repaired.")).repaired(true)))
    }

    /// The steps through the markers of what is due.
    async fn days(&self) -> Result<Vec<Step>> {
        let days = |view: &View<'_>| {
            let mut steps = Vec::new();
            for kind in [Due::Session, Due::Ended, Due::User] {
                steps.extend(view.list(kind.root())?.into_iter().map(|day| Step::Due(kind, day)));
            }
            Ok(steps)
        };
        self.read(days).await
    }

    async fn look(&self, step: Step, repair: bool) -> Result<Vec<Found>> {
        let key = self.key.clone();
        if repair {
            return self.write(false, move |view| look(Within::new(view, &key), &step)).await;
        }
        let look = move |journal: &Journal| {
            // What it would change is dropped.
            let nothing = Changes::default();
            journal.read(|_| look(Within::new(&View::new(journal.disk(), &nothing), &key), &step))
        };
        self.block(look).await
    }

    async fn examine_audit(&self) -> Result<Finding> {
        let mut after: Option<u64> = None;
        let mut entries = 0;
        loop {
            let read = move |view: &View<'_>| match audit::read(
                view,
                &AuditQuery::default(),
                after,
                PAGE,
                audit::Damage::Told,
            ) {
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
    Sessions(u8),
    Users(u8),
    Tries(u8),
    Due(Due, String),
}

struct Found {
    kind: Kind,
    example: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    DamagedSession,
    DamagedUser,
    NotDue,
    NotTried,
    StrayOfUser,
    StrayTry,
    StrayDue,
}

impl Kind {
    /// What is wrong where a marker is not there. Users' lists are looked at for every store alike.
    fn of_missing(marker: &str) -> Option<Self> {
        match marker.split('/').next() {
            Some("users") => None,
            Some("tries") => Some(Self::NotTried),
            _ => Some(Self::NotDue),
        }
    }

    fn can_be_mended(self) -> bool {
        self != Self::DamagedUser
    }

    fn finding(self, damage: &Damage) -> Option<Finding> {
        const REPAIR: &str = "Use --repair.";
        let [subject, what, consequence, remedy] = match self {
            Self::DamagedSession => [
                "sessions",
                "files of sessions are damaged",
                "Requests with them fail.",
                "Restore them from a backup, or use --repair, which moves them to the directory damaged: their users sign in again.",
            ],
            Self::DamagedUser => [
                "users",
                "files that say what is settled about a user are damaged",
                "These users cannot sign in.",
                "Restore them from a backup; or delete them, and disable the user again.",
            ],
            Self::NotDue => [
                "expiry",
                "sessions or users are not listed when they are due",
                "They, or what is left of them, stay for ever.",
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
fn look(within: Within<'_>, step: &Step) -> Result<Vec<Found>, Fault> {
    let mut look = Look { within, found: Vec::new() };
    match step {
        Step::Sessions(byte) => look.at_sessions(*byte)?,
        Step::Users(byte) => look.at_users(*byte)?,
        Step::Tries(byte) => {
            for key in within.view.list(&layout::tries(*byte))? {
                let tries = format!("{}/{key}", layout::tries(*byte));
                look.at_markers(&tries, Kind::StrayTry)?;
                if within.view.list(&tries)?.len() == 1 {
                    within.view.remove(layout::latest_try(&tries));
                }
            }
        }
        Step::Due(kind, day) => {
            let day = format!("{}/{day}", kind.root());
            for minute in within.view.list(&day)? {
                let minute = format!("{day}/{minute}");
                match kind {
                    Due::Session | Due::Ended => look.at_markers(&minute, Kind::StrayDue)?,
                    Due::User => look.at_due_users(&minute)?,
                }
            }
        }
    }
    Ok(look.found)
}

struct Look<'a> {
    within: Within<'a>,
    found: Vec<Found>,
}

impl Look<'_> {
    fn note(&mut self, kind: Kind, example: &dyn std::fmt::Display) {
        self.found.push(Found { kind, example: example.to_string() });
    }

    fn at_sessions(&mut self, byte: u8) -> Result<(), Fault> {
        let view = self.within.view;
        for id in view.list(&layout::sessions(byte))?.iter().filter_map(|name| layout::session_named(name)) {
            match whole(self.within.stored(id, Part::All))? {
                None => {
                    let file = layout::session(id);
                    self.note(Kind::DamagedSession, &file);
                    set_aside(view, file)?;
                }
                Some(None) => {}
                Some(Some(mut stored)) => self.at_session(id, &mut stored)?,
            }
        }
        Ok(())
    }

    fn at_session(&mut self, id: SessionId, stored: &mut Stored) -> Result<(), Fault> {
        let view = self.within.view;
        if let Slot::Open(record) = &stored.slot {
            let deadline = record.due_at();
            let is_right = match (stored.due, deadline) {
                (None, deadline) => deadline.is_none(),
                (Some(due), Some(deadline)) => due <= deadline,
                (Some(_), None) => true,
            };
            if !is_right {
                self.note(Kind::NotDue, &id);
                stored.due = deadline;
                view.write(layout::session(id), stored.encode());
            }
        }
        for marker in markers(stored, self.within.key) {
            if let Some(kind) = Kind::of_missing(&marker)
                && view.read(&marker)?.is_none()
            {
                self.note(kind, &id);
                view.mark(marker);
            }
        }
        Ok(())
    }

    fn at_users(&mut self, byte: u8) -> Result<(), Fault> {
        let view = self.within.view;
        for user in view.list(&layout::users(byte))?.iter().filter_map(|name| name.parse::<UserDigest>().ok()) {
            match whole(self.within.user_at(&user))? {
                None => self.note(Kind::DamagedUser, &layout::user_slot(&user)),
                Some(None) => {}
                Some(Some((name, slot))) => {
                    let marker = slot.due_at.map(|at| Due::User.marker(at, &user));
                    if let Some(marker) = marker
                        && view.read(&marker)?.is_none()
                    {
                        self.note(Kind::NotDue, &name);
                        view.mark(marker);
                    }
                }
            }
            self.at_markers(&layout::user(&user), Kind::StrayOfUser)?;
        }
        Ok(())
    }

    /// Removes markers that lead to no slot of theirs.
    fn at_markers(&mut self, directory: &str, stray: Kind) -> Result<(), Fault> {
        let view = self.within.view;
        for name in view.list(directory)? {
            let Ok(Dated { name: id, .. }) = name.parse::<Dated<SessionId>>() else { continue };
            // One that is damaged is told of elsewhere.
            let Some(stored) = whole(self.within.stored(id, Part::Head))? else { continue };
            let marker = format!("{directory}/{name}");
            if !stored.is_some_and(|stored| markers(&stored, self.within.key).contains(&marker)) {
                self.note(stray, &id);
                view.remove(marker);
            }
        }
        Ok(())
    }

    fn at_due_users(&mut self, directory: &str) -> Result<(), Fault> {
        let view = self.within.view;
        for name in view.list(directory)? {
            let Ok(Dated { at, name: user }) = name.parse::<Dated<UserDigest>>() else { continue };
            let Some(there) = whole(self.within.user_at(&user))? else { continue };
            if there.is_none_or(|(_, slot)| slot.due_at != Some(at)) {
                self.note(Kind::StrayDue, &user);
                view.remove(format!("{directory}/{name}"));
            }
        }
        Ok(())
    }
}
