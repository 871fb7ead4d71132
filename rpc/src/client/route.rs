//! Which server to ask: the leader as far as response blocks have told, else one after the other.

use crate::r2p2::{Policy, ResponseBlock, Status};
use std::net::SocketAddrV4;
use trimaran_runtime::Instant;

/// Slots are 1 to 9; slot 0 means that the leader is not known.
const SLOTS: usize = 10;

/// The servers of a cluster, and what is known of their leader.
#[derive(Debug)]
pub(super) struct Route {
    /// As the caller named them, in slot order as far as he knows it.
    given: Vec<SocketAddrV4>,
    /// All to be asked: the members as far as known, and those given.
    servers: Vec<SocketAddrV4>,
    /// Addresses of the slots' nodes, as members or from their answers.
    slots: [Option<SocketAddrV4>; SLOTS],
    /// The slots are those of members that a node has named.
    named: bool,
    /// Who shall be asked for the members: the term is new, or the leader is none that is known.
    ask_members: Option<SocketAddrV4>,
    /// The leader was silent: perhaps the members are others by now. Whoever answers next is asked.
    in_doubt: bool,
    leader: Option<SocketAddrV4>,
    /// When it was first learned who leads in `named_term`.
    named_at: Instant,
    /// The newest term whose leader is known.
    named_term: u64,
    /// When the leader last answered a call.
    heard_at: Instant,
    term: u64,
    next: usize,
    /// Whose turn it is to answer what any replica may.
    next_any: usize,
    next_probe: usize,
    probe_at: Instant,
    answers: u64,
}

impl Route {
    /// `spread` says which server begins with what any replica may answer: clients that differ in it share the work.
    pub(super) fn new(servers: Vec<SocketAddrV4>, spread: u64) -> Route {
        let next_any = spread as usize % servers.len().max(1);
        Route {
            given: servers.clone(),
            servers,
            slots: [None; SLOTS],
            named: false,
            ask_members: None,
            in_doubt: false,
            leader: None,
            named_at: Instant::ZERO,
            named_term: 0,
            heard_at: Instant::ZERO,
            term: 0,
            next: 0,
            next_any,
            next_probe: 0,
            probe_at: Instant::ZERO,
            answers: 0,
        }
    }

    /// The leader, or where none is known the server whose turn it is. `None` without servers.
    pub(super) fn pick(&self) -> Option<SocketAddrV4> {
        self.leader.or_else(|| self.servers.get(self.next).copied())
    }

    pub(super) fn leader(&self) -> Option<SocketAddrV4> {
        self.leader
    }

    /// Who answers what any replica may: always the same one, as long as it does. `None` without servers.
    pub(super) fn pick_any(&self) -> Option<SocketAddrV4> {
        self.servers.get(self.next_any).copied()
    }

    /// `server` did not answer what any replica may: the next one is asked from now on.
    pub(super) fn avoid_any(&mut self, server: SocketAddrV4) {
        if self.pick_any() == Some(server) {
            self.next_any = (self.next_any + 1) % self.servers.len();
        }
    }

    /// The address of the member in this seat, where a node has named it.
    pub(super) fn member(&self, slot: u8) -> Option<SocketAddrV4> {
        self.slots.get(usize::from(slot)).copied().flatten().filter(|_| self.named)
    }

    /// The server to ask at the `turn`th try, from 0 on: the leader, if one is known, then each in turn.
    pub(super) fn server(&self, turn: usize) -> Option<SocketAddrV4> {
        let first = self.leader.filter(|_| turn == 0);
        first.or_else(|| self.servers.get(turn.checked_rem(self.servers.len())?).copied())
    }

    /// The leader has begun to lead since `asked`, as far as is known: what it was asked before it may have missed.
    pub(super) fn leads_since(&self, asked: Instant) -> bool {
        self.leader.is_some() && self.named_at > asked
    }

    /// The next server to ask who leads, at most one per `pause` over all calls of the client.
    pub(super) fn probe(&mut self, now: Instant, pause: std::time::Duration) -> Option<SocketAddrV4> {
        if now < self.probe_at {
            return None;
        }
        self.probe_at = now + pause;
        self.next_probe = (self.next_probe + 1) % self.servers.len().max(1);
        self.servers.get(self.next_probe).copied()
    }

