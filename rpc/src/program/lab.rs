//! A network of its own for a demo, a benchmark or a test: hosts in network namespaces, and a bridge between them.
//!
//! ```text
//!   this process's namespace                             the hosts', each held by a process that waits for the end of this one
//!     client ════ client-port ──┐
//!      guest ════ guest-port  ──┼── bridge ──┬── host1 ════ eth0   10.0.0.1
//!                                            └── host2 ════ eth0   10.0.0.2
//! ```
//!
//! [`enter`] starts the program anew under `unshare --net`, so that nothing happens on the machine's own network, and
//! [`Lab::build`] makes the rest. Nothing has a name outside: the kernel removes namespaces and interfaces with the last
//! process in them, and all of them end with this one, even where it is killed.
//!
//! The interfaces have no addresses of the kernel's until somebody gives them some: a device of DPDK's on one is the only one
//! to answer there.

use crate::program::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Most hosts of a lab.
pub const HOSTS_MAX: u8 = 9;
/// Leading bits of the addresses that name the lab's network.
pub const PREFIX_BITS: u8 = 24;
/// The interface for the program's own client. It has no address of the kernel's.
pub const CLIENT: &str = "client";
/// The interface for whoever else wants to talk to the hosts.
pub const GUEST: &str = "guest";
/// A host's own interface.
pub const HOST_INTERFACE: &str = "eth0";

/// On the first host, the interface of the node `slot` after [`Lab::attach`]: `eth0` for the first, `eth1` for the second.
pub fn interface(slot: u8) -> String {
    format!("eth{}", slot.saturating_sub(1))
}

/// Tells a process that it was started by [`enter`]: holds its id.
const MARK: &str = "TRIMARAN_LAB";
/// Where DPDK puts its files, instead of /var/run/dpdk.
pub(super) const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// Routing tables of the first host's interfaces are numbered from here.
const TABLES: u32 = 100;

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// The address of a host, or of the interface [`CLIENT`] (100) or [`GUEST`] (101).
pub fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

/// Starts this process's program anew, with the same id and arguments, in a network namespace of its own. Returns where it runs in
/// one already. DPDK shall keep its files below `files`.
///
/// # Errors
/// E0110: what is missing to make namespaces.
pub fn enter(files: &Path) -> Result<(), Error> {
    if is_entered() {
        return Ok(());
    }
    preflight()?;
    let program = std::env::current_exe().map_err(|source| Error::io("find this program's own file", source))?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(program).args(std::env::args_os().skip(1));
    command.env(MARK, std::process::id().to_string()).env(RUNTIME_DIRECTORY, files);
    Err(Error::io("start `unshare`", command.exec()))
}

/// Whether this process was started by [`enter`].
pub fn is_entered() -> bool {
    std::env::var(MARK).is_ok_and(|pid| pid == std::process::id().to_string())
}

/// The first thing that keeps this process from making a lab.
fn preflight() -> Result<(), Error> {
    let lacks = |problem: &str, help: String| Err(Error::MachineLacks { problem: problem.into(), help });
    let wanted = CAP_NET_ADMIN | CAP_NET_RAW | CAP_SYS_ADMIN;
    if capabilities() & wanted != wanted {
        let line = std::env::args().collect::<Vec<_>>().join(" ");
        return lacks("only root may make the network namespaces that this needs", format!("`sudo {line}`"));
    }
    for (tool, package) in [("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")] {
        if Command::new(tool).arg("--help").stdin(Stdio::null()).output().is_err() {
            return lacks(&format!("the program `{tool}` is missing"), format!("`apt-get install {package}`"));
        }
    }
    match Command::new("unshare").args(["--net", "true"]).stdin(Stdio::null()).output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(output) => lacks(
            &format!("no network namespace can be made here: {}", complaint(&output)),
            "run it where root may make some: on the machine itself, or in a privileged container".into(),
        ),
        Err(source) => Err(Error::io("start `unshare`", source)),
    }
}

/// The effective capabilities of this process, as bits; none where they cannot be read.
fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// The network. Dropping it ends the hosts' namespaces.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
}

