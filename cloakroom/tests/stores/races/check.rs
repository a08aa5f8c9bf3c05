//! What must hold of everything that nodes were answered.
//!
//! Only what is sure is claimed: a call whose outcome its node does not know may have been carried out at any time since
//! it was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use cloakroom::{
    SessionId,
    audit::{AuditEntry, Event},
};

use super::{
    history::{Answer, Call, CallId, Line, Seen, Write},
    node::USERS,
    shown,
};

/// What was there when all nodes were done; that sessions are loaded then is in the history itself.
pub(super) struct After {
    pub(super) log: Vec<AuditEntry>,
    pub(super) lists: BTreeMap<&'static str, Vec<SessionId>>,
    /// The nodes whose connections were cut. A call that is repeated and finds its session there does not say what ended
    /// for it; a rotation that is repeated after another one says that it was superseded; a refusal that is repeated is
    /// decided, and logged, anew.
    pub(super) cut_off: Range<u32>,
}

/// Where a call stands in the history.
struct Span<'a> {
    call: &'a Call,
    begun: usize,
    over: usize,
    answer: Option<&'a Answer>,
}

impl Span<'_> {
    /// Whether it is not known if it was carried out.
    fn is_open(&self) -> bool {
        matches!(self.answer, None | Some(Answer::Failed { .. }))
    }
}

/// What became of a session in the end.
enum Last<'a> {
    Live(&'a Seen),
    Ended { by: Option<CallId>, rotations: u32 },
    Unknown,
}

/// Everything that was done to one session.
#[derive(Default)]
struct Deeds<'a> {
    created: Option<(CallId, &'a Span<'a>)>,
    last: Option<Last<'a>>,
    /// The calls that were told that they ended it.
    ended_by: BTreeSet<CallId>,
    /// Changes that were applied, and those that may be.
    changes: (u64, u64),
    increments: (i64, i64),
    rotations: (u32, u32),
}

/// All that went wrong.
pub(super) fn check(lines: &[Line], after: &After) -> Vec<String> {
    let mut spans: BTreeMap<CallId, Span<'_>> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        match line {
            Line::Call(id, call) => {
                spans.insert(*id, Span { call, begun: place, over: usize::MAX, answer: None });
            }
            Line::Answer(id, answer) => {
                if let Some(span) = spans.get_mut(id) {
                    (span.over, span.answer) = (place, Some(answer));
                }
            }
        }
    }
    let deeds = deeds(&spans, &after.cut_off);
    let mut violations = shown::check(lines);
    violations.extend(check_disabled(&spans));
    violations.extend(check_twice(&spans));
    violations.extend(deeds.iter().flat_map(|(id, deeds)| deeds.check(*id, &spans, &after.cut_off)));
    violations.extend(check_limits(&deeds, &spans));
    violations.extend(check_log(&deeds, after));
    violations.extend(check_lists(&deeds, &after.lists));
    violations
}

/// Nothing starts for a disabled user, and no other is refused as one.
fn check_disabled(spans: &BTreeMap<CallId, Span<'_>>) -> Vec<String> {
    let (mut disables, mut enables): (BTreeMap<&str, Vec<_>>, BTreeMap<&str, Vec<_>>) = Default::default();
    for span in spans.values() {
        match span.call {
            Call::Disable { user } => disables.entry(user).or_default().push(span),
            Call::Enable { user } => enables.entry(user).or_default().push(span),
            _ => {}
        }
    }
    let mut wrong = Vec::new();
    for span in spans.values() {
        let Call::Create { id, user: Some(user), .. } = span.call else { continue };
        let (disables, enables) = (of(&disables, user), of(&enables, user));
        // Until when the user surely stayed disabled.
        let lifted = |disabling: &Span<'_>| {
            let later = enables.iter().filter(|enabling| enabling.over > disabling.begun);
            later.map(|enabling| enabling.begun).min().unwrap_or(usize::MAX)
        };
        match span.answer {
            Some(Answer::Created { .. }) => {
                let surely = |disabling: &&Span<'_>| {
                    !disabling.is_open() && span.begun > disabling.over && span.over < lifted(disabling)
                };
                wrong.extend(
                    disables.iter().copied().find(surely).map(|_| format!("{id} of {user}, who was disabled, started")),
                );
            }
            Some(Answer::Refused { because_disabled: true }) => {
                let perhaps = |disabling: &&Span<'_>| {
                    let over = |enabling: &&Span<'_>| enabling.begun > disabling.over && enabling.over < span.begun;
                    disabling.begun < span.over && !enables.iter().copied().any(|enabling| over(&enabling))
                };
                if !disables.iter().copied().any(|disabling| perhaps(&disabling)) {
                    wrong.push(format!("{id} of {user} was refused as disabled, and no call had disabled them"));
                }
            }
            _ => {}
        }
    }
    wrong
}

