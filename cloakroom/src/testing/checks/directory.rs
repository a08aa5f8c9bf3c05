//! The users of the directory.

use std::{net::IpAddr, sync::Arc};

use super::fixtures::{NOW, at, in_parallel};
use crate::{
    error::Error,
    record::Acting,
    rules::{Create, Fence, Which},
    store::{Cursor, LastSignIn, PutUser, StoredUser},
    testing::Subject,
};

fn put(user: &str, was: Option<&str>, settings: Option<&str>) -> PutUser {
    PutUser { user: user.into(), was: was.map(Into::into), settings: settings.map(Into::into), last_sign_in: None }
}

impl Subject {
    async fn put_user(&self, put: &PutUser) -> bool {
        self.store.put_user(put).await.unwrap()
    }

    async fn user(&self, user: &str) -> Option<StoredUser> {
        self.store.user(user).await.unwrap()
    }

    async fn settings(&self, user: &str) -> Option<Arc<str>> {
        self.user(user).await.map(|stored| stored.settings)
    }

    async fn last_sign_in(&self, user: &str) -> Option<LastSignIn> {
        self.user(user).await.and_then(|stored| stored.last_sign_in)
    }

    /// Everybody, page by page.
    pub(in crate::testing) async fn users_in_pages(&self, size: usize) -> Vec<StoredUser> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.users(after.as_ref(), size).await.unwrap();
            assert!(page.items.len() <= size, "a page is too long");
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    }
}

pub(super) async fn a_user_is_put_found_and_deleted(subject: &Subject) {
    assert_eq!(subject.user("anna").await, None);
    assert!(subject.put_user(&put("anna", None, Some("1"))).await);
    let anna = StoredUser { user: "anna".into(), settings: "1".into(), last_sign_in: None };
    assert_eq!(subject.user("anna").await, Some(anna.clone()));
    assert_eq!(subject.users_in_pages(10).await, [anna]);

    assert!(subject.put_user(&put("anna", Some("1"), Some("2"))).await);
    assert_eq!(subject.settings("anna").await.as_deref(), Some("2"));

    assert!(subject.put_user(&put("anna", Some("2"), None)).await);
    assert_eq!(subject.user("anna").await, None);
    assert_eq!(subject.users_in_pages(10).await, []);
}

pub(super) async fn a_put_that_saw_something_else_changes_nothing(subject: &Subject) {
    assert!(!subject.put_user(&put("anna", Some("0"), Some("1"))).await, "there was nobody");
    assert_eq!(subject.user("anna").await, None);
    assert!(subject.put_user(&put("anna", None, Some("1"))).await);
    for was in [None, Some("0"), Some("11"), Some("")] {
        assert!(!subject.put_user(&put("anna", was, Some("2"))).await, "{was:?}");
        assert!(!subject.put_user(&put("anna", was, None)).await, "{was:?}");
    }
    assert_eq!(subject.settings("anna").await.as_deref(), Some("1"));
}

pub(super) async fn a_put_sent_again_has_succeeded(subject: &Subject) {
    for again in [put("anna", None, Some("1")), put("anna", Some("1"), Some("2")), put("anna", Some("2"), None)] {
        assert!(subject.put_user(&again).await);
        assert!(subject.put_user(&again).await);
        assert_eq!(subject.settings("anna").await, again.settings);
    }
}

pub(super) async fn no_parallel_change_of_a_user_is_lost(subject: &Subject) {
    in_parallel(16, |n| {
        let store = subject.store.clone();
        async move {
            loop {
                let was = store.user("anna").await.unwrap().map(|stored| stored.settings);
                let settings = format!("{}{n},", was.as_deref().unwrap_or_default());
                let put = PutUser { user: "anna".into(), was, settings: Some(settings.into()), last_sign_in: None };
                if store.put_user(&put).await.unwrap() {
                    return;
                }
            }
        }
    })
    .await;
    let settings = subject.settings("anna").await.unwrap();
    let mut written: Vec<usize> = settings.split_terminator(',').map(|n| n.parse().unwrap()).collect();
    written.sort_unstable();
    assert_eq!(written, (0..16).collect::<Vec<_>>());
}

