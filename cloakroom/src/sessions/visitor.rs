//! What a request presented.

use std::net::IpAddr;

use crate::token::Token;

/// What a request presented, and what is known of where it comes from. A token alone is one too.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cloakroom::Result<()> {
/// use std::net::{IpAddr, Ipv4Addr};
///
/// use cloakroom::{Found, Sessions, SignIn, Visitor};
///
/// let sessions = Sessions::open("memory:").await?;
/// let token = sessions.start(SignIn::new("anna")).await?.token;
///
/// assert!(matches!(sessions.resume(&token).await?, Found::Live(_)));
///
/// let monitor = Visitor::new(&token).ip(IpAddr::V4(Ipv4Addr::LOCALHOST)).touch(false);
/// assert!(matches!(sessions.resume(monitor).await?, Found::Live(_)));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Visitor<'a> {
    pub(crate) token: &'a Token,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) touch: bool,
}

impl<'a> Visitor<'a> {
    /// A request that presented this token.
    pub fn new(token: &'a Token) -> Self {
        Self { token, ip: None, touch: true }
    }

    /// The address that it comes from. Default: it is not known, and a user whom the [directory](crate::Builder::users)
    /// lets in from some networks only is refused.
    pub fn ip(mut self, ip: impl Into<Option<IpAddr>>) -> Self {
        self.ip = ip.into();
        self
    }

    /// Whether it counts as use, and moves the idle deadline. Default true.
    pub fn touch(mut self, touch: bool) -> Self {
        self.touch = touch;
        self
    }
}

impl<'a> From<&'a Token> for Visitor<'a> {
    fn from(token: &'a Token) -> Self {
        Self::new(token)
    }
}
