// No context, or not in front.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, key: &str) {}

    #[read]
    async fn get(&self) {}

    #[read]
    async fn late(&self, key: &str, cx: &ReadCx) {}

    #[read]
    async fn twice(&self, cx: &ReadCx, again: &ReadCx) {}
}

fn main() {}
