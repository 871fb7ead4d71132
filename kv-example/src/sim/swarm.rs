//! One seed: a cluster of this store, clients that record what they see, faults, then peace, then judgement.

mod fuse;
mod misuse;
mod reading;
mod views;
mod work;

use crate::group::Group;
use crate::load::Answered;
use crate::requests;
use fuse::{Fused, Panics};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use reading::Mixed;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::PcapWriter;
use trimaran_raft::wal::{Durability, WalSettings};
use trimaran_raft::{Limits, ReadSettings, Sabotage, Timing};
use trimaran_rpc::admin;
use trimaran_rpc::node::Node;
use trimaran_rpc::sim::chaos::{Chaos, Fault, FaultCounts};
use trimaran_rpc::sim::cluster::{CLIENT_PORT, Cluster, ClusterConfig, DiskPlan, NodeIndex, node_ip};
use trimaran_rpc::sim::history::ClientId;
use trimaran_rpc::sim::invariants::Invariants;
use trimaran_rpc::sim::linearizability::{self, DEFAULT_STEPS_PER_KEY, Kv as Model, Verdict};
use trimaran_rpc::{Halt, StateDigest};
use trimaran_runtime::Instant;
use views::views;
use work::{KvHistory, Load, work};

/// Clients of each cluster.
const CLIENTS: u32 = 4;
/// A call's deadline.
const DEADLINE: Duration = Duration::from_millis(400);
/// How long faults strike.
const STORM: Duration = Duration::from_secs(5);
/// How long a healed majority may take to commit again: twenty of the longest election timeouts, and five more: for three of them
/// a new leader with a full log may wait for a member that has not answered it yet.
const PEACE: Duration = Duration::from_secs(5);

/// How long a cluster at peace may take to be whole again: every voter up, caught up, and no change under way.
const WHOLE: Duration = Duration::from_secs(10);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The storm is looked at so often: clients come and go.
const GUST: Duration = Duration::from_millis(250);

/// One seed in so many has groups that go quiet soon.
const QUIET_SEEDS: u64 = 4;
/// One seed in so many has several shards.
const SHARDED_SEEDS: u64 = 8;

/// The largest entry where nodes have disks; less than a record of their logs.
const ENTRY_BYTES: u32 = 16 << 10;

/// What clocks that run fast or slow keep to, by [`Fault::ClockRate`].
const CLOCK_DRIFT_PPM: u32 = 200_000;

/// Nodes that may claim the seat of another.
const TWINS: usize = 2;

/// Bytes of packets kept of one seed; later ones are left out.
const PCAP_BYTES_MAX: u64 = 1 << 30;

/// What one seed did.
#[derive(Debug, Clone, Default)]
pub(super) struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Hash over every turn of every core: equal in every run of the seed.
    pub trace_hash: u64,
    /// Virtual time from the first boot to judgement.
    pub virtual_time: Duration,
    /// Packets that the simulated network carried.
    pub packets: u64,
    /// Calls that clients made.
    pub operations: u64,
    /// Of these, how many have an unknown outcome.
    pub open: u64,
    /// Elections won.
    pub elections: u64,
    /// Entries committed.
    pub committed: u64,
    /// States and logs checked after a step.
    pub checks: u64,
    /// Configurations committed, and how many of them were joint.
    pub changes: u64,
    /// Of these, how many were joint.
    pub joint_changes: u64,
    /// Snapshots that nodes took on.
    pub snapshots: u64,
    /// How often a follower was asked to send a snapshot in its leader's place.
    pub donations: u64,
    /// How often a group went quiet.
    pub quiets: u64,
    /// How often each fault struck.
    pub faults: FaultCounts,
    /// How often clients behaved or fared badly.
    pub misuses: Misuses,
    /// Why nothing was expected of the healed cluster, if so.
    pub not_judged: Option<&'static str>,
    /// What was found wrong, if anything.
    pub failure: Option<String>,
}

/// Names of what clients do or suffer, in the order of [`Misuses`].
pub(super) const MISUSES: [&str; 7] =
    ["retried", "name_reused", "greedy_client", "noise_calls", "client_crash", "weak_reads", "handler_panic"];

/// How often each of [`MISUSES`] happened.
pub(super) type Misuses = [u64; MISUSES.len()];

