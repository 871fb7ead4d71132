// Options that marks do not have, and revisions out of range.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated(rev = 0)]
    async fn a(&mut self, cx: &mut Cx) {}

    #[replicated(rev = 65536)]
    async fn b(&mut self, cx: &mut Cx) {}

    #[read(rev = "2")]
    async fn c(&self, cx: &ReadCx) {}

    #[read(rev)]
    async fn d(&self, cx: &ReadCx) {}

    #[read(revision = 2)]
    async fn e(&self, cx: &ReadCx) {}

    #[read(rev = 2, rev = 3)]
    async fn f(&self, cx: &ReadCx) {}

    #[read = 2]
    async fn g(&self, cx: &ReadCx) {}
}

fn main() {}
