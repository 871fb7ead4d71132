// Nobody gives the state away.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(self, cx: &mut Cx) {}

    #[read]
    async fn get(self: Box<Self>, cx: &ReadCx) {}

    #[timer]
    async fn expire(mut self, cx: &mut Cx) {}
}

fn main() {}
