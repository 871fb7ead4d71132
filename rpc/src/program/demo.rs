//! `demo`: a cluster of this very program on this machine, to be called from another terminal.

use crate::program::cluster::LocalCluster;
use crate::program::connect::{self, Target};
use crate::program::error::Error;
use crate::program::nodes::{Nodes, Plan};
use crate::program::port::PortKind;
use crate::program::signals::Signals;
use crate::program::site::Site;
use crate::program::{Program, cli, say};
use clap::Args;
use std::time::Duration;

/// How long nodes may take to start and to elect.
const PATIENCE: Duration = Duration::from_secs(10);
/// One look at a node.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// A day, again and again: how long a demo without an end waits at a time.
const LONG: Duration = Duration::from_secs(86_400);

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Nodes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Shards, each with a leader of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cli::shards())]
    pub shards: u16,
    /// Cores of each node, at most as many as there are shards
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cli::shards())]
    pub cores: u16,
    /// End after so many seconds, instead of at Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,
    /// What carries the packets. dpdk, as root: the nodes get namespaces of their own, and virtual devices between them
    #[arg(long, value_enum, default_value_t)]
    pub port: PortKind,
    /// Leave the nodes' configurations and logs behind
    #[arg(long)]
    pub keep: bool,
}

/// Runs nodes until Ctrl-C, which is their proper end, or for a given time. `example` is a command line that calls the
/// service, without its servers.
///
/// # Errors
/// What keeps the cluster from being formed (E01xx, E03xx), and a node that ends by itself (E0106).
pub fn run(demo: Demo, program: &Program, example: &str) -> Result<(), Error> {
    let site = Site::of(demo.port, program.service, demo.nodes)?;
    let signals = Signals::watch()?;
    let (service, count, keep) = (program.service, demo.nodes, demo.keep);
    let plan = Plan { service, count, keep, config: cores_text(demo.shards, demo.cores), ..Plan::default() };
    let nodes = Nodes::start(site, plan)?;
    let servers: Vec<_> = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let (program, example) = (program.clone(), example.to_owned());
    let target = Target { port: nodes.client_port(), ..Target::new(servers, CALL_DEADLINE) };
    connect::run(target, move |connection| async move {
        let mut cluster = LocalCluster { nodes, connection, signals };
        let result = play(&mut cluster, &demo, &program, &example).await;
        if let Some(directory) = cluster.nodes.kept() {
            say(&format!("the nodes' configurations and logs are in {}\n", directory.display()))?;
        }
        result
    })
}

/// The section of the nodes' configurations that says into how many shards the data is cut; nothing where it is not.
pub fn cores_text(shards: u16, cores: u16) -> String {
    if shards == 1 && cores == 1 { String::new() } else { format!("[cores]\nshards = {shards}\ncount = {cores}\n") }
}

async fn play(cluster: &mut LocalCluster, demo: &Demo, program: &Program, example: &str) -> Result<(), Error> {
    let leader = cluster.form(program.service, PATIENCE).await?;
    let members = cluster.members();
    say(&format!("{} nodes run, node {leader} leads\n", members.len()))?;
    let (enter, servers) = match members == cli::DEFAULT_SERVERS {
        true => (String::new(), String::new()),
        false => cluster.nodes.site().typed(&members),
    };
    let typed = format!("{enter}{}", program.typed);
    let calls = format!("  {typed} methods\n  {typed} {example}{servers}\n  {typed} status{servers}\n");
    say(&format!("\nfrom another terminal:\n{calls}\n"))?;
    match demo.seconds {
        Some(seconds) => cluster.wait(Duration::from_secs(seconds.into())).await,
        None => {
            say("Ctrl-C ends the nodes; they forget everything\n")?;
            loop {
                match cluster.wait(LONG).await {
                    Err(Error::Interrupted) => return Ok(()),
                    waited => waited?,
                }
            }
        }
    }
}
