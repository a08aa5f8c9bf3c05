//! The random operations of the [state machine test](super::random).

use proptest::{prelude::*, sample::Index};

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Create(NewSession),
    Update(Index, NewChange),
    /// The last change, sent once more.
    UpdateAgain,
    /// Sessions, when they were seen relative to now, and whether the successor was presented.
    Touch(Vec<(Index, i64, bool)>),
    /// A session, which of its secrets is presented, the newest first, one that it never had if there are not so
    /// many, and whether the others are dead at once.
    Rotate(Index, usize, bool),
    /// The last creation, or the last rotation, sent once more.
    CreateAgain,
    RotateAgain,
    /// A session, and for how long.
    Lock(Index, u64),
    /// A session, how many grants ago, and for how long.
    Renew(Index, u64, u64),
    Unlock(Index, u64),
    EndIds(Vec<Index>),
    /// A refusal outside the store, about a session.
    Log(Index),
    EndOfUser {
        user: usize,
        except: Vec<Index>,
        disable: bool,
    },
    Enable(usize),
    /// A user, whether the settings are the right ones to take the place of, and the new ones, if any.
    PutUser(usize, bool, Option<usize>),
    Users(usize),
    ReapSome(usize),
    ReapAll,
    Advance(u64),
    Load(Index),
    Find {
        user: Option<usize>,
        acting: bool,
        on_phone: bool,
        unseen_for: Option<u64>,
        page: usize,
    },
    Audit(usize),
}

#[derive(Clone, Debug)]
pub(super) struct NewSession {
    pub(super) user: Option<usize>,
    pub(super) on_phone: bool,
    pub(super) idle: Option<u64>,
    pub(super) ends_in: Option<u64>,
    pub(super) limit: Option<(u32, bool)>,
    pub(super) replaces: Option<Index>,
    pub(super) idempotency: Option<u8>,
    pub(super) authenticated_before: u64,
    pub(super) keys: Vec<(usize, usize)>,
    pub(super) who: NewWho,
}

/// What is known of who started it, and how.
#[derive(Clone, Debug)]
pub(super) struct NewWho {
    pub(super) acting: bool,
    pub(super) audited: bool,
    pub(super) level: Option<u8>,
    pub(super) note: Option<()>,
}

#[derive(Clone, Debug)]
pub(super) struct NewChange {
    pub(super) remove_all: bool,
    pub(super) remove: Vec<usize>,
    pub(super) set: Vec<(usize, usize)>,
    /// Keys, and whether what is relied on is true.
    pub(super) rely: Vec<(usize, bool)>,
    pub(super) if_version: Option<bool>,
    /// Under the lease of the latest grant, or of one so many before.
    pub(super) lease: Option<u64>,
    pub(super) fields: Vec<NewField>,
    pub(super) small: bool,
}

#[derive(Clone, Debug)]
pub(super) enum NewField {
    FullName(Option<usize>),
    UserType(Option<usize>),
    Idle(Option<u64>),
    EndsIn(Option<u64>),
}

pub(super) const USERS: [&str; 3] = ["anna", "Anna", "анна"];
pub(super) const KEYS: [&str; 5] = ["a", "b", "a.b", "\"", "ключ"];
pub(super) const VALUES: [&str; 5] =
    ["1", "-0.0", "\"\\u0000\"", "{\"b\":1,\"a\":2}", "\"a value that is a little longer\""];
pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let user = 0..USERS.len();
    prop_oneof![
        6 => new_session().prop_map(Operation::Create),
        6 => (any::<Index>(), new_change()).prop_map(|(session, change)| Operation::Update(session, change)),
        1 => Just(Operation::UpdateAgain),
        1 => Just(Operation::CreateAgain),
        1 => Just(Operation::RotateAgain),
        2 => (any::<Index>(), 1..3000_u64).prop_map(|(session, millis)| Operation::Lock(session, millis)),
        1 => (any::<Index>(), 0..2_u64, 1..3000_u64)
            .prop_map(|(session, ago, millis)| Operation::Renew(session, ago, millis)),
        1 => (any::<Index>(), 0..2_u64).prop_map(|(session, ago)| Operation::Unlock(session, ago)),
        4 => prop::collection::vec((any::<Index>(), -2000..2000_i64, any::<bool>()), 0..4).prop_map(Operation::Touch),
        3 => (any::<Index>(), 0..4_usize, prop::bool::weighted(0.2))
            .prop_map(|(session, secret, at_once)| Operation::Rotate(session, secret, at_once)),
        2 => prop::collection::vec(any::<Index>(), 0..4).prop_map(Operation::EndIds),
        1 => any::<Index>().prop_map(Operation::Log),
        1 => (user.clone(), prop::collection::vec(any::<Index>(), 0..3), any::<bool>())
            .prop_map(|(user, except, disable)| Operation::EndOfUser { user, except, disable }),
        1 => user.clone().prop_map(Operation::Enable),
        2 => (user.clone(), prop::bool::weighted(0.8), prop::option::weighted(0.8, 0..VALUES.len()))
            .prop_map(|(user, right, settings)| Operation::PutUser(user, right, settings)),
        1 => (1..4_usize).prop_map(Operation::Users),
        1 => (0..4_usize).prop_map(Operation::ReapSome),
        1 => Just(Operation::ReapAll),
        4 => prop_oneof![Just(0), Just(1), 1..1500_u64, 5000..40_000_u64].prop_map(Operation::Advance),
        2 => any::<Index>().prop_map(Operation::Load),
        2 => (prop::option::of(user), prop::bool::weighted(0.3), any::<bool>(), prop::option::of(0..3000_u64), 1..8_usize)
            .prop_map(|(user, acting, on_phone, unseen_for, page)| Operation::Find {
                user,
                acting,
                on_phone,
                unseen_for,
                page,
            }),
        1 => (1..8_usize).prop_map(Operation::Audit),
    ]
}

fn new_session() -> impl Strategy<Value = NewSession> {
    let limit = prop::option::of((1..4_u32, any::<bool>()));
    let entries = prop::collection::vec((0..KEYS.len(), 0..VALUES.len()), 0..3);
    let deadlines = (prop::option::of(lifetime()), prop::option::of(lifetime()));
    let user = prop::option::weighted(0.8, 0..USERS.len());
    let replaces = prop::option::weighted(0.3, any::<Index>());
    let idempotency = prop::option::weighted(0.2, 0..2_u8);
    let before = prop_oneof![3 => Just(0), 1 => 1..2000_u64];
    let rarely = || prop::bool::weighted(0.2);
    let who = (rarely(), rarely(), prop::option::of(1..4_u8), prop::option::of(Just(())));
    let who = who.prop_map(|(acting, audited, level, note)| NewWho { acting, audited, level, note });
    (user, any::<bool>(), deadlines, limit, replaces, idempotency, before, entries, who).prop_map(
        |(user, on_phone, (idle, ends_in), limit, replaces, idempotency, authenticated_before, keys, who)| NewSession {
            user,
            on_phone,
            idle,
            ends_in,
            limit,
            replaces,
            idempotency,
            authenticated_before,
            keys,
            who,
        },
    )
}

fn new_change() -> impl Strategy<Value = NewChange> {
    let key = 0..KEYS.len();
    let data = (
        prop::bool::weighted(0.1),
        prop::collection::vec(key.clone(), 0..3),
        prop::collection::vec((key.clone(), 0..VALUES.len()), 0..4),
    );
    let conditions = (
        prop::collection::vec((key, prop::bool::weighted(0.8)), 0..2),
        prop::option::weighted(0.2, prop::bool::weighted(0.7)),
        prop::option::weighted(0.2, 0..2_u64),
    );
    let fields = prop::collection::vec(new_field(), 0..4).prop_map(|mut fields| {
        // Mostly none: each of them is a privilege change or moves a deadline.
        fields.truncate(fields.len().saturating_sub(2));
        fields
    });
    (data, conditions, fields, prop::bool::weighted(0.3)).prop_map(
        |((remove_all, remove, set), (rely, if_version, lease), fields, small)| NewChange {
            remove_all,
            remove,
            set,
            rely,
            if_version,
            lease,
            fields,
            small,
        },
    )
}

fn new_field() -> impl Strategy<Value = NewField> {
    let (text, deadline) = (prop::option::of(0..USERS.len()), prop::option::of(lifetime()));
    prop_oneof![
        text.clone().prop_map(NewField::FullName),
        text.prop_map(NewField::UserType),
        deadline.clone().prop_map(NewField::Idle),
        deadline.prop_map(NewField::EndsIn),
    ]
}

fn lifetime() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![1 => 1..50_u64, 4 => 1000..5000_u64, 4 => 30_000..90_000_u64]
}
