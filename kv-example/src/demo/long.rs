//! `kv demo --long`: a follower is away for ten million entries. The leader's memory stays as it is, and the follower returns by
//! a snapshot and the log after it.
//!
//! So many calls cannot be remembered and judged. Most are puts that are counted, on keys of their own; beside them runs a slow
//! sample of the demo's usual load, which is judged as usual, with a read of each of its keys at the end.

use super::table::{self, Replica, write_row};
use super::workload::DemoWorkload;
use super::{Load, PATIENCE, Stage, note};
use crate::group::{GROUP_KEYS, Group};
use crate::load::{Answered, Ask, Failure, Measured, Pace, Workload};
use crate::requests;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;
use trimaran_rpc::admin::NodeStatus;
use trimaran_rpc::program::connect::panicked;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::{machine, say};
use trimaran_rpc::r2p2::Status;
use trimaran_rpc::sim::linearizability::{self, DEFAULT_STEPS_PER_KEY, Report};
use trimaran_runtime::{Instant, now};

/// The log holds a small part of the entries: it is full early, and the rest of the run shows that it stays so.
const LOG_SHARE: u64 = 16;
/// With a key and a small value.
const ENTRY_BYTES: u64 = 112;
const LOG_MIB_LEAST: u64 = 4;
const LOG_MIB_MOST: u64 = 64;
/// A leader waits for one that has fallen silent, for two seconds, before its log forgets what that one lacks. A small log would be
/// full before.
const SILENCE: Duration = Duration::from_millis(2500);
/// Puts on their way.
const OUTSTANDING: usize = 256;
/// Calls of the sample.
const SAMPLED_PER_SECOND: u32 = 200;
/// At most so many of them, whatever it takes.
const SAMPLED_MAX: u64 = 500_000;
/// Keys of the puts that are only counted.
const BULK_KEYS: u32 = 10_000;
const BULK_VALUE_BYTES: usize = 16;
/// Between two looks at the leader.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Lines about the progress.
const LINES: u64 = 10;
/// How long the follower may take to return.
const RETURN_WITHIN: Duration = Duration::from_secs(60);
/// A leader that grows by less than this share, or these bytes, from one half of the run to the other, does not grow.
const GROWTH_SHARE: f64 = 0.1;
const GROWTH_BYTES: u64 = 8 << 20;
/// Buffers that may be in use when so many calls are on their way: each may have a packet, and so may each peer.
const PACKETS_MAX: u64 = 2048;

fn log_mib(entries: u64) -> u64 {
    (entries * ENTRY_BYTES / LOG_SHARE).div_ceil(1 << 20).clamp(LOG_MIB_LEAST, LOG_MIB_MOST)
}

/// What the nodes' configurations say besides.
pub(super) fn config(entries: u64) -> String {
    let log = log_mib(entries);
    format!("\n[limits]\nlog_bytes = \"{log}MiB\"\nuncommitted_bytes = \"{}MiB\"\n", log / 2)
}

/// One look at the leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Look {
    /// Entries committed without the follower.
    entries: u64,
    resident_bytes: u64,
    log_bytes: u64,
    packets: u64,
}

/// What came of it all.
struct Outcome {
    follower: u8,
    away: Duration,
    /// The log's limit.
    log_bytes: u64,
    /// Before the follower was killed.
    before: Look,
    looks: Vec<Look>,
    /// The oldest entry of the leader's log when the follower was started again.
    log_from: u64,
    /// How long its return took; `None`: it did not come about.
    returned: Option<Duration>,
    bulk: u64,
    not_answered: u64,
    sampled: Report,
    group: Report,
    nonsense: usize,
    replicas: Vec<Replica>,
}

