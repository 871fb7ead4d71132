// Nobody waits for timers and effects.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[timer]
    async fn expire(&mut self, cx: &mut Cx) -> u64 {
        0
    }

    #[effect]
    async fn mail(cx: &LocalCx<Self>, #[shard_key] to: String) -> Result<(), String> {
        Ok(())
    }
}

fn main() {}