/// Whether a seed's clients read with every consistency, and its handlers may panic where other faults leave room for it. Other seeds are as they were before there were such.
fn is_rich(seed: u64) -> bool {
    matches!(seed / 2 % 8, 1 | 2 | 5 | 7)
}

/// Whether the nodes of a seed's cluster have disks, where some have.
fn has_disks(seed: u64) -> bool {
    seed % 2 == 1
}

/// Logs of so few and small files that snapshots are saved, and files used again, all the time; one in four is buffered.
fn disk_plan(rng: &mut Pcg64Mcg, limits: &mut Limits) -> DiskPlan {
    limits.entry_bytes = limits.entry_bytes.min(ENTRY_BYTES);
    let is_buffered = rng.random_range(0..4) == 0;
    let settings = WalSettings {
        durability: if is_buffered { Durability::Buffered } else { Durability::Durable },
        file_bytes: 256 << 10,
        files_max: rng.random_range(3..10),
        record_bytes: 64 << 10,
        window: rng.random_range(1..=4),
        // Where none is ever due, what memory may hold is the limit of what comes after one.
        snapshot_every_bytes: if rng.random_range(0..4) == 0 {
            u64::MAX
        } else {
            (limits.log_bytes / 4).min(256 << 10)
        },
        slice_bytes: 16 << 10,
        ..WalSettings::default()
    };
    DiskPlan { settings, ..DiskPlan::default() }
}

/// What a seed's cluster is made of.
fn config(rng: &mut Pcg64Mcg, nodes: usize, disks: bool) -> ClusterConfig {
    let tight = |log_bytes: u64| Limits {
        log_bytes,
        uncommitted_bytes: log_bytes / 4,
        entry_bytes: 16 << 10,
        ..Limits::default()
    };
    let mut log_limits = match rng.random_range(0..6) {
        // A log so small that trimming, back pressure, voters left behind and their snapshots are part of the run.
        0 => tight(256 << 10),
        1 => tight(96 << 10),
        2 => tight(40 << 10),
        _ => Limits::default(),
    };
    let voters = if rng.random_range(0..8) == 0 { 1 } else { nodes };
    // Who is not among the voters asks to be taken in.
    let nodes = (nodes + rng.random_range(0..=3)).min(9);
    let timing = if rng.random_range(0..24) == 0 { Timing::US } else { Timing::SHARED };
    let frames = rng.random_range(0..24) == 0;
    let disks = disks.then(|| disk_plan(rng, &mut log_limits));
    ClusterConfig {
        nodes,
        voters: Some(voters),
        log_limits,
        disks,
        timing,
        spare_addresses: TWINS,
        frames,
        ..ClusterConfig::default()
    }
}

/// Runs one seed from boot to judgement. With `artefacts` it leaves the history and every packet in that directory.
pub(super) fn run(seed: u64, nodes: usize, artefacts: Option<&Path>, disks: bool) -> SeedReport {
    run_broken(seed, nodes, artefacts, disks, Sabotage::NONE)
}

