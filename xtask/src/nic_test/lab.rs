//! One run, as the first process of its own namespaces: a tap for the card, the machine, and what is asked of it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::{Card, echo, image, output};

const INTERFACE: &str = "nic0";
/// This machine's kernel, on the tap.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The program on the card. No kernel owns it.
pub(super) const CARD_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The tap's address on the link.
pub(super) const HOST_MAC: &str = "52:54:00:00:00:01";
/// How long anything may take that the machine does at once.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Boots a machine with the card and tests it. Prints one line for each part.
pub(crate) fn inside(card: Card, directory: &Path) -> ExitCode {
    match Run::start(card, directory).and_then(|mut run| run.all()) {
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

    fn all(&mut self) -> Result<(), String> {
        for module in image::MODULES {
            self.guest.run(&format!("insmod /modules/{module}.ko"), SOON)?;
        }
        echo::check(self)
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
    ip(&format!("address add {HOST}/24 dev {INTERFACE}"))?;
    ip(&format!("link set {INTERFACE} up"))
}
