//! One question from a terminal each: `kv get`, `put`, `cas`, `del`, `incr`, `scan`, `txn` and `size`.

use crate::cli::{Cas, Del, Get, If, Incr, Output, Put, Scan, Size, Txn};
use crate::error::KvError;
use crate::service::{KvClient, Size as Held};
use crate::store::limits::SCAN_ITEMS_MAX;
use crate::store::{Expected, Item, prefix_end};
use crate::syntax;
use crate::txn::{self, OpResult, TxnResult};
use serde_json::{Value, json};
use std::future::Future;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_rpc::client::{CallError, Client, Indexed};
use trimaran_rpc::program::cli::{Reading, Servers};
use trimaran_rpc::program::connect::{Connection, once};
use trimaran_rpc::program::error::Error;
use trimaran_rpc::program::say;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::shards::{ShardMap, shard_key};

/// How reads go.
const READ: Policy = Policy::ReplicatedRouteNoSideEffects;

/// Prints the value of a key.
pub fn get(get: &Get) -> Result<(), Error> {
    let (key, reading) = (get.key.clone().into_bytes(), get.reading.clone());
    let found = ask(&get.servers, Policy::ReplicatedRouteNoSideEffects, async move |kv, within| {
        reading.of(kv.get(&key)).deadline(within).await
    })?;
    if get.output.json {
        let found = found.map(|found| {
            let ttl_ms = found.ttl.map(|ttl| ttl.as_millis() as u64);
            json!({ "value": text(&found.value), "version": found.version, "ttl_ms": ttl_ms })
        });
        return say(&format!("{}\n", found.unwrap_or(Value::Null)));
    }
    line(&found.map_or_else(|| b"(nil)".to_vec(), |found| found.value))
}

/// Stores a value and prints its version.
pub fn put(put: &Put) -> Result<(), Error> {
    let (key, value, ttl) = (put.key.clone().into_bytes(), put.value.clone().into_bytes(), put.ttl);
    let expected = put.if_version.map(Expected::Version);
    let written = ask(&put.servers, Policy::ReplicatedRoute, async move |kv, within| match expected {
        None => kv.put(&key, &value, ttl).deadline(within).with_index().await,
        Some(expected) => kv.cas(&key, expected, &value, ttl).deadline(within).with_index().await,
    })?;
    stored(put.output, written)
}

/// Stores a value where the key is as expected, and prints its version.
pub fn cas(cas: &Cas) -> Result<(), Error> {
    let (key, value, ttl) = (cas.key.clone().into_bytes(), cas.value.clone().into_bytes(), cas.ttl);
    let expected = match &cas.expected {
        If { if_version: Some(version), .. } => Expected::Version(*version),
        If { if_value: Some(value), .. } => Expected::Value(value.clone().into_bytes()),
        If { .. } => Expected::Absent,
    };
    let written = ask(&cas.servers, Policy::ReplicatedRoute, async move |kv, within| {
        kv.cas(&key, expected, &value, ttl).deadline(within).with_index().await
    })?;
    stored(cas.output, written)
}

fn stored(output: Output, written: Indexed<u64>) -> Result<(), Error> {
    let Indexed { value: version, index } = written;
    if output.json {
        say(&format!("{}\n", json!({ "version": version, "index": index.0 })))
    } else {
        say(&format!("version {version}\n"))
    }
}

/// Removes keys and prints how many there were: those of one shard at one moment, those of different shards one after the other.
pub fn del(del: &Del) -> Result<(), Error> {
    let keys: Vec<Vec<u8>> = del.keys.iter().map(|key| key.clone().into_bytes()).collect();
    let removed = ask_shards(&del.servers, Policy::ReplicatedRoute, async move |kv, map, within| {
        let mut removed = 0;
        for shard in map.all() {
            let of_shard = keys.iter().filter(|key| map.shard_of(shard_key(key)) == shard);
            let then: Vec<_> = of_shard.map(|key| txn::Op::Del { key: key.clone() }).collect();
            if then.is_empty() {
                continue;
            }
            let txn = txn::Txn { then, ..txn::Txn::default() };
            let result = kv.txn(txn).shard(shard).deadline(within).await?;
            removed += result.results.iter().filter(|result| **result == OpResult::Deleted(true)).count();
        }
        Ok(removed)
    })?;
    if del.output.json { say(&format!("{}\n", json!({ "removed": removed }))) } else { say(&format!("{removed}\n")) }
}

/// Adds to a number and prints the sum.
pub fn incr(incr: &Incr) -> Result<(), Error> {
    let (key, by) = (incr.key.clone().into_bytes(), incr.by);
    let sum =
        ask(&incr.servers, Policy::ReplicatedRoute, async move |kv, within| kv.incr(&key, by).deadline(within).await)?;
    if incr.output.json { say(&format!("{}\n", json!({ "sum": sum }))) } else { say(&format!("{sum}\n")) }
}

