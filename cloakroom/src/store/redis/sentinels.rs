//! Who is primary, as sentinels have it.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Client, RedisResult, Value};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    address::Address,
    link::{Link, Purpose, Wants},
    reply::{Hash, Reply},
};

/// What sentinels said last.
#[derive(Default)]
pub(super) struct Sentinels {
    newest: Mutex<Option<Said>>,
}

/// Each failover has a higher epoch than the one before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    epoch: u64,
    at: Instant,
    server: Arc<str>,
}

impl Sentinels {
    /// How long a sentinel that speaks of an earlier failover is behind the others. Afterwards it was set up anew.
    const BEHIND: Duration = Duration::from_mins(1);

    /// The primary, according to the sentinel that knows most. One that has not heard of a failover names a server that
    /// was primary once, and that may be back without knowing better.
    pub(super) async fn primary(&self, address: &Address, name: &str, patience: Duration) -> Option<Arc<str>> {
        let asked = address.named.iter().map(|sentinel| async move {
            let client = address.client_of_sentinel(sentinel)?.ok()?;
            timeout(patience, ask(client, name)).await.ok()?
        });
        let said = join_all(asked).await.into_iter().flatten().max()?;
        let mut newest = self.newest.lock().await;
        if newest.as_ref().is_some_and(|newest| newest.epoch > said.epoch && newest.at.elapsed() < Self::BEHIND) {
            return None;
        }
        Some(newest.insert(said).server.clone())
    }
}

async fn ask(client: Client, name: &str) -> Option<Said> {
    let mut connection = Link::new(client, Wants::Anything).connect(Purpose::Calls).await.ok()?.connection;
    // While it leads a failover a sentinel counts that already, and still describes the server that failed. Which one is
    // primary it says right at all times.
    let mut about = redis::pipe();
    about.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).cmd("SENTINEL").arg("MASTER").arg(name);
    let answers: RedisResult<[Value; 2]> = about.query_async(&mut connection).await;
    let [address, description] = answers.ok()?;
    let [host, port]: [Value; 2] = address.array().ok()?.try_into().ok()?;
    let (host, port) = (host.text().ok()?, port.number::<u16>().ok()?);
    let epoch = Hash::read(description).ok()?.take("config-epoch").number().ok()?;
    Some(Said { epoch, at: Instant::now(), server: format!("{host}:{port}").into() })
}
