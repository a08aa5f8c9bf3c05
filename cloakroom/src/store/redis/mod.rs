//! Sessions in Redis, alone, as a cluster, or behind sentinels.
//!
//! Every call on a session or a user is one script on keys of one slot, so it is atomic and takes one round trip. What
//! lies under which key is told in [`keys`] and [`rows`].

mod address;
mod cluster_map;
mod directory;
mod examine;
mod health;
mod keys;
mod link;
mod listing;
mod log;
mod reply;
mod rows;
mod scripts;
mod sentinels;
mod servers;
mod settings;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;

use std::{fmt, sync::Arc, time::Duration};

use redis::Value;

use self::{
    address::{Address, Layout},
    keys::{Keys, Place},
    reply::{Damaged, Reply},
    rows::Note,
    scripts::{Arguments, Call, Effect, Script},
    servers::Servers,
};
use crate::{
    AuditEntry, Change, Ended, Ending, Error, Fields, Partition, PartitionKey, Reason, Record, Result, SessionId,
    SessionInfo, Timestamp,
    store::{
        AuditQuery, BoxFuture, Create, Created, Cursor, Directory, EndAnswer, Fence, Gone, Limit, Loaded, Locked,
        Locks, Logged, Page, PutUser, Query, Reap, Reaped, Refusal, Rotated, Rotation, Schema, Store, StoredUser,
        Touch, Updated, WhenFull, Which, transfer::AdoptableKey,
    },
};

/// Sessions in Redis 7 or newer: one server, a cluster, or a primary that sentinels watch.
///
/// | address | |
/// |---|---|
/// | `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]` | one server, port 6379 and database 0 unless told otherwise |
/// | `redis-cluster://[USER:PASSWORD@]HOST:PORT?node=HOST:PORT,…` | a cluster, found through any of the nodes named |
/// | `redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/NAME[/DATABASE]` | the primary that these sentinels (port 26379 unless told otherwise) know as `NAME`, whichever it is at the time |
/// | `rediss://…`, `rediss-cluster://…`, `rediss-sentinel://…` | the same over TLS (feature `tls`), sentinels too |
///
/// | parameter | default | |
/// |---|---|---|
/// | `prefix` | `cloakroom:` | what all keys begin with; stores of different prefixes do not meet |
/// | `timeout_ms` | 5000 | how long a call may take, with all its tries |
/// | `wait_replicas` | 0 | how many replicas must have a creation, rotation or ending before it is answered |
/// | `sentinel_login` | `none` | `same`: sentinels ask for the user and password in the address, too |
/// | `tls_ca` | the system's | a PEM file: the authorities to trust in place of those whom the system trusts |
/// | `tls_cert`, `tls_key` | | PEM files: the certificate to show, where the server asks for one, and its key |
///
/// # What it promises
///
/// Each call on one session or one user is one script: nobody sees half of it, and a limit holds however many nodes sign
/// a user in at once. Sessions of one user lie in one of 1,024 groups, each in a slot of its own.
///
/// # What it keeps
///
/// As much as Redis does. With `appendonly yes` and `appendfsync always`, what was answered survives the end of the server,
/// `kill -9` and a power failure; with `everysec` the last second may be gone; without an append-only file everything since the
/// last snapshot. When a primary fails, what its replica had not received is gone, even an ending: `wait_replicas=1` answers
/// only when a replica has it, and otherwise with [`Error::OutcomeUnknown`].
///
/// Redis must not evict: with a `maxmemory` and a policy other than `noeviction` it would drop sessions and
/// indexes as it likes. Opening warns of it, and [`ping`](Store::ping) fails.
///
/// # Round trips
///
/// One a call. A sign-in that replaces a session of another group takes two, listing all sessions and reaping visit all
/// groups. A connection that was cut is made again and the call repeated, within `timeout_ms`; so is a call that a
/// cluster cannot serve while slots move or a primary is replaced.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Servers,
    keys: Keys,
    partition_key: AdoptableKey,
    layout: Layout,
}

impl RedisStore {
    /// Opens the store at an address, and sets it up if it is new.
    ///
    /// # Errors
    ///
    /// [`Error::StoreUrl`] if the address cannot be used; [`Error::Unavailable`] if no server answers in time;
    /// [`Error::Store`] if it is too old, refuses the user, or belongs to a cluster and the address does not say so.
    pub async fn open(url: &str) -> Result<Self> {
        let address = Address::parse(url)?;
        let (keys, layout) = (Keys::new(&address.prefix), address.layout.clone());
        let servers = Servers::new(address);
        let partition_key = AdoptableKey::new(health::prepare(&servers, &keys).await?);
        Ok(Self { inner: Arc::new(Inner { servers, keys, partition_key, layout }) })
    }
}

