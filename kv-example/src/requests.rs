//! The store's methods as requests of bytes, for callers that make many: arguments are encoded into a buffer that is used
//! again, and a reply is decoded where its call ends.

use crate::error::KvError;
use crate::load::{Answered, Ask};
use crate::service::Kv;
use crate::store::Expected;
use crate::txn::Txn;
use std::sync::LazyLock;
use std::time::Duration;
use trimaran_rpc::codec;
use trimaran_rpc::generated::Bytes;
use trimaran_rpc::r2p2::Status;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::serde::Serialize;
use trimaran_rpc::serde::de::DeserializeOwned;
use trimaran_rpc::service::{Mark, Service, method_key};
use trimaran_rpc::shards::shard_key;

/// The methods, and RESP commands under their key.
static METHODS: LazyLock<Methods> = LazyLock::new(Methods::find);

struct Methods {
    put: Ask,
    get: Ask,
    del: Ask,
    cas: Ask,
    incr: Ask,
    txn: Ask,
    scan: Ask,
    journal: Ask,
    raw: u32,
}

impl Methods {
    fn find() -> Methods {
        let of = |name: &str| {
            let method = Kv::methods().iter().find(|method| method.name == name);
            let policy = match method.map(|method| method.mark) {
                Some(Mark::Replicated) => Policy::ReplicatedRoute,
                Some(Mark::Read) => Policy::ReplicatedRouteNoSideEffects,
                _ => Policy::LbRoute,
            };
            // A name that is not there, which the tests would notice, is a key that no service has.
            Ask { method: method.map_or(0, |method| method.key), policy, key: None }
        };
        Methods {
            put: of("put"),
            get: of("get"),
            del: of("del"),
            cas: of("cas"),
            incr: of("incr"),
            txn: of("txn"),
            scan: of("scan"),
            journal: of("journal"),
            raw: method_key("kv.raw/1"),
        }
    }
}

impl Ask {
    /// The same in the shard of a key.
    pub fn of(self, key: &[u8]) -> Ask {
        Ask { key: Some(shard_key(key)), ..self }
    }
}

/// As `Kv::put`.
pub fn put(key: &[u8], value: &[u8], ttl: Option<Duration>, body: &mut Vec<u8>) -> Ask {
    encode(METHODS.put.of(key), &(Bytes(key), Bytes(value), ttl), body)
}

/// As `Kv::get`.
pub fn get(key: &[u8], body: &mut Vec<u8>) -> Ask {
    encode(METHODS.get.of(key), &(Bytes(key),), body)
}

/// As `Kv::del`.
pub fn del(key: &[u8], body: &mut Vec<u8>) -> Ask {
    encode(METHODS.del.of(key), &(Bytes(key),), body)
}

/// As `Kv::cas`.
pub fn cas(key: &[u8], expected: &Expected, value: &[u8], ttl: Option<Duration>, body: &mut Vec<u8>) -> Ask {
    encode(METHODS.cas.of(key), &(Bytes(key), expected, Bytes(value), ttl), body)
}

/// As `Kv::incr`.
pub fn incr(key: &[u8], by: i64, body: &mut Vec<u8>) -> Ask {
    encode(METHODS.incr.of(key), &(Bytes(key), by), body)
}

/// As `Kv::txn`, in the shard of its first key.
pub fn txn(txn: &Txn, body: &mut Vec<u8>) -> Ask {
    let ask = txn.keys().next().map_or(METHODS.txn, |key| METHODS.txn.of(key));
    encode(ask, &(txn,), body)
}

/// As `Kv::scan`, in the shard of `from`.
pub fn scan(from: &[u8], to: Option<&[u8]>, limit: u32, body: &mut Vec<u8>) -> Ask {
    encode(METHODS.scan.of(from), &(Bytes(from), to.map(Bytes), limit), body)
}

/// As `Kv::journal`.
pub fn journal(position: u64, body: &mut Vec<u8>) -> Ask {
    encode(METHODS.journal, &(position,), body)
}

/// A RESP command under a policy of the caller's choice.
pub fn raw(policy: Policy) -> Ask {
    Ask { method: METHODS.raw, policy, key: None }
}

fn encode(ask: Ask, arguments: &impl Serialize, body: &mut Vec<u8>) -> Ask {
    // These types all have a form.
    let _ = codec::encode_to(arguments, body);
    ask
}

/// What a method has returned; `None` where the bytes are nothing of the kind.
pub fn result<T: DeserializeOwned>(answered: &Answered) -> Option<Result<T, KvError>> {
    match answered.status {
        Status::App => codec::decode(&answered.body).ok().map(Err),
        _ => codec::decode(&answered.body).ok().map(Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::KvCalls;
    use crate::store::Found;
    use trimaran_rpc::client::{AnyRequest, Kind, Request};

    /// The same request as the generated calls make.
    fn same<K: Kind, T, E>(request: Request<K, T, E>, ours: impl FnOnce(&mut Vec<u8>) -> Ask) {
        let mut body = Vec::new();
        let Ask { method, policy, key: shard_key } = ours(&mut body);
        assert_eq!(AnyRequest { method, policy, body, shard_key }, request.erase());
    }

    #[test]
    fn requests_are_those_of_the_methods() {
        let ttl = Some(Duration::new(1, 5));
        let expected = Expected::Version(7);
        same(KvCalls::put(b"k", b"v", ttl), |body| put(b"k", b"v", ttl, body));
        same(KvCalls::get(b"k"), |body| get(b"k", body));
        same(KvCalls::del(b"k"), |body| del(b"k", body));
        same(KvCalls::cas(b"k", expected.clone(), b"v", ttl), |body| cas(b"k", &expected, b"v", ttl, body));
        same(KvCalls::incr(b"k", -3), |body| incr(b"k", -3, body));
        same(KvCalls::txn(Txn::default()), |body| txn(&Txn::default(), body));
        same(KvCalls::scan(b"a", Some(b"b".to_vec()), 9), |body| scan(b"a", Some(b"b"), 9, body));
        same(KvCalls::journal(3), |body| journal(3, body));
        assert_eq!(Kv::mark(raw(Policy::LbRoute).method), Some(Mark::Raw));
    }

    #[test]
    fn replies_are_read_by_their_status() {
        let found = Some(Found { value: b"v".to_vec(), version: 3, ttl: None });
        let answered = |status, body: Result<Vec<u8>, _>| Answered { status, body: body.expect("a form") };
        assert_eq!(result(&answered(Status::Ok, codec::encode(&found))), Some(Ok(found)));
        assert_eq!(result::<u64>(&answered(Status::App, codec::encode(&KvError::Full))), Some(Err(KvError::Full)));
        assert_eq!(result::<u64>(&answered(Status::Ok, Ok(vec![1, 2]))), None);
    }
}
