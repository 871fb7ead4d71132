//! IGMP version 2, the member's side: joining, answering queries, leaving. Which groups this host is in, and when it
//! says so next.

use smoltcp::wire::{IgmpPacket, IgmpRepr, IgmpVersion};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use trimaran_runtime::Instant;

/// Bytes of a message.
pub(super) const MESSAGE_BYTES: usize = 8;
/// Every host of the link; queries go there.
pub(super) const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Every router of the link; who leaves tells them.
pub(super) const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// Reports on joining: the first at once, in case it is lost a second one.
const REPORTS_ON_JOIN: u8 = 2;
/// Time between two reports of one group, at least, whoever asks how often.
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// What a query of version 1 allows for an answer.
const ANSWER_V1: Duration = Duration::from_secs(10);

/// What a message asks for, or why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// Who is in `group` (`None`: in any) shall say so within `within`.
    Query {
        group: Option<Ipv4Addr>,
        within: Duration,
    },
    Ignored,
    Malformed,
}

/// Reads a message.
pub(super) fn parse(bytes: &[u8]) -> Message {
    let Ok(packet) = IgmpPacket::new_checked(bytes) else { return Message::Malformed };
    if !packet.verify_checksum() {
        return Message::Malformed;
    }
    match IgmpRepr::parse(&packet) {
        Ok(IgmpRepr::MembershipQuery { max_resp_time, group_addr, version }) => {
            let within = match version {
                IgmpVersion::Version1 => ANSWER_V1,
                IgmpVersion::Version2 => Duration::from_micros(max_resp_time.total_micros()),
            };
            Message::Query { group: (!group_addr.is_unspecified()).then_some(group_addr), within }
        }
        Ok(_) => Message::Ignored,
        Err(_) => Message::Malformed,
    }
}

/// Something to tell the routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    Report(Ipv4Addr),
    Leave(Ipv4Addr),
}

impl Notice {
    /// Where it goes.
    pub(super) fn dst(self) -> Ipv4Addr {
        match self {
            Notice::Report(group) => group,
            Notice::Leave(_) => ALL_ROUTERS,
        }
    }

    /// Writes it into the first [`MESSAGE_BYTES`] of `bytes`, which are there.
    pub(super) fn emit(self, bytes: &mut [u8]) {
        let Some(bytes) = bytes.get_mut(..MESSAGE_BYTES) else { return };
        let repr = match self {
            Notice::Report(group_addr) => IgmpRepr::MembershipReport { group_addr, version: IgmpVersion::Version2 },
            Notice::Leave(group_addr) => IgmpRepr::LeaveGroup { group_addr },
        };
        repr.emit(&mut IgmpPacket::new_unchecked(bytes));
    }
}

struct Membership {
    /// Sockets that want it.
    users: usize,
    /// When to say so next.
    report_at: Option<Instant>,
    /// Reports left, the next one included.
    reports: u8,
    /// Until then it was told so lately that asking again changes nothing.
    quiet_until: Instant,
}

/// The groups of this host, at most so many as it was made for.
pub(super) struct Groups {
    limit: usize,
    members: BTreeMap<Ipv4Addr, Membership>,
    /// Left, and not yet told. Bounded by `limit`; a router finds out about what is beyond by itself.
    leaving: Vec<Ipv4Addr>,
}

impl Groups {
    pub(super) fn new(limit: usize) -> Self {
        Groups { limit, members: BTreeMap::new(), leaving: Vec::new() }
    }

    /// Joins `group` once more; `false` at the limit.
    pub(super) fn join(&mut self, group: Ipv4Addr) -> bool {
        if let Some(membership) = self.members.get_mut(&group) {
            membership.users += 1;
            return true;
        }
        if self.members.len() >= self.limit {
            return false;
        }
        self.leaving.retain(|left| *left != group);
        let membership = Membership {
            users: 1,
            report_at: Some(Instant::ZERO),
            reports: REPORTS_ON_JOIN,
            quiet_until: Instant::ZERO,
        };
        self.members.insert(group, membership);
        true
    }

    /// Undoes one join.
    pub(super) fn leave(&mut self, group: Ipv4Addr) {
        let Some(membership) = self.members.get_mut(&group) else { return };
        membership.users -= 1;
        if membership.users == 0 {
            self.members.remove(&group);
            if self.leaving.len() < self.limit {
                self.leaving.push(group);
            }
        }
    }

    pub(super) fn contains(&self, group: Ipv4Addr) -> bool {
        self.members.contains_key(&group)
    }

    /// A router asks. Answers are spread over the time that it gives, by addresses rather than by chance. `false` where one has to
    /// wait longer, because it was given less than [`REPORT_AGAIN`] before: a flood of queries makes no flood of reports.
    pub(super) fn query(&mut self, now: Instant, me: Ipv4Addr, asked: Option<Ipv4Addr>, within: Duration) -> bool {
        let mut in_time = true;
        for (group, membership) in &mut self.members {
            if asked.is_some_and(|asked| asked != *group) {
                continue;
            }
            let mixed = (me.to_bits() ^ group.to_bits()).wrapping_mul(0x9E37_79B9);
            let at = now + within.mul_f64(f64::from(mixed) / f64::from(u32::MAX));
            in_time &= at >= membership.quiet_until;
            let at = at.max(membership.quiet_until);
            membership.report_at = Some(membership.report_at.map_or(at, |earlier| earlier.min(at)));
            membership.reports = membership.reports.max(1);
        }
        in_time
    }

