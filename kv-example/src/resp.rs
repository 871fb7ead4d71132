//! RESP, the wire form of commands and replies: one request carries one command buffer, one reply carries one value.
//!
//! ```text
//! *3\r\n$3\r\nSET\r\n$4\r\nname\r\n$3\r\nada\r\n      what redis clients send: every number is checked
//! ..\r\n..\r\nset\r\n..\r\nname\r\n..\r\nada           the short form: count and length lines may say anything
//! ..\r\n..\r\nset\r\n..\r\nname\r\nada                 its value may even come without a length line
//! ```
//!
//! A buffer is read as RESP first. Only where that fails, and only for `get` and `set`, the short form is tried, which
//! takes the 3rd line as the command, the 5th as the key and what follows as the value. A complete RESP command with
//! bytes behind it is refused: one of the two would be lost.
//!
//! Nothing here allocates for a request, and no input panics: arguments borrow from the buffer.

use std::io::Write;
use thiserror::Error;

/// Most arguments of one command, its name included.
pub const ARGS_MAX: usize = 16;

/// Digits read of a count or a length; a longer number is refused before it is computed.
const DIGITS_MAX: usize = 9;

/// Why a buffer is neither RESP nor the short form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The buffer does not begin with `*`.
    #[error("expected '*', the start of a command")]
    NoArray,
    /// The count after `*` is no number, or under 1.
    #[error("invalid multibulk length")]
    BadCount,
    /// More arguments than [`ARGS_MAX`].
    #[error("too many arguments")]
    TooMany,
    /// An argument does not begin with `$`.
    #[error("expected '$', the start of an argument")]
    NoBulk,
    /// The length after `$` is no number, or negative.
    #[error("invalid bulk length")]
    BadLength,
    /// A length says more than the buffer holds.
    #[error("the buffer ends inside an argument")]
    Truncated,
    /// An argument does not end where its length says.
    #[error("an argument is longer than its length says")]
    BadEnd,
    /// Bytes follow a complete command.
    #[error("bytes after the end of the command")]
    Trailing,
    /// A reply of a type that this protocol does not use, or damaged.
    #[error("not a reply")]
    NotAReply,
}

/// The arguments of one command, name first; at least one, at most [`ARGS_MAX`].
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    items: [&'a [u8]; ARGS_MAX],
    count: usize,
}

impl<'a> Args<'a> {
    fn new(items: &[&'a [u8]]) -> Self {
        let mut args = Args { items: [&[]; ARGS_MAX], count: 0 };
        items.iter().for_each(|item| args.push(item));
        args
    }

    /// Ignored beyond [`ARGS_MAX`]: the parser checks the count first.
    fn push(&mut self, item: &'a [u8]) {
        if let Some(place) = self.items.get_mut(self.count) {
            *place = item;
            self.count += 1;
        }
    }

    /// Name and arguments in order.
    pub fn as_slice(&self) -> &[&'a [u8]] {
        self.items.get(..self.count).unwrap_or(&[])
    }
}

/// Reads one command buffer.
pub fn parse(buffer: &[u8]) -> Result<Args<'_>, ProtocolError> {
    let mut args = Args::new(&[]);
    match parse_strict(buffer, &mut args) {
        Ok(()) => Ok(args),
        Err(ProtocolError::Trailing) if is_complete(&args) => Err(ProtocolError::Trailing),
        Err(error) => parse_short(buffer).ok_or(error),
    }
}

/// Whether `args` is a whole `get` or `set`, so that bytes behind it cannot belong to the short form.
fn is_complete(args: &Args<'_>) -> bool {
    match args.as_slice() {
        [name, ..] if name.eq_ignore_ascii_case(b"get") => args.count >= 2,
        [name, ..] if name.eq_ignore_ascii_case(b"set") => args.count >= 3,
        _ => true,
    }
}

