//! The nodes of one process: their configurations, whether they fit together, and the one port under them all.
//!
//! One core runs them, so that what they tell each other needs no wake-up. Where it goes is a matter of the port: the kernel's sockets use
//! its loopback; nodes that name the same device of DPDK's share its stack, which hands back what they tell each other; and nodes that name
//! different devices each have one of their own, so that all of it crosses the network. They fail together where the process does, and in
//! nothing else: each has its own configuration, log, state and incarnation.

use crate::program::config::{Config, Profile};
use crate::program::error::Error;
use crate::program::port::{DpdkPlan, PortKind, PortPlan, device_parts};
use std::net::SocketAddrV4;
use trimaran_net::{Layout, Steering, device_payload_bytes};

/// Most nodes of one process: as many as a cluster has members.
pub(super) const NODES_MAX: usize = 9;

/// Refuses nodes that cannot share a process. One alone always can.
pub(super) fn check(nodes: &[Config]) -> Result<(), Error> {
    let refuse = |problem: String, help: &str| Err(Error::Usage { problem, help: help.into() });
    let Some((first, others)) = nodes.split_first() else {
        return refuse("no configuration is given".into(), "add `--config FILE`");
    };
    if nodes.len() > NODES_MAX {
        let problem = format!("{} configurations are given; a process runs {NODES_MAX} nodes at most", nodes.len());
        return refuse(problem, "start another process for some of them");
    }
    for node in others {
        if node.net.port != first.net.port {
            let (slot, port, other) = (node.slot, node.net.port.name(), first.net.port.name());
            let problem = format!("node {slot} is on the port \"{port}\" and node {} on \"{other}\"", first.slot);
            return refuse(problem, "nodes of one process share a port: write the same, or add `--port`");
        }
    }
    if first.net.port == PortKind::Dpdk {
        for (at, node) in nodes.iter().enumerate() {
            nodes.iter().take(at).try_for_each(|earlier| check_devices(earlier, node))?;
        }
    }
    if let Some(other) = others.iter().find(|other| other.cores != first.cores) {
        let problem = format!("nodes {} and {} have another [cores]", first.slot, other.slot);
        return refuse(problem, "nodes of one process share its cores: write the same, or start another process");
    }
    let shards = first.cores.layout()?.shards();
    // A node and its members' files agree on who is where; among them no shard may have another's port.
    let mut places: Vec<SocketAddrV4> = Vec::new();
    for address in first.members.iter().flat_map(|member| [member.client, member.peer]) {
        if let Some(other) = places.iter().find(|other| overlap(**other, address, shards)) {
            let problem = format!("with {shards} shards {address} and {other} use the same ports: each takes as many");
            return refuse(problem, "leave 64 ports between any two addresses of a host");
        }
        places.push(address);
    }
    let mut taken: Vec<(SocketAddrV4, u8)> = Vec::new();
    for node in nodes {
        for address in node.me().into_iter().flat_map(|me| [me.client, me.peer]) {
            if let Some((_, other)) = taken.iter().find(|(used, _)| overlap(*used, address, shards)) {
                let problem = format!("nodes {other} and {} of this process both use {address}", node.slot);
                return refuse(problem, "name each configuration once; each node has addresses of its own");
            }
            taken.push((address, node.slot));
        }
    }
    Ok(())
}

/// Whether two addresses of shards 0 leave too few ports between them.
fn overlap(a: SocketAddrV4, b: SocketAddrV4, shards: u16) -> bool {
    a.ip() == b.ip() && a.port().abs_diff(b.port()) < shards
}

/// Where the shards of these nodes are.
pub(super) fn steering(nodes: &[Config], layout: Layout) -> Steering {
    Steering::new(layout, nodes.iter().filter_map(Config::me).flat_map(|me| [me.client, me.peer]).collect())
}

