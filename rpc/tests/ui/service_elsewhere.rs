// On things that have no methods.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[service]
struct Kv;

#[service]
fn put() {}

fn main() {}