fn of<'a, T>(lists: &'a BTreeMap<&str, Vec<T>>, user: &str) -> &'a [T] {
    lists.get(user).map_or(&[], Vec::as_slice)
}

fn deeds<'a>(spans: &'a BTreeMap<CallId, Span<'a>>, cut_off: &Range<u32>) -> BTreeMap<SessionId, Deeds<'a>> {
    let mut all: BTreeMap<SessionId, Deeds<'a>> = BTreeMap::new();
    for (call, span) in spans {
        match span.call {
            Call::Create { id, .. } => all.entry(*id).or_default().created = Some((*call, span)),
            Call::Update { id, write } => {
                let deeds = all.entry(*id).or_default();
                let increment = i64::from(matches!(write, Write::Increment { .. }));
                if let Some(Answer::Applied(_)) = span.answer {
                    deeds.changes.0 += 1;
                    deeds.increments.0 += increment;
                } else if span.is_open() {
                    deeds.changes.1 += 1;
                    deeds.increments.1 += increment;
                }
            }
            Call::Rotate { id } => {
                let deeds = all.entry(*id).or_default();
                deeds.rotations.0 += u32::from(matches!(span.answer, Some(Answer::Rotated(_))));
                let may_be_silent =
                    cut_off.contains(&call.node()) && matches!(span.answer, Some(Answer::Superseded(_)));
                deeds.rotations.1 += u32::from(span.is_open() || may_be_silent);
            }
            Call::Load { id } => {
                let last = match span.answer {
                    Some(Answer::Live(seen)) => Last::Live(seen),
                    Some(Answer::Ended { by, rotations }) => Last::Ended {
                        by: by.as_deref().and_then(|by| by.parse().ok()),
                        rotations: rotations.unwrap_or_default(),
                    },
                    Some(Answer::Unknown) => Last::Unknown,
                    _ => continue,
                };
                // The node that prepares everything looks at it when all others are done.
                if call.node() == 0 {
                    all.entry(*id).or_default().last = Some(last);
                }
            }
            _ => {}
        }
        if let Some(Answer::Created { ended } | Answer::EndedNow(ended)) = span.answer {
            for id in ended {
                all.entry(*id).or_default().ended_by.insert(*call);
            }
        }
    }
    all
}

