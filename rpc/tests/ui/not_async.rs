// All methods are async.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    fn put(&mut self, cx: &mut Cx) {}

    #[read]
    fn get(&self, cx: &ReadCx) -> u64 {
        0
    }
}

fn main() {}
