//! The stack for raw frames under whatever a link may bring, seeded: good frames, damaged ones, forged answers, datagrams to
//! anybody, at any pace. After every step its tables are within their limits, what it said is within its rates, every frame it
//! sends is sound, and goes only to stations that have answered its own question.

mod common;

use common::frame::{arp, check_sent, checksum, datagram, echo, ethernet, from_b, ipv4, udp};
use common::{A, addr, packet};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;
use trimaran_net::{MacAddr, Stack, StackConfig, StackCounters, pool};
use trimaran_runtime::Instant;

const SEEDS: u64 = 200;
const STEPS: usize = 1_000;
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 9);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);

/// Limits so small that every run meets each of them.
fn config() -> StackConfig {
    StackConfig {
        gateway: Some(GATEWAY),
        neighbors: 8,
        waiting_each: 3,
        waiting_total: 10,
        fresh: Duration::from_secs(2),
        arp_asks_per_s: 20,
        arp_answers_per_s: 4,
        icmp_answers_per_s: 3,
        groups: 4,
        queued_frames: 32,
        ..StackConfig::new(A, 16)
    }
}

struct Dice(Pcg64Mcg);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn odds(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of twenty hosts of the link, or of elsewhere.
    fn host(&mut self) -> Ipv4Addr {
        match self.below(12) {
            0 => Ipv4Addr::new(192, 168, self.byte(), self.byte()),
            1 => MEMBER,
            2 => GATEWAY,
            _ => Ipv4Addr::new(10, 0, 0, 2 + self.below(20) as u8),
        }
    }

    fn group(&mut self) -> Ipv4Addr {
        Ipv4Addr::new(239, 0, 0, self.below(6) as u8)
    }

    fn bytes(&mut self, limit: u64) -> Vec<u8> {
        (0..self.below(limit)).map(|_| self.byte()).collect()
    }
}

