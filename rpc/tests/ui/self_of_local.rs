// A local method beside the state has no state in hand.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[local]
    async fn size(&self, cx: &LocalCx<Self>) -> u64 {
        self.map.len() as u64
    }
}

fn main() {}
