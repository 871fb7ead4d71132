//! `call`: one method of the service, its arguments from the command line, its reply as JSON.

use crate::client::{AnyRequest, OwnedCall, Replica};
use crate::program::cli::{Reading, Servers};
use crate::program::error::Error;
use crate::program::{arguments, connect, methods, say};
use crate::r2p2::Status;
use crate::r2p2::policy::Policy;
use crate::service::{Answer, Mark, Method, Service};
use crate::shards::shard_key;
use clap::Args;
use serde_json::Value;

/// `call`
#[derive(Debug, Args)]
pub struct Call {
    /// The method; `methods` lists them
    pub method: String,
    /// Its arguments in their order, or one JSON object of all of them
    #[arg(allow_negative_numbers = true)]
    pub arguments: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub reading: Reading,
    /// With several shards: the key that decides on the shard, as the method's own argument would
    #[arg(long, value_name = "KEY", conflicts_with = "shard")]
    pub key: Option<String>,
    /// With several shards: the shard that is called
    #[arg(long, value_name = "N")]
    pub shard: Option<u16>,
    /// Print an object of the reply and the log index at which the call was applied or read
    #[arg(long)]
    pub index: bool,
    /// Show bytes that are text as text, not as a list of numbers
    #[arg(long)]
    pub text: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
}

/// Calls the method and prints its reply, one line of JSON.
///
/// # Errors
/// E0215 for a call that the method does not take; E0308 with the service's own error; those of the cluster, E03xx.
pub fn run<S: Service>(call: &Call) -> Result<(), Error> {
    let method = methods::find::<S>(&call.method)?;
    let takes = || format!("`call {}`", arguments::usage(method));
    let arguments = arguments::to_json(method, &call.arguments)
        .map_err(|problem| Error::Usage { problem, help: format!("write {}", takes()) })?;
    let body = (method.encode_json)(&arguments.to_string()).map_err(|problem| Error::Usage {
        problem: format!("{} does not take these arguments: {problem}", method.name),
        help: format!("write {}, or an object of them", takes()),
    })?;
    let shard_key = call.key.as_ref().map(|key| shard_key(key.as_bytes()));
    let request = AnyRequest { method: method.key, policy: policy(method, call)?, body, shard_key };
    // Only the typed client knows which argument decides on the shard.
    let (shard, is_open) = (call.shard, call.key.is_none() && call.shard.is_none() && !method.arguments.is_empty());
    let reading = call.reading.clone();
    let reply = connect::once(call.servers.target()?, move |connection| async move {
        let replica = match request.policy {
            Policy::FixedRoute => reading.replica.or_else(|| connection.servers().first().copied().map(Replica::At)),
            _ => reading.replica,
        };
        if is_open {
            let shards = connection.client().ask_shards(connection.deadline()).await.shards();
            if shards > 1 {
                return Err(Error::Usage {
                    problem: format!("the cluster has {shards} shards, and nothing says which one is called"),
                    help: "add `--key KEY`, with the argument that decides on the shard, or `--shard N`".into(),
                });
            }
        }
        let consistency = reading.consistency();
        connection.submit(OwnedCall { consistency, replica, shard, ..OwnedCall::new(request) }).await
    })?;
    let shown = |answer| (method.decode_json)(answer, &reply.body).map_err(|what| Error::BadAnswer { what });
    match reply.status {
        Status::App => Err(Error::Refused { message: shown(Answer::App)? }),
        _ => {
            let json = shown(Answer::Ok)?;
            let json = if call.text { as_text(&json) } else { json };
            let index = reply.block.index;
            say(&if call.index { format!("{{\"index\":{index},\"value\":{json}}}\n") } else { format!("{json}\n") })
        }
    }
}

fn as_text(json: &str) -> String {
    serde_json::from_str::<Value>(json)
        .map_or_else(|_| json.to_owned(), |value| arguments::with_texts(value).to_string())
}

/// How the method's mark is asked for on the wire.
fn policy(method: &Method, call: &Call) -> Result<Policy, Error> {
    let misplaced = |option: &str, of: &str| Error::Usage {
        problem: format!("{option} is for {of}, and `{}` is none", method.name),
        help: format!("leave {option} out"),
    };
    if method.mark != Mark::Read && (call.reading.stale || call.reading.consistency.is_some()) {
        return Err(misplaced(if call.reading.stale { "--stale" } else { "--consistency" }, "reads"));
    }
    if call.reading.replica.is_some() && !matches!(method.mark, Mark::Read | Mark::Local) {
        return Err(misplaced("--replica", "reads and local methods"));
    }
    Ok(match method.mark {
        Mark::Replicated => Policy::ReplicatedRoute,
        Mark::Read => Policy::ReplicatedRouteNoSideEffects,
        // Timers and effects are not found by name, and bytes have no arguments to write.
        Mark::Local | Mark::Timer | Mark::Effect | Mark::Raw => Policy::FixedRoute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Consistency;
    use crate::program::methods::tests::{GET, Idle, PUT};
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        call: Call,
    }

    fn call(line: &str) -> Call {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}")).call
    }

    #[test]
    fn marks_choose_the_policy() {
        assert_eq!(policy(&PUT, &call("call put k v")).ok(), Some(Policy::ReplicatedRoute));
        assert_eq!(policy(&GET, &call("call get k")).ok(), Some(Policy::ReplicatedRouteNoSideEffects));
        for line in ["call get k --stale", "call get k --replica 2 --consistency stale=50ms"] {
            assert_eq!(policy(&GET, &call(line)).ok(), Some(Policy::ReplicatedRouteNoSideEffects), "{line}");
        }
        for line in ["call put k v --stale", "call put k v --consistency lease", "call put k v --replica 1"] {
            assert_eq!(policy(&PUT, &call(line)).map_err(|error| error.code()), Err("E0215"), "{line}");
        }
    }

    #[test]
    fn consistencies_are_read() {
        let of = |line: &str| call(line).reading.consistency();
        assert_eq!(of("call get k"), Consistency::Linearizable);
        assert_eq!(
            (of("call get k --stale"), of("call get k --consistency any")),
            (Consistency::Any, Consistency::Any)
        );
        assert_eq!(of("call get k --consistency at-least=7"), Consistency::AtLeast(trimaran_raft::LogIndex(7)));
        for wrong in
            ["call get k --consistency fresh", "call get k --stale --consistency any", "call get k --replica 0"]
        {
            assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn negative_numbers_are_arguments() {
        assert_eq!(call("call add -5 --deadline 1s").arguments, ["-5"]);
    }

    #[test]
    fn a_call_that_does_not_fit_is_a_usage_error() {
        let code = |line| run::<Idle>(&call(line)).map_err(|error| (error.code(), error.exit_code()));
        assert_eq!(code("call nothing"), Err(("E0215", 2)));
        assert_eq!(code("call put k"), Err(("E0215", 2)));
    }

    #[test]
    fn replies_are_shown_as_text_on_demand() {
        assert_eq!(as_text("[104,105]"), "\"hi\"");
        assert_eq!(as_text("no json"), "no json");
    }
}
