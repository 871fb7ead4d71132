//! `kv bench-restart`: how long a node takes from its start to its first answer when its log is long, and how much memory.
//!
//! ```text
//! one durable node -> puts until its log has so many bytes -> (kill -> start -> first answer), once for each round
//! ```
//!
//! No snapshot is saved meanwhile, and the log in memory may be as long: everything is read, kept and applied again. Beside it stands
//! what merely reading the same files takes, in the same state of the page cache.

use crate::cli::BenchRestart;
use crate::connect;
use crate::requests;
use serde_json::json;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use trimaran_rpc::program::cluster::LocalCluster;
use trimaran_rpc::program::connect::{Connection, Target, run as with_connection};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::nodes::{self, Nodes};
use trimaran_rpc::program::signals::Signals;
use trimaran_rpc::program::site::Site;
use trimaran_rpc::program::{Program, machine, say};
use trimaran_rpc::storage::Durability;
use trimaran_runtime::{Clock, Monotonic};

/// The only node.
const SLOT: u8 = 1;
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long the node may take to start for the first time, and to answer after a start.
const PATIENCE: Duration = Duration::from_secs(10);
const RESTART_PATIENCE: Duration = Duration::from_secs(600);
/// Puts on their way while the log is filled.
const FILLERS: u64 = 16;
/// So few that the state stays small beside the log.
const KEYS: u64 = 64;
/// One file of the log.
const FILE_MIB: u64 = 32;
/// Read at once where files are merely read.
const READ_BYTES: usize = 1 << 20;

/// One start.
struct Round {
    answered_after: Duration,
    peak_bytes: u64,
    read: Duration,
}

/// Runs the benchmark and prints its result.
///
/// # Errors
/// Those of the node, and what keeps its files from being read.
pub fn run(bench: &BenchRestart, program: &Program) -> Result<(), Error> {
    let signals = Signals::watch()?;
    let log_mib = bench.log.div_ceil(1 << 20).max(1);
    // A snapshot is saved when half of the files or of the budget is in use: there is more than three times as much as needed.
    let files = log_mib.div_ceil(FILE_MIB) * 3 + 4;
    let plan = nodes::Plan {
        service: program.service,
        count: 1,
        data: Some(bench.data.clone()),
        durability: Durability::Durable,
        config: format!(
            "\n[limits]\nlog_bytes = \"{}MiB\"\n[disk]\nfile_bytes = \"{FILE_MIB}MiB\"\nfiles = {files}\nsnapshot_every_bytes = \"1024GiB\"\n",
            (log_mib * 3).max(256)
        ),
        ..nodes::Plan::default()
    };
    let nodes = Nodes::start(Site::Loopback, plan)?;
    let servers = nodes.addresses().into_iter().map(|(_, client)| client).collect();
    let target = Target { port: nodes.client_port(), ..Target::new(servers, CALL_DEADLINE) };
    let (bench, service) = (bench.clone(), program.service);
    with_connection(target, move |connection| async move {
        let mut cluster = LocalCluster { nodes, connection, signals };
        cluster.form(service, PATIENCE).await?;
        let directory = bench.data.join(format!("node{SLOT}"));
        let puts = fill(&cluster.connection, &bench).await?;
        for round in 0..bench.rounds {
            let measured = restart(&mut cluster, &directory).await?;
            say(&line(round, &measured, puts, &bench))?;
        }
        Ok(())
    })
}

/// Puts until the log has its length; how many that took.
async fn fill(connection: &Connection, bench: &BenchRestart) -> Result<u64, Error> {
    let puts = bench.log.div_ceil(u64::from(bench.value.max(1)));
    let next = Cell::new(0);
    let fillers = (0..FILLERS).map(|_| async {
        let (value, mut body) = (vec![b'v'; bench.value as usize], Vec::new());
        while next.get() < puts {
            let number = next.replace(next.get() + 1);
            body.clear();
            let ask = requests::put(&(number % KEYS).to_le_bytes(), &value, None, &mut body);
            connect::call::<u64>(connection, ask, &body).await?;
        }
        Ok(())
    });
    futures::future::try_join_all(fillers).await?;
    Ok(puts)
}

async fn restart(cluster: &mut LocalCluster, directory: &Path) -> Result<Round, Error> {
    cluster.nodes.kill(SLOT)?;
    let begun = Monotonic.now();
    read_all(directory).map_err(|error| Error::io(format!("read {}", directory.display()), error))?;
    let read = Monotonic.now() - begun;
    let begun = Monotonic.now();
    cluster.nodes.spawn(SLOT)?;
    let mut body = Vec::new();
    let ask = requests::get(&0u64.to_le_bytes(), &mut body);
    loop {
        match connect::call::<Option<crate::store::Found>>(&cluster.connection, ask, &body).await {
            Ok(_) => break,
            Err(error) if Monotonic.now() - begun >= RESTART_PATIENCE => return Err(error),
            Err(_) => cluster.wait(Duration::from_millis(1)).await?,
        }
    }
    let answered_after = Monotonic.now() - begun;
    let peak_bytes = cluster.nodes.pid(SLOT).and_then(machine::peak_resident_bytes).unwrap_or(0);
    Ok(Round { answered_after, peak_bytes, read })
}

/// Reads every file once, in order.
fn read_all(directory: &Path) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    for entry in fs::read_dir(directory)? {
        let mut file = File::open(entry?.path())?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

fn line(round: u32, measured: &Round, puts: u64, bench: &BenchRestart) -> String {
    let Round { answered_after, peak_bytes, read } = measured;
    if bench.json {
        let result = json!({
            "round": round + 1,
            "log_bytes": bench.log,
            "entries": puts,
            "answered_after_ms": answered_after.as_millis() as u64,
            "peak_resident_bytes": peak_bytes,
            "read_ms": read.as_millis() as u64,
        });
        return format!("{result}\n");
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "round {}: a log of {:.0} MiB in {puts} entries; first answer after {:.2} s, {:.0} MiB resident at most; reading the files takes {:.2} s\n",
        round + 1,
        mib(bench.log),
        answered_after.as_secs_f64(),
        mib(*peak_bytes),
        read.as_secs_f64()
    )
}
