//! What is stored by calls alone is found sound.

use std::time::Duration;

use super::fixtures::{anonymous, at, change, digest};
use crate::{
    admission::Limit,
    ended::Reason,
    rules::{Fence, Which},
    store::{Query, Severity},
    testing::Subject,
};

pub(super) async fn i4_a_store_in_use_is_found_sound_and_nothing_in_it_is_repaired(subject: &Subject) {
    for n in 0..30_u8 {
        let user = ["anna", "ben", "Anna"][usize::from(n) % 3];
        let now = at(n.into());
        let start = match n % 5 {
            0 => anonymous().at(now).idle(20),
            1 => subject.sign_in(user).at(now).idempotency(digest(n / 10)),
            2 => subject.sign_in(user).at(now).limit(Limit::evict(2)).ends_at(at(1_000)),
            3 => subject.sign_in(user).at(now).replaces(subject.begin(anonymous().at(now)).await),
            _ => subject.sign_in(user).at(now).idle(30).ends_at(at(2_000)),
        };
        let id = subject.begin(start).await;
        match n % 4 {
            0 => drop(subject.end(id, Reason::SignedOut, at(40)).await),
            1 => drop(subject.touch(id, at(35), at(35)).await),
            2 => {
                let mut longer = change();
                longer.fields.idle_timeout = Some(Some(Duration::from_hours(1)));
                subject.update(id, &longer, at(36)).await;
            }
            _ => {}
        }
    }
    let which = Which::OfUser { user: "ben".into(), except: Vec::new(), fence: Fence::Disabled };
    subject.store.end(&which, &Reason::UserDisabled.into(), at(41)).await.unwrap();
    subject.reap(at(45)).await;
    let before = subject.find(&Query::default(), at(45)).await;
    assert!(before.len() > 5, "{before:?}");
    for repair in [false, true] {
        // Some have expired by now, and nobody reaped them yet.
        let findings = subject.store.examine(at(60), repair).await.unwrap();
        assert!(!findings.is_empty());
        for finding in &findings {
            assert!(finding.severity < Severity::Error && !finding.repaired, "{finding:?}");
            assert!(!finding.subject.is_empty() && finding.text.ends_with('.'), "{finding:?}");
        }
    }
    assert_eq!(subject.find(&Query::default(), at(45)).await, before);
}
