//! Installs what a fresh machine lacks, or says what to install.

use std::process::{Command, Stdio};

/// What the later steps may count on.
pub(crate) struct Tools {
    /// `cargo nextest` is there.
    pub(crate) nextest: bool,
    /// `cargo deny` is there.
    pub(crate) deny: bool,
    /// DPDK's headers and libraries.
    pub(crate) dpdk: Dpdk,
    /// What the tests over it do things to interfaces with.
    pub(crate) dpdk_programs: Programs,
    /// Commands that install what is missing and can be installed.
    pub(crate) installs: Vec<Command>,
    /// What stays missing, and what to do about it.
    pub(crate) notes: Vec<String>,
}

/// Whether the tests of the port over DPDK can run.
pub(crate) enum Dpdk {
    Installed,
    /// These commands may install it, if the network lets them.
    Installable(Vec<Command>),
    Missing,
}

/// Programs that tests start. A test that lacks one says so and passes, which nobody reads: who can install them must have them.
#[derive(Debug)]
pub(crate) enum Programs {
    Installed,
    /// These commands install what is missing, and fail where something still is.
    Installable(Vec<Command>),
    /// These packages are missing, and cannot be installed: by an ordinary user, who could not make the namespaces that they are for either.
    Missing(String),
}

/// Namespaces, and what tests over DPDK do in them, each with its package.
const DPDK_PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
];

/// Looks at the machine; changes nothing.
pub(crate) fn look() -> Tools {
    let mut tools = Tools {
        nextest: works("cargo", &["nextest", "--version"]),
        deny: works("cargo", &["deny", "--version"]),
        dpdk: dpdk(),
        dpdk_programs: missing_programs(&DPDK_PROGRAMS, is_there, may_install()),
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
        if may_install() {
            tools.installs.push(command("apt-get", &["update", "-qq"]));
            tools.installs.push(command("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "python3"]));
        } else {
            tools.notes.push("python3 is missing: the test with an independent R2P2 client will be skipped; install python3 to run it".to_owned());
        }
    }
    tools
}

fn dpdk() -> Dpdk {
    if works("pkg-config", &["--exists", "libdpdk >= 22.11", "libdpdk < 23.11"]) {
        Dpdk::Installed
    } else if may_install() {
        Dpdk::Installable(vec![
            command("apt-get", &["update", "-qq"]),
            command("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "libdpdk-dev", "pkg-config"]),
            // Another system's DPDK may be of another version.
            command("pkg-config", &["--exists", "libdpdk >= 22.11", "libdpdk < 23.11"]),
        ])
    } else {
        Dpdk::Missing
    }
}

/// What is to be done about those of `wanted` that are not there.
fn missing_programs(wanted: &[(&str, &str)], is_there: impl Fn(&str) -> bool, may_install: bool) -> Programs {
    let missing: Vec<_> = wanted.iter().filter(|(program, _)| !is_there(program)).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    if missing.is_empty() {
        return Programs::Installed;
    }
    if !may_install {
        return Programs::Missing(packages.join(" "));
    }
    let mut install = command("apt-get", &["install", "-y", "-qq", "--no-install-recommends"]);
    install.args(packages);
    let found = missing.iter().map(|(program, _)| command("sh", &["-c", &format!("command -v {program}")]));
    Programs::Installable([command("apt-get", &["update", "-qq"]), install].into_iter().chain(found).collect())
}

/// Sees to it that programs are there, each named with its package: installs what is missing, or says what to install.
pub(crate) fn programs(wanted: &[(&str, &str)]) -> Result<(), String> {
    let missing = || wanted.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package);
    let packages: Vec<&str> = missing().collect();
    if packages.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install {}", packages.join(" "));
    if !may_install() {
        return Err(format!("{} is missing: as root, {install}", packages.join(", ")));
    }
    println!("installing {}", packages.join(", "));
    run(&mut command("apt-get", &["update", "-qq"]));
    run(command("apt-get", &["install", "-y", "-qq", "--no-install-recommends"]).args(&packages));
    if missing().next().is_none() { Ok(()) } else { Err(format!("`{install}` fails here")) }
}

/// Whether the loop over DPDK can be measured beside DPDK's own program. Installs nothing.
pub(crate) fn dpdk_bench() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root's runs have it: two processors have to be its own".to_owned());
    }
    match (dpdk(), is_there("dpdk-testpmd")) {
        (Dpdk::Installed, true) => Ok(()),
        (Dpdk::Installed, false) => Err("dpdk-testpmd is not here: apt-get install dpdk-dev".to_owned()),
        _ => Err("DPDK 22.11 is not here: apt-get install libdpdk-dev dpdk-dev pkg-config".to_owned()),
    }
}

/// Sees to it that DPDK is there.
pub(crate) fn require_dpdk() -> Result<(), String> {
    let there = match dpdk() {
        Dpdk::Installed => true,
        Dpdk::Installable(commands) => commands.into_iter().all(|mut command| run(&mut command)),
        Dpdk::Missing => false,
    };
    let lacking = || "DPDK 22.11 is missing: as root, apt-get install libdpdk-dev pkg-config".to_owned();
    there.then_some(()).ok_or_else(lacking)
}

fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn may_install() -> bool {
    rustix::process::geteuid().is_root() && works("apt-get", &["--version"])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn look(there: &[&str], may_install: bool) -> Programs {
        missing_programs(&DPDK_PROGRAMS, |program| there.contains(&program), may_install)
    }

    fn words(command: &Command) -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_missing_is_installed_and_looked_for_again() {
        assert!(matches!(look(&["ip", "ethtool", "nft", "ping", "nsenter", "unshare"], true), Programs::Installed));
        let Programs::Installable(commands) = look(&["ip", "ping", "unshare"], true) else { panic!("root installs") };
        let expected = [
            "apt-get update -qq",
            "apt-get install -y -qq --no-install-recommends ethtool nftables util-linux",
            "sh -c command -v ethtool",
            "sh -c command -v nft",
            "sh -c command -v nsenter",
        ];
        assert_eq!(commands.iter().map(words).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn who_cannot_install_is_told_each_package_once() {
        let Programs::Missing(packages) = look(&["ip", "ethtool", "ping"], false) else { panic!("all is there") };
        assert_eq!(packages, "nftables util-linux");
    }
}