/// As [`run`], with a rule of the nodes broken on purpose.
fn run_broken(seed: u64, nodes: usize, artefacts: Option<&Path>, disks: bool, sabotage: Sabotage) -> SeedReport {
    let disks = disks && has_disks(seed);
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut config = config(&mut rng, nodes, disks);
    config.appliers = matches!(seed % 8, 2..=3);
    if seed % QUIET_SEEDS == 1 {
        // A little more than what an election or a slow disk takes: while faults keep clients waiting, groups go quiet.
        config.timing.quiet_after = 2 * config.timing.election_min;
    }
    config.sabotage = sabotage;
    if let Some(plan) = &mut config.disks {
        plan.settings.sabotage = sabotage;
    }
    // Without disks and appliers, which these seeds have not.
    if seed % SHARDED_SEEDS == SHARDED_SEEDS / 2 {
        config.shards = 2 + (seed / SHARDED_SEEDS % 2) as u16;
    }
    let mut chaos = match disks {
        true => Chaos::of_disks(seed, Vec::new()),
        false => Chaos::of_everything(seed, Vec::new()),
    };
    let is_rich = is_rich(seed);
    let clocks_are_true = !chaos.enabled().iter().any(|fault| matches!(fault, Fault::ClockJump | Fault::ClockLeap));
    if is_rich {
        config.reads = ReadSettings { lease: clocks_are_true, clock_drift_ppm: CLOCK_DRIFT_PPM, ..config.reads };
    }
    // Who has halted is still a voter, and whoever decides on the members does not look. It may write nothing more either, so that what its disk
    // has lost is never noticed, and it cannot be started again.
    let hinders = |fault: &Fault| fault.is_of_members() || matches!(fault, Fault::LostWrite | Fault::Misdirect);
    let may_panic = is_rich && config.voters > Some(2) && !chaos.enabled().iter().any(hinders);
    fuse::set(0);
    let mut cluster = Cluster::new(seed, config, Fused::default);
    if let Some(tap) = artefacts.and_then(|directory| tap(directory, seed)) {
        cluster.network().set_tap(tap);
    }
    // Where every call has a session, every datagram may come twice. Plain R2P2 has nothing to tell a copy by.
    // Its clients know nothing of shards.
    let is_plain = rng.random_range(0..3) == 0 && cluster.shards() == 1;
    // An index is one shard's.
    let mixed = (is_rich && cluster.shards() == 1).then(|| Mixed::new(clocks_are_true));
    let load = Rc::new(Load::new(CLIENTS, is_plain, mixed));
    let servers = cluster.addresses();
    for client in 0..CLIENTS {
        let (load, servers, seed) = (load.clone(), servers.clone(), rng.random());
        chaos.add_client(
            cluster.client(servers.clone(), move |socket| work(socket, ClientId(client), load, servers, seed)),
        );
    }

    let mut chaos = chaos.duplicate_all(!is_plain);
    chaos.begin(&cluster);
    let mut misuses = Misuses::default();
    let mut panics = may_panic.then(|| Panics::new(seed));
    storm(&mut cluster, &mut chaos, &load, &mut rng, &mut misuses, &mut panics);
    fuse::set(0);
    chaos.end(&mut cluster);
    let not_judged = (!cluster.has_quorum()).then_some("no majority remembers");
    let failure = judge(&mut cluster, &mut chaos, &load, servers, not_judged.is_none()).err();

    misuses[0] = load.noise.retried.get();
    misuses[1] = load.noise.reused.get();
    misuses[3] = load.noise.asked.get();
    misuses[5] = load.mixed.as_ref().map_or(0, |mixed| mixed.checked.get());
    misuses[6] = panics.map_or(0, |panics| panics.count());
    let report = SeedReport {
        seed,
        trace_hash: cluster.trace_hash(),
        virtual_time: cluster.now() - Instant::ZERO,
        packets: cluster.network().counters().delivered,
        operations: (load.history.borrow().len() + load.group.borrow().len()) as u64,
        open: (load.history.borrow().open() + load.group.borrow().open()) as u64,
        elections: sum(&cluster, |invariants| invariants.elections() as u64),
        committed: sum(&cluster, Invariants::committed),
        checks: sum(&cluster, Invariants::checks),
        changes: sum(&cluster, Invariants::changes),
        joint_changes: sum(&cluster, Invariants::joint_changes),
        snapshots: sum(&cluster, Invariants::snapshots),
        donations: sum(&cluster, Invariants::donations),
        quiets: sum(&cluster, Invariants::quiets),
        faults: *chaos.counts(),
        misuses,
        not_judged,
        failure,
    };
    if let Some(directory) = artefacts {
        drop(cluster.network().take_tap());
        keep(directory, seed, &load.history.borrow());
    }
    report
}

/// Faults strike, and beside the clients that are judged others come that want too much, or die.
fn storm(
    cluster: &mut Cluster<Fused>,
    chaos: &mut Chaos,
    load: &Rc<Load>,
    rng: &mut Pcg64Mcg,
    misuses: &mut Misuses,
    panics: &mut Option<Panics>,
) {
    let is_crowded = rng.random_range(0..3) == 0;
    let mut doomed = Vec::new();
    for _ in 0..STORM.as_millis() / GUST.as_millis() {
        chaos.run(cluster, GUST);
        if let Some(panics) = panics {
            panics.gust(cluster, chaos);
        }
        for ip in doomed.drain(..) {
            cluster.kill_client(ip);
            misuses[4] += 1;
        }
        let load = load.clone();
        match rng.random_range(0..12) {
            0 if is_crowded => {
                let at_once = rng.random_range(20..500);
                cluster.client(cluster.addresses(), move |client| misuse::greedy(client, load, at_once));
                misuses[2] += 1;
            }
            1 if is_crowded => {
                doomed.push(cluster.client(cluster.addresses(), move |client| misuse::doomed(client, load)));
            }
            _ => {}
        }
    }
    for ip in doomed {
        cluster.kill_client(ip);
        misuses[4] += 1;
    }
}