fn parse_strict<'a>(buffer: &'a [u8], args: &mut Args<'a>) -> Result<(), ProtocolError> {
    let (line, mut rest) = split_line(buffer).ok_or(ProtocolError::NoArray)?;
    let count = line.strip_prefix(b"*").ok_or(ProtocolError::NoArray)?;
    let count = parse_number(count).filter(|&count| count >= 1).ok_or(ProtocolError::BadCount)?;
    if count > ARGS_MAX {
        return Err(ProtocolError::TooMany);
    }
    for nth in 1..=count {
        if rest.first().is_some_and(|&byte| byte != b'$') {
            return Err(ProtocolError::NoBulk);
        }
        let (line, after) = split_line(rest).ok_or(ProtocolError::Truncated)?;
        let length = line.get(1..).and_then(parse_number).ok_or(ProtocolError::BadLength)?;
        let item = after.get(..length).ok_or(ProtocolError::Truncated)?;
        rest = after.get(length..).unwrap_or(&[]);
        match rest.strip_prefix(b"\r\n") {
            Some(next) => rest = next,
            // The last argument may end with the buffer: the message's own length closes it.
            None if rest.is_empty() && nth == count => {}
            None => return Err(ProtocolError::BadEnd),
        }
        args.push(item);
    }
    if rest.is_empty() { Ok(()) } else { Err(ProtocolError::Trailing) }
}

/// The short form: `get` and `set` only, lower or upper case.
fn parse_short(buffer: &[u8]) -> Option<Args<'_>> {
    let (_count, rest) = split_line(buffer)?;
    let (_length, rest) = split_line(rest)?;
    let (name, rest) = split_line(rest)?;
    let (_length, rest) = split_line(rest)?;
    if name.eq_ignore_ascii_case(b"get") {
        let key = rest.strip_suffix(b"\r\n").unwrap_or(rest);
        let plain = !key.is_empty() && split_line(key).is_none();
        return plain.then(|| Args::new(&[name, key]));
    }
    if !name.eq_ignore_ascii_case(b"set") {
        return None;
    }
    let (key, rest) = split_line(rest)?;
    let value = match split_line(rest.strip_suffix(b"\r\n").unwrap_or(rest)) {
        Some((_length, value)) => value,
        None => rest.strip_suffix(b"\r\n").unwrap_or(rest),
    };
    // A lone length line is a value that never came, not a value.
    let is_length = value.strip_prefix(b"$").is_some_and(|digits| parse_number(digits).is_some());
    (!key.is_empty() && !value.is_empty() && !is_length).then(|| Args::new(&[name, key, value]))
}

/// The bytes before the first CRLF and those after it.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((bytes.get(..end)?, bytes.get(end + 2..)?))
}

/// An unsigned decimal of at most [`DIGITS_MAX`] digits.
fn parse_number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    digits.iter().try_fold(0, |sum: usize, &byte| byte.is_ascii_digit().then(|| sum * 10 + usize::from(byte - b'0')))
}

/// Appends the command buffer for `args` to `out`.
pub fn emit_command(args: &[&[u8]], out: &mut Vec<u8>) {
    emit_header(b'*', args.len() as u64, out);
    for arg in args {
        emit_bulk(arg, out);
    }
}

fn emit_header(kind: u8, number: u64, out: &mut Vec<u8>) {
    out.push(kind);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{number}\r\n");
}

