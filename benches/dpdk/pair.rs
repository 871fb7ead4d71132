//! Rounds of two processes over memif: the generator on one processor, whoever is measured on the other.

use crate::need;
use crate::testpmd::{Testpmd, WARM_UP, WINDOW, pause};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 5;
/// Windows of a measurement. Three roles in five rounds, each with two starts of DPDK, stay below 30 s.
const WINDOWS: u32 = 40;
/// Always the same: testpmd leaves an empty directory of that name behind.
const GENERATOR_PREFIX: &str = "trimaran-bench-from";
const MEASURED_PREFIX: &str = "trimaran-bench-to";
const GENERATOR_MAC: &str = "02:00:00:00:00:01";
const OUR_MAC: &str = "02:00:00:00:00:02";

/// Who turns frames round.
#[derive(Debug, Clone, Copy)]
enum Role {
    Testpmd(&'static str),
    Ours(&'static str),
}

/// Our loop, bare and by the runtime, beside testpmd.
pub(crate) fn macswap() -> Result<(), String> {
    let roles = [Role::Testpmd("macswap"), Role::Ours("bare"), Role::Ours("core")];
    println!("macswap over memif, 64-byte frames, one core: frames a second in the best 20 ms");
    let ratios = rounds(&roles, |role, ours, other| measure(role, "io", ours, other))?;
    println!(
        "bare loop {:.2} of testpmd, the runtime's {:.2}: at least 0.90 is the goal of both",
        ratios[1], ratios[2]
    );
    Ok(())
}

/// The same without a peer, where neither a generator nor the memory between two processors is the limit.
pub(crate) fn alone() -> Result<(), String> {
    let roles = [Role::Testpmd("macswap"), Role::Ours("bare"), Role::Ours("core")];
    println!("macswap from and to net_null, one core: frames a second in the best 20 ms");
    let ratios = rounds(&roles, |role, ours, _| {
        let device = "net_null0";
        match role {
            Role::Testpmd(mode) => {
                Testpmd::start(ours, MEASURED_PREFIX, device, mode, &[])?.best_rate("start", WINDOWS)
            }
            Role::Ours(variant) => Ours::start(variant, device, ours)?.best_rate(WINDOWS),
        }
    })?;
    println!("bare loop {:.2} of testpmd, the runtime's {:.2}", ratios[1], ratios[2]);
    Ok(())
}

/// Sockets and a task, beside testpmd that only swaps addresses.
pub(crate) fn echo() -> Result<(), String> {
    let roles = [Role::Testpmd("5tswap"), Role::Ours("echo")];
    println!("UDP echo over memif, 64-byte frames, one core: datagrams a second in the best 20 ms");
    let ratios = rounds(&roles, |role, ours, other| measure(role, "5tswap", ours, other))?;
    println!("stack, socket and task {:.2} of testpmd's swap of addresses, ports and nothing else", ratios[1]);
    Ok(())
}

/// The median of each role's rate as a share of the first role's in the same round.
fn rounds(roles: &[Role], measure: impl Fn(Role, usize, usize) -> Result<f64, String>) -> Result<Vec<f64>, String> {
    need("dpdk-testpmd", "dpdk-dev")?;
    let (ours, other) = two_processors()?;
    let mut ratios: Vec<Vec<f64>> = roles.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        let mut rates = vec![0.0; roles.len()];
        for turn in 0..roles.len() {
            // Each role is first once, so that a machine that slows down harms no one more.
            let at = (turn + round) % roles.len();
            rates[at] = measure(roles[at], ours, other)?;
        }
        print!("round {}:", round + 1);
        for ((role, rate), ratios) in roles.iter().zip(&rates).zip(&mut ratios) {
            ratios.push(rate / rates[0]);
            let (Role::Testpmd(name) | Role::Ours(name)) = role;
            let whose = if matches!(role, Role::Testpmd(_)) { "testpmd " } else { "" };
            print!("  {whose}{name} {:.2} M", rate / 1e6);
        }
        println!();
    }
    Ok(ratios.into_iter().map(median).collect())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// Frames a second that come back to the generator.
fn measure(role: Role, mode: &str, ours: usize, other: usize) -> Result<f64, String> {
    let id = std::process::id();
    let socket = format!("socket-abstract=yes,socket=trimaran-bench-{id}");
    let device = |role: &str, mac: &str| format!("net_memif0,role={role},{socket},mac={mac}");
    let addresses = [&format!("--eth-peer=0,{OUR_MAC}")[..], "--tx-ip=10.0.0.1,10.0.0.2", "--tx-udp=9,9"];
    let server = device("server", GENERATOR_MAC);
    let generator = Testpmd::start(other, GENERATOR_PREFIX, &server, mode, &addresses)?;
    let client = device("client", OUR_MAC);
    match role {
        Role::Testpmd(mode) => {
            let mut measured = Testpmd::start(ours, MEASURED_PREFIX, &client, mode, &[])?;
            measured.order("start")?;
            // The two ends meet.
            pause(Duration::from_millis(50));
            generator.best_rate("start tx_first 16", WINDOWS)
        }
        Role::Ours(variant) => {
            let measured = Ours::start(variant, &client, ours)?;
            pause(Duration::from_millis(50));
            let rate = generator.best_rate("start tx_first 16", WINDOWS);
            drop(measured);
            rate
        }
    }
}

/// The first two processors that this process may use.
fn two_processors() -> Result<(usize, usize), String> {
    let set = rustix::thread::sched_getaffinity(None).map_err(|error| error.to_string())?;
    let mut cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    match (cpus.next(), cpus.next()) {
        (Some(other), Some(ours)) => Ok((ours, other)),
        _ => Err("two processors are needed: one for the frames, one for what is measured".to_owned()),
    }
}

/// This program in the measured role. Ends when it is dropped.
struct Ours {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Ours {
    fn start(variant: &str, device: &str, cpu: usize) -> Result<Ours, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["here", variant, device, &cpu.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut ours = Ours { child, answers: BufReader::new(output) };
        let mut line = String::new();
        ours.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        if line.trim_end() == "ready" { Ok(ours) } else { Err(format!("the {variant} loop has not started")) }
    }

    /// As testpmd's: it answers each line with the rate since the line before.
    fn best_rate(mut self, windows: u32) -> Result<f64, String> {
        pause(WARM_UP);
        for _ in 0..=windows {
            let orders = self.child.stdin.as_mut().ok_or("no input")?;
            orders.write_all(b"\n").map_err(|error| error.to_string())?;
            pause(WINDOW);
        }
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.answers.read_to_string(&mut said).map_err(|error| error.to_string())?;
        let best = said.lines().filter_map(|rate| rate.parse::<f64>().ok()).fold(0.0, f64::max);
        if best > 0.0 { Ok(best) } else { Err("no frame was received".to_owned()) }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Its input ends, which it takes as the order to stop.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
