//! What a lock protects, and how it protects itself from holders that have been overtaken.

use crate::types::Token;
use std::fmt;

/// A resource that refuses whoever comes with an older token than it has seen.
///
/// A lock alone cannot do this. Its holder may be paused, by a long collection of garbage or a stopped virtual machine, just
/// after it has looked at its lease; the lease ends, another owner is granted the lock and writes; then the first one goes
/// on and writes as well, convinced that it still holds the lock. Whoever is written to can tell the two apart: the newer
/// grant has the greater token.
///
/// ```
/// use lock_service::{Guarded, Stale, Token};
///
/// let mut file = Guarded::new(String::new());
/// file.access(Token(33)).unwrap().push_str("paused holder; ");
/// file.access(Token(34)).unwrap().push_str("new holder");
/// assert_eq!(file.access(Token(33)), Err(Stale { token: Token(33), newest: Token(34) }));
/// assert_eq!(file.look(), "paused holder; new holder");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Guarded<T> {
    newest: Option<Token>,
    value: T,
}

/// A newer holder has been here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// Shown by the caller.
    pub token: Token,
    /// Shown by another before.
    pub newest: Token,
}

impl<T> Guarded<T> {
    /// Open to the first who comes with a token.
    pub fn new(value: T) -> Self {
        Guarded { newest: None, value }
    }

    /// The resource, for the holder of this token. From now on every smaller one is refused. A real resource must remember
    /// the newest token as durably as its content.
    ///
    /// # Errors
    /// [`Stale`] where a greater token was shown before: the caller has lost the lock and must stop.
    pub fn access(&mut self, token: Token) -> Result<&mut T, Stale> {
        match self.newest {
            Some(newest) if token < newest => Err(Stale { token, newest }),
            _ => {
                self.newest = Some(token);
                Ok(&mut self.value)
            }
        }
    }

    /// The resource, to be looked at by anybody.
    pub fn look(&self) -> &T {
        &self.value
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} is stale: {} has been here", self.token.0, self.newest.0)
    }
}

impl std::error::Error for Stale {}
