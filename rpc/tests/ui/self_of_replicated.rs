// A write that cannot write.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&self, cx: &mut Cx, key: &str) -> u64 {
        self.map[key]
    }
}

fn main() {}
