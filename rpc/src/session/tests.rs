//! The table by named cases, and against a model that keeps everything in plain lists.

use super::*;
use crate::r2p2::Refusal;
use crate::state::{BYTES_PER_TURN, Reader, StateError, Turns, Writer, count_turns};
use futures::FutureExt;
use proptest::prelude::*;

const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef);
const SMALL: Bounds =
    Bounds { sessions: 3, reply_bytes: 5 * (REPLY_COST_BYTES + 40), reply_bytes_each: 60, ..Bounds::CLUSTER };

fn at(seconds: u64) -> LogTime {
    LogTime::from_nanos(seconds * 1_000_000_000)
}

fn bytes(table: &Sessions) -> Vec<u8> {
    let mut writer = Writer::bytes().at_once();
    table.save(&mut writer).now_or_never().expect("saved in one go");
    writer.into_bytes().expect("a form")
}

fn load(bounds: Bounds, bytes: &[u8]) -> Result<Sessions, StateError> {
    let mut reader = Reader::new(bytes).at_once();
    let table = Sessions::load_bounded(bounds, &mut reader).now_or_never().expect("read in one go")?;
    reader.finish()?;
    Ok(table)
}

/// A log that is applied to a table, entry by entry; the service answers every call with its index.
struct Log {
    table: Sessions,
    index: u64,
    now: LogTime,
}

/// What a client gets to see of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Executed,
    Again { answer: Answer, body: Vec<u8>, index: u64 },
    Expired,
    Forgotten,
    OutOfWindow,
    Mismatch,
}

impl Log {
    fn new(bounds: Bounds) -> Log {
        Log { table: Sessions::bounded(bounds), index: 0, now: LogTime::ZERO }
    }

    fn register(&mut self, nonce: u128) -> Result<u64, SessionsFull> {
        self.index += 1;
        self.table.register(LogIndex(self.index), CLUSTER, nonce, self.now).map(|id| id.0)
    }

    /// A call with a reply of so many bytes.
    fn call_for(&mut self, session: u64, seq: u64, acked: u64, hash: u64, reply_bytes: usize) -> Seen {
        self.index += 1;
        let call = CallId { session, seq };
        match self.table.admit(call, acked, hash, self.now) {
            Admission::Execute => {
                let answer = answer(self.index);
                self.table.complete(call, hash, answer, &body(self.index, reply_bytes), LogIndex(self.index));
                Seen::Executed
            }
            Admission::Done { status, body, index } => {
                Seen::Again { answer: status, body: body.to_vec(), index: index.0 }
            }
            Admission::Expired => Seen::Expired,
            Admission::Forgotten => Seen::Forgotten,
            Admission::OutOfWindow => Seen::OutOfWindow,
            Admission::Mismatch => Seen::Mismatch,
        }
    }

    fn call(&mut self, session: u64, seq: u64, acked: u64) -> Seen {
        self.call_for(session, seq, acked, seq, 40)
    }
}

fn answer(index: u64) -> Answer {
    match index % 3 {
        0 => Answer::Ok,
        1 => Answer::App,
        _ => Answer::Refused(Refusal::BadArguments),
    }
}

fn body(index: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (index * 31 + at) as u8).collect()
}

fn again(index: u64) -> Seen {
    Seen::Again { answer: answer(index), body: body(index, 40), index }
}

#[test]
fn a_retry_is_answered_as_the_first_try_was_and_not_executed() {
    let mut log = Log::new(SMALL);
    let session = log.register(1).unwrap();
    assert_eq!(log.call(session, 1, 0), Seen::Executed);
    assert_eq!(log.call(session, 2, 0), Seen::Executed);
    assert_eq!((log.call(session, 1, 0), log.call(session, 2, 0)), (again(2), again(3)));
}

#[test]
fn another_request_under_the_same_name_is_an_error() {
    let mut log = Log::new(SMALL);
    let session = log.register(1).unwrap();
    assert_eq!(log.call_for(session, 1, 0, 7, 9), Seen::Executed);
    assert_eq!(log.call_for(session, 1, 0, 8, 9), Seen::Mismatch);
    assert!(matches!(log.call_for(session, 1, 0, 7, 9), Seen::Again { .. }), "the first stands");
}

