//! I16: each call that changes something has exactly its audit entries.

use std::{net::IpAddr, time::Duration};

use super::fixtures::{GRACE, NOW, anonymous, at, change, digest, set, token_for};
use crate::{
    admission::Limit,
    audit::{AuditEntry, Event},
    ended::{Ending, Reason},
    record::Acting,
    rules::{Fence, Rotation, Which},
    store::AuditQuery,
    testing::Subject,
    token::SessionId,
};

pub(super) async fn i16_the_log_tells_a_session_from_start_to_end(subject: &Subject) {
    let ip: IpAddr = "192.0.2.7".parse().unwrap();
    let start = subject.sign_in("anna").by("gateway").with(|info| {
        info.client.ip = Some(ip);
        info.acting = Some(Acting { by: "root".into(), returns_to: None });
        info.audit_user = Some("auditor".into());
    });
    let token = start.token.clone();
    let id = subject.begin(start).await;
    let rotation = Rotation {
        presented: token.digest(),
        successor: token_for(id).digest(),
        grace: GRACE,
        at_once: false,
        by: Some("ops".into()),
    };
    subject.store.rotate(id, &rotation, at(1)).await.unwrap();
    let mut promote = change();
    promote.fields.user_type = Some(Some("manager".into()));
    subject.update(id, &promote, at(2)).await;
    subject.end(id, Ending::new(Reason::RevokedByAdmin).by("root").note("left the company"), at(3)).await;

    let about = |event, millis| AuditEntry {
        at: at(millis),
        event,
        session: id,
        user: Some("anna".into()),
        impersonated_by: Some("root".into()),
        audit_user: Some("auditor".into()),
        ip: Some(ip),
        reason: None,
        by: None,
        note: None,
    };
    let expected = [
        AuditEntry { by: Some("gateway".into()), ..about(Event::Impersonated, 0) },
        AuditEntry { by: Some("ops".into()), ..about(Event::Rotated, 1) },
        about(Event::Changed, 2),
        AuditEntry {
            reason: Some(Reason::RevokedByAdmin),
            by: Some("root".into()),
            note: Some("left the company".into()),
            ..about(Event::Ended, 3)
        },
    ];
    assert_eq!(subject.log_of(id).await, expected);
    assert_eq!(subject.log_in_pages(&AuditQuery::default(), 10).await, expected, "and there is nothing else");
}

pub(super) async fn i16_what_changes_nothing_is_not_in_the_log(subject: &Subject) {
    let start = anonymous().data("a", "1");
    let (token, id) = (start.token.clone(), subject.begin(start).await);
    subject.apply(id, &set("a", "2")).await;
    let mut rename = change();
    rename.fields.full_name = Some(Some("Anna".into()));
    subject.apply(id, &rename).await;
    let mut conflict = change();
    conflict.fields.user_type = Some(Some("manager".into()));
    conflict.if_version = Some(99);
    subject.update(id, &conflict, NOW).await;
    subject.touch(id, at(1), at(1)).await;
    subject.load(id, at(1)).await;
    subject.rotate(&token_for(id), &token, at(1)).await;
    subject.store.enable_user("anna", at(1)).await.unwrap();
    subject.reap(at(1)).await;
    assert_eq!(subject.events_of(id).await, [Event::Started]);
    assert_eq!(subject.log_in_pages(&AuditQuery::default(), 10).await.len(), 1);
}

pub(super) async fn i16_a_repeated_change_is_logged_once(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna").idle(1000)).await;
    let mut change = change();
    change.fields.idle_timeout = Some(Some(Duration::from_secs(9)));
    subject.apply(id, &change).await;
    subject.apply(id, &change).await;
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Changed]);

    change.id = change.id.wrapping_add(1);
    change.fields = crate::change::Fields { ends_at: Some(None), ..crate::change::Fields::default() };
    subject.apply(id, &change).await;
    assert_eq!(subject.events_of(id).await, [Event::SignedIn, Event::Changed, Event::Changed]);
}

pub(super) async fn i16_a_sign_in_logs_whom_it_ended_and_why(subject: &Subject) {
    let visitor = subject.begin(anonymous()).await;
    let old = subject.begin(subject.sign_in("anna").at(at(1))).await;
    let tried = subject.begin(subject.sign_in("anna").at(at(2)).idempotency(digest(1))).await;
    let start = subject.sign_in("anna").at(at(3)).limit(Limit::evict(1)).replaces(visitor).idempotency(digest(1));
    let id = subject.begin(start.by("gateway")).await;
    for (ended, reason) in [(visitor, Reason::Replaced), (old, Reason::SignedInElsewhere), (tried, Reason::Replaced)] {
        let log = subject.log_of(ended).await;
        assert_eq!((log.len(), log[1].event, log[1].reason), (2, Event::Ended, Some(reason)));
        assert_eq!((log[1].at, log[1].by.as_deref()), (at(3), Some("gateway")));
    }
    assert_eq!(subject.events_of(id).await, [Event::SignedIn]);
    assert_eq!(subject.log_in_pages(&AuditQuery::default(), 100).await.len(), 7);
}

pub(super) async fn i16_a_refusal_is_logged_with_what_was_refused(subject: &Subject) {
    subject.begin(subject.sign_in("anna")).await;
    let full = subject.sign_in("anna").limit(Limit::refuse(1)).by("gateway");
    subject.create(&full).await;
    let log = subject.log_of(full.id()).await;
    assert_eq!(log.len(), 1);
    let entry = &log[0];
    assert_eq!(
        (entry.event, entry.user.as_deref(), entry.by.as_deref()),
        (Event::Refused, Some("anna"), Some("gateway"))
    );
    assert_eq!(entry.note.as_deref(), Some("the limit of 1 sessions is reached: sign out elsewhere first"));

    let disable = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::Disabled };
    subject.store.end(&disable, &Reason::UserDisabled.into(), at(1)).await.unwrap();
    let disabled = subject.sign_in("anna").at(at(2));
    subject.create(&disabled).await;
    let log = subject.log_of(disabled.id()).await;
    assert_eq!((log.len(), log[0].note.as_deref()), (1, Some("the user is disabled")));
}

