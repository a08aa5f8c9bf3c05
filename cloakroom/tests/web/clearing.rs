//! `clear_sessions` and its kin, as the seed has them.

use std::time::Duration;

use cloakroom::{Ending, Found, Limit, Reason, SessionId, SignIn, Started, User, sessions::Clear, store::Query};

use super::world::{World, world_with};

/// What the seed does: of the sessions newest first by last use, without the current one if it is kept, all behind an
/// offset. `sessions` are newest first. No session is too many, and none of them has expired.
fn seeds_get_sessions_to_clear(
    sessions: &[SessionId],
    current: Option<SessionId>,
    simultaneous_sessions: Option<usize>,
    is_own: bool,
    force: bool,
) -> Vec<SessionId> {
    let mut offset = 0;
    if !force && is_own {
        offset = simultaneous_sessions.unwrap_or(1);
    }
    let mut rows = Vec::new();
    for session in sessions {
        if current != Some(*session) {
            rows.push(*session);
        }
    }
    if current.is_some() && !force {
        offset = offset.saturating_sub(1);
    }
    rows.into_iter().skip(offset).collect()
}

/// `count` sessions of a user, the latest used one first, which is not the one that started last.
async fn sessions_of(world: &World, user: &str, count: usize) -> Vec<Started> {
    let mut started = Vec::new();
    for _ in 0..count {
        world.clock.advance(Duration::from_secs(1));
        started.push(world.sessions.start(SignIn::new(user).limit(Limit::evict(1000))).await.unwrap());
    }
    started.rotate_left(count / 2);
    for session in &started {
        world.clock.advance(Duration::from_mins(2));
        world.sessions.resume(&session.token).await.unwrap();
    }
    started.reverse();
    started
}

fn ids(sessions: &[Started]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.token.id()).collect()
}

#[tokio::test]
async fn get_sessions_to_clear_chooses_as_the_seed_does() {
    for limit in [None, Some(1), Some(2), Some(3), Some(9)] {
        for count in 0..5 {
            let world = world_with(cloakroom::Builder::stored_users);
            if let Some(limit) = limit {
                let user = User { session_limit: Some(limit), ..User::default() };
                world.sessions.users().put("anna", user, None).await.unwrap();
            }
            let living = ids(&sessions_of(&world, "anna", count).await);
            sessions_of(&world, "ben", 2).await;
            for keep in std::iter::once(None).chain(living.iter().copied().map(Some)) {
                for force in [false, true] {
                    for by in [None, Some("anna"), Some("root")] {
                        let mut clear = Clear::of("anna").force(force);
                        clear = keep.into_iter().fold(clear, Clear::keep);
                        clear = by.into_iter().fold(clear, Clear::by);
                        let chosen = world.sessions.sessions_to_clear(&clear).await.unwrap();
                        let chosen: Vec<_> = chosen.iter().map(|info| info.id).collect();
                        let simultaneous = limit.map(|limit| limit as usize);
                        let is_own = by != Some("root");
                        let expected = seeds_get_sessions_to_clear(&living, keep, simultaneous, is_own, force);
                        assert_eq!(chosen, expected, "{limit:?} {count} {clear:?}");
                    }
                }
            }
            assert_eq!(world.sessions.list("anna").await.unwrap().len(), count, "a preview ends nothing");
        }
    }
}

#[tokio::test]
async fn clear_sessions_ends_what_the_preview_shows_for_the_right_reason() {
    for (force, by, reason) in [
        (false, None, Reason::SignedInElsewhere),
        (false, Some("anna"), Reason::SignedInElsewhere),
        (true, None, Reason::SignedOutElsewhere),
        (true, Some("anna"), Reason::SignedOutElsewhere),
        (false, Some("root"), Reason::RevokedByAdmin),
        (true, Some("root"), Reason::RevokedByAdmin),
    ] {
        let world = world_with(|builder| builder.limit(Limit::evict(2)));
        let started = sessions_of(&world, "anna", 5).await;
        let current = started[3].token.id();
        let clear = by.into_iter().fold(Clear::of("anna").keep(current).force(force), Clear::by);
        let chosen = world.sessions.sessions_to_clear(&clear).await.unwrap();
        let ended = world.sessions.clear_sessions(&clear).await.unwrap();
        assert_eq!(
            ended.iter().map(|ended| ended.id).collect::<Vec<_>>(),
            chosen.iter().map(|info| info.id).collect::<Vec<_>>()
        );
        assert!(ended.iter().all(|ended| ended.reason == reason && ended.by.as_deref() == by), "{ended:?}");
        let stays = if force || by == Some("root") { 1 } else { 2 };
        assert_eq!(world.sessions.list("anna").await.unwrap().len(), stays);
        assert!(matches!(world.sessions.get(current).await.unwrap(), Found::Live(_)));
        let Found::Ended(told) = world.sessions.resume(&started[4].token).await.unwrap() else { panic!("it ended") };
        assert_eq!(told.reason, reason);
        let text = match reason {
            Reason::SignedInElsewhere => "Logged In From Another Session",
            Reason::SignedOutElsewhere => "Force Logged out by the user",
            _ => "Revoked by an administrator",
        };
        assert_eq!(told.reason.text(), text);
        assert!(world.sessions.clear_sessions(&clear).await.unwrap().is_empty(), "nothing is left to clear");
    }
}