/// Of all shards.
fn sum(cluster: &Cluster<Fused>, count: impl Fn(&Invariants) -> u64) -> u64 {
    cluster.all_invariants().map(count).sum()
}

/// A failed run is worth more than a full disk: what cannot be written is said and left out.
fn keep(directory: &Path, seed: u64, history: &KvHistory) {
    let write = |form: &str, history: &dyn Fn(BufWriter<File>) -> std::io::Result<()>| {
        let path = directory.join(format!("seed-{seed}.history.{form}"));
        if let Err(error) = File::create(&path).and_then(|file| history(BufWriter::new(file))) {
            eprintln!("cannot write {}: {error}", path.display());
        }
    };
    write("jsonl", &|out| history.write_json_lines(out));
    write("edn", &|out| history.write_edn(out));
}

fn tap(directory: &Path, seed: u64) -> Option<PcapWriter<Box<dyn Write>>> {
    let path = directory.join(format!("seed-{seed}.pcap"));
    let opened = std::fs::create_dir_all(directory).and_then(|()| File::create(&path)).and_then(|file| {
        let out: Box<dyn Write> = Box::new(BufWriter::new(file));
        PcapWriter::new(out, PCAP_BYTES_MAX)
    });
    opened.inspect_err(|error| eprintln!("cannot write {}: {error}", path.display())).ok()
}

/// Whether the cluster lives, agrees, and answered as one copy would have.
fn judge(
    cluster: &mut Cluster<Fused>,
    chaos: &mut Chaos,
    load: &Rc<Load>,
    servers: Vec<SocketAddrV4>,
    must_live: bool,
) -> Result<(), String> {
    let broken = |cluster: &Cluster<Fused>| cluster.violation().map(ToString::to_string);
    if let Some(violation) = broken(cluster) {
        return Err(violation);
    }
    if must_live && chaos.damages_disks(cluster) {
        restart_halted(cluster, chaos);
    }
    if must_live {
        let alive = Rc::new(Cell::new(false));
        let told = alive.clone();
        cluster.client(servers.clone(), move |client| async move {
            while !told.get() {
                let mut body = Vec::new();
                let ask = requests::put(b"alive", b"yes", None, &mut body);
                told.set(client.call_keyed(work::method_call(ask, &body), ask.key, DEADLINE).await.is_ok());
            }
        });
        let lives = cluster.run_until(PEACE, |_| alive.get());
        if let Some(violation) = broken(cluster) {
            return Err(violation);
        }
        if !lives {
            return Err(format!("no write was committed within {PEACE:?} of the last fault{}", views(cluster)));
        }
        restart_halted(cluster, chaos);
        if !heals(cluster) && broken(cluster).is_none() {
            return Err(format!("not whole within {WHOLE:?} of the last fault{}", views(cluster)));
        }
    }
    load.stop.set(true);
    if !cluster.run_until(Duration::from_secs(5), |_| load.running.get() == 0) && broken(cluster).is_none() {
        return Err("a client's call did not end with its deadline".into());
    }
    cluster.run_for(Duration::from_millis(500));
    if let Some(violation) = broken(cluster) {
        return Err(violation);
    }
    if let Some(nonsense) = load.nonsense.borrow().as_ref() {
        return Err(nonsense.clone());
    }
    for index in 0..cluster.nodes() {
        let replicas = (0..cluster.shards()).filter_map(|shard| cluster.replica(NodeIndex(index), shard));
        // Where nothing more is expected nobody has started it again.
        let mut halts = replicas.filter_map(Node::halted);
        if let Some(halt) = halts.find(|halt| must_live || halt.code != Halt::PANICKED) {
            return Err(format!("node {} stopped applying: {}", index + 1, halt.message));
        }
    }
    if must_live {
        gone(cluster, load, servers.clone())?;
        counted(cluster, load, servers.clone())?;
    }
    for shard in 0..cluster.shards() {
        let digests = digests(cluster, shard, servers.clone());
        if let Some(violation) = broken(cluster) {
            return Err(violation);
        }
        agree(&digests)?;
    }
    let keys = linearizability::check(&Model, &load.history.borrow(), DEFAULT_STEPS_PER_KEY);
    let group = linearizability::check(&Group, &load.group.borrow(), DEFAULT_STEPS_PER_KEY);
    for verdict in [keys.verdict, group.verdict] {
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Violated(violation) => return Err(format!("not linearizable: {}", violation.explanation)),
            other => return Err(format!("the checker gave up: {other:?}")),
        }
    }
    Ok(())
}

