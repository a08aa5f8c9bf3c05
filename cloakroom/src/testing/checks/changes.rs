//! I1 and I11: changes are atomic, none is lost, and one that is too large leaves nothing.

use std::{sync::Arc, time::Duration};

use super::fixtures::{NOW, anonymous, at, change, in_parallel, json, set, token_for};
use crate::{
    change::Change,
    data::JsonRef,
    record::Record,
    rules::{Loaded, Rules, Updated},
    store::slots::KEPT_IDS,
    testing::Subject,
    token::SessionId,
};

pub(super) async fn i1_parallel_changes_to_different_keys_all_survive(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna").data("kept", "true")).await;
    in_parallel(50, |n| {
        let store = subject.store.clone();
        async move {
            let change = set(&format!("key {n}"), &n.to_string());
            let updated = store.update(id, &change, NOW).await.unwrap();
            assert!(matches!(updated, Updated::Applied(_)), "{updated:?}");
        }
    })
    .await;

    let record = subject.record(id, NOW).await;
    assert_eq!(record.data.len(), 51);
    for n in 0..50 {
        assert_eq!(record.data.get(&format!("key {n}")), Some(json(&n.to_string()).as_ref()));
    }
    assert_eq!(record.info.version, 50);
}

pub(super) async fn i1_no_parallel_increment_is_lost(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    in_parallel(20, |_| increment(subject.store.clone(), id)).await;
    let record = subject.record(id, NOW).await;
    assert_eq!(count_in(&record), 20);
    assert_eq!(record.info.version, 20, "conflicts do not count as versions");
}