impl RedisStore {
    /// Which version the layout of what is stored has.
    pub(in crate::store) async fn schema(url: &str) -> Result<Schema> {
        let address = Address::parse(url)?;
        let keys = Keys::new(&address.prefix);
        health::schema(&Servers::new(address), &keys).await
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.inner.layout {
            Layout::One => "",
            Layout::Cluster => "cluster, ",
            Layout::Sentinels(_) => "sentinels, ",
        };
        write!(f, "RedisStore({kind}prefix {:?})", self.inner.keys.prefix())
    }
}

impl Store for RedisStore {
    fn partition_key(&self) -> &PartitionKey {
        &self.inner.partition_key
    }

    fn create<'a>(&'a self, create: &'a Create, now: Timestamp) -> BoxFuture<'a, Result<Created>> {
        Box::pin(self.inner.create(create, now))
    }

    fn load(&self, id: SessionId, now: Timestamp) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(self.inner.load(id, now))
    }

    fn peek(&self, _id: SessionId, _now: Timestamp) -> Option<Loaded> {
        None
    }

    fn update<'a>(&'a self, id: SessionId, change: &'a Change, now: Timestamp) -> BoxFuture<'a, Result<Updated>> {
        Box::pin(self.inner.update(id, change, now))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch], now: Timestamp) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.inner.touch(touches, now))
    }

    fn rotate<'a>(&'a self, id: SessionId, rotation: &'a Rotation, now: Timestamp) -> BoxFuture<'a, Result<Rotated>> {
        Box::pin(self.inner.rotate(id, rotation, now))
    }

    fn end<'a>(
        &'a self,
        which: &'a Which,
        ending: &'a Ending,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<EndAnswer>>> {
        Box::pin(async move {
            match which {
                Which::Ids(ids) => self.inner.end_ids(ids, ending, now).await,
                Which::OfUser { user, except, fence } => self.inner.end_user(user, except, *fence, ending, now).await,
            }
        })
    }

    fn log<'a>(&'a self, entry: &'a AuditEntry, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.append_to_log(entry, now))
    }

    fn enable_user<'a>(&'a self, user: &'a str, now: Timestamp) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.enable_user(user, now))
    }

    fn find<'a>(
        &'a self,
        query: &'a Query,
        after: Option<&'a Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Page<SessionInfo>>> {
        Box::pin(self.inner.find(query, after, limit, now))
    }

    fn reap<'a>(&'a self, reap: &'a Reap, now: Timestamp) -> BoxFuture<'a, Result<Reaped>> {
        Box::pin(self.inner.reap(reap, now))
    }

    fn audit<'a>(
        &'a self,
        query: &'a AuditQuery,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page<Logged>>> {
        Box::pin(self.inner.audit(query, after, limit))
    }

    fn ping(&self) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        Box::pin(async move {
            let inner = &self.inner;
            health::check(&inner.servers, &inner.keys, &inner.partition_key).await.map(Some)
        })
    }
}

impl Directory for RedisStore {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        Box::pin(self.inner.user(user))
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.inner.put_user(put))
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(self.inner.users(after, limit))
    }
}

impl Locks for RedisStore {
    fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<Locked>> {
        Box::pin(self.inner.lock(id, lease, now))
    }

    fn renew(&self, id: SessionId, number: u64, lease: Duration, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        let arguments = Arguments::new(now).text(id.to_string()).number(number).text(rows::millis(lease));
        Box::pin(self.inner.yes_or_no(self.inner.on_session(&scripts::RENEW, id, 2, arguments)))
    }

    fn unlock(&self, id: SessionId, number: u64, now: Timestamp) -> BoxFuture<'_, Result<bool>> {
        let arguments = Arguments::new(now).text(id.to_string()).number(number);
        Box::pin(self.inner.yes_or_no(self.inner.on_session(&scripts::UNLOCK, id, 2, arguments)))
    }
}

