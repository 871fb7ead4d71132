//! Who is behind which address on the link: asked for by ARP when needed, believed only when asked, bounded.

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
    tries: u8,
    /// A question has left, so that an answer may come.
    is_out: bool,
    next_at: Instant,
}

struct Neighbor {
    mac: Option<MacAddr>,
    /// The address was configured: nothing from the link changes it.
    fixed: bool,
    /// The row stays whatever happens.
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
    /// Ask for these.
    pub(super) ask: SmallVec<[Ipv4Addr; 8]>,
    /// Packets given up, because nobody has answered.
    pub(super) lost: usize,
}

/// The neighbours.
pub(super) struct Table {
    limits: Limits,
    rows: BTreeMap<Ipv4Addr, Neighbor>,
    waiting: usize,
    /// Not later than the first question that is due.
    next_due: Option<Instant>,
    evicted: u64,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Table { limits, rows: BTreeMap::new(), waiting: 0, next_due: None, evicted: 0 }
    }

    /// Keeps a row for `ip` for good, with a fixed address if one is given. `false` where pinned rows fill the table.
    pub(super) fn pin(&mut self, ip: Ipv4Addr, mac: Option<MacAddr>) -> bool {
        if !self.make_room(ip) {
            return false;
        }
        let row = self.rows.entry(ip).or_insert_with(|| Neighbor::new(Instant::ZERO));
        row.pinned = true;
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

    /// Packets that wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
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
            row.asking = Some(Asking { tries: 0, is_out: false, next_at: now });
            self.next_due = Some(self.next_due.map_or(now, |at| at.min(now)));
        }
        if let Some(mac) = row.mac {
            return Resolved::Known(mac, packet);
        }
        if row.waiting.len() >= self.limits.waiting_each && row.waiting.pop_front().is_some() {
            // The newest is worth most: an older one will have been repeated.
            self.waiting -= 1;
            lost += 1;
        }
        if self.waiting >= self.limits.waiting_total {
            return Resolved::Waits { lost: lost + 1 };
        }
        row.waiting.push_back(packet);
        self.waiting += 1;
        Resolved::Waits { lost }
    }

    /// `mac` says that it has `ip`. The packets that waited for it, or `None` where nobody has asked.
    pub(super) fn answer(&mut self, now: Instant, ip: Ipv4Addr, mac: MacAddr) -> Option<VecDeque<Packet>> {
        let row = self.rows.get_mut(&ip)?;
        row.asking.take_if(|asking| asking.is_out)?;
        row.mac = Some(mac);
        row.fresh_until = now + self.limits.fresh;
        self.waiting -= row.waiting.len();
        Some(std::mem::take(&mut row.waiting))
    }

    /// The question for `ip` has left: from now on an answer is believed.
    pub(super) fn asked(&mut self, ip: Ipv4Addr) {
        let asking = self.rows.get_mut(&ip).and_then(|row| row.asking.as_mut());
        asking.into_iter().for_each(|asking| asking.is_out = true);
    }

    /// Questions that are due by `now`; each counts as tried, whether it can be sent or not. Costs a walk over the table when one is.
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
            if asking.next_at <= now && asking.tries >= tries {
                due.lost += row.waiting.len();
                *waiting -= row.waiting.len();
                row.waiting.clear();
                row.asking = None;
                row.mac = None;
                return row.pinned;
            }
            if asking.next_at <= now {
                asking.tries += 1;
                asking.next_at = now + retry;
                due.ask.push(*ip);
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
        due.ask.iter().for_each(|ip| table.asked(*ip));
        (due.ask.to_vec(), due.lost)
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

    #[test]
    fn pinned_rows_stay() {
        let mut table = Table::new(LIMITS);
        assert!(table.pin(ip(1), Some(MacAddr([4; 6]))) && table.pin(ip(2), None) && table.pin(ip(3), None));
        assert!(!table.pin(ip(4), None));
        assert_eq!(send(&mut table, 0, 4), Err(1), "no room for anybody else");
        assert!(table.answer(at(0), ip(1), MacAddr([6; 6])).is_none());
        assert_eq!(send(&mut table, 100_000, 1), Ok(MacAddr([4; 6])));
        assert!(asked(&mut table, 100_000).0.is_empty());
        assert_eq!(send(&mut table, 100_000, 2), Err(0));
        for ms in [100_000, 100_100, 100_200] {
            asked(&mut table, ms);
        }
        assert_eq!((table.len(), table.waiting()), (3, 0));
        // A member that has fallen silent keeps its row, but not the address that it had.
        learn(&mut table, 100_300, 3);
        for ms in [130_300, 130_400, 130_500] {
            assert_eq!(send(&mut table, ms, 3), Ok(MacAddr::derived(ip(3))));
            asked(&mut table, ms);
        }
        assert_eq!(send(&mut table, 130_501, 3), Err(0));
    }
}
