//! How arguments and replies of typed methods become bytes, behind a small trait so that the format has one place.

mod depth;

use serde::{Deserialize, Serialize};

/// How many levels a value may nest when it is read. Each struct, tuple, enum, option, sequence and map is one, also when it
/// is empty; numbers, text, bytes and boxes are none. A limit because types that contain themselves are read by recursion.
pub const MAX_DEPTH: u32 = 128;
/// How deep an item of a saved state may nest.
const ITEM_DEPTH: u32 = 4 * MAX_DEPTH;

/// Why bytes could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The value has no form in this format: a sequence of unknown length, say.
    #[error("cannot be encoded: {0}")]
    Encode(String),
    /// The bytes are not a value of the expected type, or one that nests deeper than [`MAX_DEPTH`].
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// The value ended before the bytes did.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// A byte format of serde values. The same value gives the same bytes, whoever encodes it and when.
pub trait Codec {
    /// Appends the value's bytes to `out`.
    ///
    /// # Errors
    /// [`CodecError::Encode`]; `out` may then hold a part of the value.
    fn encode_to<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads one value from the front of `bytes` and returns what follows it. Text and bytes may borrow from the input.
    ///
    /// # Errors
    /// [`CodecError::Decode`]; any input is fine.
    fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError>;
}

/// [postcard](https://postcard.jamesmunns.com): variable-length numbers, no names, a stable specification. What typed
/// methods use.
#[derive(Debug, Clone, Copy)]
pub struct Postcard;

impl Codec for Postcard {
    fn encode_to<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let written = std::mem::take(out);
        *out = postcard::to_extend(value, written).map_err(|error| CodecError::Encode(error.to_string()))?;
        Ok(())
    }

    fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
        depth::take(bytes, MAX_DEPTH)
    }
}

/// Takes an item of a saved state: what came in a request may be kept inside of something, so that it may nest deeper there.
pub(crate) fn take_item<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    depth::take(bytes, ITEM_DEPTH)
}

/// The value's bytes in the format of typed methods.
///
/// # Errors
/// [`CodecError::Encode`] for values without a form, such as a map of unknown length.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode_to(value, &mut out)?;
    Ok(out)
}

/// As [`encode`], appended to `out`.
///
/// # Errors
/// As [`encode`]; `out` is then empty.
pub fn encode_to<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    Postcard::encode_to(value, out)
}

/// The value that `bytes` are, all of them.
///
/// # Errors
/// [`CodecError::Decode`], or [`CodecError::Trailing`] where the value is followed by something else.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let (value, rest) = Postcard::take(bytes)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_borrow_from_the_message() {
        let bytes = encode(&("key", &[1u8, 2, 3][..], Some(7u64))).unwrap();
        let (key, value, number): (&str, &[u8], Option<u64>) = decode(&bytes).unwrap();
        assert_eq!((key, value, number), ("key", &[1u8, 2, 3][..], Some(7)));
    }

    /// What a newer or foreign client appends must not be taken for a call that is understood.
    #[test]
    fn what_follows_a_value_is_refused() {
        let mut bytes = encode(&5u64).unwrap();
        bytes.push(0);
        assert_eq!(decode::<u64>(&bytes), Err(CodecError::Trailing(1)));
        assert!(matches!(decode::<String>(&[200, 1, 65]), Err(CodecError::Decode(_))));
    }

    /// A length from the network reserves no memory by itself.
    #[test]
    fn an_announced_length_is_not_believed() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(decode::<Vec<u64>>(&huge).is_err());
        assert!(decode::<&[u8]>(&huge).is_err());
    }
}