#[test]
fn what_is_acknowledged_is_freed_and_never_executed_again() {
    let mut log = Log::new(Bounds { reply_bytes: 1 << 20, ..SMALL });
    let session = log.register(1).unwrap();
    (1..=10).for_each(|seq| assert_eq!(log.call(session, seq, 0), Seen::Executed));
    assert_eq!(log.table.reply_bytes(), 10 * 104);
    assert_eq!(log.call(session, 11, 9), Seen::Executed);
    assert_eq!(log.table.reply_bytes(), 2 * 104);
    assert_eq!((log.call(session, 9, 0), log.call(session, 10, 0)), (Seen::Forgotten, again(11)));
}

/// A client that acknowledges the very call it makes, or all there will ever be, harms at most itself.
#[test]
fn an_absurd_acknowledgement_is_cut_to_what_can_be_true() {
    let mut log = Log::new(SMALL);
    let session = log.register(1).unwrap();
    assert_eq!(log.call(session, 1, u64::MAX), Seen::Executed);
    assert_eq!(log.call(session, 1, u64::MAX), again(2));
    assert_eq!(log.call(session, u64::MAX, u64::MAX), Seen::Executed);
    assert_eq!(log.call(session, 0, u64::MAX), Seen::Forgotten);
    let reloaded = load(SMALL, &bytes(&log.table)).expect("a table");
    assert_eq!(bytes(&reloaded), bytes(&log.table));
}

#[test]
fn the_window_opens_as_the_client_acknowledges() {
    let mut log = Log::new(Bounds::CLUSTER);
    let session = log.register(1).unwrap();
    assert_eq!(log.call(session, 64, 0), Seen::Executed, "in any order");
    assert_eq!(log.call(session, 65, 0), Seen::OutOfWindow);
    assert_eq!(log.call(session, 1, 0), Seen::Executed);
    assert_eq!(log.call(session, 65, 1), Seen::Executed);
    assert_eq!(log.call(session, 66, 0), Seen::OutOfWindow, "an older request's word does not open it");
    assert_eq!(log.call(session, 2, 0), Seen::Executed, "a gap is filled later");
}

/// The reply made room for another: the call was executed all the same, and must not be again.
#[test]
fn a_retry_of_an_evicted_call_is_not_executed() {
    let mut log = Log::new(SMALL);
    let (one, two) = (log.register(1).unwrap(), log.register(2).unwrap());
    assert_eq!(log.call(one, 1, 0), Seen::Executed);
    (1..=5).for_each(|seq| assert_eq!(log.call(two, seq, 0), Seen::Executed));
    assert_eq!(log.call(one, 1, 0), Seen::Forgotten);
    assert_eq!(log.call_for(one, 1, 0, 99, 0), Seen::Mismatch, "still another request");
    assert_eq!(log.call(two, 1, 0), again(4), "the oldest of all goes, not the session's own");
    assert_eq!(log.table.reply_bytes(), SMALL.reply_bytes);
}

#[test]
fn a_reply_too_long_to_keep_displaces_nothing() {
    let mut log = Log::new(SMALL);
    let session = log.register(1).unwrap();
    assert_eq!(log.call(session, 1, 0), Seen::Executed);
    assert_eq!(log.call_for(session, 2, 0, 2, 61), Seen::Executed);
    assert_eq!((log.call(session, 1, 0), log.call(session, 2, 0)), (again(2), Seen::Forgotten));
}

#[test]
fn a_repeated_register_gives_the_same_session_untouched() {
    let mut log = Log::new(SMALL);
    let session = log.register(1).unwrap();
    assert_eq!(SessionId(session), SessionId::new(CLUSTER, LogIndex(1)));
    assert_eq!(log.call(session, 1, 0), Seen::Executed);
    assert_eq!(log.register(1), Ok(session));
    assert_eq!((log.table.len(), log.table.is_empty(), log.call(session, 1, 0)), (1, false, again(2)));
    assert!(Log::new(SMALL).table.is_empty());
}

/// A copy of a Register entry that comes when its session has expired opens one that nobody uses; it too expires, and takes
/// nothing from anybody.
#[test]
fn a_late_register_disturbs_nobody() {
    let mut log = Log::new(SMALL);
    let first = log.register(1).unwrap();
    assert_eq!(log.call(first, 1, 0), Seen::Executed);
    log.now = at(700);
    let second = log.register(2).unwrap();
    let late = log.register(1).unwrap();
    assert_ne!(late, first);
    assert_eq!((log.call(first, 1, 0), log.call(second, 1, 0)), (Seen::Expired, Seen::Executed));
    log.now = at(1500);
    log.register(3).unwrap();
    assert_eq!(log.table.len(), 1);
}

