//! `kv get`, `set`, `del` and `incr`: one question each, the answer on standard output.

use crate::cli::{Del, Get, Incr, Set};
use crate::connect;
use crate::resp::{self, Reply};
use std::io::Write;
use trimaran_rpc::program::cli::Servers;
use trimaran_rpc::program::connect::once;
use trimaran_rpc::program::error::Error;
use trimaran_rpc::r2p2::policy::Policy;

/// Prints the value of a key.
pub fn get(get: &Get) -> Result<(), Error> {
    let policy = if get.stale { Policy::LbRoute } else { Policy::ReplicatedRouteNoSideEffects };
    ask(&get.servers, policy, &[b"GET", get.key.as_bytes()])
}

/// Stores a value and prints OK.
pub fn set(set: &Set) -> Result<(), Error> {
    ask(&set.servers, Policy::ReplicatedRoute, &[b"SET", set.key.as_bytes(), set.value.as_bytes()])
}

/// Removes keys and prints how many there were.
pub fn del(del: &Del) -> Result<(), Error> {
    let words: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(del.keys.iter().map(|key| key.as_bytes())).collect();
    ask(&del.servers, Policy::ReplicatedRoute, &words)
}

/// Adds one to a number and prints it.
pub fn incr(incr: &Incr) -> Result<(), Error> {
    ask(&incr.servers, Policy::ReplicatedRoute, &[b"INCR", incr.key.as_bytes()])
}

fn ask(servers: &Servers, policy: Policy, words: &[&[u8]]) -> Result<(), Error> {
    let mut request = Vec::new();
    resp::emit_command(words, &mut request);
    let reply = once(servers.addresses()?, servers.deadline, move |connection| async move {
        connect::command(&connection, policy, &request).await
    })?;
    let mut line = match connect::accepted(&reply)? {
        Reply::Simple(text) => text.as_bytes().to_vec(),
        Reply::Bulk(bytes) => bytes.to_vec(),
        Reply::Integer(number) => number.to_string().into_bytes(),
        Reply::Nil | Reply::Error(_) => b"(nil)".to_vec(),
    };
    line.push(b'\n');
    std::io::stdout().write_all(&line).map_err(|source| Error::io("write the answer", source))
}