/// A stack, the link around it as it should see it, and what it has done so far.
struct Scene {
    dice: Dice,
    now: Instant,
    stack: Stack,
    /// Who has answered a question of the stack, and from where.
    answered: BTreeMap<Ipv4Addr, MacAddr>,
    /// Questions that are out.
    asked: BTreeSet<Ipv4Addr>,
    joins: u64,
    reports: BTreeMap<Ipv4Addr, Instant>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut stack = Stack::new(config(), MacAddr::derived(A), 1_514);
        assert!(stack.pin(MEMBER, Some(MacAddr::derived(MEMBER))));
        let answered = BTreeMap::from([(MEMBER, MacAddr::derived(MEMBER))]);
        let dice = Dice(Pcg64Mcg::seed_from_u64(seed));
        let now = Instant::from_nanos(1_000_000_000);
        Scene { dice, now, stack, answered, asked: BTreeSet::new(), joins: 0, reports: BTreeMap::new() }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..40 => {
                let mut frame = self.good_frame();
                if self.dice.odds(50) {
                    self.damage(&mut frame);
                }
                self.receive(&frame);
            }
            40..45 => {
                let frame = self.dice.bytes(1_600);
                self.receive(&frame);
            }
            45..60 => self.answer(),
            60..80 => {
                let mut sent = packet(&[7; 20]);
                let to = if self.dice.odds(5) { self.dice.group() } else { self.dice.host() };
                sent.set_dst(addr(to, 9));
                self.stack.send(self.now, sent);
            }
            80..85 => {
                let group = self.dice.group();
                self.joins += u64::from(self.stack.join(group));
                self.reports.remove(&group);
            }
            85..88 => {
                let group = self.dice.group();
                self.stack.leave(group);
                self.reports.remove(&group);
            }
            88..99 => {
                let micros = self.dice.below(30_000);
                self.pass(Duration::from_micros(micros));
            }
            _ => {
                let millis = if self.dice.odds(20) { self.dice.below(5_000) } else { 0 };
                self.pass(Duration::from_millis(millis));
            }
        }
        if self.dice.odds(70) {
            self.stack.advance(self.now);
        }
        self.judge();
    }

    fn pass(&mut self, time: Duration) {
        self.transmit();
        self.now += time;
    }

    fn good_frame(&mut self) -> Vec<u8> {
        let from = self.dice.host();
        let framed =
            |ethertype, payload: &[u8]| ethernet(MacAddr::derived(A), MacAddr::derived(from), ethertype, payload);
        match self.dice.below(7) {
            0 => ethernet(MacAddr::BROADCAST, MacAddr::derived(from), 0x0806, &arp(1, from, A)),
            1 => framed(0x0806, &arp(1, from, from)),
            2 => framed(0x0800, &ipv4(from, A, 1, &echo(&self.dice.bytes(1_400)))),
            3 => {
                let group = self.dice.group();
                let carried = ipv4(from, group, 17, &udp(from, group, b"all"));
                ethernet(MacAddr::group(group), MacAddr::derived(from), 0x0800, &carried)
            }
            4 => {
                let group = if self.dice.odds(50) { self.dice.group() } else { Ipv4Addr::UNSPECIFIED };
                let within = 1 + self.dice.below(20) as u8;
                let mut query = [&[0x11, within, 0, 0][..], &group.octets()].concat();
                let sum = checksum(&[&query]);
                query[2..4].copy_from_slice(&sum);
                let hosts = Ipv4Addr::new(224, 0, 0, 1);
                ethernet(MacAddr::group(hosts), MacAddr::derived(from), 0x0800, &ipv4(from, hosts, 2, &query))
            }
            5 => from_b(0x0800, &datagram()),
            _ => framed(0x0800, &ipv4(from, A, 17, &udp(from, A, &self.dice.bytes(1_400)))),
        }
    }

    /// Bytes change, go or come; sometimes the checksum of the IPv4 header is made right again.
    fn damage(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.dice.below(3) {
            let at = self.dice.below(frame.len().clamp(1, 60) as u64) as usize;
            match self.dice.below(4) {
                0 => frame.truncate(at),
                1 => frame.insert(at.min(frame.len()), self.dice.byte()),
                _ => {
                    let value = self.dice.byte();
                    frame.get_mut(at).into_iter().for_each(|byte| *byte = value);
                }
            }
        }
        if frame.len() > 34 && self.dice.odds(50) {
            frame[24..26].fill(0);
            let end = (14 + usize::from(frame[14] & 15) * 4).min(frame.len());
            let sum = checksum(&[&frame[14..end]]);
            frame[24..26].copy_from_slice(&sum);
        }
    }

    /// Somebody says that an address is his: the host itself, asked or not, or a thief.
    fn answer(&mut self) {
        let outstanding = self.asked.iter().copied().nth(self.dice.below(8) as usize);
        let ip = outstanding.unwrap_or_else(|| self.dice.host());
        let mut frame = ethernet(MacAddr::derived(A), MacAddr::derived(ip), 0x0806, &arp(2, ip, A));
        if self.dice.odds(30) {
            let thief = MacAddr([6, 6, 6, 6, 6, self.dice.byte()]);
            frame[6..12].copy_from_slice(&thief.0);
            if self.dice.odds(70) {
                frame[22..28].copy_from_slice(&thief.0);
            }
        }
        self.receive(&frame);
    }

    fn receive(&mut self, frame: &[u8]) {
        // The answer to a question that has not left yet would be another story.
        self.transmit();
        // A frame that the model takes for an answer, damaged or not.
        let answer = frame.len() >= 42
            && frame[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]
            && frame[6..12] == frame[22..28]
            && frame[38..42] == A.octets();
        if answer {
            let ip = Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
            if self.asked.remove(&ip) {
                self.answered.insert(ip, MacAddr(frame[6..12].try_into().unwrap()));
            }
        }
        self.stack.receive(self.now, packet(frame));
    }

    fn judge(&mut self) {
        let (rows, waiting, _) = self.stack.neighbors();
        assert!(rows <= 8 && waiting <= 10, "{rows} rows, {waiting} packets");
        assert!(self.stack.frames().len() <= 32, "{} frames", self.stack.frames().len());
        if self.dice.odds(50) {
            self.transmit();
        }
        let seconds = self.now.as_nanos() / 1_000_000_000; // one more than have passed, for the burst
        let c = self.stack.counters();
        let within = |count, per_s: u64, what| assert!(count <= per_s * (seconds + 1), "{count} {what} in {seconds} s");
        within(c.arp_asked, 20, "questions");
        within(c.arp_answered, 4, "answers");
        within(c.icmp_answered, 3, "echoes");
        // Each join is told twice and its end once.
        assert!(c.igmp_sent <= 4 * (seconds + 1) + 3 * self.joins, "{} reports", c.igmp_sent);
    }

    fn transmit(&mut self) {
        while let Some(frame) = self.stack.frames().pop() {
            self.sent(frame.data());
        }
    }

    fn sent(&mut self, frame: &[u8]) {
        check_sent(frame, MacAddr::derived(A), A);
        if frame[12..14] == [8, 6] {
            if frame[21] == 1 {
                self.asked.insert(Ipv4Addr::new(frame[38], frame[39], frame[40], frame[41]));
            }
            return;
        }
        let dst = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
        if frame[23] == 2 && frame[38] == 0x16 {
            let before = self.reports.insert(dst, self.now);
            let quiet = before.is_none_or(|before| self.now.saturating_since(before) >= Duration::from_secs(1));
            assert!(quiet, "two reports of {dst} within a second");
        }
        if frame[23] == 17 && !dst.is_multicast() {
            let hop = if dst.octets()[..2] == [10, 0] { dst } else { GATEWAY };
            let station = self.answered.get(&hop).map(|mac| mac.0);
            assert_eq!(station.as_ref().map(|mac| &mac[..]), Some(&frame[..6]), "a datagram for {dst} by {hop}");
        }
    }
}

