//! Bytes alone: a service without any typed method.

use trimaran_rpc::prelude::*;
use trimaran_rpc::service::RawHandler;

#[derive(Default, State)]
struct Echo;

#[service(raw)]
impl Echo {}

impl RawHandler for Echo {
    fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(request);
    }

    fn query(&self, _: &ReadCx, request: &[u8], reply: &mut Vec<u8>) {
        reply.extend_from_slice(request);
    }
}