/// Who has stopped applying is started again, one by one.
fn restart_halted(cluster: &mut Cluster<Fused>, chaos: &mut Chaos) {
    let end = cluster.now() + WHOLE;
    while !chaos.restart_halted(cluster) && cluster.now() < end && cluster.violation().is_none() {
        cluster.run_for(LOOK_EVERY);
    }
}

/// Keys that were given a short time to live are gone: every call has ended long ago, and log time has gone on since.
fn gone(cluster: &mut Cluster<Fused>, load: &Rc<Load>, servers: Vec<SocketAddrV4>) -> Result<(), String> {
    let (asking, found) = (Rc::new(Cell::new(true)), Rc::new(RefCell::new(None)));
    let (keys, asked, told) = (load.short_lived.take(), asking.clone(), found.clone());
    cluster.client(servers, move |client| async move {
        let mut body = Vec::new();
        let tick = requests::put(b"tick", b"", None, &mut body);
        let _ = client.call_keyed(work::method_call(tick, &body), tick.key, PEACE).await;
        for key in keys {
            body.clear();
            let get = requests::get(&key, &mut body);
            match client.call_keyed(work::method_call(get, &body), get.key, DEADLINE).await {
                // No error, and no value.
                Ok(reply) if reply.body == [0] => {}
                Ok(_) => *told.borrow_mut() = Some(format!("{} outlives its time", key.escape_ascii())),
                Err(error) => *told.borrow_mut() = Some(format!("a read in peace failed: {error}")),
            }
        }
        asked.set(false);
    });
    cluster.run_until(Duration::from_secs(30), |_| !asking.get());
    match found.take() {
        Some(wrong) => Err(wrong),
        None if asking.get() => Err("reads in peace did not end".into()),
        None => Ok(()),
    }
}

/// The noise adds up: each increment that was answered counts, and none counts twice.
fn counted(cluster: &mut Cluster<Fused>, load: &Rc<Load>, servers: Vec<SocketAddrV4>) -> Result<(), String> {
    let sum = Rc::new(Cell::new(None));
    let told = sum.clone();
    let answered_before = load.noise.answered.get();
    cluster.client(servers, move |client| async move {
        let mut body = Vec::new();
        let ask = requests::incr(misuse::NOISE_KEY, 0, &mut body);
        let reply = client.call_keyed(work::method_call(ask, &body), ask.key, PEACE).await;
        let answered = reply.ok().map(|reply| Answered { status: reply.status, body: reply.body });
        told.set(Some(answered.and_then(|answered| requests::result::<i64>(&answered)?.ok())));
    });
    cluster.run_until(PEACE * 2, |_| sum.get().is_some());
    match sum.get().flatten().and_then(|sum| u64::try_from(sum).ok()) {
        Some(sum) => load.noise.check(answered_before, sum),
        None => Err("the noise cannot be read in peace".into()),
    }
}

/// The state of every node that is up and can hash it. A chain over requests and replies, which each step compares, says
/// nothing of state that no reply has shown yet.
fn digests(cluster: &mut Cluster<Fused>, shard: u16, servers: Vec<SocketAddrV4>) -> Vec<StateDigest> {
    let up = (0..cluster.nodes()).filter(|index| cluster.node(NodeIndex(*index)).is_some());
    let up: Vec<_> = up.map(|index| SocketAddrV4::new(node_ip(index), CLIENT_PORT + shard)).collect();
    let found = Rc::new(RefCell::new(Vec::new()));
    let asked = Rc::new(Cell::new(false));
    let (told, done) = (found.clone(), asked.clone());
    cluster.client(servers, move |client| async move {
        for node in up {
            let status = admin::status(&client, node, DEADLINE).await;
            told.borrow_mut().extend(status.ok().and_then(|status| status.digest));
        }
        done.set(true);
    });
    cluster.run_until(Duration::from_secs(5), |_| asked.get());
    found.take()
}

