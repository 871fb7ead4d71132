//! The blocks of our own clients: 40 bytes in front of a request, 32 in front of its response.
//!
//! Announced by flag 0x20 on the first packet, which always holds the whole block.

use super::counters::DropReason;
use super::layout::{REQUEST_BLOCK_BYTES, RESPONSE_BLOCK_BYTES, field, request_block, response_block};

/// The version of both blocks that we speak.
pub const BLOCK_VERSION: u8 = 2;

/// What our own clients say in front of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestBlock {
    /// [`RequestBlock::HERE`]; the other bits are sent as 0 and ignored on receive.
    pub flags: u8,
    /// The shard that the client believes to be responsible.
    pub shard: u16,
    /// Version of the shard map that it used.
    pub map_version: u32,
    /// First 4 bytes of the method's hash.
    pub method: u32,
    /// What a read under policy 3 must see: 0 linearizable, 1 the same by a lease, 2 at least the entry at index `seq`, 3 a state at
    /// most `seq` nanoseconds old. A server refuses every other number. 0 for other calls.
    pub consistency: u8,
    /// Which copy this is of all that the session has sent of its calls, counted from 1 on, 24 bits, 0 left out: no two deliveries
    /// of one copy are both looked at. 0: it is not said, and nothing is dropped for it.
    pub copy: u32,
    /// Session id, 0 for a call without a session.
    pub session: u64,
    /// The call's number in its session; of a read, what its consistency is about.
    pub seq: u64,
    /// Every call of the session up to this number has been answered to the client. Of a call without a name in a session: a number
    /// that no other such call of this client bears.
    pub acked: u64,
}

impl RequestBlock {
    /// A flag of reads under policy 3: the replica that is asked answers, and asks its leader where it must. Without it a follower
    /// sends the read on.
    pub const HERE: u8 = 1;

    /// Whether the replica that was asked shall answer, whoever leads.
    pub const fn is_here(&self) -> bool {
        self.flags & RequestBlock::HERE != 0
    }

    /// What the block of every answer to this request repeats ([`ResponseBlock::echo`]).
    #[inline]
    pub const fn echo(&self) -> u64 {
        echo(self.session, self.seq, self.acked)
    }

    /// The block's bytes, every one of them written.
    pub fn emit(&self) -> [u8; REQUEST_BLOCK_BYTES] {
        use request_block::*;
        let mut bytes = [0; REQUEST_BLOCK_BYTES];
        bytes[VERSION] = BLOCK_VERSION;
        bytes[FLAGS] = self.flags;
        bytes[SHARD].copy_from_slice(&self.shard.to_le_bytes());
        bytes[MAP_VERSION].copy_from_slice(&self.map_version.to_le_bytes());
        bytes[METHOD].copy_from_slice(&self.method.to_le_bytes());
        bytes[CONSISTENCY] = self.consistency;
        let [low, middle, high, _] = self.copy.to_le_bytes();
        bytes[COPY].copy_from_slice(&[low, middle, high]);
        bytes[SESSION].copy_from_slice(&self.session.to_le_bytes());
        bytes[SEQ].copy_from_slice(&self.seq.to_le_bytes());
        bytes[ACKED].copy_from_slice(&self.acked.to_le_bytes());
        bytes
    }

    /// Splits a message into block and arguments. Allocates nothing.
    ///
    /// # Errors
    /// [`DropReason::BlockTooShort`] or [`DropReason::BlockVersion`].
    pub fn parse(message: &[u8]) -> Result<(RequestBlock, &[u8]), DropReason> {
        use request_block::*;
        let Some((bytes, body)) = message.split_first_chunk::<REQUEST_BLOCK_BYTES>() else {
            return Err(DropReason::BlockTooShort);
        };
        if bytes[VERSION] != BLOCK_VERSION {
            return Err(DropReason::BlockVersion);
        }
        let [low, middle, high] = field(bytes, COPY);
        let block = RequestBlock {
            flags: bytes[FLAGS],
            shard: u16::from_le_bytes(field(bytes, SHARD)),
            map_version: u32::from_le_bytes(field(bytes, MAP_VERSION)),
            method: u32::from_le_bytes(field(bytes, METHOD)),
            consistency: bytes[CONSISTENCY],
            copy: u32::from_le_bytes([low, middle, high, 0]),
            session: u64::from_le_bytes(field(bytes, SESSION)),
            seq: u64::from_le_bytes(field(bytes, SEQ)),
            acked: u64::from_le_bytes(field(bytes, ACKED)),
        };
        Ok((block, body))
    }
}

