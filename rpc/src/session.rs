//! Exactly-once calls, the server's side: which calls have been executed and what was answered, the same on every replica.
//!
//! ```text
//!   Register entry ──► Sessions::register ──► a session: its id is told to the client, which numbers its calls 1, 2, 3 ...
//!   Normal entry   ──► Sessions::admit ──┬──► Execute ──► the service ──► Sessions::complete
//!                                        ├──► Done: answer the same again
//!                                        └──► Expired, Forgotten, OutOfWindow, Mismatch: never executed
//!
//!   one session:   acked │ acked+1 ........ acked+64 │          what the client has heard of leaves on the left;
//!                  gone  │ done, done, -, done, -    │ refused  replies also leave, oldest first, over the byte budget
//! ```
//!
//! The table is pure: it knows no clock but the log time it is given, and no order but that of the calls made to it. Equal
//! logs give tables that save to equal bytes. It belongs to the replicated state, so it is in snapshots and in the digest.
//! [`admit`](Sessions::admit) and [`complete`](Sessions::complete) take O(1), but for a session's first call in a second,
//! which like [`register`](Sessions::register) takes O(log n) in the number of sessions;
//! a call that is executed and completed allocates nothing once its session has had a full window,
//! but for a reply of more than 24 bytes.
//!
//! What bounds it: [`SESSIONS_MAX`], [`WINDOW`] and [`REPLY_BYTES_MAX`]; at each limit the client is told, and nothing is
//! ever executed twice.

mod image;
mod replies;
#[cfg(test)]
mod tests;
mod window;

use crate::log_time::LogTime;
use crate::service::Answer;
use crate::state::Turns;
use hashbrown::HashMap;
use replies::Replies;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;
use trimaran_raft::{ClusterId, Fault, LogIndex, Sabotage};
use window::{Found, Session};
use xxhash_rust::xxh3::xxh3_64;

/// The method that opens a session: a replicated call whose arguments are a nonce of 16 bytes, little endian. Its reply is the
/// cluster's id, 16 bytes little endian, and the response block's index that of the session.
pub const REGISTER: &str = "trimaran.register/1";
/// Sessions at a time. Beyond it no new one is opened until one has been idle for [`SESSION_TTL`].
pub const SESSIONS_MAX: usize = 16_384;
/// Calls of one session that may be without an answer at a time: sequence numbers above the client's `acked`.
pub const WINDOW: u64 = 64;
/// Bytes of all remembered replies together, [`REPLY_COST_BYTES`] for each included. Over it, the oldest in log order are
/// forgotten.
pub const REPLY_BYTES_MAX: usize = 32 << 20;
/// Bytes of one remembered reply: the longest that R2P2 carries. A longer one is not remembered.
pub const REPLY_BYTES_EACH: usize = 371_856;
/// What a remembered reply costs of [`REPLY_BYTES_MAX`] besides its body.
pub const REPLY_COST_BYTES: usize = 64;
/// Log time without a call after which a session expires, give or take a second.
pub const SESSION_TTL: Duration = Duration::from_secs(600);

/// A call marks its session as used at most once in this time, so that most calls leave the order of expiry alone.
const TOUCH_GRAIN: Duration = Duration::from_secs(1);
/// Sessions that leave at one entry for having expired: many at once must not delay a heartbeat.
const EXPIRED_PER_ENTRY: usize = 4;
/// Bits of a session id that hold the index of its Register entry.
const INDEX_BITS: u32 = 48;

/// What names a call through all its retries: sent again under the same name, it is still executed at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId {
    /// The client's session: a [`SessionId`].
    pub session: u64,
    /// The call's number within the session, from 1 on.
    pub seq: u64,
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SessionId(self.session), self.seq)
    }
}

/// The name of a session: a tag of its cluster's id, 16 bits, above the index of its Register entry, 48 bits. An id of one
/// cluster is therefore nobody's in another (but for one pair of clusters in 65,535).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The session that the Register entry at `index` of `cluster`'s log opens.
    pub fn new(cluster: ClusterId, index: LogIndex) -> SessionId {
        SessionId(SessionId::pin(cluster).0 | (index.0 & ((1 << INDEX_BITS) - 1)))
    }

    /// What calls without a session carry in its place, so that another cluster does not answer them: tag, and index 0.
    pub fn pin(cluster: ClusterId) -> SessionId {
        // Never 0, which stands for a call that names no cluster.
        let tag = (xxh3_64(&cluster.0.to_le_bytes()) as u16).max(1);
        SessionId(u64::from(tag) << INDEX_BITS)
    }

    /// The tag of its cluster, 0 in no session's id.
    pub const fn tag(self) -> u16 {
        (self.0 >> INDEX_BITS) as u16
    }

    /// The index of its Register entry, 0 for a [`pin`](SessionId::pin).
    pub const fn index(self) -> LogIndex {
        LogIndex(self.0 & ((1 << INDEX_BITS) - 1))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.tag(), self.index())
    }
}

