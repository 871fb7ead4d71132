//! A demo's nodes: child processes of this very program, each with its configuration and its log in a directory.
//!
//! They end with the demo whatever happens to it: when [`Nodes`] is dropped they are killed, and where the demo is
//! killed itself the kernel ends them (`serve --parent`), and a process that waits for its end removes the directory.

use crate::program::error::Error;
use crate::program::machine;
use crate::program::port::PortPlan;
use crate::program::site::{self, Site};
use crate::storage::Durability;
use clap::ValueEnum;
use rustix::process::{Pid, kill_process};
use rustix::thread::nanosleep;
use rustix::time::Timespec;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub use rustix::process::Signal;

/// First client ports to try; the peers' are 100 higher. 9000 is the router's.
const FIRST_PORTS: [u16; 10] = [8000, 8200, 8400, 8600, 8800, 9200, 9400, 9600, 9800, 10_000];
/// Between two looks whether a client's port can be opened.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of a node's log that an error repeats.
const LOG_TAIL_BYTES: usize = 2000;

/// Which nodes are to be started, and how.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The cluster is named after it.
    pub service: &'static str,
    /// Nodes to begin with, at most 9.
    pub count: u8,
    /// So many more may be added later: their addresses are free, too. At most 9 altogether.
    pub spare: u8,
    /// Which processes run them.
    pub placement: Placement,
    /// For `serve`, beside the usual ones.
    pub arguments: Vec<String>,
    /// Where each node keeps its log, in a directory of its own below this one, which outlives the demo.
    pub data: Option<PathBuf>,
    /// What an acknowledgement survives; with `data` not [`Durability::Volatile`].
    pub durability: Durability,
    /// More of the configuration, such as a section `[limits]`.
    pub config: String,
    /// The directory of the configurations and logs is not removed at the end.
    pub keep: bool,
}

/// All nodes of a demo.
#[derive(Debug)]
pub struct Nodes {
    site: Site,
    plan: Plan,
    first_port: u16,
    directory: PathBuf,
    /// Removes the directory where this process cannot do it any more.
    sweeper: Option<Child>,
    nodes: Vec<Node>,
}

/// Which processes run the nodes of a demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Placement {
    /// Each node has its own, on its own host where the site has hosts
    #[default]
    Apart,
    /// One runs all nodes, on the first host
    Together,
    /// One runs all nodes, on the first host, which has an interface for each where the site has hosts
    DeviceEach,
    /// One runs all nodes, each of which has a link to each of the others and one to the client; on the kernel's sockets as device-each
    Links,
}

impl Placement {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Placement::Apart => "apart",
            Placement::Together => "together",
            Placement::DeviceEach => "device-each",
            Placement::Links => "links",
        }
    }

    /// Whether all nodes are in one process.
    fn is_one_process(self) -> bool {
        self != Placement::Apart
    }
}

#[derive(Debug)]
struct Node {
    slot: u8,
    client: SocketAddrV4,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// It was told to end.
    ending: bool,
}

impl Nodes {
    /// Starts the nodes of a plan at `site`. Says so where the usual ports are taken. Nodes that are placed together are one
    /// process, which [`Nodes::kill`] of any of them ends.
    ///
    /// # Errors
    /// No free ports, or what the operating system refuses.
    pub fn start(site: Site, plan: Plan) -> Result<Self, Error> {
        let first_port = choose_port(&site, plan.count + plan.spare)?;
        let directory = site::directory(plan.service);
        fs::create_dir(&directory).map_err(|source| Error::io(format!("create {}", directory.display()), source))?;
        let sweeper = if plan.keep { None } else { sweeper(&directory) };
        let slots: Vec<u8> = (1..=plan.count).collect();
        let mut nodes = Nodes { site, plan, first_port, directory, sweeper, nodes: Vec::new() };
        slots.iter().try_for_each(|&slot| nodes.prepare(slot, &slots))?;
        let processes = if nodes.plan.placement.is_one_process() { 1 } else { slots.len() };
        slots.iter().take(processes).try_for_each(|&slot| nodes.spawn(slot))?;
        Ok(nodes)
    }