/// Whose answer it is. R2P2's request id has 16 bits, and a client that makes 100,000 calls a second has used each of them within a second: an
/// answer that was held up for longer, in a node that was stopped or as an entry that commits at last, comes under an id that may be
/// another call's by now, which would be told that it was applied. Two calls of one client agree in these 64 bits as rarely as two random numbers.
#[inline]
pub(crate) const fn echo(session: u64, seq: u64, acked: u64) -> u64 {
    // Odd and far from each other, so that neither factor is lost and small numbers spread over all bits.
    let named = session.wrapping_add(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    named.rotate_left(32).wrapping_add(acked.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

/// How a call of our own client ended on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Status {
    /// Applied, or read.
    #[default]
    Ok = 0,
    /// Applied, or read, and the service said no; the body is its error.
    App = 1,
    /// Certainly not applied; `reason` says why.
    NotApplied = 2,
    /// Never appended: too few replicas are reachable.
    NoQuorum = 3,
    /// Certainly not applied: another shard is responsible.
    WrongShard = 4,
    /// The session is no longer known; an earlier try may have applied.
    SessionExpired = 5,
    /// The handler failed, for instance by a panic; whether it applied is unknown.
    Internal = 6,
}

impl Status {
    const fn from_wire(value: u8) -> Option<Status> {
        Some(match value {
            0 => Status::Ok,
            1 => Status::App,
            2 => Status::NotApplied,
            3 => Status::NoQuorum,
            4 => Status::WrongShard,
            5 => Status::SessionExpired,
            6 => Status::Internal,
            _ => return None,
        })
    }
}

/// Why a call was certainly not applied: the response block's `reason` with status [`Status::NotApplied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u16)]
pub enum Refusal {
    /// Nothing more is known, also for every value that we do not know.
    #[default]
    Unspecified = 0,
    /// Asked of a replica that does not lead; the block names the leader where it is known.
    NotLeader = 1,
    /// No leader is known yet.
    NoLeader = 2,
    /// A queue of the server is full.
    Busy = 3,
    /// The request is over the server's limit.
    TooLarge = 4,
    /// The service has no such method.
    UnknownMethod = 5,
    /// The arguments do not decode.
    BadArguments = 6,
    /// The node belongs to no cluster yet.
    Uninitialised = 7,
    /// The method's mark does not allow the policy it was called with.
    PolicyMismatch = 8,
    /// Leadership moved before the request was complete.
    LeadershipLost = 9,
    /// The fragments did not arrive in time.
    Incomplete = 10,
    /// The replica has stopped applying.
    Stopped = 11,
    /// The call's number is further beyond what its session has acknowledged than the window allows.
    OutOfWindow = 12,
    /// Another request has been executed under this call's name.
    CallIdReused = 13,
    /// With [`Status::SessionExpired`]: the session is open, but what came of this call is no longer known.
    Forgotten = 14,
    /// As many sessions are open as may be.
    SessionsFull = 15,
    /// The server does not know this consistency, or the call is no read.
    UnknownConsistency = 16,
    /// Reads by a lease are not enabled where they were asked for.
    LeasesOff = 17,
    /// What the replica knows is older than the read allows.
    TooStale = 18,
    /// The replica has not applied in time what the read must see.
    NotYet = 19,
    /// The lease under which the state was read ended before the answer could leave.
    LeaseEnded = 20,
}

impl Refusal {
    /// Whether the same call may succeed a little later or at another replica.
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Refusal::NotLeader
                | Refusal::NoLeader
                | Refusal::Busy
                | Refusal::Uninitialised
                | Refusal::LeadershipLost
                | Refusal::Incomplete
                | Refusal::Stopped
                | Refusal::TooStale
                | Refusal::NotYet
                | Refusal::LeaseEnded
        )
    }

    /// The wire value.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The refusal of a wire value; [`Refusal::Unspecified`] for those we do not know.
    pub const fn from_wire(value: u16) -> Refusal {
        match value {
            1 => Refusal::NotLeader,
            2 => Refusal::NoLeader,
            3 => Refusal::Busy,
            4 => Refusal::TooLarge,
            5 => Refusal::UnknownMethod,
            6 => Refusal::BadArguments,
            7 => Refusal::Uninitialised,
            8 => Refusal::PolicyMismatch,
            9 => Refusal::LeadershipLost,
            10 => Refusal::Incomplete,
            11 => Refusal::Stopped,
            12 => Refusal::OutOfWindow,
            13 => Refusal::CallIdReused,
            14 => Refusal::Forgotten,
            15 => Refusal::SessionsFull,
            16 => Refusal::UnknownConsistency,
            17 => Refusal::LeasesOff,
            18 => Refusal::TooStale,
            19 => Refusal::NotYet,
            20 => Refusal::LeaseEnded,
            _ => Refusal::Unspecified,
        }
    }
}

