//! The whole program of a service: `fn main() -> ExitCode { trimaran_rpc::serve::<Locks>() }`.

use crate::program::cli::{Common, Serve};
use crate::program::demo::{self, Demo};
use crate::program::error::Error;
use crate::program::{Program, arguments, serve};
use crate::service::{Mark, Service};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Exit codes: 0 done, 1 the service refused, 2 usage or configuration, 3 environment, 4 cluster.
#[derive(Debug, Parser)]
#[command(propagate_version = true, version = concat!("on trimaran ", env!("CARGO_PKG_VERSION")))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node until it is told to end
    Serve(Serve),
    /// Start a cluster on this machine, say how to call it, run it until Ctrl-C
    Demo(Demo),
    #[command(flatten)]
    Common(Common),
}

/// Runs the command line of this process: nodes of the service, calls to them, and what operators need. A program that
/// wants more commands builds on [`program`](crate::program) instead.
///
/// The program's exit codes are 0 done, 1 the service refused, 2 usage or configuration, 3 environment, 4 cluster.
pub fn serve<S: Service + Default>() -> ExitCode {
    let program = Program::of::<S>();
    match parse::<S>(std::env::args_os()) {
        Ok(command) => program.end(run::<S>(command, &program)),
        Err(error) => {
            // Where the terminal is gone, nobody is left to tell.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

fn parse<S: Service>(words: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let about = format!("{}, a replicated service on trimaran", S::NAME);
    let matches = Cli::command().name(S::NAME).about(about).try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches).map(|cli| cli.command)
}

fn run<S: Service + Default>(command: Command, program: &Program) -> Result<(), Error> {
    match command {
        Command::Serve(args) => serve::run(&args, S::default),
        Command::Demo(args) => demo::run(args, program, &example::<S>()),
        Command::Common(common) => common.run::<S>(program),
    }
}

/// A call to begin with: a write where there is one.
fn example<S: Service>() -> String {
    let is_callable = |mark| S::methods().iter().find(|method| method.mark == mark);
    let method = [Mark::Replicated, Mark::Read, Mark::Local].into_iter().find_map(is_callable);
    method.map_or_else(|| "status".to_owned(), |method| format!("call {}", arguments::usage(method)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::methods::tests::Idle;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        super::parse::<Idle>(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        assert!(matches!(parse("idle demo --seconds 3"), Ok(Command::Demo(Demo { seconds: Some(3), nodes: 3, .. }))));
        for line in ["idle methods --json", "idle call put k v", "idle status", "idle lints", "idle example-config"] {
            assert!(matches!(parse(line), Ok(Command::Common(_))), "{line}");
        }
        for line in ["idle", "idle nonsense", "idle serve", "idle demo --nodes 10", "idle call"] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_program_is_called_as_it_was_started() {
        let help = parse("/usr/bin/other --help").expect_err("help").to_string();
        assert!(help.contains("idle, a replicated service on trimaran") && help.contains("Usage: other"), "{help}");
    }

    #[test]
    fn the_demo_shows_a_write() {
        assert_eq!(example::<Idle>(), "call put <key> <value> [ttl]");
    }
}
