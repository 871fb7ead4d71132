//! Log time: the only clock that replicated state knows.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment in log time: nanoseconds since the cluster was formed, as far as it had a leader.
///
/// The leader that appends an entry stamps it; every replica reads the same value, and it never goes back. It is no wall
/// clock: it stands still while nobody leads, and follows the leaders' clocks in rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogTime(u64);

impl LogTime {
    /// When the cluster was formed.
    pub const ZERO: LogTime = LogTime(0);
    /// Later than any entry.
    pub const FAR: LogTime = LogTime(u64::MAX);

    /// A moment so many nanoseconds after the cluster was formed.
    pub const fn from_nanos(nanos: u64) -> LogTime {
        LogTime(nanos)
    }

    /// Nanoseconds since the cluster was formed.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; nothing where it is not.
    pub const fn saturating_since(self, earlier: LogTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for LogTime {
    type Output = LogTime;

    /// Saturates at [`LogTime::FAR`], 584 years on.
    fn add(self, span: Duration) -> LogTime {
        LogTime(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for LogTime {
    type Output = LogTime;

    /// Saturates at [`LogTime::ZERO`].
    fn sub(self, span: Duration) -> LogTime {
        LogTime(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stay_in_range() {
        assert_eq!(LogTime::FAR + Duration::from_secs(1), LogTime::FAR);
        assert_eq!(LogTime::from_nanos(5) + Duration::MAX, LogTime::FAR);
        assert_eq!(LogTime::from_nanos(5) - Duration::from_secs(1), LogTime::ZERO);
        assert_eq!(LogTime::ZERO.saturating_since(LogTime::FAR), Duration::ZERO);
    }
}
