//! What a run consists of: each part is a few commands that print rows of JSON, and can fail without the others.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::peers::{self, Expected};
use crate::preflight;
use crate::workspace::Workspace;

/// Runs the bench over DPDK, which is built with a feature.
pub(crate) const DPDK_BENCH: [&str; 8] =
    ["bench", "--quiet", "--package", "trimaran-benches", "--features", "dpdk", "--bench", "dpdk"];

/// One part of a run.
pub(crate) struct Part {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    /// In more words.
    pub(crate) what: &'static str,
    /// About how long it takes: with `--quick`, and without.
    pub(crate) seconds: [u32; 2],
}

const fn part(name: &'static str, what: &'static str, seconds: [u32; 2]) -> Part {
    Part { name, what, seconds }
}

/// All parts in their order.
pub(crate) const PARTS: &[Part] = &[
    part("micro", "what each layer costs on its own", [5, 36]),
    part("throughput", "operations against outstanding requests, a process for each node", [20, 180]),
    part("together", "the same with one process for all nodes", [9, 90]),
    part("load", "latency against load, open loop, up to what a closed loop reaches", [14, 45]),
    part("ycsb", "the mixes of YCSB, A to F", [7, 25]),
    part("reads", "throughput against the share of reads", [4, 25]),
    part("values", "values of 64 bytes, 1 KiB and 8 KiB", [7, 25]),
    part("durable", "nodes with data directories", [4, 13]),
    part("failover-us", "leaders killed within one process, 3 to 6 ms", [6, 27]),
    part("failover-shared", "processes of leaders killed, 100 to 200 ms", [9, 27]),
    part("faults", "lost packets, a dead and a stopped follower", [19, 105]),
    part("scaling", "operations by cores", [10, 31]),
    part("applier", "handlers of 10 us on the node's core and on their own", [28, 152]),
    part("snapshot", "the longest turn while a state of 1 GB is saved", [0, 10]),
    part("ring", "whole nodes over rings of packets, one thread", [10, 30]),
    part("instructions", "instructions of a put, a packet, a timer", [2, 3]),
    part("dpdk", "the loop over a virtual device of DPDK's, beside testpmd", [0, 25]),
    part("peers", "beside etcd, ZooKeeper, raftrs, null and echo", [197, 570]),
];

/// What parts need to know.
pub(crate) struct Context<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) quick: bool,
    /// The harness that runs other systems.
    pub(crate) peers: Option<PathBuf>,
    /// Where everything is written; made anew for each run, but for what takes long to build.
    pub(crate) scratch: PathBuf,
}

/// What a part does.
pub(crate) enum Work {
    /// These, one after the other; their rows are on standard output.
    Run(Vec<Command>),
    /// These; their rows are in the harness's files, and the harness goes on after a system that has failed.
    Peers(Vec<Command>, Expected),
    /// Nothing, and why: this machine lacks it, or nobody has asked for it.
    Absent(String),
    /// Nothing, since what was asked for cannot be done, and why.
    Failed(String),
}

