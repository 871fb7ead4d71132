// Two names with one hash, and one that is taken.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn free_queue(&mut self, cx: &mut Cx) {}

    #[replicated]
    async fn scan_token_from_count(&mut self, cx: &mut Cx) {}
}

fn main() {}
