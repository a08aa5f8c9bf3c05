//! How long the console's pages take with many sessions stored: `console_at_size sqlite:big.db 1000000`.
//!
//! Fills the store up to that many sessions, each with its entry in the audit log, and asks for every page and filter 200
//! times, one after another, over HTTP. What is there already stays and counts.

use std::{
    error::Error,
    io::Write,
    time::{Duration, Instant},
};

use cloakroom::{Client, Sessions, SignIn, store};
use cloakroom_server::{ApiKey, ApiKeys, Scope, Server, keys};
use futures_util::{StreamExt, stream};

const ASKED: usize = 200;
const AT_ONCE: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "console_at_size ADDRESS-OF-A-STORE SESSIONS";
    let (url, count) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let key = keys::generate()?;
    let (address, example) = runtime.block_on(async {
        // Filling is not what is measured.
        let sessions = Sessions::builder(store::open(&url).await?);
        let sessions = sessions.stored_users().call_timeout(Duration::from_mins(2)).build()?;
        let example = fill(&sessions, count).await?;
        let keys = ApiKeys::new(vec![ApiKey::new("root", Scope::Admin, &key)?]);
        let listener = cloakroom_server::listen("127.0.0.1:0".parse()?)?;
        let address = listener.local_addr()?;
        runtime.spawn(cloakroom_server::run(listener, Server::new(sessions, keys), std::future::pending()));
        Ok::<_, Box<dyn Error>>((address, example))
    })?;
    let browser = Browser::signed_in(format!("http://{address}"), &key)?;
    for page in ["/console", "/console/audit"] {
        let begun = Instant::now();
        while browser.get(page)?.contains("data-refresh") {
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("{page}: whole after {:.1?}", begun.elapsed());
    }
    println!("| page | p50 | p99 | longest |\n|---|---|---|---|");
    let session = format!("/console/sessions/{example}");
    for page in [
        "/console",
        "/console?period=month",
        "/console/sessions",
        "/console/sessions?user=user-77",
        "/console/sessions?user=nobody",
        "/console/sessions?ip=10.0.3.7",
        "/console/sessions?device=Device+3",
        "/console/sessions?device=none",
        "/console/sessions?idle=100d",
        "/console/sessions?impersonated_by=nobody",
        "/console/sessions/end?user=user-77",
        &session,
        "/console/users",
        "/console/users/user-77",
        "/console/audit",
        "/console/audit?user=user-77",
        "/console/audit?event=refused",
        "/console/audit?until=2026-01-01",
    ] {
        let mut times = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let begun = Instant::now();
            browser.get(page)?;
            times.push(begun.elapsed());
        }
        times.sort();
        let [p50, p99, longest] = [ASKED / 2, ASKED * 99 / 100, ASKED - 1].map(|at| times[at]);
        println!("| `{}` | {p50:.1?} | {p99:.1?} | {longest:.1?} |", page.replace(&example, "ID"));
    }
    // What is stored stays as it is: nothing is shut down in peace.
    std::process::exit(0);
}

/// Starts what is missing; answers the id of one.
async fn fill(sessions: &Sessions, count: usize) -> cloakroom::Result<String> {
    let mut there = 0;
    let mut after = None;
    loop {
        let page = sessions.find(&store::Query::default(), after.as_ref(), 4_096).await?;
        there += page.items.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let begun = Instant::now();
    let mut starts = stream::iter(there..count).map(|n| sessions.start(start(n))).buffer_unordered(AT_ONCE);
    let mut done = there;
    while let Some(started) = starts.next().await {
        started?;
        done += 1;
        if done % 100_000 == 0 {
            println!("{done} sessions after {:.0?}", begun.elapsed());
            std::io::stdout().flush().unwrap_or_default();
        }
    }
    let started = sessions.start(SignIn::new("user-77")).await?;
    Ok(started.record.info.id.to_string())
}

fn start(n: usize) -> SignIn {
    let start = if n % 10 == 9 { SignIn::anonymous() } else { SignIn::new(format!("user-{}", n % 300_000)) };
    let [third, fourth] = [n / 250 % 250, n % 250].map(|part| u8::try_from(part).unwrap_or_default());
    let client = Client {
        ip: Some([10, 0, third, fourth].into()),
        device: Some(format!("Device {}", n % 2_000).into()),
        country: Some(["DE", "FR", "IN", "BR"][n % 4].into()),
        ..Client::default()
    };
    start.full_name("Anna Berg").idle_timeout(Duration::from_hours(24)).client(client)
}

struct Browser {
    agent: ureq::Agent,
    url: String,
    cookie: String,
}

impl Browser {
    fn signed_in(url: String, key: &str) -> Result<Self, Box<dyn Error>> {
        let agent: ureq::Agent = ureq::Agent::config_builder().max_redirects(0).build().into();
        let sign_in = agent.post(format!("{url}/console/sign-in")).header("sec-fetch-site", "same-origin");
        let answer = sign_in.send_form([("key", key)])?;
        let cookie = answer.headers().get("set-cookie").ok_or("no cookie")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Self { agent, url, cookie })
    }

    fn get(&self, page: &str) -> Result<String, Box<dyn Error>> {
        let mut answer = self.agent.get(format!("{}{page}", self.url)).header("cookie", &self.cookie).call()?;
        Ok(answer.body_mut().read_to_string()?)
    }
}