    /// Starts one more node, of those that are apart, which knows the present ones and asks to be taken in.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn add(&mut self, slot: u8) -> Result<(), Error> {
        let slots: Vec<u8> = self.nodes.iter().map(|node| node.slot).chain([slot]).collect();
        self.prepare(slot, &slots)?;
        self.spawn(slot)
    }

    /// A node without a process.
    fn prepare(&mut self, slot: u8, members: &[u8]) -> Result<(), Error> {
        let config = self.directory.join(format!("node{slot}.toml"));
        let text = config_text(&self.site, &self.plan, slot, members, self.first_port);
        fs::write(&config, text).map_err(|source| Error::io(format!("write {}", config.display()), source))?;
        let log = self.directory.join(format!("node{slot}.log"));
        let client = SocketAddrV4::new(self.site.ip(slot), self.first_port);
        self.nodes.push(Node { slot, client, config, log, child: None, ending: false });
        Ok(())
    }

    /// Starts the process of a slot that has none; of nodes placed together, that of them all.
    pub fn spawn(&mut self, slot: u8) -> Result<(), Error> {
        let is_in_it = |node: &Node| self.plan.placement.is_one_process() || node.slot == slot;
        let configs: Vec<_> = self.nodes.iter().filter(|node| is_in_it(node)).map(|node| node.config.clone()).collect();
        let Some(node) = self.nodes.iter_mut().find(|node| is_in_it(node)) else { return Ok(()) };
        let program = std::env::current_exe().map_err(|source| Error::io("find this program's own file", source))?;
        let log = File::options().append(true).create(true).open(&node.log);
        let log = log.map_err(|source| Error::io(format!("write {}", node.log.display()), source))?;
        let mut command = self.site.command(node.slot, self.plan.placement, program, &self.directory);
        command.arg("serve").args(&self.plan.arguments);
        command.args(["--parent", &std::process::id().to_string()]);
        configs.iter().for_each(|config| _ = command.arg("--config").arg(config));
        // A group of its own: Ctrl-C at the terminal is for the demo, which then ends them.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        node.child = Some(command.spawn().map_err(|source| Error::io("start a node", source))?);
        Ok(())
    }

    /// Kills a node as a power cut would: no last words.
    pub fn kill(&mut self, slot: u8) -> Result<(), Error> {
        let is_together = self.plan.placement.is_one_process();
        match self.nodes.iter_mut().find(|node| is_together || node.slot == slot).and_then(|node| node.child.take()) {
            Some(mut child) => end(&mut child).map_err(|source| Error::io(format!("kill node {slot}"), source)),
            None => Ok(()),
        }
    }

    /// Sends a signal to a node's process. One that is told to end may do so.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn signal(&mut self, slot: u8, signal: Signal) -> Result<(), Error> {
        let Some(node) = self.nodes.iter_mut().find(|node| node.slot == slot) else { return Ok(()) };
        let Some(pid) = node.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed())) else {
            return Ok(());
        };
        node.ending |= signal == Signal::TERM;
        kill_process(pid, signal).map_err(|errno| Error::io(format!("send a signal to node {slot}"), errno.into()))
    }

    /// Whether a node has no process, or one that has ended.
    pub fn has_ended(&mut self, slot: u8) -> bool {
        let Some(node) = self.nodes.iter_mut().find(|node| node.slot == slot) else { return true };
        if node.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_)))) {
            (node.child, node.ending) = (None, false);
        }
        node.child.is_none()
    }

    /// Forgets a node that has ended for good.
    pub fn forget(&mut self, slot: u8) {
        self.nodes.retain(|node| node.slot != slot || node.child.is_some());
    }

    /// The process of a node.
    pub fn pid(&self, slot: u8) -> Option<u32> {
        self.nodes.iter().find(|node| node.slot == slot)?.child.as_ref().map(Child::id)
    }

    /// Fails where a node has ended by itself, with the end of its log.
    pub fn check(&mut self) -> Result<(), Error> {
        for node in self.nodes.iter_mut().filter(|node| !node.ending) {
            let Some(child) = &mut node.child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Error::NodeEnded { slot: node.slot, status: status.to_string(), output: tail(&node.log) });
            }
        }
        Ok(())
    }

    /// The port of a client in this process.
    pub fn client_port(&self) -> PortPlan {
        self.site.client_port(self.plan.placement, self.plan.count)
    }

    /// Waits until nothing hinders the port of a client in this process: where it has links, the nodes' ends must be there first.
    ///
    /// # Errors
    /// What does, when `patience` is over; a node that has ended.
    pub fn await_client_port(&mut self, patience: Duration) -> Result<PortPlan, Error> {
        let port = self.client_port();
        let mut looks = patience.as_millis() / LOOK_EVERY.as_millis();
        while let Err(error) = port.check() {
            self.check()?;
            if looks == 0 {
                return Err(error);
            }
            looks -= 1;
            let look_every = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.as_nanos() as _ };
            // Its end may be early, and there is one look more.
            let _ = nanosleep(&look_every);
        }
        Ok(port)
    }

    /// Where they run.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Slots and client addresses in order.
    pub fn addresses(&self) -> Vec<(u8, SocketAddrV4)> {
        self.nodes.iter().map(|node| (node.slot, node.client)).collect()
    }

    /// CPU time of all processes of nodes together since each began; `None` where one cannot be read.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.pids().map(machine::cpu_time).sum()
    }

    /// The processes that run nodes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref()).map(Child::id)
    }

    /// The configuration of the first node: `--config` takes it to find all members.
    pub fn config(&self) -> Option<&Path> {
        self.nodes.first().map(|node| node.config.as_path())
    }

    /// Where configurations and logs stay, if they do.
    pub fn kept(&self) -> Option<&Path> {
        self.plan.keep.then_some(self.directory.as_path())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // It may have ended already, and nothing more can be done here.
            let _ = end(child);
        }
        if !self.plan.keep {
            let _ = fs::remove_dir_all(&self.directory);
        }
        if let Some(mut sweeper) = self.sweeper.take() {
            // It ends with its standard input, which waiting closes.
            let _ = sweeper.wait();
        }
    }
}

