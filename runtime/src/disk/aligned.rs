//! Buffers that a device can write from and read into without a copy.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What offsets and lengths of all operations are multiples of, and buffers are aligned to. In bytes: no disk in use has larger
/// blocks.
pub const BLOCK_BYTES: usize = 4096;

/// A buffer of whole blocks, aligned to one. It goes with a write or read and comes back with its completion: keep a few
/// and nothing is allocated any more.
pub struct Aligned {
    /// A block longer than needed, so that an aligned place is in it. Never resized, so that place does not move.
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Aligned {
    /// A buffer of zeroes, of `bytes` rounded up to whole blocks, at least one. Allocates.
    pub fn zeroed(bytes: usize) -> Aligned {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        let memory = vec![0; bytes + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "an aligned byte is among the first 4096");
        Aligned { memory, start, bytes }
    }

    /// The most that [`Aligned::set_bytes`] can make of it.
    pub fn capacity_bytes(&self) -> usize {
        self.memory.len() - BLOCK_BYTES
    }

    /// Makes it longer or shorter, without an allocation; what is added has the content that it had before.
    ///
    /// # Panics
    /// Where `bytes` is zero, no multiple of [`BLOCK_BYTES`] or beyond the capacity.
    pub fn set_bytes(&mut self, bytes: usize) {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "{bytes} bytes are not whole blocks");
        assert!(bytes <= self.capacity_bytes(), "{bytes} bytes do not fit in {}", self.capacity_bytes());
        self.bytes = bytes;
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aligned({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_of_whole_blocks_wherever_it_lies() {
        let mut kept = Vec::new();
        for bytes in [0, 1, 4095, 4096, 4097, 65_536, 1_000_000] {
            let mut buffer = Aligned::zeroed(bytes);
            assert_eq!(buffer.len(), bytes.max(1).next_multiple_of(BLOCK_BYTES));
            assert!(buffer.as_ptr().addr().is_multiple_of(BLOCK_BYTES));
            let last = buffer.len() - 1;
            buffer[last] = 7;
            let place = buffer.as_ptr();
            kept.push((buffer, place));
        }
        assert!(kept.iter().all(|(buffer, place)| buffer.as_ptr() == *place && buffer.last() == Some(&7)));
    }

    #[test]
    fn it_shrinks_and_grows_in_place() {
        let mut buffer = Aligned::zeroed(3 * BLOCK_BYTES);
        buffer.fill(5);
        buffer.set_bytes(BLOCK_BYTES);
        assert_eq!(buffer.len(), BLOCK_BYTES);
        buffer.set_bytes(3 * BLOCK_BYTES);
        assert!(buffer.iter().all(|&byte| byte == 5));
    }
}