    /// How many servers there are to ask.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// How many probes have been answered, whatever the answer.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// `server` has answered a probe: where no leader is known, it is asked first, for it is there.
    pub(super) fn answered(&mut self, server: SocketAddrV4) {
        self.answers += 1;
        if std::mem::take(&mut self.in_doubt) {
            self.ask_members = Some(server);
        }
        if let Some(place) = self.servers.iter().position(|listed| *listed == server) {
            self.next = place;
        }
    }

    /// `server` has not answered for a while, or cannot help: it is not asked first any more.
    pub(super) fn avoid(&mut self, server: SocketAddrV4) {
        if self.leader == Some(server) {
            self.leader = None;
            self.in_doubt = true;
        }
        if self.servers.get(self.next) == Some(&server) {
            self.next = (self.next + 1) % self.servers.len();
        }
    }

    /// `server` has answered something: where it leads, it is slow at most, and not gone.
    pub(super) fn heard(&mut self, server: SocketAddrV4, now: Instant) {
        if self.leader == Some(server) {
            self.heard_at = now;
        }
    }

    /// As [`avoid`](Route::avoid), unless `server` leads and has answered something, or begun to lead, since `asked`: one
    /// slow call, or one lost datagram, sends nobody elsewhere.
    pub(super) fn avoid_if_silent(&mut self, server: SocketAddrV4, asked: Instant) {
        if self.leader != Some(server) || self.heard_at.max(self.named_at) <= asked {
            self.avoid(server);
        }
    }

    /// Whether somebody is to be asked for the members.
    pub(super) fn asks_members(&self) -> bool {
        self.ask_members.is_some()
    }

    /// Who is to be asked for the members, told once.
    pub(super) fn take_ask_members(&mut self) -> Option<SocketAddrV4> {
        self.ask_members.take()
    }

    /// A node has named the members, by slot and address. Those that the caller named are asked after them: all members may
    /// be others one day.
    pub(super) fn set_members(&mut self, members: impl Iterator<Item = (u8, SocketAddrV4)>) {
        let mut slots = [None; SLOTS];
        for (slot, address) in members {
            if let Some(place) = slots.get_mut(usize::from(slot)).filter(|_| slot != 0) {
                *place = Some(address);
            }
        }
        let known: Vec<SocketAddrV4> = slots.iter().copied().flatten().collect();
        if known.is_empty() {
            return;
        }
        let others = self.given.iter().filter(|given| !known.contains(given)).copied();
        let servers = known.iter().copied().chain(others).collect();
        self.slots = slots;
        self.named = true;
        let any = self.pick_any();
        self.servers = servers;
        self.next_any = self.servers.iter().position(|server| Some(*server) == any).unwrap_or(0);
        self.next %= self.servers.len();
        self.next_probe %= self.servers.len();
        // Nobody who is no member leads.
        self.leader = self.leader.filter(|leader| known.contains(leader));
    }

    /// Learns from a response block. Hints of an older term than the newest seen are stale and change nothing.
    pub(super) fn learn(&mut self, from: SocketAddrV4, policy: Policy, block: &ResponseBlock, now: Instant) {
        if block.term < self.term {
            return;
        }
        if block.term > self.term {
            // The members may be others since.
            self.ask_members = Some(from);
        }
        self.term = block.term;
        let slot = usize::from(block.leader);
        let answered = matches!(block.status, Status::Ok | Status::App);
        if answered && policy == Policy::ReplicatedRoute {
            // Only the leader replies to a write.
            self.leader = Some(from);
            if let Some(address) = self.slots.get_mut(slot).filter(|_| slot != 0) {
                *address = Some(from);
            }
        } else if slot != 0 {
            let listed = || self.given.get(slot - 1).copied().filter(|_| !self.named);
            self.leader = self.slots.get(slot).copied().flatten().or_else(listed);
            if self.leader.is_none() {
                self.ask_members = Some(from);
            }
        } else if self.leader == Some(from) {
            self.leader = None;
        }
        // Once a term: followers go on naming a leader that has died.
        if self.leader.is_some() && self.named_term < self.term {
            self.named_term = self.term;
            self.named_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::r2p2::Refusal;
    use std::net::Ipv4Addr;

    fn server(number: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, number), 8000)
    }

