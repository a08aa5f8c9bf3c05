//! Starting sessions: for a visitor, or for somebody who signed in.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    Sessions,
    lifetimes::Asked,
    sign_in::{AbsoluteEnd, SignIn},
};
use crate::{
    assurance::Assurance,
    client::Device,
    clock::Timestamp,
    data,
    ended::{Ended, Ending, Reason},
    error::{Error, Result},
    period::format_period,
    record::{Authentication, Record, SessionInfo},
    rules::{Create, Created, Loaded},
    secrets::Secrets,
    store::Query,
    token::{Digest, Partition, SessionId, Token},
};

/// A session that was started, and the only copy of its token.
#[derive(Clone, Debug)]
pub struct Started {
    /// For the client, and nobody else.
    pub token: Token,
    /// The session.
    pub record: Arc<Record>,
    /// Sessions that ended for it: the replaced one, an earlier try's, and those evicted by the limit.
    pub ended: Vec<Ended>,
}

impl Sessions {
    /// Starts a session. One round trip to the store.
    ///
    /// A full limit or a disabled user is [`Error::Refused`], and so is what the [directory](super::Builder::users) refuses.
    /// On a node whose clock is [too far off](super::ClockOffset::is_too_large) a sign-in is [`Error::Unavailable`].
    pub async fn start(&self, sign_in: SignIn) -> Result<Started> {
        self.start_with(sign_in, |partition| Token::generate(SessionId::generate(partition)?)).await
    }

