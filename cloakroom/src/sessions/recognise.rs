//! From the cookies of a request to the one session that is believed.

use std::{net::IpAddr, sync::Arc};

use crate::{
    clock::Timestamp,
    cookie::Presented,
    error::Result,
    record::{Record, SessionInfo},
    rules::Loaded,
    secrets::Presented as Standing,
    sessions::{Found, Sessions, Visitor, refused},
    token::Token,
};

/// What the session cookies of a request stand for: the answer of [`Sessions::recognise`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Recognised {
    /// The session that is believed.
    pub found: Found,
    /// The token that opens it, or that of the ended one.
    pub token: Option<Token>,
    /// Living sessions of which none is believed, because the cookies hold tokens of several.
    pub rivals: Vec<SessionInfo>,
}

impl Sessions {
    /// The session that a request's [cookies](crate::web::CookieConfig::read) open. Counts as use, and a user whom the
    /// [directory](crate::Builder::users) lets in from some networks only is refused elsewhere, as by
    /// [`resume`](Self::resume).
    ///
    /// A browser may send several cookies of the name: a stale one of a parent domain or of another path stands beside the
    /// right one, and the request does not say which is which. Among them exactly one living session is believed. Of several
    /// living ones none is, because another host of the domain may have planted one: that is a warning in the log, and an
    /// entry in the audit log of each. At most [`Presented::MOST`] different tokens are looked at.
    pub async fn recognise(&self, presented: &Presented, ip: Option<IpAddr>) -> Result<Recognised> {
        match presented {
            Presented::Nothing => Ok(Recognised::of(None, Found::Unknown)),
            Presented::Malformed => {
                tracing::warn!("a session cookie that is not a token was refused");
                Ok(Recognised::of(None, Found::Unknown))
            }
            Presented::Token(token) => {
                let found = self.resume(Visitor::new(token).ip(ip)).await?;
                Ok(Recognised::of(Some(token), found))
            }
            Presented::Several(tokens) => Box::pin(self.choose(tokens, ip)).await,
        }
    }

    async fn choose(&self, tokens: &[Token], ip: Option<IpAddr>) -> Result<Recognised> {
        let living = self.living(tokens, self.now()).await?;
        match living.as_slice() {
            [(token, record)] => {
                tracing::info!(session = %record.info.id, "of several session cookies the one that opens a session was believed");
                Ok(Recognised::of(Some(token), self.resume(Visitor::new(token).ip(ip)).await?))
            }
            [] => {
                tracing::warn!("none of several session cookies opens a session: the newest reason is told");
                let mut chosen = Recognised::of(None, Found::Unknown);
                for token in tokens {
                    let found = self.resume(Visitor::new(token).ip(ip)).await?;
                    if self.tells_more(&found, &chosen.found) {
                        chosen = Recognised::of(Some(token), found);
                    }
                }
                Ok(chosen)
            }
            several => {
                let rivals: Vec<_> = several.iter().map(|(_, record)| record.info.clone()).collect();
                for info in &rivals {
                    let user = info.user.as_deref();
                    tracing::warn!(session = %info.id, user, "{SEVERAL}: none was believed");
                    self.log_refused_request(info, &format!("a request was refused: {SEVERAL}")).await;
                }
                Ok(Recognised { rivals, ..Recognised::of(None, Found::Unknown) })
            }
        }
    }

    /// The tokens that open a session now, the latest for each. Nothing is used, and none is taken for a thief's: what is
    /// stale in one cookie may stand beside the current one in another.
    async fn living(&self, tokens: &[Token], now: Timestamp) -> Result<Vec<(Token, Arc<Record>)>> {
        let mut living: Vec<(Token, Arc<Record>)> = Vec::new();
        let mut strange = Vec::new();
        for token in tokens {
            let record = match self.load_for(token, now).await? {
                Loaded::Live(record) => record,
                Loaded::Ended(_) => continue,
                Loaded::Unknown => {
                    strange.push((token, "unknown session"));
                    continue;
                }
            };
            let same = living.iter_mut().find(|(other, _)| other.id() == token.id());
            match (self.present(token, &record.secrets, now), same) {
                (Standing::Current | Standing::Successor, Some(one)) => *one = (token.clone(), record),
                (Standing::Current | Standing::Successor | Standing::Predecessor, None) => {
                    living.push((token.clone(), record));
                }
                (Standing::Unknown, _) => strange.push((token, "wrong secret")),
                _ => {}
            }
        }
        if !living.is_empty() {
            // Where none lives, each is resumed, and says so then.
            for (token, why) in strange {
                refused(token, why);
            }
        }
        Ok(living)
    }

    /// Of sessions that ended the last one tells the visitor why they are signed out; above all one whose successor's cookie
    /// may be under way.
    fn tells_more(&self, found: &Found, than: &Found) -> bool {
        let rank = |found: &Found| match found {
            Found::Unknown => None,
            Found::Ended(ended) => Some((self.has_fresh_successor(ended), ended.at)),
            Found::Live(_) => Some((true, Timestamp::MAX)),
        };
        rank(found) > rank(than)
    }
}

/// Why it is refused that cookies open several sessions.
pub(crate) const SEVERAL: &str = "its cookies hold the tokens of several living sessions";

impl Recognised {
    pub(crate) fn of(token: Option<&Token>, found: Found) -> Self {
        Self { found, token: token.cloned(), rivals: Vec::new() }
    }
}
