//! The program `kv`: reads the command line, runs one command, prints its error, sets the exit code.
#![forbid(unsafe_code)]

use clap::Parser;
use kv_example::cli::{Cli, Command, Serve};
use kv_example::journal::Journal;
use kv_example::service::Kv;
use kv_example::{ask, bench, demo, failover, faults, peer, ports, restart, scale, sim};
use std::process::ExitCode;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::{Program, serve};

fn main() -> ExitCode {
    let program = Program::of::<Kv>();
    let command = Cli::parse().command;
    program.end(run(command, &program))
}

fn run(command: Command, program: &Program) -> Result<(), Error> {
    match command {
        Command::Serve(Serve { serve, journal }) => serve::run(&serve, move || Kv::new(journal.then(Journal::default))),
        Command::Get(get) => ask::get(&get),
        Command::Put(put) => ask::put(&put),
        Command::Cas(cas) => ask::cas(&cas),
        Command::Del(del) => ask::del(&del),
        Command::Incr(incr) => ask::incr(&incr),
        Command::Scan(scan) => ask::scan(&scan),
        Command::Txn(txn) => ask::txn(&txn),
        Command::Size(size) => ask::size(&size),
        Command::Bench(bench) => bench::run(&bench, program),
        Command::BenchFailover(bench) => failover::run(&bench, program),
        Command::BenchPeer(bench) => peer::run(&bench, program),
        Command::BenchPorts(bench) => ports::run(&bench, program),
        Command::BenchFaults(bench) => faults::run(&bench, program),
        Command::BenchScale(bench) => scale::run(&bench),
        Command::BenchRestart(bench) => restart::run(&bench, program),
        Command::Demo(demo) => demo::run(demo, program),
        Command::Sim(sim) => sim::run(&sim),
        Command::Common(common) => common.run::<Kv>(program),
    }
}
