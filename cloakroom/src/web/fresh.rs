//! The extractor for what takes a person who has just proved who they are.

use std::ops::Deref;

use super::SignedIn;

/// The session of somebody who proved who they are at most `SECONDS` ago: for changing a password, for paying.
///
/// A visitor who is not signed in is answered as by [`SignedIn`]. A user who is, but not lately enough, is answered 401 with the
/// code `reauthentication_required` and the member `max_age`; or, where they ask for a page and there is a
/// [sign-in page](super::SessionLayer::sign_in_page), is sent there with `?next=` and `&max_age=`. That page then
/// must ask although a user is signed in, and ends with [`Session::reauthenticate`](crate::Session::reauthenticate).
///
/// ```
/// use cloakroom::Fresh;
///
/// async fn change_password(user: Fresh<600>) -> String {
///     format!("{} proved who they are within ten minutes", user.user())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Fresh<const SECONDS: u64>(pub(super) SignedIn);

impl<const SECONDS: u64> Fresh<SECONDS> {
    /// Who is signed in.
    pub fn into_inner(self) -> SignedIn {
        self.0
    }
}

impl<const SECONDS: u64> Deref for Fresh<SECONDS> {
    type Target = SignedIn;

    fn deref(&self) -> &SignedIn {
        &self.0
    }
}
