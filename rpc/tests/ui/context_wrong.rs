// The context of another mark, or not quite the right one.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &ReadCx) {}

    #[read]
    async fn get(&self, cx: &mut ReadCx) {}

    #[read]
    async fn peek(&self, cx: ReadCx) {}

    #[local]
    async fn size(cx: &LocalCx) {}

    #[local]
    async fn other(cx: &LocalCx<Other>) {}

    #[timer]
    async fn expire(&mut self, cx: &LocalCx<Self>) {}

    #[effect]
    async fn mail(cx: &mut Cx) {}
}

fn main() {}
