//! Conditions and operations of `kv txn` as people type them.
//!
//! ```text
//! condition   KEY exists | KEY absent | KEY version N | KEY == VALUE      also != < <= > >=
//! operations  put KEY VALUE [ttl TIME] ; get KEY ; del KEY ; incr KEY [N]
//! ```
//!
//! Words end at spaces and at `;`. A word with either in it, or an empty one, stands in quotes, `'...'` or `"..."`, within
//! which nothing else is special.

use crate::txn::{Comparison, Guard, Op, Test};
use std::time::Duration;
use trimaran_rpc::program::config::units;
use trimaran_rpc::program::error::Error;

/// What `kv txn --help` ends with.
pub const HELP: &str = "\
A condition:
  KEY exists | KEY absent | KEY version N | KEY == VALUE   (also != < <= > >=; numbers compare as numbers)
Operations, separated by `;`, in order:
  put KEY VALUE [ttl TIME] | get KEY | del KEY | incr KEY [N]
Words with spaces stand in quotes. For example:
  kv txn --if 'stock >= 1' --then 'incr stock -1; put order:7 ada' --else 'get stock'";

const CONDITIONS: &str =
    "a condition is `KEY exists`, `KEY absent`, `KEY version N` or `KEY == VALUE` (also != < <= > >=)";
const OPERATIONS: &str = "an operation is `put KEY VALUE [ttl TIME]`, `get KEY`, `del KEY` or `incr KEY [N]`";

/// A time above zero, such as `500ms`.
pub fn time(text: &str) -> Option<Duration> {
    units::duration(text).filter(|time| !time.is_zero())
}

