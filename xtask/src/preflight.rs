//! Installs what a fresh machine lacks, or says what to install.

use std::process::{Command, Stdio};

/// What the later steps may count on.
pub(crate) struct Tools {
    /// `cargo nextest` is there.
    pub(crate) nextest: bool,
    /// `cargo deny` is there.
    pub(crate) deny: bool,
    /// Commands that install what is missing and can be installed.
    pub(crate) installs: Vec<Command>,
    /// What stays missing, and what to do about it.
    pub(crate) notes: Vec<String>,
}

/// Looks at the machine; changes nothing.
pub(crate) fn look() -> Tools {
    let mut tools = Tools {
        nextest: works("cargo", &["nextest", "--version"]),
        deny: works("cargo", &["deny", "--version"]),
        installs: Vec::new(),
        notes: Vec::new(),
    };
    for (name, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if works("cargo", &[subcommand, "--version"]) {
            continue;
        }
        if works("rustup", &["--version"]) {
            tools.installs.push(command("rustup", &["component", "add", name]));
        } else {
            tools
                .notes
                .push(format!("{name} is missing and rustup is not here to add it: install your system's {name}"));
        }
    }
    if !works("python3", &["--version"]) {
        if rustix::process::geteuid().is_root() && works("apt-get", &["--version"]) {
            tools.installs.push(command("apt-get", &["update", "-qq"]));
            tools.installs.push(command("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "python3"]));
        } else {
            tools.notes.push("python3 is missing: the test with an independent R2P2 client will be skipped; install python3 to run it".to_owned());
        }
    }
    tools
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn works(program: &str, args: &[&str]) -> bool {
    let quiet = || Stdio::null();
    Command::new(program).args(args).stdin(quiet()).stdout(quiet()).stderr(quiet()).status().is_ok_and(|s| s.success())
}
