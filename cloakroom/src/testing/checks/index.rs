//! I4: the user index never lists the dead nor misses the living.

use std::{collections::HashMap, net::IpAddr, slice};

use super::fixtures::{NOW, anonymous, at, in_parallel};
use crate::record::Acting;
use crate::{admission::Limit, ended::Reason, rules::Which, store::Query, testing::Subject, token::SessionId};

pub(super) async fn i4_the_user_index_is_exact_after_random_work(subject: &Subject) {
    let users = ["anna", "ben", "Anna", ""];
    let mut random = Lcg(42);
    // Newest first, with the session's deadline.
    let mut expected: HashMap<&str, Vec<(SessionId, i64)>> = HashMap::new();
    for now in 0..200 {
        let user = users[random.below(users.len())];
        let sessions = expected.entry(user).or_default();
        match random.below(10) {
            0..6 => {
                let idle = [5_i64, 50, 100_000][random.below(3)];
                let start = subject.sign_in(user).at(at(now)).idle(idle.unsigned_abs());
                sessions.insert(0, (subject.begin(start).await, now + idle));
            }
            6..8 if !sessions.is_empty() => {
                let (id, _) = sessions.remove(random.below(sessions.len()));
                subject.end(id, Reason::SignedOut, at(now)).await;
            }
            8 => drop(subject.reap(at(now)).await),
            _ => {}
        }
        for sessions in expected.values_mut() {
            sessions.retain(|(_, deadline)| *deadline > now);
        }
        let living: Vec<_> = expected[user].iter().map(|(id, _)| *id).collect();
        assert_eq!(subject.ids_of(user, at(now)).await, living, "of {user:?} after step {now}");
    }
}

/// A small generator of its own: the same steps on every machine.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}

pub(super) async fn i4_the_user_index_is_exact_after_parallel_work(subject: &Subject) {
    let kept = in_parallel(20, |n| {
        let (store, start) = (subject.store.clone(), subject.sign_in("anna"));
        async move {
            store.create(&start.create, NOW).await.unwrap();
            let ends = n % 2 == 0;
            if ends {
                store.end(&Which::Ids(vec![start.id()]), &Reason::SignedOut.into(), NOW).await.unwrap();
            }
            (!ends).then_some(start.id())
        }
    })
    .await;
    let mut kept: Vec<_> = kept.into_iter().flatten().collect();
    kept.sort_unstable();
    let mut listed = subject.ids_of("anna", NOW).await;
    listed.sort_unstable();
    assert_eq!(listed, kept);
}

pub(super) async fn i4_a_listing_shows_what_is_stored_without_the_data(subject: &Subject) {
    let start = subject.sign_in("anna").idle(60_000).ends_at(at(90_000)).data("cart", "[1]").with(|info| {
        info.full_name = Some("Anna".into());
        info.user_type = Some("clerk".into());
        info.remember = true;
        info.client.ip = Some("2001:db8::1".parse().unwrap());
        info.client.user_agent = Some("curl/8".into());
        info.client.device = Some("phone".into());
        info.acting = Some(Acting { by: "root".into(), returns_to: None });
        info.audit_user = Some("auditor".into());
    });
    let expected = start.create.record.info.clone();
    subject.begin(start).await;
    assert_eq!(subject.find(&Query::of_user("anna"), NOW).await, slice::from_ref(&expected));
    assert_eq!(subject.find(&Query::default(), NOW).await, [expected]);
}

pub(super) async fn i4_a_user_is_listed_newest_first(subject: &Subject) {
    let mut ids = Vec::new();
    for millis in [5, 1, 3, 3, 9] {
        ids.push((at(millis), subject.begin(subject.sign_in("anna").at(at(millis))).await));
    }
    // Use does not change the order; two of one millisecond are ordered by id.
    subject.touch(ids[1].1, at(100), at(100)).await;
    ids.sort_unstable();
    let expected: Vec<_> = ids.into_iter().rev().map(|(_, id)| id).collect();
    assert_eq!(subject.ids_of("anna", at(100)).await, expected);
}

pub(super) async fn i4_a_query_matches_every_field_given(subject: &Subject) {
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let started = |user, ip, device: &str, millis| {
        let device = device.into();
        subject.sign_in(user).at(at(millis)).with(move |info| {
            info.client.ip = Some(ip);
            info.client.device = Some(device);
        })
    };
    let anna_phone = subject.begin(started("anna", v4, "phone", 0)).await;
    let anna_desk = subject.begin(started("anna", v6, "desk", 1)).await;
    let ben_phone = subject.begin(started("ben", v4, "phone", 2)).await;
    let nowhere = subject.begin(anonymous().at(at(3))).await;
    let acting = subject
        .sign_in("carl")
        .at(at(4))
        .with(|info| info.acting = Some(Acting { by: "anna".into(), returns_to: None }));
    let acting = subject.begin(acting).await;

    let anna = Query::of_user("anna");
    let everyone = Query::default();
    for (query, mut expected) in [
        (anna.clone(), vec![anna_phone, anna_desk]),
        (Query { ip: Some(v4), ..everyone.clone() }, vec![anna_phone, ben_phone]),
        (Query { ip: Some(v6), ..anna.clone() }, vec![anna_desk]),
        (Query { device: Some("phone".into()), ..everyone.clone() }, vec![anna_phone, ben_phone]),
        (Query { device: Some("Phone".into()), ..everyone.clone() }, vec![]),
        (Query { device: Some("phone".into()), ip: Some(v6), ..anna.clone() }, vec![]),
        (Query { last_seen_before: Some(at(1)), ..everyone.clone() }, vec![anna_phone, anna_desk]),
        (Query { last_seen_before: Some(at(0)), ..anna.clone() }, vec![anna_phone]),
        (Query::of_user("nobody"), vec![]),
        (Query::of_user("carl"), vec![acting]),
        (Query { impersonated_by: Some("anna".into()), ..everyone.clone() }, vec![acting]),
        (Query { impersonated_by: Some("Anna".into()), ..everyone.clone() }, vec![]),
        (Query { impersonated_by: Some("anna".into()), ..Query::of_user("carl") }, vec![acting]),
        (Query { impersonated_by: Some("carl".into()), ..Query::of_user("carl") }, vec![]),
        (everyone, vec![anna_phone, anna_desk, ben_phone, nowhere, acting]),
    ] {
        for page in [1, 100] {
            let mut found: Vec<_> =
                subject.find_in_pages(&query, page, at(5)).await.into_iter().map(|info| info.id).collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{query:?}");
        }
    }
}

pub(super) async fn i4_evicted_and_replaced_sessions_leave_the_index(subject: &Subject) {
    let first = subject.begin(subject.sign_in("anna")).await;
    let second = subject.begin(subject.sign_in("anna").at(at(1)).limit(Limit::evict(1))).await;
    assert_eq!(subject.ids_of("anna", at(1)).await, [second]);
    let third = subject.begin(subject.sign_in("anna").at(at(2)).replaces(second)).await;
    assert_eq!(subject.ids_of("anna", at(2)).await, [third]);
    assert!(!subject.is_live(first, at(2)).await);
}