/// Reads one condition.
///
/// # Errors
/// E0215, which says what is wrong and how it is written.
pub fn guard(text: &str) -> Result<Guard, Error> {
    let words = match split(text)?.as_slice() {
        [words] => words.clone(),
        _ => return Err(wrong(text, "is not one condition", CONDITIONS)),
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (key, test) = match words.as_slice() {
        [key, "exists"] => (key, Test::Exists),
        [key, "absent"] => (key, Test::Absent),
        [key, "version", number] => {
            let number = number.parse().map_err(|_| wrong(number, "is no version", "a version is a whole number"))?;
            (key, Test::Version(number))
        }
        [key, sign, value] => match comparison(sign) {
            Some(comparison) => (key, Test::Value(comparison, value.as_bytes().to_vec())),
            None => return Err(wrong(text, "is no condition", CONDITIONS)),
        },
        _ => return Err(wrong(text, "is no condition", CONDITIONS)),
    };
    Ok(Guard { key: key.as_bytes().to_vec(), test })
}

fn comparison(sign: &str) -> Option<Comparison> {
    Some(match sign {
        "==" | "=" => Comparison::Equal,
        "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// Reads operations, none at all included.
///
/// # Errors
/// E0215, which says what is wrong and how it is written.
pub fn ops(text: &str) -> Result<Vec<Op>, Error> {
    split(text)?.iter().map(|words| op(&words.iter().map(String::as_str).collect::<Vec<_>>())).collect()
}

fn op(words: &[&str]) -> Result<Op, Error> {
    let bytes = |word: &str| word.as_bytes().to_vec();
    Ok(match *words {
        ["put", key, value] => Op::Put { key: bytes(key), value: bytes(value), ttl: None },
        ["put", key, value, "ttl", text] => {
            let ttl = time(text).ok_or_else(|| wrong(text, "is no time to live", "write 500ms or 30s, above zero"))?;
            Op::Put { key: bytes(key), value: bytes(value), ttl: Some(ttl) }
        }
        ["get", key] => Op::Get { key: bytes(key) },
        ["del", key] => Op::Del { key: bytes(key) },
        ["incr", key] => Op::Incr { key: bytes(key), by: 1 },
        ["incr", key, by] => {
            let by = by.parse().map_err(|_| wrong(by, "cannot be added", "write a whole number of 64 bits"))?;
            Op::Incr { key: bytes(key), by }
        }
        _ => return Err(wrong(&words.join(" "), "is no operation", OPERATIONS)),
    })
}

/// The words of each part between `;`; parts without words are left out.
fn split(text: &str) -> Result<Vec<Vec<String>>, Error> {
    let (mut parts, mut words) = (Vec::new(), Vec::new());
    let mut chars = text.chars().peekable();
    while let Some(&first) = chars.peek() {
        match first {
            ';' => {
                chars.next();
                parts.push(std::mem::take(&mut words));
            }
            space if space.is_whitespace() => drop(chars.next()),
            quote @ ('\'' | '"') => {
                chars.next();
                let mut word = String::new();
                loop {
                    match chars.next() {
                        Some(end) if end == quote => break,
                        Some(inner) => word.push(inner),
                        None => return Err(wrong(text, "ends inside of quotes", "close them")),
                    }
                }
                if chars.peek().is_some_and(|&next| next != ';' && !next.is_whitespace()) {
                    return Err(wrong(text, "goes on behind a closing quote", "put the whole word into quotes"));
                }
                words.push(word);
            }
            _ => {
                let mut word = String::new();
                while let Some(&inner) = chars.peek().filter(|&&next| next != ';' && !next.is_whitespace()) {
                    word.push(inner);
                    chars.next();
                }
                words.push(word);
            }
        }
    }
    parts.push(words);
    parts.retain(|words| !words.is_empty());
    Ok(parts)
}

fn wrong(text: &str, what: &str, help: &str) -> Error {
    Error::Usage { problem: format!("`{text}` {what}"), help: help.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read() {
        let read = |text: &str| guard(text).map(|guard| (String::from_utf8(guard.key).expect("text"), guard.test)).ok();
        let value = |comparison, value: &str| Test::Value(comparison, value.as_bytes().to_vec());
        for (text, key, test) in [
            ("a exists", "a", Test::Exists),
            (" a  absent ", "a", Test::Absent),
            ("a version 12", "a", Test::Version(12)),
            ("a == 1", "a", value(Comparison::Equal, "1")),
            ("a = 1", "a", value(Comparison::Equal, "1")),
            ("a != ''", "a", value(Comparison::NotEqual, "")),
            ("'a b' < \"it's; x\"", "a b", value(Comparison::Less, "it's; x")),
            ("a <= -3", "a", value(Comparison::LessOrEqual, "-3")),
            ("a > exists", "a", value(Comparison::Greater, "exists")),
            ("a >= 1;", "a", value(Comparison::GreaterOrEqual, "1")),
        ] {
            assert_eq!(read(text), Some((key.to_owned(), test)), "{text}");
        }
    }

    #[test]
    fn operations_are_read_in_order() {
        let put = |key: &str, value: &str, ttl| Op::Put { key: key.into(), value: value.into(), ttl };
        let text = "put a 'two words' ;get a;; del 'b;c'; incr n; incr n -5; put t '' ttl 500ms";
        let expected = vec![
            put("a", "two words", None),
            Op::Get { key: b"a".to_vec() },
            Op::Del { key: b"b;c".to_vec() },
            Op::Incr { key: b"n".to_vec(), by: 1 },
            Op::Incr { key: b"n".to_vec(), by: -5 },
            put("t", "", Some(Duration::from_millis(500))),
        ];
        assert_eq!(ops(text).ok(), Some(expected));
        assert_eq!(ops(" ; ").ok(), Some(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said_with_how_it_is_written() {
        let said = |error: Error| match error {
            Error::Usage { problem, help } => (problem, help),
            other => panic!("{other:?}"),
        };
        for (text, problem) in [
            ("a", "`a` is no condition"),
            ("", "`` is not one condition"),
            ("a exists; b exists", "`a exists; b exists` is not one condition"),
            ("a ~ 1", "`a ~ 1` is no condition"),
            ("a version one", "`one` is no version"),
            ("a == 'x", "`a == 'x` ends inside of quotes"),
            ("a == 'x'y", "`a == 'x'y` goes on behind a closing quote"),
        ] {
            let (said, help) = said(guard(text).expect_err(text));
            assert_eq!(said, problem);
            assert!(!help.is_empty());
        }
        for (text, problem) in [
            ("put a", "`put a` is no operation"),
            ("get a; set b 1", "`set b 1` is no operation"),
            ("put a b ttl 0s", "`0s` is no time to live"),
            ("incr a one", "`one` cannot be added"),
        ] {
            assert_eq!(said(ops(text).expect_err(text)).0, problem);
        }
    }

    /// The example of the help text is one that works.
    #[test]
    fn the_help_can_be_typed() {
        let example = HELP.lines().last().expect("an example");
        let quoted: Vec<&str> = example.split('\'').skip(1).step_by(2).collect();
        assert!(matches!(quoted.as_slice(), [condition, then, otherwise]
            if guard(condition).is_ok() && ops(then).is_ok_and(|ops| ops.len() == 2) && ops(otherwise).is_ok()));
    }
}
