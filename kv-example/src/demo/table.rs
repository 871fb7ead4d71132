//! What the demo prints: only values that were measured, and for each fault a sentence.

use super::phases::Seen;
use super::verdict::{Comparison, Outage};
use super::workload::Asked;
use crate::group::GROUP_KEYS;
use crate::load::Percentiles;
use std::time::Duration;
use trimaran_rpc::admin::NodeStatus;
use trimaran_rpc::sim::linearizability::{Report, Verdict};

/// One node after the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) slot: u8,
    pub(super) state: State,
}

/// What it said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It takes part and has applied entries up to an index.
    Member { role: String, applied: u64, digest: u64, chain: u64 },
    /// It takes no part.
    Outside { why: String },
}

impl Replica {
    pub(super) fn new(slot: u8, status: Option<NodeStatus>) -> Self {
        let outside = |why: String| Replica { slot, state: State::Outside { why } };
        let Some(status) = status else { return outside("does not answer".into()) };
        if let Some(halt) = status.halted {
            return outside(format!("stopped before entry {} [{}]: {}", halt.index, halt.code, halt.message));
        }
        match (status.waiting, status.digest) {
            (Some(waiting), _) => outside(format!("{}: {waiting}", status.role)),
            (None, None) => outside(format!("{}: tells no digest", status.role)),
            (None, Some(digest)) => {
                let state = State::Member {
                    role: status.role,
                    applied: digest.applied,
                    digest: digest.state,
                    chain: digest.chain,
                };
                Replica { slot, state }
            }
        }
    }

    /// One that takes part, for tests of tables.
    #[cfg(test)]
    pub(super) fn member(slot: u8, role: &str, applied: u64, digest: u64) -> Self {
        Replica { slot, state: State::Member { role: role.into(), applied, digest, chain: 7 } }
    }

    fn position(&self) -> Option<(u64, u64, u64)> {
        match self.state {
            State::Member { applied, digest, chain, .. } => Some((applied, digest, chain)),
            State::Outside { .. } => None,
        }
    }
}

/// Whether all that take part have applied the same entries.
pub(super) fn applied_alike(replicas: &[Replica]) -> bool {
    let mut applied = replicas.iter().filter_map(|replica| replica.position().map(|(applied, ..)| applied));
    let first = applied.next();
    first.is_some() && applied.all(|other| Some(other) == first)
}

/// Phases listed one by one.
const LISTED: usize = 20;

/// All that the demo found.
pub(super) struct Findings {
    pub(super) length: Duration,
    /// The load whose latencies are shown.
    pub(super) load: String,
    pub(super) asked: Asked,
    pub(super) answered: u64,
    pub(super) per_second: f64,
    pub(super) not_applied: u64,
    pub(super) unknown: u64,
    pub(super) unsent: u64,
    pub(super) latency: Option<Percentiles>,
    pub(super) phases: Vec<Seen>,
    pub(super) new_leader: u8,
    pub(super) new_term: u64,
    pub(super) acknowledged: usize,
    /// `None` where the journal was full.
    pub(super) comparison: Option<Comparison>,
    pub(super) linearizability: Report,
    /// Of scans and transactions.
    pub(super) group: Report,
    pub(super) nonsense: Vec<String>,
    pub(super) replicas: Vec<Replica>,
}

impl Findings {
    /// Everything that makes the demo fail, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match self.comparison {
            None => faults.push("the final leader's journal was full: lost and doubled puts are not known".into()),
            Some(Comparison { lost, doubled }) => {
                if lost > 0 {
                    faults.push(format!("{lost} acknowledged puts are lost"));
                }
                if doubled > 0 {
                    faults.push(format!("{doubled} puts were executed twice"));
                }
            }
        }
        faults.extend(unlinearizable(&self.linearizability, &self.group));
        if let Some(first) = self.nonsense.first() {
            faults.push(format!("{} answers made no sense, the first was {first}", self.nonsense.len()));
        }
        if self.acknowledged == 0 {
            faults.push("no put was acknowledged".into());
        }
        if self.phases.is_empty() {
            faults.push("no leader was killed".into());
        }
        faults.extend(self.phases.iter().filter_map(|phase| phase.fault.clone()));
        for Seen { name, .. } in self.phases.iter().filter(|phase| matches!(phase.outage, Outage::Endless(_))) {
            faults.push(format!("puts were not acknowledged again: {name}"));
        }
        faults.extend(disagreement(&self.replicas));
        faults
    }
}