#[test]
fn a_full_table_refuses_and_evicts_nobody_live() {
    let mut log = Log::new(SMALL);
    let sessions: Vec<_> = (1..=3).map(|nonce| log.register(nonce).unwrap()).collect();
    assert_eq!(log.register(4), Err(SessionsFull { sessions: 3 }));
    assert_eq!(log.register(2), Ok(sessions[1]), "known ones still are");
    sessions.iter().for_each(|&session| assert_eq!(log.call(session, 1, 0), Seen::Executed));
}

/// Used longest ago first, whatever the order of registration; and only as far as log time has come.
#[test]
fn sessions_expire_in_the_order_of_their_last_use() {
    let mut log = Log::new(SMALL);
    let sessions: Vec<_> = (1..=3).map(|nonce| log.register(nonce).unwrap()).collect();
    log.now = at(300);
    assert_eq!(log.call(sessions[0], 1, 0), Seen::Executed);
    log.now = at(400);
    assert_eq!(log.call(sessions[2], 1, 0), Seen::Executed);
    log.now = at(600);
    assert!(log.register(4).is_err(), "not before its time");
    log.now = at(601);
    let new = log.register(4).unwrap();
    assert_eq!(log.call(sessions[1], 1, 0), Seen::Expired);
    log.now = at(901);
    assert_eq!((log.call(sessions[0], 1, 0), log.call(sessions[2], 1, 0)), (Seen::Expired, again(5)));
    assert_eq!((log.call(new, 1, 0), log.table.len()), (Seen::Executed, 2));
}

/// Many sessions whose time has come leave a few at an entry, and none of them is open meanwhile.
#[test]
fn an_expired_session_is_closed_before_it_has_left() {
    let mut log = Log::new(Bounds { sessions: 100, ..SMALL });
    let sessions: Vec<_> = (0..100).map(|nonce| log.register(nonce).unwrap()).collect();
    log.now = at(1000);
    assert_eq!(log.call(sessions[99], 1, 0), Seen::Expired);
    assert_eq!(log.table.len(), 100 - EXPIRED_PER_ENTRY);
    let again = log.register(98).unwrap();
    assert_ne!(again, sessions[98]);
    assert_eq!(log.call(again, 1, 0), Seen::Executed);
}

#[test]
fn ids_of_another_cluster_are_nobodys() {
    let mut log = Log::new(SMALL);
    let session = log.register(1).unwrap();
    let foreign = SessionId::new(ClusterId(7), SessionId(session).index());
    assert_ne!(foreign.tag(), SessionId(session).tag());
    assert_eq!(log.call(foreign.0, 1, 0), Seen::Expired);
    assert_eq!(SessionId::pin(CLUSTER), SessionId::new(CLUSTER, LogIndex(0)));
    assert_eq!(CallId { session, seq: 9 }.to_string(), format!("{:04x}:1/9", SessionId(session).tag()));
}

/// Bytes from elsewhere: an error, whatever they are, and no table beyond its bounds.
#[test]
fn what_is_not_a_table_is_refused() {
    let mut log = Log::new(SMALL);
    for nonce in 1..=3 {
        let session = log.register(nonce).unwrap();
        (1..=4).for_each(|seq| drop(log.call(session, seq, 1)));
    }
    let good = bytes(&log.table);
    assert_eq!(bytes(&load(SMALL, &good).expect("a table")), good);
    for cut in 0..good.len() {
        assert!(load(SMALL, &good[..cut]).is_err(), "cut at {cut}");
    }
    for (place, bit) in (0..good.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        let mut bad = good.clone();
        bad[place] ^= 1 << bit;
        if let Ok(table) = load(SMALL, &bad) {
            assert!(table.len() <= 3 && table.reply_bytes() <= SMALL.reply_bytes);
        }
    }
    assert!(load(Bounds { sessions: 2, ..SMALL }, &good).is_err());
    assert!(load(Bounds { reply_bytes: 100, ..SMALL }, &good).is_err());
    assert!(load(Bounds { reply_bytes_each: 39, ..SMALL }, &good).is_err());
}