/// A network namespace, and the process that holds it: it ends when its standard input does.
#[derive(Debug)]
struct Host {
    holder: Child,
}

impl Lab {
    /// Makes `hosts` hosts, at most [`HOSTS_MAX`], and the interfaces of this process's own namespace, which must be as
    /// [`enter`] leaves it. Takes some 0.1 s.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn build(hosts: u8) -> Result<Lab, Error> {
        let hosts = (0..hosts.min(HOSTS_MAX)).map(|_| Host::start()).collect::<Result<Vec<_>, _>>()?;
        let lab = Lab { hosts };
        let up = "addrgenmode none up";
        // Without a delay a port of the bridge forwards at once. A snooping bridge would sort out groups that nobody has joined.
        let mut script = format!(
            "link set lo up\n\
             link add bridge type bridge forward_delay 0 mcast_snooping 0\n\
             link set bridge {up}\n"
        );
        for own in [CLIENT, GUEST] {
            script += &format!("link add {own} type veth peer name {own}-port\nlink set {own} {up}\n");
            script += &format!("link set {own}-port master bridge {up}\n");
        }
        for (slot, host) in (1..).zip(&lab.hosts) {
            let pid = host.holder.id();
            script += &format!("link add host{slot} type veth peer name {HOST_INTERFACE} netns {pid}\n");
            script += &format!("link set host{slot} master bridge {up}\n");
        }
        batch(Command::new("ip"), &script)?;
        // Where the kernel can, it would run every frame through the firewall's rules, of which there are none. Most cannot.
        for family in ["ip", "ip6", "arp"] {
            let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"), "0");
        }
        for slot in 1..=lab.hosts.len() as u8 {
            batch(lab.command(slot, "ip"), &format!("link set lo up\nlink set {HOST_INTERFACE} {up}\n"))?;
        }
        Ok(lab)
    }

    /// A command that runs `program` on a host, without a process in between. A host that does not exist gives one that fails.
    pub fn command(&self, slot: u8, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let host = usize::from(slot).checked_sub(1).and_then(|at| self.hosts.get(at));
        let namespace = host.map_or_else(String::new, |host| format!("/proc/{}/ns/net", host.holder.id()));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={namespace}")).arg("--").arg(program);
        command
    }

    /// Gives a host's interface an address, its own or that of a node `of`, so that the kernel's sockets can be used there.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn address_host(&self, slot: u8, of: u8) -> Result<(), Error> {
        batch(self.command(slot, "ip"), &address_line(of, HOST_INTERFACE))
    }

    /// Takes all of its addresses away again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn unaddress_host(&self, slot: u8) -> Result<(), Error> {
        batch(self.command(slot, "ip"), &format!("address flush dev {HOST_INTERFACE}\n"))
    }

    /// Takes the address of the interface [`CLIENT`] or [`GUEST`] away again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn unaddress_own(&self, interface: &str) -> Result<(), Error> {
        batch(Command::new("ip"), &format!("address flush dev {interface}\n"))
    }

    /// Gives the first host so many interfaces, each with its own way to the bridge. Further ones end at the bridge as `also2`, `also3`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn attach(&self, interfaces: u8) -> Result<(), Error> {
        let Some(first) = self.hosts.first() else { return Ok(()) };
        let (mut here, mut there) = (String::new(), String::new());
        for slot in 2..=interfaces {
            let (own, pid) = (interface(slot), first.holder.id());
            here += &format!("link add also{slot} type veth peer name {own} netns {pid}\n");
            here += &format!("link set also{slot} master bridge addrgenmode none up\n");
            there += &format!("link set {own} addrgenmode none up\n");
        }
        batch(Command::new("ip"), &here)?;
        batch(self.command(1, "ip"), &there)
    }

    /// Takes them away again, all but `eth0`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn detach(&self, interfaces: u8) -> Result<(), Error> {
        batch(Command::new("ip"), &(2..=interfaces).map(|slot| format!("link delete also{slot}\n")).collect::<String>())
    }

    /// Gives each interface of the first host the address of its node, and has the kernel send what is from an address by its interface, also
    /// where it is for another of them. By itself the kernel finds all of its addresses in one table, looks there first, and uses the
    /// loopback interface; so that table is asked last, but for what comes in by one of these interfaces.
    ///
    /// # Errors
    /// What `ip` says, and a kernel without such rules.
    pub fn address_apart(&self, nodes: u8) -> Result<(), Error> {
        let mut script = String::new();
        let mut settings = "cd /proc/sys/net/ipv4/conf; echo 0 >all/rp_filter".to_owned();
        for slot in 1..=nodes {
            let (own, table, ip) = (interface(slot), TABLES + u32::from(slot), address(slot));
            script += &address_line(slot, &own);
            script += &format!("rule add pref 10 iif {own} lookup local\n");
            script += &format!("rule add pref 20 from {ip} lookup {table}\n");
            script += &format!("route add {}/{PREFIX_BITS} dev {own} src {ip} table {table}\n", address(0));
            // It takes what is from an address of its own, and answers questions for the interface's own alone.
            settings += &format!("; echo 1 >{own}/accept_local; echo 0 >{own}/rp_filter; echo 1 >{own}/arp_ignore");
        }
        script += "rule add pref 30 lookup local\nrule delete pref 0 lookup local\n";
        let mut shell = self.command(1, "sh");
        let set = shell.args(["-e", "-c", &settings]).stdin(Stdio::null()).output();
        let set = set.map_err(|source| Error::io("start `sh`", source))?;
        if !set.status.success() {
            return Err(Error::MachineLacks {
                problem: format!("the kernel cannot be told to talk to itself over a network: {}", complaint(&set)),
                help: "run it where /proc/sys is writable".into(),
            });
        }
        batch(self.command(1, "ip"), &script)
    }

    /// Undoes that, as far as it would disturb others.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn unaddress_apart(&self, nodes: u8) -> Result<(), Error> {
        let mut script = "rule add pref 0 lookup local\nrule delete pref 30 lookup local\n".to_owned();
        for slot in 1..=nodes {
            let (own, table, ip) = (interface(slot), TABLES + u32::from(slot), address(slot));
            script += &format!("rule delete pref 10 iif {own} lookup local\n");
            script += &format!("rule delete pref 20 from {ip} lookup {table}\n");
            script += &format!("address flush dev {own}\n");
        }
        batch(self.command(1, "ip"), &script)
    }

    /// Gives the interface [`CLIENT`] or [`GUEST`] an address, so that this process can use the kernel's sockets.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn address_own(&self, interface: &str, last: u8) -> Result<(), Error> {
        batch(Command::new("ip"), &address_line(last, interface))
    }
}

