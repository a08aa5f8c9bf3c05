//! Several processes on one directory, and processes that are killed.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    sync::Arc,
};

use cloakroom::{
    Limit, Reason, SessionId,
    audit::Event,
    rules::{Create, Created, EndAnswer, Loaded, Rules, Which},
    store::{AuditQuery, FileStore},
};

use super::place::{NOW, Place, child, creation, live, record, sessions_of, set, started, told_as_child};
use crate::common::again;

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_new_directory_lose_nothing() {
    let place = Place::new();
    let (one, two) = tokio::join!(place.open(), place.open());
    assert_eq!(one.partition_key().as_bytes(), two.partition_key().as_bytes());
    let stores = [Arc::new(one), Arc::new(two)];
    let id = started(&stores[0], "anna").await;
    let tasks = (0..100).map(|n| {
        let store = Arc::clone(&stores[n % 2]);
        tokio::spawn(async move {
            set(&store, id, &format!("key {n}"), "1").await.unwrap();
            let create = Create { limit: Some(Limit::evict(3)), ..creation(record(&store, "ben")) };
            store.create(&create, NOW).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for store in &stores {
        let record = live(store, id).await;
        assert_eq!((record.data.len(), record.info.version), (100, 100));
        assert_eq!(sessions_of(store, "ben").await.len(), 3);
    }
    let log = stores[1].audit(&AuditQuery::default(), None, 1000).await.unwrap().items;
    assert_eq!(log.iter().filter(|logged| logged.entry.event == Event::Ended).count(), 97);
}

#[tokio::test(flavor = "multi_thread")]
async fn file_session_several_processes_on_one_directory_lose_nothing() {
    if let Some((directory, argument)) = told_as_child() {
        let (id, name) = argument.split_once(' ').unwrap();
        let id: SessionId = id.parse().unwrap();
        let store = Rules::on(FileStore::open(&directory).await.unwrap());
        let tasks = (0..40).map(|n| {
            let (store, key) = (store.clone(), format!("{name} {n}"));
            tokio::spawn(async move {
                set(&store, id, &key, "1").await.unwrap();
                let create = Create { limit: Some(Limit::evict(3)), ..creation(record(&store, "ben")) };
                store.create(&create, NOW).await.unwrap();
                let refused = Create { limit: Some(Limit::refuse(5)), ..creation(record(&store, "eve")) };
                store.create(&refused, NOW).await.unwrap();
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        return;
    }
    let place = Place::new();
    let store = place.open().await;
    let id = started(&store, "anna").await;
    let children = ["first", "second", "third", "fourth"].map(|name| {
        let again = again(module_path!(), "file_session_several_processes_on_one_directory_lose_nothing");
        child(again, &place.directory, &format!("{id} {name}"))
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let record = live(&store, id).await;
    assert_eq!((record.data.len(), record.info.version), (160, 160));
    assert_eq!(sessions_of(&store, "ben").await.len(), 3);
    assert_eq!(sessions_of(&store, "eve").await.len(), 5);
}

/// What a child said it was answered about one session.
#[derive(Default)]
struct Answered {
    user: String,
    keys: Vec<String>,
    ended: bool,
}

/// Each child works on what the ones before it left, until it is killed.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kill_9_many_times_over() {
    const WRITERS: usize = 6;
    const LIMIT: u32 = 4;
    if let Some((directory, round)) = told_as_child() {
        let store = Rules::on(FileStore::open(&directory).await.unwrap());
        let writers =
            (0..WRITERS).map(|writer| tokio::spawn(work_until_killed(store.clone(), writer, round.clone(), LIMIT)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        return;
    }
    let place = Place::new();
    let mut sessions: HashMap<SessionId, Answered> = HashMap::new();
    let mut answers = 0;
    for round in 0..20 {
        let again = again(module_path!(), "what_was_answered_survives_kill_9_many_times_over");
        let mut child = child(again, &place.directory, &round.to_string());
        // Killed after another number of answers each time, in the middle of what comes next.
        let kill_after = 1 + round * 37 % 150;
        let (mut answered, mut killed) = (0, false);
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // What the pipe still holds after the kill was answered, too.
        while lines.read_line(&mut line).unwrap() > 0 {
            let answer = line.strip_prefix("answered ").and_then(|answer| answer.strip_suffix('\n'));
            if let Some(answer) = answer {
                answered += 1;
                note(&mut sessions, answer);
            }
            line.clear();
            if answered >= kill_after && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed && !child.wait().unwrap().success());
        answers += answered;
        check(&place.open().await, &sessions, LIMIT).await;
    }
    assert!(answers > 1000, "{answers}");
}

#[cfg(unix)]
async fn work_until_killed(store: Rules, writer: usize, round: String, limit: u32) {
    let user = format!("user-{writer}");
    for n in 0.. {
        let create = Create { limit: Some(Limit::evict(limit)), ..creation(record(&store, &user)) };
        let id = create.record.info.id;
        let Created::Created { ended } = store.create(&create, NOW).await.unwrap() else {
            panic!("nothing refuses it")
        };
        let mut answer = format!("created {id} {user}");
        for ended in ended {
            write!(answer, " {}", ended.id).unwrap();
        }
        say(&answer);
        for key in 0..3 {
            let key = format!("key-{round}-{n}-{key}");
            set(&store, id, &key, "1").await.unwrap();
            say(&format!("set {id} {key}"));
        }
        if n % 3 == 0 {
            let answers = store.end(&Which::Ids(vec![id]), &Reason::SignedOut.into(), NOW).await.unwrap();
            assert!(matches!(answers[..], [EndAnswer::EndedNow(_)]));
            say(&format!("ended {id}"));
        }
    }
}

/// A line in one write, which no other writer's line can tear apart.
fn say(answer: &str) {
    std::io::stdout().lock().write_all(format!("\nanswered {answer}\n").as_bytes()).unwrap();
}

fn note(sessions: &mut HashMap<SessionId, Answered>, answer: &str) {
    let words: Vec<_> = answer.split(' ').collect();
    let id: SessionId = words[1].parse().unwrap();
    match words[0] {
        "created" => {
            sessions.insert(id, Answered { user: words[2].into(), ..Answered::default() });
            for evicted in &words[3..] {
                // One that another child started, and nobody lived to tell of, is not among them.
                sessions.entry(evicted.parse().unwrap()).or_default().ended = true;
            }
        }
        "set" => sessions.get_mut(&id).unwrap().keys.push(words[2].into()),
        _ => sessions.get_mut(&id).unwrap().ended = true,
    }
}

async fn check(store: &Rules, sessions: &HashMap<SessionId, Answered>, limit: u32) {
    let mut users: Vec<_> = sessions.values().map(|answered| answered.user.clone()).collect();
    users.sort_unstable();
    users.dedup();
    let mut listed = HashMap::new();
    for user in users {
        let infos = sessions_of(store, &user).await;
        assert!(infos.len() <= limit as usize, "{user} has {} sessions", infos.len());
        for info in infos {
            assert_eq!(info.user.as_deref(), Some(user.as_str()));
            live(store, info.id).await;
            listed.insert(info.id, info);
        }
    }
    let log = log(store).await;
    for (id, answered) in sessions {
        match store.load(*id, NOW).await.unwrap() {
            Loaded::Live(record) => {
                assert!(!answered.ended, "{id} was ended and lives");
                assert!(listed.contains_key(id), "{id} lives and is not listed");
                for key in &answered.keys {
                    assert!(record.data.get(key).is_some(), "{key} of {id} was answered");
                }
            }
            // Perhaps by a sign-in that was not answered any more.
            Loaded::Ended(_) => assert!(!listed.contains_key(id), "{id} ended and is listed"),
            Loaded::Unknown => panic!("{id} was answered"),
        }
        // Whatever happened to a session, the log tells of it, once.
        let events = log.get(id).map_or(&[][..], Vec::as_slice);
        let expected: &[Event] =
            if listed.contains_key(id) { &[Event::SignedIn] } else { &[Event::SignedIn, Event::Ended] };
        assert_eq!(events, expected);
    }
}

async fn log(store: &Rules) -> HashMap<SessionId, Vec<Event>> {
    let mut log: HashMap<_, Vec<_>> = HashMap::new();
    let mut next = None;
    loop {
        let page = store.audit(&AuditQuery::default(), next.as_ref(), 1000).await.unwrap();
        for logged in page.items {
            log.entry(logged.entry.session).or_default().push(logged.entry.event);
        }
        match page.next {
            Some(cursor) => next = Some(cursor),
            None => return log,
        }
    }
}