/// Runs every seed and adds up what its stack has counted.
fn swarm() -> StackCounters {
    let mut last = StackCounters::default();
    let mut sum = |counters: StackCounters| {
        last.arp_limited += counters.arp_limited;
        last.arp_ask_limited += counters.arp_ask_limited;
        last.icmp_limited += counters.icmp_limited;
        last.igmp_limited += counters.igmp_limited;
        last.arp_unsolicited += counters.arp_unsolicited;
        last.arp_learned += counters.arp_learned;
        last.tx_unresolved += counters.tx_unresolved;
        last.tx_queue_full += counters.tx_queue_full;
        last.udp_checksum += counters.udp_checksum;
        last.ipv4_malformed += counters.ipv4_malformed;
        last.rx_datagrams += counters.rx_datagrams;
    };
    for seed in 0..SEEDS {
        let before = pool::stats().in_use();
        let mut scene = Scene::new(seed);
        for step in 0..STEPS {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.step()));
            assert!(outcome.is_ok(), "seed {seed}, step {step}");
        }
        sum(scene.stack.counters());
        let evicted = scene.stack.neighbors().2;
        assert!(evicted > 0, "seed {seed}: the table was never full");
        drop(scene);
        assert_eq!(pool::stats().in_use(), before, "seed {seed}: buffers are lost");
    }
    last
}

#[test]
fn whatever_comes_the_stack_keeps_to_its_limits() {
    let met = swarm();
    // A limit that no run has met proves nothing.
    let counts = [
        met.arp_limited,
        met.arp_ask_limited,
        met.icmp_limited,
        met.igmp_limited,
        met.arp_unsolicited,
        met.arp_learned,
        met.tx_unresolved,
        met.udp_checksum,
        met.ipv4_malformed,
        met.rx_datagrams,
    ];
    assert!(counts.iter().all(|count| *count > 1_000), "{met:?}");
}
