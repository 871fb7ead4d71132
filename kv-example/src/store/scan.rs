//! Scans: keys in order, page by page.

use super::limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX, SCAN_EXPIRED_MAX, SCAN_ITEMS_MAX};
use super::{Store, as_bytes};
use crate::error::KvError;
use std::ops::Bound;
use trimaran_rpc::data;
use trimaran_rpc::log_time::LogTime;

/// One key of a scan.
#[data]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    #[serde(serialize_with = "as_bytes")]
    pub key: Vec<u8>,
    /// Its value.
    #[serde(serialize_with = "as_bytes")]
    pub value: Vec<u8>,
    /// The version of its last write.
    pub version: u64,
}

/// Keys in order, and where the next page begins.
#[data]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// May be fewer than asked for, even none, though others follow.
    pub items: Vec<Item>,
    /// The key to go on from; `None`: there is nothing more in the range.
    pub next: Option<Vec<u8>>,
}

impl Store {
    /// The keys from `from` on, in the order of their bytes, up to but without `to`, at most `limit`. Each page is a look
    /// at one moment; pages together are not. An empty or inverted range has no keys. O(log n) and the page.
    ///
    /// # Errors
    /// [`KvError::BadLimit`] for a limit of 0 or over [`SCAN_ITEMS_MAX`], [`KvError::BadKey`] for a bound over
    /// [`KEY_BYTES_MAX`].
    pub fn scan(&self, now: LogTime, from: &[u8], to: Option<&[u8]>, limit: u32) -> Result<Page, KvError> {
        if limit == 0 || limit > SCAN_ITEMS_MAX {
            return Err(KvError::BadLimit);
        }
        // A bound may be one byte longer than any key: the first key behind the longest.
        if from.len() > KEY_BYTES_MAX + 1 || to.is_some_and(|to| to.len() > KEY_BYTES_MAX + 1) {
            return Err(KvError::BadKey);
        }
        let mut page = Page::default();
        if to.is_some_and(|to| to <= from) {
            return Ok(page);
        }
        let (mut bytes, mut expired) = (0, 0);
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, entry) in self.map.range::<[u8], _>((Bound::Included(from), end)) {
            let is_live = entry.is_live(now);
            let cost = key.len() + entry.value.len();
            let is_full = page.items.len() >= limit as usize || (bytes > 0 && bytes + cost > PAGE_BYTES_MAX);
            if (is_live && is_full) || (!is_live && expired >= SCAN_EXPIRED_MAX) {
                page.next = Some(key.to_vec());
                return Ok(page);
            }
            if is_live {
                bytes += cost;
                page.items.push(Item { key: key.to_vec(), value: entry.value.clone(), version: entry.version.0 });
            } else {
                expired += 1;
            }
        }
        Ok(page)
    }
}

/// The first key behind all that begin with `prefix`: the `to` of a scan. `None`: nothing is behind them.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}
