//! What a read must see: as callers say it, as the request block carries it, and as command lines spell it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use trimaran_raft::LogIndex;

/// How new the state must be that a read sees.
///
/// | | sees | costs | answered by |
/// |---|---|---|---|
/// | [`Linearizable`](Consistency::Linearizable) | every write that was answered before the read was sent | a round to a majority, shared | the leader, or the replica that is named |
/// | [`Lease`](Consistency::Lease) | the same, as long as clocks keep the bound that is configured | nothing while the leader's lease lasts, else as above | the same |
/// | [`AtLeast`](Consistency::AtLeast) | the log up to an index, for instance the caller's own writes | nothing | any replica |
/// | [`Stale`](Consistency::Stale) | every write that was answered so long before | nothing | any replica |
/// | [`Any`](Consistency::Any) | something that was true once | nothing | any replica, even one that is cut off |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Consistency {
    /// It reflects every write that was answered before the read was sent. Costs a round to a majority, which the reads of one
    /// moment share.
    #[default]
    Linearizable,
    /// As `Linearizable`, and the leader asks nobody while its lease lasts. Nodes refuse it
    /// ([`Refusal::LeasesOff`](crate::r2p2::Refusal::LeasesOff)) unless their configuration says `[reads] lease = true`: it rests on
    /// their clocks' rates.
    Lease,
    /// It reflects the log up to this index, for instance that of a write's reply
    /// ([`Call::with_index`](crate::client::Call::with_index)). Any replica of the same cluster that has come so far answers.
    AtLeast(LogIndex),
    /// It reflects every write that was answered `max` before the answer left. Any replica that hears its leader can say so, down to
    /// about two heartbeats (40 ms in the profile `shared`).
    Stale {
        /// How old the state may be, in nanoseconds on the wire.
        max: Duration,
    },
    /// Whatever the replica that is asked has, however old.
    Any,
}

impl Consistency {
    const LINEARIZABLE: u8 = 0;
    const LEASE: u8 = 1;
    const AT_LEAST: u8 = 2;
    const STALE: u8 = 3;

    /// The number that stands for it in a request block, and what it is about: an index, or an age in nanoseconds. Of `Any` the
    /// policy says all.
    pub(crate) fn to_wire(self) -> (u8, u64) {
        match self {
            Consistency::Linearizable | Consistency::Any => (Consistency::LINEARIZABLE, 0),
            Consistency::Lease => (Consistency::LEASE, 0),
            Consistency::AtLeast(index) => (Consistency::AT_LEAST, index.0),
            Consistency::Stale { max } => (Consistency::STALE, u64::try_from(max.as_nanos()).unwrap_or(u64::MAX)),
        }
    }

    /// What Raft is asked for; `None` for a number that this build does not know.
    pub(crate) fn from_wire(number: u8, about: u64) -> Option<trimaran_raft::Consistency> {
        Some(match number {
            Consistency::LINEARIZABLE => trimaran_raft::Consistency::Linearizable,
            Consistency::LEASE => trimaran_raft::Consistency::Lease,
            Consistency::AT_LEAST => trimaran_raft::Consistency::AtLeast(LogIndex(about)),
            Consistency::STALE => trimaran_raft::Consistency::Stale { max: Duration::from_nanos(about) },
            _ => return None,
        })
    }

    /// Whether every replica may answer by itself, so that there is nothing to go to the leader for.
    pub(crate) fn is_for_any_replica(self) -> bool {
        matches!(self, Consistency::AtLeast(_) | Consistency::Stale { .. } | Consistency::Any)
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Consistency::Linearizable => f.write_str("linearizable"),
            Consistency::Lease => f.write_str("lease"),
            Consistency::AtLeast(index) => write!(f, "at-least={}", index.0),
            Consistency::Stale { max } => write!(f, "stale={}us", max.as_micros()),
            Consistency::Any => f.write_str("any"),
        }
    }
}

/// A text that names no consistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of linearizable, lease, stale=50ms, at-least=INDEX, any")]
pub struct BadConsistency;

impl FromStr for Consistency {
    type Err = BadConsistency;

    fn from_str(text: &str) -> Result<Self, BadConsistency> {
        let known = match text.split_once('=') {
            None => match text {
                "linearizable" => Some(Consistency::Linearizable),
                "lease" => Some(Consistency::Lease),
                "any" => Some(Consistency::Any),
                _ => None,
            },
            Some(("at-least", index)) => index.parse().ok().map(|index| Consistency::AtLeast(LogIndex(index))),
            Some(("stale", max)) => crate::program::config::units::duration(max).map(|max| Consistency::Stale { max }),
            Some(_) => None,
        };
        known.ok_or(BadConsistency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimaran_raft::Consistency as Wanted;

    #[test]
    fn numbers_on_the_wire_are_those_of_the_format() {
        let max = Duration::from_millis(50);
        let known = [
            (Consistency::Linearizable, (0, 0), Wanted::Linearizable),
            (Consistency::Lease, (1, 0), Wanted::Lease),
            (Consistency::AtLeast(LogIndex(7)), (2, 7), Wanted::AtLeast(LogIndex(7))),
            (Consistency::Stale { max }, (3, 50_000_000), Wanted::Stale { max }),
        ];
        for (consistency, (number, about), wanted) in known {
            assert_eq!(consistency.to_wire(), (number, about));
            assert_eq!(Consistency::from_wire(number, about), Some(wanted));
        }
        assert!((4..=u8::MAX).all(|number| Consistency::from_wire(number, 0).is_none()));
        assert_eq!(Consistency::Stale { max: Duration::MAX }.to_wire(), (3, u64::MAX));
    }

    #[test]
    fn texts_name_what_they_are_printed_as() {
        for text in ["linearizable", "lease", "at-least=12", "stale=50000us", "any"] {
            assert_eq!(text.parse::<Consistency>().map(|known| known.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("stale=50ms".parse(), Ok(Consistency::Stale { max: Duration::from_millis(50) }));
        for wrong in ["", "stale", "stale=", "stale=50", "at-least", "at-least=-1", "fresh", "lease=1"] {
            assert_eq!(wrong.parse::<Consistency>(), Err(BadConsistency), "{wrong}");
        }
    }
}