/// What is wrong with the histories of single keys, and of the group.
pub(super) fn unlinearizable(keys: &Report, group: &Report) -> Vec<String> {
    let fault = |report: &Report, of: &str| match &report.verdict {
        Verdict::Linearizable => None,
        Verdict::Violated(violation) => Some(format!("the history{of} is not linearizable: {violation}")),
        Verdict::Undecided { keys } => {
            Some(format!("linearizability{of} could not be decided for {} keys", keys.len()))
        }
    };
    [fault(keys, ""), fault(group, " of scans and transactions")].into_iter().flatten().collect()
}

/// What is wrong with the nodes in the end. A killed one has come back without its memory, and was taken in again.
pub(super) fn disagreement(replicas: &[Replica]) -> Vec<String> {
    let mut faults = Vec::new();
    for Replica { slot, state } in replicas {
        if let State::Outside { why } = state {
            faults.push(format!("node {slot} takes no part: {why}"));
        }
    }
    let mut members = replicas.iter().filter_map(Replica::position);
    match members.next() {
        None => faults.push("no node tells its digest".into()),
        Some(first) if members.any(|other| other != first) => {
            faults.push("the digests are not equal at one index".into());
        }
        Some(_) => {}
    }
    faults
}

/// One row of a table.
pub(super) fn write_row(out: &mut String, name: &str, value: &str, note: &str) {
    let line = format!("  {name:<14} {value:>16}   {note}");
    out.push_str(line.trim_end());
    out.push('\n');
}

/// A verdict in a word.
pub(super) fn word(report: &Report) -> &'static str {
    match report.verdict {
        Verdict::Linearizable => "yes",
        Verdict::Violated(_) => "NO",
        Verdict::Undecided { .. } => "undecided",
    }
}

/// A row for each node's last word.
pub(super) fn write_replicas(out: &mut String, replicas: &[Replica]) {
    for Replica { slot, state } in replicas {
        let name = format!("digest, node {slot}");
        match state {
            State::Member { role, applied, digest, .. } => {
                write_row(out, &name, &format!("{digest:016x}"), &format!("at index {applied}, {role}"));
            }
            State::Outside { why } => write_row(out, &name, "-", why),
        }
    }
}

/// The table.
pub(super) fn findings(found: &Findings) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String, note: String| write_row(&mut out, name, &value, &note);
    let Asked { puts, gets, incrs, scans, txns } = found.asked;
    let kinds = format!("{puts} put, {gets} get, {incrs} incr, {scans} scan, {txns} txn");
    row("requests", found.asked.total().to_string(), kinds);
    row("answered", found.answered.to_string(), String::new());
    if found.not_applied > 0 {
        row("not applied", found.not_applied.to_string(), "certainly without effect, the client was told so".into());
    }
    if found.unknown > 0 {
        row("unknown", found.unknown.to_string(), "sent, no answer within the deadline, the client was told so".into());
    }
    if found.unsent > 0 {
        row("unsent", found.unsent.to_string(), "due, but too many were on their way".into());
    }
    row(
        "throughput",
        format!("{:.0} /s", found.per_second),
        format!("over all {} s, the outages included", found.length.as_secs()),
    );
    match found.latency {
        Some(Percentiles { p50, p99, .. }) => {
            let note = format!("of the {}, the outages included", found.load);
            row("p50", format!("{:.3} ms", p50 as f64 / 1e6), note.clone());
            row("p99", format!("{:.3} ms", p99 as f64 / 1e6), note);
        }
        None => row("p50, p99", "not measured".into(), "nothing was answered".into()),
    }
    for Seen { name, what, took, outage, .. } in found.phases.iter().take(LISTED) {
        let note = format!("longest gap in {:.1} s: {what}", took.as_secs_f64());
        row(name, format!("{outage} ms"), note);
    }
    if let Some(others) = found.phases.len().checked_sub(LISTED).filter(|others| *others > 0) {
        row("", "..".into(), format!("{others} more"));
    }
    match found.phases.iter().map(|phase| phase.outage).max() {
        Some(longest @ Outage::Gap(_)) => {
            row("outage", format!("{longest} ms"), "no put acknowledged, the longest of these".into());
        }
        Some(longest) => row("outage", format!("{longest} ms"), "it did not end".into()),
        None => row("outage", "not measured".into(), "no leader was killed".into()),
    }
    row("leader", found.new_leader.to_string(), format!("in the end, in term {}", found.new_term));
    match found.comparison {
        Some(Comparison { lost, doubled }) => {
            row(
                "lost",
                lost.to_string(),
                format!("of {} acknowledged puts, looked for in the final leader's journal", found.acknowledged),
            );
            row("doubled", doubled.to_string(), format!("of {puts} puts sent"));
        }
        None => row("lost, doubled", "not known".into(), "the journal was full".into()),
    }
    let Report { operations, keys, .. } = &found.linearizability;
    row("linearizable", word(&found.linearizability).into(), format!("{operations} operations on {keys} keys"));
    let operations = found.group.operations;
    let note = format!("{operations} scans and transactions on {GROUP_KEYS} keys, judged as one object");
    row("", word(&found.group).into(), note);
    write_replicas(&mut out, &found.replicas);
    out
}