pub(super) async fn i16_what_a_start_notes_is_logged(subject: &Subject) {
    for note in ["ticket 17", "😀 it's \"noted\"; --"] {
        let mut start = subject.sign_in("anna").by("root");
        start.create.note = Some(note.into());
        let id = subject.begin(start).await;
        let log = subject.log_of(id).await;
        assert_eq!((log.len(), log[0].by.as_deref(), log[0].note.as_deref()), (1, Some("root"), Some(note)));
    }
    let mut full = subject.sign_in("anna").limit(Limit::refuse(1));
    full.create.note = Some("ticket 18".into());
    subject.create(&full).await;
    let log = subject.log_of(full.id()).await;
    let note = "the limit of 1 sessions is reached: sign out elsewhere first (ticket 18)";
    assert_eq!((log.len(), log[0].event, log[0].note.as_deref()), (1, Event::Refused, Some(note)));
}

pub(super) async fn i16_acting_as_another_is_logged_as_that(subject: &Subject) {
    let acting =
        subject.sign_in("anna").with(|info| info.acting = Some(Acting { by: "root".into(), returns_to: None }));
    let auditing = subject.sign_in("anna").with(|info| info.audit_user = Some("olga".into()));
    for (start, expected) in [(acting, Event::Impersonated), (auditing, Event::SignedIn)] {
        let info = start.create.record.info.clone();
        let id = subject.begin(start).await;
        subject.end(id, Reason::ImpersonationEnded, at(1)).await;
        let log = subject.log_of(id).await;
        assert_eq!(log.iter().map(|entry| entry.event).collect::<Vec<_>>(), [expected, Event::Ended]);
        assert!(log.iter().all(|entry| entry.impersonated_by.as_ref() == info.impersonator()));
        assert!(log.iter().all(|entry| entry.audit_user == info.audit_user));
    }
}

pub(super) async fn i16_what_is_refused_outside_the_store_is_logged(subject: &Subject) {
    let living = subject.sign_in("anna");
    let nobodys = anonymous();
    for start in [living.clone(), nobodys.clone()] {
        let mut expected = Vec::new();
        if start.id() == living.id() {
            subject.begin(start.clone()).await;
            expected.push(start.create.started(NOW));
        }
        let entry = AuditEntry {
            impersonated_by: Some("root".into()),
            audit_user: Some("olga".into()),
            ip: Some("192.0.2.7".parse().unwrap()),
            reason: Some(Reason::UserDisabled),
            by: Some("gateway".into()),
            note: Some("a forged \"token\"".into()),
            ..AuditEntry::about(&start.create.record.info, Event::Refused, at(5))
        };
        let bare = AuditEntry { user: None, ..AuditEntry::about(&start.create.record.info, Event::Refused, at(5)) };
        for entry in [entry, bare] {
            subject.store.log(&entry, at(6)).await.unwrap();
            expected.push(entry);
        }
        assert_eq!(subject.log_of(start.id()).await, expected);
    }
    let query = AuditQuery { user: Some("anna".into()), session: None };
    assert_eq!(subject.log_in_pages(&query, 10).await.len(), 2);
    assert_eq!(subject.log_in_pages(&AuditQuery::default(), 2).await.len(), 5);
    // It told of no change, and made none.
    assert_eq!(*subject.record(living.id(), at(6)).await, living.create.record);
    assert!(!subject.is_live(nobodys.id(), at(6)).await);
}

pub(super) async fn i16_ending_all_of_a_user_logs_each_of_them(subject: &Subject) {
    let mut ids: Vec<SessionId> = Vec::new();
    for n in 0..3 {
        ids.push(subject.begin(subject.sign_in("anna").at(at(n))).await);
    }
    let which = Which::OfUser { user: "anna".into(), except: vec![ids[1]], fence: Fence::EndedBefore };
    let ending = Ending::new(Reason::SignedOutElsewhere).by("anna").note("everywhere else");
    subject.store.end(&which, &ending, at(9)).await.unwrap();
    for id in [ids[0], ids[2]] {
        let log = subject.log_of(id).await;
        assert_eq!(log.len(), 2);
        assert_eq!((log[1].reason, log[1].at), (Some(Reason::SignedOutElsewhere), at(9)));
        assert_eq!((log[1].by.as_deref(), log[1].note.as_deref()), (Some("anna"), Some("everywhere else")));
    }
    assert_eq!(subject.events_of(ids[1]).await, [Event::SignedIn]);
}

pub(super) async fn i16_an_expiry_is_logged_with_its_deadline(subject: &Subject) {
    let id = subject.begin(subject.sign_in("anna").idle(100)).await;
    assert_eq!(subject.events_of(id).await, [Event::SignedIn]);
    subject.load(id, at(500)).await;
    assert_eq!(subject.events_of(id).await, [Event::SignedIn], "reading logs nothing");
    subject.reap(at(500)).await;
    subject.reap(at(600)).await;
    let log = subject.log_of(id).await;
    assert_eq!((log.len(), log[1].at, log[1].reason), (2, at(100), Some(Reason::IdleTimeout)));
    assert_eq!((log[1].by.as_deref(), log[1].note.as_deref()), (None, None));
}
