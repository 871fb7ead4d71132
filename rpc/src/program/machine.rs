//! What the operating system knows: who holds a port, how much CPU a process has used, which cores are isolated.
//!
//! All of it is read from `/proc` and `/sys`; what cannot be read is `None`, never a guess.

use std::fs;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Processes looked at in search of a socket's owner.
const PROCESSES_MAX: usize = 32_768;
/// Threads of one process that are added up.
const THREADS_MAX: usize = 4096;

/// The process that has bound `address`, as `name (pid N)`. `None` where there is none, or where this user may not see it.
pub fn udp_owner(address: SocketAddrV4) -> Option<String> {
    let table = fs::read_to_string("/proc/net/udp").ok()?;
    let inode = table.lines().skip(1).find_map(|line| inode_of(line, address))?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
    };
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (pid {pid})", name.trim_end()))
}

/// The inode of a line of `/proc/net/udp`, if the line is about a socket that takes `address`'s packets.
fn inode_of(line: &str, address: SocketAddrV4) -> Option<u64> {
    let mut words = line.split_whitespace();
    let (ip, port) = words.nth(1)?.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    let is_here = ip == address.ip().octets() || ip == [0; 4];
    let is_port = u16::from_str_radix(port, 16).ok()? == address.port();
    // Columns: sl local remote st queues timer retransmit uid timeout inode.
    let inode = words.nth(7)?.parse().ok()?;
    (is_here && is_port).then_some(inode)
}

/// CPU time, user and system, that all threads of a process have used: to the nanosecond where the kernel tells that of each thread,
/// else in ticks of mostly 10 ms.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = cpu_ticks(&stat)?;
    let per_second = rustix::param::clock_ticks_per_second();
    let ticks = Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second.max(1)));
    // The ticks are those of the whole process, cut off; threads that have ended are in them only. So the larger of the two is nearer.
    Some(threads_time(pid).map_or(ticks, |threads| threads.max(ticks)))
}

/// What the threads that a process has now have used. `None` where this kernel does not tell it (`CONFIG_SCHED_INFO`).
fn threads_time(pid: u32) -> Option<Duration> {
    let mut all_ns: Option<u64> = None;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().take(THREADS_MAX) {
        // One that has just ended has no file any more.
        let Ok(schedstat) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        all_ns = Some(all_ns.unwrap_or(0).saturating_add(cpu_ns(&schedstat)?));
    }
    all_ns.map(Duration::from_nanos)
}

/// The first number of a `schedstat`: nanoseconds on a processor.
fn cpu_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// utime + stime of a `/proc/PID/stat` line. The name in parentheses may hold anything, also `)`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// Time that the machine's processors together were busy since its start, whoever used them.
pub fn busy_time() -> Option<Duration> {
    let ticks = busy_ticks(&fs::read_to_string("/proc/stat").ok()?)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second.max(1))))
}

/// All columns of the first line of `/proc/stat` but idle and iowait: user, nice, system, _, _, irq, softirq, steal.
fn busy_ticks(stat: &str) -> Option<u64> {
    let columns = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let columns: Vec<u64> = columns.map(|column| column.parse().ok()).collect::<Option<_>>()?;
    (columns.len() == 8).then(|| columns.iter().sum::<u64>() - columns[3] - columns[4])
}

/// Bytes of ordinary memory that a process has at the moment.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    resident(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// The most that a process has had of it since its start.
pub fn peak_resident_bytes(pid: u32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

fn resident(status: &str) -> Option<u64> {
    field(status, "VmRSS:")
}

/// A line of a `/proc/PID/status` that is in KiB.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Whether the kernel was told to keep some cores free of other work (`isolcpus`).
pub fn has_isolated_cores() -> bool {
    fs::read_to_string("/sys/devices/system/cpu/isolated").is_ok_and(|list| !list.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};

    #[test]
    fn a_line_of_the_socket_table() {
        let line = " 2409: 0100007F:1F40 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 46218 2 00000000e3a8b1f0 0";
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000);
        assert_eq!(inode_of(line, address), Some(46218));
        assert_eq!(inode_of(line, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8001)), None);
        assert_eq!(inode_of(line, SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 8000)), None);
        assert_eq!(inode_of(&line.replace("0100007F", "00000000"), address), Some(46218), "bound to every address");
        assert_eq!(inode_of("garbage", address), None);
    }

    #[test]
    fn a_stat_line_with_a_nasty_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 17 5 0 0 20 0 1 0 100 1000 10 0 0";
        assert_eq!(cpu_ticks(stat), Some(22));
        assert_eq!(cpu_ticks("42 (kv) S 1"), None);
    }

    #[test]
    fn the_first_number_of_a_schedstat_is_time_on_a_processor() {
        assert_eq!(cpu_ns("64493671 263741450 169\n"), Some(64_493_671));
        assert_eq!((cpu_ns(""), cpu_ns("x 1 2")), (None, None));
        assert_eq!(threads_time(u32::MAX), None, "a process that is no more");
    }

    /// A node that waits uses some milliseconds of a second: two readings in ticks would tell none of them, or ten.
    #[test]
    fn what_a_process_uses_is_told_more_finely_than_in_ticks() {
        use rustix::time::{ClockId, clock_gettime};
        let own = std::process::id();
        if !std::path::Path::new("/proc/self/schedstat").exists() {
            return;
        }
        let used = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        for _ in 0..5 {
            let (before, from) = (cpu_time(own).expect("this process"), used());
            while used() - from < Duration::from_millis(3) {
                std::hint::spin_loop();
            }
            // The kernel adds up what a thread has used when that leaves its processor.
            std::thread::park_timeout(Duration::from_millis(1));
            let told = cpu_time(own).expect("this process") - before;
            assert!(told >= Duration::from_micros(2900), "{told:?}");
            assert_ne!(told.subsec_nanos() % 1_000_000, 0, "{told:?} is whole milliseconds: ticks");
        }
    }

    #[test]
    fn an_idle_processor_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"), Some(63));
        assert_eq!(busy_ticks("cpu  1 2\n"), None);
        assert!(busy_time() > Some(Duration::ZERO));
    }

    #[test]
    fn resident_memory_is_told_in_kib() {
        assert_eq!(resident("Name:\tkv\nVmPeak:\t  9 kB\nVmRSS:\t   18432 kB\nRssAnon:\t 1 kB\n"), Some(18_874_368));
        assert_eq!(resident("Name:\tkv\n"), None, "a process that is no more");
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn this_process_is_found_by_its_socket() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let Ok(std::net::SocketAddr::V4(address)) = socket.local_addr() else { panic!("IPv4") };
        let owner = udp_owner(address).expect("this process");
        assert!(owner.ends_with(&format!("(pid {})", std::process::id())), "{owner}");
        drop(socket);
        assert!(cpu_time(std::process::id()).is_some());
    }
}