impl Inner {
    async fn create(self: &Arc<Self>, create: &Create, now: Timestamp) -> Result<Created> {
        let id = create.record.info.id;
        let group = id.partition().group();
        let elsewhere = create.replaces.filter(|replaced| replaced.partition().group() != group);
        let arguments = self.creation(create, elsewhere, now);
        let mut keys = self.keys.group(group);
        let [_, settings, signed_in] = self.keys.of_users(group);
        keys.extend([self.keys.of_session(id), settings, signed_in]);
        let call = Call::script(keys::slot_of_group(group), &scripts::CREATE, keys, arguments);
        let call = call.waiting(self.keys.of_group("wait", group));
        let (word, mut rest) = self.servers.run(&call).await?.tagged()?;
        let first = rest.drain(..).next().unwrap_or_default();
        let mut ended = match (word.as_str(), create.limit) {
            ("created", _) => first.array()?.into_iter().map(ended).collect::<Result<Vec<_>, _>>()?,
            ("there", _) if first == Value::Int(1) => Vec::new(),
            ("there", _) => return Ok(Created::Created { ended: Vec::new() }),
            ("refused", limit) => return Ok(Created::Refused(refusal(&first.text()?, limit)?)),
            _ => return Err(Damaged("the answer to a creation").into()),
        };
        if let Some(replaced) = elsewhere {
            let (store, note) = (Arc::clone(self), Note { replaced, at: now.as_millis(), by: create.by.clone() });
            // In a task of its own: a caller that goes away leaves it to be done.
            let finishing = tokio::spawn(async move { store.end_replaced(id, &note).await });
            ended.splice(0..0, finishing.await.map_err(|error| Error::store("a task panicked", error))??);
        }
        Ok(Created::Created { ended })
    }

    fn creation(&self, create: &Create, elsewhere: Option<SessionId>, now: Timestamp) -> Arguments {
        let Create { record, limit, replaces, by, note: remark } = create;
        let info = &record.info;
        let limit = limit.filter(|_| info.impersonated_by.is_none());
        let group = info.id.partition().group();
        let here = replaces.filter(|_| elsewhere.is_none());
        let note = elsewhere.map(|replaced| rows::to_json(&Note { replaced, at: now.as_millis(), by: by.clone() }));
        let max = limit.map(|limit| limit.max);
        let refuses = limit.is_some_and(|limit| limit.when_full == WhenFull::Refuse);
        let [from, to] =
            info.user.as_ref().map_or_else(Default::default, |user| Place::all_of(user, &self.partition_key));
        let event = AuditEntry::started(record, now).event;
        let refusals =
            [Refusal::LimitReached { max: max.unwrap_or_default() }, Refusal::UserDisabled, Refusal::EndedMeanwhile];
        let [full, disabled, meanwhile] = refusals.map(|refusal| create.refusal_note(refusal));
        self.begin(group, now)
            .text(info.id.to_string())
            .text(Place::of(info, &self.partition_key).as_bytes())
            .optional(info.user.as_deref())
            .number(info.fenced_at().as_millis())
            .text(max.map_or_else(String::new, |max| max.to_string()))
            .text(if refuses { "refuse" } else { "evict" })
            .text(here.map_or_else(String::new, |id| id.to_string()))
            .text(note.unwrap_or_default())
            .text(record.idempotency.as_ref().map_or(&[][..], |digest| digest.as_bytes()))
            .optional(by.as_deref())
            .text(event.code())
            .number(info.last_seen_at.as_millis())
            .text(info.expires_at().map_or_else(String::new, |at| at.as_millis().to_string()))
            .text(&*full)
            .text(&*disabled)
            .text(&*meanwhile)
            .text(record.secrets.current.as_bytes())
            .text(rows::who(info))
            .text(from)
            .text(to)
            .optional(remark.as_deref())
            .text(directory::sign_in_of(info))
            .extend(rows::fields(record))
    }

