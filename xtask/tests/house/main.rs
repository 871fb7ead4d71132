//! The rules of the house, checked on the tree itself: who may import whom, where unsafe code may be, which modules
//! stay pure, how long a file may be. Each rule is a function in `rules.rs`, tested there on a bad sample.

mod rules;
mod source;

use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};
use rules::Edge;
use source::{Source, below};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace root exists")
}

/// The workspace's own packages; without their dependencies, so that no network is needed.
fn metadata() -> Metadata {
    MetadataCommand::new().current_dir(root()).no_deps().exec().expect("cargo metadata works in the workspace")
}

/// The src directories of all packages, relative to the root.
fn all_sources() -> Vec<Source> {
    let root = root();
    let dir = |package: &Package| {
        let home = package.manifest_path.parent().expect("a manifest has a directory").as_std_path().to_owned();
        home.join("src").strip_prefix(&root).expect("packages are below the root").to_string_lossy().into_owned()
    };
    metadata().packages.iter().flat_map(|package| below(&root, &dir(package))).collect()
}

/// The files in which the library and the programs of these packages begin.
fn crate_roots(names: &[&str]) -> Vec<Source> {
    let root = root();
    let metadata = metadata();
    let packages = metadata.packages.iter().filter(|package| names.contains(&package.name.as_str()));
    let targets = packages.flat_map(|package| &package.targets);
    let shipped = targets.filter(|t| t.kind.iter().any(|kind| matches!(kind, TargetKind::Lib | TargetKind::Bin)));
    shipped
        .flat_map(|target| {
            let path =
                target.src_path.as_std_path().strip_prefix(&root).expect("targets are below the root").to_owned();
            below(&root, &path.to_string_lossy())
        })
        .collect()
}

#[track_caller]
fn assert_clean(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaint(s):\n  {}", complaints.len(), complaints.join("\n  "));
}

#[test]
fn crates_import_only_what_comes_before_them_on_a_packets_way() {
    let metadata = metadata();
    let packages: Vec<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let edges: Vec<Edge> = metadata
        .packages
        .iter()
        .flat_map(|package| {
            package.dependencies.iter().map(|to| Edge { from: package.name.to_string(), to: to.name.clone() })
        })
        .filter(|edge| packages.contains(&edge.to))
        .collect();
    assert!(edges.len() >= 4, "the workspace lost its edges: {edges:?}");
    assert_clean(&rules::imports(&packages, &edges));
}

#[test]
fn raft_is_a_pure_machine_outside_its_shard() {
    let raft = below(&root(), "raft/src");
    assert!(!raft.is_empty());
    assert_clean(&rules::raft_is_pure(&raft));
}

#[test]
fn r2p2_is_pure() {
    let rpc = below(&root(), "rpc/src");
    let r2p2: Vec<&Source> = rpc.iter().filter(|source| source.path.starts_with("rpc/src/r2p2")).collect();
    assert!(!r2p2.is_empty(), "rpc/src/r2p2* is gone: the wire format moved and this rule must follow it");
    assert_clean(&rules::pure(r2p2));
}

#[test]
fn the_network_stack_is_pure() {
    let net = below(&root(), "net/src");
    let stack: Vec<&Source> = net.iter().filter(|source| source.path.starts_with("net/src/stack")).collect();
    assert!(stack.len() > 1, "net/src/stack* is gone: the stack moved and this rule must follow it");
    assert_clean(&rules::pure(stack));
}

#[test]
fn protocol_and_example_crates_forbid_unsafe_code() {
    let roots = crate_roots(&["trimaran-raft", "trimaran-rpc", "kv-example", "lock-service", "xtask"]);
    assert!(roots.len() >= 5, "raft, rpc, kv-example, lock-service and xtask have a root each");
    assert_clean(&rules::forbids_unsafe(&roots));
}

#[test]
fn unsafe_code_stays_in_the_task_cell_the_ring_and_the_ports() {
    let allowed = ["runtime/src/task.rs", "runtime/src/disk/uring.rs", "net/src/port/", "net/dpdk-sys/src/"];
    assert_clean(&rules::unsafe_only_in(&all_sources(), &allowed));
}

#[test]
fn no_file_tells_more_than_one_story() {
    let sources = all_sources();
    assert!(sources.len() >= 10, "found only {} sources", sources.len());
    assert_clean(&rules::short(&sources));
}
