//! Losing packets on purpose, as a bad network does: for benchmarks and for whoever wants to see what happens.

use std::time::Duration;
use trimaran_net::{FaultInjector, Link, Port};

/// Packets that may wait while the port takes none; nothing waits otherwise, since nothing is delayed.
const HELD_PACKETS: usize = 4096;
const MILLION: u32 = 1_000_000;

/// A share of the packets that are sent vanishes. With the same at every end each packet is in danger once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// So many of a million.
    pub per_million: u32,
    /// Equal seeds lose the same packets, by their number.
    pub seed: u64,
}

impl Loss {
    /// Cores lose different packets.
    pub(super) fn of_core(self, core: usize) -> Loss {
        Loss { seed: self.seed ^ (core as u64) << 32, ..self }
    }

    pub(super) fn inject<P: Port>(self, port: P) -> FaultInjector<P> {
        let link = Link {
            loss: f64::from(self.per_million) / f64::from(MILLION),
            ..Link::new(Duration::ZERO, Duration::ZERO)
        };
        FaultInjector::new(port, link, self.seed, HELD_PACKETS)
    }
}

/// Reads a share such as `0.001`, from 0 to 1, as so many of a million.
///
/// # Errors
/// What was expected.
pub fn parse_share(text: &str) -> Result<u32, String> {
    let share: Option<f64> = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    let share = share.ok_or_else(|| "a share from 0 to 1, such as 0.001".to_owned())?;
    Ok((share * f64::from(MILLION)).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddrV4};
    use trimaran_net::{Packet, PacketQueue, Priority, SimNet, SocketOptions};
    use trimaran_runtime::Instant;

    #[test]
    fn shares_are_counted_in_millionths() {
        assert_eq!(parse_share("0.001"), Ok(1000));
        assert_eq!((parse_share("0"), parse_share("1")), (Ok(0), Ok(MILLION)));
        for wrong in ["", "1.1", "-0.1", "NaN", "0.1%"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }

    /// What is not lost leaves in the turn in which it was sent.
    #[test]
    fn a_share_is_lost_and_the_rest_leaves_at_once() {
        let sent = |per_million| {
            let here = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1);
            let mut port = Loss { per_million, seed: 3 }.inject(SimNet::new(1).port(*here.ip()));
            port.bind(here, &SocketOptions::default()).expect("free");
            for _ in 0..1000 {
                let mut queue = PacketQueue::new(1);
                let mut packet = Packet::alloc(Priority::Normal).expect("a buffer");
                packet.set_src(here);
                packet.set_dst(here);
                assert!(queue.push(packet).is_ok());
                assert_eq!(port.tx_burst(Instant::ZERO, &mut queue), 1);
            }
            port.stats().tx_packets
        };
        assert_eq!((sent(0), sent(MILLION)), (1000, 0));
        assert!((850..950).contains(&sent(100_000)), "{}", sent(100_000));
    }
}