    /// The second step of a sign-in that replaces a session of another group: ends it, and crosses out the note.
    /// Also done by [`reap`](Self::reap) when the first try did not get here; twice is harmless.
    async fn end_replaced(self: &Arc<Self>, successor: SessionId, note: &Note) -> Result<Vec<Ended>> {
        let Note { replaced, at, by } = note;
        let group = replaced.partition().group();
        let ending = Ending { reason: Reason::Replaced, by: by.clone(), note: None };
        let arguments = self.ending(group, &ending, Timestamp::from_millis(*at)).text(replaced.to_string());
        let call = self.on_group(&scripts::END_IDS, group, &[*replaced], arguments);
        let call = call.waiting(self.keys.of_group("wait", group));
        let mut answers = self.servers.run(&call).await?.array()?;
        let answer = end_answer(*replaced, answers.pop().unwrap_or_default())?;

        let group = successor.partition().group();
        let arguments = self.begin(group, Timestamp::EPOCH).text(successor.to_string());
        let done = self.on_group(&scripts::DONE, group, &[], arguments);
        let store = Arc::clone(self);
        // Nobody waits for it: a note too many is only ended once more.
        tokio::spawn(async move { store.servers.run(&done).await });
        Ok(match answer {
            EndAnswer::EndedNow(ended) => vec![ended],
            EndAnswer::EndedBefore(_) | EndAnswer::Unknown(_) => Vec::new(),
        })
    }

    async fn load(&self, id: SessionId, now: Timestamp) -> Result<Loaded> {
        let arguments = Arguments::new(now).text(id.to_string());
        let call = self.on_session(&scripts::LOAD, id, 2, arguments).with(Effect::Reads);
        let (word, rest) = self.servers.run(&call).await?.tagged()?;
        Ok(match word.as_str() {
            "live" => Loaded::Live(record(id, rest)?),
            "ended" => Loaded::Ended(Arc::new(rows::tombstone(id, rest)?)),
            "unknown" => Loaded::Unknown,
            _ => return Err(Damaged("the answer to a load").into()),
        })
    }

    async fn update(&self, id: SessionId, change: &Change, now: Timestamp) -> Result<Updated> {
        let Change { id: change_id, remove_all, remove, set, fields, relied_on, if_version, lease, max_data_bytes } =
            change;
        let Fields { full_name, user_type, idle_timeout, ends_at } = fields;
        let changed = |name: &'static str, value: Option<Option<String>>| value.map(|value| (name, value));
        let fields_changed: Vec<_> = [
            changed("n", full_name.as_ref().map(|name| name.as_deref().map(Into::into))),
            changed("y", user_type.as_ref().map(|kind| kind.as_deref().map(Into::into))),
            changed("o", idle_timeout.map(|idle| idle.map(rows::millis))),
            changed("x", ends_at.map(|end| end.map(|end| end.as_millis().to_string()))),
        ]
        .into_iter()
        .flatten()
        .collect();

        let or_empty = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let mut arguments = Arguments::new(now)
            .text(id.to_string())
            .text(change_id.to_be_bytes())
            .text(or_empty(*lease))
            .text(or_empty(*if_version))
            .number(max_data_bytes)
            .flag(*remove_all)
            .flag(fields.are_audited())
            .number(relied_on.len())
            .number(remove.len())
            .number(set.len())
            .number(fields_changed.len());
        for (key, value) in relied_on {
            arguments = arguments.text(&**key).optional(value.as_ref().map(crate::Json::as_str));
        }
        for key in remove {
            arguments = arguments.text(&**key);
        }
        for (key, value) in set {
            arguments = arguments.text(&**key).text(value.as_str());
        }
        for (name, value) in fields_changed {
            arguments = arguments.text(name).optional(value);
        }
        let call = self.on_session(&scripts::UPDATE, id, 4, arguments);
        let (word, mut rest) = self.servers.run(&call).await?.tagged()?;
        Ok(match word.as_str() {
            "applied" => Updated::Applied(record(id, rest)?),
            "conflict" => Updated::Conflict(record(id, rest)?),
            "lease" => Updated::LeaseLost,
            "large" => Updated::TooLarge(rest.pop().unwrap_or_default().number()?),
            word => Updated::Gone(gone(id, word, rest)?),
        })
    }

    async fn touch(&self, touches: &[Touch], now: Timestamp) -> Result<Vec<bool>> {
        /// So many in one script; then others get their turn.
        const BATCH: usize = 256;
        let ids: Vec<_> = touches.iter().map(|touch| touch.id).collect();
        let batches = by_group(&ids, BATCH);
        let calls = batches.iter().map(|(group, places)| {
            let mut arguments = self.begin(*group, now);
            for touch in places.iter().map(|place| &touches[*place]) {
                let grace = touch.grace_ends.map_or_else(String::new, |end| end.as_millis().to_string());
                arguments = arguments.text(touch.id.to_string()).number(touch.seen_at.as_millis()).text(grace);
            }
            let ids: Vec<_> = places.iter().map(|place| ids[*place]).collect();
            self.on_group(&scripts::TOUCH, *group, &ids, arguments)
        });
        let mut there = vec![false; touches.len()];
        for (answer, (_, places)) in self.servers.run_all(calls).await?.into_iter().zip(&batches) {
            for (answer, place) in answer.array()?.into_iter().zip(places) {
                there[*place] = answer == Value::Int(1);
            }
        }
        Ok(there)
    }