impl Context<'_> {
    pub(crate) fn kv(&self) -> PathBuf {
        self.workspace.target().join("release/kv")
    }

    /// Where a stream of a part's commands is kept.
    pub(crate) fn place(&self, part: &Part, stream: &str) -> PathBuf {
        self.scratch.join(format!("{}.{stream}", part.name))
    }

    /// How long each load runs before it is measured, and then.
    fn times(&self) -> [String; 4] {
        let (warmup, seconds) = if self.quick { ("0.25", "0.8") } else { ("1", "3") };
        ["--warmup", warmup, "--seconds", seconds].map(str::to_owned)
    }

    /// A `kv bench` of three nodes of its own.
    fn bench(&self, arguments: &str) -> Command {
        let mut command = self.command(&self.kv(), "bench --nodes 3 --json");
        command.args(self.times()).args(arguments.split(' '));
        command
    }

    fn command(&self, program: &Path, arguments: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.scratch).args(arguments.split(' '));
        command
    }

    /// A bench of the crate `benches`.
    fn micro(&self, name: &str) -> Command {
        let mut cargo = self.workspace.cargo(&["bench", "--quiet", "--package", "trimaran-benches", "--bench", name]);
        cargo.env("BENCH_JSON", "1");
        if self.quick {
            cargo.env("BENCH_QUICK", "1");
        }
        cargo
    }

    /// Whether the built `kv` has a command.
    fn knows(&self, word: &str) -> bool {
        let help = Command::new(self.kv()).arg("--help").output();
        help.is_ok_and(|help| {
            let text = String::from_utf8_lossy(&help.stdout).into_owned();
            text.lines().any(|line| line.split_whitespace().next() == Some(word))
        })
    }

    /// What a part has to do.
    pub(crate) fn work(&self, part: &Part) -> Work {
        let one = |command| Work::Run(vec![command]);
        let outstanding = if self.quick { "1,8,64,256" } else { "1,2,4,8,16,32,64,128,256,512,1024" };
        let kv = self.kv();
        match part.name {
            "micro" => Work::Run(
                ["runtime", "mesh", "codec", "ports", "raft_commit", "rpc"].map(|name| self.micro(name)).into(),
            ),
            "throughput" => one(self.bench(&format!("--idle 2 --op put,get,stale,echo --outstanding {outstanding}"))),
            "together" => one(self.bench(&format!("--placement together --op put,get --outstanding {outstanding}"))),
            // Little load, for what idle nodes cost; then shares of what is possible, so that the knee shows on any machine.
            "load" => Work::Run(vec![
                self.bench("--op put --rate 100,1000,10000"),
                self.bench("--op put --outstanding 256 --share 10,25,50,75,90,100"),
            ]),
            "ycsb" => one(self.bench("--mix a,b,c,d,e,f --outstanding 64 --keys 10000")),
            "reads" => {
                let shares = if self.quick { "0,50,100" } else { "0,25,50,75,90,100" };
                one(self.bench(&format!("--reads {shares} --outstanding 64")))
            }
            "values" => one(self.bench("--op put,get --value 64,1024,8192 --outstanding 64 --keys 1000")),
            "durable" => {
                let data = self.scratch.join("durable");
                // What an earlier run that was ended has left.
                let _ = std::fs::remove_dir_all(&data);
                one(self.bench(&format!("--op put --outstanding 1,64,256 --data {}", data.display())))
            }
            "failover-us" => {
                let kills = if self.quick { 200 } else { 1000 };
                one(self.command(&kv, &format!("bench-failover --json --profile us --kills {kills}")))
            }
            "failover-shared" => {
                let kills = if self.quick { 15 } else { 50 };
                one(self.command(&kv, &format!("bench-failover --json --profile shared --kills {kills}")))
            }
            "faults" => {
                let (rounds, rate) = if self.quick { (1, 5000) } else { (3, 10_000) };
                let seconds = if self.quick { 1 } else { 3 };
                one(self
                    .command(&kv, &format!("bench-faults --json --rounds {rounds} --seconds {seconds} --rate {rate}")))
            }
            "scaling" if self.knows("bench-scale") => {
                // Odd numbers have a middle; ten are the most, for want of addresses.
                let rounds = if self.quick { 3 } else { 9 };
                one(self.command(&kv, &format!("bench-scale --rounds {rounds} --seconds 1")))
            }
            "scaling" => Work::Absent("this `kv` has no bench-scale".into()),
            "applier" => one(self.micro("applier")),
            "snapshot" | "dpdk" if self.quick => Work::Absent("only in a full run".into()),
            "snapshot" => one(self.micro("snapshot")),
            "dpdk" => match preflight::dpdk_bench() {
                Ok(()) => {
                    let mut dpdk = self.workspace.cargo(&DPDK_BENCH);
                    dpdk.args(["--", "macswap"]);
                    one(dpdk)
                }
                Err(why) => Work::Absent(why),
            },
            "ring" | "instructions" if !self.workspace.has_bench("ring") => {
                Work::Absent("there is no bench `ring` in the crate `benches`".into())
            }
            "ring" => one(self.micro("ring")),
            "instructions" => {
                let mut counted = self.micro("ring");
                counted.args(["--", "counts"]);
                one(counted)
            }
            "peers" => match &self.peers {
                Some(harness) => peers::work(self, harness),
                None => Work::Absent("no harness was named: --peers PATH".into()),
            },
            other => Work::Absent(format!("nothing is known about {other}")),
        }
    }
}

/// Parts by their names; an unknown one is told with the known ones.
///
/// # Errors
/// A name that no part has.
pub(crate) fn chosen(only: &[String]) -> Result<Vec<&'static Part>, String> {
    let names = || PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = only.iter().find(|name| PARTS.iter().all(|part| part.name != name.as_str())) {
        return Err(format!("no part is called {unknown}; there are {}", names()));
    }
    Ok(PARTS.iter().filter(|part| only.is_empty() || only.iter().any(|name| name == part.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chosen_by_name_and_stay_in_their_order() {
        let chosen = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            chosen(&only).map(|parts| parts.iter().map(|part| part.name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&["ycsb", "micro"]), Ok(vec!["micro", "ycsb"]));
        assert_eq!(chosen(&[]).map(|all| all.len()), Ok(PARTS.len()));
        assert!(chosen(&["ycbs"]).unwrap_err().contains("no part is called ycbs; there are micro, throughput"));
    }

    #[test]
    fn a_quick_run_is_meant_to_take_less_than_six_minutes() {
        assert!(PARTS.iter().map(|part| part.seconds[0]).sum::<u32>() < 360);
        assert!(PARTS.iter().all(|part| part.seconds[0] < part.seconds[1]));
    }
}
