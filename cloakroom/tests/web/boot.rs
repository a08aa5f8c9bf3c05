//! Boot information: one document of what a page needs, part of it cached for the user.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cloakroom::{Session, Sessions, SignIn, boot::Boot, store::MemoryStore};
use serde_json::{Value, json};

use super::world::{World, world_with};

/// Counts how often it is asked.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU32>);

impl Counter {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

fn world_of(boot: Boot) -> World {
    world_with(|builder| builder.boot(boot))
}

fn counting(name: &'static str, boot: Boot) -> Boot {
    let counter = Counter::default();
    boot.cached(name, move |_| {
        let counter = counter.clone();
        async move { Ok::<_, Infallible>(counter.next()) }
    })
}

async fn of(world: &World, user: &str) -> Session {
    let token = world.sessions.start(SignIn::new(user).full_name("Anna Berg").user_type("staff")).await.unwrap().token;
    Session::resume(&world.sessions, &token).await.unwrap()
}

async fn document(session: &Session) -> Value {
    session.boot_info().await.unwrap().decode().unwrap()
}

#[tokio::test]
async fn get_of_the_frappe_seed_caches_for_the_user_and_overlays_what_is_fresh() {
    let fresh = Counter::default();
    let boot = counting("apps", Boot::new())
        .fresh("recent", move |session: Session| {
            let n = fresh.next();
            async move { Ok::<_, Infallible>(json!([n, session.user().as_deref()])) }
        })
        .on_build("change_log", |user| async move { Ok::<_, Infallible>(format!("news for {user:?}")) });
    let world = world_of(boot);
    let (phone, laptop) = (of(&world, "anna").await, of(&world, "anna").await);

    let first = phone.boot_info().await.unwrap();
    let expected = r#"{"user":"anna","full_name":"Anna Berg","user_type":"staff","impersonated_by":null,"expires_at":"2027-01-15T09:00:00.000Z","read_only":false,"apps":1,"recent":[1,"anna"],"change_log":"news for Some(\"anna\")","from_cache":false}"#;
    assert_eq!(first.as_str(), expected, "in the order of the providers");
    let second = document(&laptop).await;
    assert_eq!(second["apps"], 1, "another session of the same user");
    assert_eq!(second["recent"], json!([2, "anna"]));
    assert_eq!((&second["from_cache"], second.get("change_log")), (&json!(true), None));
    let bert = document(&of(&world, "bert").await).await;
    assert_eq!(
        (&bert["apps"], &bert["from_cache"]),
        (&json!(2), &json!(false)),
        "nobody sees what is cached for others"
    );
}

#[tokio::test]
async fn clear_of_the_frappe_seed_drops_the_users_cached_boot_information() {
    let world = world_of(counting("apps", Boot::new()));
    let (anna, bert) = (of(&world, "anna").await, of(&world, "bert").await);
    assert_eq!((document(&anna).await["apps"].clone(), document(&bert).await["apps"].clone()), (json!(1), json!(2)));
    anna.flush().await.unwrap();
    let built = document(&anna).await;
    assert_eq!((&built["apps"], &built["from_cache"]), (&json!(3), &json!(false)));
    assert_eq!(document(&bert).await["from_cache"], true, "another user's stays");
}

#[tokio::test]
async fn boot_information_is_built_again_after_its_age_or_always_when_nothing_is_cached() {
    let world = world_of(counting("apps", Boot::new().max_age(Duration::from_mins(1))));
    let anna = of(&world, "anna").await;
    document(&anna).await;
    world.clock.advance(Duration::from_millis(59_999));
    assert_eq!(document(&anna).await["from_cache"], true);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(document(&anna).await["apps"], 2);

    let world = world_of(counting("apps", Boot::new().max_age(Duration::ZERO)));
    let anna = of(&world, "anna").await;
    document(&anna).await;
    assert_eq!(document(&anna).await["apps"], 2, "disable_session_cache of the seed");
}

#[tokio::test]
async fn a_build_that_a_flush_overtook_is_not_remembered() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let counter = Counter::default();
    let boot = {
        let gate = Arc::clone(&gate);
        Boot::new().cached("apps", move |_| {
            let (gate, asked, n) = (Arc::clone(&gate), asked.clone(), counter.next());
            async move {
                asked.send(()).await?;
                gate.acquire().await?.forget();
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(n)
            }
        })
    };
    let world = world_of(boot);
    let anna = of(&world, "anna").await;
    let building = tokio::spawn({
        let anna = anna.clone();
        async move { document(&anna).await }
    });
    was_asked.recv().await.unwrap();
    anna.flush().await.unwrap();
    gate.add_permits(2);
    assert_eq!(building.await.unwrap()["apps"], 1);
    assert_eq!(document(&anna).await["apps"], 2, "the first answer may be from before what the flush was for");
}