/// As many sessions as may be are in use; none of them has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{sessions} sessions are open, as many as allowed")]
pub struct SessionsFull {
    /// How many there are.
    pub sessions: usize,
}

/// What to do with a call that names a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission<'a> {
    /// Execute it, then [`complete`](Sessions::complete) it, before anything else is done with the table.
    Execute,
    /// It was executed before: this is what came of it.
    Done {
        /// How it ended.
        status: Answer,
        /// The reply.
        body: &'a [u8],
        /// Where in the log it was executed.
        index: LogIndex,
    },
    /// There is no such session, or no longer: it was idle for [`SESSION_TTL`], or belongs to another cluster. A client
    /// that has sent the call once only may give it a new name.
    Expired,
    /// The session is open, but what became of the call is not kept any more: the client itself has said that it needs no
    /// answer, or the reply had to go to make room. It may have been executed, so no client may send it under a new name.
    Forgotten,
    /// Its number is more than [`WINDOW`] beyond what the client has acknowledged. Certainly not executed.
    OutOfWindow,
    /// Another request was executed under this name. This one was not.
    Mismatch,
}

/// Bounds of a table; in a cluster they are the constants above on every replica.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    sessions: usize,
    reply_bytes: usize,
    reply_bytes_each: usize,
    /// Rules broken on purpose; empty without the feature `sabotage`.
    sabotage: Sabotage,
}

impl Bounds {
    const CLUSTER: Bounds = Bounds {
        sessions: SESSIONS_MAX,
        reply_bytes: REPLY_BYTES_MAX,
        reply_bytes_each: REPLY_BYTES_EACH,
        sabotage: Sabotage::NONE,
    };
}

/// The open sessions of a cluster, as the log has left them.
#[derive(Debug)]
pub struct Sessions {
    bounds: Bounds,
    /// Nobody sees its order.
    sessions: HashMap<SessionId, Session, BuildHasherDefault<IdHasher>>,
    by_nonce: BTreeMap<u128, SessionId>,
    /// When each was used last: the next to expire comes first.
    by_use: BTreeSet<(LogTime, SessionId)>,
    /// None was used last before this, so that most calls need not ask which was.
    used_since: LogTime,
    replies: Replies,
}

/// Ids are given out by the log, so that nobody can choose them to collide.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, part: u64) {
        // Consecutive indexes must differ in the high bits as in the low ones.
        let wide = u128::from(self.0 ^ part) * u128::from(0x9E37_79B9_7F4A_7C15_u64);
        self.0 = wide as u64 ^ (wide >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions::new()
    }
}

impl Sessions {
    /// No sessions.
    pub fn new() -> Sessions {
        Sessions::bounded(Bounds::CLUSTER)
    }

    /// No sessions, and rules broken on purpose.
    #[cfg(feature = "sabotage")]
    pub fn broken(sabotage: Sabotage) -> Sessions {
        Sessions::bounded(Bounds { sabotage, ..Bounds::CLUSTER })
    }

    fn bounded(bounds: Bounds) -> Sessions {
        Sessions {
            bounds,
            sessions: HashMap::default(),
            by_nonce: BTreeMap::new(),
            by_use: BTreeSet::new(),
            used_since: LogTime::ZERO,
            replies: Replies::new(),
        }
    }

    /// Opens a session for the Register entry at `index`. A nonce that is known gets its session again, as it is, so that
    /// a repeated or belated copy of the entry changes nothing. The client is told [`SessionId::index`] of what is returned,
    /// which for such a copy is not its own.
    ///
    /// # Errors
    /// [`SessionsFull`]: nobody's session is closed to make room, but for those that have expired.
    pub fn register(
        &mut self,
        index: LogIndex,
        cluster: ClusterId,
        nonce: u128,
        now: LogTime,
    ) -> Result<SessionId, SessionsFull> {
        self.expire(now);
        if let Some(&known) = self.by_nonce.get(&nonce) {
            if use_session(&mut self.sessions, &mut self.by_use, known, now).is_some() {
                return Ok(known);
            }
            self.close(known);
        }
        if let Some((_, oldest)) = self.by_use.first().copied().filter(|_| self.evicts_the_live()) {
            self.close(oldest);
        }
        if self.sessions.len() >= self.bounds.sessions {
            return Err(SessionsFull { sessions: self.sessions.len() });
        }
        let id = SessionId::new(cluster, index);
        self.open(id, Session::new(nonce, 0, now));
        Ok(id)
    }

