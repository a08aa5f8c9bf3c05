//! What one caller sees.

use std::{sync::Arc, time::Duration};

#[allow(clippy::wildcard_imports, reason = "the vocabulary of every check")]
use super::fixtures::*;
use crate::{
    audit::Event,
    clock::Timestamp,
    ended::Reason,
    lease::Lease,
    record::{Acting, Extra},
    store::{
        LastSignIn,
        slots::{
            Ask, Committed, DataChange, Expect, Found, KEPT_IDS, Outcome, SeenAt, Slot, Transaction, UserSlot, Write,
        },
    },
    token::{Digest, SessionId},
};

pub(super) async fn what_is_created_is_read_back(store: Shared) {
    let mut full = with(
        record(&store, Some("ann\u{e9}")),
        &[
            ("a.b", "-0.0"),
            ("$[0]", "18446744073709551615"),
            ("zero", r#""\u0000""#),
            ("ключ", r#"{"b":1e400,"a":[]}"#),
        ],
    );
    full.info.full_name = Some("A 'B' \"C\" \\".into());
    full.info.idle_timeout = Some(Duration::from_millis(1234));
    full.info.ends_at = Some(at(99_999));
    full.info.client.ip = Some("2001:db8::1".parse().unwrap());
    full.info.client.device = Some("Phone \u{202e}x".into());
    full.lease = Lease { number: 3, until: at(5) };
    full.user_epoch = 7;
    let id = create(&store, full.clone()).await;
    let found = open(&store, id).await;
    full.recent_changes = found.recent_changes.clone();
    assert_eq!(*found, full);
    assert_eq!(slot(&store, SessionId::generate(id.partition()).unwrap()).await, None);

    let Found::Session(Some(Slot::Open(head))) = read(&store, Ask::Head(id)).await else { panic!() };
    assert!(head.data.is_empty() || store.peek(id).is_some());
    assert_eq!((head.info.clone(), head.secrets.clone(), head.revision), (full.info, full.secrets, full.revision));
}

pub(super) async fn a_taken_slot_is_not_created_again(store: Shared) {
    let first = record(&store, None);
    let creation = tx(vec![], vec![Write::Create(Arc::new(first.clone()))]);
    committed(commit(&store, creation.clone()).await);
    committed(commit(&store, set_live(first.info.id, "k", "1")).await);
    conflicts(&commit(&store, tx(vec![], vec![Write::Create(Arc::new(first.clone()))])).await);
    committed(try_commit(&store, creation.clone(), true).await.unwrap());
    assert_eq!(value(&*open(&store, first.info.id).await, "k").unwrap(), "1");

    committed(commit(&store, tx(vec![], vec![ending(&first, NOW)])).await);
    committed(try_commit(&store, creation, true).await.unwrap());
    assert!(matches!(slot(&store, first.info.id).await, Some(Slot::Ended(_))), "nothing brings it back");
    conflicts(&commit(&store, tx(vec![Expect::Empty(first.info.id)], vec![])).await);
}

pub(super) async fn data_is_merged_and_answered_as_the_caller_knows_it(store: Shared) {
    let id = create(&store, with(record(&store, None), &[("a", "1"), ("b", "2")])).await;
    let before = open(&store, id).await;
    let write = |key, value, known| tx(vec![Expect::Live(id)], vec![data(id, set(key, value), known)]);
    let answers = committed(commit(&store, write("a", "11", Some(known(&before)))).await);
    match &answers[..] {
        [Committed::AsKnown { seen }] => assert_eq!(*seen, NOW),
        // More than is needed.
        [Committed::Record(record)] => {
            assert_eq!((record.info.version, value(record, "a").as_deref()), (1, Some("11")));
        }
        answers => panic!("{answers:?}"),
    }
    // The version has moved on: the answer holds all of it.
    let answers = committed(commit(&store, write("c", "3", Some(known(&before)))).await);
    let [Committed::Record(record)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(record.info.version, 2);
    for (key, wanted) in [("a", "11"), ("b", "2"), ("c", "3")] {
        assert_eq!(value(record, key).as_deref(), Some(wanted));
    }
    // So it does where only the head has moved on.
    let now = open(&store, id).await;
    let head = next_head(&now, |record| record.info.user_type = Some("x".into()));
    committed(commit(&store, tx(vec![Expect::Head(id, now.revision)], vec![Write::Head(head)])).await);
    let answers = committed(commit(&store, write("a", "12", Some(known(&now)))).await);
    let [Committed::Record(record)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((record.info.user_type.as_deref(), value(record, "a").as_deref()), (Some("x"), Some("12")));
    // And where the caller knows nothing.
    let answers = committed(commit(&store, write("a", "13", None)).await);
    let [Committed::Record(record)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((record.info.version, value(record, "a").as_deref()), (4, Some("13")));
}

pub(super) async fn removal_comes_before_setting(store: Shared) {
    let id = create(&store, with(record(&store, None), &[("a", "1"), ("b", "2"), ("c", "3")])).await;
    let change = DataChange {
        remove: ["a".into(), "missing".into()].into(),
        set: [("a".into(), json("9")), ("d".into(), json("4"))].into(),
        ..DataChange::default()
    };
    committed(commit(&store, tx(vec![Expect::Live(id)], vec![data(id, change, None)])).await);
    let now = open(&store, id).await;
    assert_eq!((value(&now, "a").unwrap(), value(&now, "d").unwrap(), now.data.len()), ("9".into(), "4".into(), 4));
    let change = DataChange { remove_all: true, ..set("b", "5") };
    committed(commit(&store, tx(vec![Expect::Live(id)], vec![data(id, change, None)])).await);
    let now = open(&store, id).await;
    assert_eq!((value(&now, "b").unwrap(), now.data.len()), ("5".into(), 1));
    let change = DataChange { remove_all: true, ..DataChange::default() };
    committed(commit(&store, tx(vec![Expect::Live(id)], vec![data(id, change, None)])).await);
    let now = open(&store, id).await;
    assert_eq!((now.data.len(), now.info.version), (0, 3));
}

pub(super) async fn values_relied_on_are_compared_byte_for_byte(store: Shared) {
    let id = create(&store, with(record(&store, None), &[("a", "1.0"), ("n", "null"), ("s", r#""u ""#)])).await;
    let relying = |key: &str, value: Option<&str>| {
        let expect = Expect::Value(id, key.into(), value.map(json));
        tx(vec![Expect::Live(id), expect], vec![data(id, set("x", "1"), None)])
    };
    for (key, wrong) in [
        ("a", Some("1")),
        ("a", Some("1.00")),
        ("a", None),
        ("n", None),
        ("missing", Some("null")),
        ("s", Some(r#""u""#)),
        ("S", Some(r#""u ""#)),
    ] {
        let Outcome::Conflict(Some(Slot::Open(shown))) = commit(&store, relying(key, wrong)).await else {
            panic!("{key} {wrong:?}")
        };
        assert_eq!(value(&shown, "a").as_deref(), Some("1.0"), "a conflict shows the slot");
    }
    for (key, right) in [("a", Some("1.0")), ("n", Some("null")), ("missing", None), ("s", Some(r#""u ""#))] {
        committed(commit(&store, relying(key, right)).await);
    }
    assert_eq!(open(&store, id).await.info.version, 4);
    let version = |version| tx(vec![Expect::Version(id, version)], vec![data(id, set("y", "1"), None)]);
    conflicts(&commit(&store, version(3)).await);
    committed(commit(&store, version(4)).await);
}

pub(super) async fn the_size_limit_is_exact(store: Shared) {
    let id = create(&store, with(record(&store, None), &[("kk", "1234")])).await; // 6 bytes
    let at_most =
        |limit, change| tx(vec![Expect::Live(id), Expect::DataAtMost(id, limit)], vec![data(id, change, None)]);
    conflicts(&commit(&store, at_most(9, set("ü", "12"))).await); // 6 + 4
    committed(commit(&store, at_most(10, set("ü", "12"))).await);
    conflicts(&commit(&store, at_most(10, set("ü", "123"))).await);
    committed(commit(&store, at_most(5, set("ü", "9"))).await); // over the limit, and smaller: 9
    conflicts(&commit(&store, at_most(5, set("ü", "19"))).await);
    committed(commit(&store, at_most(5, set("ü", "8"))).await); // the same
    let change = DataChange { remove: ["kk".into()].into(), ..set("v", "1234") };
    committed(commit(&store, at_most(8, change)).await); // 3 + 5
    conflicts(&commit(&store, at_most(8, set("w", "1"))).await);
    let all = DataChange { remove_all: true, ..set("w", "1234567") };
    committed(commit(&store, at_most(8, all)).await);
    assert_eq!(open(&store, id).await.data.size(), 8);
}

pub(super) async fn a_head_write_needs_its_revision_and_leaves_the_rest(store: Shared) {
    let id = create(&store, with(idle(record(&store, Some("anna")), 10_000), &[("a", "1")])).await;
    let before = open(&store, id).await;
    committed(commit(&store, set_live(id, "a", "2")).await);
    assert_eq!(store.touch(&[SeenAt { id, at: at(500) }], at(500)).await.unwrap(), [true]);
    // The caller's record is old in data, version and last-seen; none of it is written.
    let head = next_head(&before, |record| {
        record.lease = Lease { number: 1, until: at(9) };
        record.info.client.device = Some("other".into());
        record.info.ends_at = Some(at(77_000));
    });
    let write = |relies_on| tx(vec![Expect::Live(id), Expect::Head(id, relies_on)], vec![Write::Head(head.clone())]);
    conflicts(&commit(&store, write(before.revision ^ 1)).await);
    committed(commit(&store, write(before.revision)).await);
    let now = open(&store, id).await;
    assert_eq!((now.info.version, now.info.last_seen_at, value(&now, "a").unwrap()), (1, at(500), "2".into()));
    assert_eq!((now.revision, now.lease.number, now.info.ends_at), (head.revision, 1, Some(at(77_000))));
    conflicts(&commit(&store, write(before.revision)).await);
    committed(try_commit(&store, write(before.revision), true).await.unwrap());
    let dead = tx_at(at(77_000), vec![Expect::Live(id)], vec![data(id, set("a", "3"), None)]);
    conflicts(&commit(&store, dead).await);
    let other = next_head(&now, |_| {});
    committed(commit(&store, tx_at(at(77_000), vec![Expect::Head(id, now.revision)], vec![Write::Head(other)])).await);
}

pub(super) async fn fields_of_a_newer_version_are_kept(store: Shared) {
    let mut newer = record(&store, Some("anna"));
    let unknown = [("binding".to_owned(), serde_json::json!({"key": [1, 2]}))].into();
    newer.extra = Some(Box::new(Extra { unknown, ..Extra::default() }));
    let id = create(&store, newer.clone()).await;
    let found = open(&store, id).await;
    assert_eq!(found.extra, newer.extra);
    let older = next_head(&found, |record| record.info.full_name = Some("Anna".into()));
    committed(commit(&store, tx(vec![Expect::Head(id, found.revision)], vec![Write::Head(older)])).await);
    committed(commit(&store, set_live(id, "a", "1")).await);
    let found = open(&store, id).await;
    assert_eq!((found.extra.clone(), found.info.full_name.as_deref()), (newer.extra.clone(), Some("Anna")));
    committed(commit(&store, tx(vec![], vec![ending(&found, NOW)])).await);
    let Some(Slot::Ended(ended)) = slot(&store, id).await else { panic!() };
    assert_eq!(ended.record.extra, newer.extra);
}

pub(super) async fn an_ending_is_final(store: Shared) {
    let mut start = with(idle(record(&store, Some("anna")), 1000), &[("a", "1")]);
    start.idempotency = Some(Digest::from_bytes([9; Digest::LEN]));
    let id = create(&store, start).await;
    assert_eq!(store.touch(&[SeenAt { id, at: at(10) }], at(10)).await.unwrap(), [true]);
    let before = open(&store, id).await;
    let end = Transaction {
        log: vec![entry(&before, Event::Ended)],
        ..tx(vec![Expect::Live(id)], vec![ending(&before, at(20))])
    };
    committed(commit(&store, end.clone()).await);
    let Some(Slot::Ended(ended)) = slot(&store, id).await else { panic!("it ended") };
    assert_eq!(
        (ended.ended.reason, ended.ended.by.as_deref(), ended.ended.at),
        (Reason::RevokedByAdmin, Some("root"), at(20))
    );
    assert_eq!((&ended.record.secrets, ended.record.info.last_seen_at), (&before.secrets, at(10)));
    assert_eq!((ended.transaction, ended.record.data.len()), (end.id, 0));
    assert!(heads(&store, "anna").await.is_empty());
    let digest = Digest::from_bytes([9; Digest::LEN]);
    assert_eq!(read(&store, Ask::Try(id.partition(), digest)).await, Found::Try(None));
    // Nothing writes into it, and the second ending changes nothing.
    let head = next_head(&before, |_| {});
    for late in [
        tx(vec![Expect::Live(id)], vec![data(id, set("a", "2"), None)]),
        tx(vec![], vec![data(id, set("a", "2"), None)]),
        tx(vec![Expect::Head(id, before.revision)], vec![Write::Head(head)]),
        tx(vec![Expect::NotSeenSince(id, at(10))], vec![ending(&before, at(30))]),
        tx(vec![], vec![ending(&before, at(30))]),
        tx(vec![Expect::Version(id, before.info.version)], vec![]),
        tx(vec![Expect::Head(id, before.revision)], vec![Write::Due(id, None)]),
    ] {
        let Outcome::Conflict(shown) = commit(&store, late).await else { panic!("written into an ended slot") };
        assert!(matches!(shown, None | Some(Slot::Ended(_))), "{shown:?}");
    }
    assert_eq!(store.touch(&[SeenAt { id, at: at(40) }], at(40)).await.unwrap(), [false]);
    committed(try_commit(&store, end, true).await.unwrap());
    let Some(Slot::Ended(again)) = slot(&store, id).await else { panic!("it ended") };
    assert_eq!(again, ended);
    assert_eq!(log(&store, id).await.len(), 1);
    let nothing = SessionId::generate(id.partition()).unwrap();
    conflicts(&commit(&store, set_live(nothing, "a", "1")).await);
    assert_eq!(slot(&store, nothing).await, None, "nothing but a creation makes a session");
}

pub(super) async fn a_conflict_leaves_nothing(store: Shared) {
    let (one, other) = (record(&store, Some("anna")), record(&store, Some("anna")));
    let (one_id, other_id) = (create(&store, one.clone()).await, create(&store, other.clone()).await);
    let fresh = record(&store, Some("anna"));
    let log_entries = vec![entry(&one, Event::Changed), entry(&fresh, Event::SignedIn)];
    let writes = || {
        vec![
            Write::Create(Arc::new(fresh.clone())),
            ending(&one, NOW),
            data(other_id, set("a", "1"), None),
            Write::User("anna".into(), Some(user_slot("settled"))),
        ]
    };
    for wrong in [Expect::Version(other_id, 9), Expect::User("anna".into(), 5), Expect::Count("anna".into(), 1)] {
        let relies_on = vec![Expect::Live(one_id), wrong, Expect::User("anna".into(), 0)];
        conflicts(&commit(&store, Transaction { log: log_entries.clone(), ..tx(relies_on, writes()) }).await);
    }
    assert_eq!(open(&store, one_id).await.info.version, 0);
    assert_eq!(open(&store, other_id).await.info.version, 0);
    assert_eq!((slot(&store, fresh.info.id).await, user(&store, "anna").await), (None, None));
    assert!(log(&store, one_id).await.is_empty() && log(&store, fresh.info.id).await.is_empty());
    let relies_on = vec![Expect::Count("anna".into(), 2), Expect::User("anna".into(), 0)];
    committed(commit(&store, Transaction { log: log_entries, ..tx(relies_on, writes()) }).await);
    assert_eq!(heads(&store, "anna").await.len(), 2);
    assert_eq!(value(&*open(&store, other_id).await, "a").unwrap(), "1");
    assert_eq!((log(&store, one_id).await.len(), log(&store, fresh.info.id).await.len()), (1, 1));
}

pub(super) async fn what_is_sent_again_is_applied_once(store: Shared) {
    let id = create(&store, record(&store, None)).await;
    // Sent again before it ever arrived.
    let first = set_live(id, "k", "0");
    committed(try_commit(&store, first.clone(), true).await.unwrap());
    assert_eq!(open(&store, id).await.info.version, 1);
    for n in 1..KEPT_IDS {
        committed(commit(&store, set_live(id, &format!("k{n}"), "1")).await);
    }
    committed(try_commit(&store, first.clone(), true).await.expect("it is among the latest"));
    assert_eq!(open(&store, id).await.info.version, KEPT_IDS as u64, "it was not applied twice");
    // Far behind: it may be recognised, or the answer is that nobody can tell.
    let mut late = set_live(id, "k", "9");
    let base = open(&store, id).await;
    late.writes = vec![data(id, set("k", "9"), Some(known(&base)))];
    committed(commit(&store, late.clone()).await);
    for n in 0..200 {
        committed(commit(&store, set_live(id, &format!("n{}", n % 7), "1")).await);
    }
    let version = open(&store, id).await.info.version;
    match try_commit(&store, late, true).await {
        Ok(outcome) => drop(committed(outcome)),
        Err(error) => assert!(matches!(error, crate::error::Error::OutcomeUnknown { .. }), "{error:?}"),
    }
    assert_eq!(open(&store, id).await.info.version, version, "it was not applied twice");
}

pub(super) async fn transactions_travel_together_and_answer_each(store: Shared) {
    let (a, b) = (create(&store, record(&store, None)).await, create(&store, record(&store, None)).await);
    let fresh = record(&store, Some("ben"));
    let together = [
        set_live(a, "x", "1"),
        tx(vec![Expect::Version(b, 7)], vec![data(b, set("x", "9"), None)]),
        set_live(a, "y", "2"),
        tx(vec![], vec![Write::Create(Arc::new(fresh.clone()))]),
        set_live(b, "z", "3"),
    ];
    let outcomes = store.commit(&together, false).await.unwrap();
    let done: Vec<_> = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Committed(_))).collect();
    assert_eq!(done, [true, false, true, true, true]);
    let a = open(&store, a).await;
    assert_eq!((a.info.version, value(&a, "x"), value(&a, "y")), (2, Some("1".into()), Some("2".into())));
    let b = open(&store, b).await;
    assert_eq!((b.info.version, value(&b, "x"), value(&b, "z")), (1, None, Some("3".into())));
    open(&store, fresh.info.id).await;
    assert!(store.commit(&[], false).await.unwrap().is_empty());
}

pub(super) async fn a_users_slot_needs_its_revision(store: Shared) {
    let put =
        |relies_on, slot| tx(vec![Expect::User("ann é".into(), relies_on)], vec![Write::User("ann é".into(), slot)]);
    let first = user_slot("{\"a\":\"\\u0000 'x'\"}");
    conflicts(&commit(&store, put(5, Some(first.clone()))).await);
    committed(commit(&store, put(0, Some(first.clone()))).await);
    assert_eq!(user(&store, "ann é").await, Some(first.clone()));
    for other in ["ann e", "ANN É", "ann é ", "ann"] {
        assert_eq!(user(&store, other).await, None, "users are compared byte for byte");
    }
    let second = user_slot("two");
    conflicts(&commit(&store, put(0, Some(second.clone()))).await);
    committed(commit(&store, put(first.revision, Some(second.clone()))).await);
    committed(try_commit(&store, put(first.revision, Some(second.clone())), true).await.unwrap());
    committed(commit(&store, put(second.revision, None)).await);
    assert_eq!(user(&store, "ann é").await, None);
    // Made anew: whoever relied on the slot before finds another one.
    let third = user_slot("{\"a\":\"\\u0000 'x'\"}");
    committed(commit(&store, put(0, Some(third.clone()))).await);
    conflicts(&commit(&store, put(first.revision, None)).await);
    assert_eq!(user(&store, "ann é").await, Some(third));
}

pub(super) async fn the_last_sign_in_moves_forward_only(store: Shared) {
    let stamp = |millis, ip: Option<&str>| LastSignIn { at: at(millis), ip: ip.map(|ip| ip.parse().unwrap()) };
    let sign_in = |stamp| tx(vec![], vec![Write::SignedIn("anna".into(), stamp)]);
    committed(commit(&store, sign_in(stamp(1, None))).await);
    assert_eq!(user(&store, "anna").await, None, "a sign-in makes no slot");
    let first = user_slot("x");
    committed(
        commit(&store, tx(vec![Expect::User("anna".into(), 0)], vec![Write::User("anna".into(), Some(first.clone()))]))
            .await,
    );
    for (written, wanted) in [
        (stamp(50, Some("192.0.2.1")), stamp(50, Some("192.0.2.1"))),
        (stamp(40, None), stamp(50, Some("192.0.2.1"))),
        (stamp(50, Some("2001:db8::2")), stamp(50, Some("2001:db8::2"))),
        (stamp(60, None), stamp(60, None)),
    ] {
        committed(commit(&store, sign_in(written)).await);
        let now = user(&store, "anna").await.unwrap();
        assert_eq!((now.last_sign_in, now.revision, now.text), (Some(wanted), first.revision, "x".into()));
    }
    let mut relied_on = first.revision;
    for (written, wanted, what) in [
        (Some(stamp(30, None)), Some(stamp(60, None)), "an earlier one is left out"),
        (Some(stamp(70, None)), Some(stamp(70, None)), "a later one stays"),
        (None, None, "none forgets it"),
        (Some(stamp(20, None)), Some(stamp(20, None)), "what was forgotten is no later one"),
    ] {
        let slot = UserSlot { last_sign_in: written, ..user_slot("y") };
        let put = Write::User("anna".into(), Some(slot.clone()));
        committed(commit(&store, tx(vec![Expect::User("anna".into(), relied_on)], vec![put])).await);
        relied_on = slot.revision;
        assert_eq!(user(&store, "anna").await.unwrap().last_sign_in, wanted, "{what}");
    }
}

pub(super) async fn only_own_living_sessions_count(store: Shared) {
    let counts = |now, count| tx_at(now, vec![Expect::Count("anna".into(), count)], vec![]);
    committed(commit(&store, counts(NOW, 0)).await);
    let kept = create(&store, record(&store, Some("anna"))).await;
    create(&store, idle(record(&store, Some("anna")), 100)).await;
    let mut ends = record(&store, Some("anna"));
    ends.info.ends_at = Some(at(200));
    create(&store, ends).await;
    let mut impersonated = record(&store, Some("anna"));
    impersonated.info.acting = Some(Acting { by: "root".into(), returns_to: None });
    create(&store, impersonated).await;
    create(&store, record(&store, Some("ann"))).await;
    for (now, count) in [(NOW, 3), (at(99), 3), (at(100), 2), (at(199), 2), (at(200), 1)] {
        conflicts(&commit(&store, counts(now, count + 1)).await);
        conflicts(&commit(&store, counts(now, count - 1)).await);
        committed(commit(&store, counts(now, count)).await);
    }
    let gone = open(&store, kept).await;
    committed(commit(&store, tx(vec![Expect::Count("anna".into(), 3)], vec![ending(&gone, NOW)])).await);
    committed(commit(&store, counts(NOW, 2)).await);
}

pub(super) async fn an_idempotency_key_leads_to_its_session(store: Shared) {
    let (key, other) = (Digest::from_bytes([1; Digest::LEN]), Digest::from_bytes([2; Digest::LEN]));
    let mut start = record(&store, Some("anna"));
    start.idempotency = Some(key);
    let (id, partition) = (start.info.id, start.info.id.partition());
    let relying = |key, on| tx(vec![Expect::Try(partition, key, on)], vec![]);
    committed(commit(&store, relying(key, None)).await);
    create(&store, start).await;
    conflicts(&commit(&store, relying(key, None)).await);
    committed(commit(&store, relying(key, Some(id))).await);
    conflicts(&commit(&store, relying(other, Some(id))).await);
    assert_eq!(read(&store, Ask::Try(partition, key)).await, Found::Try(Some(id)));
    assert_eq!(read(&store, Ask::Try(partition, other)).await, Found::Try(None));
}

pub(super) async fn what_was_used_since_is_not_ended(store: Shared) {
    let id = create(&store, idle(record(&store, Some("anna")), 100)).await;
    let seen = open(&store, id).await;
    assert_eq!(store.touch(&[SeenAt { id, at: at(50) }], at(50)).await.unwrap(), [true]);
    let expire = |since| {
        tx_at(
            at(150),
            vec![Expect::Head(id, seen.revision), Expect::NotSeenSince(id, since)],
            vec![ending(&seen, at(150))],
        )
    };
    conflicts(&commit(&store, expire(NOW)).await);
    assert_eq!(open(&store, id).await.info.last_seen_at, at(50));
    committed(commit(&store, expire(at(50))).await);
}

pub(super) async fn touches_only_move_forward_and_revive_nothing(store: Shared) {
    let id = create(&store, idle(record(&store, None), 100)).await;
    let other = create(&store, record(&store, Some("ben"))).await;
    let unknown = SessionId::generate(id.partition()).unwrap();
    let touch = |id, millis| SeenAt { id, at: at(millis) };
    let answers = store.touch(&[touch(id, 50), touch(unknown, 50), touch(other, 60)], at(60)).await.unwrap();
    assert_eq!(answers, [true, false, true]);
    assert_eq!(store.touch(&[touch(id, 40)], at(60)).await.unwrap(), [true], "it lives; an older time changes nothing");
    assert_eq!(open(&store, id).await.info.last_seen_at, at(50));
    // Used in time, told too late: at 150 others may have counted it as dead.
    assert_eq!(store.touch(&[touch(id, 149)], at(150)).await.unwrap(), [false]);
    let now = open(&store, id).await;
    assert_eq!((now.info.last_seen_at, now.info.version), (at(50), 0));
    // What else is written does not move it back.
    let early = next_head(&now, |record| record.info.last_seen_at = NOW);
    committed(commit(&store, tx(vec![Expect::Head(id, now.revision)], vec![Write::Head(early)])).await);
    committed(commit(&store, set_live(id, "a", "1")).await);
    assert_eq!(open(&store, id).await.info.last_seen_at, at(50));
    assert!(store.touch(&[], NOW).await.unwrap().is_empty());
}

pub(super) async fn an_import_takes_the_place_of_what_is_there(store: Shared) {
    let mut moved = with(idle(record(&store, Some("anna")), 500), &[("a", "1")]);
    (moved.info.version, moved.info.last_seen_at) = (41, at(17));
    let id = moved.info.id;
    let import = |slot| tx(vec![], vec![Write::Import(slot)]);
    committed(commit(&store, import(Slot::Open(Arc::new(moved.clone())))).await);
    let found = open(&store, id).await;
    assert_eq!((found.info.version, found.info.last_seen_at, value(&found, "a").unwrap()), (41, at(17), "1".into()));
    assert_eq!(heads(&store, "anna").await.len(), 1);
    let mut newer = with(moved.clone(), &[("b", "2")]);
    newer.data.remove("a");
    newer.info.version = 42;
    committed(commit(&store, import(Slot::Open(Arc::new(newer)))).await);
    let found = open(&store, id).await;
    assert_eq!((found.info.version, value(&found, "a"), value(&found, "b")), (42, None, Some("2".into())));
    committed(commit(&store, tx(vec![], vec![ending(&found, at(18))])).await);
    let Some(ended) = slot(&store, id).await else { panic!() };
    let mut elsewhere = record(&store, Some("ben"));
    elsewhere.info.created_at = Timestamp::EPOCH;
    let Slot::Ended(tombstone) = &ended else { panic!() };
    let mut other = (**tombstone).clone();
    other.record = Arc::new(elsewhere.clone());
    other.ended.id = elsewhere.info.id;
    other.ended.user = Some("ben".into());
    committed(commit(&store, import(Slot::Ended(Arc::new(other.clone())))).await);
    assert_eq!(slot(&store, elsewhere.info.id).await, Some(Slot::Ended(Arc::new(other))));
    assert!(heads(&store, "ben").await.is_empty());
}
