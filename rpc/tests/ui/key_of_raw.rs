// The handler of bytes has a key of its own.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service(raw)]
impl Kv {
    #[read]
    async fn raw(&self, cx: &ReadCx) {}
}

fn main() {}

impl trimaran_rpc::service::RawHandler for Kv {
    fn apply(&mut self, _: &mut Cx, _: &[u8], _: &mut Vec<u8>) {}

    fn query(&self, _: &ReadCx, _: &[u8], _: &mut Vec<u8>) {}
}
