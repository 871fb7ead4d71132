//! Consistency is for reads, and what goes through the log is answered by who leads.

use trimaran_rpc::client::Remote;
use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Counter {
    count: u64,
}

#[service]
impl Counter {
    #[replicated]
    async fn add(&mut self, _cx: &mut Cx, by: u64) -> u64 {
        self.count += by;
        self.count
    }

    #[read]
    async fn get(&self, _cx: &ReadCx) -> u64 {
        self.count
    }

    #[local]
    async fn who(_cx: &LocalCx<Self>) -> u64 {
        1
    }
}

fn calls(counter: CounterClient<Remote>) {
    let _ = counter.get().consistency(Consistency::Lease).replica(2).with_index();
    let _ = counter.who().replica(2);
    let _ = counter.add(1).consistency(Consistency::Lease);
    let _ = counter.who().consistency(Consistency::Any);
    let _ = counter.add(1).replica(2);
}

fn main() {}
