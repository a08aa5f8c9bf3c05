//! Moving what a store holds into another one, and back.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    fixtures::{GRACE, NOW, Start, anonymous, at, change, digest, reap_only, set, token_for},
    values::{USERS, with_every_field},
};
use crate::{
    admission::{Limit, Refusal},
    ended::{Ending, Reason},
    record::Record,
    rules::{Create, Created, EndAnswer, Fence, Loaded, Locked, Reap, Rotated, Rules, Tombstone, Which},
    rules::{Imported, Item, UserFence},
    store::{Cursor, MemoryStore, PutUser, Query},
    testing::Subject,
    token::{PartitionKey, SessionId},
};

impl Subject {
    async fn import_one(&self, item: impl Into<Item>) -> Imported {
        let answers = self.store.import(&[item.into()]).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers[0]
    }

    async fn adopt(&self, key: &PartitionKey) {
        self.store.adopt_partition_key(key).await.unwrap();
    }
}

impl From<Start> for Item {
    fn from(start: Start) -> Self {
        Self::Session(start.create.record.into())
    }
}

fn fence(user: &str, disabled: bool, ended_before: Option<i64>) -> Item {
    Item::Fence(UserFence { user: user.into(), disabled, ended_before: ended_before.map(at) })
}

fn tombstone(start: &Start, ending: &Ending, millis: i64) -> Item {
    let Record { info, secrets, .. } = &start.create.record;
    let ended = ending.of(info.id, info.user.clone(), at(millis));
    Item::Ended(Arc::new(Tombstone { ended, secrets: secrets.clone() }))
}

/// Everything a store holds, in one order for all stores.
async fn everything(store: &Rules, page: usize) -> BTreeMap<(u8, String), Item> {
    let mut all = BTreeMap::new();
    let mut after: Option<Cursor> = None;
    loop {
        let part = store.export(after.as_ref(), page).await.unwrap();
        assert!(part.items.len() <= page, "a page of {} where {page} were asked for", part.items.len());
        for item in part.items {
            let place = match &item {
                Item::Session(record) => (0, record.info.id.to_string()),
                Item::Ended(tombstone) => (1, tombstone.ended.id.to_string()),
                Item::Fence(fence) => (2, fence.user.to_string()),
            };
            assert!(all.insert(place, item).is_none(), "an item comes twice");
        }
        let Some(next) = part.next else { return all };
        assert_ne!(Some(&next), after.as_ref(), "a cursor that does not move on");
        after = Some(next);
    }
}

/// Sessions with all there is to a session, tombstones of every reason, fences of every kind and of strange names.
fn a_bit_of_everything(subject: &Subject) -> Vec<Item> {
    let mut items = Vec::new();
    for (user, n) in USERS.iter().zip(0..) {
        items.push(with_every_field(subject.sign_in(user)).idempotency(digest(n)).into());
    }
    for count in 0..20 {
        let start = (0..count).fold(anonymous(), |start, n| start.data(&format!("k{n}"), "[1, 2]"));
        items.push(start.idle(1000 * count).into());
    }
    for (reason, millis) in Reason::ALL.iter().zip(0..) {
        items.push(tombstone(&subject.sign_in("anna"), &(*reason).into(), millis / 2));
    }
    let remarks = Ending::new(Reason::RevokedByAdmin).by("root \"1\"").note("😀 lost");
    items.push(tombstone(&with_every_field(anonymous()), &remarks, 3));
    for (user, n) in USERS.iter().zip(0..) {
        items.push(fence(user, n % 3 == 0, (n % 3 < 2).then_some(n)));
    }
    items.push(fence("only disabled", true, None));
    // The state that nothing is fenced is no fence.
    items.retain(|item| !matches!(item, Item::Fence(fence) if !fence.disabled && fence.ended_before.is_none()));
    items
}

