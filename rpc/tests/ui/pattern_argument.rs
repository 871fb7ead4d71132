// Arguments have names.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx, (key, value): (u64, u64)) {}

    #[replicated]
    async fn set(&mut self, cx: &mut Cx, _: u64) {}
}

fn main() {}
