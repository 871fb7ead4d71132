//! DPDK itself: its environment, started once in the life of a process and never taken down.

use super::preflight::{self, ThisMachine};
use super::{DpdkError, PciAddress, checked_name, interrupt, last_refusal};
use rustix::process::getuid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs};

/// Where DPDK's memory comes from. Buffers of all pools live in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary pages, so many MiB. Enough for every virtual device.
    Ordinary {
        /// MiB, taken at start.
        mib: u32,
    },
    /// Huge pages of 2 MiB, so many MiB, which the machine's administrator has reserved.
    Huge {
        /// MiB, taken at start.
        mib: u32,
    },
}

/// How DPDK starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalOptions {
    /// Sets this process's files apart from those of other users of DPDK on the machine. 1 to 24 letters, digits, `_` and `-`.
    pub file_prefix: String,
    /// Its memory.
    pub memory: Memory,
    /// The cards that it may use. It leaves all others alone; without any it does not look at the PCI bus.
    pub cards: Vec<PciAddress>,
}

impl EalOptions {
    /// 64 MiB of ordinary memory, no card.
    pub fn new(file_prefix: &str) -> Self {
        EalOptions { file_prefix: file_prefix.to_owned(), memory: Memory::Ordinary { mib: 64 }, cards: Vec::new() }
    }

    /// The command line that DPDK wants. Cards that are not named are left alone, other processes are not let in, huge pages are
    /// free again when the process has ended, however it did, and one thread, ours, on processor `cpu`, is all that DPDK shall count
    /// on. It chooses itself whether cards are told virtual addresses (behind an IOMMU) or physical ones.
    fn arguments(&self, cpu: usize) -> Result<Vec<CString>, DpdkError> {
        checked_name(&self.file_prefix)?;
        let mib = match self.memory {
            Memory::Ordinary { mib } | Memory::Huge { mib } => mib,
        };
        let mut words: Vec<String> = vec!["trimaran".to_owned()];
        words.push(match self.memory {
            Memory::Ordinary { .. } => "--no-huge".to_owned(),
            Memory::Huge { .. } => "--huge-unlink".to_owned(),
        });
        if self.cards.is_empty() {
            words.push("--no-pci".to_owned());
        }
        words.extend(self.cards.iter().map(|card| format!("--allow={card}")));
        words.extend(["--no-telemetry", "--no-shconf", "--log-level=error"].map(str::to_owned));
        words.extend(["-m".to_owned(), mib.to_string(), format!("--lcores=0@{cpu}")]);
        words.push(format!("--file-prefix={}", self.file_prefix));
        // Checked above, and the rest is ours: no word holds a zero byte.
        Ok(words.into_iter().filter_map(|word| CString::new(word).ok()).collect())
    }
}

/// The proof that DPDK runs in this process, which pools and devices ask for. Once it does, it does so until the process ends:
/// what it has given out can never become invalid.
#[derive(Debug, Clone, Copy)]
pub struct Eal(());

impl Eal {
    /// Looks whether the machine has what `options` need, then starts DPDK. Takes some 0.2 s, once in a process.
    ///
    /// DPDK pins the thread that starts it to one processor, which later threads would inherit; the thread's affinity is
    /// restored before this returns.
    pub fn start(options: &EalOptions) -> Result<Eal, DpdkError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        let affinity = sched_getaffinity(None);
        let first = |set: &CpuSet| (0..CpuSet::MAX_CPU).find(|cpu| set.is_set(*cpu));
        let cpu = affinity.as_ref().ok().and_then(first).unwrap_or(0);
        let mut words = options.arguments(cpu)?;
        if options.cards.iter().any(|card| interrupt::is_without_msix(*card)) {
            // For all cards of this process: one that has only MSI-X's then does without interrupts.
            words.push(c"--vfio-intr=msi".to_owned());
        }
        preflight::check_eal(options, &ThisMachine)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::StartedBefore);
        }
        let mut pointers: Vec<*mut c_char> = words.into_iter().map(CString::into_raw).collect();
        let count = pointers.len() as c_int; // about ten
        pointers.push(std::ptr::null_mut());
        // SAFETY: the vector holds `count` strings and a null, as the arguments of a main function do; the strings are never freed,
        // since DPDK keeps pointers to some of them, and STARTED lets nobody come here twice.
        let started = unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) };
        if let Ok(set) = &affinity
            && let Err(errno) = sched_setaffinity(None, set)
        {
            tracing::warn!(%errno, cpu, "cannot restore the affinity of the thread that started DPDK: it stays on one processor");
        }
        let refused = (started < 0).then(|| last_refusal("start DPDK"));
        remove_runtime_directory(&options.file_prefix);
        refused.map_or(Ok(Eal(())), Err)
    }
}

/// DPDK makes a directory for the files by which other processes find this one, and never removes it. There are none of these;
/// where there are some after all, it stays.
fn remove_runtime_directory(file_prefix: &str) {
    let usual = || match getuid().is_root() {
        true => "/var/run".into(),
        false => env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into()),
    };
    let base = env::var_os("RUNTIME_DIRECTORY").unwrap_or_else(usual);
    let _ = fs::remove_dir(Path::new(&base).join("dpdk").join(file_prefix));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &EalOptions) -> String {
        let words = options.arguments(3).expect("the prefix is good");
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_command_line_follows_the_options() {
        let mut options = EalOptions::new("kv-1");
        let ordinary = line(&options);
        assert!(ordinary.contains("--no-huge --no-pci"), "{ordinary}");
        assert!(ordinary.ends_with("-m 64 --lcores=0@3 --file-prefix=kv-1"), "{ordinary}");
        options.memory = Memory::Huge { mib: 8 };
        let huge = line(&options);
        assert!(!huge.contains("--no-huge") && huge.contains("--huge-unlink --no-pci"), "{huge}");
        options.cards = ["0000:03:00.0", "04:1f.7"].map(|card| card.parse().expect("an address")).to_vec();
        let cards = line(&options);
        assert!(!cards.contains("--no-pci") && cards.contains("--allow=0000:03:00.0 --allow=0000:04:1f.7"), "{cards}");
        for bad in ["", "a/b", "a b", "a\0b", "a,b", "a234567890123456789012345"] {
            options.file_prefix = bad.to_owned();
            assert!(matches!(options.arguments(0), Err(DpdkError::BadName { .. })), "{bad:?}");
        }
    }
}