impl Deeds<'_> {
    /// That in the end it is as its callers were answered.
    fn check(&self, id: SessionId, spans: &BTreeMap<CallId, Span<'_>>, cut_off: &Range<u32>) -> Vec<String> {
        let mut wrong = Vec::new();
        let within = |what: &str, count: u64, (done, open): (u64, u64)| {
            let fits = (done..=done + open).contains(&count);
            (!fits).then(|| format!("{id} has {count} {what}: {done} were answered, {open} more may be done"))
        };
        let created = self.created.as_ref().and_then(|(_, span)| span.answer);
        match (created, &self.last) {
            (_, None) => wrong.push(format!("{id} was not looked at in the end")),
            (Some(Answer::Created { .. }), Some(Last::Unknown)) => wrong.push(format!("{id} was started, and is gone")),
            (Some(Answer::Refused { .. }), Some(Last::Live(_) | Last::Ended { .. })) => {
                wrong.push(format!("{id} was refused, and started"));
            }
            _ => {}
        }
        if self.ended_by.len() > 1 {
            wrong.push(format!("{id} was ended by {:?}, each time for the first time", self.ended_by));
        }
        let rotations = (u64::from(self.rotations.0), u64::from(self.rotations.1));
        match &self.last {
            Some(Last::Live(seen)) => {
                wrong.extend(within("versions", seen.version, self.changes));
                let increments = (self.increments.0.unsigned_abs(), self.increments.1.unsigned_abs());
                wrong.extend(within("increments", seen.value("n").unsigned_abs(), increments));
                wrong.extend(within("rotations", u64::from(seen.rotations), rotations));
                if !self.ended_by.is_empty() {
                    wrong.push(format!("{id} was ended by {:?}, and is open", self.ended_by));
                }
            }
            Some(Last::Ended { by, rotations: count }) => {
                wrong.extend(within("rotations", u64::from(*count), rotations));
                let Some((by, span)) = by.and_then(|by| Some((by, spans.get(&by)?))) else {
                    wrong.push(format!("{id} ended, and no call ended it"));
                    return wrong;
                };
                let told = self.ended_by.contains(&by);
                let may_be_silent =
                    span.is_open() || cut_off.contains(&by.node()) && matches!(span.call, Call::Create { .. });
                let fits = told || may_be_silent && self.ended_by.is_empty();
                if !fits {
                    wrong.push(format!("{id} was ended by {by}, and told so was {:?}", self.ended_by));
                }
            }
            Some(Last::Unknown) | None => {}
        }
        wrong
    }

    /// From where to where in the history it surely lived.
    fn life(&self, spans: &BTreeMap<CallId, Span<'_>>) -> Option<(usize, usize)> {
        let (_, span) = self.created.as_ref()?;
        let Some(Answer::Created { .. }) = span.answer else { return None };
        let end = match self.last {
            Some(Last::Live(_)) => usize::MAX,
            Some(Last::Ended { by: Some(by), .. }) => spans.get(&by)?.begun,
            _ => return None,
        };
        (span.over < end).then_some((span.over, end))
    }
}

