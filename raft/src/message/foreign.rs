//! Messages of the layer above that travel between nodes under the same header and check sum.

use super::Envelope;
use super::codec::{CRC_BYTES, HEADER_BYTES, open, seal, write_header};
use crate::wire::Writer;

const KIND_FOREIGN: u8 = 128;

/// Bytes of a foreign message besides its payload.
pub const FOREIGN_OVERHEAD_BYTES: usize = HEADER_BYTES + CRC_BYTES;

/// Writes a message whose payload is `parts`, one after the other. Returns its length, 0 when it does not fit.
pub fn write_foreign(buffer: &mut [u8], header: &Envelope, parts: &[&[u8]]) -> usize {
    let mut w = Writer::new(buffer);
    write_header(KIND_FOREIGN, header, &mut w);
    for part in parts {
        w.bytes(part);
    }
    seal(w)
}

/// Reads a foreign message into header and payload. `None` for another version or kind, or a wrong check sum. The caller
/// checks cluster and destination.
pub fn read_foreign(bytes: &[u8]) -> Option<(Envelope, &[u8])> {
    let (kind, header, rest) = open(bytes)?;
    (kind == KIND_FOREIGN).then(|| (header, rest.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClusterId, NodeId};
    use crate::message::{Body, Message};

    #[test]
    fn a_foreign_message_arrives_whole_or_not_at_all() {
        let header =
            Envelope { cluster: ClusterId(7), from: NodeId::new(1, 11), to: NodeId::new(2, 22), ..Envelope::default() };
        let mut buffer = [0; 128];
        let length = write_foreign(&mut buffer, &header, &[b"ab", b"c"]);
        assert_eq!(length, FOREIGN_OVERHEAD_BYTES + 3);
        let bytes = &mut buffer[..length];
        assert_eq!(read_foreign(bytes), Some((header, &b"abc"[..])));
        for bit in 0..length * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_foreign(bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(write_foreign(&mut [0; 54], &header, &[b"abc"]), 0);
    }

    #[test]
    fn the_machine_never_sees_one_and_never_writes_one() {
        let mut buffer = [0; 128];
        let length = write_foreign(&mut buffer, &Envelope::default(), &[b"abc"]);
        assert_eq!(Message::decode(&buffer[..length]), None);
        let own = Message { header: Envelope::default(), body: Body::Farewell };
        let length = own.encode(&mut buffer);
        assert_eq!(read_foreign(&buffer[..length]), None);
    }
}
