//! Ending sessions, and finding them.

use std::{collections::HashSet, sync::Arc};

use super::{Found, Sessions};
use crate::{
    audit::{AuditEntry, Event},
    client::canonical,
    ended::{Ended, Ending},
    error::Result,
    record::SessionInfo,
    rules::{EndAnswer, Fence, Which},
    store::{Cursor, Page, Query},
    token::SessionId,
};

impl From<EndAnswer> for Found {
    fn from(answer: EndAnswer) -> Self {
        match answer {
            EndAnswer::EndedNow(ended) | EndAnswer::EndedBefore(ended) => Self::Ended(ended),
            EndAnswer::Unknown(_) => Self::Unknown,
        }
    }
}

impl Sessions {
    /// Ends one session. Ending it again changes nothing and answers how it ended.
    pub async fn end(&self, id: SessionId, ending: &Ending) -> Result<EndAnswer> {
        let answers = self.end_many(vec![id], ending).await?;
        Ok(answers.into_iter().next().unwrap_or(EndAnswer::Unknown(id)))
    }

    /// As another one ended: for the same reason, by the same hand.
    pub(super) async fn end_as(&self, id: SessionId, ending: &Ending) -> Result<EndAnswer> {
        let answers = self.end_attributed(&Which::Ids(vec![id]), ending).await?;
        Ok(answers.into_iter().next().unwrap_or(EndAnswer::Unknown(id)))
    }

    /// Ends sessions in one transaction. Answers in the order asked.
    pub async fn end_many(&self, ids: Vec<SessionId>, ending: &Ending) -> Result<Vec<EndAnswer>> {
        self.end_which(Which::Ids(ids), ending).await
    }

    /// Ends all sessions of a user but `except`, in one transaction; a sign-in that is under way is refused. Answers
    /// which ended, newest first.
    pub async fn end_all_of(
        &self,
        user: impl Into<Arc<str>>,
        except: Vec<SessionId>,
        ending: &Ending,
    ) -> Result<Vec<Ended>> {
        self.end_of_user(user.into(), except, Fence::EndedBefore, ending).await
    }

    /// Ends every living session that matches but `except`, in portions; a query without a field matches all there are.
    /// Answers which ended. What starts meanwhile may stay, except where the query names a user and nothing else: then it is
    /// [`end_all_of`](Self::end_all_of).
    pub async fn end_where(&self, query: &Query, except: &[SessionId], ending: &Ending) -> Result<Vec<Ended>> {
        if let Query { user: Some(user), impersonated_by: None, ip: None, device: None, last_seen_before: None } = query
        {
            return self.end_all_of(Arc::clone(user), except.to_vec(), ending).await;
        }
        let except = except.iter().copied().collect();
        let mut ended = Vec::new();
        let mut after = None;
        loop {
            let (ids, next) = self.page_of_ids(query, &except, after.as_ref()).await?;
            let answers = self.end_many(ids, ending).await?;
            ended.extend(answers.into_iter().filter_map(EndAnswer::ended_now));
            after = next;
            if after.is_none() {
                return Ok(ended);
            }
        }
    }

    /// Which sessions [`end_where`](Self::end_where) would end now.
    pub async fn ids_where(&self, query: &Query, except: &[SessionId]) -> Result<Vec<SessionId>> {
        let except = except.iter().copied().collect();
        let (mut found, mut after) = self.page_of_ids(query, &except, None).await?;
        while let Some(cursor) = after {
            let (ids, next) = self.page_of_ids(query, &except, Some(&cursor)).await?;
            found.extend(ids);
            after = next;
        }
        Ok(found)
    }

    async fn page_of_ids(
        &self,
        query: &Query,
        except: &HashSet<SessionId>,
        after: Option<&Cursor>,
    ) -> Result<(Vec<SessionId>, Option<Cursor>)> {
        let page = self.find(query, after, 500).await?;
        let ids = page.items.iter().map(|info| info.id).filter(|id| !except.contains(id));
        Ok((ids.collect(), page.next))
    }

    /// All living sessions of a user's own, newest first. Those in which somebody else acts as the user are left out:
    /// [`find`](Self::find) has them.
    pub async fn list(&self, user: impl Into<Arc<str>>) -> Result<Vec<SessionInfo>> {
        let query = Query::of_user(user);
        let mut page = self.find(&query, None, 500).await?;
        let mut sessions = page.items;
        while let Some(next) = page.next {
            page = self.find(&query, Some(&next), 500).await?;
            sessions.append(&mut page.items);
        }
        sessions.retain(|info| info.impersonator().is_none());
        Ok(sessions)
    }

    /// A page of living sessions that match, data left out: newest first where a user is given. It may hold fewer than
    /// `limit` although more follow.
    pub async fn find(&self, query: &Query, after: Option<&Cursor>, limit: usize) -> Result<Page<SessionInfo>> {
        let query = Query { ip: canonical(query.ip), ..query.clone() };
        let mut page = self.store_read(self.rules().find(&query, after, limit, self.now())).await?;
        self.retain_attended(&mut page.items).await?;
        Ok(page)
    }

    /// Notes in the audit log that a request of this session was refused.
    pub(crate) async fn log_refused_request(&self, info: &SessionInfo, why: &str) {
        let (by, note) = (self.attributed(None), Some(why.into()));
        let entry = AuditEntry { by, note, ..AuditEntry::about(info, Event::Refused, self.now()) };
        self.log_refusal(&entry).await;
    }

    /// Tells the audit log of what was refused before the store was asked. It stays refused if that fails.
    pub(super) async fn log_refusal(&self, entry: &AuditEntry) {
        if let Err(error) = self.store_write(self.rules().log(entry, entry.at)).await {
            tracing::error!(%error, session = %entry.session, "a refusal could not be written to the audit log");
        }
    }

    pub(super) async fn end_of_user(
        &self,
        user: Arc<str>,
        except: Vec<SessionId>,
        fence: Fence,
        ending: &Ending,
    ) -> Result<Vec<Ended>> {
        let answers = self.end_which(Which::OfUser { user, except, fence }, ending).await?;
        Ok(answers.into_iter().filter_map(EndAnswer::ended_now).collect())
    }

    async fn end_which(&self, which: Which, ending: &Ending) -> Result<Vec<EndAnswer>> {
        super::check_text("by", ending.by.as_deref())?;
        super::check_text("note", ending.note.as_deref())?;
        let ending = Ending { by: self.attributed(ending.by.clone()), ..ending.clone() };
        self.end_attributed(&which, &ending).await
    }

    async fn end_attributed(&self, which: &Which, ending: &Ending) -> Result<Vec<EndAnswer>> {
        let answers = self.store_write(self.rules().end(which, ending, self.now())).await?;
        for answer in &answers {
            if let EndAnswer::EndedNow(ended) | EndAnswer::EndedBefore(ended) = answer {
                self.watchers().tell(ended);
            }
            if let EndAnswer::EndedNow(ended) = answer {
                tracing::info!(session = %ended.id, reason = %ended.reason, by = ended.by.as_deref(), "session ended");
            }
        }
        Ok(answers)
    }
}