    async fn rotate(&self, id: SessionId, rotation: &Rotation, now: Timestamp) -> Result<Rotated> {
        let Rotation { presented, successor, grace, at_once, by } = rotation;
        let arguments = Arguments::new(now)
            .text(id.to_string())
            .text(presented.as_bytes())
            .text(successor.as_bytes())
            .text(rows::millis(*grace))
            .optional(by.as_deref())
            .flag(*at_once);
        let wait = self.keys.of_group("wait", id.partition().group());
        let call = self.on_session(&scripts::ROTATE, id, 4, arguments).waiting(wait);
        let (word, rest) = self.servers.run(&call).await?.tagged()?;
        Ok(match word.as_str() {
            "rotated" => Rotated::Rotated(record(id, rest)?),
            "superseded" => Rotated::Superseded(record(id, rest)?),
            word => Rotated::Gone(gone(id, word, rest)?),
        })
    }

    async fn end_ids(&self, ids: &[SessionId], ending: &Ending, now: Timestamp) -> Result<Vec<EndAnswer>> {
        const BATCH: usize = 64;
        let batches = by_group(ids, BATCH);
        let calls = batches.iter().map(|(group, places)| {
            let ids: Vec<_> = places.iter().map(|place| ids[*place]).collect();
            let texts = ids.iter().map(|id| id.to_string().into_bytes());
            let arguments = self.ending(*group, ending, now).extend(texts);
            self.on_group(&scripts::END_IDS, *group, &ids, arguments).waiting(self.keys.of_group("wait", *group))
        });
        let mut ended: Vec<_> = ids.iter().map(|id| EndAnswer::Unknown(*id)).collect();
        for (answer, (_, places)) in self.servers.run_all(calls).await?.into_iter().zip(&batches) {
            for (answer, place) in answer.array()?.into_iter().zip(places) {
                ended[*place] = end_answer(ids[*place], answer)?;
            }
        }
        Ok(ended)
    }

    async fn end_user(
        &self,
        user: &str,
        except: &[SessionId],
        fence: Fence,
        ending: &Ending,
        now: Timestamp,
    ) -> Result<Vec<EndAnswer>> {
        let group = self.partition_key.partition_of(user).group();
        let [from, to] = Place::all_of(user, &self.partition_key);
        let arguments = self
            .ending(group, ending, now)
            .text(user)
            .text(from)
            .text(to)
            .text(if fence == Fence::Disabled { "disabled" } else { "" })
            .extend(except.iter().map(|id| id.to_string().into_bytes()));
        let call = self.on_group(&scripts::END_USER, group, &[], arguments).waiting(self.keys.of_group("wait", group));
        let answers = self.servers.run(&call).await?.array()?;
        let answers = answers.into_iter().map(|answer| ended(answer).map(EndAnswer::EndedNow));
        Ok(answers.collect::<Result<_, _>>()?)
    }

    /// In the group of the session that the entry is about, like all that is logged of it.
    async fn append_to_log(&self, entry: &AuditEntry, now: Timestamp) -> Result<()> {
        let arguments = Arguments::new(now)
            .text(entry.session.to_string())
            .number(entry.at.as_millis())
            .text(entry.event.code())
            .text(rows::who_of(entry))
            .optional(entry.reason.map(Reason::code))
            .optional(entry.by.as_deref())
            .optional(entry.note.as_deref());
        self.servers.run(&self.on_session(&scripts::LOG, entry.session, 4, arguments)).await?;
        Ok(())
    }

    async fn enable_user(&self, user: &str, now: Timestamp) -> Result<()> {
        let group = self.partition_key.partition_of(user).group();
        let arguments = self.begin(group, now).text(user);
        self.servers.run(&self.on_group(&scripts::ENABLE_USER, group, &[], arguments)).await?;
        Ok(())
    }

