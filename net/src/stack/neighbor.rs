//! Who is behind which address on the link: asked for by ARP when needed, believed only when asked, bounded.
//!
//! Whoever sends from addresses that nobody has makes this host ask for each of them, and keep its answers meanwhile. So pinned
//! neighbours share nothing with the others: neither rows, nor places for packets that wait, nor the pace of questions.

use super::ethernet::MacAddr;
use crate::packet::Packet;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Limits of the table and the pace of its questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) neighbors: usize,
    pub(super) waiting_each: usize,
    pub(super) waiting_total: usize,
    pub(super) fresh: Duration,
    pub(super) retry: Duration,
    pub(super) tries: u8,
}

/// Asked for, not answered yet.
#[derive(Debug, Clone, Copy)]
struct Asking {
    /// How often it was due.
    turns: u8,
    /// Questions that have left: with the first an answer may come.
    sent: u8,
    next_at: Instant,
}

impl Asking {
    fn at(now: Instant) -> Self {
        Asking { turns: 0, sent: 0, next_at: now }
    }

    /// Nobody is there. Packets wait for so many turns and no longer, whether questions have left or not; but an address that was once
    /// confirmed is given up only after as many that nobody has answered.
    fn is_over(&self, has_address: bool, tries: u8) -> bool {
        (if has_address { self.sent } else { self.turns }) >= tries
    }
}

struct Neighbor {
    mac: Option<MacAddr>,
    /// The address was configured: nothing from the link changes it.
    fixed: bool,
    /// The row stays whatever happens, and its address until there is another.
    pinned: bool,
    fresh_until: Instant,
    used_at: Instant,
    asking: Option<Asking>,
    waiting: VecDeque<Packet>,
}

impl Neighbor {
    fn new(now: Instant) -> Self {
        Neighbor {
            mac: None,
            fixed: false,
            pinned: false,
            fresh_until: Instant::ZERO,
            used_at: now,
            asking: None,
            waiting: VecDeque::new(),
        }
    }
}

/// What the table says about a packet's next hop.
#[derive(Debug)]
pub(super) enum Resolved {
    /// Send it there.
    Known(MacAddr, Packet),
    /// Kept until an answer comes or [`Table::due`] gives up; so many others had to go for it.
    Waits { lost: usize },
}

/// What is to be done about questions that are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Ask for these pinned neighbours, each of which is due once in a while however many others are.
    pub(super) ask_pinned: SmallVec<[Ipv4Addr; 8]>,
    /// Then for these, as far as the pace allows.
    pub(super) ask: SmallVec<[Ipv4Addr; 8]>,
    /// Packets given up, because nobody has answered.
    pub(super) lost: usize,
}

