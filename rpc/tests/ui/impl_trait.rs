// Types that the caller would choose.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx, key: impl Into<String>, value: &dyn Send) {}

    #[read]
    async fn all(&self, cx: &ReadCx) -> impl Iterator<Item = u64> {
        std::iter::empty()
    }

    #[read]
    async fn one(&self, cx: &ReadCx) -> Box<dyn Send> {
        Box::new(())
    }
}

fn main() {}