/// Refuses two nodes that neither share a device nor have devices which one process can open.
fn check_devices(one: &Config, two: &Config) -> Result<(), Error> {
    let Some((a, b)) = one.dpdk.as_ref().zip(two.dpdk.as_ref()) else { return Ok(()) };
    let (one, two) = (one.slot, two.slot);
    let refuse = |problem: String, help: &str| Err(Error::Usage { problem, help: help.into() });
    let is_shared = parts(&a.device)[0] == parts(&b.device)[0];
    for ([a_name, a_told], [b_name, b_told]) in
        all_parts(a).flat_map(|one| all_parts(b).map(move |two| (one.clone(), two)))
    {
        if a_name == b_name && a_told != b_told {
            let problem = format!("nodes {one} and {two} have different devices of the name {a_name}");
            return refuse(problem, "number them: net_af_packet0,iface=eth0 and net_af_packet1,iface=eth1");
        }
        let interface = |told: &str| told.split(',').find(|word| word.starts_with("iface=")).map(str::to_owned);
        if let Some(interface) =
            interface(&a_told).filter(|found| a_name != b_name && interface(&b_told).as_ref() == Some(found))
        {
            let problem =
                format!("nodes {one} and {two} have two devices, {a_name} and {b_name}, on the same `{interface}`");
            return refuse(problem, "name one device, which they then share, or one on another interface");
        }
        if a_name == b_name && !is_shared {
            let problem = format!("nodes {one} and {two} both have {a_name}, and another `device`");
            return refuse(problem, "nodes share all of their devices, or none: name another");
        }
    }
    if !is_shared && a.ip == b.ip {
        return refuse(
            format!("nodes {one} and {two} have the address {} on different devices", a.ip),
            "give each device addresses of its own, or let the nodes share one device",
        );
    }
    let of_process = [("core", a.core == b.core), ("huge_pages", a.huge_pages == b.huge_pages)];
    let of_device = [
        ("links", a.links == b.links),
        ("prefix_bits", a.prefix_bits == b.prefix_bits),
        ("gateway", a.gateway == b.gateway),
        ("memory_mib", a.memory_mib == b.memory_mib),
        ("mbufs", a.mbufs == b.mbufs),
    ];
    let differs = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, is_equal)| !is_equal).map(|(key, _)| *key);
    if let Some(key) = differs(&of_device).filter(|_| is_shared) {
        let problem = format!("nodes {one} and {two} have another `{key}` in [dpdk]");
        return refuse(problem, "nodes that share a device must write the same; with different devices they need not");
    }
    if let Some(key) = differs(&of_process) {
        let problem = format!("nodes {one} and {two} have another `{key}` in [dpdk]");
        return refuse(
            problem,
            "nodes of one process share its core and memory: write the same, or start another process",
        );
    }
    Ok(())
}

/// The name of a device, and what its driver is told.
fn parts(device: &str) -> [String; 2] {
    device_parts(device).into()
}

/// Those of a plan's device and of its links.
fn all_parts(plan: &DpdkPlan) -> impl Iterator<Item = [String; 2]> {
    std::iter::once(&plan.device).chain(&plan.links).map(|device| parts(device))
}

/// Whether one of them needs a core of its own.
pub(super) fn needs_own_core(nodes: &[Config]) -> bool {
    nodes.iter().any(|node| node.timing.profile == Profile::Us)
}

/// `node 1`, or `nodes 1, 2, 3`.
pub(super) fn name(nodes: &[Config]) -> String {
    let slots = nodes.iter().map(|node| node.slot.to_string()).collect::<Vec<_>>().join(", ");
    format!("node{} {slots}", if nodes.len() == 1 { "" } else { "s" })
}

