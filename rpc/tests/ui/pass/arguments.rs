//! Arguments by value and by reference, none at all, and every kind of reply.

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, Vec<u8>>,
}

/// Not visible outside of this module, as the method that takes it.
#[data]
#[derive(Clone)]
struct Entry {
    value: Vec<u8>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(
        &mut self,
        _cx: &mut Cx,
        key: &str,
        value: &[u8],
        entry: &Entry,
        numbers: &[u64],
        path: &std::path::Path,
    ) {
        self.map.insert(key.to_owned(), value.to_vec());
        let _ = (entry.value.len(), numbers.len(), path.is_absolute());
    }

    #[replicated]
    async fn clear(&mut self, _: &mut Cx) {
        self.map.clear();
    }

    #[read]
    async fn size(&self, _cx: &ReadCx) -> u64 {
        self.map.len() as u64
    }

    #[read]
    async fn entry(&self, _cx: &ReadCx, #[shard_key] number: u64, key: &str) -> Result<Entry, String> {
        let value = self.map.get(key).cloned().ok_or_else(|| format!("no {key} {number}"))?;
        Ok(Entry { value })
    }

    #[trimaran_rpc::local]
    async fn nothing(_cx: &LocalCx<Kv>) -> () {}
}
