//! The users of the directory. Each group keeps those of its partitions: a sorted set of their names, a hash of what is
//! settled about each, and a hash of when each last signed in and where from.

use redis::Value;

use super::{
    Inner, groups,
    keys::{self, Keys},
    reply::{Damaged, Reply},
    rows, scripts,
    scripts::{Arguments, Call, Effect},
};
use crate::{
    Partition, Result, SessionInfo, Timestamp,
    store::{Cursor, LastSignIn, Page, PutUser, StoredUser},
};

/// So many groups are asked at the same time, when those before were empty.
const GROUPS_AT_ONCE: usize = 128;

impl Keys {
    /// The keys of a group's users: names, settings, sign-ins.
    pub(super) fn of_users(&self, group: u16) -> [Vec<u8>; 3] {
        ["users", "settings", "signed_in"].map(|name| self.of_group(name, group))
    }
}

impl Inner {
    pub(super) async fn user(&self, user: &str) -> Result<Option<StoredUser>> {
        let group = self.partition_key.partition_of(user).group();
        let call = self.on_users(&scripts::USER, group, Arguments::new(Timestamp::EPOCH).text(user));
        let [settings, signed_in]: [Value; 2] =
            self.servers.run(&call.with(Effect::Reads)).await?.array()?.try_into().map_err(|_| Damaged("a user"))?;
        if settings == Value::Nil {
            return Ok(None);
        }
        Ok(Some(stored(user.into(), settings, signed_in)?))
    }

    pub(super) async fn put_user(&self, put: &PutUser) -> Result<bool> {
        let PutUser { user, was, settings, last_sign_in } = put;
        let group = self.partition_key.partition_of(user).group();
        let arguments = Arguments::new(Timestamp::EPOCH)
            .text(&**user)
            .optional(was.as_deref())
            .optional(settings.as_deref())
            .text(last_sign_in.map(rows::sign_in).unwrap_or_default());
        let call = self.on_users(&scripts::PUT_USER, group, arguments).waiting(self.keys.of_group("wait", group));
        self.yes_or_no(call).await
    }

    /// By group, then by name.
    pub(super) async fn users(&self, after: Option<&Cursor>, limit: usize) -> Result<Page<StoredUser>> {
        let after = after.map(Cursor::name).transpose()?;
        let mut group = after.as_ref().map_or(0, |after| self.partition_key.partition_of(after).group());
        let mut behind = after.map_or_else(|| b"-".to_vec(), |after| [b"(", after.as_bytes()].concat());
        let mut items: Vec<StoredUser> = Vec::new();
        let mut at_once = 1;
        while group < Partition::GROUPS {
            // One more than fits tells whether more follow.
            let count = limit - items.len() + 1;
            let asked: Vec<_> = groups().skip(group.into()).take(at_once).collect();
            let calls = asked.iter().map(|asked| {
                let from = std::mem::replace(&mut behind, b"-".to_vec());
                let arguments = Arguments::new(Timestamp::EPOCH).text(from).number(count);
                self.on_users(&scripts::USERS, *asked, arguments).with(Effect::Reads)
            });
            let answers = self.servers.run_all(calls).await?;
            for found in answers.into_iter().map(Reply::array).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
                if items.len() == limit {
                    let next = items.last().map(|last| Cursor::behind(&last.user));
                    return Ok(Page { items, next });
                }
                let [user, settings, signed_in]: [Value; 3] =
                    found.array()?.try_into().map_err(|_| Damaged("a list of users"))?;
                items.push(stored(user.text()?.into(), settings, signed_in)?);
            }
            group += u16::try_from(asked.len()).unwrap_or(Partition::GROUPS);
            at_once = (at_once * 2).min(GROUPS_AT_ONCE);
        }
        Ok(Page { items, next: None })
    }

    fn on_users(&self, script: &'static scripts::Script, group: u16, arguments: Arguments) -> Call {
        Call::script(keys::slot_of_group(group), script, self.keys.of_users(group).into(), arguments)
    }
}

/// What a creation notes about its user; empty for nothing.
pub(super) fn sign_in_of(info: &SessionInfo) -> String {
    LastSignIn::of(info).map(|(_, sign_in)| rows::sign_in(sign_in)).unwrap_or_default()
}

fn stored(user: std::sync::Arc<str>, settings: Value, signed_in: Value) -> Result<StoredUser, Damaged> {
    let last_sign_in = signed_in.optional_text()?.map(|text| rows::read_sign_in(&text)).transpose()?;
    Ok(StoredUser { user, settings: settings.text()?.into(), last_sign_in })
}
