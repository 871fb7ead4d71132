//! What a run measured: latencies of answered calls, and how the others ended.

use super::{Answered, Failure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Counts and latencies of one run.
#[derive(Debug)]
pub struct Measured {
    latency_ns: Histogram<u64>,
    answered_in_time: u64,
    refused: u64,
    not_applied: u64,
    unknown: u64,
    unsent: u64,
}

impl Default for Measured {
    fn default() -> Self {
        // Three digits from 1 ns to an hour: the arguments are constants that the library accepts.
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).unwrap_or_else(|_| unreachable!());
        Measured { latency_ns, answered_in_time: 0, refused: 0, not_applied: 0, unknown: 0, unsent: 0 }
    }
}

/// Latencies in nanoseconds; `None` where nothing was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub p9999: u64,
    pub max: u64,
}

impl Measured {
    /// Notes the end of a call. Calls still on their way at the end of the run have a latency like all others, but do
    /// not count for the throughput.
    pub(super) fn record(
        &mut self,
        latency: Duration,
        result: &Result<Answered, Failure>,
        answered: bool,
        before_end: bool,
    ) {
        match result {
            Ok(_) if answered => {
                self.note(latency);
                self.answered_in_time += u64::from(before_end);
            }
            Ok(_) => self.refused += 1,
            Err(Failure::NotApplied) => self.not_applied += 1,
            Err(Failure::Unknown) => self.unknown += 1,
        }
    }

    fn note(&mut self, latency: Duration) {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_ns.saturating_record(latency_ns.clamp(1, LATENCY_NS_MAX));
    }

    /// An answer within the measured time, where nothing but answers is told apart.
    pub(crate) fn add_answered(&mut self, latency: Duration) {
        self.note(latency);
        self.answered_in_time += 1;
    }

    /// So many that have not been answered.
    pub(crate) fn add_lost(&mut self, count: u64) {
        self.unknown += count;
    }

    /// A run with these answers, for tests of tables.
    #[cfg(test)]
    pub(crate) fn of(latencies: impl IntoIterator<Item = Duration>) -> Measured {
        let mut measured = Measured::default();
        let answered = Ok(Answered { status: trimaran_rpc::r2p2::Status::Ok, body: Vec::new() });
        latencies.into_iter().for_each(|latency| measured.record(latency, &answered, true, true));
        measured
    }

    /// Adds what another run has measured.
    pub fn add(&mut self, other: &Measured) {
        // Both have the same bounds.
        let _ = self.latency_ns.add(&other.latency_ns);
        self.answered_in_time += other.answered_in_time;
        self.refused += other.refused;
        self.not_applied += other.not_applied;
        self.unknown += other.unknown;
        self.unsent += other.unsent;
    }

    pub(super) fn left(&mut self, calls: u64) {
        self.unsent += calls;
    }

    /// Calls answered as they should be.
    pub fn answered(&self) -> u64 {
        self.latency_ns.len()
    }

    /// Answers a second, of a run whose measured part was so long.
    pub fn per_second(&self, measured: Duration) -> f64 {
        self.answered_in_time as f64 / measured.as_secs_f64()
    }

    /// Calls that the service refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Calls that certainly had no effect.
    pub fn not_applied(&self) -> u64 {
        self.not_applied
    }

    /// Calls of unknown outcome.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Calls that were due but could not be sent, because too many were on their way.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Latencies of the answered calls, in nanoseconds.
    pub fn latency_ns(&self) -> &Histogram<u64> {
        &self.latency_ns
    }

    /// Latencies of the answered calls.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.latency_ns.value_at_quantile(quantile);
        (!self.latency_ns.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.latency_ns.max(),
        })
    }

    /// All of it; `null` for what was not measured.
    pub fn to_json(&self, measured: Duration) -> Value {
        let percentiles = self.percentiles().map(
            |p| json!({ "p50": p.p50, "p90": p.p90, "p99": p.p99, "p99.9": p.p999, "p99.99": p.p9999, "max": p.max }),
        );
        json!({
            "answered": self.answered(),
            "refused": self.refused,
            "not_applied": self.not_applied,
            "unknown": self.unknown,
            "unsent": self.unsent,
            "per_second": self.per_second(measured),
            "latency_ns": percentiles,
        })
    }
}

/// The middle one of what several rounds have come to, of an even number of them the mean of the two in the middle: else one of these
/// would count and the other not. `None` of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().checked_sub(1)? / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_even_number_of_rounds_both_in_the_middle_count() {
        assert_eq!(median(vec![9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(vec![9.0, 1.0, 4.0, 5.0]), Some(4.5));
        assert_eq!(median(vec![1.0, 0.5]), Some(0.75));
        assert_eq!(median(Vec::new()), None);
    }
    use trimaran_rpc::r2p2::Status;

    fn ok() -> Result<Answered, Failure> {
        Ok(Answered { status: Status::Ok, body: Vec::new() })
    }

    #[test]
    fn only_answered_calls_have_a_latency() {
        let mut measured = Measured::default();
        assert_eq!(measured.percentiles(), None);
        assert!(measured.to_json(Duration::from_secs(1))["latency_ns"].is_null());
        for us in 1..=100 {
            measured.record(Duration::from_micros(us), &ok(), true, true);
        }
        measured.record(Duration::from_secs(9), &ok(), false, true);
        measured.record(Duration::from_secs(9), &Err(Failure::NotApplied), false, true);
        measured.record(Duration::from_secs(9), &Err(Failure::Unknown), false, true);
        measured.record(Duration::from_micros(50), &ok(), true, false);
        measured.left(7);
        let counts = (measured.answered(), measured.refused(), measured.not_applied(), measured.unknown());
        assert_eq!((counts, measured.unsent()), ((101, 1, 1, 1), 7));
        assert_eq!(measured.per_second(Duration::from_secs(10)), 10.0, "without the one that came late");
        let p = measured.percentiles().expect("101 calls");
        let near = |ns: u64, us: u64| ns.abs_diff(us * 1000) <= us;
        assert!(near(p.p50, 50) && near(p.p99, 99) && near(p.max, 100), "{p:?}");
    }

    #[test]
    fn the_longest_latency_is_not_lost() {
        let mut measured = Measured::default();
        measured.record(Duration::MAX, &ok(), true, true);
        measured.record(Duration::ZERO, &ok(), true, true);
        assert_eq!(measured.answered(), 2);
        assert!(measured.percentiles().expect("2 calls").max >= LATENCY_NS_MAX / 1001 * 1000);
    }
}