pub(super) async fn i17_what_moves_in_moves_out_as_it_was(subject: &Subject) {
    let items = a_bit_of_everything(subject);
    let imported = subject.store.import(&items).await.unwrap();
    assert_eq!(imported, vec![Imported::Added; items.len()]);
    let again = subject.store.import(&items).await.unwrap();
    assert_eq!(again, vec![Imported::Unchanged; items.len()], "once more changes nothing");
    for item in &items {
        match item {
            Item::Session(record) => {
                let found = subject.load(record.info.id, at(-1_000_000_000)).await;
                assert_eq!(found, Loaded::Live(Arc::clone(record)));
            }
            Item::Ended(tombstone) => {
                assert_eq!(*subject.tombstone(tombstone.ended.id, NOW).await, **tombstone);
            }
            Item::Fence(_) => {}
        }
    }

    let exported = everything(&subject.store, 7).await;
    assert_eq!(exported.len(), items.len());
    let other = Rules::on(MemoryStore::new().unwrap());
    other.adopt_partition_key(subject.store.partition_key()).await.unwrap();
    other.import(&items).await.unwrap();
    assert_eq!(everything(&other, 100).await, exported);
    assert_eq!(subject.log_in_pages(&crate::store::AuditQuery::default(), 100).await, [], "moving is no event");
}

pub(super) async fn i17_what_calls_left_moves_as_it_is(subject: &Subject) {
    let start = subject.sign_in("anna").idle(1000).data("a", "1").idempotency(digest(1));
    let (first, second) = (start.token.clone(), token_for(start.id()));
    let id = subject.begin(start).await;
    subject.apply(id, &set("b", "2")).await;
    subject.rotate(&first, &second, at(1)).await;
    subject.touch(id, at(5), at(5)).await;
    assert!(matches!(subject.store.lock(id, GRACE, at(6)).await.unwrap(), Locked::Granted(_)));
    let expected = subject.record(id, at(6)).await;
    let ended = subject.begin(subject.sign_in("ben")).await;
    subject.end(ended, Ending::new(Reason::SignedOut).by("root"), at(7)).await;
    let which = Which::OfUser { user: "cleo".into(), except: Vec::new(), fence: Fence::Disabled };
    subject.store.end(&which, &Reason::UserDisabled.into(), at(8)).await.unwrap();

    let all: Vec<_> = everything(&subject.store, 1).await.into_values().collect();
    let tombstone = Item::Ended(subject.tombstone(ended, at(8)).await);
    assert_eq!(all, [Item::Session(expected), tombstone, fence("cleo", true, Some(8))]);
}

pub(super) async fn i4_a_moved_session_is_in_every_index(subject: &Subject) {
    let moved = subject.sign_in("anna").idle(1000).idempotency(digest(1));
    let (id, token) = (moved.id(), moved.token.clone());
    assert_eq!(subject.import_one(moved).await, Imported::Added);
    assert_eq!(subject.ids_of("anna", NOW).await, [id]);
    assert_eq!(subject.find(&Query::default(), NOW).await.len(), 1);

    let full = subject.create(&subject.sign_in("anna").limit(Limit::refuse(1))).await;
    assert_eq!(full, Created::Refused(Refusal::LimitReached { max: 1 }));
    let successor = token_for(id);
    assert!(matches!(subject.rotate(&token, &successor, at(1)).await, Rotated::Rotated(_)));
    let retry = subject.sign_in("anna").idempotency(digest(1));
    let Created::Created { ended } = subject.create(&retry).await else { panic!("refused") };
    assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), [id], "the idempotency key moved too");
    assert_eq!(subject.ids_of("anna", at(2)).await, [retry.id()]);

    let (first, second) =
        (subject.sign_in("ben").idempotency(digest(2)), subject.sign_in("ben").idempotency(digest(2)));
    let (first_id, second_id) = (first.id(), second.id());
    subject.import_one(first).await;
    // The first one ended where they come from, which moves in later.
    assert_eq!(subject.import_one(second).await, Imported::Added);
    let retry = subject.sign_in("ben").idempotency(digest(2));
    let Created::Created { ended } = subject.create(&retry).await else { panic!("refused") };
    assert!(ended.iter().any(|ended| ended.id == second_id), "{ended:?} without {second_id}, {first_id}");

    let expiring = anonymous().idle(10);
    let expiring_id = expiring.id();
    subject.import_one(expiring).await;
    assert_eq!(subject.reap(at(9)).await, []);
    assert_eq!(subject.reap(at(10)).await, [expiring_id]);
    assert_eq!(subject.tombstone(expiring_id, at(10)).await.ended.reason, Reason::IdleTimeout);
}

