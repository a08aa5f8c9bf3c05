//! What calls about sessions answer.

use std::{borrow::Cow, net::IpAddr};

use cloakroom::{SessionId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Problem, schema};

/// A session. `D` is its data: any type that reads or writes an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Session", bound = "")]
pub struct Session<'a, D = Box<RawValue>> {
    /// The public handle.
    #[schemars(with = "schema::SessionId")]
    pub id: SessionId,
    /// The user who is signed in; `null` for an anonymous visitor.
    pub user: Option<Cow<'a, str>>,
    /// The person's name.
    pub full_name: Option<Cow<'a, str>>,
    /// What kind of user.
    pub user_type: Option<Cow<'a, str>>,
    /// When it started.
    #[schemars(with = "schema::Time")]
    pub created_at: Timestamp,
    /// When it was last resumed.
    #[schemars(with = "schema::Time")]
    pub last_seen_at: Timestamp,
    /// When it ends if nobody resumes it again; `null` for never.
    #[schemars(with = "Option<schema::Time>")]
    pub expires_at: Option<Timestamp>,
    /// When it ends whatever happens; `null` for never.
    #[schemars(with = "Option<schema::Time>")]
    pub ends_at: Option<Timestamp>,
    /// When the person proved who they are.
    #[schemars(with = "Option<schema::Time>")]
    pub authenticated_at: Option<Timestamp>,
    /// How: names of RFC 8176.
    pub methods: Option<Cow<'a, str>>,
    /// How strongly.
    #[schemars(range(min = 1, max = 3))]
    pub level: Option<u8>,
    /// How long it may go unused. Fractions are left out.
    pub idle_seconds: Option<u64>,
    /// The same in milliseconds.
    pub idle_milliseconds: Option<u64>,
    /// Whether its cookie outlives the browser.
    pub remember: bool,
    /// Where it was started from.
    pub client: Client<'a>,
    /// The user who really acts.
    pub impersonated_by: Option<Cow<'a, str>>,
    /// The auditor who looks into the account.
    pub audit_user: Option<Cow<'a, str>>,
    /// How many changes were made to it.
    pub version: u64,
    /// What the application keeps in it. Left out in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Object>")]
    pub data: Option<D>,
}

/// Where a session was started from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Client<'a> {
    /// The address.
    pub ip: Option<IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: Option<Cow<'a, str>>,
    /// The device's name.
    pub device: Option<Cow<'a, str>>,
    /// The country, as two letters.
    pub country: Option<Cow<'a, str>>,
}

/// The session of a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Shown", bound = "")]
pub struct Shown<'a, D = Box<RawValue>> {
    /// As it is.
    #[schemars(with = "Session<'a>")]
    pub session: Session<'a, D>,
}

/// The cookie that hands a token to the browser, for frameworks that write it themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// The token.
    pub value: String,
    /// `Path`.
    pub path: String,
    /// `Domain`; `null` for none.
    pub domain: Option<String>,
    /// `Max-Age`, in seconds; `null` for a cookie that goes with the browser.
    pub max_age: Option<u64>,
    /// `Secure`.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`: `Strict`, `Lax` or `None`.
    #[schemars(extend("enum" = ["Strict", "Lax", "None"]))]
    pub same_site: Cow<'static, str>,
    /// `Partitioned`.
    pub partitioned: bool,
}

/// A session that was started, and its token, which is shown this once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Started", bound = "")]
pub struct Started<'a, D = Box<RawValue>> {
    /// For the client.
    pub token: String,
    /// The value of a `Set-Cookie` header that hands it to the browser.
    pub set_cookie: String,
    /// The same as fields.
    pub cookie: Cookie,
    /// The session.
    #[schemars(with = "Session<'a>")]
    pub session: Session<'a, D>,
    /// Sessions that ended for it.
    #[schemars(with = "Vec<schema::SessionId>")]
    pub ended: Vec<SessionId>,
}

/// A session under a new token.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Rotated", bound = "")]
pub struct Rotated<'a, D = Box<RawValue>> {
    /// For the client: the one it presented, where another request's rotation came first.
    pub token: String,
    /// The value of a `Set-Cookie` header; `null` where another request's rotation came first.
    pub set_cookie: Option<String>,
    /// The same as fields.
    pub cookie: Option<Cookie>,
    /// The session.
    #[schemars(with = "Session<'a>")]
    pub session: Session<'a, D>,
}

