//! Who takes part: voters, in transition the old voters too, learners; with addresses, as the body of a log entry.

mod steps;

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::id::{Incarnation, Member, NodeId, Slot};
use crate::wire::{Reader, Writer};

/// Members of one list at most: the seats are 1 to 9.
pub const LIST_MEMBERS: usize = 9;
const VERSION: u8 = 1;
const MEMBER_BYTES: usize = 21;
const CONFIG_BYTES: usize = 4 + 3 * LIST_MEMBERS * MEMBER_BYTES;

/// A configuration of the group. While `old_voters` is not empty it is joint: every count needs a majority of both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Configuration {
    /// The voters, in transition those to come.
    pub voters: Vec<Member>,
    /// The voters that are being replaced; empty outside a transition.
    pub old_voters: Vec<Member>,
    /// Members that receive the log and do not count.
    pub learners: Vec<Member>,
}

impl Configuration {
    /// A plain configuration of these voters, in the order of their ids.
    pub fn of_voters(members: &[Member]) -> Self {
        let mut voters = members.to_vec();
        voters.sort_unstable_by_key(|member| member.id);
        Configuration { voters, ..Configuration::default() }
    }

    /// Whether two halves count.
    pub fn is_joint(&self) -> bool {
        !self.old_voters.is_empty()
    }

    /// Whether `id`, in exactly this incarnation, has a vote in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.iter().chain(&self.old_voters).any(|member| member.id == id)
    }

    /// The member of exactly this identity.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members().find(|member| member.id == id)
    }

    /// Whoever sits in `slot`, in any incarnation.
    pub fn occupant(&self, slot: Slot) -> Option<&Member> {
        self.members().find(|member| member.id.slot == slot)
    }

    /// All entries of all lists; a member of both halves comes twice.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.voters.iter().chain(&self.old_voters).chain(&self.learners)
    }

    /// The body of a configuration entry: version, three counts, the members.
    pub fn encode(&self) -> Vec<u8> {
        let mut buffer = [0; CONFIG_BYTES];
        let mut w = Writer::new(&mut buffer);
        w.u8(VERSION);
        for list in [&self.voters, &self.old_voters, &self.learners] {
            w.u8(list.len().min(LIST_MEMBERS) as u8);
        }
        for list in [&self.voters, &self.old_voters, &self.learners] {
            list.iter().take(LIST_MEMBERS).for_each(|member| write_member(member, &mut w));
        }
        w.written().to_vec()
    }

    /// Reads [`Configuration::encode`]'s form; `None` for anything else, a repeated member, or a list over
    /// [`LIST_MEMBERS`].
    pub fn decode(bytes: &[u8]) -> Option<Configuration> {
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return None;
        }
        let counts: [u8; 3] = r.array()?;
        let mut lists = counts.into_iter().map(|count| {
            let list: Vec<Member> = (0..count).map(|_| read_member(&mut r)).collect::<Option<_>>()?;
            let unique = list.iter().enumerate().all(|(at, member)| list[..at].iter().all(|m| m.id != member.id));
            (list.len() <= LIST_MEMBERS && unique).then_some(list)
        });
        let config = Configuration { voters: lists.next()??, old_voters: lists.next()??, learners: lists.next()?? };
        drop(lists);
        r.is_empty().then_some(config)
    }
}

pub(crate) fn write_member(member: &Member, w: &mut Writer<'_>) {
    w.u8(member.id.slot.0);
    w.u64(member.id.incarnation.0);
    for address in [member.client, member.peer] {
        w.u32(u32::from(*address.ip()));
        w.u16(address.port());
    }
}

pub(crate) fn read_member(r: &mut Reader<'_>) -> Option<Member> {
    let id = NodeId { slot: Slot(r.u8()?), incarnation: Incarnation(r.u64()?) };
    let mut address = || Some(SocketAddrV4::new(Ipv4Addr::from(r.u32()?), r.u16()?));
    Some(Member { id, client: address()?, peer: address()? })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn member(slot: u8) -> Member {
        let address = |port| SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, slot), port);
        Member { id: NodeId::new(slot, u64::from(slot) * 11), client: address(8000), peer: address(8100) }
    }

    fn list() -> impl Strategy<Value = Vec<Member>> {
        proptest::sample::subsequence((1u8..=9).map(member).collect::<Vec<_>>(), 0..=9)
    }

    proptest! {
        #[test]
        fn survives_the_wire(voters in list(), old_voters in list(), learners in list()) {
            let config = Configuration { voters, old_voters, learners };
            prop_assert_eq!(Configuration::decode(&config.encode()), Some(config));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(config) = Configuration::decode(&bytes) {
                prop_assert_eq!(config.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_repeated_member_is_refused() {
        let twice = Configuration { voters: vec![member(1), member(1)], ..Configuration::default() };
        assert_eq!(Configuration::decode(&twice.encode()), None);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = Configuration::of_voters(&[member(1)]).encode();
        bytes.push(0);
        assert_eq!(Configuration::decode(&bytes), None);
    }
}
