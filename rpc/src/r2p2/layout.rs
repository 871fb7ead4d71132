//! Where each byte lies. The only place that knows offsets; R2P2's own header is big endian, our blocks little endian.

use std::ops::Range;

/// Bytes of an R2P2 header.
pub const HEADER_BYTES: usize = 8;
/// The largest datagram we accept, header included: MTU 1500 less IPv4 and UDP headers.
pub const PAYLOAD_BYTES: usize = 1472;
/// Message bytes in the first packet of a reference client's multi-packet request.
pub const REQUEST_FIRST_BYTES: usize = 14;
/// Bytes of a whole FEEDBACK datagram, header included.
pub const FEEDBACK_BYTES: usize = 16;
/// Bytes of the block that opens a request of our own clients.
pub const REQUEST_BLOCK_BYTES: usize = 40;
/// Bytes of the block that opens a response to our own clients.
pub const RESPONSE_BLOCK_BYTES: usize = 32;
/// Bytes in front of the client's payload in a forwarded request, after the peer header.
pub const FORWARD_BYTES: usize = 16;

/// First byte of every R2P2 datagram.
pub(super) const MAGIC: u8 = 0xCC;
/// Payload of an ACK, sent and expected exactly.
pub(super) const ACK_BODY: &[u8; 3] = b"ACK";
/// Payload of a DROP, sent and expected exactly.
pub(super) const DROP_BODY: &[u8; 4] = b"DROP";

/// The 8-byte header, big endian.
pub(super) mod header {
    use super::Range;
    pub(in super::super) const MAGIC: usize = 0;
    pub(in super::super) const HEADER_SIZE: usize = 1;
    pub(in super::super) const TYPE_POLICY: usize = 2;
    pub(in super::super) const FLAGS: usize = 3;
    pub(in super::super) const RID: Range<usize> = 4..6;
    pub(in super::super) const ORDER: Range<usize> = 6..8;
}

/// FEEDBACK after the header, big endian.
pub(super) mod feedback {
    use super::Range;
    pub(in super::super) const RID: Range<usize> = 0..2;
    pub(in super::super) const PORT: Range<usize> = 2..4;
    pub(in super::super) const IP: Range<usize> = 4..8;
}

/// The request block, little endian.
pub(super) mod request_block {
    use super::Range;
    pub(in super::super) const VERSION: usize = 0;
    pub(in super::super) const FLAGS: usize = 1;
    pub(in super::super) const SHARD: Range<usize> = 2..4;
    pub(in super::super) const MAP_VERSION: Range<usize> = 4..8;
    pub(in super::super) const METHOD: Range<usize> = 8..12;
    pub(in super::super) const CONSISTENCY: usize = 12;
    pub(in super::super) const COPY: Range<usize> = 13..16;
    pub(in super::super) const SESSION: Range<usize> = 16..24;
    pub(in super::super) const SEQ: Range<usize> = 24..32;
    pub(in super::super) const ACKED: Range<usize> = 32..40;
}

/// The response block, little endian.
pub(super) mod response_block {
    use super::Range;
    pub(in super::super) const VERSION: usize = 0;
    pub(in super::super) const STATUS: usize = 1;
    pub(in super::super) const REASON: Range<usize> = 2..4;
    pub(in super::super) const LEADER: usize = 4;
    pub(in super::super) const DURABILITY: usize = 5;
    pub(in super::super) const REACHABLE: usize = 6;
    pub(in super::super) const TOTAL: usize = 7;
    pub(in super::super) const TERM: Range<usize> = 8..16;
    pub(in super::super) const INDEX: Range<usize> = 16..24;
    pub(in super::super) const ECHO: Range<usize> = 24..32;
}

/// The forwarded request's framing, little endian.
pub(super) mod forward {
    use super::Range;
    pub(in super::super) const IP: Range<usize> = 0..4;
    pub(in super::super) const PORT: Range<usize> = 4..6;
    pub(in super::super) const RID: Range<usize> = 6..8;
    pub(in super::super) const POLICY: usize = 8;
    pub(in super::super) const FLAGS: usize = 9;
    pub(in super::super) const ORDER: Range<usize> = 10..12;
    pub(in super::super) const OFFSET: Range<usize> = 12..14;
    pub(in super::super) const TOTAL: Range<usize> = 14..16;
}

/// Copies a field of a fixed layout. `at` is one of the ranges above and `N` its length, on a buffer whose size the
/// caller has fixed by type, so neither index can be out of range.
pub(super) fn field<const N: usize, const SIZE: usize>(bytes: &[u8; SIZE], at: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gaps or overlaps would put an uninitialised or twice written byte on the wire.
    #[test]
    fn the_fields_of_each_layout_are_adjacent() {
        let contiguous = |size: usize, fields: &[Range<usize>]| {
            let end = fields.iter().fold(0, |at, field| {
                assert_eq!(field.start, at);
                field.end
            });
            assert_eq!(end, size);
        };
        let byte = |at: usize| at..at + 1;
        {
            use header::*;
            let fields = [byte(MAGIC), byte(HEADER_SIZE), byte(TYPE_POLICY), byte(FLAGS), RID, ORDER];
            contiguous(HEADER_BYTES, &fields);
        }
        contiguous(FEEDBACK_BYTES - HEADER_BYTES, &[feedback::RID, feedback::PORT, feedback::IP]);
        {
            use request_block::*;
            let head = [byte(VERSION), byte(FLAGS), SHARD, MAP_VERSION, METHOD];
            let tail = [byte(CONSISTENCY), COPY, SESSION, SEQ, ACKED];
            contiguous(REQUEST_BLOCK_BYTES, &[head.as_slice(), tail.as_slice()].concat());
        }
        {
            use response_block::*;
            let head = [byte(VERSION), byte(STATUS), REASON, byte(LEADER), byte(DURABILITY)];
            let tail = [byte(REACHABLE), byte(TOTAL), TERM, INDEX, ECHO];
            contiguous(RESPONSE_BLOCK_BYTES, &[head.as_slice(), tail.as_slice()].concat());
        }
        {
            use forward::*;
            contiguous(FORWARD_BYTES, &[IP, PORT, RID, byte(POLICY), byte(FLAGS), ORDER, OFFSET, TOTAL]);
        }
    }
}
