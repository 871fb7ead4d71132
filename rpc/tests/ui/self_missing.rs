// A replicated method without the state.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(cx: &mut Cx, key: &str) {}
}

fn main() {}
