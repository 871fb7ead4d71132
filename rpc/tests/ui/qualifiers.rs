// Functions that are not for us to call.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async unsafe fn put(&mut self, cx: &mut Cx) {}

    #[read]
    const fn get(&self, cx: &ReadCx) {}

    #[read]
    async extern "C" fn look(&self, cx: &ReadCx) {}
}

fn main() {}
