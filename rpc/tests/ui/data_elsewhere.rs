// On what has no form, and beside what it does itself.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[data]
fn put() {}

#[data]
union Either {
    a: u64,
    b: i64,
}

#[data(version = 2)]
#[derive(Clone, trimaran_rpc::serde::Serialize)]
struct Entry {
    value: u64,
}

fn main() {}
