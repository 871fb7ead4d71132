// In closures, blocks and the arguments of macros.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) {
        let stamp = || std::time::SystemTime::now();
        println!("{:?} {:?}", stamp(), std::time::Instant::now());
        self.map.retain(|_, value| {
            let seen = vec![std::env::args().count()];
            seen.len() as u64 == *value
        });
    }

    #[read]
    async fn get(&self, cx: &ReadCx) -> bool {
        // A read may: it runs on one replica.
        std::time::Instant::now().elapsed().is_zero()
    }
}

fn main() {}
