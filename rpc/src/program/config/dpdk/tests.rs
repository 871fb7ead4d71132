//! Each message of the `[dpdk]` section as its reader sees it.

use crate::program::config::{Config, example};
use crate::program::port::{DpdkPlan, PortKind};
use crate::program::report;

/// A correct file of two members with `section` at its end.
fn file(port: &str, section: &str) -> String {
    let member =
        |slot| format!("[[member]]\nslot = {slot}\nclient = \"10.0.0.{slot}:8000\"\npeer = \"10.0.0.{slot}:8100\"\n");
    let members: String = [1, 2, 3].map(member).concat();
    format!("cluster = \"kv\"\nslot = 2\ndurability = \"volatile\"\n{members}[net]\nport = \"{port}\"\n{section}")
}

fn complaint(text: &str) -> String {
    let error = Config::parse("n.toml", text).expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    report::error(&error, "kv")
}

const DEVICE: &str = "[dpdk]\ndevice = \"net_af_packet0,iface=eth0\"\n";

#[test]
fn the_example_can_be_taken_at_its_word() {
    let example = example("kv", "kv").replace("port = \"udp\"", "port = \"dpdk\"");
    let begin = example.find("# [dpdk]").expect("documented");
    let (before, rest) = example.split_at(begin);
    let (section, after) = rest.split_once("\n\n").expect("the section ends");
    let text = format!("{before}{}\n\n{after}", section.replace("# ", ""));
    // The comments have lost their mark, too.
    let text: String = text.lines().map(|line| line.split("  ").next().unwrap_or(line).to_owned() + "\n").collect();
    let (config, warnings) = Config::parse("example.toml", &text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    let plan = config.dpdk.expect("a section");
    assert_eq!((config.net.port, warnings), (PortKind::Dpdk, vec![]));
    let given = DpdkPlan {
        device: "0000:03:00.0".into(),
        gateway: "10.0.0.254".parse().ok(),
        core: Some(1),
        file_prefix: "kv-1".into(),
        ..DpdkPlan::new(plan.ip)
    };
    assert_eq!(plan, given, "what the example says is the default");
}

#[test]
fn the_address_is_the_members_own() {
    let (config, warnings) = Config::parse("n.toml", &file("dpdk", DEVICE)).expect("correct");
    let plan = config.dpdk.expect("a section");
    assert_eq!((plan.ip.to_string().as_str(), plan.file_prefix.as_str(), warnings), ("10.0.0.2", "kv-2", vec![]));
    let all = "prefix_bits = 16\ngateway = \"10.0.9.9\"\nqueues = 1\ncore = 3\nmemory_mib = 256\nhuge_pages = true\n\
               mbufs = 65535\nfile_prefix = \"mine\"\n";
    let (config, _) = Config::parse("n.toml", &file("dpdk", &(DEVICE.to_owned() + all))).expect("correct");
    let expected = DpdkPlan {
        more_ips: Vec::new(),
        device: "net_af_packet0,iface=eth0".into(),
        links: Vec::new(),
        ip: plan.ip,
        prefix_bits: 16,
        gateway: "10.0.9.9".parse().ok(),
        payload_bytes: 1472,
        core: Some(3),
        memory_mib: 256,
        huge_pages: true,
        mbufs: 65_535,
        file_prefix: "mine".into(),
    };
    assert_eq!(config.dpdk, Some(expected));
}

#[test]
fn links_are_devices_of_other_names() {
    let links = |list: &str| file("dpdk", &format!("{DEVICE}links = {list}\n"));
    let (config, _) = Config::parse("n.toml", &links("[\"net_memif1,id=1\", \"net_memif2\"]")).expect("correct");
    assert_eq!(config.dpdk.map(|plan| plan.links), Some(vec!["net_memif1,id=1".to_owned(), "net_memif2".to_owned()]));
    let many = (0..16).map(|number| format!("net_null{number}")).collect::<Vec<_>>();
    for (list, expected) in [
        ("\"net_memif1\"", "a list of at most 15, all different"),
        ("[\"net_memif1\", \"net_memif1\"]", "a list of at most 15, all different"),
        (&format!("{many:?}"), "a list of at most 15, all different"),
        ("[\"net_memif1\", \"net_memif1,id=1\"]", "devices that are numbered: there is another net_memif1"),
        ("[1]", "a text in quotes"),
    ] {
        let said = complaint(&links(list));
        assert!(said.contains(expected), "{said}");
    }
    let said = complaint(&links("[\"net_af_packet0,iface=eth1\"]"));
    assert!(said.contains("devices that are numbered: there is another net_af_packet"), "{said}");
}

#[test]
fn e0216_the_port_needs_its_section() {
    let expected = "\
error[E0216]: `port = \"dpdk\"` needs a [dpdk] section that names a device
  --> n.toml:17:8
   |
17 | port = \"dpdk\"
   |        ^^^^^^
   = help: add [dpdk] with `device = \"net_af_packet0,iface=eth0\"`, or a card's PCI address
";
    assert_eq!(complaint(&file("dpdk", "")), expected);
    let missing = complaint(&file("dpdk", "[dpdk]\nmbufs = 1023\n"));
    assert!(missing.starts_with("error[E0204]: `device` is missing in [dpdk]\n  --> n.toml:18:1\n"), "{missing}");
}

#[test]
fn e0216_addresses_that_a_device_cannot_serve() {
    let with = |section: &str| file("dpdk", &format!("{DEVICE}{section}"));
    let expected = "\
error[E0216]: member 1, 10.0.0.1, is not in 10.0.0.2/31, and there is no gateway
 --> n.toml:7:8
  |
7 | peer = \"10.0.0.1:8100\"
  |        ^^^^^^^^^^^^^^^
  = help: correct `prefix_bits` in [dpdk], or add a `gateway`
";
    assert_eq!(complaint(&with("prefix_bits = 31\n")), expected);
    let far = complaint(&with("gateway = \"10.0.1.1\"\n"));
    assert!(far.starts_with("error[E0216]: the gateway 10.0.1.1 is not in 10.0.0.2/24\n  --> n.toml:20:11\n"), "{far}");
    let two = complaint(&with("").replace("10.0.0.2:8100", "10.0.9.2:8100"));
    assert!(two.contains("has one address, and member 2 has 10.0.0.2 and 10.0.9.2\n  --> n.toml:11:8\n"), "{two}");
    assert!(complaint(&with("queues = 2\n")).starts_with("error[E0216]: a node serves on one core"));
    let loopback = complaint(&with("").replace("10.0.0.", "127.0.0."));
    assert!(loopback.starts_with("error[E0216]: 127.0.0.2 is on no network that"), "{loopback}");
}

#[test]
fn e0216_more_buffers_than_memory() {
    let found = complaint(&file("dpdk", &format!("{DEVICE}mbufs = 65535\n")));
    assert!(found.starts_with("error[E0216]: 65535 mbufs do not fit into 64 MiB\n  --> n.toml:20:9\n"), "{found}");
    assert!(found.ends_with("= help: write `memory_mib = 168` or more, or fewer `mbufs`\n"), "{found}");
}

#[test]
fn other_values_and_keys_are_refused_like_everywhere() {
    let with = |section: &str| complaint(&file("dpdk", &format!("{DEVICE}{section}")));
    let cases = [
        ("prefix_bits = 33", "`prefix_bits` must be a number from 1 to 32, not 33"),
        ("gateway = \"router\"", "`gateway` must be an IPv4 address such as \"10.0.0.254\", not \"router\""),
        ("huge_pages = 1", "`huge_pages` must be true or false, not 1"),
        ("file_prefix = \"a/b\"", "`file_prefix` must be 1 to 24 letters, digits, `_` and `-`, not \"a/b\""),
        ("mbufs = 10", "`mbufs` must be a number from 1023 to "),
        ("core = -1", "`core` must be a number from 0 to "),
    ];
    for (line, message) in cases {
        assert!(with(line).starts_with(&format!("error[E0205]: {message}")), "{}", with(line));
    }
    assert!(with("hugepages = true").ends_with("did you mean `huge_pages`?\n"));
    assert!(with("payload_bytes = 1000").ends_with("`payload_bytes` belongs in [net]\n"));
    assert!(complaint(&file("dpkd", DEVICE)).contains("`port` must be \"udp\" or \"dpdk\", not \"dpkd\""));
}

#[cfg(feature = "dpdk")]
#[test]
fn a_device_is_a_card_or_a_virtual_one() {
    for good in ["0000:03:00.0", "net_ring0", "net_tap0,iface=tap0"] {
        assert!(Config::parse("n.toml", &file("dpdk", &format!("[dpdk]\ndevice = \"{good}\"\n"))).is_ok(), "{good}");
    }
    let found = complaint(&file("dpdk", "[dpdk]\ndevice = \"eth0\"\n"));
    assert!(
        found.starts_with("error[E0205]: `device` must be a card's PCI address such as \"0000:03:00.0\", or a "),
        "{found}"
    );
}

#[test]
fn e0217_a_section_without_its_port() {
    let (config, warnings) = Config::parse("n.toml", &file("udp", DEVICE)).expect("it works");
    assert!(config.dpdk.is_some());
    let expected = "\
warning[E0217]: [dpdk] is not used: the port is \"udp\"
  --> n.toml:18:1
   |
18 | [dpdk]
   | ^^^^^^
   = help: write `port = \"dpdk\"` in [net], or add `--port dpdk` to `serve`
";
    assert_eq!(warnings.iter().map(report::warning).collect::<String>(), expected);
}
