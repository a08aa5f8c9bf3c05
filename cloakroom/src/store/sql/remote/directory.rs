//! The users of the directory.

use super::{Arg, Dialect, SqlStore};
use crate::{
    Result,
    store::{BoxFuture, Cursor, Directory, Page, PutUser, StoredUser, sql::rows::ip_column},
};

impl<D: Dialect> Directory for SqlStore<D> {
    fn user<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Option<StoredUser>>> {
        Box::pin(async move {
            let answers = self.read("user", vec![Arg::text(user)]).await?;
            answers.iter().next().map(|answer| answer.user()).transpose()
        })
    }

    fn put_user<'a>(&'a self, put: &'a PutUser) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let PutUser { user, was, settings, last_sign_in } = put;
            let args = vec![
                self.lock_of_user(user),
                Arg::text(user),
                Arg::maybe_text(was.as_ref()),
                Arg::maybe_text(settings.as_ref()),
                Arg::maybe_at(last_sign_in.map(|last| last.at)),
                Arg::Text(ip_column(last_sign_in.and_then(|last| last.ip)).map(Into::into)),
            ];
            Ok(self.write("put_user", args).await?.number()? == Some(1))
        })
    }

    fn users<'a>(&'a self, after: Option<&'a Cursor>, limit: usize) -> BoxFuture<'a, Result<Page<StoredUser>>> {
        Box::pin(async move {
            let after = after.map(Cursor::name).transpose()?.unwrap_or_default();
            let answers = self.read("users", vec![Arg::text(&after), Arg::count(limit.saturating_add(1))]).await?;
            let mut items = answers.iter().map(|answer| answer.user()).collect::<Result<Vec<_>>>()?;
            let is_over = items.len() <= limit;
            items.truncate(limit);
            let next = items.last().filter(|_| !is_over).map(|last| Cursor::behind(&last.user));
            Ok(Page { items, next })
        })
    }
}