impl Stage {
    pub(super) async fn play_long(&mut self, entries: u64) -> Result<(), Error> {
        let start = now();
        let sample = Rc::new(RefCell::new(DemoWorkload::new(u64::from(std::process::id()))));
        let bulk = Rc::new(RefCell::new(Bulk::new()));
        let sampled_pace = Pace::Open { per_second: SAMPLED_PER_SECOND };
        let sampling = self.start_load(sampled_pace, start, SAMPLED_MAX, &sample);
        self.cluster.wait(super::SETTLE).await?;
        let leader = self.cluster.leading(PATIENCE).await?;
        let (before, from) = self.look(leader, 0).await?;
        let slots = self.cluster.nodes.addresses().into_iter().map(|(slot, _)| slot);
        let follower = slots.filter(|slot| *slot != leader).max().unwrap_or(leader);
        self.cluster.nodes.kill(follower)?;
        note(
            start,
            &format!("node {follower}, a follower, is killed; {entries} entries are to be committed without it"),
        )?;
        self.cluster.wait(SILENCE).await?;
        let loaded_at = now();
        let loading = self.start_load(Pace::Closed { outstanding: OUTSTANDING }, loaded_at, u64::MAX, &bulk);

        let mut looks: Vec<Look> = Vec::new();
        let log_from = loop {
            self.cluster.wait(LOOK_EVERY).await?;
            let (look, status) = self.look(leader, from.commit).await?;
            let line = |look: &Look| look.entries * LINES / entries;
            if looks.last().map_or(0, line) < line(&look) {
                note(start, &progress(&look))?;
            }
            looks.push(look);
            if look.entries >= entries {
                break status.first;
            }
        };
        let away = now().saturating_since(loaded_at);

        self.cluster.nodes.spawn(follower)?;
        note(start, &format!("node {follower} is started again; the leader's log begins at entry {log_from}"))?;
        let started_at = now();
        let is_whole = self.cluster.whole(started_at + RETURN_WITHIN).await?;
        let returned = is_whole.then(|| now().saturating_since(started_at));
        looks.push(self.look(leader, from.commit).await?.0);
        note(start, if is_whole { "it is a voter again" } else { "it is no voter again" })?;

        bulk.borrow_mut().is_over = true;
        sample.borrow_mut().is_over = true;
        let bulk = ended(loading).await?;
        let sampled = ended(sampling).await?;
        sample.borrow_mut().read_all();
        let read = ended(self.start_load(Pace::Closed { outstanding: 32 }, now(), SAMPLED_MAX, &sample)).await?;
        let replicas = self.agreement().await?;
        let sample = sample.borrow();
        let loads = [&bulk, &sampled, &read].map(|load| load.borrow().not_applied() + load.borrow().unknown());
        let outcome = Outcome {
            follower,
            away,
            log_bytes: log_mib(entries) << 20,
            before,
            looks,
            log_from,
            returned,
            not_answered: loads.iter().sum(),
            bulk: bulk.borrow().answered(),
            sampled: linearizability::check(&linearizability::Kv, &sample.history, DEFAULT_STEPS_PER_KEY),
            group: linearizability::check(&Group, &sample.group, DEFAULT_STEPS_PER_KEY),
            nonsense: sample.nonsense.len(),
            replicas,
        };
        say(&format!("\n{}", outcome.table()))?;
        match outcome.faults().as_slice() {
            [] => Ok(()),
            faults => Err(Error::DemoFailed { what: faults.join("; ") }),
        }
    }

    /// How the leader is, and how many entries it has committed after `from`.
    async fn look(&mut self, leader: u8, from: u64) -> Result<(Look, NodeStatus), Error> {
        let Some((_, address)) = self.cluster.nodes.addresses().into_iter().find(|(slot, _)| *slot == leader) else {
            return Err(Error::DemoFailed { what: format!("node {leader} is gone") });
        };
        let status = self.cluster.connection.status(address).await?;
        let resident = self.cluster.nodes.pid(leader).and_then(machine::resident_bytes);
        let Some(resident_bytes) = resident else {
            return Err(Error::DemoFailed { what: "the leader's memory cannot be read from /proc".into() });
        };
        let entries = status.commit.saturating_sub(from);
        Ok((Look { entries, resident_bytes, log_bytes: status.log_bytes, packets: status.packets_in_use }, status))
    }
}