fn emit_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    emit_header(b'$', bytes.len() as u64, out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// One RESP value, as replies carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+OK`: a short text without line breaks.
    Simple(&'a str),
    /// `$n`: bytes.
    Bulk(&'a [u8]),
    /// `$-1`: there is no such key.
    Nil,
    /// `:n`: a number.
    Integer(i64),
    /// `-ERR ...`: refused, nothing changed; the text begins with its kind, `ERR` or `OOM`.
    Error(&'a str),
}

impl<'a> Reply<'a> {
    /// The answer to a command that has nothing to tell.
    pub const OK: Reply<'static> = Reply::Simple("OK");

    /// Appends the value to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Bulk(bytes) => emit_bulk(bytes, out),
            Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
            // Writing to a Vec cannot fail.
            Reply::Integer(number) => drop(write!(out, ":{number}\r\n")),
            Reply::Simple(text) => drop(write!(out, "+{text}\r\n")),
            Reply::Error(text) => drop(write!(out, "-{text}\r\n")),
        }
    }

    /// Reads one value; the buffer holds it and nothing else.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, ProtocolError> {
        let (line, rest) = split_line(buffer).ok_or(ProtocolError::NotAReply)?;
        let (&kind, line) = line.split_first().ok_or(ProtocolError::NotAReply)?;
        if kind == b'$' && line != b"-1" {
            let length = parse_number(line).ok_or(ProtocolError::BadLength)?;
            let bytes = rest.get(..length).ok_or(ProtocolError::Truncated)?;
            return if rest.get(length..) == Some(b"\r\n") {
                Ok(Reply::Bulk(bytes))
            } else {
                Err(ProtocolError::BadEnd)
            };
        }
        if !rest.is_empty() {
            return Err(ProtocolError::Trailing);
        }
        let text = std::str::from_utf8(line).map_err(|_| ProtocolError::NotAReply)?;
        match kind {
            b'$' => Ok(Reply::Nil),
            b'+' => Ok(Reply::Simple(text)),
            b'-' => Ok(Reply::Error(text)),
            b':' => text.parse().map(Reply::Integer).map_err(|_| ProtocolError::NotAReply),
            _ => Err(ProtocolError::NotAReply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn args(buffer: &[u8]) -> Result<Vec<&[u8]>, ProtocolError> {
        parse(buffer).map(|args| args.as_slice().to_vec())
    }

    #[test]
    fn commands_of_redis_clients() {
        let set = b"*3\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n$2\r\nxx\r\n";
        assert_eq!(args(set), Ok(vec![&b"SET"[..], b"0123456789", b"xx"]));
        assert_eq!(args(b"*1\r\n$4\r\nPING\r\n"), Ok(vec![&b"PING"[..]]));
        assert_eq!(args(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n"), Ok(vec![&b"set"[..], b"k", b"\r\n\r\n"]));
        assert_eq!(args(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$0\r\n\r\n"), Ok(vec![&b"set"[..], b"k", b""]));
        assert_eq!(args(b"*2\r\n$3\r\nGET\r\n$1\r\nk"), Ok(vec![&b"GET"[..], b"k"]), "no CRLF at the very end");
    }

    #[test]
    fn the_short_form_ignores_count_and_length_lines() {
        let (get, set) = (vec![&b"get"[..], b"key"], vec![&b"set"[..], b"key", b"value"]);
        assert_eq!(args(b"..\r\n..\r\nget\r\n..\r\nkey"), Ok(get.clone()));
        assert_eq!(args(b"\r\n\r\nget\r\n\r\nkey\r\n"), Ok(get.clone()));
        assert_eq!(args(b"*7\r\n$9\r\nget\r\n$1\r\nkey\r\n"), Ok(get));
        assert_eq!(args(b"..\r\n..\r\nset\r\n..\r\nkey\r\n..\r\nvalue"), Ok(set.clone()));
        assert_eq!(args(b"..\r\n..\r\nset\r\n..\r\nkey\r\n..\r\nvalue\r\n"), Ok(set.clone()));
        assert_eq!(args(b"*1\r\n$1\r\nset\r\n$1\r\nkey\r\n$1\r\nvalue\r\n"), Ok(set.clone()));
        assert_eq!(args(b"*9\r\n$9\r\nset\r\n$9\r\nkey\r\n$9\r\nvalue"), Ok(set));
    }

    #[test]
    fn the_short_form_may_leave_the_value_length_out() {
        let set = vec![&b"set"[..], b"key", b"value"];
        assert_eq!(args(b"*3\r\n$3\r\nset\r\n$3\r\nkey\r\nvalue"), Ok(set.clone()));
        assert_eq!(args(b"*3\r\n$3\r\nset\r\n$3\r\nkey\r\nvalue\r\n"), Ok(set.clone()));
        assert_eq!(args(b"..\r\n..\r\nset\r\n..\r\nkey\r\nvalue"), Ok(set));
    }

    #[test]
    fn a_count_that_says_less_than_there_is_hides_no_second_command() {
        assert_eq!(args(b"*2\r\n$3\r\nset\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"), Ok(vec![&b"set"[..], b"key", b"value"]));
        let two = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\n2\r\n";
        assert_eq!(args(two), Err(ProtocolError::Trailing));
        assert_eq!(args(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n"), Err(ProtocolError::Trailing));
    }

    #[test]
    fn garbage_is_refused_with_its_reason() {
        let cases: [(&[u8], ProtocolError); 14] = [
            (b"", ProtocolError::NoArray),
            (b"hello", ProtocolError::NoArray),
            (b"PING\r\n", ProtocolError::NoArray),
            (&[0; 40], ProtocolError::NoArray),
            (b"*0\r\n", ProtocolError::BadCount),
            (b"*-1\r\n", ProtocolError::BadCount),
            (b"*99999999999999999999\r\n", ProtocolError::BadCount),
            (b"*17\r\n", ProtocolError::TooMany),
            (b"*1\r\nPING\r\n", ProtocolError::NoBulk),
            (b"*1\r\n$-1\r\n", ProtocolError::BadLength),
            (b"*1\r\n$4294967299\r\nPING\r\n", ProtocolError::BadLength),
            (b"*1\r\n$3\r\nPING\r\n", ProtocolError::BadEnd),
            (b"*1\r\n$5\r\nPING\r\n", ProtocolError::BadEnd),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\n", ProtocolError::Truncated),
        ];
        for (buffer, error) in cases {
            assert_eq!(args(buffer), Err(error), "{}", buffer.escape_ascii());
        }
    }

    #[test]
    fn replies_have_their_literal_bytes() {
        let cases: [(Reply<'_>, &[u8]); 6] = [
            (Reply::OK, b"+OK\r\n"),
            (Reply::Bulk(b"a\r\nb"), b"$4\r\na\r\nb\r\n"),
            (Reply::Bulk(b""), b"$0\r\n\r\n"),
            (Reply::Nil, b"$-1\r\n"),
            (Reply::Integer(i64::MIN), b":-9223372036854775808\r\n"),
            (Reply::Error("ERR no"), b"-ERR no\r\n"),
        ];
        for (reply, bytes) in cases {
            let mut out = Vec::new();
            reply.emit(&mut out);
            assert_eq!(out, bytes);
            assert_eq!(Reply::parse(bytes), Ok(reply));
        }
        assert_eq!(Reply::parse(b"$5\r\nab\r\n"), Err(ProtocolError::Truncated));
        assert_eq!(Reply::parse(b":1\r\n:2\r\n"), Err(ProtocolError::Trailing));
        assert_eq!(Reply::parse(b"\r\n"), Err(ProtocolError::NotAReply));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse(&bytes), Reply::parse(&bytes));
        }

        #[test]
        fn nearly_valid_bytes_never_panic(
            parts in proptest::collection::vec(
                prop::sample::select(vec!["*", "$", "3", "-1", "99999999", "\r\n", "\r", "\n", "set", "get", "k"]), 0..24),
        ) {
            let text = parts.concat();
            let _ = (parse(text.as_bytes()), Reply::parse(text.as_bytes()));
        }

        #[test]
        fn what_is_emitted_is_read_back(
            items in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..=ARGS_MAX),
        ) {
            let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
            let mut buffer = Vec::new();
            emit_command(&items, &mut buffer);
            prop_assert_eq!(args(&buffer), Ok(items));
        }
    }
}