/// As many replies as may be, of sessions that took turns: all are read, then all are added in another order.
fn full_table() -> Sessions {
    let mut log = Log::new(Bounds::CLUSTER);
    let sessions: Vec<_> = (0..2000).map(|nonce| log.register(nonce).unwrap()).collect();
    for seq in 1..=WINDOW {
        sessions.iter().for_each(|&session| assert_eq!(log.call(session, seq, 0), Seen::Executed));
    }
    log.table
}

/// Others get a turn for every 64 KiB that are read, and for as many that are added.
#[test]
fn a_large_table_is_loaded_a_slice_at_a_time() {
    let table = full_table();
    let (saved, replies) = (bytes(&table), table.reply_bytes());
    assert!(replies > 100 * BYTES_PER_TURN, "{replies}");
    let (loaded, turns) = count_turns(async { Sessions::load(&mut Reader::new(&saved)).await });
    assert_eq!(bytes(&loaded.expect("a table")), saved);
    let expected = saved.len() / BYTES_PER_TURN + replies / BYTES_PER_TURN;
    // A slice ends with the item that fills it, and so is a little longer.
    assert!((expected - 10..=expected).contains(&turns), "{turns} turns, not {expected}");
}

#[test]
fn a_large_table_is_given_back_a_slice_at_a_time() {
    let table = full_table();
    let replies = WINDOW as usize * table.len();
    let ((), turns) = count_turns(async { table.discard(&mut Turns::new()).await });
    assert!(turns >= replies * REPLY_COST_BYTES / BYTES_PER_TURN, "{turns} turns");
}

#[test]
fn two_calls_at_one_index_are_no_table() {
    let mut log = Log::new(SMALL);
    let sessions = [log.register(1).unwrap(), log.register(2).unwrap()];
    for session in sessions {
        log.index = 9;
        assert_eq!(log.call(session, 1, 0), Seen::Executed);
    }
    let expected = StateError::Invalid("two calls at one index".into());
    assert_eq!(load(SMALL, &bytes(&log.table)).err(), Some(expected));
}

#[test]
fn a_steady_session_keeps_its_memory() {
    let mut log = Log::new(Bounds::CLUSTER);
    let session = log.register(1).unwrap();
    for seq in 1..=100_000 {
        assert_eq!(log.call(session, seq, seq.saturating_sub(WINDOW)), Seen::Executed);
    }
    assert_eq!(log.table.reply_bytes(), 64 * 104);
    assert!(log.table.replies.places() <= 65);
}

/// The same in plain lists: slow, and plain to see.
#[derive(Default)]
struct Model {
    sessions: Vec<ModelSession>,
    /// Session and number of each remembered reply, oldest first, with its bytes.
    replies: Vec<(u64, u64, usize)>,
}

struct ModelSession {
    id: u64,
    nonce: u128,
    acked: u64,
    used: LogTime,
    /// Number, hash, index, and the length of the reply while it is kept.
    calls: Vec<(u64, u64, u64, Option<usize>)>,
}

impl Model {
    fn expire(&mut self, now: LogTime) {
        for _ in 0..EXPIRED_PER_ENTRY {
            let Some(first) = self.sessions.iter().map(|session| (session.used, session.id)).min() else { return };
            if now.saturating_since(first.0) >= SESSION_TTL + TOUCH_GRAIN {
                self.close(first.1);
            }
        }
    }

    fn close(&mut self, id: u64) {
        self.sessions.retain(|session| session.id != id);
        self.replies.retain(|(session, ..)| *session != id);
    }

    fn open(&mut self, id: u64, now: LogTime) -> Option<&mut ModelSession> {
        let session = self.sessions.iter_mut().find(|session| session.id == id)?;
        if now.saturating_since(session.used) >= SESSION_TTL + TOUCH_GRAIN {
            return None;
        }
        if now.saturating_since(session.used) >= TOUCH_GRAIN {
            session.used = now;
        }
        Some(session)
    }

    fn register(&mut self, index: u64, nonce: u128, now: LogTime) -> Result<u64, SessionsFull> {
        self.expire(now);
        if let Some(known) = self.sessions.iter().find(|session| session.nonce == nonce).map(|session| session.id) {
            if self.open(known, now).is_some() {
                return Ok(known);
            }
            self.close(known);
        }
        if self.sessions.len() == SMALL.sessions {
            return Err(SessionsFull { sessions: SMALL.sessions });
        }
        let id = SessionId::new(CLUSTER, LogIndex(index)).0;
        self.sessions.push(ModelSession { id, nonce, acked: 0, used: now, calls: Vec::new() });
        Ok(id)
    }

