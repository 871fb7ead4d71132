//! Calls to the store: RESP commands over the connection that every program of a service has.

use crate::journal::Page;
use crate::load::{Failure, Target};
use crate::resp::{self, Reply};
use std::net::SocketAddrV4;
use std::sync::LazyLock;
use std::time::Duration;
use trimaran_rpc::admin::method_key;
use trimaran_rpc::client::{CallError, MethodCall};
use trimaran_rpc::program::connect::Connection;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_runtime::{Instant, now};

/// The method key of all our calls: the service is one method over RESP commands.
static METHOD: LazyLock<u32> = LazyLock::new(|| method_key("kv.command/1"));

fn call(policy: Policy, body: &[u8]) -> MethodCall<'_> {
    MethodCall { method: *METHOD, policy, shard: 0, body, server: None }
}

/// A command for the cluster as a whole: the leader answers, or any node under policy 0.
pub async fn command(connection: &Connection, policy: Policy, request: &[u8]) -> Result<Vec<u8>, Error> {
    connection.call(call(policy, request)).await.map(|reply| reply.body)
}

/// One page of a node's journal.
pub async fn journal(connection: &Connection, node: SocketAddrV4, position: u64) -> Result<Page, Error> {
    let mut request = Vec::new();
    resp::emit_command(&[b"JOURNAL", position.to_string().as_bytes()], &mut request);
    let call = connection.client().call_raw(node, Policy::FixedRoute, &request, connection.deadline());
    let reply = call.await.map_err(|error| connection.error(error))?;
    match accepted(&reply)? {
        Reply::Bulk(page) => Page::parse(page).map_err(|error| Error::BadAnswer { what: error.to_string() }),
        other => Err(Error::BadAnswer { what: format!("{other:?} is no journal page") }),
    }
}

impl Target for Connection {
    async fn call(&self, policy: Policy, request: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        let within: Duration = deadline.saturating_since(now());
        match self.client().call(call(policy, request), within).await {
            Ok(reply) => Ok(reply.body),
            Err(CallError::NotApplied(_) | CallError::NoQuorum { .. }) => Err(Failure::NotApplied),
            Err(_) => Err(Failure::Unknown),
        }
    }
}

/// The reply's value; a refusal is an error.
pub fn accepted(reply: &[u8]) -> Result<Reply<'_>, Error> {
    match Reply::parse(reply) {
        Ok(Reply::Error(message)) => Err(Error::Refused { message: message.to_owned() }),
        Ok(reply) => Ok(reply),
        Err(_) => {
            let shown = reply.get(..40).unwrap_or(reply);
            Err(Error::BadAnswer { what: shown.escape_ascii().to_string() })
        }
    }
}