/// The neighbours.
pub(super) struct Table {
    limits: Limits,
    rows: BTreeMap<Ipv4Addr, Neighbor>,
    pinned: usize,
    /// Packets that wait for neighbours that are not pinned.
    waiting: usize,
    /// Not later than the first question that is due.
    next_due: Option<Instant>,
    evicted: u64,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Table { limits, rows: BTreeMap::new(), pinned: 0, waiting: 0, next_due: None, evicted: 0 }
    }

    /// Keeps a row for `ip` for good, with a fixed address if one is given. `false` where pinned rows have their half of the table.
    pub(super) fn pin(&mut self, ip: Ipv4Addr, mac: Option<MacAddr>) -> bool {
        let is_new = self.rows.get(&ip).is_none_or(|row| !row.pinned);
        if is_new && (self.pinned >= self.limits.neighbors.div_ceil(2) || !self.make_room(ip)) {
            return false;
        }
        let row = self.rows.entry(ip).or_insert_with(|| Neighbor::new(Instant::ZERO));
        if is_new {
            row.pinned = true;
            self.pinned += 1;
            self.waiting -= row.waiting.len();
        }
        if mac.is_some() {
            row.mac = mac;
            row.fixed = true;
            row.asking = None;
        }
        true
    }

    /// Rows, for tests of the bound.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows that are pinned.
    pub(super) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Packets that wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.rows.values().map(|row| row.waiting.len()).sum()
    }

    /// Rows that had to go for others.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The address for `ip` where nothing has to be asked. A short cut to what [`Table::resolve`] would say.
    #[inline]
    pub(super) fn known(&mut self, now: Instant, ip: Ipv4Addr) -> Option<MacAddr> {
        let row = self.rows.get_mut(&ip)?;
        if !row.fixed && row.asking.is_none() && row.fresh_until <= now {
            return None;
        }
        row.used_at = now;
        row.mac
    }

    /// Where to send a packet for `ip`, or keeps it and makes the question due at once. An address that was confirmed
    /// a while ago is used and asked for again.
    pub(super) fn resolve(&mut self, now: Instant, ip: Ipv4Addr, packet: Packet) -> Resolved {
        let mut lost = 0;
        if !self.rows.contains_key(&ip) {
            lost += self.waiting;
            if !self.make_room(ip) {
                return Resolved::Waits { lost: 1 };
            }
            lost -= self.waiting;
        }
        let row = self.rows.entry(ip).or_insert_with(|| Neighbor::new(now));
        row.used_at = now;
        if !row.fixed && row.asking.is_none() && (row.mac.is_none() || row.fresh_until <= now) {
            row.asking = Some(Asking::at(now));
            self.next_due = Some(self.next_due.map_or(now, |at| at.min(now)));
        }
        if let Some(mac) = row.mac {
            return Resolved::Known(mac, packet);
        }
        // Those that wait for pinned neighbours are bounded for each alone.
        let of_all = usize::from(!row.pinned);
        if row.waiting.len() >= self.limits.waiting_each && row.waiting.pop_front().is_some() {
            // The newest is worth most: an older one will have been repeated.
            self.waiting -= of_all;
            lost += 1;
        }
        if !row.pinned && self.waiting >= self.limits.waiting_total {
            return Resolved::Waits { lost: lost + 1 };
        }
        row.waiting.push_back(packet);
        self.waiting += of_all;
        Resolved::Waits { lost }
    }

    /// `mac` says that it has `ip`. The packets that waited for it, or `None` where nobody has asked.
    pub(super) fn answer(&mut self, now: Instant, ip: Ipv4Addr, mac: MacAddr) -> Option<VecDeque<Packet>> {
        let row = self.rows.get_mut(&ip)?;
        row.asking.take_if(|asking| asking.sent > 0)?;
        row.mac = Some(mac);
        row.fresh_until = now + self.limits.fresh;
        if !row.pinned {
            self.waiting -= row.waiting.len();
        }
        Some(std::mem::take(&mut row.waiting))
    }

    /// The question for `ip` has left: it counts, and from now on an answer is believed.
    pub(super) fn asked(&mut self, ip: Ipv4Addr) {
        let asking = self.rows.get_mut(&ip).and_then(|row| row.asking.as_mut());
        asking.into_iter().for_each(|asking| asking.sent = asking.sent.saturating_add(1));
    }

    /// Questions that are due by `now`. What can not be sent is due again after the same pause. Costs a walk over the table when one is.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        if self.next_due.is_none_or(|at| at > now) {
            return due;
        }
        let mut next_due: Option<Instant> = None;
        let Limits { retry, tries, .. } = self.limits;
        let waiting = &mut self.waiting;
        self.rows.retain(|ip, row| {
            let Some(asking) = &mut row.asking else { return true };
            let is_due = asking.next_at <= now;
            if is_due && asking.is_over(row.mac.is_some(), tries) {
                due.lost += row.waiting.len();
                if row.pinned {
                    // Its address, if it has one, is used on and asked for with the next packet again.
                    row.waiting.clear();
                    row.asking = None;
                } else {
                    *waiting -= row.waiting.len();
                }
                return row.pinned;
            }
            if is_due {
                asking.turns = asking.turns.saturating_add(1);
                asking.next_at = now + retry;
                if row.pinned { &mut due.ask_pinned } else { &mut due.ask }.push(*ip);
            }
            next_due = Some(next_due.map_or(asking.next_at, |at| at.min(asking.next_at)));
            true
        });
        self.next_due = next_due;
        due
    }

    /// When [`Table::due`] has something to do, perhaps.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// Sees to it that a row for `ip` exists or fits. Where the table is full, the one that goes is a row that nobody
    /// has answered for, else the one longest unused; costs a walk over the table.
    fn make_room(&mut self, ip: Ipv4Addr) -> bool {
        if self.rows.contains_key(&ip) || self.rows.len() < self.limits.neighbors {
            return true;
        }
        let unpinned = self.rows.iter().filter(|(_, row)| !row.pinned);
        let Some(victim) = unpinned.min_by_key(|(_, row)| (row.mac.is_some(), row.used_at)).map(|(ip, _)| *ip) else {
            return false;
        };
        if let Some(row) = self.rows.remove(&victim) {
            self.waiting -= row.waiting.len();
            self.evicted += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Priority;

    const LIMITS: Limits = Limits {
        neighbors: 3,
        waiting_each: 2,
        waiting_total: 3,
        fresh: Duration::from_secs(30),
        retry: Duration::from_millis(100),
        tries: 2,
    };

    fn ip(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, host)
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// As the stack does it.
    fn send(table: &mut Table, ms: u64, host: u8) -> Result<MacAddr, usize> {
        if let Some(mac) = table.known(at(ms), ip(host)) {
            return Ok(mac);
        }
        match table.resolve(at(ms), ip(host), Packet::alloc(Priority::Normal).unwrap()) {
            Resolved::Known(mac, _) => Ok(mac),
            Resolved::Waits { lost } => Err(lost),
        }
    }

    fn asked(table: &mut Table, ms: u64) -> (Vec<Ipv4Addr>, usize) {
        let due = table.due(at(ms));
        let ask: Vec<_> = due.ask_pinned.into_iter().chain(due.ask).collect();
        ask.iter().for_each(|ip| table.asked(*ip));
        (ask, due.lost)
    }

    fn learn(table: &mut Table, ms: u64, host: u8) {
        assert_eq!(send(table, ms, host), Err(0));
        asked(table, ms);
        assert_eq!(table.answer(at(ms), ip(host), MacAddr::derived(ip(host))).unwrap().len(), 1);
    }

    #[test]
    fn asked_answered_used() {
        let mut table = Table::new(LIMITS);
        assert_eq!(send(&mut table, 0, 1), Err(0));
        assert!(table.answer(at(0), ip(1), MacAddr::BROADCAST).is_none(), "no question was due yet");
        assert_eq!(table.due(at(0)).ask[..], [ip(1)]);
        assert!(table.answer(at(0), ip(1), MacAddr::BROADCAST).is_none(), "the question could not be sent");
        table.asked(ip(1));
        assert_eq!(asked(&mut table, 99), (vec![], 0));
        assert_eq!(asked(&mut table, 100), (vec![ip(1)], 0));
        let mac = MacAddr::derived(ip(1));
        assert!(table.answer(at(101), ip(2), mac).is_none(), "nobody asked for that one");
        assert_eq!(table.answer(at(101), ip(1), mac).unwrap().len(), 1);
        assert!(table.answer(at(102), ip(1), MacAddr([4; 6])).is_none(), "answered already");
        assert_eq!(send(&mut table, 103, 1), Ok(mac));
        assert_eq!((table.waiting(), asked(&mut table, 10_000)), (0, (vec![], 0)));
    }

    #[test]
    fn an_old_address_is_used_and_asked_for_again_and_forgotten_when_silent() {
        let mut table = Table::new(LIMITS);
        learn(&mut table, 0, 1);
        assert!(send(&mut table, 29_999, 1).is_ok());
        assert!(asked(&mut table, 29_999).0.is_empty());
        assert!(send(&mut table, 30_000, 1).is_ok());
        assert_eq!(asked(&mut table, 30_000).0, [ip(1)]);
        assert_eq!(asked(&mut table, 30_100).0, [ip(1)]);
        assert_eq!((asked(&mut table, 30_200), table.len()), ((vec![], 0), 0));
        assert_eq!(send(&mut table, 30_300, 1), Err(0));
    }

    #[test]
    fn silence_costs_the_packets_that_wait() {
        let mut table = Table::new(LIMITS);
        assert_eq!((send(&mut table, 0, 1), send(&mut table, 0, 1)), (Err(0), Err(0)));
        assert_eq!(send(&mut table, 0, 1), Err(1), "two wait, the oldest goes");
        assert_eq!((send(&mut table, 0, 2), send(&mut table, 0, 3)), (Err(0), Err(1)));
        assert_eq!(table.waiting(), 3);
        asked(&mut table, 0);
        asked(&mut table, 100);
        assert_eq!(asked(&mut table, 200), (vec![], 3));
        assert_eq!((table.len(), table.waiting(), table.next_due()), (0, 0, None));
    }

    #[test]
    fn who_goes_when_the_table_is_full() {
        let mut table = Table::new(LIMITS);
        assert!(table.pin(ip(1), Some(MacAddr([4; 6]))));
        learn(&mut table, 1, 2);
        assert_eq!(send(&mut table, 2, 3), Err(0));
        assert_eq!(send(&mut table, 3, 4), Err(1), "what nobody answered for goes first, with its packet");
        asked(&mut table, 3);
        assert!(table.answer(at(3), ip(4), MacAddr([6; 6])).is_some());
        assert_eq!(send(&mut table, 4, 5), Err(0), "then what was used longest ago");
        assert!(send(&mut table, 5, 4).is_ok() && send(&mut table, 5, 1).is_ok());
        assert_eq!((table.len(), table.evicted()), (3, 2));
    }

    /// Half of the table, so that strangers have rooms, too.
    #[test]
    fn pinned_rows_stay() {
        let mut table = Table::new(LIMITS);
        assert!(table.pin(ip(1), Some(MacAddr([4; 6]))) && table.pin(ip(2), None) && table.pin(ip(2), None));
        assert!(!table.pin(ip(3), None));
        assert_eq!((send(&mut table, 0, 4), send(&mut table, 0, 5)), (Err(0), Err(1)), "one row for all others");
        assert!(table.answer(at(0), ip(1), MacAddr([6; 6])).is_none());
        assert_eq!(send(&mut table, 100_000, 1), Ok(MacAddr([4; 6])));
        assert_eq!(asked(&mut table, 100_000).0, [ip(5)]);
        assert_eq!(send(&mut table, 100_000, 2), Err(0));
        for ms in [100_000, 100_100, 100_200] {
            asked(&mut table, ms);
        }
        assert_eq!((table.len(), table.waiting()), (2, 0));
        assert_eq!(
            send(&mut table, 100_201, 2),
            Err(0),
            "silence has cost the packet, and is no reason to ask no more"
        );
        assert_eq!(asked(&mut table, 100_201).0, [ip(2)]);
    }

    /// A member that falls silent, or whose answers are lost, keeps its address; a new one counts at once.
    #[test]
    fn a_pinned_address_is_used_until_there_is_another() {
        let mut table = Table::new(LIMITS);
        assert!(table.pin(ip(1), None));
        learn(&mut table, 0, 1);
        let mut questions = 0;
        for ms in (30_000..60_000).step_by(50) {
            assert_eq!(send(&mut table, ms, 1), Ok(MacAddr::derived(ip(1))));
            questions += asked(&mut table, ms).0.len();
        }
        assert!((200..=300).contains(&questions), "{questions} in 30 s, 100 ms apart and a pause after two");
        send(&mut table, 60_000, 1).unwrap();
        asked(&mut table, 60_000);
        assert!(table.answer(at(60_000), ip(1), MacAddr([4; 6])).is_some());
        assert_eq!(send(&mut table, 60_001, 1), Ok(MacAddr([4; 6])));
    }

    #[test]
    fn a_question_that_has_not_left_is_no_try() {
        let mut table = Table::new(LIMITS);
        learn(&mut table, 0, 1);
        for ms in (30_000..40_000).step_by(100) {
            assert_eq!(send(&mut table, ms, 1), Ok(MacAddr::derived(ip(1))));
            assert_eq!(table.due(at(ms)).ask[..], [ip(1)], "due, and nothing takes it");
        }
        for ms in [40_000, 40_100] {
            assert_eq!(asked(&mut table, ms).0, [ip(1)]);
        }
        asked(&mut table, 40_200);
        assert_eq!((table.len(), send(&mut table, 40_300, 1)), (0, Err(0)), "two that left");
        // A packet waits no longer for that.
        let lost: usize = [40_300, 40_400, 40_500].map(|ms| table.due(at(ms)).lost).iter().sum();
        assert_eq!((lost, table.len()), (1, 0));
    }

    #[test]
    fn packets_for_pinned_rows_have_places_of_their_own() {
        let mut table = Table::new(LIMITS);
        // What waits before its row is pinned moves.
        assert_eq!(send(&mut table, 0, 1), Err(0));
        assert!(table.pin(ip(1), None));
        assert_eq!((send(&mut table, 0, 2), send(&mut table, 0, 2)), (Err(0), Err(0)));
        assert_eq!((send(&mut table, 0, 3), send(&mut table, 0, 3)), (Err(0), Err(1)), "three for all others");
        assert_eq!((send(&mut table, 0, 1), send(&mut table, 0, 1)), (Err(0), Err(1)), "and two for this one");
        let due = table.due(at(0));
        assert_eq!((&due.ask_pinned[..], &due.ask[..]), (&[ip(1)][..], &[ip(2), ip(3)][..]));
        [1, 2].iter().for_each(|host| table.asked(ip(*host)));
        let answered = [1, 2].map(|host| table.answer(at(0), ip(host), MacAddr([4; 6])).map(|packets| packets.len()));
        assert_eq!((answered, table.waiting()), ([Some(2), Some(2)], 1));
        assert_eq!((send(&mut table, 1, 3), send(&mut table, 1, 3)), (Err(0), Err(1)), "their places are free again");
        for ms in [100, 200] {
            asked(&mut table, ms);
        }
        assert_eq!((table.waiting(), table.len()), (0, 2));
    }
}