/// What the server says in front of a response to our own clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseBlock {
    /// How the call ended.
    pub status: Status,
    /// Why, where the status is [`Status::NotApplied`].
    pub reason: Refusal,
    /// Slot of the leader as far as the sender knows, 0 where it does not.
    pub leader: u8,
    /// Durability mode of the cluster.
    pub durability: u8,
    /// Replicas that the sender has heard of lately, itself included.
    pub reachable: u8,
    /// Voters of the configuration.
    pub total: u8,
    /// The sender's term.
    pub term: u64,
    /// Log index at which the call was applied or read, 0 where it was not.
    pub index: u64,
    /// [`RequestBlock::echo`] of the request that this answers. A client drops an answer with any other.
    pub echo: u64,
}

impl ResponseBlock {
    /// The block's bytes, every one of them written.
    pub fn emit(&self) -> [u8; RESPONSE_BLOCK_BYTES] {
        use response_block::*;
        let mut bytes = [0; RESPONSE_BLOCK_BYTES];
        bytes[VERSION] = BLOCK_VERSION;
        bytes[STATUS] = self.status as u8;
        bytes[REASON].copy_from_slice(&self.reason.to_wire().to_le_bytes());
        bytes[LEADER] = self.leader;
        bytes[DURABILITY] = self.durability;
        bytes[REACHABLE] = self.reachable;
        bytes[TOTAL] = self.total;
        bytes[TERM].copy_from_slice(&self.term.to_le_bytes());
        bytes[INDEX].copy_from_slice(&self.index.to_le_bytes());
        bytes[ECHO].copy_from_slice(&self.echo.to_le_bytes());
        bytes
    }

