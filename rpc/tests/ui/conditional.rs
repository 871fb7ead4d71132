// Replicas of one cluster know the same methods.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[cfg(test)]
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) {}

    #[read]
    async fn get(&self, cx: &ReadCx, #[cfg(test)] key: u64) {}
}

fn main() {}
