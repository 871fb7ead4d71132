//! Reading and writing little-endian fields in byte slices, without a panic on any length.

/// Takes fields off the front of a slice; `None` when too few bytes are left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Puts fields one after the other into a slice; remembers when one did not fit.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    used: usize,
    overflowed: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Writer { buffer, used: 0, overflowed: false }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        match self.reserve(bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.overflowed = true,
        }
    }

    /// The next `count` bytes, for the caller to fill.
    pub(crate) fn reserve(&mut self, count: usize) -> Option<&mut [u8]> {
        let place = self.buffer.get_mut(self.used..self.used.checked_add(count)?)?;
        self.used += count;
        Some(place)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn room(&self) -> usize {
        self.buffer.len() - self.used
    }

    /// Everything written so far, for check sums and for counts known only at the end.
    pub(crate) fn written(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.used]
    }

    /// Bytes used, or `None` when a field did not fit.
    pub(crate) fn finish(self) -> Option<usize> {
        (!self.overflowed).then_some(self.used)
    }
}