/// No value is relied on by two changes that both were applied, and no secret is replaced twice.
fn check_twice(spans: &BTreeMap<CallId, Span<'_>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut increments, mut rotations) = (BTreeMap::new(), BTreeMap::new());
    for (call, span) in spans {
        match (span.call, span.answer) {
            (Call::Update { id, write: Write::Increment { from } }, Some(Answer::Applied(_))) => {
                if let Some(other) = increments.insert((*id, *from), call) {
                    wrong.push(format!("{call} and {other} both made {from} of {id} one more"));
                }
            }
            (Call::Rotate { id }, Some(Answer::Rotated(seen))) => {
                if let Some(other) = rotations.insert((*id, seen.rotations), call) {
                    wrong.push(format!("{call} and {other} both made rotation {} of {id}", seen.rotations));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// At no moment there were more sessions than a limit or an idempotency key allows.
fn check_limits(deeds: &BTreeMap<SessionId, Deeds<'_>>, spans: &BTreeMap<CallId, Span<'_>>) -> Vec<String> {
    /// Where sessions of a user, with a key, come and go.
    type Moments = Vec<(usize, i64)>;
    let mut lives: BTreeMap<(&str, Option<u8>), Moments> = BTreeMap::new();
    for deeds in deeds.values() {
        let Some((_, Span { call: Call::Create { user: Some(user), key, .. }, .. })) = deeds.created else { continue };
        if let Some((begin, end)) = deeds.life(spans) {
            lives.entry((user, *key)).or_default().extend([(begin, 1), (end, -1)]);
        }
    }
    let mut wrong = Vec::new();
    for ((name, key), mut moments) in lives {
        let user = USERS.iter().find(|user| user.name == name).unwrap();
        let Some(limit) = key.map(|_| 1).or(user.limit.map(|limit| i64::from(limit.max))) else { continue };
        moments.sort_unstable();
        let mut living = 0;
        for (place, change) in moments {
            living += change;
            if living > limit {
                wrong.push(format!("{name} had {living} sessions at line {place}, key {key:?}: the limit is {limit}"));
            }
        }
    }
    wrong
}

/// The log tells of each start, refusal, rotation and end that there was, once, and of nothing else.
fn check_log(deeds: &BTreeMap<SessionId, Deeds<'_>>, after: &After) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut told: BTreeMap<SessionId, Vec<&AuditEntry>> = BTreeMap::new();
    for entry in &after.log {
        told.entry(entry.session).or_default().push(entry);
    }
    for id in told.keys() {
        if deeds.get(id).is_none_or(|deeds| deeds.created.is_none()) {
            wrong.push(format!("the log tells of {id}, which no node started"));
        }
    }
    for (id, deeds) in deeds {
        let entries = told.get(id).map_or(&[][..], |entries| &entries[..]);
        let count = |is: fn(Event) -> bool| entries.iter().filter(|entry| is(entry.event)).count();
        let starts = count(|event| matches!(event, Event::Started | Event::SignedIn));
        let (rotations, ends) = (count(|event| event == Event::Rotated), count(|event| event == Event::Ended));
        let refusals = count(|event| event == Event::Refused);
        // A refusal whose answer was lost is decided anew, and may be another one or none.
        let lost = deeds.created.as_ref().is_some_and(|(call, _)| after.cut_off.contains(&call.node()));
        let surely = usize::from(deeds.created.as_ref().is_some_and(|(_, span)| !span.is_open()));
        let (expected, refused) = match deeds.last {
            Some(Last::Live(seen)) => ((1, seen.rotations as usize, 0), 0..=0),
            Some(Last::Ended { rotations, .. }) => ((1, rotations as usize, 1), 0..=0),
            Some(Last::Unknown) | None => ((0, 0, 0), surely..=1),
        };
        let refused = if lost { *refused.start()..=usize::MAX } else { refused };
        if (starts, rotations, ends) != expected || !refused.contains(&refusals) {
            wrong.push(format!(
                "the log tells of {starts} starts, {rotations} rotations, {ends} ends and {refusals} refusals of {id}; \
                 there were {expected:?} and {refused:?}"
            ));
        }
        if starts == 1 && entries.first().is_some_and(|entry| entry.event == Event::Ended) {
            wrong.push(format!("the log tells of the end of {id} before its start"));
        }
        let by = entries.iter().find(|entry| entry.event == Event::Ended).and_then(|entry| entry.by.as_deref());
        if let Some(Last::Ended { by: Some(ended_by), .. }) = deeds.last
            && by != Some(&ended_by.to_string())
        {
            wrong.push(format!("the log says that {by:?} ended {id}, and it was {ended_by}"));
        }
    }
    wrong
}

/// A user's list shows what is open, and nothing else.
fn check_lists(deeds: &BTreeMap<SessionId, Deeds<'_>>, lists: &BTreeMap<&'static str, Vec<SessionId>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, listed) in lists {
        let open = deeds.iter().filter(|(_, deeds)| {
            let of_user = deeds
                .created
                .as_ref()
                .is_some_and(|(_, span)| matches!(span.call, Call::Create { user: Some(user), .. } if user == name));
            of_user && matches!(deeds.last, Some(Last::Live(_)))
        });
        let (open, listed): (BTreeSet<_>, BTreeSet<_>) =
            (open.map(|(id, _)| *id).collect(), listed.iter().copied().collect());
        if open != listed {
            wrong.push(format!("{name}'s list shows {listed:?}, open are {open:?}"));
        }
    }
    wrong
}