async fn ended(load: Load) -> Result<Rc<RefCell<Measured>>, Error> {
    load.await.and_then(|load| load).map_err(panicked)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn progress(look: &Look) -> String {
    let Look { entries, resident_bytes, log_bytes, packets } = *look;
    let (resident, log) = (mib(resident_bytes), mib(log_bytes));
    format!("{entries:>10} entries; the leader: {resident:.1} MiB resident, log {log:.1} MiB, {packets} packets in use")
}

impl Outcome {
    fn most(&self, of: impl Fn(&Look) -> u64) -> u64 {
        self.looks.iter().map(of).max().unwrap_or(0)
    }

    /// Everything that makes the demo fail, in words.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let half = self.most(|look| look.entries) / 2;
        let (early, late): (Vec<Look>, Vec<Look>) = self.looks.iter().copied().partition(|look| look.entries < half);
        let most = |looks: &[Look]| looks.iter().map(|look| look.resident_bytes).max().unwrap_or(0);
        let (early, late) = (most(&early), most(&late));
        if late > early + GROWTH_BYTES.max((early as f64 * GROWTH_SHARE) as u64) {
            let (early, late) = (mib(early), mib(late));
            faults.push(format!("the leader's memory grew from {early:.1} to {late:.1} MiB in the second half"));
        }
        if self.most(|look| look.log_bytes) > self.log_bytes {
            faults.push("the leader's log grew beyond its limit".into());
        }
        if self.most(|look| look.packets) > PACKETS_MAX {
            faults.push(format!("more than {PACKETS_MAX} packet buffers were in use"));
        }
        if self.log_from <= 1 {
            faults.push("the log still held everything: no snapshot was needed".into());
        }
        if self.returned.is_none() {
            faults.push(format!(
                "node {} was no voter again {} s after its start",
                self.follower,
                RETURN_WITHIN.as_secs()
            ));
        }
        if self.nonsense > 0 {
            faults.push(format!("{} answers made no sense", self.nonsense));
        }
        faults.extend(table::unlinearizable(&self.sampled, &self.group));
        faults.extend(table::disagreement(&self.replicas));
        faults
    }

    fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String, note: String| write_row(&mut out, name, &value, &note);
        let last = self.looks.last().copied().unwrap_or_default();
        let entries = self.most(|look| look.entries);
        let rate = entries as f64 / self.away.as_secs_f64().max(f64::MIN_POSITIVE);
        let away = self.away.as_secs_f64();
        let follower = self.follower;
        row(
            "entries",
            entries.to_string(),
            format!("committed without node {follower}, {rate:.0} a second for {away:.0} s"),
        );
        row(
            "memory",
            format!("{:.1} MiB", mib(self.most(|look| look.resident_bytes))),
            format!(
                "resident at the leader, the most; {:.1} before, {:.1} in the end",
                mib(self.before.resident_bytes),
                mib(last.resident_bytes)
            ),
        );
        row(
            "log",
            format!("{:.1} MiB", mib(self.most(|look| look.log_bytes))),
            format!("the most, of {:.0} allowed; {:.1} in the end", mib(self.log_bytes), mib(last.log_bytes)),
        );
        let packets = self.most(|look| look.packets);
        row(
            "packets",
            packets.to_string(),
            format!("buffers in use, the most of {} looks; {} in the end", self.looks.len(), last.packets),
        );
        match self.returned {
            Some(time) => row(
                "return",
                format!("{:.1} s", time.as_secs_f64()),
                format!("until node {follower} voted again: a snapshot, and the log from entry {} on", self.log_from),
            ),
            None => row("return", "-".into(), format!("node {follower} did not become a voter again")),
        }
        row("puts", self.bulk.to_string(), "acknowledged; counted, not looked for one by one".into());
        if self.not_answered > 0 {
            row("not answered", self.not_answered.to_string(), "within the deadline, the client was told so".into());
        }
        let Report { operations, keys, .. } = &self.sampled;
        let note = format!("{operations} sampled operations on {keys} other keys, a read of each at the end");
        row("linearizable", table::word(&self.sampled).into(), note);
        let note = format!("{} sampled scans and transactions on {GROUP_KEYS} keys", self.group.operations);
        row("", table::word(&self.group).into(), note);
        table::write_replicas(&mut out, &self.replicas);
        out
    }
}