impl Host {
    fn start() -> Result<Host, Error> {
        let failed = |source| Error::io("start a host of the lab", source);
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", "echo; exec cat >/dev/null"]);
        // A group of its own: Ctrl-C at the terminal is for this process alone.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut host = Host { holder: command.spawn().map_err(failed)? };
        let Some(out) = host.holder.stdout.take() else { return Ok(host) };
        // The line says that the namespace is there.
        match BufReader::new(out).read_line(&mut String::new()) {
            Ok(1) => Ok(host),
            Ok(_) => Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            Err(source) => Err(failed(source)),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already, and nothing more can be done here.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn address_line(last: u8, interface: &str) -> String {
    format!("address add {}/{PREFIX_BITS} dev {interface}\n", address(last))
}

/// Runs `ip`, given as a command, on a script.
fn batch(mut ip: Command, script: &str) -> Result<(), Error> {
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = |source| Error::io("run `ip`", source);
    let mut child = ip.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where it does not read any more, it has something to say.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::MachineLacks {
        problem: format!("the lab's network cannot be made: {}", complaint(&output)),
        help: "`modprobe veth`, `modprobe bridge`: the kernel must know both".into(),
    })
}

/// The first line of what a command complained.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().next().map_or_else(|| output.status.to_string(), str::to_owned)
}
