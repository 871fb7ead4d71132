//! What one replica has executed, call by call, for the demo to compare with what was acknowledged.
//!
//! A journal is no part of the replicated state: a replica fills its own as it replays its log, so its contents are
//! what that log says. It is off unless `kv serve --journal` asks for it.

use crate::store::Version;
use thiserror::Error;
use trimaran_raft::LogIndex;
use xxhash_rust::xxh3::xxh3_64;

/// Calls kept; 24 bytes each, so 192 MiB when full. Later ones are counted but not kept, and a reader is told.
pub const JOURNAL_CALLS_MAX: usize = 8 << 20;
/// Calls of one page: a reply stays under 254 packets.
pub const PAGE_CALLS_MAX: usize = 12_000;

const HEADER_BYTES: usize = 24;
const CALL_BYTES: usize = 24;

/// Which call: a hash of the request's bytes. Calls are told apart where their requests differ, as the demo's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallHash(pub u64);

impl CallHash {
    /// The hash of a request as it was sent.
    pub fn of(request: &[u8]) -> Self {
        CallHash(xxh3_64(request))
    }
}

/// One executed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExecutedCall {
    /// Which call.
    pub call: CallHash,
    /// The version that it made.
    pub version: Version,
    /// Where in the log.
    pub index: LogIndex,
}

/// The writes that one replica has executed, in log order.
#[derive(Debug)]
pub struct Journal {
    calls: Vec<ExecutedCall>,
    calls_max: usize,
    not_kept: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { calls: Vec::new(), calls_max: JOURNAL_CALLS_MAX, not_kept: 0 }
    }
}

impl Journal {
    /// Notes a write; beyond [`JOURNAL_CALLS_MAX`] only counts it.
    pub fn record(&mut self, call: ExecutedCall) {
        if self.calls.len() < self.calls_max {
            self.calls.push(call);
        } else {
            self.not_kept += 1;
        }
    }

    /// The page that begins with call number `position`, at most [`PAGE_CALLS_MAX`] calls. Costs time per call of it.
    pub fn page(&self, position: u64) -> Vec<u8> {
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(self.calls.len());
        let rest = self.calls.get(from..).unwrap_or(&[]);
        let calls = rest.get(..PAGE_CALLS_MAX).unwrap_or(rest);
        let mut out = Vec::with_capacity(HEADER_BYTES + calls.len() * CALL_BYTES);
        for word in [self.calls.len() as u64, self.not_kept, calls.len() as u64] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for call in calls {
            for word in [call.call.0, call.version.0, call.index.0] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        out
    }
}

/// One page as its reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many calls the whole journal holds.
    pub kept: u64,
    /// How many came after it was full; then the journal proves nothing about them.
    pub not_kept: u64,
    /// This page's calls.
    pub calls: Vec<ExecutedCall>,
}

/// The bytes are no journal page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a damaged journal page")]
pub struct BadPage;

impl Page {
    /// Reads what [`Journal::page`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadPage> {
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let (Some(kept), Some(not_kept), Some(count)) = (words.next(), words.next(), words.next()) else {
            return Err(BadPage);
        };
        let count = usize::try_from(count).map_err(|_| BadPage)?;
        if count > PAGE_CALLS_MAX || bytes.len() != HEADER_BYTES + count * CALL_BYTES {
            return Err(BadPage);
        }
        let mut calls = Vec::with_capacity(count);
        while let (Some(call), Some(version), Some(index)) = (words.next(), words.next(), words.next()) {
            calls.push(ExecutedCall { call: CallHash(call), version: Version(version), index: LogIndex(index) });
        }
        Ok(Page { kept, not_kept, calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64) -> ExecutedCall {
        ExecutedCall { call: CallHash(!number), version: Version(number), index: LogIndex(number + 2) }
    }

    #[test]
    fn pages_together_are_the_journal() {
        let mut journal = Journal::default();
        let calls: Vec<_> = (0..PAGE_CALLS_MAX as u64 * 2 + 5).map(call).collect();
        calls.iter().for_each(|&call| journal.record(call));
        let mut read = Vec::new();
        loop {
            let page = Page::parse(&journal.page(read.len() as u64)).expect("a page");
            assert_eq!((page.kept, page.not_kept), (calls.len() as u64, 0));
            if page.calls.is_empty() {
                break;
            }
            read.extend(page.calls);
        }
        assert_eq!(read, calls);
    }

    #[test]
    fn a_full_journal_says_what_it_did_not_keep() {
        let mut journal = Journal { calls_max: 2, ..Journal::default() };
        (0..5).for_each(|number| journal.record(call(number)));
        let page = Page::parse(&journal.page(0)).expect("a page");
        assert_eq!((page.kept, page.not_kept, page.calls), (2, 3, vec![call(0), call(1)]));
    }

    #[test]
    fn positions_beyond_the_end_give_an_empty_page() {
        let page = Page::parse(&Journal::default().page(u64::MAX)).expect("a page");
        assert_eq!(page, Page { kept: 0, not_kept: 0, calls: Vec::new() });
    }

    #[test]
    fn a_page_fits_254_packets() {
        const { assert!(HEADER_BYTES + PAGE_CALLS_MAX * CALL_BYTES + 64 <= 254 * 1464) }
    }

    #[test]
    fn damaged_pages_are_refused() {
        let mut journal = Journal::default();
        journal.record(call(1));
        let page = journal.page(0);
        for end in 0..page.len() {
            assert_eq!(Page::parse(&page[..end]), Err(BadPage));
        }
        let mut lying = page.clone();
        lying[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Page::parse(&lying), Err(BadPage));
    }
}
