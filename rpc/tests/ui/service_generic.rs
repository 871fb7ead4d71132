// One log, one type.
#![allow(unused)]

use trimaran_rpc::prelude::*;

struct Store<T> {
    items: Vec<T>,
}

#[service]
impl<T> Store<T> {
    #[replicated]
    async fn push(&mut self, cx: &mut Cx, item: T) {}
}

#[service]
impl Store<u8> {
    #[read]
    async fn size(&self, cx: &ReadCx) -> u64 {
        0
    }
}

fn main() {}