fn end(child: &mut Child) -> std::io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(text.get(from..).unwrap_or(&[])).into_owned()
}

/// A process that waits for the end of this one and then removes the directory, which this one may no longer be able to.
fn sweeper(directory: &Path) -> Option<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", "cat >/dev/null; rm -rf -- \"$1\"", "sh"]).arg(directory);
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Without it the directory stays where the demo is killed, and nothing else is different.
    command.spawn().ok()
}

/// The client's and the peers' address of a node.
fn addresses(site: &Site, slot: u8, first_port: u16) -> [SocketAddrV4; 2] {
    let ip = site.ip(slot);
    [SocketAddrV4::new(ip, first_port), SocketAddrV4::new(ip, first_port + 100)]
}

/// The first of [`FIRST_PORTS`] that is free on every node's address. In a lab nobody else has any.
fn choose_port(site: &Site, count: u8) -> Result<u16, Error> {
    let [usual, ..] = FIRST_PORTS;
    if matches!(site, Site::Lab(..)) {
        return Ok(usual);
    }
    let mut first_taken = None;
    for port in FIRST_PORTS {
        let addresses = (1..=count).flat_map(|slot| addresses(site, slot, port));
        match addresses.map(|address| (address, UdpSocket::bind(address))).find(|(_, bound)| bound.is_err()) {
            None => {
                if let Some((address, owner)) = first_taken {
                    let by: Option<String> = owner;
                    let by = by.map_or_else(String::new, |owner| format!(" by {owner}"));
                    eprintln!("{address}/udp is in use{by}: the nodes use ports {port} and {} instead", port + 100);
                }
                return Ok(port);
            }
            Some((address, Err(source))) => match source.kind() {
                ErrorKind::AddrInUse => {
                    first_taken.get_or_insert_with(|| (address, machine::udp_owner(address)));
                }
                ErrorKind::AddrNotAvailable => return Err(Error::AddressElsewhere { address }),
                _ => return Err(Error::io(format!("bind {address}"), source)),
            },
            Some((_, Ok(_))) => {}
        }
    }
    let (address, owner) = first_taken.unwrap_or((SocketAddrV4::new(site.ip(1), usual), None));
    Err(Error::AddressInUse { address, owner })
}

/// The directory of one node below that of all.
fn data_of(data: &Path, slot: u8) -> PathBuf {
    data.join(format!("node{slot}"))
}

fn config_text(site: &Site, plan: &Plan, slot: u8, members: &[u8], first_port: u16) -> String {
    let service = plan.service;
    let durability = plan.durability.name();
    let mut text =
        format!("cluster = \"{service}\"\nslot = {slot}\ndurability = \"{durability}\"\nprofile = \"shared\"\n");
    if let Some(data) = &plan.data {
        text += &format!("data_dir = {:?}\n", data_of(data, slot));
    }
    text += &site.config_text(slot, plan.placement, members);
    text += &plan.config;
    for &slot in members {
        let [client, peer] = addresses(site, slot, first_port);
        text += &format!("\n[[member]]\nslot = {slot}\nclient = \"{client}\"\npeer = \"{peer}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::config::Config;

    #[test]
    fn the_configurations_are_correct_and_differ_in_their_slot_only() {
        let plan =
            Plan { service: "kv", count: 3, config: "[limits]\nlog_bytes = \"64MiB\"\n".into(), ..Plan::default() };
        let parsed = |slot| Config::parse("node.toml", &config_text(&Site::Loopback, &plan, slot, &[1, 2, 3], 8000));
        let (first, warnings) = parsed(1).expect("correct");
        assert_eq!((warnings, first.limits.log_bytes), (Vec::new(), 64 << 20));
        let (second, _) = parsed(2).expect("correct");
        assert_eq!(Config { slot: 2, ..first }, second);
        assert_eq!(
            second.me().map(|me| (me.client.to_string(), me.peer.to_string())).as_ref(),
            Some(&("127.0.0.2:8000".into(), "127.0.0.2:8100".into()))
        );
    }

    #[test]
    fn port_choices_do_not_touch_each_other_nor_the_router() {
        for port in FIRST_PORTS {
            let used = port..port + 100 + crate::program::config::SHARD_PORTS;
            assert!(!used.contains(&9000));
            assert!(FIRST_PORTS.iter().all(|other| *other == port || !used.contains(other)));
        }
    }
}
