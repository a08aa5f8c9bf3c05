//! Lists, the log, and forgetting.

use std::{collections::BTreeSet, sync::Arc};

#[allow(clippy::wildcard_imports, reason = "the vocabulary of every check")]
use super::fixtures::*;
use crate::{
    audit::{AuditEntry, Event},
    clock::Timestamp,
    store::{
        AuditQuery, Cursor, Query,
        slots::{Expect, Forget, List, Listed, LogEntry, SeenAt, Slot, Transaction, Write},
    },
    token::SessionId,
};

pub(super) async fn a_users_list_is_newest_first(store: Shared) {
    let mut wanted = Vec::new();
    for millis in [30, 10, 20, 10, 40] {
        let mut start = record(&store, Some("anna"));
        start.info.created_at = at(millis);
        wanted.push((at(millis), create(&store, start).await));
    }
    create(&store, record(&store, Some("ben"))).await;
    wanted.sort_unstable_by(|a, b| b.cmp(a));
    let gone = wanted.remove(1).1;
    let record = open(&store, gone).await;
    committed(commit(&store, tx(vec![], vec![ending(&record, NOW)])).await);
    let wanted: Vec<_> = wanted.into_iter().map(|(_, id)| id).collect();
    let found: Vec<_> = heads(&store, "anna").await.iter().map(|record| record.info.id).collect();
    assert_eq!(found, wanted);
    for limit in [1, 2, 100] {
        assert_eq!(listed_ids(&store, &List::Sessions(Query::of_user("anna"), NOW), limit).await, wanted);
    }
    assert!(heads(&store, "Anna").await.is_empty());
}

pub(super) async fn queries_match_in_pages_of_any_size(store: Shared) {
    let mut all = BTreeSet::new();
    for n in 0..12_u8 {
        let mut start = record(&store, (n % 3 > 0).then_some("anna"));
        start.info.client.ip = Some([192, 0, 2, n % 2].into());
        start.info.client.device = (n % 4 == 0).then(|| "Phone".into());
        start.info.ends_at = (n == 11).then(|| at(10));
        all.insert((create(&store, start).await, n));
    }
    let ids = |matches: &dyn Fn(u8) -> bool| -> BTreeSet<SessionId> {
        all.iter().filter(|(_, n)| matches(*n)).map(|(id, _)| *id).collect()
    };
    let ip = Query { ip: Some([192, 0, 2, 1].into()), ..Query::default() };
    let device = Query { device: Some("Phone".into()), ..Query::default() };
    let both = Query { user: Some("anna".into()), ..device.clone() };
    for limit in [1, 5, 100] {
        for (query, now, wanted) in [
            (Query::default(), NOW, ids(&|_| true)),
            (Query::default(), at(10), ids(&|n| n != 11)),
            (ip.clone(), at(9), ids(&|n| n % 2 == 1)),
            (ip.clone(), at(10), ids(&|n| n % 2 == 1 && n != 11)),
            (device.clone(), NOW, ids(&|n| n % 4 == 0)),
            (both.clone(), NOW, ids(&|n| n % 4 == 0 && n % 3 > 0)),
        ] {
            let found = listed_ids(&store, &List::Sessions(query.clone(), now), limit).await;
            assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), wanted, "{query:?} in pages of {limit}");
            assert_eq!(found.len(), wanted.len(), "none twice");
        }
    }
    let foreign = Cursor::new("§not one of ours§");
    for what in [List::Sessions(Query::default(), NOW), List::Everything, List::Users, List::Due(NOW)] {
        let error = store.list(&what, Some(&foreign), 5).await.expect_err("a cursor of another store");
        assert!(matches!(error, crate::error::Error::InvalidCursor { .. }), "{error:?}");
    }
}

pub(super) async fn what_is_due_is_listed_until_it_is_moved(store: Shared) {
    let soon = create(&store, idle(record(&store, Some("anna")), 100)).await;
    let later = create(&store, idle(record(&store, None), 200)).await;
    create(&store, record(&store, None)).await;
    let due = |millis| List::Due(at(millis));
    let ids = |found: Vec<SessionId>| found.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(ids(listed_ids(&store, &due(99), 10).await), BTreeSet::new());
    assert_eq!(ids(listed_ids(&store, &due(100), 10).await), [soon].into());
    assert_eq!(ids(listed_ids(&store, &due(500), 1).await), [soon, later].into());
    // A touch need not move it: it is a lower bound. The reaper does.
    assert_eq!(store.touch(&[SeenAt { id: soon, at: at(90) }], at(90)).await.unwrap(), [true]);
    let head = open(&store, soon).await;
    let moved = |revision, due| tx(vec![Expect::Head(soon, revision)], vec![Write::Due(soon, due)]);
    conflicts(&commit(&store, moved(head.revision ^ 1, None)).await);
    committed(commit(&store, moved(head.revision, Some(at(190)))).await);
    assert_eq!(ids(listed_ids(&store, &due(189), 10).await), BTreeSet::new());
    assert_eq!(ids(listed_ids(&store, &due(190), 10).await), [soon].into());
    // A head write brings its own.
    let shorter = next_head(&head, |record| record.info.ends_at = Some(at(120)));
    committed(commit(&store, tx(vec![Expect::Head(soon, head.revision)], vec![Write::Head(shorter)])).await);
    assert_eq!(ids(listed_ids(&store, &due(120), 10).await), [soon].into());
    let head = open(&store, soon).await;
    committed(commit(&store, tx(vec![], vec![ending(&head, at(120))])).await);
    assert_eq!(ids(listed_ids(&store, &due(1000), 10).await), [later].into());
}

