//! Datagrams between peers: whatever is read is written again as the same bytes, and nothing panics.

use trimaran_raft::{Message, read_foreign};

/// Does what the bytes say.
///
/// # Panics
/// Where something is wrong with the code under test.
pub fn run(content: &[u8]) {
    // With a right check sum, which no fuzzer guesses: a peer that is wrong makes one, too.
    let mut datagram = content.to_vec();
    datagram.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    for bytes in [content, &datagram] {
        let _ = read_foreign(bytes);
        let Some(message) = Message::decode(bytes) else { continue };
        let mut written = vec![0; bytes.len()];
        let length = message.encode(&mut written);
        assert_eq!(length, bytes.len(), "{message:?}");
        assert_eq!(Message::decode(&written), Some(message));
    }
}
