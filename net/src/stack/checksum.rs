//! The Internet checksum: the ones' complement of the ones' complement sum of 16-bit words (RFC 1071).
//!
//! Sums are kept in this machine's order of bytes, four bytes at a time: carries wrap around, so that neither changes the result.

use std::net::Ipv4Addr;

/// The sum of a message that is whole: of all its words and its own checksum.
const GOOD: u16 = 0xFFFF;

/// A sum that can still grow. 2^32 words fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// With `bytes` added; they begin a word, and a last odd byte is followed by a zero. So only the last addition may be of an odd
    /// number.
    #[inline]
    pub(super) fn add(self, bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Sum(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// The sum of UDP's pseudo header.
    #[inline]
    pub(super) fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: u16) -> Sum {
        let [high, low] = length.to_be_bytes();
        Sum::default().add(&src.octets()).add(&dst.octets()).add(&[0, protocol, high, low])
    }

    /// The message is whole, as far as a sum can tell.
    #[inline]
    pub(super) fn is_good(self) -> bool {
        self.fold() == GOOD
    }

    /// The checksum, as it is written, of what was added with zeroes in its place.
    #[inline]
    pub(super) fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The sum itself, as it is written for somebody else to go on with.
    #[inline]
    pub(super) fn sum(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    #[inline]
    fn fold(self) -> u16 {
        let sum = (self.0 & 0xFFFF_FFFF) + (self.0 >> 32);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        sum as u16 // three folds leave no carry of 33 bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// As by the book: word by word, most significant byte first, every carry added at once.
        #[test]
        fn sums_as_by_the_book(bytes in prop::collection::vec(any::<u8>(), 0..1600), cut in 0..100usize) {
            let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
            let by_the_book = words.fold(0, |sum, word| { let sum = sum + word; (sum & 0xFFFF) + (sum >> 16) });
            let (first, rest) = bytes.split_at((cut * 2).min(bytes.len()));
            let sum = Sum::default().add(first).add(rest);
            prop_assert_eq!(sum.checksum(), (!(by_the_book as u16)).to_be_bytes());
            prop_assert_eq!(sum.is_good(), by_the_book == 0xFFFF);
        }
    }

    #[test]
    fn carries_wrap_around_however_many_there_are() {
        assert!(Sum::default().add(&[0xFF; 65_534]).is_good());
        assert!(Sum(u64::MAX).is_good() && !Sum(0).is_good());
        assert_eq!(Sum(u64::MAX - 1).fold(), 0xFFFE);
        // The one that needs every fold.
        assert_eq!(Sum(0x0001_0000_FFFF_FFFF).fold(), 1);
    }
}