/// The session that a client has now, in the place of another.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HandedOver", bound = "")]
pub struct HandedOver<'a, D = Box<RawValue>> {
    /// For the client.
    pub token: String,
    /// The value of a `Set-Cookie` header that hands it to the browser.
    pub set_cookie: String,
    /// The same as fields.
    pub cookie: Cookie,
    /// The session.
    #[schemars(with = "Session<'a>")]
    pub session: Session<'a, D>,
}

macro_rules! hides_its_token {
    ($($name:ident)+) => {$(
        impl<D: std::fmt::Debug> std::fmt::Debug for $name<'_, D> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("session", &self.session).finish_non_exhaustive()
            }
        }
    )+};
}

hides_its_token! { Started Rotated HandedOver }

/// What a token opened, or with what was set what a visitor without one was given.
///
/// For the schema alone.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Resumed {
    /// The session.
    pub session: Session<'static>,
}

/// One of several.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ResumedOne", bound = "")]
pub enum ResumedOne<'a, D = Box<RawValue>, P = Problem> {
    /// The token opened it.
    Session(#[schemars(with = "Session<'a>")] Box<Session<'a, D>>),
    /// It opened nothing.
    Problem(#[schemars(with = "Problem")] P),
}

/// What each of several tokens opened.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResumedMany {
    /// In the order asked.
    pub results: Vec<ResumedOne<'static>>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// Whether it ended by this call.
    pub ended_now: bool,
    /// Why it ended, by this call or before.
    #[schemars(with = "schema::Reason")]
    pub reason: Cow<'static, str>,
    /// The value of a `Set-Cookie` header that removes the cookie; `null` where the browser may hold the cookie of a successor.
    pub clear_cookie: Option<String>,
}

/// A page of sessions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Listed", bound = "")]
pub struct Listed<'a, D = Box<RawValue>> {
    /// Without their data.
    #[schemars(with = "Vec<Session<'a>>")]
    pub sessions: Vec<Session<'a, D>>,
    /// Where the next page begins; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Cow<'a, str>>,
}

/// How many sessions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// So many, or where it is not exact so many at least.
    pub count: u64,
    /// Whether that is all of them.
    pub exact: bool,
}

/// What a call that ends many sessions did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revoked {
    /// How many.
    pub matched: usize,
    /// Which.
    #[schemars(with = "Vec<schema::SessionId>")]
    pub ended: Vec<SessionId>,
    /// Of a dry run: which would.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<schema::SessionId>>")]
    pub would_end: Option<Vec<SessionId>>,
}

/// A lock, and the session as it is by then.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Locked", bound = "")]
pub struct Locked<'a, D = Box<RawValue>> {
    /// Its number: each is higher than the one before. What is written with it is refused once the lock is lost.
    pub lock: u64,
    /// When it is lost unless it is renewed.
    #[schemars(with = "schema::Time")]
    pub until: Timestamp,
    /// The session.
    #[schemars(with = "Session<'a>")]
    pub session: Session<'a, D>,
}

/// A lock that was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewed {
    /// Its number.
    pub lock: u64,
    /// Until when it is held at least.
    #[schemars(with = "schema::Time")]
    pub until: Timestamp,
}

/// Whether a lock was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unlocked {
    /// `false` if it was lost before.
    pub released: bool,
}

/// How many expired sessions were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reaped {
    /// So many.
    pub ended: u64,
}

/// How the server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok` or `ready`.
    pub status: Cow<'static, str>,
}

/// A call that took longer than its caller waited.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Jobs", bound = "")]
pub struct Jobs<'a, A = Box<RawValue>> {
    /// As it is by now.
    #[schemars(with = "Job<'a>")]
    pub job: Job<'a, A>,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Job", bound = "")]
pub struct Job<'a, A = Box<RawValue>> {
    /// What to ask for it by.
    pub id: String,
    /// Method and path of the call.
    pub call: Cow<'a, str>,
    /// Whether it is over.
    pub state: JobState,
    /// When the call came.
    #[schemars(with = "schema::Time")]
    pub started_at: Timestamp,
    /// How many sessions it has ended so far.
    pub ended: usize,
    /// Once it is over: the status of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Once it is over: its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Object>")]
    pub answer: Option<A>,
}

/// Whether a job is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Not yet.
    Running,
    /// It did what was asked.
    Done,
    /// It could not. A repeat of the call tries again.
    Failed,
}
