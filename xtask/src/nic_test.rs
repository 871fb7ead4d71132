//! `cargo xtask nic-test`: programs over DPDK on network cards with real drivers. Boots a machine of QEMU's for each card, binds
//! the card to a driver for user space, runs the programs in it and talks to them from this machine's kernel.
//!
//! ```text
//!   here: builds, image.rs        a namespace of its own: lab.rs         QEMU, no KVM: guest.rs
//!   kv, echo, kernel, initramfs   tap, ping, sockets, kv's client  <-->  card.rs: virtio-net, e1000e, e1000
//! ```
//!
//! The network and the process ids of a run are a namespace of its own: nothing touches this machine's network, and the kernel
//! ends and removes everything with the run's first process, also when it is interrupted. Root is not needed.

mod card;
mod echo;
mod guest;
mod image;
mod lab;
mod node;

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub(crate) use card::Card;
pub(crate) use lab::inside;

use crate::preflight;
use crate::step;
use crate::workspace::Workspace;

/// From power-on to power-off: twenty times what a run takes on two cores that do nothing else.
const RUN_LIMIT: Duration = Duration::from_secs(900);

/// What the host lacks at times: a program, and the package of Debian's that has it.
const TOOLS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("pkg-config", "pkg-config"),
];

/// Tests one card, or all, one after another.
pub(crate) fn run(workspace: &Workspace, only: Option<Card>) -> ExitCode {
    let image = match prepare(workspace) {
        Ok(image) => image,
        Err(problem) => {
            eprintln!("xtask: nic-test: {problem}");
            return ExitCode::from(3);
        }
    };
    let cards = only.map_or_else(|| Card::ALL.to_vec(), |card| vec![card]);
    for card in cards {
        println!("{card}:");
        if let Err(problem) = boot(card, &image) {
            eprintln!("xtask: nic-test: {card}: {problem} (the machine's own words: {}/{card}-*.log)", image.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Builds what the machine runs. Returns the directory of it, where the logs go, too.
fn prepare(workspace: &Workspace) -> Result<std::path::PathBuf, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the machine's programs are this machine's, and it is no x86-64".to_owned());
    }
    preflight::programs(&TOOLS)?;
    preflight::require_dpdk()?;
    let build = |args: &[&str]| match step::pass_through(&mut workspace.cargo(args)) {
        ExitCode::SUCCESS => Ok(()),
        _ => Err(format!("`cargo {}` fails", args.join(" "))),
    };
    println!("building");
    build(&[
        "build",
        "--quiet",
        "--release",
        "-p",
        "kv-example",
        "-p",
        "trimaran-net",
        "--features",
        "kv-example/dpdk,trimaran-net/dpdk",
        "--bin",
        "kv",
        "--example",
        "udp_echo",
    ])?;
    let directory = workspace.log_dir().map_err(|error| error.to_string())?.join("nic-test");
    let release = workspace.target().join("release");
    image::make(&directory, &[&release.join("examples/udp_echo"), &release.join("kv")])?;
    Ok(directory)
}

/// Runs [`inside`] for one card as the first process of its own namespaces.
#[allow(clippy::disallowed_methods, reason = "waits for a process, on no core")]
fn boot(card: Card, image: &Path) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut words = Vec::new();
    if !rustix::process::geteuid().is_root() {
        words.extend(["unshare", "--user", "--map-root-user"]);
    }
    // Each ends with its parent: this process, whatever ends it, `unshare`, and then the namespace with all in it.
    words.extend(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(own).args(["nic-test-inside", &card.to_string()]).arg(image);
    let mut child =
        command.stdin(Stdio::null()).spawn().map_err(|error| format!("cannot run {}: {error}", words[0]))?;
    let end = Instant::now() + RUN_LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("the run failed ({status})")),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                stop(&mut child);
                return Err(format!("no end after {} s", RUN_LIMIT.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn stop(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs a command to its end; all that it printed, also as the error where it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {name}: {error}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{name} failed ({}): {}", output.status, said.trim_end()))
    }
}
