//! I4 and I16: paging shows nothing twice and misses nothing.

use std::collections::HashSet;

use super::fixtures::{NOW, at};
use crate::{
    ended::Reason,
    error::Error,
    store::{AuditQuery, Cursor, Query},
    testing::Subject,
    token::SessionId,
};

pub(super) async fn i4_paging_through_a_user_stays_right_while_sessions_come_and_go(subject: &Subject) {
    page_while_sessions_come_and_go(subject, &Query::of_user("anna")).await;
}

pub(super) async fn i4_paging_through_everything_stays_right_while_sessions_come_and_go(subject: &Subject) {
    page_while_sessions_come_and_go(subject, &Query::default()).await;
}

async fn page_while_sessions_come_and_go(subject: &Subject, query: &Query) {
    let mut ids = Vec::new();
    for n in 0..30 {
        // Many start in the same millisecond.
        ids.push(subject.begin(subject.sign_in("anna").at(at(n / 10))).await);
    }
    let (mut seen, mut cursor) = (HashSet::new(), None);
    let mut gone = HashSet::new();
    for turn in 0.. {
        let page = subject.store.find(query, cursor.as_ref(), 4, at(50)).await.unwrap();
        for info in page.items {
            assert!(!gone.contains(&info.id), "an ended session is listed");
            assert!(seen.insert(info.id), "a session is shown twice");
        }
        let Some(next) = page.next else { break };
        cursor = Some(next);
        // One ends, most likely one that was just shown or comes next, and two begin, at either end.
        if let Some(id) = ids.get(29 - 3 * turn % 30) {
            subject.end(*id, Reason::SignedOut, at(50)).await;
            gone.insert(*id);
        }
        if turn < 20 {
            subject.begin(subject.sign_in("anna").at(at(40))).await;
            subject.begin(subject.sign_in("anna").at(at(-1))).await;
        }
    }
    for id in ids {
        assert!(seen.contains(&id) || gone.contains(&id), "a session that was there throughout is missing");
    }
}

pub(super) async fn i4_pages_of_any_size_show_the_same(subject: &Subject) {
    for n in 0..12 {
        subject.begin(subject.sign_in("anna").at(at(n / 3))).await;
    }
    let whole = subject.find_in_pages(&Query::of_user("anna"), 100, at(9)).await;
    assert_eq!(whole.len(), 12);
    for size in [1, 3, 4, 11, 12] {
        assert_eq!(subject.find_in_pages(&Query::of_user("anna"), size, at(9)).await, whole);
        let everywhere: HashSet<_> =
            subject.find_in_pages(&Query::default(), size, at(9)).await.into_iter().map(|info| info.id).collect();
        assert_eq!(everywhere.len(), 12);
    }
    let exact = subject.store.find(&Query::of_user("anna"), None, 12, at(9)).await.unwrap();
    assert_eq!(exact.next, None, "nothing follows");
}

pub(super) async fn i4_a_cursor_of_somebody_elses_is_an_error_that_says_so(subject: &Subject) {
    subject.begin(subject.sign_in("anna")).await;
    for text in ["", "?", "'; drop table sessions; --", "\u{0}", "ключ"] {
        let cursor = Cursor::new(text);
        for query in [Query::of_user("anna"), Query::default()] {
            let answer = subject.store.find(&query, Some(&cursor), 10, NOW).await;
            assert!(matches!(answer, Err(Error::InvalidCursor { .. })), "{text:?}: {answer:?}");
        }
        let answer = subject.store.audit(&AuditQuery::default(), Some(&cursor), 10).await;
        assert!(matches!(answer, Err(Error::InvalidCursor { .. })), "{text:?}: {answer:?}");
    }
}

pub(super) async fn i16_the_audit_log_reads_the_same_in_pages_of_any_size(subject: &Subject) {
    let mut ids: Vec<SessionId> = Vec::new();
    for n in 0..12 {
        let user = if n % 3 == 0 { "ben" } else { "anna" };
        ids.push(subject.begin(subject.sign_in(user).at(at(n))).await);
        if n % 2 == 1 {
            subject.end(ids[usize::try_from(n).unwrap() / 2], Reason::SignedOut, at(n)).await;
        }
    }
    let whole = subject.log_in_pages(&AuditQuery::default(), 100).await;
    assert_eq!(whole.len(), 18);
    let of_anna = AuditQuery { user: Some("anna".into()), session: None };
    let annas: Vec<_> = whole.iter().filter(|entry| entry.user.as_deref() == Some("anna")).cloned().collect();
    for size in [1, 4, 17, 18] {
        assert_eq!(subject.log_in_pages(&AuditQuery::default(), size).await, whole);
        assert_eq!(subject.log_in_pages(&of_anna, size).await, annas);
    }
    for id in ids {
        let of_one: Vec<_> = whole.iter().filter(|entry| entry.session == id).cloned().collect();
        assert_eq!(subject.log_of(id).await, of_one);
    }
}

pub(super) async fn i16_a_reader_goes_on_from_the_last_entry_it_saw(subject: &Subject) {
    assert!(subject.log_in_pages(&AuditQuery::default(), 10).await.is_empty());
    let mut last: Option<Cursor> = None;
    for n in 0..6 {
        let id = subject.begin(subject.sign_in("anna").at(at(n))).await;
        let entries = subject.log_after(&AuditQuery::default(), last.as_ref(), 10).await;
        assert_eq!(entries.iter().map(|logged| logged.entry.session).collect::<Vec<_>>(), [id]);
        last = entries.last().map(|logged| logged.cursor.clone());
    }
    assert!(subject.log_after(&AuditQuery::default(), last.as_ref(), 10).await.is_empty());
}