#[tokio::test]
async fn clear_sessions_knows_no_cap_of_a_hundred_and_counts_nothing_that_expired() {
    let world = world_with(|builder| builder);
    for _ in 0..130 {
        world.sessions.start(SignIn::new("anna").idle_timeout(Duration::from_hours(2))).await.unwrap();
    }
    let expired = world.sessions.start(SignIn::new("anna").idle_timeout(Duration::from_mins(1))).await.unwrap();
    world.clock.advance(Duration::from_mins(1));
    // The one that expired was used last: if it counted, it would stay in place of a living one.
    let ended = world.sessions.clear_sessions(&Clear::of("anna")).await.unwrap();
    assert_eq!(ended.len(), 129);
    assert!(ended.iter().all(|ended| ended.id != expired.token.id()));
    assert_eq!(world.sessions.list("anna").await.unwrap().len(), 1);
    let Found::Ended(told) = world.sessions.resume(&expired.token).await.unwrap() else { panic!("it expired") };
    assert_eq!(told.reason, Reason::IdleTimeout);
}

#[tokio::test]
async fn clear_sessions_keeps_what_was_used_a_moment_ago() {
    let world = world_with(|builder| builder);
    let old = world.sessions.start(SignIn::new("anna")).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.sessions.start(SignIn::new("anna")).await.unwrap();
    world.clock.advance(Duration::from_mins(10));
    world.sessions.resume(&old.token).await.unwrap();
    world.sessions.clear_sessions(&Clear::of("anna")).await.unwrap();
    assert!(matches!(world.sessions.resume(&old.token).await.unwrap(), Found::Live(_)));
}

#[tokio::test]
async fn delete_session_ends_one_with_its_reason_and_an_unknown_id_says_so() {
    let world = world_with(|builder| builder);
    let started = sessions_of(&world, "anna", 2).await;
    let (id, other) = (started[0].token.id(), started[1].token.id());
    let answer = world.sessions.end(id, &Ending::new(Reason::RevokedByAdmin).by("root")).await.unwrap();
    let ended = answer.clone().ended_now().unwrap();
    assert_eq!((ended.id, ended.reason, ended.user.as_deref()), (id, Reason::RevokedByAdmin, Some("anna")));
    let again = world.sessions.end(id, &Reason::SignedOut.into()).await.unwrap();
    assert_eq!(again, cloakroom::rules::EndAnswer::EndedBefore(ended));
    assert!(matches!(world.sessions.get(other).await.unwrap(), Found::Live(_)));

    let unknown = SessionId::generate(cloakroom::store::Partition::random().unwrap()).unwrap();
    let answer = world.sessions.end(unknown, &Reason::SignedOut.into()).await.unwrap();
    assert_eq!(answer, cloakroom::rules::EndAnswer::Unknown(unknown));
}

#[tokio::test]
async fn clear_all_sessions_ends_everybodys_in_portions() {
    let world = world_with(|builder| builder);
    for n in 0..1100 {
        world.sessions.start(SignIn::new(format!("user {}", n % 300))).await.unwrap();
    }
    world.sessions.start(SignIn::anonymous()).await.unwrap();
    let kept = world.sessions.start(SignIn::new("root")).await.unwrap().token.id();
    let ending = Ending::new(Reason::AllRevoked).by("root");
    let everything = Query::default();
    assert_eq!(world.sessions.ids_where(&everything, &[kept]).await.unwrap().len(), 1101);
    let ended = world.sessions.end_where(&everything, &[kept], &ending).await.unwrap();
    assert_eq!(ended.len(), 1101);
    assert!(ended.iter().all(|ended| ended.reason.text() == "Deleted All Active Session"));
    assert_eq!(world.sessions.ids_where(&everything, &[]).await.unwrap(), [kept]);
}

#[tokio::test]
async fn ending_by_query_ends_what_matches_and_nothing_else() {
    let world = world_with(|builder| builder);
    let on = |device: &str| cloakroom::Client { device: Some(device.into()), ..Default::default() };
    for (user, device) in [("anna", "phone"), ("anna", "desk"), ("ben", "phone")] {
        world.sessions.start(SignIn::new(user).client(on(device))).await.unwrap();
    }
    let phones = Query { device: Some("phone".into()), ..Query::default() };
    let would_end = world.sessions.ids_where(&phones, &[]).await.unwrap();
    let ended = world.sessions.end_where(&phones, &would_end[..1], &Reason::RevokedByAdmin.into()).await.unwrap();
    assert_eq!(ended.iter().map(|ended| ended.id).collect::<Vec<_>>(), would_end[1..]);
    let annas = world.sessions.end_where(&Query::of_user("anna"), &[], &Reason::RevokedByAdmin.into()).await.unwrap();
    assert!(annas.iter().all(|ended| ended.user.as_deref() == Some("anna")));
}
