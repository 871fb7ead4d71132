//! RESP commands on the store: what clients get that are not ours.

use crate::command::Command;
use crate::error::KvError;
use crate::resp::Reply;
use crate::store::{Store, Timeline, Version};
use trimaran_rpc::log_time::LogTime;

/// Executes a command of the log and appends its reply.
///
/// `JOURNAL` is refused: it is about one replica, so the answers would differ.
pub fn execute(store: &mut Store, at: &mut impl Timeline, command: &Command<'_>, reply: &mut Vec<u8>) {
    match *command {
        Command::Set(key, value, ttl) => match store.put(at, key, value, ttl) {
            Ok(_) => Reply::OK.emit(reply),
            Err(error) => refuse(&error, reply),
        },
        Command::SetV(key, value) => match store.put(at, key, value, None) {
            Ok(Version(version)) => integer(version).emit(reply),
            Err(error) => refuse(&error, reply),
        },
        Command::Incr(key) => match store.incr(at, key, 1) {
            Ok(sum) => Reply::Integer(sum).emit(reply),
            Err(error) => refuse(&error, reply),
        },
        Command::Del(keys) => match store.del(at, keys.iter()) {
            Ok(removed) => integer(removed).emit(reply),
            Err(error) => refuse(&error, reply),
        },
        Command::Get(_) | Command::Ping(_) | Command::Echo(_) => answer(store, at.now(), command, reply),
        Command::Journal(_) => {
            Reply::Error("ERR this command asks one replica: send it under policy 0 or 1").emit(reply);
        }
    }
}

/// Answers a command that changes nothing; any other is refused.
pub fn answer(store: &Store, now: LogTime, command: &Command<'_>, reply: &mut Vec<u8>) {
    match *command {
        Command::Get(key) => store.value(now, key).map_or(Reply::Nil, Reply::Bulk).emit(reply),
        Command::Ping(None) => Reply::Simple("PONG").emit(reply),
        Command::Ping(Some(text)) | Command::Echo(text) => Reply::Bulk(text).emit(reply),
        _ => Reply::Error("ERR a write must be replicated: send it under policy 2").emit(reply),
    }
}

/// As Redis says it, where it has a word for it.
pub fn refuse(error: &KvError, reply: &mut Vec<u8>) {
    match error {
        KvError::Full => Reply::Error("OOM command not allowed when used memory > 'maxmemory'").emit(reply),
        KvError::TimersFull => Reply::Error("OOM too many keys have a time to live").emit(reply),
        KvError::NotANumber => Reply::Error("ERR value is not an integer or out of range").emit(reply),
        KvError::Overflow => Reply::Error("ERR increment or decrement would overflow").emit(reply),
        KvError::OtherShard => {
            Reply::Error("CROSSSLOT a key of this command is of another shard than the one asked").emit(reply)
        }
        error => Reply::Error(&format!("ERR {error}")).emit(reply),
    }
}

/// RESP numbers are signed; a count of writes stays below their limit for 292,000 years at a million a second.
fn integer(number: u64) -> Reply<'static> {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}