    async fn lock(&self, id: SessionId, lease: Duration, now: Timestamp) -> Result<Locked> {
        let arguments = Arguments::new(now).text(id.to_string()).text(rows::millis(lease));
        // A repeat would find the lock held, by its own first try.
        let call = self.on_session(&scripts::LOCK, id, 2, arguments).with(Effect::Once);
        let (word, mut rest) = self.servers.run(&call).await?.tagged()?;
        Ok(match word.as_str() {
            "granted" => Locked::Granted(record(id, rest)?),
            "held" => Locked::Held { until: rest.pop().unwrap_or_default().time()? },
            word => Locked::Gone(gone(id, word, rest)?),
        })
    }

    async fn yes_or_no(&self, call: Call) -> Result<bool> {
        Ok(self.servers.run(&call).await? == Value::Int(1))
    }

    /// A script on one session, which needs the first `keys` of those that such scripts know by position.
    fn on_session(&self, script: &'static Script, id: SessionId, keys: usize, arguments: Arguments) -> Call {
        let group = id.partition().group();
        let of_group = ["seen", "expiry", "audit"].into_iter().map(|name| self.keys.of_group(name, group));
        let keys = std::iter::once(self.keys.of_session(id)).chain(of_group).take(keys).collect();
        Call::script(keys::slot_of_group(group), script, keys, arguments)
    }

    fn on_group(&self, script: &'static Script, group: u16, ids: &[SessionId], arguments: Arguments) -> Call {
        let mut keys = self.keys.group(group);
        keys.extend(ids.iter().map(|id| self.keys.of_session(*id)));
        Call::script(keys::slot_of_group(group), script, keys, arguments)
    }

    /// The arguments that every script on a group has.
    fn begin(&self, group: u16, now: Timestamp) -> Arguments {
        Arguments::new(now).text(self.keys.of_sessions(group))
    }

    fn ending(&self, group: u16, ending: &Ending, now: Timestamp) -> Arguments {
        let Ending { reason, by, note } = ending;
        self.begin(group, now).text(reason.code()).optional(by.as_deref()).optional(note.as_deref())
    }
}

fn record(id: SessionId, rest: Vec<Value>) -> Result<Arc<Record>, Damaged> {
    let [seen, fields] = rest.try_into().map_err(|_| Damaged("a record"))?;
    rows::record(id, seen, fields).map(Arc::new)
}

fn gone(id: SessionId, word: &str, rest: Vec<Value>) -> Result<Gone, Damaged> {
    match word {
        "unknown" => Ok(Gone::Unknown),
        "ended" => Ok(Gone::Ended(rows::tombstone(id, rest)?.ended)),
        _ => Err(Damaged("an answer")),
    }
}

fn end_answer(id: SessionId, answer: Value) -> Result<EndAnswer, Damaged> {
    let (word, rest) = answer.tagged()?;
    match word.as_str() {
        "now" => Ok(EndAnswer::EndedNow(rows::tombstone(id, rest)?.ended)),
        "ended" => Ok(EndAnswer::EndedBefore(rows::tombstone(id, rest)?.ended)),
        "unknown" => Ok(EndAnswer::Unknown(id)),
        _ => Err(Damaged("the answer to an ending")),
    }
}

/// A session that ended in the course of something else: its id and how.
fn ended(answer: Value) -> Result<Ended, Damaged> {
    let (id, rest) = answer.tagged()?;
    let id = id.parse().map_err(|_| Damaged("a session id"))?;
    Ok(rows::tombstone(id, rest)?.ended)
}

fn refusal(word: &str, limit: Option<Limit>) -> Result<Refusal, Damaged> {
    match (word, limit) {
        ("full", Some(Limit { max, .. })) => Ok(Refusal::LimitReached { max }),
        ("disabled", _) => Ok(Refusal::UserDisabled),
        ("meanwhile", _) => Ok(Refusal::EndedMeanwhile),
        _ => Err(Damaged("a refusal")),
    }
}

/// Places of ids in the list, by group, at most `batch` together.
fn by_group(ids: &[SessionId], batch: usize) -> Vec<(u16, Vec<usize>)> {
    let mut places: Vec<_> = ids.iter().enumerate().map(|(place, id)| (id.partition().group(), place)).collect();
    places.sort_unstable();
    let groups = places.chunk_by(|(one, _), (other, _)| one == other);
    let batches = groups.flat_map(|group| group.chunks(batch));
    batches.map(|batch| (batch[0].0, batch.iter().map(|(_, place)| *place).collect())).collect()
}

/// All groups, in order.
fn groups() -> impl Iterator<Item = u16> {
    0..Partition::GROUPS
}