pub(super) async fn i2_moving_in_brings_no_ended_session_back(subject: &Subject) {
    let start = subject.sign_in("anna").data("a", "1");
    let id = subject.begin(start.clone()).await;
    subject.end(id, Reason::SignedOut, at(1)).await;
    assert_eq!(subject.import_one(start.clone()).await, Imported::Kept);
    assert_eq!(subject.import_one(tombstone(&start, &Reason::RevokedByAdmin.into(), 0)).await, Imported::Kept);
    assert_eq!(subject.tombstone(id, at(2)).await.ended.reason, Reason::SignedOut);
    assert_eq!(subject.ids_of("anna", at(2)).await, []);
}

pub(super) async fn i2_a_tombstone_that_moves_in_ends_its_session(subject: &Subject) {
    let start = subject.sign_in("anna").idle(1000).data("a", "1").idempotency(digest(1));
    let id = subject.begin(start.clone()).await;
    let ended = tombstone(&start, &Ending::new(Reason::RevokedByAdmin).by("root"), 5);
    assert_eq!(subject.import_one(ended.clone()).await, Imported::Updated);
    assert_eq!(Item::Ended(subject.tombstone(id, NOW).await), ended);
    assert_eq!(subject.ids_of("anna", NOW).await, []);
    assert_eq!(subject.reap(at(5000)).await, []);
    let retry = subject.sign_in("anna").idempotency(digest(1)).limit(Limit::refuse(1));
    assert_eq!(subject.create(&retry).await, Created::Created { ended: Vec::new() });
}

pub(super) async fn i6_of_two_states_the_newer_one_stays(subject: &Subject) {
    let old = subject.sign_in("anna").idle(1000).data("a", "1").data("gone", "2");
    let id = old.id();
    assert_eq!(subject.import_one(old.clone()).await, Imported::Added);

    let mut newer = old.clone().data("a", "[3]").data("b", "4").with(|info| {
        info.version = 3;
        info.last_seen_at = at(500);
        info.full_name = Some("Anna".into());
    });
    newer.create.record.data.remove("gone");
    assert_eq!(subject.import_one(newer.clone()).await, Imported::Updated);
    assert_eq!(*subject.record(id, at(1400)).await, newer.create.record);
    assert_eq!(subject.reap(at(1499)).await, [], "the deadline moved with it");
    assert_eq!(subject.ids_of("anna", at(1400)).await, [id]);
    assert_eq!(subject.import_one(old).await, Imported::Kept);

    // What the session did here counts.
    for ahead in 0..4 {
        let mut item = newer.create.record.clone();
        match ahead {
            0 => drop(subject.apply(id, &change()).await),
            1 => assert!(subject.touch(id, at(600), at(600)).await),
            2 => drop(subject.rotate(&newer.token, &token_for(id), at(600)).await),
            _ => drop(subject.store.lock(id, GRACE, at(600)).await.unwrap()),
        }
        let before = subject.record(id, at(600)).await;
        assert_eq!(subject.import_one(Item::Session(item.clone().into())).await, Imported::Kept);
        assert_eq!(subject.record(id, at(600)).await, before);
        // Ahead in one thing and behind in another it has a life of its own here.
        item.info.version += 10;
        item.info.last_seen_at = at(550);
        if ahead > 0 {
            assert_eq!(subject.import_one(Item::Session(item.into())).await, Imported::Kept);
        }
        assert_eq!(subject.record(id, at(600)).await, before);
    }
}