pub(super) async fn users_are_listed(store: Shared) {
    let mut wanted = BTreeSet::new();
    for n in 0..7 {
        let name = format!("user {n}");
        let mut slot = user_slot("{}");
        slot.due_at = (n % 2 == 0).then(|| at(n));
        let put = tx(vec![Expect::User(name.as_str().into(), 0)], vec![Write::User(name.as_str().into(), Some(slot))]);
        committed(commit(&store, put).await);
        wanted.insert(name);
    }
    let names = |items: Vec<Listed>| -> Vec<String> {
        items
            .into_iter()
            .map(|item| if let Listed::User(name, _) = item { name.to_string() } else { panic!() })
            .collect()
    };
    for limit in [1, 3, 50] {
        let found = names(listed(&store, &List::Users, limit).await);
        assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (7, wanted.clone()));
    }
    let due = names(listed(&store, &List::DueUsers(at(3)), 50).await);
    assert_eq!(due.into_iter().collect::<BTreeSet<_>>(), ["user 0".to_owned(), "user 2".to_owned()].into());
}

pub(super) async fn everything_comes_out_once(store: Shared) {
    let mut wanted = BTreeSet::new();
    for n in 0..10 {
        let id = create(&store, with(record(&store, Some("anna")), &[("n", &n.to_string())])).await;
        if n % 3 == 0 {
            let record = open(&store, id).await;
            committed(commit(&store, tx(vec![], vec![ending(&record, NOW)])).await);
        }
        wanted.insert((id, n % 3 == 0));
    }
    for limit in [1, 4, 100] {
        let found = listed(&store, &List::Everything, limit).await;
        assert_eq!(found.len(), 10);
        let found: BTreeSet<_> = found
            .into_iter()
            .map(|item| match item {
                Listed::Session(Slot::Open(record)) => {
                    assert!(record.data.get("n").is_some(), "with data");
                    (record.info.id, false)
                }
                Listed::Session(Slot::Ended(ended)) => (ended.ended.id, true),
                Listed::User(..) | Listed::Damaged(..) => panic!(),
            })
            .collect();
        assert_eq!(found, wanted);
    }
}

pub(super) async fn what_is_old_is_forgotten(store: Shared) {
    let mut ids = Vec::new();
    for n in 0..5 {
        let id = create(&store, record(&store, Some("anna"))).await;
        let record = open(&store, id).await;
        let log = vec![LogEntry { id: random(), entry: AuditEntry::about(&record.info, Event::Ended, at(n)) }];
        committed(commit(&store, Transaction { log, ..tx(vec![], vec![ending(&record, at(n))]) }).await);
        ids.push(id);
    }
    let living = create(&store, idle(record(&store, Some("anna")), 1)).await;
    let forget = |millis, limit| Forget { ended_before: at(millis), audit_before: at(millis), limit };
    while store.forget(&forget(2, 1)).await.unwrap() {}
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(slot(&store, *id).await.is_some(), n > 2, "{n}");
        assert_eq!(log(&store, *id).await.len(), usize::from(n > 2), "{n}");
    }
    while store.forget(&forget(10_000, 100)).await.unwrap() {}
    assert!(slot(&store, ids[4]).await.is_none());
    open(&store, living).await;
}

pub(super) async fn the_log_keeps_its_order(store: Shared) {
    let records: Vec<_> = (0..3).map(|_| Arc::new(record(&store, Some("anna")))).collect();
    for n in 0..12 {
        let about = &records[n % 3];
        let mut logged = entry(about, Event::Changed);
        logged.entry.at = Timestamp::from_millis(NOW.as_millis() - i64::try_from(n).unwrap());
        logged.entry.note = Some(format!("note {n} 'é'").into());
        committed(commit(&store, Transaction { log: vec![logged], ..tx(vec![], vec![]) }).await);
    }
    for (which, about) in records.iter().enumerate() {
        let notes: Vec<_> =
            log(&store, about.info.id).await.into_iter().map(|logged| logged.entry.note.unwrap()).collect();
        let wanted: Vec<_> = (0..12).filter(|n| n % 3 == which).map(|n| format!("note {n} 'é'").into()).collect();
        assert_eq!(notes, wanted as Vec<Arc<str>>);
    }
    for limit in [1, 5, 50] {
        let (mut seen, mut after) = (BTreeSet::new(), None);
        loop {
            let page = store.audit(&AuditQuery::default(), after.as_ref(), limit).await.unwrap();
            for logged in page.items {
                assert!(seen.insert(logged.id), "once");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 12);
    }
    let of_user = AuditQuery { user: Some("ann".into()), session: None };
    assert!(store.audit(&of_user, None, 5).await.unwrap().items.is_empty());
}

pub(super) async fn an_entry_sent_again_is_logged_once(store: Shared) {
    let about = record(&store, Some("anna"));
    let refusal = Transaction { log: vec![entry(&about, Event::Refused)], ..tx(vec![], vec![]) };
    committed(commit(&store, refusal.clone()).await);
    committed(try_commit(&store, refusal.clone(), true).await.unwrap());
    let logged = log(&store, about.info.id).await;
    assert_eq!((logged.len(), logged[0].id), (1, refusal.log[0].id));
}