/// Prints keys and their values in order: a line each, the first tab ends the key.
pub fn scan(scan: &Scan) -> Result<(), Error> {
    let (from, to) = match &scan.prefix {
        Some(prefix) => (prefix.clone().into_bytes(), prefix_end(prefix.as_bytes())),
        None => (scan.from.clone().into_bytes(), scan.to.clone().map(String::into_bytes)),
    };
    let (limit, reading) = (scan.limit, scan.reading.clone());
    let (shards, items, next) = ask_shards(&scan.servers, READ, async move |kv, map, within| {
        let (mut items, mut next) = (Vec::new(), None);
        for shard in map.all() {
            let range = (from.clone(), to.clone());
            let (more, rest) = scan_shard(kv, shard, range, limit, &reading, within).await?;
            items.extend(more);
            next = next.into_iter().chain(rest).min();
        }
        if map.shards() > 1 {
            // Each shard was asked for as many as are wanted of all. What lies behind the first key that one has kept back may have
            // others between.
            items.sort_by(|a: &Item, b: &Item| a.key.cmp(&b.key));
            let complete = items.partition_point(|item| next.as_ref().is_none_or(|next| item.key < *next));
            let kept = complete.min(usize::try_from(limit).unwrap_or(usize::MAX));
            next = items.get(kept).map(|item| item.key.clone()).or(next);
            items.truncate(kept);
        }
        Ok((map.shards(), items, next))
    })?;
    let mut out = Vec::new();
    for Item { key, value, version } in &items {
        if scan.output.json {
            let item = json!({ "key": text(key), "value": text(value), "version": version });
            out.extend_from_slice(item.to_string().as_bytes());
        } else {
            out.extend_from_slice(key);
            out.push(b'\t');
            out.extend_from_slice(value);
        }
        out.push(b'\n');
    }
    write(&out)?;
    if let Some(next) = next {
        let next = next.escape_ascii();
        eprintln!("there is more, from {next} on: a higher --limit shows it");
    }
    if shards > 1 {
        eprintln!("of {shards} shards, one after the other: each as it was at a moment of its own");
    }
    Ok(())
}

/// The keys of one shard, page by page, and where there are more.
async fn scan_shard(
    kv: &KvClient<Client>,
    shard: u16,
    (from, to): (Vec<u8>, Option<Vec<u8>>),
    limit: u64,
    reading: &Reading,
    within: Duration,
) -> Result<(Vec<Item>, Option<Vec<u8>>), CallError<KvError>> {
    let (mut items, mut next) = (Vec::<Item>::new(), Some(from));
    while let Some(from) = next.take() {
        let left = limit.saturating_sub(items.len() as u64);
        if left == 0 {
            return Ok((items, Some(from)));
        }
        let left = u32::try_from(left).unwrap_or(u32::MAX).min(SCAN_ITEMS_MAX);
        let page = reading.of(kv.scan(&from, to.clone(), left)).shard(shard).deadline(within).await?;
        items.extend(page.items);
        next = page.next;
    }
    Ok((items, None))
}

/// Executes a transaction and prints which branch it took, and what became of each operation.
pub fn txn(typed: &Txn) -> Result<(), Error> {
    let ops = |texts: &[String]| -> Result<Vec<txn::Op>, Error> {
        texts.iter().map(|text| syntax::ops(text)).collect::<Result<Vec<_>, _>>().map(|ops| ops.concat())
    };
    let guards = typed.guards.iter().map(|text| syntax::guard(text)).collect::<Result<_, _>>()?;
    let txn = txn::Txn { guards, then: ops(&typed.then)?, otherwise: ops(&typed.otherwise)? };
    let first = txn.keys().next().unwrap_or_default().to_vec();
    let result = ask(&typed.servers, Policy::ReplicatedRoute, async move |kv, within| {
        kv.txn(txn).shard_key(&first).deadline(within).await
    })?;
    if typed.output.json { say(&format!("{}\n", txn_json(&result))) } else { write(&txn_lines(&result)) }
}

fn txn_json(result: &TxnResult) -> Value {
    let one = |result: &OpResult| match result {
        OpResult::Put(version) => json!({ "version": version }),
        OpResult::Got(found) => {
            json!({ "value": found.as_ref().map(|found| text(&found.value)), "version": found.as_ref().map(|found| found.version) })
        }
        OpResult::Deleted(removed) => json!({ "removed": removed }),
        OpResult::Sum(sum) => json!({ "sum": sum }),
    };
    json!({ "held": result.held, "results": result.results.iter().map(one).collect::<Vec<_>>() })
}