    fn call(&mut self, index: u64, call: &Step, id: u64, now: LogTime) -> Seen {
        let Step::Call { seq, acked, hash, reply_bytes, .. } = *call else { panic!("a call") };
        self.expire(now);
        let Some(session) = self.open(id, now) else { return Seen::Expired };
        let acked = session.acked.max(acked.min(seq.saturating_sub(1)));
        session.acked = acked;
        session.calls.retain(|(seq, ..)| *seq > acked);
        let found = session.calls.iter().find(|(of, ..)| *of == seq).copied();
        self.replies.retain(|(session, seq, _)| *session != id || *seq > acked);
        if seq <= acked {
            return Seen::Forgotten;
        }
        if seq > acked + WINDOW {
            return Seen::OutOfWindow;
        }
        match found {
            Some((_, first, ..)) if first != hash => Seen::Mismatch,
            Some((.., None)) => Seen::Forgotten,
            Some((_, _, index, Some(bytes))) => Seen::Again { answer: answer(index), body: body(index, bytes), index },
            None => {
                let kept = reply_bytes <= SMALL.reply_bytes_each;
                let session = self.sessions.iter_mut().find(|session| session.id == id).unwrap();
                session.calls.push((seq, hash, index, kept.then_some(reply_bytes)));
                if kept {
                    self.replies.push((id, seq, reply_bytes + REPLY_COST_BYTES));
                }
                while self.bytes() > SMALL.reply_bytes {
                    let (whose, seq, _) = self.replies.remove(0);
                    let session = self.sessions.iter_mut().find(|session| session.id == whose).unwrap();
                    session.calls.iter_mut().find(|(of, ..)| *of == seq).unwrap().3 = None;
                }
                Seen::Executed
            }
        }
    }

    fn bytes(&self) -> usize {
        self.replies.iter().map(|(.., bytes)| bytes).sum()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Register { nonce: u128 },
    Call { client: usize, seq: u64, acked: u64, hash: u64, reply_bytes: usize },
    Wait { seconds: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let call = (0..5usize, 0..80u64, 0..80u64, 0..2u64, 0..64usize);
    let close = (0..5usize, 0..6u64, 0..4u64, 0..2u64, 0..64usize);
    let of = |(client, seq, acked, hash, reply_bytes)| Step::Call { client, seq, acked, hash, reply_bytes };
    prop_oneof![
        2 => (0..5u128).prop_map(|nonce| Step::Register { nonce }),
        4 => call.prop_map(of),
        12 => close.prop_map(of),
        1 => prop_oneof![0..3u64, 100..400u64].prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A second replica is restored from a snapshot now and then; both and the model agree in every answer, and the two in
    /// every byte.
    #[test]
    fn the_table_does_what_the_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let (mut log, mut model) = (Log::new(SMALL), Model::default());
        let mut other = Log::new(SMALL);
        // What each client believes its session to be; the last one knows none.
        let mut sessions = [0u64; 5];
        for step in &steps {
            match step {
                Step::Register { nonce } => {
                    let told = log.register(*nonce);
                    prop_assert_eq!(told, model.register(log.index, *nonce, log.now));
                    prop_assert_eq!(told, other.register(*nonce));
                    if let Ok(id) = told {
                        sessions[*nonce as usize % 4] = id;
                    }
                }
                Step::Call { client, seq, acked, hash, reply_bytes } => {
                    let id = sessions[*client];
                    let seen = log.call_for(id, *seq, *acked, *hash, *reply_bytes);
                    prop_assert_eq!(&seen, &model.call(log.index, step, id, log.now));
                    prop_assert_eq!(&seen, &other.call_for(id, *seq, *acked, *hash, *reply_bytes));
                }
                Step::Wait { seconds } => {
                    log.now = log.now + Duration::from_secs(*seconds);
                    other.now = log.now;
                }
                Step::Restart => other.table = load(SMALL, &bytes(&other.table)).expect("a table"),
            }
            prop_assert_eq!(log.table.len(), model.sessions.len());
            prop_assert_eq!(log.table.reply_bytes(), model.bytes());
            prop_assert!(log.table.reply_bytes() <= SMALL.reply_bytes);
            prop_assert_eq!(log.table.by_use.len(), log.table.len());
            prop_assert_eq!(log.table.by_nonce.len(), log.table.len());
        }
        prop_assert_eq!(bytes(&log.table), bytes(&other.table));
    }
}
