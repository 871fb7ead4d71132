//! Calls to the store over the connection that every program of a service has.

use crate::journal::Page;
use crate::load::{Answered, Ask, Failure, Target};
use crate::requests;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_rpc::client::{CallError, Client, MethodCall};
use trimaran_rpc::program::connect::Connection;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::serde::de::DeserializeOwned;
use trimaran_runtime::{Instant, now};

fn method_call(ask: Ask, body: &[u8]) -> MethodCall<'_> {
    MethodCall { method: ask.method, policy: ask.policy, shard: 0, body, server: None }
}

/// Calls a method whose arguments are in `body`; what the service says no to is an error like any other.
pub async fn call<T: DeserializeOwned>(connection: &Connection, ask: Ask, body: &[u8]) -> Result<T, Error> {
    finish(connection.call_keyed(method_call(ask, body), ask.key).await?)
}

/// As [`call`], of the node given, at the shard's own address: for methods that one replica answers.
pub async fn call_at<T: DeserializeOwned>(
    connection: &Connection,
    (node, shard): (SocketAddrV4, u16),
    ask: Ask,
    body: &[u8],
) -> Result<T, Error> {
    let call = MethodCall { policy: Policy::FixedRoute, server: Some(node), shard, ..method_call(ask, body) };
    finish(connection.call(call).await?)
}

fn finish<T: DeserializeOwned>(reply: trimaran_rpc::client::Reply) -> Result<T, Error> {
    let answered = Answered { status: reply.status, body: reply.body };
    match requests::result(&answered) {
        Some(Ok(value)) => Ok(value),
        Some(Err(refusal)) => Err(Error::Refused { message: refusal.to_string() }),
        None => {
            let shown = answered.body.get(..40).unwrap_or(&answered.body);
            Err(Error::BadAnswer { what: shown.escape_ascii().to_string() })
        }
    }
}

/// One page of a node's journal.
pub async fn journal(connection: &Connection, node: SocketAddrV4, shard: u16, position: u64) -> Result<Page, Error> {
    let mut body = Vec::new();
    let ask = requests::journal(position, &mut body);
    call_at(connection, (node, shard), ask, &body).await
}

impl Target for Connection {
    async fn call(&self, ask: Ask, body: &[u8], deadline: Instant) -> Result<Answered, Failure> {
        Target::call(self.client(), ask, body, deadline).await
    }
}

impl Target for Client {
    async fn call(&self, ask: Ask, body: &[u8], deadline: Instant) -> Result<Answered, Failure> {
        let within: Duration = deadline.saturating_since(now());
        match self.call_keyed(method_call(ask, body), ask.key, within).await {
            Ok(reply) => Ok(Answered { status: reply.status, body: reply.body }),
            Err(CallError::NotApplied(_) | CallError::NoQuorum { .. }) => Err(Failure::NotApplied),
            Err(_) => Err(Failure::Unknown),
        }
    }
}
