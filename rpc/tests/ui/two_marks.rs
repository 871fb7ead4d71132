// One method, one mark.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    #[read]
    async fn put(&mut self, cx: &mut Cx) {}
}

fn main() {}
