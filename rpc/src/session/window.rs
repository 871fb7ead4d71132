//! One session: the calls above the client's `acked` that have been executed.

use super::WINDOW;
use super::replies::{Replies, ReplyKey};
use crate::log_time::LogTime;
use crate::service::Answer;
use std::collections::VecDeque;
use trimaran_raft::LogIndex;

/// What remains of a call that was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Executed {
    pub(super) request_hash: u64,
    pub(super) answer: Answer,
    pub(super) index: LogIndex,
    /// [`Replies::NONE`] once the reply is gone.
    pub(super) reply: ReplyKey,
}

/// What a session knows of a sequence number.
pub(super) enum Found {
    /// The client needs no answer any more.
    Acknowledged,
    /// Not seen yet.
    New,
    Executed(Executed),
    /// Outside of the window.
    Beyond,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) nonce: u128,
    pub(super) acked: u64,
    /// The newest call that has marked it as used.
    pub(super) used: LogTime,
    /// The call numbered `acked + 1` comes first; at most [`WINDOW`], and the last one was executed.
    window: VecDeque<Option<Executed>>,
}

impl Session {
    /// A session whose client has the answers up to `acked`, and of which nothing else is known.
    pub(super) fn new(nonce: u128, acked: u64, used: LogTime) -> Session {
        Session { nonce, acked, used, window: VecDeque::new() }
    }

    /// The client needs nothing up to `acked` any more. O(1) for each call that leaves.
    pub(super) fn acknowledge(&mut self, acked: u64, replies: &mut Replies) {
        while self.acked < acked {
            match self.window.pop_front() {
                Some(Some(done)) => {
                    replies.remove(done.reply);
                    self.acked += 1;
                }
                Some(None) => self.acked += 1,
                None => self.acked = acked,
            }
        }
    }

    pub(super) fn find(&self, seq: u64) -> Found {
        let Some(place) = seq.checked_sub(self.acked).and_then(|ahead| ahead.checked_sub(1)) else {
            return Found::Acknowledged;
        };
        if place >= WINDOW {
            return Found::Beyond;
        }
        self.window.get(place as usize).copied().flatten().map_or(Found::New, Found::Executed)
    }

    /// Notes a call that [`find`](Session::find) called new.
    pub(super) fn executed(&mut self, seq: u64, done: Executed) {
        let place = (seq - self.acked - 1) as usize;
        if self.window.len() == place {
            return self.window.push_back(Some(done));
        }
        if self.window.len() < place {
            self.window.resize(place + 1, None);
        }
        self.window[place] = Some(done);
    }

    /// The reply of `seq`, which was executed, is kept here from now on, or nowhere.
    pub(super) fn keeps(&mut self, seq: u64, reply: ReplyKey) {
        let place = seq.checked_sub(self.acked).and_then(|ahead| ahead.checked_sub(1));
        if let Some(Some(done)) = place.and_then(|place| self.window.get_mut(place as usize)) {
            done.reply = reply;
        }
    }

    /// What is known of each number from `acked + 1` on.
    pub(super) fn window(&self) -> impl ExactSizeIterator<Item = Option<Executed>> {
        self.window.iter().copied()
    }
}