pub(super) async fn users_and_their_settings_come_back_byte_for_byte(subject: &Subject) {
    let long = "x".repeat(256);
    let names =
        ["anna", "Anna", "anna ", " anna", "ann", "анна", "a\u{301}", "á", "'; --", "a/../b", "*", "%", "{0}", &long];
    let settings = |name: &str| format!("{{\"full_name\":\"{name}\\u0000 \"}}");
    for name in names {
        assert!(subject.put_user(&put(name, None, Some(&settings(name)))).await, "{name}");
    }
    for name in names {
        let stored = subject.user(name).await.unwrap();
        assert_eq!((&*stored.user, &*stored.settings), (name, &*settings(name)));
    }
    let mut listed: Vec<_> = subject.users_in_pages(3).await.into_iter().map(|stored| stored.user).collect();
    listed.sort_unstable();
    let mut expected: Vec<Arc<str>> = names.map(Into::into).into();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

pub(super) async fn paging_through_users_stays_right_while_they_come_and_go(subject: &Subject) {
    let name = |n: usize| format!("user {n}");
    for n in 0..30 {
        subject.put_user(&put(&name(n), None, Some("1"))).await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    for round in 0.. {
        let page = subject.store.users(after.as_ref(), 4).await.unwrap();
        assert!(page.items.len() <= 4);
        seen.extend(page.items.into_iter().map(|stored| stored.user.to_string()));
        // The first ten go, others come, and somebody changes.
        if round < 10 {
            subject.put_user(&put(&name(round), Some("1"), None)).await;
            subject.put_user(&put(&name(100 + round), None, Some("1"))).await;
            subject.put_user(&put(&name(20), None, Some("2"))).await;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut once = seen.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "somebody is shown twice");
    for n in 10..30 {
        assert!(seen.contains(&name(n)), "{n} was there throughout");
    }
    let all = |users: Vec<StoredUser>| users.into_iter().map(|stored| stored.user).collect::<Vec<_>>();
    let expected = all(subject.users_in_pages(100).await);
    for size in [1, 2, 7] {
        assert_eq!(all(subject.users_in_pages(size).await), expected);
    }
}

pub(super) async fn a_cursor_of_somebody_elses_is_refused(subject: &Subject) {
    subject.put_user(&put("anna", None, Some("1"))).await;
    for text in ["", "?", "'; drop table sessions; --", "\u{0}", "ключ"] {
        let refused = subject.store.users(Some(&Cursor::new(text)), 1).await;
        assert!(matches!(refused, Err(Error::InvalidCursor { .. })), "{text:?}: {refused:?}");
    }
}

pub(super) async fn insert_session_record_notes_the_users_last_sign_in(subject: &Subject) {
    let ip: IpAddr = "192.0.2.7".parse().unwrap();
    let from = |ip: Option<IpAddr>, millis| subject.sign_in("anna").at(at(millis)).with(|info| info.client.ip = ip);

    subject.begin(from(Some(ip), 1)).await;
    assert_eq!(subject.user("anna").await, None, "who is not in the directory does not come into it");

    subject.put_user(&put("anna", None, Some("1"))).await;
    subject.put_user(&put("Anna", None, Some("1"))).await;
    assert_eq!(subject.last_sign_in("anna").await, None);
    subject.begin(from(Some(ip), 2)).await;
    assert_eq!(subject.last_sign_in("anna").await, Some(LastSignIn { at: at(2), ip: Some(ip) }));
    let mapped = "::ffff:192.0.2.8".parse().ok();
    let later = from(mapped, 3);
    subject.begin(later.clone()).await;
    assert_eq!(subject.last_sign_in("anna").await, Some(LastSignIn { at: at(3), ip: mapped }));
    // A node whose clock is behind.
    subject.begin(from(Some(ip), 2)).await;
    assert_eq!(subject.last_sign_in("anna").await, Some(LastSignIn { at: at(3), ip: mapped }));
    subject.begin(from(None, 4)).await;
    assert_eq!(subject.last_sign_in("anna").await, Some(LastSignIn { at: at(4), ip: None }));
    // Sent again after a cut connection.
    subject.create(&later).await;
    assert_eq!(subject.last_sign_in("anna").await, Some(LastSignIn { at: at(4), ip: None }));

    // Settings and sign-ins leave each other alone.
    subject.put_user(&put("anna", Some("1"), Some("2"))).await;
    assert_eq!(subject.last_sign_in("anna").await, Some(LastSignIn { at: at(4), ip: None }));
    assert_eq!(subject.settings("anna").await.as_deref(), Some("2"));
    assert_eq!(subject.last_sign_in("Anna").await, None, "another user");
    subject.put_user(&put("anna", Some("2"), None)).await;
    subject.put_user(&put("anna", None, Some("1"))).await;
    assert_eq!(subject.last_sign_in("anna").await, None, "a new entry knows nothing of the deleted one");
}

pub(super) async fn set_impersonated_leaves_the_targets_last_sign_in(subject: &Subject) {
    subject.put_user(&put("anna", None, Some("1"))).await;
    let acting =
        subject.sign_in("anna").with(|info| info.acting = Some(Acting { by: "root".into(), returns_to: None }));
    subject.begin(acting).await;
    assert_eq!(subject.last_sign_in("anna").await, None);
}

pub(super) async fn a_refused_sign_in_is_not_noted(subject: &Subject) {
    subject.put_user(&put("anna", None, Some("1"))).await;
    let which = Which::OfUser { user: "anna".into(), except: Vec::new(), fence: Fence::Disabled };
    subject.store.end(&which, &crate::ended::Reason::UserDisabled.into(), NOW).await.unwrap();
    subject.create(&subject.sign_in("anna").at(at(1))).await;
    assert_eq!(subject.last_sign_in("anna").await, None);
}

pub(super) async fn an_entry_moves_with_its_last_sign_in(subject: &Subject) {
    let known = |millis| Some(LastSignIn { at: at(millis), ip: "2001:db8::1".parse().ok() });
    let copy = PutUser { last_sign_in: known(5), ..put("anna", None, Some("1")) };
    assert!(subject.put_user(&copy).await);
    assert_eq!(subject.last_sign_in("anna").await, known(5));
    assert!(subject.put_user(&PutUser { last_sign_in: known(4), ..put("anna", Some("1"), Some("2")) }).await);
    assert_eq!(subject.last_sign_in("anna").await, known(5), "an older one is left out");
    assert!(subject.put_user(&PutUser { last_sign_in: known(6), ..put("anna", Some("2"), Some("2")) }).await);
    assert_eq!(subject.last_sign_in("anna").await, known(6));
}

pub(super) async fn parallel_sign_ins_leave_the_latest(subject: &Subject) {
    subject.put_user(&put("anna", None, Some("1"))).await;
    let starts: Vec<Create> = (0..16).map(|n| subject.sign_in("anna").at(at(n)).create).collect();
    in_parallel(starts.len(), |n| {
        let (store, create) = (subject.store.clone(), starts[n].clone());
        async move {
            let now = create.record.info.created_at;
            store.create(&create, now).await.unwrap();
        }
    })
    .await;
    assert_eq!(
        subject.last_sign_in("anna").await,
        Some(LastSignIn { at: at(15), ip: starts[15].record.info.client.ip })
    );
}
