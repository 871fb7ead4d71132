// The methods of a trait are not ours to choose.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

trait Store {
    async fn put(&mut self, cx: &mut Cx);
}

#[service]
impl Store for Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) {}
}

fn main() {}
