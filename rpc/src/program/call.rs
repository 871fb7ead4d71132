//! `call`: one method of the service, its arguments from the command line, its reply as JSON.

use crate::client;
use crate::program::cli::Servers;
use crate::program::error::Error;
use crate::program::{arguments, connect, methods, say};
use crate::r2p2::Status;
use crate::r2p2::policy::Policy;
use crate::service::{Answer, Mark, Method, Service};
use clap::Args;
use serde_json::Value;
use std::net::SocketAddrV4;

/// `call`
#[derive(Debug, Args)]
pub struct Call {
    /// The method; `methods` lists them
    pub method: String,
    /// Its arguments in their order, or one JSON object of all of them
    #[arg(allow_negative_numbers = true)]
    pub arguments: Vec<String>,
    /// Reads: take the answer of any replica, however old
    #[arg(long)]
    pub stale: bool,
    /// Local methods: the replica to ask
    #[arg(long, value_name = "IP:PORT")]
    pub replica: Option<SocketAddrV4>,
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
    let policy = policy(method, call)?;
    let replica = call.replica;
    let reply = connect::once(call.servers.target()?, move |connection| async move {
        let server = match policy {
            Policy::FixedRoute => replica.or_else(|| connection.servers().first().copied()),
            _ => None,
        };
        connection.call(client::MethodCall { method: method.key, policy, shard: 0, body: &body, server }).await
    })?;
    let shown = |answer| (method.decode_json)(answer, &reply.body).map_err(|what| Error::BadAnswer { what });
    match reply.status {
        Status::App => Err(Error::Refused { message: shown(Answer::App)? }),
        _ => {
            let json = shown(Answer::Ok)?;
            say(&format!("{}\n", if call.text { as_text(&json) } else { json }))
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
    if call.stale && method.mark != Mark::Read {
        return Err(misplaced("--stale", "reads"));
    }
    if call.replica.is_some() && method.mark != Mark::Local {
        return Err(misplaced("--replica", "local methods"));
    }
    Ok(match method.mark {
        Mark::Replicated => Policy::ReplicatedRoute,
        Mark::Read if call.stale => Policy::LbRoute,
        Mark::Read => Policy::ReplicatedRouteNoSideEffects,
        // Timers and effects are not found by name, and bytes have no arguments to write.
        Mark::Local | Mark::Timer | Mark::Effect | Mark::Raw => Policy::FixedRoute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(policy(&GET, &call("call get k --stale")).ok(), Some(Policy::LbRoute));
        assert_eq!(policy(&PUT, &call("call put k v --stale")).map_err(|error| error.code()), Err("E0215"));
        assert!(policy(&GET, &call("call get k --replica 127.0.0.1:8000")).is_err());
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
