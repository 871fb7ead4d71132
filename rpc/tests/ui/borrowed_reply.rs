// What leaves the node cannot borrow from it.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[read]
    async fn get(&self, cx: &ReadCx, key: &str) -> Option<&u64> {
        self.map.get(key)
    }

    #[read]
    async fn name(&self, cx: &ReadCx) -> Result<std::borrow::Cow<'static, str>, ()> {
        Ok("kv".into())
    }
}

fn main() {}
