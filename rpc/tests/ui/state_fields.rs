// What cannot be saved, or not in one order.
#![allow(unused)]

use trimaran_rpc::prelude::*;

use std::collections::{HashMap, HashSet};

#[derive(State)]
struct Hashed {
    map: HashMap<String, u64>,
    sets: Vec<HashSet<u64>>,
    #[state(skip)]
    cache: u64,
}

#[derive(State)]
struct Borrowed<'a> {
    name: &'a str,
}

#[derive(State)]
union Either {
    a: u64,
    b: i64,
}

fn main() {}
