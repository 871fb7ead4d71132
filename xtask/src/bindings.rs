//! `cargo xtask bindings`: writes net/dpdk-sys/src/bindings.rs anew from the headers of the DPDK that is installed.

use std::process::{Command, ExitCode};

use crate::step;
use crate::workspace::Workspace;

/// Another version may write other text for the same headers.
const BINDGEN_VERSION: &str = "0.72.1";

/// What Rust may call. What the headers offer only inline goes through shim.h.
const FUNCTIONS: &str = "dpdk_shim_.*|rte_eal_(init|cleanup|hotplug_(add|remove))|rte_strerror|rte_version\
    |rte_eth_dev_(start|stop|close|get_mtu|get_port_by_name|adjust_nb_rx_tx_desc|rx_intr_(enable|disable|ctl_q_get_fd))\
    |rte_eth_(rx|tx)_queue_setup|rte_eth_(stats_get|xstats_get(_names)?|macaddr_get|promiscuous_(enable|disable))\
    |rte_pktmbuf_pool_create|rte_mempool_(free|avail_count|in_use_count)|rte_thread_(un)?register";

/// The structs that Rust looks into, or that such a struct holds.
const TYPES: &str = "dpdk_shim_(frame|received|info|config)|rte_ether_addr|rte_eth_(stats|xstat(_name)?|rxconf|txconf)";

/// Of these only the size matters.
const OPAQUE: &str = "rte_eth_(rxconf|txconf)";

/// Rust only passes pointers to these on.
const POINTED_TO: [&str; 3] = ["rte_mbuf", "rte_mempool", "rte_device"];

pub(crate) fn run(workspace: &Workspace) -> ExitCode {
    let cflags = match Command::new("pkg-config").args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => {
            eprintln!("xtask: pkg-config does not find libdpdk: apt-get install libdpdk-dev libclang-dev");
            return ExitCode::from(3);
        }
    };
    let root = workspace.target().join("xtask/tools");
    let bindgen = root.join("bin/bindgen");
    if !bindgen.exists() {
        let mut install = workspace.cargo(&["install", "--locked", "--quiet", "--debug", "bindgen-cli"]);
        let installed = step::pass_through(install.args(["--version", BINDGEN_VERSION, "--root"]).arg(&root));
        if installed != ExitCode::SUCCESS {
            return installed;
        }
    }
    let mut command = Command::new(bindgen);
    command.current_dir(workspace.root().join("net/dpdk-sys"));
    command.args(["wrapper.h", "--output", "src/bindings.rs", "--rust-target", "1.85", "--rust-edition", "2024"]);
    command.args(["--use-core", "--no-doc-comments", "--merge-extern-blocks", "--no-recursive-allowlist"]);
    command.args(["--allowlist-function", FUNCTIONS, "--allowlist-type", TYPES, "--allowlist-var", "DPDK_SHIM_.*"]);
    command.args(["--opaque-type", OPAQUE]);
    for name in POINTED_TO {
        command.args(["--raw-line", &format!("#[repr(C)] pub struct {name} {{ _private: [u8; 0] }}")]);
    }
    step::pass_through(command.arg("--").args(cflags.split_whitespace()))
}