    /// The next notice that is due by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Notice> {
        if let Some(group) = self.leaving.pop() {
            return Some(Notice::Leave(group));
        }
        let mut members = self.members.iter_mut();
        let (group, membership) = members.find(|(_, member)| member.report_at.is_some_and(|at| at <= now))?;
        membership.reports = membership.reports.saturating_sub(1);
        membership.quiet_until = now + REPORT_AGAIN;
        membership.report_at = (membership.reports > 0).then_some(membership.quiet_until);
        Some(Notice::Report(*group))
    }

    /// When [`Groups::due`] has something next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if !self.leaving.is_empty() {
            return Some(Instant::ZERO);
        }
        self.members.values().filter_map(|membership| membership.report_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(239, 0, 0, 2);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn messages_byte_by_byte() {
        let mut bytes = [0xAA; 8];
        Notice::Report(GROUP).emit(&mut bytes);
        assert_eq!(bytes, [0x16, 0, 0xFA, 0xFD, 239, 0, 0, 1]);
        assert_eq!(parse(&bytes), Message::Ignored);
        Notice::Leave(GROUP).emit(&mut bytes);
        assert_eq!(bytes, [0x17, 0, 0xF9, 0xFD, 239, 0, 0, 1]);
        let general = [0x11, 100, 0xEE, 0x9B, 0, 0, 0, 0];
        assert_eq!(parse(&general), Message::Query { group: None, within: Duration::from_secs(10) });
        for cut in 0..8 {
            assert_eq!(parse(&general[..cut]), Message::Malformed, "{cut} bytes");
        }
        let mut flipped = general;
        flipped[1] = 99;
        assert_eq!(parse(&flipped), Message::Malformed);
    }

    #[test]
    fn a_join_is_told_twice_and_the_last_leave_once() {
        let mut groups = Groups::new(1);
        assert!(groups.join(GROUP) && groups.join(GROUP));
        assert!(!groups.join(OTHER), "the table is full");
        assert_eq!((groups.due(at(5)), groups.due(at(5))), (Some(Notice::Report(GROUP)), None));
        assert_eq!(groups.next_due(), Some(at(1_005)));
        assert_eq!((groups.due(at(1_005)), groups.due(at(9_000))), (Some(Notice::Report(GROUP)), None));
        assert_eq!(groups.next_due(), None);
        groups.leave(GROUP);
        assert!(groups.contains(GROUP));
        groups.leave(GROUP);
        assert!(!groups.contains(GROUP));
        assert_eq!((groups.due(at(1)), groups.due(at(1))), (Some(Notice::Leave(GROUP)), None));
    }

    #[test]
    fn a_query_is_answered_within_its_time_and_not_repeated() {
        let mut groups = Groups::new(2);
        assert!(groups.join(GROUP) && groups.join(OTHER));
        while groups.due(at(0)).is_some() {}
        while groups.due(at(1_000)).is_some() {}
        groups.query(at(2_000), ME, Some(OTHER), Duration::from_millis(300));
        assert_eq!((groups.due(at(2_300)), groups.due(at(9_000))), (Some(Notice::Report(OTHER)), None));
        groups.query(at(9_000), ME, None, Duration::from_millis(300));
        assert!(groups.due(at(9_300)).is_some() && groups.due(at(9_300)).is_some());
        assert_eq!(groups.due(at(20_000)), None);
    }

    #[test]
    fn a_flood_of_queries_makes_no_flood_of_reports() {
        let mut groups = Groups::new(1);
        assert!(groups.join(GROUP));
        while groups.due(at(0)).is_some() {}
        while groups.due(at(1_000)).is_some() {}
        let (mut reports, mut in_time) = (0, 0);
        for ms in 10_000..20_000 {
            in_time += usize::from(groups.query(at(ms), ME, Some(GROUP), Duration::from_millis(100)));
            reports += std::iter::from_fn(|| groups.due(at(ms))).count();
        }
        assert_eq!(reports, 10, "one a second");
        assert!((1..1_500).contains(&in_time), "{in_time} were answered in their time");
        assert!(groups.query(at(60_000), ME, None, Duration::ZERO), "and the next honest one is");
        assert!(groups.due(at(60_000)).is_some());
    }

    #[test]
    fn what_was_left_is_told_as_far_as_there_is_room() {
        let mut groups = Groups::new(2);
        for host in 0..9 {
            let group = Ipv4Addr::new(239, 0, 0, host);
            assert!(groups.join(group));
            groups.leave(group);
        }
        let leaves = std::iter::from_fn(|| groups.due(at(0)));
        assert_eq!(leaves.collect::<Vec<_>>().len(), 2);
    }
}
