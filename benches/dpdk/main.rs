//! What the loop over DPDK costs: `cargo xtask bench dpdk`, or `cargo bench -p trimaran-benches --features dpdk --bench dpdk`.
//!
//! | part | what is measured | what is good |
//! |---|---|---|
//! | `macswap` | frames of 64 bytes that one core turns round over memif, by a bare loop over the port's queue and by a core of the runtime, beside `dpdk-testpmd` in the same place: five rounds, each role once | median ratio of 0.9 and more |
//! | `alone` | the same from and to `net_null`: what the loop itself costs, without the memory between two processors | none yet; a ratio to follow |
//! | `echo` | UDP datagrams that a task of a core answers through the whole stack, in the same place, beside testpmd's `5tswap` | none yet; a ratio to follow |
//! | `counts` | instructions for each frame, turn and timer, by callgrind, in memory only | none yet; repeats to the instruction |
//!
//! Without arguments all of them; `-- macswap` and so on for one. The generator of frames is testpmd in every case, on the other
//! processor, with 512 frames on the way. Rates are those of the best 20 ms, and meant to be compared within one run. Two loops that
//! poll need both processors at once: where others use them, give the bench a session of its own that goes first, as root
//! `setsid -w sh -c 'echo -19 > /proc/self/autogroup; exec cargo xtask bench dpdk'`.
//! Needs neither root nor huge pages else, but two processors, and `dpdk-testpmd` and `valgrind` where it says so.

mod counts;
mod here;
mod pair;
mod testpmd;

use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    // cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] => [pair::macswap, pair::alone, pair::echo, counts::print].iter().try_for_each(|part| part()),
        ["macswap"] => pair::macswap(),
        ["alone"] => pair::alone(),
        ["echo"] => pair::echo(),
        ["counts"] => counts::print(),
        // The processes that the others start.
        ["here", role, device, cpu] => here::run(role, device, cpu),
        ["counted"] => counts::run(),
        _ => Err("macswap, alone, echo, counts or nothing".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dpdk bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Says how to get a program, where it is missing.
fn need(program: &str, package: &str) -> Result<(), String> {
    let quiet = || Stdio::null();
    let found = Command::new(program).arg("--version").stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    found.map(drop).map_err(|_| format!("{program} is not here: apt-get install {package}"))
}