pub(super) async fn i3_a_fence_that_moves_in_keeps_sign_ins_out(subject: &Subject) {
    for item in [fence("anna", true, Some(5)), fence("ben", false, Some(5)), fence("cleo", true, None)] {
        assert_eq!(subject.import_one(item).await, Imported::Added);
    }
    let refused = |create: Created| match create {
        Created::Refused(refusal) => Some(refusal),
        Created::Created { .. } => None,
    };
    let later = |user: &str| subject.sign_in(user).at(at(10));
    assert_eq!(refused(subject.create(&later("anna")).await), Some(Refusal::UserDisabled));
    assert_eq!(refused(subject.create(&later("cleo")).await), Some(Refusal::UserDisabled));
    assert_eq!(refused(subject.create(&subject.sign_in("ben")).await), Some(Refusal::EndedMeanwhile));
    assert_eq!(refused(subject.create(&later("ben")).await), None);

    // Whatever comes afterwards lets nobody in who was kept out.
    assert_eq!(subject.import_one(fence("anna", false, Some(1))).await, Imported::Kept);
    assert_eq!(refused(subject.create(&later("anna")).await), Some(Refusal::UserDisabled));
    assert_eq!(subject.import_one(fence("ben", true, Some(4))).await, Imported::Updated);
    assert_eq!(refused(subject.create(&later("ben")).await), Some(Refusal::UserDisabled));
    for user in ["anna", "ben"] {
        subject.store.enable_user(user, at(10)).await.unwrap();
        assert_eq!(refused(subject.create(&subject.sign_in(user)).await), Some(Refusal::EndedMeanwhile));
        assert_eq!(refused(subject.create(&later(user)).await), None);
    }
}

pub(super) async fn i8_moved_tombstones_and_fences_are_forgotten_in_time(subject: &Subject) {
    let (early, late) = (subject.sign_in("anna"), subject.sign_in("anna"));
    for (start, millis) in [(&late, 20), (&early, 10)] {
        subject.import_one(tombstone(start, &Reason::SignedOut.into(), millis)).await;
    }
    for item in [fence("ben", false, Some(20)), fence("anna", true, Some(10)), fence("cleo", false, Some(10))] {
        subject.import_one(item).await;
    }
    let reap = Reap { tombstones_before: at(15), ..reap_only(100) };
    while subject.store.reap(&reap, at(15)).await.unwrap().more {}
    assert_eq!(subject.load(early.id(), at(15)).await, Loaded::Unknown);
    assert_eq!(subject.tombstone(late.id(), at(15)).await.ended.at, at(20));
    let left: Vec<_> = everything(&subject.store, 100).await.into_values().skip(1).collect();
    assert_eq!(left, [fence("anna", true, None), fence("ben", false, Some(20))]);
}

pub(super) async fn i4_an_export_shows_the_same_in_pages_of_any_size(subject: &Subject) {
    let items = a_bit_of_everything(subject);
    for items in items.chunks(10) {
        subject.store.import(items).await.unwrap();
    }
    // All of one user and one millisecond, so in one group and at one time.
    let many: Vec<_> = (0..12).map(|_| tombstone(&subject.sign_in("anna"), &Reason::SignedOut.into(), 100)).collect();
    subject.store.import(&many).await.unwrap();
    let all = everything(&subject.store, 1000).await;
    assert_eq!(all.len(), items.len() + many.len());
    for page in [1, 2, 5, all.len() - 1, all.len()] {
        assert_eq!(everything(&subject.store, page).await, all, "pages of {page}");
    }
    for text in ["", "nonsense", "s.nonsense", "z.1", "t.*", "f.*"] {
        let error = subject.store.export(Some(&Cursor::new(text)), 10).await.unwrap_err();
        assert!(error.to_string().contains("cursor"), "{text}: {error}");
    }
}