    /// The living session of an earlier start with the same [idempotency key](SignIn::idempotency_key), of the same user. What
    /// it took from the session that it replaced lies there. Looks through the user's newest sessions; starts without a user
    /// are not found.
    pub async fn earlier_try(&self, start: &SignIn) -> Result<Option<Arc<Record>>> {
        const LOOKED_AT: usize = 50;
        let (Some(user), Some(digest)) = (&start.user, self.idempotency_digest(start)) else { return Ok(None) };
        let newest = self.find(&Query::of_user(Arc::clone(user)), None, LOOKED_AT).await?;
        for info in newest.items {
            if let Loaded::Live(record) = self.load(info.id, self.now()).await?
                && record.idempotency == Some(digest)
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Starts a session whose token, in this partition, somebody else makes.
    pub(crate) async fn start_with(
        &self,
        start: SignIn,
        token: impl FnOnce(Partition) -> Result<Token>,
    ) -> Result<Started> {
        if start.user.is_some() {
            self.check_clock().await?;
        }
        let now = self.now();
        let hanging = start.ends_with_it;
        let (mut create, token) = self.prepare(start, token, now)?;
        create.by = self.attributed(create.by.take());
        let created = match self.admit(&mut create, now).await? {
            Ok(()) => {
                create.limit = create.limit.or(self.config().limit);
                self.store_write(self.rules().create(&create, now)).await?
            }
            Err(refusal) => Created::Refused(refusal),
        };
        match created {
            Created::Created { mut ended } => {
                for ended in &ended {
                    self.watchers().tell(ended);
                }
                if let Some(id) = hanging {
                    ended.extend(Box::pin(self.end_hanging(id)).await);
                }
                let record = Arc::new(create.record);
                tracing::info!(session = %token.id(), user = record.info.user.as_deref(), "session started");
                if let Some(hook) = &self.0.after_start {
                    hook(Arc::clone(&record)).await;
                }
                Ok(Started { token, record, ended })
            }
            Created::Refused(refusal) => {
                tracing::warn!(user = create.record.info.user.as_deref(), %refusal, "session refused");
                Err(refusal.into())
            }
        }
    }

    /// Ends a session in which nobody can act any more, so that lists and the audit log say so at once.
    async fn end_hanging(&self, id: SessionId) -> Option<Ended> {
        match self.end(id, &Ending::new(Reason::Replaced)).await {
            Ok(answer) => answer.ended_now(),
            Err(error) => {
                tracing::warn!(session = %id, %error, "a session that nobody can use is left until somebody looks");
                None
            }
        }
    }

    fn prepare(
        &self,
        start: SignIn,
        token: impl FnOnce(Partition) -> Result<Token>,
        now: Timestamp,
    ) -> Result<(Create, Token)> {
        let config = self.config();
        for (what, text) in
            [("full_name", &start.full_name), ("user_type", &start.user_type), ("by", &start.by), ("note", &start.note)]
        {
            check_text(what, text.as_deref())?;
        }
        check_name("user", start.user.as_deref())?;
        check_name("audit_user", start.audit_user.as_deref())?;
        check_name("idempotency key", start.idempotency_key.as_deref())?;
        check_auditor(&start)?;
        check_methods(&start)?;
        let level = level_of(&start)?;
        for (key, _) in start.data.iter() {
            data::check_key(key, config.max_key_bytes)?;
        }
        let size = start.data.size();
        if size > config.max_data_bytes {
            let largest = start.data.iter().max_by_key(|(key, value)| data::entry_size(key, value.as_str()));
            let key = largest.map(|(key, _)| key.to_string());
            return Err(Error::TooLarge { key, size, limit: config.max_data_bytes });
        }
        let limit = start.limit;
        if limit.is_some_and(|limit| limit.max == 0) {
            let problem = "at least one session must be allowed; disable the user to allow none".into();
            return Err(Error::InvalidArgument { what: "limit", problem });
        }
        let asked = Asked {
            signed_in: start.user.is_some()
                && !(start.end == AbsoluteEnd::Assurance && config.lifetimes.assurance.is_none()),
            remember: start.remember,
            idle: start.idle_timeout,
            end: start.end,
        };
        let idempotency = self.idempotency_digest(&start);
        let parsed = start.client.user_agent.as_deref().map(Device::of);
        let is_mobile = parsed.as_ref().is_some_and(|device| device.kind.is_mobile());
        let (idle_timeout, mut ends_at) = config.lifetimes_of(is_mobile).deadlines(&asked, now)?;
        if start.audit_user.is_some() {
            ends_at = Some(auditors_end(&asked, ends_at, config.impersonation_limit, now)?);
        }
        let mut client = start.client;
        client.device = start.device.or(client.device).or_else(|| parsed?.name.map(Into::into));
        client.country = client.country.or_else(|| self.country_of(client.ip?));

        let token = token(self.partition(start.user.as_deref(), idempotency)?)?;
        let authentication = start.user.as_ref().map(|_| Authentication {
            // Another clock may be ahead: a proof from the future is one from now.
            at: start.authenticated_at.map_or(now, |at| at.min(now)),
            methods: start.methods,
            level,
        });
        let info = SessionInfo {
            user: start.user,
            full_name: start.full_name,
            user_type: start.user_type,
            idle_timeout,
            ends_at,
            remember: start.remember,
            client: client.cleaned(),
            audit_user: start.audit_user,
            authentication,
            ..SessionInfo::new(token.id(), now)
        };
        let record =
            Record { data: start.data, idempotency, ..Record::new(info, Secrets::new(self.digest(&token), now)) };
        Ok((Create { record, limit, replaces: start.replaces, by: start.by, note: start.note }, token))
    }

    /// The user is part of the digest: one key used for two people must not end the first one's session.
    fn idempotency_digest(&self, start: &SignIn) -> Option<Digest> {
        let text = start.idempotency_key.as_deref()?;
        let owner = start.user.as_deref().unwrap_or_default();
        Some(self.store().partition_key().keyed_digest(format!("idempotency\0{owner}\0{text}").as_bytes()))
    }

    #[cfg(feature = "geoip")]
    fn country_of(&self, address: IpAddr) -> Option<Arc<str>> {
        self.0.countries.as_ref()?.of(address)
    }

    #[cfg(not(feature = "geoip"))]
    #[expect(clippy::unused_self, reason = "there is no database to ask without the feature geoip")]
    fn country_of(&self, _address: IpAddr) -> Option<Arc<str>> {
        None
    }

    fn partition(&self, user: Option<&str>, idempotency: Option<Digest>) -> Result<Partition> {
        match (user, idempotency) {
            (Some(user), _) => Ok(self.store().partition_key().partition_of(user)),
            // A repeated start must find the first try's session, so both live in the partition of their key.
            (None, Some(digest)) => Ok(Partition::of_digest(&digest)),
            (None, None) => Partition::random(),
        }
    }
}

fn check_auditor(start: &SignIn) -> Result<()> {
    let wrong = |problem: &str| Err(Error::InvalidArgument { what: "audit_user", problem: problem.into() });
    match (&start.audit_user, &start.user) {
        (Some(_), None) => wrong("nobody is signed in whose account could be looked into"),
        (Some(auditor), Some(user)) if auditor == user => {
            wrong("it is the user themselves: an auditor is somebody else")
        }
        _ => Ok(()),
    }
}

/// When an auditor's session ends: as any other, but never later than allowed.
fn auditors_end(asked: &Asked, ends_at: Option<Timestamp>, most: Duration, now: Timestamp) -> Result<Timestamp> {
    let latest = now.after(most);
    if asked.end == AbsoluteEnd::Never || matches!(asked.end, AbsoluteEnd::At(end) if end > latest) {
        let problem = format!("a session of an auditor lasts at most {} (h:m:s)", format_period(most));
        return Err(Error::InvalidArgument { what: "ends_at", problem });
    }
    Ok(ends_at.map_or(latest, |end| end.min(latest)))
}

/// The level of a session: as strong as its authentication, or weaker.
fn level_of(start: &SignIn) -> Result<Option<Assurance>> {
    let wrong = |problem: String| Err(Error::InvalidArgument { what: "level", problem });
    match (start.level, start.authenticated_level) {
        (None, None) => Ok(None),
        _ if start.user.is_none() => wrong("nobody is signed in who could have proved who they are".into()),
        (None, proved) => Ok(proved),
        (Some(level), None) => wrong(format!("{level:?} takes an authentication of that level: say which it had")),
        (Some(level), Some(proved)) if level > proved => {
            wrong(format!("{level:?} is more than the authentication's {proved:?}: ask the person to prove more"))
        }
        (level, Some(_)) => Ok(level),
    }
}

fn check_methods(start: &SignIn) -> Result<()> {
    let methods = start.methods.as_deref();
    let wrong = |problem: &str| Err(Error::InvalidArgument { what: "methods", problem: problem.into() });
    check_name("methods", methods)?;
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    match (methods, &start.user) {
        (Some(_), None) => wrong("an anonymous visitor has proved nothing: leave it out, or name the user"),
        (Some(methods), _) if !methods.split(' ').all(is_name) => {
            wrong("write names of RFC 8176 with one space between them, such as \"pwd otp\"")
        }
        _ => Ok(()),
    }
}

/// How long a text may be, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Checks a text that is shown, and may be empty.
pub(crate) fn check_text(what: &'static str, text: Option<&str>) -> Result<()> {
    let Some(text) = text else { return Ok(()) };
    let problem = if text.len() > MAX_TEXT_BYTES {
        format!("it has {} bytes, the limit is {MAX_TEXT_BYTES}", text.len())
    } else if text.chars().any(char::is_control) {
        "it contains a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InvalidArgument { what, problem })
}

/// Checks a text that is compared, so that an empty one is a mistake.
pub(crate) fn check_name(what: &'static str, text: Option<&str>) -> Result<()> {
    if text == Some("") {
        return Err(Error::InvalidArgument { what, problem: "it is empty; leave it out instead".to_owned() });
    }
    check_text(what, text)
}
