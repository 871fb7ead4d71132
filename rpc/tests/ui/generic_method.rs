// A request has one form.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put<T>(&mut self, cx: &mut Cx, value: T) {}

    #[replicated]
    async fn fill<const N: usize>(&mut self, cx: &mut Cx, values: [u64; N]) {}

    #[read]
    async fn get<'a>(&self, cx: &ReadCx) {}

    #[read]
    async fn when(&self, cx: &ReadCx)
    where
        Self: Sized,
    {
    }
}

fn main() {}
