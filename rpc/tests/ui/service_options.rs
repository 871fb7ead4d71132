// Options that a service does not have, and names that it cannot have.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service(nmae = "kv")]
impl Kv {}

#[derive(State)]
struct Other;

#[service(name = "Key Value", raw = true)]
impl Other {}

#[derive(State)]
struct Trimaran;

#[service]
impl Trimaran {}

impl trimaran_rpc::service::RawHandler for Other {
    fn apply(&mut self, _: &mut Cx, _: &[u8], _: &mut Vec<u8>) {}

    fn query(&self, _: &ReadCx, _: &[u8], _: &mut Vec<u8>) {}
}

fn main() {}
