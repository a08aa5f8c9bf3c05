//! Where an export goes on, in stores that hold sessions in the order of their ids.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Item;
use crate::{
    Result, SessionId,
    store::{Cursor, Page},
};

/// Behind which item of which kind; `None` before the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum After {
    Session(Option<SessionId>),
    Ended(Option<SessionId>),
    Fence(Option<Arc<str>>),
}

impl After {
    pub(in crate::store) fn parse(cursor: Option<&Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Session(None)) };
        let (kind, behind) = match cursor.as_str().split_once('.') {
            Some((kind, behind)) => (kind, Some(behind)),
            None => (cursor.as_str(), None),
        };
        let id = || behind.map(str::parse).transpose().map_err(|_| Cursor::invalid());
        match kind {
            "s" => Ok(Self::Session(id()?)),
            "t" => Ok(Self::Ended(id()?)),
            "f" => {
                let user = behind.map(|user| String::from_utf8(URL_SAFE_NO_PAD.decode(user).ok()?).ok());
                let user = user.map(|user| user.ok_or_else(Cursor::invalid)).transpose()?;
                Ok(Self::Fence(user.map(Into::into)))
            }
            _ => Err(Cursor::invalid()),
        }
    }

    /// A page of what was found behind this place, at most `limit` items: fewer say that there are no more of their kind.
    pub(in crate::store) fn page(&self, items: Vec<Item>, limit: usize) -> Page<Item> {
        let next = match items.last().filter(|_| items.len() >= limit) {
            Some(Item::Session(record)) => Some(Self::Session(Some(record.info.id))),
            Some(Item::Ended(tombstone)) => Some(Self::Ended(Some(tombstone.ended.id))),
            Some(Item::Fence(fence)) => Some(Self::Fence(Some(Arc::clone(&fence.user)))),
            None => match self {
                Self::Session(_) => Some(Self::Ended(None)),
                Self::Ended(_) => Some(Self::Fence(None)),
                Self::Fence(_) => None,
            },
        };
        Page { items, next: next.map(Self::cursor) }
    }

    fn cursor(self) -> Cursor {
        let id = |id: Option<SessionId>| id.map_or_else(String::new, |id| format!(".{id}"));
        Cursor::new(match self {
            Self::Session(behind) => format!("s{}", id(behind)),
            Self::Ended(behind) => format!("t{}", id(behind)),
            Self::Fence(None) => "f".to_owned(),
            Self::Fence(Some(user)) => format!("f.{}", URL_SAFE_NO_PAD.encode(user.as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Partition;

    #[test]
    fn places_are_read_back() {
        let id = SessionId::generate(Partition::random().unwrap()).unwrap();
        for after in [
            After::Session(None),
            After::Session(Some(id)),
            After::Ended(None),
            After::Ended(Some(id)),
            After::Fence(None),
            After::Fence(Some("".into())),
            After::Fence(Some("анна ~ 😀".into())),
        ] {
            let cursor = after.clone().cursor();
            assert!(cursor.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{cursor:?}");
            assert_eq!(After::parse(Some(&cursor)).unwrap(), after);
        }
        for text in ["", "x", "s.x", "t.", "f.*", "s."] {
            assert!(After::parse(Some(&Cursor::new(text))).is_err(), "{text}");
        }
    }
}
