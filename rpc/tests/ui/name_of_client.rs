// Names that the generated client needs.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn connect(&mut self, cx: &mut Cx) {}

    #[read]
    async fn on(&self, cx: &ReadCx) {}

    #[read]
    async fn clone(&self, cx: &ReadCx) {}
}

fn main() {}
