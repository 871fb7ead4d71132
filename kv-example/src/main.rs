//! The program `kv`: reads the command line, runs one command, prints its error, sets the exit code.
#![forbid(unsafe_code)]

use clap::Parser;
use kv_example::cli::{Cli, Command};
use kv_example::error::Error;
use kv_example::{ask, bench, config, demo, report, serve, sim, status};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", report::error(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Init(init) => ask::init(&init),
        Command::Get(get) => ask::get(&get),
        Command::Set(set) => ask::set(&set),
        Command::Del(del) => ask::del(&del),
        Command::Incr(incr) => ask::incr(&incr),
        Command::Status(status) => status::run(&status),
        Command::Bench(bench) => bench::run(bench),
        Command::Demo(demo) => demo::run(demo),
        Command::Sim(sim) => sim::run(&sim),
        Command::ExampleConfig => {
            print!("{}", config::EXAMPLE);
            Ok(())
        }
    }
}
