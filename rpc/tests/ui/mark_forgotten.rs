// What takes a context wanted to be a method.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    async fn put(&mut self, cx: &mut Cx, key: &str) {}

    fn get(&self, cx: &ReadCx) {}

    async fn size(cx: &LocalCx<Self>) {}
}

fn main() {}