pub(super) async fn i4_an_export_goes_on_behind_what_ended_meanwhile(subject: &Subject) {
    let mut left = Vec::new();
    for _ in 0..12 {
        left.push(subject.begin(anonymous()).await);
    }
    let (mut shown, mut after): (Vec<SessionId>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = subject.store.export(after.as_ref(), 3).await.unwrap();
        for item in page.items {
            // The last one shown ends, and so does one that was not shown yet.
            let Item::Session(record) = item else { continue };
            shown.push(record.info.id);
        }
        if let Some(last) = shown.last().filter(|last| left.contains(last)) {
            assert!(matches!(subject.end(*last, Reason::SignedOut, at(1)).await, EndAnswer::EndedNow(_)));
            let last = *last;
            left.retain(|id| *id != last);
        }
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert_eq!(shown.len(), 12, "each was there when it was its turn");
    assert!(left.iter().all(|id| shown.contains(id)));
}

pub(super) async fn i3_a_key_is_adopted_by_an_empty_store_alone(subject: &Subject) {
    let own = subject.store.partition_key().clone();
    subject.adopt(&own).await;
    let key = PartitionKey::generate().unwrap();
    subject.adopt(&key).await;
    assert_eq!(subject.store.partition_key().as_bytes(), key.as_bytes());

    let id = subject.begin(subject.sign_in("anna")).await;
    assert_eq!(subject.ids_of("anna", NOW).await, [id]);
    subject.adopt(&key).await;
    assert_eq!(subject.store.partition_key().as_bytes(), key.as_bytes(), "the same key is no change");
    let refused = subject.store.adopt_partition_key(&own).await.unwrap_err();
    assert!(matches!(refused, crate::error::Error::InvalidArgument { .. }), "{refused}");
    assert_eq!(subject.ids_of("anna", NOW).await, [id]);
}

pub(super) async fn i3_a_store_that_holds_anything_adopts_no_key(subject: &Subject) {
    let key = PartitionKey::generate().unwrap();
    let refuses = async |why: &str| {
        let refused = subject.store.adopt_partition_key(&key).await;
        let error = refused.expect_err(why).to_string();
        assert!(error.contains("sessions of its own") && error.contains("empty"), "{error}");
    };
    let id = subject.begin(anonymous()).await;
    refuses("a session is there").await;
    subject.end(id, Reason::SignedOut, at(1)).await;
    refuses("a tombstone is there").await;
    let which = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::EndedBefore };
    subject.store.end(&which, &Reason::AllRevoked.into(), at(1)).await.unwrap();
    let forget = |before| Reap { tombstones_before: at(before), ..reap_only(100) };
    // At the time of the tombstone the fence goes too.
    while subject.store.reap(&forget(1), at(2)).await.unwrap().more {}
    let which = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::Disabled };
    subject.store.end(&which, &Reason::AllRevoked.into(), at(2)).await.unwrap();
    refuses("a fence is there").await;
    while subject.store.reap(&forget(2), at(3)).await.unwrap().more {}
    refuses("a disabled user is there").await;
    subject.store.enable_user("anna", at(3)).await.unwrap();
    let mut put = PutUser { user: "anna".into(), was: None, settings: Some("{}".into()), last_sign_in: None };
    assert!(subject.store.put_user(&put).await.unwrap());
    refuses("somebody is in the directory").await;
    (put.was, put.settings) = (put.settings, None);
    assert!(subject.store.put_user(&put).await.unwrap());
    subject.adopt(&key).await;
}

pub(super) async fn i3_a_session_of_another_key_does_not_move_in(subject: &Subject) {
    let key = (0..).map(|_| PartitionKey::generate().unwrap());
    let own = subject.store.partition_key().partition_of("anna");
    let other = key.map(|key| key.partition_of("anna")).find(|partition| *partition != own).unwrap();
    let (fine, misplaced) = (subject.sign_in("anna"), Start::new(Some("anna"), other));
    let Create { record, .. } = fine.create.clone();
    let refused = subject.store.import(&[Item::Session(record.into()), misplaced.clone().into()]).await.unwrap_err();
    assert!(refused.to_string().contains(&misplaced.id().to_string()), "{refused}");
    assert!(everything(&subject.store, 10).await.is_empty(), "nothing is put in");
}
