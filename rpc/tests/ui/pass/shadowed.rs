//! A module whose own names are those that generated code might mean.

use trimaran_rpc::prelude::{Cx, ReadCx, State, service};

#[derive(State)]
pub(crate) struct Service {
    value: u64,
}

#[allow(dead_code)]
struct Option;
#[allow(dead_code)]
struct Vec;
#[allow(dead_code)]
struct Answer;
#[allow(dead_code)]
enum Mark {
    Raw,
}

#[service]
impl Service {
    #[replicated]
    async fn apply(&mut self, _cx: &mut Cx, request: u64) -> u64 {
        self.value = request;
        self.value
    }

    #[read]
    async fn query(&self, _cx: &ReadCx, reply: u64) -> u64 {
        self.value + reply
    }

    #[read]
    async fn mark(&self, _cx: &ReadCx) -> u64 {
        self.value
    }
}