    /// Splits a message into block and body. Allocates nothing.
    ///
    /// # Errors
    /// [`DropReason::BlockTooShort`], [`DropReason::BlockVersion`] or [`DropReason::BlockStatus`].
    pub fn parse(message: &[u8]) -> Result<(ResponseBlock, &[u8]), DropReason> {
        use response_block::*;
        let Some((bytes, body)) = message.split_first_chunk::<RESPONSE_BLOCK_BYTES>() else {
            return Err(DropReason::BlockTooShort);
        };
        if bytes[VERSION] != BLOCK_VERSION {
            return Err(DropReason::BlockVersion);
        }
        let block = ResponseBlock {
            status: Status::from_wire(bytes[STATUS]).ok_or(DropReason::BlockStatus)?,
            reason: Refusal::from_wire(u16::from_le_bytes(field(bytes, REASON))),
            leader: bytes[LEADER],
            durability: bytes[DURABILITY],
            reachable: bytes[REACHABLE],
            total: bytes[TOTAL],
            term: u64::from_le_bytes(field(bytes, TERM)),
            index: u64::from_le_bytes(field(bytes, INDEX)),
            echo: u64::from_le_bytes(field(bytes, ECHO)),
        };
        Ok((block, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flag_says_that_the_replica_asked_shall_answer() {
        let is_here = |flags| RequestBlock { flags, ..RequestBlock::default() }.is_here();
        assert!(!is_here(0) && is_here(RequestBlock::HERE) && !is_here(!RequestBlock::HERE));
    }

    #[test]
    fn request_block_byte_for_byte() {
        let block = RequestBlock {
            flags: 0,
            shard: 0x0102,
            map_version: 3,
            method: 0xA1B2_C3D4,
            consistency: 2,
            copy: 0x0C_0B0A,
            session: 5,
            seq: 6,
            acked: 0x0807_0605_0403_0201,
        };
        let bytes = block.emit();
        assert_eq!(
            &bytes[..],
            b"\x02\x00\x02\x01\x03\0\0\0\xD4\xC3\xB2\xA1\x02\x0A\x0B\x0C\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08"
        );
        assert_eq!(RequestBlock::parse(&bytes), Ok((block, &[][..])));
        assert_eq!(RequestBlock::parse(&bytes[..39]), Err(DropReason::BlockTooShort));
        let with = |at: usize| {
            let mut bytes = bytes;
            bytes[at] = 9;
            RequestBlock::parse(&bytes).map(|_| ())
        };
        assert_eq!(with(0), Err(DropReason::BlockVersion));
        // What is not known there is refused by who understands the method, with a block.
        assert_eq!((with(1), with(12)), (Ok(()), Ok(())));
    }

    #[test]
    fn response_block_byte_for_byte() {
        let block = ResponseBlock {
            status: Status::NotApplied,
            reason: Refusal::NotLeader,
            leader: 3,
            durability: 1,
            reachable: 2,
            total: 5,
            term: 7,
            index: 0x0102,
            echo: 0x0908_0706_0504_0302,
        };
        let mut bytes = block.emit().to_vec();
        assert_eq!(
            bytes,
            b"\x02\x02\x01\0\x03\x01\x02\x05\x07\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x02\x03\x04\x05\x06\x07\x08\x09"
        );
        bytes.extend_from_slice(b"body");
        assert_eq!(ResponseBlock::parse(&bytes), Ok((block, &b"body"[..])));
        assert_eq!(ResponseBlock::parse(&bytes[..31]), Err(DropReason::BlockTooShort));
        bytes[1] = 7;
        assert_eq!(ResponseBlock::parse(&bytes), Err(DropReason::BlockStatus));
        bytes[0] = 1;
        assert_eq!(ResponseBlock::parse(&bytes), Err(DropReason::BlockVersion));
    }

    /// What one client numbers on from small numbers, and sessions that differ in one bit.
    #[test]
    fn echoes_of_neighbours_differ() {
        let mut seen = std::collections::BTreeSet::new();
        let mut count = 0;
        for session in [0, 1, 2, 3, u64::MAX, u64::MAX - 1, 1 << 32, 1 << 63] {
            for seq in 0..64 {
                for acked in 0..64 {
                    seen.insert(RequestBlock { session, seq, acked, ..RequestBlock::default() }.echo());
                    count += 1;
                }
            }
        }
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn codes_survive_the_wire() {
        for value in 0..=u8::MAX {
            let wire = Refusal::from_wire(value.into()).to_wire();
            assert_eq!(wire, if value <= 20 { value.into() } else { 0 });
            assert_eq!(Status::from_wire(value).map(|status| status as u8), (value <= 6).then_some(value));
        }
        assert_eq!((Refusal::from_wire(11), Refusal::from_wire(20)), (Refusal::Stopped, Refusal::LeaseEnded));
        assert_eq!(Refusal::from_wire(u16::MAX), Refusal::Unspecified);
    }
}
