// An alias hides the error.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) -> std::io::Result<u64> {
        Ok(0)
    }

    #[read]
    async fn get(&self, cx: &ReadCx) -> std::fmt::Result {
        Ok(())
    }
}

fn main() {}