async fn increment(store: Rules, id: SessionId) {
    let Loaded::Live(mut record) = store.load(id, NOW).await.unwrap() else { panic!("it lives") };
    loop {
        let mut change = set("count", &(count_in(&record) + 1).to_string());
        change.relied_on.insert("count".into(), record.data.get("count").map(JsonRef::to_json));
        match store.update(id, &change, NOW).await.unwrap() {
            Updated::Applied(_) => return,
            Updated::Conflict(fresh) => {
                assert_ne!(fresh.data.get("count"), record.data.get("count"), "a conflict answers with what is stored");
                record = fresh;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn count_in(record: &Record) -> u64 {
    record.data.get("count").map_or(0, |count| count.decode().unwrap())
}

pub(super) async fn i1_a_conflict_changes_nothing_and_answers_with_the_fresh_record(subject: &Subject) {
    let id = subject.begin(anonymous().data("a", "1").data("b", "1")).await;
    let theirs = subject.apply(id, &set("a", "2")).await;

    let mut ours = set("c", "3");
    ours.remove("b");
    ours.fields.full_name = Some(Some("Anna".into()));
    ours.relied_on.insert("a".into(), Some(json("1")));
    let Updated::Conflict(fresh) = subject.update(id, &ours, NOW).await else { panic!("expected a conflict") };
    assert_eq!(fresh, theirs);
    assert_eq!(subject.record(id, NOW).await, theirs);

    // What it did not rely on may change as it likes.
    ours.relied_on.insert("a".into(), Some(json("2")));
    subject.apply(id, &set("unrelated", "1")).await;
    assert_eq!(subject.apply(id, &ours).await.data.get("c"), Some(json("3").as_ref()));
}

pub(super) async fn i1_relying_on_an_absent_key_notices_that_it_came(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    let mut first = set("seat", "\"12A\"");
    first.relied_on.insert("seat".into(), None);
    let mut second = set("seat", "\"14C\"");
    second.relied_on.insert("seat".into(), None);
    subject.apply(id, &first).await;
    assert!(matches!(subject.update(id, &second, NOW).await, Updated::Conflict(_)));

    // A value of null is not an absent key.
    let record = subject.apply(id, &set("seat", "null")).await;
    assert_eq!(record.data.get("seat"), Some(json("null").as_ref()));
    assert!(matches!(subject.update(id, &second, NOW).await, Updated::Conflict(_)));

    let mut gone = change();
    gone.remove("seat");
    subject.apply(id, &gone).await;
    subject.apply(id, &second).await;
}

pub(super) async fn i1_values_are_compared_byte_for_byte(subject: &Subject) {
    let id = subject.begin(anonymous().data("n", "1.0")).await;
    for near in ["1", "1.00", "1e0", "\"1.0\""] {
        let mut change = set("n", "2");
        change.relied_on.insert("n".into(), Some(json(near)));
        assert!(matches!(subject.update(id, &change, NOW).await, Updated::Conflict(_)), "1.0 is not {near}");
    }
}

pub(super) async fn i1_a_repeated_change_is_applied_once(subject: &Subject) {
    let id = subject.begin(anonymous().data("list", "[]")).await;
    let mut repeated = set("list", "[1]");
    repeated.relied_on.insert("list".into(), Some(json("[]")));
    repeated.if_version = Some(0);
    let once = subject.apply(id, &repeated).await;
    assert_eq!(subject.apply(id, &repeated).await, once, "what it relied on was so when it was applied");

    let later = subject.apply(id, &set("list", "[2]")).await;
    assert_eq!(subject.apply(id, &repeated).await, later, "a repetition does not undo what came after");
}

pub(super) async fn i1_a_change_repeated_in_parallel_is_applied_once(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    let change = set("a", "1");
    in_parallel(20, |_| {
        let (store, change) = (subject.store.clone(), change.clone());
        async move { assert!(matches!(store.update(id, &change, NOW).await.unwrap(), Updated::Applied(_))) }
    })
    .await;
    let record = subject.record(id, NOW).await;
    assert_eq!(record.info.version, 1);
}

pub(super) async fn i1_the_latest_changes_are_remembered(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    // Ids are any 64 bits: those with the highest one set as well.
    let ids: Vec<u64> = (0..70).map(|n| u64::MAX - n * 0x0300_0000_0000_0001).collect();
    for change_id in &ids {
        subject.apply(id, &Change { id: *change_id, ..set("a", "1") }).await;
    }
    let record = subject.record(id, NOW).await;
    assert_eq!(record.info.version, 70);
    for known in [ids[69], ids[60], ids[70 - KEPT_IDS]] {
        assert_eq!(subject.apply(id, &Change { id: known, ..set("a", "2") }).await, record);
    }
    // Bytes of two neighbours are nobody's id, nor do they hide it where it follows.
    let id = subject.begin(anonymous()).await;
    for neighbour in [0x0102, 7] {
        subject.apply(id, &Change { id: neighbour, ..set("a", "1") }).await;
    }
    let across = Change { id: 0x0102 << 32, ..set("a", "2") };
    let record = subject.apply(id, &across).await;
    assert_eq!((record.info.version, record.data.get("a")), (3, Some(json("2").as_ref())));
    assert_eq!(subject.apply(id, &across).await, record);
}

pub(super) async fn i1_if_version_holds_a_change_to_one_version(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    let on_version = |version, key: &str| Change { if_version: Some(version), ..set(key, "1") };
    assert!(matches!(subject.update(id, &on_version(1, "early"), NOW).await, Updated::Conflict(_)));
    assert_eq!(subject.apply(id, &on_version(0, "a")).await.info.version, 1);
    let Updated::Conflict(fresh) = subject.update(id, &on_version(0, "late"), NOW).await else {
        panic!("the version moved on");
    };
    assert_eq!(fresh.info.version, 1);
    assert_eq!(subject.apply(id, &on_version(1, "b")).await.data.len(), 2);
}

pub(super) async fn i1_what_the_caller_knows_changes_no_answer(subject: &Subject) {
    let start = anonymous().data("a", "1").data("b", "1").data("c", "1");
    let token = start.token.clone();
    let id = subject.begin(start).await;
    let known = subject.record(id, NOW).await;
    let from = |known: &Arc<Record>, change: Change| Change { known: Some(Arc::clone(known)), ..change };

    let mut first = from(&known, set("a", "2"));
    first.remove("b");
    first.set("d", json("4"));
    let answered = subject.apply(id, &first).await;
    assert_eq!(answered, subject.record(id, NOW).await);
    assert_eq!((answered.info.version, answered.data.len()), (1, 3));

    // What others changed since is in the answer: data, the head, when it was seen, and what an earlier try did.
    let second = subject.apply(id, &from(&known, set("e", "5"))).await;
    assert_eq!(second, subject.record(id, NOW).await);
    assert_eq!(second.data.len(), 4);
    subject.rotate(&token, &token_for(id), NOW).await;
    let third = subject.apply(id, &from(&second, set("a", "3"))).await;
    assert_eq!(third, subject.record(id, NOW).await);
    assert_eq!(third.secrets.rotations, 1);
    subject.touch(id, at(5), at(5)).await;
    let fourth = subject.apply(id, &from(&third, set("a", "4"))).await;
    assert_eq!((&fourth, fourth.info.last_seen_at), (&subject.record(id, NOW).await, at(5)));
    assert_eq!(subject.apply(id, &first).await, fourth, "an earlier try did it");

    // A record of another session tells nothing of this one.
    let other = subject.begin(anonymous().data("z", "26")).await;
    let other = subject.record(other, NOW).await;
    let mut fields = from(&fourth, set("a", "5"));
    fields.fields.full_name = Some(Some("Anna".into()));
    for change in [from(&other, set("f", "6")), from(&fourth, set("f", "7")), fields] {
        let answered = subject.apply(id, &change).await;
        assert_eq!(answered, subject.record(id, NOW).await);
    }
}

pub(super) async fn i1_remove_all_takes_keys_that_others_added_and_leaves_what_it_sets(subject: &Subject) {
    let id = subject.begin(anonymous().data("old", "1").data("both", "1")).await;
    let mut cleared = change();
    cleared.remove_all();
    cleared.set("both", json("2"));
    subject.apply(id, &set("added meanwhile", "1")).await;
    let record = subject.apply(id, &cleared).await;
    assert_eq!(record.data.iter().map(|(key, value)| (key, value.as_str())).collect::<Vec<_>>(), [("both", "2")]);
    assert_eq!(subject.record(id, NOW).await, record);
}

pub(super) async fn i1_a_change_sets_and_removes_in_one_step(subject: &Subject) {
    let id = subject.begin(anonymous().data("a", "1").data("b", "1")).await;
    let mut change = set("c", "3");
    change.set("b", json("2"));
    change.remove("a");
    change.remove("never there");
    let record = subject.apply(id, &change).await;
    let stored: Vec<_> = record.data.iter().map(|(key, value)| (key, value.as_str())).collect();
    assert_eq!(stored, [("b", "2"), ("c", "3")]);
    assert_eq!(record.info.version, 1);
    assert_eq!(subject.record(id, NOW).await, record, "the answer is what is stored");
}

pub(super) async fn i1_fields_change_alone_and_are_emptied_on_demand(subject: &Subject) {
    let start = subject.sign_in("anna").idle(1000).ends_at(at(5000)).with(|info| {
        info.full_name = Some("Anna".into());
        info.user_type = Some("clerk".into());
    });
    let id = subject.begin(start).await;
    let before = subject.record(id, NOW).await;

    let mut promote = change();
    promote.fields.user_type = Some(Some("manager".into()));
    let promoted = subject.apply(id, &promote).await;
    let mut expected = before.info.clone();
    expected.user_type = Some("manager".into());
    expected.version = 1;
    assert_eq!(promoted.info, expected);

    let mut empty = change();
    empty.fields.full_name = Some(None);
    empty.fields.user_type = Some(None);
    empty.fields.idle_timeout = Some(None);
    empty.fields.ends_at = Some(None);
    subject.apply(id, &empty).await;
    let emptied = subject.record(id, NOW).await;
    let info = &emptied.info;
    assert_eq!((&info.full_name, &info.user_type, info.idle_timeout, info.ends_at), (&None, &None, None, None));

    let mut fill = change();
    fill.fields.full_name = Some(Some("Anna B.".into()));
    fill.fields.idle_timeout = Some(Some(Duration::from_millis(1)));
    fill.fields.ends_at = Some(Some(at(9)));
    subject.apply(id, &fill).await;
    let filled = subject.record(id, NOW).await;
    assert_eq!(filled.info.full_name.as_deref(), Some("Anna B."));
    assert_eq!((filled.info.idle_timeout, filled.info.ends_at), (Some(Duration::from_millis(1)), Some(at(9))));
    assert_eq!(filled.secrets, before.secrets, "changes leave secrets alone");
}

pub(super) async fn i11_a_change_that_is_too_large_leaves_nothing(subject: &Subject) {
    let id = subject.begin(anonymous().data("kept", "\"k\"").data("going", "1")).await;
    let before = subject.record(id, NOW).await;

    let mut change = set("large", &format!("\"{}\"", "x".repeat(200)));
    change.set("small", json("1"));
    change.remove("going");
    change.fields.user_type = Some(Some("clerk".into()));
    change.max_data_bytes = 100;
    match subject.update(id, &change, NOW).await {
        // "kept", "large" and "small" with their values.
        Updated::TooLarge(size) => assert_eq!(size, 4 + 3 + 5 + 202 + 5 + 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(subject.record(id, NOW).await, before);
    assert_eq!(subject.events_of(id).await.len(), 1, "what did not happen is not in the log");

    // It was not applied, so its id is not remembered either.
    change.max_data_bytes = 224;
    assert_eq!(subject.apply(id, &change).await.data.len(), 3);
}

pub(super) async fn i11_exactly_the_limit_fits_and_what_is_over_it_may_shrink(subject: &Subject) {
    let id = subject.begin(anonymous()).await;
    // Bytes count, not characters: ключ has eight, "é" four with its quotes.
    let mut exact = set("ключ", "\"é\"");
    exact.max_data_bytes = 11;
    assert!(matches!(subject.update(id, &exact, NOW).await, Updated::TooLarge(12)));
    exact.max_data_bytes = 12;
    subject.apply(id, &exact).await;

    let limited = |key, text| Change { max_data_bytes: 5, ..set(key, text) };
    assert_eq!(subject.apply(id, &limited("ключ", "1")).await.data.size(), 9, "still over 5, but less than before");
    assert!(matches!(subject.update(id, &limited("ключ", "12"), NOW).await, Updated::TooLarge(10)));
    assert_eq!(subject.apply(id, &limited("ключ", "2")).await.data.size(), 9, "the same size is no growth");
}
