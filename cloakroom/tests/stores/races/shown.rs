//! What sessions were shown to be, in the order in which it was shown: nothing moves back, nothing that ended lives, and
//! nothing is shown that was not written.

use std::collections::BTreeMap;

use cloakroom::SessionId;

use super::history::{Answer, Call, CallId, Line, Seen, Write};

/// What is so at least, by what was answered so far; and what may be so at most, by what was asked.
#[derive(Clone, Debug, Default)]
struct Known {
    least: Seen,
    /// Where the answer stands by which it had ended.
    ended: Option<usize>,
    /// Where the answer stands by which it was there.
    started: Option<usize>,
    user: Option<String>,
    /// Where its creation was called for.
    asked_for: usize,
    changes_asked: u64,
    increments_asked: i64,
    rotations_asked: u32,
    own_asked: BTreeMap<String, i64>,
}

struct Begun<'a> {
    call: &'a Call,
    place: usize,
    /// What was so at least when it began.
    least: Option<Seen>,
}

/// All that went wrong.
pub(super) fn check(lines: &[Line]) -> Vec<String> {
    let mut looks = Looks::default();
    for (place, line) in lines.iter().enumerate() {
        match line {
            Line::Call(id, call) => looks.begin(place, *id, call),
            Line::Answer(id, answer) => looks.end(place, *id, answer),
        }
    }
    looks.violations
}

#[derive(Default)]
struct Looks<'a> {
    sessions: BTreeMap<SessionId, Known>,
    under_way: BTreeMap<CallId, Begun<'a>>,
    violations: Vec<String>,
}

impl<'a> Looks<'a> {
    fn begin(&mut self, place: usize, id: CallId, call: &'a Call) {
        let session = match call {
            Call::Create { id, .. }
            | Call::Update { id, .. }
            | Call::Touch { id, .. }
            | Call::Rotate { id }
            | Call::Load { id }
            | Call::End { id } => Some(*id),
            Call::EndAll { .. } | Call::Disable { .. } | Call::Enable { .. } | Call::Find { .. } => None,
        };
        let known = session.map(|session| self.sessions.entry(session).or_default());
        let least = known.as_ref().map(|known| known.least.clone());
        self.under_way.insert(id, Begun { call, place, least });
        let Some(known) = known else { return };
        match call {
            Call::Create { user, .. } => {
                known.user.clone_from(user);
                known.asked_for = place;
            }
            Call::Update { write, .. } => {
                known.changes_asked += 1;
                match write {
                    Write::Increment { .. } => known.increments_asked += 1,
                    Write::Own { key, value } => {
                        known.own_asked.insert(key.clone(), *value);
                    }
                    Write::Move { .. } => {}
                }
            }
            Call::Rotate { .. } => known.rotations_asked += 1,
            _ => {}
        }
    }

    fn end(&mut self, place: usize, id: CallId, answer: &Answer) {
        let Some(begun) = self.under_way.remove(&id) else { return };
        match (begun.call, answer) {
            (_, Answer::Failed { error, retryable: false }) => self.violations.push(format!("{id}: {error}")),
            (Call::Create { id: session, .. }, Answer::Created { ended }) => {
                let known = self.sessions.entry(*session).or_default();
                known.started.get_or_insert(place);
                self.note_ends(place, ended);
            }
            (
                Call::Update { id: session, .. } | Call::Rotate { id: session } | Call::Load { id: session },
                Answer::Applied(seen)
                | Answer::Conflict(seen)
                | Answer::Live(seen)
                | Answer::Rotated(seen)
                | Answer::Superseded(seen),
            ) => self.look_at(place, id, &begun, *session, seen, answer),
            (Call::Touch { id: session, at }, Answer::Touched(true)) => {
                self.must_not_have_ended(&begun, id, *session);
                let known = self.sessions.entry(*session).or_default();
                known.least.used_at = known.least.used_at.max(*at);
            }
            (
                Call::Update { id: session, .. }
                | Call::Rotate { id: session }
                | Call::Load { id: session }
                | Call::End { id: session },
                Answer::Ended { .. } | Answer::EndedBefore,
            ) => self.note_ends(place, &[*session]),
            (
                Call::Update { id: session, .. }
                | Call::Rotate { id: session }
                | Call::Load { id: session }
                | Call::End { id: session },
                Answer::Unknown,
            ) if self.sessions[session].started.is_some_and(|started| started < begun.place) => {
                self.violations.push(format!("{id} does not find {session}, which was there"));
            }
            (Call::End { .. }, Answer::EndedNow(ended)) => self.note_ends(place, ended),
            (Call::EndAll { user } | Call::Disable { user }, Answer::EndedNow(ended)) => {
                self.note_ends(place, ended);
                // What was there when it began; of a disabled user, what was there at all.
                let disables = matches!(begun.call, Call::Disable { .. });
                let until = if disables { place } else { begun.place };
                for known in self.sessions.values_mut() {
                    let was_there = known.started.is_some_and(|started| started < until);
                    if known.user.as_ref() == Some(user) && was_there {
                        known.ended.get_or_insert(place);
                    }
                }
            }
            (Call::Find { .. }, Answer::Found(found)) => {
                for session in found {
                    self.must_not_have_ended(&begun, id, *session);
                }
            }
            _ => {}
        }
    }