/// What idle nodes cost.
pub(super) fn idle_line(nodes: u8, used: Duration, elapsed: Duration) -> String {
    format!(
        "{nodes} idle nodes together: {:.2} % of one core ({} ms of CPU time in {:.1} s)",
        100.0 * used.as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        used.as_millis(),
        elapsed.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u8, role: &str, applied: u64, digest: u64) -> Replica {
        Replica::member(slot, role, applied, digest)
    }

    fn phase(name: &str, ms: u64) -> Seen {
        Seen {
            name: name.into(),
            what: "node 1 by SIGKILL; voters again within 1.4 s".into(),
            took: Duration::from_millis(2900),
            outage: Outage::Gap(Duration::from_millis(ms)),
            fault: None,
        }
    }

    fn good() -> Findings {
        Findings {
            length: Duration::from_secs(14),
            load: "32 calls outstanding".into(),
            asked: Asked { puts: 700, gets: 200, incrs: 80, scans: 5, txns: 15 },
            answered: 980,
            per_second: 70.0,
            not_applied: 0,
            unknown: 20,
            unsent: 0,
            latency: Some(Percentiles { p50: 120_000, p90: 0, p99: 950_000, p999: 0, p9999: 0, max: 0 }),
            phases: vec![phase("leader killed", 187)],
            new_leader: 2,
            new_term: 3,
            acknowledged: 690,
            comparison: Some(Comparison { lost: 0, doubled: 0 }),
            linearizability: Report { verdict: Verdict::Linearizable, operations: 960, keys: 11, steps: 980 },
            group: Report { verdict: Verdict::Linearizable, operations: 20, keys: 1, steps: 20 },
            nonsense: Vec::new(),
            replicas: vec![
                member(1, "follower", 930, 0xabc),
                member(2, "leader", 930, 0xabc),
                member(3, "follower", 930, 0xabc),
            ],
        }
    }

    #[test]
    fn the_table_of_a_good_run() {
        let expected = "  requests                   1000   700 put, 200 get, 80 incr, 5 scan, 15 txn
  answered                    980
  unknown                      20   sent, no answer within the deadline, the client was told so
  throughput                70 /s   over all 14 s, the outages included
  p50                    0.120 ms   of the 32 calls outstanding, the outages included
  p99                    0.950 ms   of the 32 calls outstanding, the outages included
  leader killed            187 ms   longest gap in 2.9 s: node 1 by SIGKILL; voters again within 1.4 s
  outage                   187 ms   no put acknowledged, the longest of these
  leader                        2   in the end, in term 3
  lost                          0   of 690 acknowledged puts, looked for in the final leader's journal
  doubled                       0   of 700 puts sent
  linearizable                yes   960 operations on 11 keys
                              yes   20 scans and transactions on 4 keys, judged as one object
  digest, node 1 0000000000000abc   at index 930, follower
  digest, node 2 0000000000000abc   at index 930, leader
  digest, node 3 0000000000000abc   at index 930, follower
";
        assert_eq!(findings(&good()), expected);
        assert_eq!(good().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_fails_the_demo() {
        let spoil = |change: fn(&mut Findings)| {
            let mut found = good();
            change(&mut found);
            found.faults()
        };
        assert_eq!(
            spoil(|f| f.comparison = Some(Comparison { lost: 3, doubled: 0 })),
            ["3 acknowledged puts are lost"]
        );
        assert_eq!(spoil(|f| f.comparison = Some(Comparison { lost: 0, doubled: 1 })), ["1 puts were executed twice"]);
        assert_eq!(spoil(|f| f.comparison = None).len(), 1);
        assert_eq!(spoil(|f| f.nonsense.push("Get: +OK".into())), ["1 answers made no sense, the first was Get: +OK"]);
        assert_eq!(spoil(|f| f.acknowledged = 0), ["no put was acknowledged"]);
        assert_eq!(
            spoil(|f| f.phases[0].outage = Outage::Endless(Duration::ZERO)),
            ["puts were not acknowledged again: leader killed"]
        );
        assert_eq!(spoil(|f| f.phases[0].fault = Some("node 1 is away".into())), ["node 1 is away"]);
        assert_eq!(spoil(|f| f.phases.clear()), ["no leader was killed"]);
        let torn = |f: &mut Findings| f.group.verdict = Verdict::Undecided { keys: vec!["()".into()] };
        assert_eq!(spoil(torn), ["linearizability of scans and transactions could not be decided for 1 keys"]);
        let undecided = |f: &mut Findings| f.linearizability.verdict = Verdict::Undecided { keys: vec!["1".into()] };
        assert_eq!(spoil(undecided), ["linearizability could not be decided for 1 keys"]);
        assert_eq!(
            spoil(|f| f.replicas[2] = member(3, "follower", 930, 0xdef)),
            ["the digests are not equal at one index"]
        );
        assert_eq!(
            spoil(|f| f.replicas[2] = member(3, "follower", 929, 0xabc)),
            ["the digests are not equal at one index"]
        );
        let outside = |f: &mut Findings| f.replicas[2].state = State::Outside { why: "does not answer".into() };
        assert_eq!(spoil(outside), ["node 3 takes no part: does not answer"]);
        assert_eq!(spoil(|f| f.replicas.clear()), ["no node tells its digest"]);
    }

    #[test]
    fn every_phase_has_its_line() {
        let mut found = good();
        found.phases = vec![phase("leader killed", 187), phase("nodes rolled", 512), phase("grown 3 -> 5", 99)];
        let said = findings(&found);
        assert!(said.contains("  nodes rolled             512 ms   longest gap in 2.9 s: node 1 by"), "{said}");
        assert!(said.contains("  outage                   512 ms   no put"), "{said}");
        found.phases = vec![phase("kill 7", 7); 30];
        assert!(findings(&found).contains("..   10 more\n"));
        found.phases.push(Seen { outage: Outage::Endless(Duration::from_secs(1)), ..phase("kill 31", 0) });
        assert!(findings(&found).contains("> 1000 ms   it did not end"));
    }

    #[test]
    fn agreement_waits_for_those_who_take_part() {
        let mut replicas = good().replicas;
        assert!(applied_alike(&replicas));
        replicas[0].state = State::Outside { why: "joining: lost its memory".into() };
        assert!(applied_alike(&replicas));
        replicas[2] = member(3, "follower", 929, 0);
        assert!(!applied_alike(&replicas));
        assert!(!applied_alike(&replicas[..1]), "nobody takes part");
    }

    #[test]
    fn idle_time_is_a_share_of_one_core() {
        let line = idle_line(3, Duration::from_millis(60), Duration::from_secs(10));
        assert_eq!(line, "3 idle nodes together: 0.60 % of one core (60 ms of CPU time in 10.0 s)");
    }
}