    fn block(term: u64, leader: u8, status: Status) -> ResponseBlock {
        ResponseBlock { status, reason: Refusal::NotLeader, leader, term, ..ResponseBlock::default() }
    }

    fn route() -> Route {
        Route::new(vec![server(1), server(2), server(3)], 0)
    }

    #[test]
    fn follows_the_newest_term_only() {
        let mut route = route();
        route.learn(server(1), Policy::ReplicatedRoute, &block(5, 3, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.pick(), Some(server(3)));
        route.learn(server(2), Policy::ReplicatedRoute, &block(4, 2, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.pick(), Some(server(3)));
    }

    /// The list may be in any order: who answered a write is the slot's address, whatever its place in the list.
    #[test]
    fn corrects_the_order_of_the_list() {
        let mut route = route();
        route.learn(server(1), Policy::ReplicatedRoute, &block(5, 3, Status::Ok), Instant::ZERO);
        route.learn(server(2), Policy::ReplicatedRoute, &block(6, 2, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.pick(), Some(server(2)));
        route.learn(server(2), Policy::ReplicatedRoute, &block(7, 3, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.pick(), Some(server(1)));
    }

    /// A read may be answered by any replica; that must not make it the leader.
    #[test]
    fn a_reads_answer_names_the_leader_but_is_not_it() {
        let mut route = route();
        route.learn(server(2), Policy::ReplicatedRouteNoSideEffects, &block(5, 1, Status::Ok), Instant::ZERO);
        assert_eq!(route.leader(), Some(server(1)));
    }

    /// A call may have asked a server long before that began to lead: its silence then says nothing of it now.
    #[test]
    fn silence_from_before_its_term_does_not_count_against_a_leader() {
        let at = |ms| Instant::ZERO + std::time::Duration::from_millis(ms);
        let mut route = route();
        route.learn(server(2), Policy::FixedRoute, &block(5, 1, Status::NotApplied), at(10));
        assert!(route.leads_since(at(9)) && !route.leads_since(at(10)));
        route.avoid_if_silent(server(1), at(9));
        assert_eq!(route.leader(), Some(server(1)), "asked before it led");
        route.avoid_if_silent(server(1), at(11));
        assert_eq!(route.leader(), None, "asked since, and silent");
        // The others believe in it until they elect another: that is no news.
        route.learn(server(2), Policy::FixedRoute, &block(5, 1, Status::NotApplied), at(20));
        assert!(!route.leads_since(at(11)));
        route.learn(server(2), Policy::FixedRoute, &block(6, 1, Status::NotApplied), at(30));
        assert!(route.leads_since(at(20)), "it leads again, in another term");
    }

    #[test]
    fn silence_moves_on_to_the_next() {
        let mut route = route();
        let asked: Vec<_> = (0..4)
            .map(|_| {
                let server = route.pick().unwrap();
                route.avoid(server);
                server
            })
            .collect();
        assert_eq!(asked, [server(1), server(2), server(3), server(1)]);
        assert_eq!(Route::new(Vec::new(), 7).pick(), None);
    }

    /// What any replica may answer stays with one that does: its reads do not go back in time, and a dead one costs one pause.
    #[test]
    fn what_any_may_answer_moves_on_only_from_who_does_not() {
        let mut route = Route::new(vec![server(1), server(2), server(3)], 5);
        assert_eq!(route.pick_any(), Some(server(3)));
        route.learn(server(1), Policy::FixedRoute, &block(5, 1, Status::NotApplied), Instant::ZERO);
        route.avoid_any(server(1));
        assert_eq!(route.pick_any(), Some(server(3)), "whoever leads, and whoever else is silent");
        route.set_members([(3, server(3)), (4, server(4))].into_iter());
        assert_eq!(route.pick_any(), Some(server(3)));
        route.avoid_any(server(3));
        assert_eq!(route.pick_any(), Some(server(4)));
        assert_eq!((route.member(4), route.member(1), route.member(200)), (Some(server(4)), None, None));
        assert_eq!(Route::new(Vec::new(), 7).pick_any(), None);
    }

    #[test]
    fn a_seat_is_known_once_the_members_are_named() {
        let mut route = route();
        route.learn(server(2), Policy::FixedRoute, &block(5, 2, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.member(2), None, "the list may be in any order");
        let asked: Vec<_> = (0..4).filter_map(|turn| route.server(turn)).collect();
        assert_eq!(asked, [server(2), server(2), server(3), server(1)], "the leader, then everybody");
        assert_eq!(Route::new(Vec::new(), 0).server(0), None);
    }

    #[test]
    fn probes_are_paced_over_all_calls() {
        let pause = std::time::Duration::from_millis(10);
        let mut route = route();
        assert_eq!(route.probe(Instant::ZERO, pause), Some(server(2)));
        assert_eq!(route.probe(Instant::ZERO + pause / 2, pause), None);
        assert_eq!(route.probe(Instant::ZERO + pause, pause), Some(server(3)));
    }

    /// A server that answers is there, one that was never heard may be dead: a write without a leader goes to the first.
    #[test]
    fn who_answers_a_probe_is_asked_first() {
        let mut route = route();
        route.answered(server(3));
        assert_eq!((route.pick(), route.answers()), (Some(server(3)), 1));
        route.answered(server(9));
        assert_eq!(route.pick(), Some(server(3)), "not on the list");
        route.learn(server(3), Policy::FixedRoute, &block(1, 2, Status::NotApplied), Instant::ZERO);
        route.answered(server(3));
        assert_eq!(route.pick(), Some(server(2)), "the leader goes before it");
    }

    #[test]
    fn a_leader_that_nobody_knows_is_looked_for_among_the_members() {
        let mut route = route();
        route.learn(server(2), Policy::FixedRoute, &block(5, 4, Status::NotApplied), Instant::ZERO);
        assert_eq!((route.leader(), route.take_ask_members()), (None, Some(server(2))));
        assert_eq!(route.take_ask_members(), None, "told once");
        // Seat 1 is empty now, and seat 3 moved.
        route.set_members([(2, server(2)), (3, server(7)), (4, server(4))].into_iter());
        route.learn(server(2), Policy::FixedRoute, &block(5, 4, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.leader(), Some(server(4)));
        route.learn(server(2), Policy::FixedRoute, &block(6, 3, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.leader(), Some(server(7)));
        assert_eq!(route.servers, [server(2), server(7), server(4), server(1), server(3)]);
        route.take_ask_members();
        route.learn(server(2), Policy::FixedRoute, &block(6, 1, Status::NotApplied), Instant::ZERO);
        assert_eq!((route.leader(), route.take_ask_members()), (None, Some(server(2))), "seat 1 is taken again");
    }

    #[test]
    fn a_silent_leader_puts_the_members_in_doubt() {
        let mut route = route();
        route.learn(server(1), Policy::FixedRoute, &block(5, 1, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.take_ask_members(), Some(server(1)), "the term is new");
        route.avoid(server(1));
        assert_eq!(route.take_ask_members(), None, "nobody has answered yet");
        route.answered(server(3));
        assert_eq!(route.take_ask_members(), Some(server(3)));
        route.answered(server(3));
        assert_eq!(route.take_ask_members(), None);
        route.set_members(std::iter::empty());
        assert_eq!(route.servers(), 3, "a node without a cluster knows nobody");
    }

    /// No block, however wild, takes the route outside its list.
    #[test]
    fn slots_beyond_the_list_are_nobody() {
        let mut route = route();
        route.learn(server(1), Policy::ReplicatedRoute, &block(1, 255, Status::Ok), Instant::ZERO);
        assert_eq!(route.pick(), Some(server(1)));
        route.learn(server(1), Policy::ReplicatedRoute, &block(2, 255, Status::NotApplied), Instant::ZERO);
        assert_eq!(route.leader(), None);
    }
}
