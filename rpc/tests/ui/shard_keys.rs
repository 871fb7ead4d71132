// One shard for one call.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx, #[shard_key] a: u64, #[shard_key] b: u64) {}
}

fn main() {}