/// Replicas that have applied the same entries hold the same state.
fn agree(digests: &[StateDigest]) -> Result<(), String> {
    for (at, one) in digests.iter().enumerate() {
        if let Some(other) = digests[..at].iter().find(|other| other.applied == one.applied && *other != one) {
            return Err(format!("two states after entry {}: {other:?} and {one:?}", one.applied));
        }
    }
    Ok(())
}

/// Lets the cluster heal, and takes back what an operator has begun and cannot be done; tells whether it is whole.
fn heals(cluster: &mut Cluster<Fused>) -> bool {
    let end = cluster.now() + WHOLE;
    while cluster.now() < end && cluster.violation().is_none() {
        if cluster.is_whole() {
            return true;
        }
        cluster.run_for(LOOK_EVERY);
        cluster.cancel_change();
    }
    cluster.is_whole()
}

/// What happened in no run of many: a swarm that misses it has not tested it.
pub(super) fn never_struck(counts: &FaultCounts, misuses: &Misuses, disks: bool) -> Vec<&'static str> {
    let due = Fault::ALL.iter().filter(|fault| disks || !fault.is_of_disks());
    let faults = due.filter(|fault| counts.get(**fault) == 0).map(|fault| fault.name());
    let misuses = MISUSES.iter().zip(misuses).filter(|(_, count)| **count == 0).map(|(name, _)| *name);
    faults.chain(misuses).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_compared_where_the_same_entries_were_applied() {
        let digest = |applied, state| StateDigest { applied, state, chain: 3 };
        assert_eq!(agree(&[digest(0, 1), digest(7, 2), digest(7, 2)]), Ok(()));
        assert!(agree(&[digest(7, 2), digest(0, 1), digest(7, 4)]).is_err());
    }

    /// What a log acknowledges before the disk has it is lost with the power, and the swarm finds that out.
    #[cfg(feature = "sabotage")]
    #[test]
    fn a_log_that_acknowledges_before_it_has_written_is_found_within_twenty_seeds() {
        let sabotage = Sabotage::only(trimaran_raft::Fault::AcknowledgeBeforeWritten);
        let found = (1..40).step_by(2).find_map(|seed| run_broken(seed, nodes_of(seed), None, true, sabotage).failure);
        assert!(found.as_ref().is_some_and(|failure| failure.contains("had promised")), "{found:?}");
    }

    /// What a replica answers before it has applied what the read must see.
    #[cfg(feature = "sabotage")]
    #[test]
    fn reads_that_wait_for_nothing_are_found_within_twenty_seeds() {
        let sabotage = Sabotage::only(trimaran_raft::Fault::ReadUnapplied);
        let rich = (0..40).filter(|seed| is_rich(*seed));
        let found = rich.into_iter().find_map(|seed| run_broken(seed, nodes_of(seed), None, true, sabotage).failure);
        assert!(found.as_ref().is_some_and(|failure| failure.contains("it must see")), "{found:?}");
    }

    /// A replica whose handler had panicked, with a full disk, held its leader's log up for ever.
    #[test]
    fn seed_271_a_replica_that_applies_nothing_holds_nobody_up() {
        assert_eq!(run(271, nodes_of(271), None, true).failure, None);
    }

    /// A state of more than 64 KiB takes several turns to be read at a start; until then its digest is not known, and is none that differs.
    #[test]
    fn seed_4961_a_state_that_is_being_read_has_no_digest_yet() {
        assert_eq!(run(4961, nodes_of(4961), None, true).failure, None);
    }

    /// Of a damaged log the files behind the damage are kept, and with the few that were allowed the node had no room to be repaired.
    #[test]
    fn seed_1197_what_lies_behind_damage_leaves_room_for_the_repair() {
        assert_eq!(run(1197, nodes_of(1197), None, true).failure, None);
    }

    /// Each start needs a file of its own. Nodes that were started more often than they may have files could write no term any more.
    #[test]
    fn seeds_17_and_1063_may_start_more_often_than_there_are_files() {
        for seed in [17, 1063] {
            assert_eq!(run(seed, nodes_of(seed), None, true).failure, None, "seed {seed}");
        }
    }

    /// A full log waits for a snapshot, although nothing was written since the last one.
    #[test]
    fn seed_1065_a_full_log_saves_what_was_written_while_it_saved() {
        assert_eq!(run(1065, nodes_of(1065), None, true).failure, None);
    }

    /// As `kv sim` runs it.
    fn nodes_of(seed: u64) -> usize {
        crate::sim::nodes_of(seed, 3)
    }
}
