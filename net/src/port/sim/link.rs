//! What a one-way link does to datagrams.

use crate::packet::Packet;
use crate::socket::Priority;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;
use std::time::Duration;

/// Payloads over this size are struck by [`Link::loss_large`].
pub const LARGE_BYTES: usize = 1000;

/// One direction between two addresses. Probabilities are between 0 and 1; faults are drawn independently for every
/// datagram.
///
/// Datagrams of one direction arrive in the order they were sent, whatever their delays, except where `reorder` strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Shortest time on the way.
    pub delay_min: Duration,
    /// Longest time on the way without a fault; drawn evenly between the two.
    pub delay_max: Duration,
    /// Chance to vanish.
    pub loss: f64,
    /// Chance to vanish for payloads of more than [`LARGE_BYTES`]: a path that carries less than it promises.
    pub loss_large: f64,
    /// Chance to arrive twice; the copy takes its own time.
    pub duplicate: f64,
    /// Chance to be held back by up to `reorder_delay`, while later datagrams pass.
    pub reorder: f64,
    /// Longest extra delay of a datagram that is held back.
    pub reorder_delay: Duration,
    /// Chance that one to eight bits of the payload flip and that the checksum does not tell.
    pub corrupt: f64,
    /// Chance that the payload is cut at a random length.
    pub truncate: f64,
}

impl Default for Link {
    /// A fault-free link of 5 to 15 microseconds.
    fn default() -> Self {
        Link::new(Duration::from_micros(5), Duration::from_micros(15))
    }
}

impl Link {
    /// A link without faults.
    pub const fn new(delay_min: Duration, delay_max: Duration) -> Self {
        Link {
            delay_min,
            delay_max,
            loss: 0.0,
            loss_large: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(1),
            corrupt: 0.0,
            truncate: 0.0,
        }
    }
}

/// How often each fault of a link has struck. All counts are datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Vanished, by [`Link::loss`].
    pub lost: u64,
    /// Vanished for their size.
    pub lost_large: u64,
    /// Sent on twice.
    pub duplicated: u64,
    /// Would have been sent on twice, but the filter forbade it or no buffer was left for the copy.
    pub not_duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Had bits flipped.
    pub corrupted: u64,
    /// Were cut short.
    pub truncated: u64,
}

/// A chance in units of 2^-32, so that drawing is one comparison of integers.
#[derive(Debug, Clone, Copy)]
struct Chance(u64);

impl Chance {
    fn new(probability: f64) -> Self {
        // `as` saturates and makes NaN zero.
        Chance((probability.clamp(0.0, 1.0) * 4_294_967_296.0) as u64)
    }

    fn strikes(self, rng: &mut Pcg64Mcg) -> bool {
        self.0 != 0 && u64::from(rng.next_u32()) < self.0
    }
}