/// Puts that are only counted.
struct Bulk {
    rng: Pcg64Mcg,
    key: Vec<u8>,
    value: [u8; BULK_VALUE_BYTES],
    is_over: bool,
}

impl Bulk {
    fn new() -> Self {
        Bulk { rng: Pcg64Mcg::seed_from_u64(1), key: Vec::new(), value: [b'v'; BULK_VALUE_BYTES], is_over: false }
    }
}

impl Workload for Bulk {
    type Call = ();

    fn begin(&mut self, body: &mut Vec<u8>, _at: Instant) -> (Ask, ()) {
        self.key.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(self.key, "bulk:{:06}", self.rng.random_range(0..BULK_KEYS));
        (requests::put(&self.key, &self.value, None, body), ())
    }

    fn end(&mut self, _call: (), result: &Result<Answered, Failure>, _at: Instant) -> bool {
        result.as_ref().is_ok_and(|answered| answered.status == Status::Ok)
    }

    fn goes_on(&self) -> bool {
        !self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimaran_rpc::sim::linearizability::Verdict;

    fn good() -> Outcome {
        let report = || Report { verdict: Verdict::Linearizable, operations: 20, keys: 11, steps: 20 };
        let look = |entries, mib: u64| Look { entries, resident_bytes: mib << 20, log_bytes: 40 << 20, packets: 9 };
        let status = |slot| Replica::member(slot, "follower", 930, 0xabc);
        Outcome {
            follower: 3,
            away: Duration::from_secs(100),
            log_bytes: log_mib(10_000_000) << 20,
            before: look(0, 11),
            looks: (0..=100).map(|nth| look(nth * 100_000, 11 + nth.min(40))).collect(),
            log_from: 9_000_000,
            returned: Some(Duration::from_secs(2)),
            bulk: 10_000_000,
            not_answered: 0,
            sampled: report(),
            group: report(),
            nonsense: 0,
            replicas: vec![status(1), status(2), status(3)],
        }
    }

    #[test]
    fn a_good_run_is_told_in_full() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let expected = "  entries                10000000   committed without node 3, 100000 a second for 100 s
  memory                 51.0 MiB   resident at the leader, the most; 11.0 before, 51.0 in the end
  log                    40.0 MiB   the most, of 64 allowed; 40.0 in the end
  packets                       9   buffers in use, the most of 101 looks; 9 in the end
  return                    2.0 s   until node 3 voted again: a snapshot, and the log from entry 9000000 on
  puts                   10000000   acknowledged; counted, not looked for one by one
  linearizable                yes   20 sampled operations on 11 other keys, a read of each at the end
                              yes   20 sampled scans and transactions on 4 keys
";
        assert!(good().table().starts_with(expected), "{}", good().table());
    }

    #[test]
    fn every_fault_fails_it() {
        let spoil = |change: fn(&mut Outcome)| {
            let mut outcome = good();
            change(&mut outcome);
            outcome.faults().len()
        };
        let grows = |outcome: &mut Outcome| {
            outcome.looks.iter_mut().for_each(|look| look.resident_bytes = (11 << 20) + look.entries * 8);
        };
        assert_eq!(spoil(grows), 1, "eight bytes an entry");
        assert_eq!(spoil(|outcome| outcome.looks[50].log_bytes = (64 << 20) + 1), 1);
        assert_eq!(spoil(|outcome| outcome.looks[50].packets = PACKETS_MAX + 1), 1);
        assert_eq!(spoil(|outcome| outcome.log_from = 1), 1);
        assert_eq!(spoil(|outcome| outcome.returned = None), 1);
        assert_eq!(spoil(|outcome| outcome.nonsense = 1), 1);
        assert_eq!(spoil(|outcome| outcome.sampled.verdict = Verdict::Undecided { keys: vec!["k".into()] }), 1);
        assert_eq!(spoil(|outcome| outcome.replicas[2] = Replica::member(3, "follower", 930, 0xdef)), 1);
    }
}
