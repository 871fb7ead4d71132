// A read runs in one go.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[read]
    async fn get(&self, cx: &ReadCx) -> u64 {
        let later = async { 1 };
        if self.map.is_empty() { later.await } else { self.size().await }
    }

    async fn size(&self) -> u64 {
        0
    }
}

fn main() {}