fn txn_lines(result: &TxnResult) -> Vec<u8> {
    let mut out = if result.held { b"then\n".to_vec() } else { b"else\n".to_vec() };
    for result in &result.results {
        match result {
            OpResult::Put(version) => out.extend_from_slice(format!("version {version}").as_bytes()),
            OpResult::Got(found) => out.extend_from_slice(found.as_ref().map_or(b"(nil)", |found| &found.value)),
            OpResult::Deleted(removed) => out.extend_from_slice(if *removed { b"removed" } else { b"(nil)" }),
            OpResult::Sum(sum) => out.extend_from_slice(sum.to_string().as_bytes()),
        }
        out.push(b'\n');
    }
    out
}

/// Prints how much each replica holds. Fails where none answers.
pub fn size(size: &Size) -> Result<(), Error> {
    let target = size.servers.target()?;
    let (servers, deadline) = (target.servers.clone(), target.deadline);
    let answers = once(target, move |connection| async move {
        let kv = KvClient::on(connection.client().clone());
        loop {
            let map = connection.client().shards();
            let asked = servers.iter().map(|&server| {
                let (connection, kv) = (connection.clone(), kv.clone());
                async move { (server, size_of(&connection, &kv, server, map, deadline).await) }
            });
            let answers = futures::future::join_all(asked).await;
            // It may have turned out that there are more.
            if connection.client().shards() == map {
                return Ok(answers);
            }
        }
    })?;
    let mut out = String::new();
    for (server, answer) in &answers {
        let server = server.to_string();
        out += &match (answer, size.output.json) {
            (Ok(held), true) => {
                json!({ "address": server, "keys": held.keys, "bytes": held.bytes, "version": held.version })
                    .to_string()
            }
            (Ok(held), false) => {
                format!("{server}  {} keys, {} bytes, version {}", held.keys, held.bytes, held.version)
            }
            (Err(error), true) => json!({ "address": server, "error": error.to_string() }).to_string(),
            (Err(error), false) => format!("{server}  {error}"),
        };
        out += "\n";
    }
    say(&out)?;
    match answers.iter().any(|(_, answer)| answer.is_ok()) {
        true => Ok(()),
        false => answers.into_iter().next().map_or(Ok(()), |(_, answer)| answer.map(drop)),
    }
}

/// What a node holds in all shards.
async fn size_of(
    connection: &Connection,
    kv: &KvClient<Client>,
    server: SocketAddrV4,
    map: ShardMap,
    deadline: Duration,
) -> Result<Held, Error> {
    let mut sum = Held { keys: 0, bytes: 0, version: 0 };
    for shard in map.all() {
        let call = kv.size().replica(server).shard(shard).deadline(deadline);
        let held = end(connection, Policy::FixedRoute, call.await).await?;
        (sum.keys, sum.bytes) = (sum.keys + held.keys, sum.bytes + held.bytes);
        // Each shard counts for itself; the sum of all counts the writes.
        sum.version += held.version;
    }
    Ok(sum)
}

/// Makes calls with the typed client and explains a failure. Each call gets the deadline that was asked for.
fn ask<T: 'static, F>(
    servers: &Servers,
    policy: Policy,
    calls: impl FnOnce(KvClient<Client>, Duration) -> F + 'static,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, CallError<KvError>>> + 'static,
{
    let deadline = servers.deadline;
    once(servers.target()?, move |connection| async move {
        let result = calls(KvClient::on(connection.client().clone()), deadline).await;
        end(&connection, policy, result).await
    })
}

/// As [`ask`], for what concerns several shards. `calls` is made for the shards that are known, which at first is one; where it has
/// turned out that there are more, it is made anew: if it `reads` only, or else if it was refused.
fn ask_shards<T: 'static>(
    servers: &Servers,
    policy: Policy,
    calls: impl AsyncFn(&KvClient<Client>, ShardMap, Duration) -> Result<T, CallError<KvError>> + 'static,
) -> Result<T, Error> {
    let deadline = servers.deadline;
    let reads = policy != Policy::ReplicatedRoute;
    once(servers.target()?, move |connection| async move {
        let kv = KvClient::on(connection.client().clone());
        loop {
            let map = connection.client().shards();
            let result = calls(&kv, map, deadline).await;
            if connection.client().shards() == map || (result.is_ok() && !reads) {
                return end(&connection, policy, result).await;
            }
        }
    })
}

async fn end<T>(connection: &Connection, policy: Policy, result: Result<T, CallError<KvError>>) -> Result<T, Error> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(connection.failure(policy, error).await),
    }
}

/// Text where the bytes are UTF-8, else a list of numbers.
fn text(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), Value::from)
}

fn line(bytes: &[u8]) -> Result<(), Error> {
    write(&[bytes, b"\n"].concat())
}

/// As it is: values need not be text.
fn write(bytes: &[u8]) -> Result<(), Error> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io("write the answer", error)),
        _ => Ok(()),
    }
}
