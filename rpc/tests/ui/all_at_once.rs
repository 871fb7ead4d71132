// Many mistakes, one compilation; what is right can be used all the same.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    fn put(&self, key: &str) -> &u64 {
        let _ = std::time::Instant::now();
        &self.map[key]
    }

    #[read]
    async fn get(&self, cx: &ReadCx, key: &str) -> Option<u64> {
        self.map.get(key).copied()
    }

    #[timer]
    async fn expire(&mut self, cx: &mut Cx, key: &str) {
        self.map.remove(key);
    }

    fn helper(&self) -> u64 {
        *self.put("a")
    }
}

fn main() {
    let kv = Kv::default();
    kv.helper();
    let _ = KvTimers::expire("a");
    let _ = <Kv as trimaran_rpc::service::Service>::methods();
}
