// A read that could write.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[read]
    async fn get(&mut self, cx: &ReadCx, key: &str) -> u64 {
        self.map.len() as u64
    }
}

fn main() {}
