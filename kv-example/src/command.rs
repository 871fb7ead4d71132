//! What the store is asked for: names, argument counts and numbers are checked here, before any state is touched.

use crate::resp::{self, ProtocolError};
use crate::store::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use std::time::Duration;
use thiserror::Error;

/// Bytes of a client's word that an error message repeats.
const ECHOED_BYTES_MAX: usize = 32;

/// One command; keys and values borrow from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time lives on the stack; a box would be an allocation a request"
)]
pub enum Command<'a> {
    /// `PING [text]`: answered with PONG or the text by whoever gets it.
    Ping(Option<&'a [u8]>),
    /// `ECHO text`
    Echo(&'a [u8]),
    /// `GET key`
    Get(&'a [u8]),
    /// `SET key value [EX seconds | PX milliseconds]`: +OK. With a time the key is absent again when it is over.
    Set(&'a [u8], &'a [u8], Option<Duration>),
    /// `SETV key value`: as SET, but answers with the version that this write made.
    SetV(&'a [u8], &'a [u8]),
    /// `DEL key [key ...]`: the number of keys that were there.
    Del(Keys<'a>),
    /// `INCR key`: the new number.
    Incr(&'a [u8]),
    /// `JOURNAL position`: a page of the calls that this replica has executed, where it keeps a journal.
    Journal(u64),
}

/// The keys of a DEL, one to fifteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys<'a> {
    keys: [&'a [u8]; resp::ARGS_MAX - 1],
    count: usize,
}

impl<'a> Keys<'a> {
    fn new(keys: &[&'a [u8]]) -> Self {
        let mut all = Keys { keys: [&[]; resp::ARGS_MAX - 1], count: 0 };
        for (place, key) in all.keys.iter_mut().zip(keys) {
            *place = key;
            all.count += 1;
        }
        all
    }

    /// The keys in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + Clone + '_ {
        self.keys.iter().take(self.count).copied()
    }
}

/// Why a request is no command. The text follows Redis, so that its clients understand it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// Not RESP, nor the short form.
    #[error("ERR Protocol error: {0}")]
    Protocol(#[from] ProtocolError),
    /// No command has this name.
    #[error("ERR unknown command '{0}'")]
    Unknown(String),
    /// Too few arguments, or too many.
    #[error("ERR wrong number of arguments for '{0}' command")]
    ArgumentCount(&'static str),
    /// SET with options such as NX.
    #[error("ERR syntax error: SET takes a key, a value, and EX or PX with a time; no other options")]
    SetOptions,
    /// EX or PX with something else than a whole number above 0.
    #[error("ERR invalid expire time in 'set' command")]
    ExpireTime,
    /// An empty key, or one over [`KEY_BYTES_MAX`].
    #[error("ERR invalid key: 1 to {KEY_BYTES_MAX} bytes")]
    KeyBytes,
    /// A value over [`VALUE_BYTES_MAX`].
    #[error("ERR string exceeds maximum allowed size ({VALUE_BYTES_MAX} bytes)")]
    ValueBytes,
    /// A number was expected.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
}

impl<'a> Command<'a> {
    /// Whether all keys that it names are such as `is_ours` says.
    pub fn keys_are(&self, is_ours: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Command::Ping(_) | Command::Echo(_) | Command::Journal(_) => true,
            Command::Get(key) | Command::Incr(key) | Command::Set(key, ..) | Command::SetV(key, _) => is_ours(key),
            Command::Del(keys) => keys.iter().all(is_ours),
        }
    }

    /// Reads a request. Borrows; does not allocate unless it fails.
    pub fn parse(request: &'a [u8]) -> Result<Self, CommandError> {
        let args = resp::parse(request)?;
        let Some((&name, rest)) = args.as_slice().split_first() else {
            return Err(ProtocolError::BadCount.into());
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("get") {
            one(rest, "get").and_then(key).map(Command::Get)
        } else if is("set") {
            let (words, options) = rest.split_at_checked(2).unwrap_or((rest, &[]));
            let (key, value) = pair(words, "set")?;
            Ok(Command::Set(key, value, time(options)?))
        } else if is("setv") {
            pair(rest, "setv").map(|(key, value)| Command::SetV(key, value))
        } else if is("incr") {
            one(rest, "incr").and_then(key).map(Command::Incr)
        } else if is("del") {
            if rest.is_empty() {
                return Err(CommandError::ArgumentCount("del"));
            }
            rest.iter().try_for_each(|&item| key(item).map(drop))?;
            Ok(Command::Del(Keys::new(rest)))
        } else if is("ping") {
            match rest {
                [] => Ok(Command::Ping(None)),
                [text] => Ok(Command::Ping(Some(text))),
                _ => Err(CommandError::ArgumentCount("ping")),
            }
        } else if is("echo") {
            one(rest, "echo").map(Command::Echo)
        } else if is("journal") {
            one(rest, "journal").and_then(unsigned).map(Command::Journal)
        } else {
            Err(CommandError::Unknown(printable(name)))
        }
    }
}

fn one<'a>(args: &[&'a [u8]], name: &'static str) -> Result<&'a [u8], CommandError> {
    match args {
        [only] => Ok(only),
        _ => Err(CommandError::ArgumentCount(name)),
    }
}

fn pair<'a>(args: &[&'a [u8]], name: &'static str) -> Result<(&'a [u8], &'a [u8]), CommandError> {
    let &[first, value] = args else { return Err(CommandError::ArgumentCount(name)) };
    if value.len() > VALUE_BYTES_MAX {
        return Err(CommandError::ValueBytes);
    }
    Ok((key(first)?, value))
}

/// The options of a SET.
fn time(options: &[&[u8]]) -> Result<Option<Duration>, CommandError> {
    let (name, number) = match options {
        [] => return Ok(None),
        [name, number] => (name, number),
        _ => return Err(CommandError::SetOptions),
    };
    let of = match () {
        () if name.eq_ignore_ascii_case(b"ex") => Duration::from_secs,
        () if name.eq_ignore_ascii_case(b"px") => Duration::from_millis,
        () => return Err(CommandError::SetOptions),
    };
    let number = unsigned(number).ok().filter(|number| *number > 0).ok_or(CommandError::ExpireTime)?;
    Ok(Some(of(number)))
}

fn key(bytes: &[u8]) -> Result<&[u8], CommandError> {
    if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX { Err(CommandError::KeyBytes) } else { Ok(bytes) }
}

fn unsigned(bytes: &[u8]) -> Result<u64, CommandError> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(CommandError::NotAnInteger)
}

/// What a client sent, fit for one line of an error message.
fn printable(bytes: &[u8]) -> String {
    let shown = bytes.get(..ECHOED_BYTES_MAX).unwrap_or(bytes);
    shown.iter().map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(words: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        resp::emit_command(words, &mut out);
        out
    }

    fn refusal(words: &[&[u8]]) -> String {
        Command::parse(&request(words)).expect_err("refused").to_string()
    }

    #[test]
    fn names_are_read_in_either_case() {
        assert_eq!(Command::parse(&request(&[b"GeT", b"k"])), Ok(Command::Get(b"k")));
        assert_eq!(Command::parse(&request(&[b"SETV", b"k", b""])), Ok(Command::SetV(b"k", b"")));
        assert_eq!(Command::parse(&request(&[b"journal", b"7"])), Ok(Command::Journal(7)));
        let times = [(&b"Ex"[..], &b"3"[..], 3000), (b"pX", b"250", 250)];
        for (unit, number, ms) in times {
            let set = Command::Set(b"k", b"v", Some(Duration::from_millis(ms)));
            assert_eq!(Command::parse(&request(&[b"SET", b"k", b"v", unit, number])), Ok(set));
        }
        let request = request(&[b"del", b"a", b"b"]);
        let Ok(Command::Del(keys)) = Command::parse(&request) else { panic!("a DEL") };
        assert_eq!(keys.iter().collect::<Vec<_>>(), [&b"a"[..], b"b"]);
    }

    #[test]
    fn refusals_speak_as_redis_does() {
        assert_eq!(refusal(&[b"get"]), "ERR wrong number of arguments for 'get' command");
        assert_eq!(refusal(&[b"SET", b"k"]), "ERR wrong number of arguments for 'set' command");
        assert_eq!(refusal(&[b"del"]), "ERR wrong number of arguments for 'del' command");
        assert_eq!(refusal(&[b"FLUSHALL"]), "ERR unknown command 'FLUSHALL'");
        assert_eq!(refusal(&[b"set", b"k", b"v", b"ex", b"0"]), "ERR invalid expire time in 'set' command");
        assert_eq!(refusal(&[b"set", b"k", b"v", b"px", b"1.5"]), "ERR invalid expire time in 'set' command");
        assert!(refusal(&[b"set", b"k", b"v", b"ex"]).starts_with("ERR syntax error"));
        assert!(refusal(&[b"set", b"k", b"v", b"ex", b"1", b"nx"]).starts_with("ERR syntax error"));
        assert_eq!(refusal(&[b"journal", b"-1"]), "ERR value is not an integer or out of range");
        assert!(refusal(&[b"set", b"k", b"v", b"NX"]).starts_with("ERR syntax error"));
        assert!(refusal(&[b"get", b""]).starts_with("ERR invalid key"));
        assert!(refusal(&[b"get", &[b'k'; KEY_BYTES_MAX + 1]]).starts_with("ERR invalid key"));
        assert!(refusal(&[b"set", b"k", &vec![0; VALUE_BYTES_MAX + 1]]).starts_with("ERR string exceeds"));
        assert_eq!(
            Command::parse(b"hello").unwrap_err().to_string(),
            "ERR Protocol error: expected '*', the start of a command"
        );
    }

    #[test]
    fn a_refusal_is_one_line_whatever_the_name() {
        assert_eq!(refusal(&[b"a\r\n+OK\r\n\xff"]), "ERR unknown command 'a??+OK???'");
        assert!(refusal(&[&[b'x'; 4000]]).len() < 80);
    }

    #[test]
    fn the_largest_key_and_value_pass() {
        let (key, value) = (vec![b'k'; KEY_BYTES_MAX], vec![0; VALUE_BYTES_MAX]);
        assert_eq!(Command::parse(&request(&[b"set", &key, &value])), Ok(Command::Set(&key, &value, None)));
    }

    proptest! {
        #[test]
        fn arbitrary_words_never_panic(
            words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..20),
        ) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let _ = Command::parse(&request(&words));
        }
    }
}
