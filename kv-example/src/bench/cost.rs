//! What the processes of nodes, this client and everything else on the machine used while a load was measured.

use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_rpc::program::connect::Connection;
use trimaran_rpc::program::machine;
use trimaran_rpc::program::nodes::Nodes;
use trimaran_runtime::{Instant, now, sleep_until};

/// CPU time and memory of one measured stretch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cost {
    /// How long it was.
    pub elapsed: Duration,
    /// Each process of nodes.
    pub nodes: Vec<NodeCost>,
    /// CPU time of this process.
    pub client: Duration,
    /// CPU time of everybody else.
    pub others: Duration,
    /// Packets a second that the nodes' ports received, as the nodes count them: each one of those that the kernel hands over as one
    /// piece, which its own counts take for one. `None` where a node did not tell.
    pub node_packets: Option<f64>,
}

/// What one process of nodes used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCost {
    /// Its process id.
    pub pid: u32,
    /// CPU time.
    pub cpu: Duration,
    /// Ordinary memory at the end.
    pub resident_bytes: u64,
    /// It runs the node that leads, as far as the client knows.
    pub leads: bool,
}

impl Cost {
    /// Cores that so much CPU time keeps busy all the while.
    pub fn cores(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Packets that the nodes received for each of so many calls a second.
    pub fn node_packets_each(&self, per_second: f64) -> Option<f64> {
        self.node_packets.filter(|_| per_second > 0.0).map(|packets| packets / per_second)
    }

    /// CPU time of all nodes.
    pub fn of_nodes(&self) -> Duration {
        self.nodes.iter().map(|node| node.cpu).sum()
    }
}

/// The processes that are looked at: their ids, and which of them has the leader.
#[derive(Clone)]
pub struct Watched {
    processes: Vec<(u32, bool)>,
    /// Of each process a node, which knows the counts of the port that all nodes there have.
    ports: Vec<SocketAddrV4>,
    connection: Connection,
}

impl Watched {
    /// Those of `nodes`, of which `leader` leads; their counts are asked for by `connection`.
    pub fn of(nodes: &Nodes, leader: Option<u8>, connection: Connection) -> Watched {
        let leader = leader.and_then(|slot| nodes.pid(slot)).or_else(|| {
            let mut pids = nodes.pids();
            // All nodes in one process.
            pids.next().filter(|_| pids.next().is_none())
        });
        let processes: Vec<(u32, bool)> = nodes.pids().map(|pid| (pid, Some(pid) == leader)).collect();
        let ports = nodes.addresses().into_iter().map(|(_, client)| client).take(processes.len()).collect();
        Watched { processes, ports, connection }
    }

    /// Waits from `from` to `to` and tells what was used between. `None` where `/proc` does not say.
    pub async fn between(self, from: Instant, to: Instant) -> Option<Cost> {
        sleep_until(from).await;
        let (before, from) = (self.look(), now());
        // After that look, so that a slow answer costs the times nothing.
        let packets_before = self.packets().await;
        sleep_until(to).await;
        let (after, elapsed) = (self.look()?, now().saturating_since(from));
        let node_packets = rate(packets_before, self.packets().await);
        Some(Cost { node_packets, ..after.since(&before?, elapsed) })
    }

    /// What the nodes have received since their start, and when the last of them has told.
    async fn packets(&self) -> Option<(u64, Instant)> {
        let told = self.ports.iter().map(|&node| self.connection.status(node));
        let told = futures::future::try_join_all(told).await.ok()?;
        let counts = told.iter().map(|node| node.counters.get("port.rx_packets").copied());
        Some((counts.sum::<Option<u64>>()?, now()))
    }

    fn look(&self) -> Option<Look> {
        let nodes = self.processes.iter().map(|&(pid, leads)| {
            let (cpu, resident_bytes) = (machine::cpu_time(pid)?, machine::resident_bytes(pid)?);
            Some(NodeCost { pid, cpu, resident_bytes, leads })
        });
        Some(Look {
            nodes: nodes.collect::<Option<_>>()?,
            client: machine::cpu_time(std::process::id())?,
            all: machine::busy_time()?,
        })
    }
}

/// A second, between two counts.
fn rate(before: Option<(u64, Instant)>, after: Option<(u64, Instant)>) -> Option<f64> {
    let ((first, from), (last, to)) = (before?, after?);
    let seconds = to.saturating_since(from).as_secs_f64();
    (seconds > 0.0).then(|| last.saturating_sub(first) as f64 / seconds)
}

/// Counts since the beginning of each.
struct Look {
    nodes: Vec<NodeCost>,
    client: Duration,
    all: Duration,
}

impl Look {
    fn since(self, before: &Look, elapsed: Duration) -> Cost {
        let pairs = self.nodes.iter().zip(&before.nodes);
        let nodes: Vec<NodeCost> =
            pairs.map(|(after, before)| NodeCost { cpu: after.cpu.saturating_sub(before.cpu), ..*after }).collect();
        let client = self.client.saturating_sub(before.client);
        let ours = client + nodes.iter().map(|node| node.cpu).sum::<Duration>();
        let others = self.all.saturating_sub(before.all).saturating_sub(ours);
        Cost { elapsed, nodes, client, others, node_packets: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(cpu_ms: [u64; 2], client_ms: u64, all_ms: u64) -> Look {
        let ms = Duration::from_millis;
        let node = |at: usize| NodeCost { pid: at as u32, cpu: ms(cpu_ms[at]), resident_bytes: 7, leads: at == 1 };
        Look { nodes: vec![node(0), node(1)], client: ms(client_ms), all: ms(all_ms) }
    }

    #[test]
    fn a_stretch_is_the_difference_of_two_looks_and_others_have_the_rest() {
        let cost = look([300, 500], 1000, 9000).since(&look([100, 100], 900, 8000), Duration::from_secs(2));
        let ms = Duration::from_millis;
        assert_eq!((cost.nodes[0].cpu, cost.nodes[1].cpu, cost.client), (ms(200), ms(400), ms(100)));
        assert_eq!((cost.of_nodes(), cost.others), (ms(600), ms(300)));
        assert!((cost.cores(cost.of_nodes()) - 0.3).abs() < 1e-9);
        assert!(cost.nodes[1].leads && cost.nodes[1].resident_bytes == 7);
        // The machine's own count is in ticks of 10 ms and may lag behind.
        let cost = look([300, 500], 1000, 8000).since(&look([100, 100], 900, 8000), Duration::from_secs(2));
        assert_eq!(cost.others, Duration::ZERO);
    }

    #[test]
    fn packets_are_told_for_each_call_where_the_nodes_told_them() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let packets = rate(Some((1000, at(10))), Some((6000, at(2010))));
        assert_eq!(packets, Some(2500.0));
        let cost = Cost { node_packets: packets, ..Cost::default() };
        assert_eq!((cost.node_packets_each(1000.0), cost.node_packets_each(0.0)), (Some(2.5), None));
        assert_eq!((rate(None, Some((1, at(1)))), rate(Some((1, at(1))), Some((1, at(1))))), (None, None));
    }
}