/// Evenly between 0 and `limit` inclusive.
fn up_to(limit: u64, rng: &mut Pcg64Mcg) -> u64 {
    if limit == 0 { 0 } else { ((u128::from(rng.next_u64()) * (u128::from(limit) + 1)) >> 64) as u64 }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A [`Link`] made ready to be drawn from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Odds {
    delay_min_ns: u64,
    delay_span_ns: u64,
    reorder_delay_ns: u64,
    loss: Chance,
    loss_large: Chance,
    duplicate: Chance,
    reorder: Chance,
    corrupt: Chance,
    truncate: Chance,
    /// Any chance at all but loss and delay: the common fault-free link skips five tests.
    faulty: bool,
}

/// One datagram that comes out at the far end of a link.
#[derive(Debug)]
pub(crate) struct Emission {
    pub(crate) packet: Packet,
    pub(crate) delay_ns: u64,
    /// Keeps its place behind those sent earlier on the same link.
    pub(crate) in_order: bool,
}

impl Odds {
    pub(crate) fn new(link: &Link) -> Self {
        Odds {
            delay_min_ns: nanos(link.delay_min),
            delay_span_ns: nanos(link.delay_max.saturating_sub(link.delay_min)),
            reorder_delay_ns: nanos(link.reorder_delay),
            loss: Chance::new(link.loss),
            loss_large: Chance::new(link.loss_large),
            duplicate: Chance::new(link.duplicate),
            reorder: Chance::new(link.reorder),
            corrupt: Chance::new(link.corrupt),
            truncate: Chance::new(link.truncate),
            faulty: [link.duplicate, link.reorder, link.corrupt, link.truncate].iter().any(|chance| *chance > 0.0),
        }
    }

    /// Sends one datagram through the link; `emit` gets what comes out, at most two of it.
    pub(crate) fn pass(
        &self,
        mut packet: Packet,
        rng: &mut Pcg64Mcg,
        counters: &mut FaultCounters,
        may_duplicate: impl FnOnce(&mut Packet) -> bool,
        mut emit: impl FnMut(Emission),
    ) {
        if self.loss.strikes(rng) {
            counters.lost += 1;
            return;
        }
        if packet.len() > LARGE_BYTES && self.loss_large.strikes(rng) {
            counters.lost_large += 1;
            return;
        }
        if self.faulty {
            if self.duplicate.strikes(rng) {
                let copy = if may_duplicate(&mut packet) { copy(&packet) } else { None };
                match copy {
                    Some(copy) => {
                        counters.duplicated += 1;
                        emit(self.delayed(copy, rng, counters));
                    }
                    None => counters.not_duplicated += 1,
                }
            }
            if !packet.is_empty() && self.corrupt.strikes(rng) {
                counters.corrupted += 1;
                flip_bits(packet.data_mut(), rng);
            }
            if !packet.is_empty() && self.truncate.strikes(rng) {
                counters.truncated += 1;
                let kept = up_to(packet.len() as u64 - 1, rng);
                packet.truncate(kept as usize);
            }
        }
        emit(self.delayed(packet, rng, counters));
    }

    fn delayed(&self, packet: Packet, rng: &mut Pcg64Mcg, counters: &mut FaultCounters) -> Emission {
        let delay_ns = self.delay_min_ns.saturating_add(up_to(self.delay_span_ns, rng));
        if !self.reorder.strikes(rng) {
            return Emission { packet, delay_ns, in_order: true };
        }
        counters.reordered += 1;
        Emission { packet, delay_ns: delay_ns.saturating_add(up_to(self.reorder_delay_ns, rng)), in_order: false }
    }
}

/// The same datagram in another buffer; `None` where the pool is at its limit.
pub(super) fn copy(packet: &Packet) -> Option<Packet> {
    let mut copy = Packet::alloc(Priority::Normal)?;
    copy.extend_from_slice(packet.data()).ok()?;
    copy.set_src(packet.src());
    copy.set_dst(packet.dst());
    Some(copy)
}

/// Flips one to eight different bits of `data`, which is not empty.
fn flip_bits(data: &mut [u8], rng: &mut Pcg64Mcg) {
    let at = up_to(data.len() as u64 - 1, rng) as usize;
    // Bits of one byte, so that no flip undoes another.
    data[at] ^= up_to(254, rng) as u8 + 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_pcg::rand_core::SeedableRng;

    fn through(link: &Link, seed: u64, payload: &[u8]) -> (Vec<Emission>, FaultCounters) {
        let mut packet = Packet::alloc(Priority::Normal).unwrap();
        packet.extend_from_slice(payload).unwrap();
        let (mut out, mut counters) = (Vec::new(), FaultCounters::default());
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        Odds::new(link).pass(packet, &mut rng, &mut counters, |_| true, |emission| out.push(emission));
        (out, counters)
    }

    proptest! {
        #[test]
        fn delays_stay_in_their_bounds(seed: u64, min in 0..5_000_000u64, span in 0..5_000_000u64, extra in 0..9_000u64) {
            let mut link = Link::new(Duration::from_nanos(min), Duration::from_nanos(min + span));
            let (out, _) = through(&link, seed, b"x");
            prop_assert!((min..=min + span).contains(&out[0].delay_ns) && out[0].in_order);
            link.reorder = 1.0;
            link.reorder_delay = Duration::from_nanos(extra);
            let (out, _) = through(&link, seed, b"x");
            prop_assert!((min..=min + span + extra).contains(&out[0].delay_ns) && !out[0].in_order);
        }

        #[test]
        fn corruption_changes_something_but_never_the_length(seed: u64, payload in prop::collection::vec(any::<u8>(), 1..90)) {
            let (out, counters) = through(&Link { corrupt: 1.0, ..Link::default() }, seed, &payload);
            prop_assert_ne!(out[0].packet.data(), &payload[..]);
            prop_assert_eq!(out[0].packet.len(), payload.len());
            prop_assert_eq!(counters, FaultCounters { corrupted: 1, ..FaultCounters::default() });
        }

        #[test]
        fn truncation_keeps_a_true_prefix(seed: u64, payload in prop::collection::vec(any::<u8>(), 1..90)) {
            let (out, counters) = through(&Link { truncate: 1.0, ..Link::default() }, seed, &payload);
            prop_assert!(out[0].packet.len() < payload.len());
            prop_assert!(payload.starts_with(out[0].packet.data()));
            prop_assert_eq!(counters.truncated, 1);
        }
    }

    #[test]
    fn a_duplicate_is_whole_even_where_the_original_is_not() {
        let link = Link { duplicate: 1.0, truncate: 1.0, ..Link::default() };
        let (out, counters) = through(&link, 3, b"payload");
        assert_eq!(out.len(), 2);
        assert_eq!(out[0].packet.data(), b"payload");
        assert!(out[1].packet.len() < 7);
        assert_eq!((counters.duplicated, counters.truncated), (1, 1));
    }

    #[test]
    fn only_what_is_large_is_lost_for_its_size() {
        let link = Link { loss_large: 1.0, ..Link::default() };
        let (out, counters) = through(&link, 3, &[7; LARGE_BYTES]);
        assert_eq!((out.len(), counters), (1, FaultCounters::default()));
        let (out, counters) = through(&link, 3, &[7; LARGE_BYTES + 1]);
        assert_eq!((out.len(), counters.lost_large), (0, 1));
    }

    #[test]
    fn chances_are_met_in_the_long_run() {
        let link = Link { loss: 0.25, ..Link::default() };
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let mut counters = FaultCounters::default();
        let odds = Odds::new(&link);
        for _ in 0..40_000 {
            let packet = Packet::alloc(Priority::Normal).unwrap();
            odds.pass(packet, &mut rng, &mut counters, |_| true, |_| {});
        }
        assert!((9_500..10_500).contains(&counters.lost), "{}", counters.lost);
    }

    #[test]
    fn an_empty_datagram_cannot_be_damaged() {
        let (out, counters) = through(&Link { corrupt: 1.0, truncate: 1.0, ..Link::default() }, 1, b"");
        assert_eq!((out.len(), counters), (1, FaultCounters::default()));
    }
}
