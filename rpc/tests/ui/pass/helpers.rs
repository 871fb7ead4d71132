//! Functions, constants and types that are no business of callers, and names that must not be taken for others.

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
pub(crate) struct Kv {
    map: BTreeMap<u64, u64>,
}

#[service(name = "other")]
#[allow(clippy::unused_unit)]
impl Kv {
    const LIMIT: usize = 3;

    /// The newest version.
    #[replicated(rev = 7)]
    pub(crate) async fn add(&mut self, cx: &mut Cx, by: u64) -> core::result::Result<u64, String> {
        if self.map.len() == Self::LIMIT {
            return Err(self.full("add"));
        }
        self.step(by).await;
        cx.set_timer(cx.now() + Duration::from_secs(1), KvTimers::fade(by)).map_err(|error| error.to_string())?;
        Ok(by)
    }

    #[timer]
    async fn fade(&mut self, _cx: &mut Cx, key: u64) -> () {
        self.map.remove(&key);
    }

    fn full(&self, what: &str) -> String {
        format!("{what}: {} keys", self.map.len())
    }

    async fn step<T: Into<u64>>(&mut self, by: T) {
        self.map.insert(by.into(), 1);
    }
}
