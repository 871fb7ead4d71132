//! The store as a service: requests that Raft has committed change it, all others look at it.

use crate::command::Command;
use crate::journal::{CallHash, ExecutedCall, Journal};
use crate::resp::Reply;
use crate::store::Store;
use trimaran_raft::LogIndex;
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
use trimaran_rpc::state::{Reader, State, StateError, Writer};

/// One replica of the key-value store.
#[derive(Debug, Default)]
pub struct Kv {
    store: Store,
    journal: Option<Journal>,
}

impl Kv {
    /// An empty store; with a journal it also notes every write that it executes.
    pub fn new(journal: Option<Journal>) -> Self {
        Kv { store: Store::default(), journal }
    }

    fn execute(&mut self, index: LogIndex, request: &[u8], reply: &mut Vec<u8>) {
        match Command::parse(request) {
            Ok(command) => {
                let version_before = self.store.version();
                self.store.execute(&command, reply);
                let version = self.store.version();
                if let Some(journal) = &mut self.journal
                    && version != version_before
                {
                    journal.record(ExecutedCall { call: CallHash::of(request), version, index });
                }
            }
            Err(refusal) => Reply::Error(&refusal.to_string()).emit(reply),
        }
    }

    fn look(&self, is_local: bool, request: &[u8], reply: &mut Vec<u8>) {
        match Command::parse(request) {
            Ok(Command::Journal(position)) if is_local => match &self.journal {
                Some(journal) => Reply::Bulk(&journal.page(position)).emit(reply),
                None => Reply::Error("ERR this replica keeps no journal: start it with --journal").emit(reply),
            },
            Ok(Command::Journal(_)) => {
                Reply::Error("ERR this command asks one replica: send it under policy 0 or 1").emit(reply);
            }
            Ok(command) => self.store.answer(&command, reply),
            Err(refusal) => Reply::Error(&refusal.to_string()).emit(reply),
        }
    }
}

impl State for Kv {
    async fn save(&self, to: &mut Writer) {
        self.store.save(to).await;
    }

    async fn load(version: u32, from: &mut Reader<'_>) -> Result<Self, StateError> {
        StateError::expect_version::<Self>(version)?;
        Ok(Kv { store: Store::load(from).await?, journal: None })
    }
}

impl Service for Kv {
    const NAME: &'static str = "kv";

    async fn apply(&mut self, cx: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.execute(cx.index(), request, reply);
        Answer::Ok
    }

    fn query(&self, cx: &ReadCx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
        self.look(cx.policy() != Policy::ReplicatedRouteNoSideEffects, request, reply);
        Answer::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Page;
    use crate::resp;
    use crate::store::Version;

    fn request(words: &[&str]) -> Vec<u8> {
        let (mut out, words) = (Vec::new(), words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        resp::emit_command(&words, &mut out);
        out
    }

    fn apply(kv: &mut Kv, index: u64, words: &[&str]) -> String {
        let mut reply = Vec::new();
        kv.execute(LogIndex(index), &request(words), &mut reply);
        String::from_utf8(reply).expect("text")
    }

    fn query(kv: &Kv, is_local: bool, words: &[&str]) -> Vec<u8> {
        let mut reply = Vec::new();
        kv.look(is_local, &request(words), &mut reply);
        reply
    }

    #[test]
    fn writes_need_the_log_and_reads_do_not() {
        let mut kv = Kv::default();
        assert_eq!(apply(&mut kv, 3, &["set", "k", "v"]), "+OK\r\n");
        let before = kv.store.digest();
        for is_local in [true, false] {
            assert_eq!(query(&kv, is_local, &["get", "k"]), b"$1\r\nv\r\n");
            for write in [&["set", "k", "x"][..], &["setv", "k", "x"], &["del", "k"], &["incr", "n"]] {
                assert!(query(&kv, is_local, write).starts_with(b"-ERR "));
            }
        }
        assert_eq!(kv.store.digest(), before);
    }

    #[test]
    fn garbage_in_the_log_is_answered_and_changes_nothing() {
        let mut kv = Kv::new(Some(Journal::default()));
        let (before, mut reply) = (kv.store.digest(), Vec::new());
        kv.execute(LogIndex(9), &[0xff; 100], &mut reply);
        assert!(reply.starts_with(b"-ERR Protocol error"));
        assert_eq!(kv.store.digest(), before);
        assert!(query(&kv, true, &["nonsense"]).starts_with(b"-ERR unknown command"));
    }

    #[test]
    fn the_journal_holds_what_changed_the_store() {
        let mut kv = Kv::new(Some(Journal::default()));
        apply(&mut kv, 3, &["set", "k", "v"]);
        apply(&mut kv, 4, &["get", "k"]);
        apply(&mut kv, 5, &["incr", "k"]);
        apply(&mut kv, 7, &["incr", "n"]);
        let reply = query(&kv, true, &["journal", "0"]);
        let Ok(Reply::Bulk(page)) = Reply::parse(&reply) else { panic!("a page") };
        let executed = |index, version, words| ExecutedCall {
            call: CallHash::of(&request(words)),
            version: Version(version),
            index: LogIndex(index),
        };
        let calls = vec![executed(3, 1, &["set", "k", "v"]), executed(7, 2, &["incr", "n"])];
        assert_eq!(Page::parse(page), Ok(Page { kept: 2, not_kept: 0, calls }));
        assert!(query(&kv, false, &["journal", "0"]).starts_with(b"-ERR"), "a linearizable read may run anywhere");
        assert!(query(&Kv::default(), true, &["journal", "0"]).starts_with(b"-ERR this replica keeps no journal"));
    }
}
