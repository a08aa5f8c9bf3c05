//! The checks of the conformance suite, each a test on a fresh store. What each proves is in its line of the
//! [list](crate::testing).

pub(super) mod fixtures;

mod changes;
mod directory;
mod endings;
mod examining;
mod expiry;
mod index;
mod limits;
mod locks;
mod logging;
mod paging;
mod reaping;
mod rotation;
mod secrecy;
mod touches;
mod transfer;
mod values;

use crate::{store::BoxFuture, testing::Subject};

/// One check, to be run on a fresh store.
pub type Check = fn(Subject) -> BoxFuture<'static, ()>;

macro_rules! declare {
    ([] $($(#[doc = $doc:literal])+ $room:ident::$name:ident,)+) => {
        $(
            $(#[doc = $doc])+
            pub fn $name(subject: Subject) -> BoxFuture<'static, ()> {
                Box::pin(async move { $room::$name(&subject).await })
            }
        )+
    };
}

crate::__each_check! { [declare] }
