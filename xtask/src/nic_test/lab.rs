//! One run, as the first process of its own namespaces: a tap for the card, the machine, and what is asked of it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::{Card, echo, image, node, output};

const INTERFACE: &str = "nic0";
/// This machine's kernel, on the tap.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The program on the card. No kernel owns it.
pub(super) const CARD_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The other nodes of the cluster, on the same tap.
pub(super) const NEIGHBOURS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 3), Ipv4Addr::new(10, 9, 0, 4)];
/// Leading bits of these addresses that name their network.
pub(super) const PREFIX_BITS: u8 = 24;
/// The tap's address on the link.
pub(super) const HOST_MAC: &str = "52:54:00:00:00:01";
/// How long anything may take that the machine does at once.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Boots a machine with the card and tests it. Prints one line for each part.
pub(crate) fn inside(card: Card, directory: &Path) -> ExitCode {
    match Run::start(card, directory).and_then(|mut run| run.all(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("  {problem}");
            ExitCode::FAILURE
        }
    }
}

/// A machine under test.
pub(super) struct Run {
    pub(super) card: Card,
    pub(super) guest: Guest,
    began: Instant,
}

impl Run {
    #[allow(clippy::disallowed_methods, reason = "times a test, not a task of a core")]
    fn start(card: Card, directory: &Path) -> Result<Run, String> {
        let began = Instant::now();
        make_tap(card)?;
        let guest = Guest::boot(card, INTERFACE, directory)?;
        let run = Run { card, guest, began };
        run.passed("boots");
        Ok(run)
    }

    fn all(&mut self, directory: &Path) -> Result<(), String> {
        for module in image::MODULES {
            self.guest.run(&format!("insmod /modules/{module}.ko"), SOON)?;
        }
        let outcome = echo::check(self).and_then(|()| node::check(self, directory));
        if outcome.is_err() {
            // What the programs said stands in the transcript then.
            let _ = self.guest.run("tail -n 40 /tmp/*.log; dmesg | tail", SOON);
        }
        outcome
    }

    /// Binds the card to its driver for user space, as `dpdk-devbind.py` does.
    pub(super) fn bind(&mut self) -> Result<(), String> {
        let (address, driver) = (Card::ADDRESS, self.card.user_driver());
        self.guest.run(&format!("echo {driver} >/sys/bus/pci/devices/{address}/driver_override"), SOON)?;
        self.guest.run(&format!("echo {address} >/sys/bus/pci/drivers_probe"), SOON)?;
        let bound = self.guest.run(&format!("readlink /sys/bus/pci/devices/{address}/driver"), SOON)?;
        if bound.trim().ends_with(driver) { Ok(()) } else { Err(format!("the card is not bound to {driver}: {bound}")) }
    }

    /// Waits until `file` in the machine has a line that begins with `word`; the rest of that line.
    #[allow(clippy::disallowed_methods, reason = "waits for a process, on no core")]
    pub(super) fn line(&mut self, file: &str, word: &str) -> Result<String, String> {
        let end = Instant::now() + SOON;
        loop {
            let text = self.guest.run(&format!("cat {file}"), SOON)?;
            if let Some(rest) = text.lines().find_map(|line| line.trim().strip_prefix(word)) {
                return Ok(rest.trim().to_owned());
            }
            if Instant::now() > end {
                return Err(format!("no `{word}` in {file}: {}", text.trim()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for the first answer: a card may have to find out about its link, and QEMU about its queues.
    #[allow(clippy::disallowed_methods, reason = "waits for a process, on no core")]
    pub(super) fn first_answer(&self) -> Result<(), String> {
        let end = Instant::now() + SOON;
        loop {
            match output(Command::new("ping").args(["-q", "-W", "1", "-c", "1", &CARD_IP.to_string()])) {
                Ok(_) => return Ok(()),
                Err(problem) if Instant::now() > end => return Err(problem),
                Err(_) => {}
            }
        }
    }

    /// Every echo of `count` must come back, 50 ms apart, so that each wakes an idle core. How long they took, as ping says it.
    pub(super) fn ping(&mut self, count: u32) -> Result<String, String> {
        let mut ping = Command::new("ping");
        ping.args(["-q", "-i", "0.05", "-W", "2", "-c", &count.to_string(), &CARD_IP.to_string()]);
        let said = output(&mut ping)?;
        if !said.contains(" 0% packet loss") {
            return Err(format!("echoes are lost: {}", said.trim()));
        }
        Ok(said.lines().rfind(|line| line.starts_with("rtt")).unwrap_or_default().to_owned())
    }

    /// What the process in the machine whose id is in `file` uses of a processor while nothing happens.
    pub(super) fn cpu_percent(&mut self, file: &str) -> Result<f64, String> {
        const SECONDS: u64 = 5;
        let ticks = format!("cut -d' ' -f14,15 /proc/$(cat {file})/stat");
        let said = self.guest.run(&format!("{ticks}; sleep {SECONDS}; {ticks}"), SOON)?;
        let ticks: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match ticks[..] {
            // A hundred ticks a second: each is a hundredth of it.
            [user, system, user_then, system_then] => {
                Ok((user_then + system_then - user - system) as f64 / SECONDS as f64)
            }
            _ => Err(format!("no times of the process in {file}: {said}")),
        }
    }

    /// Interrupts that the card has sent to user space.
    pub(super) fn interrupts(&mut self) -> Result<u64, String> {
        let lines = self.guest.run("grep -E 'vfio|uio' /proc/interrupts", SOON)?;
        let numbers =
            lines.lines().flat_map(|line| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()));
        Ok(numbers.sum())
    }

    /// Prints that a part has passed.
    pub(super) fn passed(&self, part: &str) {
        println!("  {:>5.1} s  {part}", self.began.elapsed().as_secs_f64());
    }
}

/// A tap that QEMU opens, and nothing else on it: no IPv6, which would send of its own.
fn make_tap(card: Card) -> Result<(), String> {
    let ip = |line: &str| output(Command::new("ip").args(line.split(' '))).map(drop);
    let queues = if card.queues() > 1 { " multi_queue" } else { "" };
    ip("link set lo up")?;
    ip(&format!("tuntap add dev {INTERFACE} mode tap{queues}"))?;
    ip(&format!("link set {INTERFACE} address {HOST_MAC}"))?;
    // A kernel without IPv6 has no such file.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6"), "1");
    for address in [HOST, NEIGHBOURS[0], NEIGHBOURS[1]] {
        ip(&format!("address add {address}/{PREFIX_BITS} dev {INTERFACE}"))?;
    }
    ip(&format!("link set {INTERFACE} up"))
}
