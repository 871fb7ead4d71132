// Two methods of one name: reported once, not again by the compiler.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) {}

    #[read]
    async fn put(&self, cx: &ReadCx) {}

    #[replicated]
    async fn set(&mut self, cx: &mut Cx, key: u8, key: u8) {}
}

fn main() {}
