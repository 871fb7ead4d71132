//! What the machine boots: a kernel of Debian's and an initramfs of busybox, modules, our programs and the libraries they load.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::output;

/// In the order in which they are loaded: each needs only what stands before it.
pub(super) const MODULES: [&str; 8] =
    ["irqbypass", "vfio", "vfio_virqfd", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci", "uio", "uio_pci_generic"];

/// The cloud kernel has every module that we need and is the smallest.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// The drivers that DPDK finds as plugins; the rest comes with what links to it.
const PLUGINS: [&str; 5] = ["bus_pci", "bus_vdev", "mempool_ring", "net_virtio", "net_e1000"];

/// The machine's first process, up to where it takes commands on the second serial line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/hugepages
mount -t hugetlbfs none /dev/hugepages
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo; echo '@@ 0'
"#;

/// The rest of it. A serial line may lose what is typed, so it takes a command only where it is whole: `@ NUMBER LENGTH COMMAND`, with
/// the number after the last one's and as many characters as the length says. It answers `@> NUMBER` before it runs the command, and
/// `@@` with the exit code behind its output; `@?` where the line was damaged and must be typed again. A command that it has run
/// already it does not run again, and none reads what is typed.
const COMMANDS: &str = r#"last=0
while read -r mark number length line; do
  if [ "$mark $length" != "@ ${#line}" ]; then
    [ -z "$mark" ] || { echo; echo "@?"; }
  elif [ "$number" = "$((last + 1))" ]; then
    last=$number
    echo; echo "@> $number"
    eval "$line" </dev/null; code=$?; echo; echo "@@ $code"
  elif [ "$number" != "$last" ]; then
    echo; echo "@?"
  fi
done
"#;

/// The kernel in `directory`.
pub(super) fn kernel(directory: &Path) -> PathBuf {
    directory.join("kernel/vmlinuz")
}

/// The initramfs in `directory`.
pub(super) fn initramfs(directory: &Path) -> PathBuf {
    directory.join("initramfs")
}

/// Makes kernel and initramfs in `directory`, the latter with `programs` in its /bin. The kernel is downloaded once.
pub(super) fn make(directory: &Path, programs: &[&Path]) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(failed)?;
    if !kernel(directory).exists() {
        println!("downloading a kernel");
        download_kernel(&directory.join("kernel"))?;
    }
    let root = directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).map_err(failed)?;
    }
    for empty in ["bin", "proc", "sys", "dev", "tmp", "run", "var", "etc", "modules"] {
        fs::create_dir_all(root.join(empty)).map_err(failed)?;
    }
    // DPDK keeps its files there.
    symlink("/run", root.join("var/run")).map_err(failed)?;
    let busybox = output(Command::new("sh").args(["-c", "command -v busybox"]))?;
    copy(Path::new(busybox.trim()), &root.join("bin/busybox"))?;
    for module in MODULES {
        let file = format!("{module}.ko");
        copy(&directory.join("kernel").join(&file), &root.join("modules").join(&file))?;
    }
    let plugins = plugins()?;
    for plugin in &plugins {
        copy(plugin, &inside(&root, plugin))?;
    }
    let mut libraries = BTreeSet::new();
    for file in programs.iter().copied().chain(plugins.iter().map(PathBuf::as_path)) {
        libraries.extend(needed(file)?);
    }
    for library in &libraries {
        install(&root, library)?;
    }
    for program in programs {
        let name = program.file_name().ok_or("a program without a name")?;
        copy(program, &root.join("bin").join(name))?;
    }
    fs::write(root.join("init"), [INIT, COMMANDS].concat()).map_err(failed)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).map_err(failed)?;
    // Not compressed: QEMU reads it faster than its processor would unpack it.
    let pack = "cd \"$1/root\" && find . | busybox cpio -o -H newc >../initramfs";
    output(Command::new("sh").args(["-c", pack, "sh"]).arg(directory)).map(drop)
}

