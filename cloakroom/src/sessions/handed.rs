//! Handing a token over again, where the answer that brought it was lost.

use super::{Returned, Sessions, impersonate::living, resume::refused};
use crate::{
    clock::Timestamp,
    ended::Reason,
    error::{Error, Result},
    record::Record,
    rules::{Loaded, Rotated},
    secrets::Presented,
    token::{SessionId, Token},
};

impl Sessions {
    /// A new token of `session`, for the client that gave the token `spent` up for it, by [`impersonate`](Self::impersonate) or
    /// [`stop_impersonating`](Self::stop_impersonating), or by a rotation [at once](super::Rotate::at_once), and did not get
    /// the answer. The token that it did not get is dead.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSession`] unless `spent` was given up for this very session, and that is where the client is still;
    /// [`Error::Ended`] if it has ended.
    pub async fn hand_over_again(&self, spent: &Token, session: SessionId) -> Result<Returned> {
        let now = self.now();
        let record = living(self.get(session).await?)?;
        if !self.was_given_up_for(spent, &record, now).await? {
            refused(spent, "it was not given up for this session");
            return Err(Error::UnknownSession);
        }
        let token = Token::generate(session)?;
        match self.withdraw(session, record.secrets.current, self.digest(&token), now).await? {
            Rotated::Rotated(record) => Ok(Returned { token, record }),
            // Another repeat came first.
            Rotated::Superseded(_) => Err(Error::Contended { attempts: 1 }),
            Rotated::Gone(gone) => Err(gone.into()),
        }
    }

    async fn was_given_up_for(&self, spent: &Token, record: &Record, now: Timestamp) -> Result<bool> {
        let went_back = || record.secrets.present(&self.mark(spent.id()), now) == Presented::Withdrawn;
        Ok(match self.load_for(spent, now).await? {
            Loaded::Live(given_up) => {
                let presented = self.present(spent, &given_up.secrets, now);
                let waits = given_up.secrets.current == self.mark(record.info.id) && presented == Presented::Withdrawn;
                // Only the newest one: the tokens before it were followed by one that was presented.
                let newest = record.secrets.predecessors.first();
                let rotated = given_up.info.id == record.info.id
                    && presented == Presented::Withdrawn
                    && self.digests(spent).any(|digest| newest.is_some_and(|newest| newest.digest == digest));
                rotated || waits || presented != Presented::Unknown && went_back()
            }
            Loaded::Ended(tombstone) => {
                tombstone.ended.reason == Reason::ImpersonationEnded
                    && self.present(spent, &tombstone.secrets, now) != Presented::Unknown
                    && went_back()
            }
            Loaded::Unknown => false,
        })
    }
}