    /// Decides on the call of the entry that is applied now. `acked` is the client's word that it needs the answers up to
    /// that number no more; `request_hash` tells requests apart.
    pub fn admit(&mut self, call: CallId, acked: u64, request_hash: u64, now: LogTime) -> Admission<'_> {
        self.expire(now);
        let id = SessionId(call.session);
        let Some(session) = use_session(&mut self.sessions, &mut self.by_use, id, now) else {
            return Admission::Expired;
        };
        // A call waits for its own answer, whatever it says.
        session.acknowledge(acked.min(call.seq.saturating_sub(1)), &mut self.replies);
        match session.find(call.seq) {
            Found::Acknowledged => Admission::Forgotten,
            Found::Beyond => Admission::OutOfWindow,
            Found::New => Admission::Execute,
            Found::Executed(done) if done.request_hash != request_hash => Admission::Mismatch,
            Found::Executed(done) => match self.replies.get(done.reply) {
                Some(body) => Admission::Done { status: done.answer, body, index: done.index },
                None => Admission::Forgotten,
            },
        }
    }

    /// Remembers what came of a call that was admitted for execution, and forgets older replies where that takes too much
    /// room. `index` is the entry's, greater than at any call before.
    pub fn complete(&mut self, call: CallId, request_hash: u64, answer: Answer, body: &[u8], index: LogIndex) {
        let id = SessionId(call.session);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Found::New = session.find(call.seq) else { return };
        let kept = body.len() <= self.bounds.reply_bytes_each;
        let reply = if kept { self.replies.add(id, call.seq, body) } else { Replies::NONE };
        session.executed(call.seq, window::Executed { request_hash, answer, index, reply });
        while self.replies.bytes() > self.bounds.reply_bytes {
            let Some((session, seq)) = self.replies.evict_oldest() else { break };
            if let Some(session) = self.sessions.get_mut(&session) {
                session.keeps(seq, Replies::NONE);
            }
        }
    }

    /// Open sessions, those included that have expired and not yet been looked at.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Bytes of the remembered replies, as [`REPLY_BYTES_MAX`] counts them.
    pub fn reply_bytes(&self) -> usize {
        self.replies.bytes()
    }

    fn evicts_the_live(&self) -> bool {
        self.bounds.sabotage.has(Fault::EvictTheLive) && self.sessions.len() >= self.bounds.sessions
    }

    /// Gives the memory back, a slice at a time.
    pub(crate) async fn discard(self, turns: &mut Turns) {
        turns.drop_each(self.sessions).await;
        turns.drop_each(self.by_nonce).await;
        turns.drop_each(self.by_use).await;
        self.replies.discard(turns).await;
    }

    fn open(&mut self, id: SessionId, session: Session) {
        self.used_since = self.used_since.min(session.used);
        self.by_nonce.insert(session.nonce, id);
        self.by_use.insert((session.used, id));
        self.sessions.insert(id, session);
    }

    fn close(&mut self, id: SessionId) {
        if let Some(mut session) = self.sessions.remove(&id) {
            self.by_use.remove(&(session.used, id));
            self.by_nonce.remove(&session.nonce);
            session.acknowledge(u64::MAX, &mut self.replies);
        }
    }

    /// Closes some of the sessions whose time has come, those that were used longest ago first.
    fn expire(&mut self, now: LogTime) {
        if !is_expired(self.used_since, now) {
            return;
        }
        for _ in 0..EXPIRED_PER_ENTRY {
            match self.by_use.first() {
                Some(&(used, id)) if is_expired(used, now) => self.close(id),
                _ => break,
            }
        }
        self.used_since = self.by_use.first().map_or(now, |(used, _)| *used);
    }
}

/// Marks a session as used; `None` where it is not open any more.
fn use_session<'a>(
    sessions: &'a mut HashMap<SessionId, Session, BuildHasherDefault<IdHasher>>,
    by_use: &mut BTreeSet<(LogTime, SessionId)>,
    id: SessionId,
    now: LogTime,
) -> Option<&'a mut Session> {
    let session = sessions.get_mut(&id)?;
    if is_expired(session.used, now) {
        // It leaves in its turn.
        return None;
    }
    if now.saturating_since(session.used) >= TOUCH_GRAIN {
        by_use.remove(&(session.used, id));
        session.used = now;
        by_use.insert((now, id));
    }
    Some(session)
}

fn is_expired(used: LogTime, now: LogTime) -> bool {
    now.saturating_since(used) >= SESSION_TTL + TOUCH_GRAIN
}