/// Downloads the kernel's package and unpacks it, without installing anything.
fn download_kernel(directory: &Path) -> Result<(), String> {
    // Root's apt hands the download to a user who may not write here, and then does it itself, with a warning.
    let name = match kernel_package() {
        Some(name) => name,
        None if rustix::process::geteuid().is_root() => {
            output(Command::new("apt-get").args(["update", "-qq"]))?;
            kernel_package().ok_or_else(|| format!("there is no package {KERNEL_PACKAGE} here"))?
        }
        None => return Err(format!("apt knows no {KERNEL_PACKAGE}: as root, apt-get update")),
    };
    let scratch = directory.with_extension("part");
    let failed = |error: io::Error| format!("cannot write {}: {error}", scratch.display());
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(failed)?;
    output(Command::new("apt-get").args(["download", "-qq", &name]).current_dir(&scratch))?;
    output(Command::new("sh").args(["-c", "dpkg -x ./*.deb ."]).current_dir(&scratch))?;
    let version = name.trim_start_matches("linux-image-");
    let modules = scratch.join("lib/modules").join(version).join("kernel");
    let kept = scratch.join("kept");
    copy(&scratch.join(format!("boot/vmlinuz-{version}")), &kept.join("vmlinuz"))?;
    for module in MODULES {
        let file = format!("{module}.ko");
        let found = output(Command::new("find").arg(&modules).args(["-name", &file]))?;
        let found = found.lines().next().ok_or_else(|| format!("{name} has no module {file}"))?;
        copy(Path::new(found), &kept.join(&file))?;
    }
    let _ = fs::remove_dir_all(directory);
    fs::rename(&kept, directory).map_err(failed)?;
    fs::remove_dir_all(&scratch).map_err(failed)
}

/// The package that [`KERNEL_PACKAGE`] stands for at present.
fn kernel_package() -> Option<String> {
    let said = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE])).ok()?;
    let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
}

/// The files of [`PLUGINS`]: DPDK loads what ends in its full version from one directory.
fn plugins() -> Result<Vec<PathBuf>, String> {
    let libraries = output(Command::new("pkg-config").args(["--variable=libdir", "libdpdk"]))?;
    let directory = Path::new(libraries.trim()).join("dpdk");
    let entries = fs::read_dir(&directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let directory = entries.flatten().map(|entry| entry.path()).find(|path| path.join("librte_bus_pci.so").exists());
    let directory = directory.ok_or("DPDK's drivers are not here: apt-get install libdpdk-dev")?;
    let file = |name| fs::canonicalize(directory.join(format!("librte_{name}.so"))).map_err(|error| error.to_string());
    PLUGINS.into_iter().map(file).collect()
}

/// The libraries that the loader takes for a program or a library.
fn needed(file: &Path) -> Result<Vec<PathBuf>, String> {
    let said = output(Command::new("ldd").arg(file))?;
    if let Some(line) = said.lines().find(|line| line.contains("not found")) {
        return Err(format!("{}: {}", file.display(), line.trim()));
    }
    let word = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(said.lines().filter_map(word).collect())
}

/// Puts a library where the loader looks for it: one copy of each file, links under its other names. Two copies of a driver would
/// be two drivers.
fn install(root: &Path, library: &Path) -> Result<(), String> {
    let file = fs::canonicalize(library).map_err(|error| format!("{}: {error}", library.display()))?;
    copy(&file, &inside(root, &file))?;
    let name = inside(root, library);
    if file == library || name.exists() || name.is_symlink() {
        return Ok(());
    }
    let parent = name.parent().ok_or("a library in no directory")?;
    fs::create_dir_all(parent)
        .and_then(|()| symlink(&file, &name))
        .map_err(|error| format!("{}: {error}", name.display()))
}

/// An absolute path of this machine in the other's root.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let parent = to.parent().ok_or("a file in no directory")?;
    let copied = fs::create_dir_all(parent).and_then(|()| fs::copy(from, to));
    copied.map(drop).map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Stdio;

    /// What the loop says to what is typed.
    fn said(typed: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", COMMANDS]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().expect("a shell");
        child.stdin.take().expect("piped").write_all(typed.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends with its input");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_command_runs_once_and_only_whole() {
        assert_eq!(said("@ 1 6 echo a\n\n@ 2 5 false\n"), "@> 1 a @@ 0 @> 2 @@ 1");
        assert_eq!(said("@ 1 6 echo a\n@ 1 6 echo a\n@ 2 6 echo b\n"), "@> 1 a @@ 0 @> 2 b @@ 0", "typed again");
        let whole = "@ 1 19 echo a; echo /tmp/b\n";
        assert_eq!(said(whole), "@> 1 a /tmp/b @@ 0");
        // Whatever run of characters is lost, it is never a part of the command that runs; what is typed anew does, where the end of a
        // line comes before it.
        for from in 0..whole.len() {
            for to in from + 1..=whole.len() {
                let damaged = format!("{}{}", &whole[..from], &whole[to..]);
                let said = said(&format!("{damaged}\n{whole}"));
                let rest = said.trim_start_matches("@? ");
                assert_eq!(rest, "@> 1 a /tmp/b @@ 0", "{damaged:?}: {said}");
            }
        }
    }

    #[test]
    fn a_command_does_not_read_what_is_typed() {
        assert_eq!(said("@ 1 3 cat\n@ 2 6 echo b\n"), "@> 1 @@ 0 @> 2 b @@ 0");
    }
}