    fn note_ends(&mut self, place: usize, ended: &[SessionId]) {
        for session in ended {
            self.sessions.entry(*session).or_default().ended.get_or_insert(place);
        }
    }

    fn must_not_have_ended(&mut self, begun: &Begun<'_>, id: CallId, session: SessionId) {
        let ended = self.sessions.get(&session).and_then(|known| known.ended);
        if ended.is_some_and(|ended| ended < begun.place) {
            self.violations.push(format!("{id} finds {session} alive, which had ended: {:?}", begun.call));
        }
    }

    fn look_at(
        &mut self,
        place: usize,
        id: CallId,
        begun: &Begun<'_>,
        session: SessionId,
        seen: &Seen,
        answer: &Answer,
    ) {
        self.must_not_have_ended(begun, id, session);
        let mut wrong = Vec::new();
        let mut compare = |what: &str, least: i64, shown: i64, most: i64| {
            if shown < least || shown > most {
                wrong.push(format!("{id} shows {what} {shown} of {session}: it was {least} at least, {most} at most"));
            }
        };
        let known = self.sessions.entry(session).or_default();
        let least = begun.least.clone().unwrap_or_default();
        let signed = |number: u64| i64::try_from(number).unwrap();
        // A change raises the version, whatever else does.
        let own = u64::from(matches!(answer, Answer::Applied(_)));
        compare("version", signed(least.version + own), signed(seen.version), signed(known.changes_asked));
        let turn = u32::from(matches!(answer, Answer::Rotated(_)));
        compare("rotation", (least.rotations + turn).into(), seen.rotations.into(), known.rotations_asked.into());
        compare("last-seen", least.used_at, seen.used_at, i64::MAX);
        compare("counter", least.value("n"), seen.value("n"), known.increments_asked);
        compare("sum", 0, seen.value("a") + seen.value("b"), 0);
        let own_keys: Vec<_> = least.data.keys().chain(seen.data.keys()).filter(|key| key.starts_with("own")).collect();
        for key in own_keys {
            let most = known.own_asked.get(key).copied().unwrap_or_default();
            compare(key, least.value(key), seen.value(key), most);
        }
        if let (Call::Update { write, .. }, Answer::Applied(_)) = (begun.call, answer) {
            match write {
                Write::Own { key, value } => compare(key, *value, seen.value(key), *value),
                Write::Increment { from } => compare("counter", from + 1, seen.value("n"), i64::MAX),
                Write::Move { .. } => {}
            }
        }
        known.started.get_or_insert(place);
        let now = &mut known.least;
        now.version = now.version.max(seen.version);
        now.rotations = now.rotations.max(seen.rotations);
        now.used_at = now.used_at.max(seen.used_at);
        for (key, value) in &seen.data {
            if key == "n" || key.starts_with("own") {
                let there = now.data.entry(key.clone()).or_insert(*value);
                *there = (*there).max(*value);
            }
        }
        self.violations.extend(wrong);
    }
}