/// The port under nodes that [`check`] has let pass. It carries the smallest payload that one of them asks for; DPDK gets the file prefix
/// of the first.
pub(super) fn port_plan(nodes: &[Config]) -> Result<PortPlan, Error> {
    let addresses = || nodes.iter().filter_map(Config::me).flat_map(|me| [me.client, me.peer]);
    let asked = nodes.iter().map(|node| node.net.payload_bytes).min().unwrap_or(0);
    let first = nodes.first().map(|node| (node.net.port, &node.dpdk));
    match first {
        Some((PortKind::Dpdk, Some(_))) => {
            let mut devices: Vec<DpdkPlan> = Vec::new();
            for plan in nodes.iter().filter_map(|node| node.dpdk.as_ref()) {
                match devices.iter_mut().find(|device| parts(&device.device) == parts(&plan.device)) {
                    Some(device) if device.ip == plan.ip || device.more_ips.contains(&plan.ip) => {}
                    Some(device) => device.more_ips.push(plan.ip),
                    None => devices.push(DpdkPlan { payload_bytes: asked, ..plan.clone() }),
                }
            }
            devices.iter_mut().for_each(|device| device.more_ips.sort_unstable());
            Ok(match devices.len() {
                1 => PortPlan::Dpdk(devices.remove(0)),
                _ => PortPlan::Devices(devices),
            })
        }
        Some((PortKind::Dpdk, None)) => Err(Error::Usage {
            problem: "--port dpdk needs a [dpdk] section in the configuration, which names a device".into(),
            help: "add [dpdk] with `device = \"net_af_packet0,iface=eth0\"`, or a card's PCI address".into(),
        }),
        Some((PortKind::Udp, _)) | None => {
            let carried = addresses().filter_map(|address| device_payload_bytes(*address.ip())).min();
            Ok(PortPlan::Udp { payload_bytes: carried.map_or(asked, |carried| asked.min(carried)) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// The node `slot` of three.
    fn node(slot: u8, port: &str, device: &str) -> Config {
        let mut text = format!("cluster = \"t\"\nslot = {slot}\ndurability = \"volatile\"\n[net]\nport = \"{port}\"\n");
        if port == "dpdk" {
            text += &format!("[dpdk]\n{device}\n");
        }
        for slot in 1..=3 {
            text +=
                &format!("[[member]]\nslot = {slot}\nclient = \"10.0.0.{slot}:8000\"\npeer = \"10.0.0.{slot}:8100\"\n");
        }
        Config::parse("node.toml", &text).unwrap_or_else(|error| panic!("{error}")).0
    }

    const DEVICE: &str = "device = \"net_af_packet0,iface=eth0\"";

    #[test]
    fn nodes_of_a_process_share_a_device_which_has_all_their_addresses() {
        let nodes = [1, 3, 2].map(|slot| node(slot, "dpdk", DEVICE));
        assert!(check(&nodes).is_ok());
        assert_eq!(name(&nodes), "nodes 1, 3, 2");
        let Ok(PortPlan::Dpdk(plan)) = port_plan(&nodes) else { panic!("no plan") };
        let ips = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
        assert_eq!((plan.ip, plan.more_ips, plan.file_prefix), (ips[0], ips[1..].to_vec(), "t-1".to_owned()));
        let Ok(PortPlan::Dpdk(alone)) = port_plan(&nodes[..1]) else { panic!("no plan") };
        assert_eq!(alone.more_ips, Vec::<Ipv4Addr>::new());
    }

    /// Each shard takes a port behind its node's; those of another address must not be among them.
    #[test]
    fn shards_must_have_their_ports() {
        let node = |slot, shards, peer_port: u16| {
            let mut node = node(slot, "udp", "");
            node.cores.shards = shards;
            node.members.iter_mut().for_each(|member| member.peer.set_port(peer_port));
            node
        };
        assert!(check(&[node(1, 4, 8004)]).is_ok() && check(&[node(1, 1, 8001)]).is_ok());
        let refused = check(&[node(1, 4, 8003)]).map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("with 4 shards 10.0.0.1:8003 and 10.0.0.1:8000 use the same ports: each takes as many".to_owned())
        );
        let refused = check(&[node(1, 4, 8100), node(2, 2, 8100)]).map_err(|error| error.to_string());
        assert_eq!(refused, Err("nodes 1 and 2 have another [cores]".to_owned()));
    }

    fn device(number: u8, interface: &str) -> String {
        format!("device = \"net_af_packet{number},iface={interface}\"")
    }

    #[test]
    fn nodes_on_different_devices_each_have_their_own() {
        let more = |text: String| text + "\nprefix_bits = 16\nmbufs = 2047\nmemory_mib = 32";
        let nodes = [node(1, "dpdk", &device(0, "a")), node(2, "dpdk", &more(device(1, "b")))];
        assert!(check(&nodes).is_ok(), "what is of a device alone may differ");
        let Ok(PortPlan::Devices(plans)) = port_plan(&nodes) else { panic!("no plan") };
        let said = |plan: &DpdkPlan| (plan.device.clone(), plan.ip, plan.more_ips.clone(), plan.prefix_bits);
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        let expected = [
            ("net_af_packet0,iface=a".to_owned(), ip(1), vec![], 24),
            ("net_af_packet1,iface=b".to_owned(), ip(2), vec![], 16),
        ];
        assert_eq!(plans.iter().map(said).collect::<Vec<_>>(), expected);
        // Two of three on one device.
        let nodes =
            [node(3, "dpdk", &device(1, "b")), node(1, "dpdk", &device(0, "a")), node(2, "dpdk", &device(1, "b"))];
        assert!(check(&nodes).is_ok());
        let Ok(PortPlan::Devices(plans)) = port_plan(&nodes) else { panic!("no plan") };
        let addresses: Vec<_> = plans.iter().map(|plan| (plan.ip, plan.more_ips.clone())).collect();
        assert_eq!(addresses, [(ip(3), vec![ip(2)]), (ip(1), vec![])]);
        assert_eq!(plans[0].file_prefix, "t-3", "the first node's");
    }

    #[test]
    fn devices_that_one_process_cannot_open_are_refused() {
        let refusal = |one: &str, two: &str| {
            check(&[node(1, "dpdk", one), node(2, "dpdk", two)])
                .map_err(|error| error.to_string())
                .expect_err("refused")
        };
        let (a, b) = (device(0, "a"), device(1, "b"));
        let named_twice = refusal(&a, &device(0, "b"));
        assert!(
            named_twice.starts_with("nodes 1 and 2 have different devices of the name net_af_packet"),
            "{named_twice}"
        );
        let opened_twice = refusal(&a, "device = \"net_af_packet1,qdisc_bypass=0,iface=a\"");
        assert!(opened_twice.ends_with("on the same `iface=a`"), "{opened_twice}");
        for key in ["core = 1", "huge_pages = true"] {
            let said = refusal(&a, &format!("{b}\n{key}"));
            assert!(said.starts_with("nodes 1 and 2 have another `"), "{said}");
        }
        let mut same_address = [node(1, "dpdk", &a), node(2, "dpdk", &b)];
        for config in &mut same_address {
            config.members.iter_mut().for_each(|member| {
                member.client.set_ip(Ipv4Addr::new(10, 0, 0, 1));
                member.client.set_port(8000 + u16::from(member.slot));
                member.peer.set_ip(Ipv4Addr::new(10, 0, 0, 1));
                member.peer.set_port(8100 + u16::from(member.slot));
            });
            config.dpdk.iter_mut().for_each(|plan| plan.ip = Ipv4Addr::new(10, 0, 0, 1));
        }
        let said = check(&same_address).map_err(|error| error.to_string()).expect_err("refused");
        assert_eq!(said, "nodes 1 and 2 have the address 10.0.0.1 on different devices");
    }

    /// A node of a mesh: links that begin with these names.
    fn linked(slot: u8, device: &str, links: &[&str]) -> Config {
        node(slot, "dpdk", &format!("device = {device:?}\nlinks = {links:?}"))
    }

    #[test]
    fn nodes_have_links_of_their_own() {
        let nodes = [linked(1, "net_memif12", &["net_memif1c"]), linked(2, "net_memif21", &["net_memif2c"])];
        assert!(check(&nodes).is_ok());
        let Ok(PortPlan::Devices(plans)) = port_plan(&nodes) else { panic!("no plan") };
        assert_eq!(plans[1].links, ["net_memif2c"]);
        let refusal =
            |one, two| check(&[one, two]).map_err(|error| error.to_string()).expect_err("they share a part of them");
        let said = refusal(linked(1, "net_memif12", &["net_memif3"]), linked(2, "net_memif21", &["net_memif3"]));
        assert_eq!(said, "nodes 1 and 2 both have net_memif3, and another `device`");
        let said = refusal(linked(1, "net_memif12", &["net_memif3"]), linked(2, "net_memif3", &[]));
        assert_eq!(said, "nodes 1 and 2 both have net_memif3, and another `device`");
        let said = refusal(linked(1, "net_memif12", &["net_memif3"]), linked(2, "net_memif3,id=1", &[]));
        assert_eq!(said, "nodes 1 and 2 have different devices of the name net_memif3");
    }

    #[test]
    fn the_smallest_payload_counts() {
        let mut nodes = [1, 2].map(|slot| node(slot, "dpdk", DEVICE));
        nodes[1].net.payload_bytes = 600;
        let Ok(PortPlan::Dpdk(plan)) = port_plan(&nodes) else { panic!("no plan") };
        assert_eq!(plan.payload_bytes, 600);
    }

    #[test]
    fn nodes_that_do_not_fit_are_refused_with_what_differs() {
        let refusal = |nodes: &[Config]| check(nodes).map_err(|error| error.to_string()).expect_err("refused");
        let (one, two) = (node(1, "dpdk", DEVICE), node(2, "dpdk", DEVICE));
        assert_eq!(refusal(&[one.clone(), one.clone()]), "nodes 1 and 1 of this process both use 10.0.0.1:8000");
        assert_eq!(refusal(&[node(2, "udp", ""), one.clone()]), "node 1 is on the port \"dpdk\" and node 2 on \"udp\"");
        let others = [
            (format!("{DEVICE}\nprefix_bits = 16"), "prefix_bits"),
            (format!("{DEVICE}\ngateway = \"10.0.0.254\""), "gateway"),
            (format!("{DEVICE}\nlinks = [\"net_memif0\"]"), "links"),
            (format!("{DEVICE}\ncore = 1"), "core"),
            (format!("{DEVICE}\nmemory_mib = 128"), "memory_mib"),
            (format!("{DEVICE}\nhuge_pages = true"), "huge_pages"),
            (format!("{DEVICE}\nmbufs = 4095"), "mbufs"),
        ];
        for (device, key) in others {
            let said = refusal(&[node(2, "dpdk", &device), one.clone()]);
            assert_eq!(said, format!("nodes 2 and 1 have another `{key}` in [dpdk]"));
        }
        let many: Vec<Config> = std::iter::repeat_n(two, 10).collect();
        assert_eq!(refusal(&many), "10 configurations are given; a process runs 9 nodes at most");
    }

    #[test]
    fn one_that_needs_its_own_core_is_enough() {
        let mut nodes = [1, 2].map(|slot| node(slot, "udp", ""));
        assert!(!needs_own_core(&nodes));
        nodes[1].timing.profile = Profile::Us;
        assert!(needs_own_core(&nodes));
    }
}