#[tokio::test]
async fn a_provider_that_fails_is_named_and_asked_again() {
    let counter = Counter::default();
    let boot = Boot::new()
        .cached("notes", move |_| {
            let n = counter.next();
            async move { if n == 1 { Err(io::Error::other("the notes are down")) } else { Ok(n) } }
        })
        .fresh("theme", |_| async { Ok::<_, Infallible>("dark") });
    let world = world_of(boot);
    let anna = of(&world, "anna").await;
    let first = document(&anna).await;
    assert_eq!((first.get("notes"), &first["theme"], &first["failed"]), (None, &json!("dark"), &json!(["notes"])));
    let second = document(&anna).await;
    assert_eq!((&second["notes"], &second["from_cache"], second.get("failed")), (&json!(2), &json!(false), None));
    assert_eq!(document(&anna).await["from_cache"], true);
}

#[tokio::test]
async fn get_boot_assets_json_reads_the_build_tools_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let manifest = directory.path().join("assets.json");
    std::fs::write(&manifest, r#"{"main.js":"/assets/main.1234.js"}"#).unwrap();
    let world = world_of(Boot::new().assets(&manifest));
    let visitor = Session::anonymous(&world.sessions);
    assert_eq!(document(&visitor).await["assets_json"], json!({"main.js": "/assets/main.1234.js"}));
    std::fs::write(&manifest, r#"{"main.js":"/assets/main.5678.js"}"#).unwrap();
    assert_eq!(
        document(&visitor).await["assets_json"]["main.js"],
        "/assets/main.5678.js",
        "a deployment shows at once"
    );
    std::fs::write(&manifest, "[]").unwrap();
    assert_eq!(document(&visitor).await["failed"], json!(["assets_json"]));
    assert_eq!(visitor.id(), None, "nothing was stored for it");
}

#[tokio::test]
async fn boot_information_tells_of_read_only_mode() {
    let world = world_of(Boot::new());
    let visitor = Session::anonymous(&world.sessions);
    assert_eq!(document(&visitor).await["read_only"], false);
    world.sessions.set_read_only(true);
    assert_eq!(
        document(&visitor).await,
        json!({
            "user": null, "full_name": null, "user_type": null, "impersonated_by": null, "expires_at": null,
            "read_only": true, "from_cache": true,
        })
    );
}

#[test]
fn names_of_boot_information_must_differ() {
    let nothing = |boot: Boot, name| boot.cached(name, |_| async { Ok::<_, Infallible>(()) });
    for (boot, told) in [
        (nothing(Boot::new(), "user"), "\"user\" is a name the document has of its own"),
        (nothing(Boot::new(), "failed"), "\"failed\" is a name"),
        (nothing(Boot::new(), ""), "needs a name"),
        (nothing(nothing(Boot::new(), "apps"), "apps"), "two providers are called \"apps\""),
    ] {
        let builder = Sessions::builder(Arc::new(MemoryStore::new().unwrap())).without_upkeep().boot(boot);
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}
