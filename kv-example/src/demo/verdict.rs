//! What the demo found: lost and doubled puts, the outage, and whether it all counts as a success.

use crate::journal::{CallHash, ExecutedCall};
use crate::store::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use trimaran_runtime::Instant;

/// A gap is looked for from so long before what may have caused it.
const OUTAGE_BEFORE: Duration = Duration::from_secs(1);

/// The acknowledged puts against what the final leader's log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Acknowledged with a version under which the log does not hold them.
    pub(super) lost: usize,
    /// Puts that the log holds at two or more indexes.
    pub(super) doubled: usize,
}

/// Looks for every acknowledged put in `executed`; `puts` are all that were ever sent.
pub(super) fn compare(
    executed: &[ExecutedCall],
    acknowledged: &[(CallHash, Version)],
    puts: &BTreeSet<CallHash>,
) -> Comparison {
    let held: BTreeSet<(CallHash, Version)> = executed.iter().map(|call| (call.call, call.version)).collect();
    let mut times: BTreeMap<CallHash, usize> = BTreeMap::new();
    for call in executed.iter().filter(|call| puts.contains(&call.call)) {
        *times.entry(call.call).or_default() += 1;
    }
    Comparison {
        lost: acknowledged.iter().filter(|put| !held.contains(put)).count(),
        doubled: times.values().filter(|&&times| times > 1).count(),
    }
}

/// How long no put was acknowledged. One that did not end is longer than any that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outage {
    /// The longest gap between two consecutive acknowledgements.
    Gap(Duration),
    /// Puts stopped being acknowledged and did not begin again while the load lasted: at least so long.
    Endless(Duration),
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outage::Gap(gap) => write!(f, "{}", gap.as_millis()),
            Outage::Endless(gap) => write!(f, "> {}", gap.as_millis()),
        }
    }
}

/// The longest silence that began between something done at `cause` and `to`. `acknowledged_at` in any order, those after `to` included: whoever
/// looks at what was found does so where the load is made, and may hold it up.
pub(super) fn outage(acknowledged_at: &[Instant], cause: Instant, to: Instant) -> Outage {
    let from = Instant::from_nanos(cause.as_nanos().saturating_sub(OUTAGE_BEFORE.as_nanos() as u64));
    let mut within: Vec<Instant> = acknowledged_at.iter().copied().filter(|at| (from..=to).contains(at)).collect();
    within.sort_unstable();
    let gap = within.windows(2).map(|pair| pair[1].saturating_since(pair[0])).max().unwrap_or_default();
    let last = within.last().copied().unwrap_or(from);
    match acknowledged_at.iter().filter(|at| **at > to).min() {
        Some(next) => Outage::Gap(gap.max(next.saturating_since(last))),
        None if to.saturating_since(last) > gap => Outage::Endless(to.saturating_since(last)),
        None => Outage::Gap(gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executed(call: u64, version: u64, index: u64) -> ExecutedCall {
        ExecutedCall { call: CallHash(call), version: Version(version), index }
    }

    fn ms(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn an_acknowledged_put_must_be_there_under_its_version() {
        let log = [executed(10, 1, 5), executed(11, 2, 6), executed(12, 3, 8)];
        let puts = BTreeSet::from([10, 11, 12, 13].map(CallHash));
        let all = [(CallHash(10), Version(1)), (CallHash(12), Version(3))];
        assert_eq!(compare(&log, &all, &puts), Comparison { lost: 0, doubled: 0 });
        let missing = [(CallHash(13), Version(4))];
        assert_eq!(compare(&log, &missing, &puts), Comparison { lost: 1, doubled: 0 });
        let other_version = [(CallHash(10), Version(2))];
        assert_eq!(compare(&log, &other_version, &puts).lost, 1);
    }

    #[test]
    fn a_put_at_two_indexes_is_doubled_and_other_calls_are_not_counted() {
        let log = [executed(10, 1, 5), executed(99, 2, 6), executed(10, 3, 7), executed(99, 4, 8), executed(10, 5, 9)];
        let puts = BTreeSet::from([CallHash(10)]);
        assert_eq!(compare(&log, &[], &puts), Comparison { lost: 0, doubled: 1 });
    }

    #[test]
    fn the_outage_is_the_longest_gap_around_the_kill() {
        let kill = ms(3000);
        let mut acks: Vec<Instant> = (0..3000).chain(3250..14_000).map(ms).collect();
        assert_eq!(outage(&acks, kill, ms(14_000)), Outage::Gap(Duration::from_millis(251)));
        acks.retain(|&at| !(ms(500)..ms(1500)).contains(&at));
        assert_eq!(outage(&acks, kill, ms(14_000)), Outage::Gap(Duration::from_millis(251)), "long before the kill");
    }

    /// Two hundred thousand writes were looked for, and nothing was sent meanwhile.
    #[test]
    fn a_silence_that_ends_after_the_next_phase_has_begun_has_an_end() {
        let acks: Vec<Instant> = (0..3000).step_by(10).chain(3120..3130).map(ms).collect();
        assert_eq!(outage(&acks, ms(2000), ms(3100)), Outage::Gap(Duration::from_millis(130)));
    }

    #[test]
    fn an_outage_that_does_not_end_is_said_to_be_endless() {
        let acks: Vec<Instant> = (0..3000).map(ms).collect();
        assert_eq!(outage(&acks, ms(3000), ms(8000)), Outage::Endless(Duration::from_millis(5001)));
        assert_eq!(outage(&[], ms(3000), ms(8000)), Outage::Endless(Duration::from_millis(6000)));
    }
}
