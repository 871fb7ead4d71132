//! The table in a snapshot: sessions in the order of their ids, with the calls in their windows. The order in which replies
//! are forgotten, and in which sessions expire, follows from that.

use super::replies::{Replies, cost};
use super::window::{Executed, Session};
use super::{Bounds, SessionId, Sessions, WINDOW};
use crate::log_time::LogTime;
use crate::r2p2::Refusal;
use crate::service::Answer;
use crate::state::{Reader, StateError, Writer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use trimaran_raft::LogIndex;

/// The form that this build writes and reads.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct SessionImage {
    id: SessionId,
    nonce: u128,
    acked: u64,
    used: LogTime,
}

/// A call that was executed; `body` is `None` where the reply is gone.
#[derive(Serialize, Deserialize)]
struct ExecutedImage<B> {
    request_hash: u64,
    answer: u8,
    reason: u16,
    index: u64,
    body: Option<B>,
}

impl Sessions {
    /// Writes the table. Tables that equal logs have left write equal bytes.
    pub async fn save(&self, to: &mut Writer) {
        to.item(&FORMAT).await;
        to.len(self.sessions.len()).await;
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| **id);
        for (&id, session) in sessions {
            to.item(&SessionImage { id, nonce: session.nonce, acked: session.acked, used: session.used }).await;
            let window = session.window();
            to.len(window.len()).await;
            for done in window {
                to.item(&done.map(|done| self.image(&done))).await;
            }
        }
    }

    fn image(&self, done: &Executed) -> ExecutedImage<&[u8]> {
        let (answer, reason) = match done.answer {
            Answer::Ok => (0, 0),
            Answer::App => (1, 0),
            Answer::Refused(refusal) => (2, refusal.to_wire()),
        };
        let body = self.replies.get(done.reply);
        ExecutedImage { request_hash: done.request_hash, answer, reason, index: done.index.0, body }
    }

    /// Reads what [`save`](Sessions::save) wrote. From then on the table behaves as the one that was saved.
    ///
    /// # Errors
    /// [`StateError`]: not a table, or one beyond the bounds.
    pub async fn load(from: &mut Reader<'_>) -> Result<Sessions, StateError> {
        Sessions::load_bounded(Bounds::CLUSTER, from).await
    }

    pub(super) async fn load_bounded(bounds: Bounds, from: &mut Reader<'_>) -> Result<Sessions, StateError> {
        let format: u32 = from.item().await?;
        require(format == FORMAT, "the session table has a form that this build does not know")?;
        let mut table = Sessions::bounded(bounds);
        // By index, oldest first; they come session by session. To sort them all when the last has come would take a turn too long.
        let mut replies: BTreeMap<LogIndex, (SessionId, u64, Vec<u8>)> = BTreeMap::new();
        let mut reply_bytes = 0;
        let sessions = from.len().await?;
        require(sessions <= bounds.sessions, "too many sessions")?;
        let mut last = None;
        for _ in 0..sessions {
            let SessionImage { id, nonce, acked, used } = from.item().await?;
            require(last.replace(id).is_none_or(|last| last < id), "sessions out of order")?;
            require(!table.by_nonce.contains_key(&nonce), "two sessions of one nonce")?;
            let calls = from.len().await?;
            require(calls as u64 <= WINDOW && acked.checked_add(calls as u64).is_some(), "a window is too large")?;
            let mut session = Session::new(nonce, acked, used);
            for place in 0..calls {
                let done: Option<ExecutedImage<Vec<u8>>> = from.item().await?;
                require(place + 1 < calls || done.is_some(), "a window ends with nothing")?;
                let Some(image) = done else { continue };
                let seq = acked + 1 + place as u64;
                session.executed(seq, executed(&image)?);
                if let Some(body) = image.body {
                    require(body.len() <= bounds.reply_bytes_each, "a reply is too long")?;
                    reply_bytes += cost(body.len());
                    require(reply_bytes <= bounds.reply_bytes, "too many bytes of replies")?;
                    let before = replies.insert(LogIndex(image.index), (id, seq, body));
                    require(before.is_none(), "two calls at one index")?;
                }
            }
            table.open(id, session);
        }
        for (_, (id, seq, body)) in replies {
            let key = table.replies.add(id, seq, &body);
            if let Some(session) = table.sessions.get_mut(&id) {
                session.keeps(seq, key);
            }
            from.turns.spend(cost(body.len())).await;
        }
        Ok(table)
    }
}

fn executed(image: &ExecutedImage<Vec<u8>>) -> Result<Executed, StateError> {
    let answer = match image.answer {
        0 => Answer::Ok,
        1 => Answer::App,
        2 => Answer::Refused(Refusal::from_wire(image.reason)),
        _ => return Err(StateError::Invalid("an answer of no known kind".into())),
    };
    let (request_hash, index) = (image.request_hash, LogIndex(image.index));
    Ok(Executed { request_hash, answer, index, reply: Replies::NONE })
}

fn require(holds: bool, otherwise: &str) -> Result<(), StateError> {
    if holds { Ok(()) } else { Err(StateError::Invalid(otherwise.to_owned())) }
}
