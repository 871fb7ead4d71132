// Borrowed in a way that cannot be decoded.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx, key: Option<&str>, value: &mut u64) {}

    #[replicated]
    async fn name(&mut self, cx: &mut Cx, name: &'static str) {}
}

fn main() {}
