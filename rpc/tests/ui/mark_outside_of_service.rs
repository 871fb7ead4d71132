// Marks that nobody reads.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) {}

    #[read]
    async fn get(&self, cx: &ReadCx) {}

    #[local]
    async fn size(cx: &LocalCx<Self>) {}
}

#[timer]
async fn expire() {}

#[trimaran_rpc::effect]
async fn mail() {}

fn main() {}
