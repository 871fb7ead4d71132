// Functions that are no test in the simulator.
#![allow(unused)]

use trimaran_rpc::prelude::*;

struct Sim<S>(S);

#[trimaran_rpc::test]
fn not_async(sim: Sim<u8>) {}

#[trimaran_rpc::test(seeds = 0)]
async fn no_seeds(sim: Sim<u8>) {}

#[trimaran_rpc::test(seed = 7)]
async fn no_such_option(sim: Sim<u8>) {}

#[trimaran_rpc::test]
async fn no_simulator() {}

#[trimaran_rpc::test]
async fn two(sim: Sim<u8>, other: Sim<u8>) {}

#[trimaran_rpc::test]
async fn of_what(sim: Sim) {}

#[trimaran_rpc::test]
#[test]
async fn returns<T>(sim: Sim<u8>) -> Result<(), String> {
    Ok(())
}

#[trimaran_rpc::test]
struct Kv;

fn main() {}
