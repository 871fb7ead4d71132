//! Prints what a durable write costs, beside fio doing the same: `cargo bench -p trimaran-benches --bench disk`.
//!
//! 4 KiB writes one after the other into a file that was written before, so many at once in flight, each durable when it
//! completes; in the directory DISK_BENCH_DIR, else where cargo keeps its output. fio, where it is installed, does so with
//! io_uring, O_DIRECT and O_DSYNC. All take turns, and of each the round with the median rate is shown.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use trimaran_runtime::disk::Engine;
use trimaran_runtime::{
    Aligned, BLOCK_BYTES, Clock, CoreConfig, Disk, DiskConfig, Done, Driver, FileId, Flushed, Idle, Instant, Monotonic,
    Op, Polled, run,
};

const FILE_BYTES: u64 = 64 << 20;
const ROUNDS: usize = 3;
const SECONDS: u64 = 1;

/// No packets; sleeps as a real device does.
struct Nothing;

impl Driver for Nothing {
    fn poll(&mut self, _: Instant, _: usize) -> Polled {
        Polled::default()
    }
    fn flush(&mut self, _: Instant) -> Flushed {
        Flushed::default()
    }
    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        let mut fds: Vec<_> =
            wake.iter().map(|wake| rustix::event::PollFd::new(wake, rustix::event::PollFlags::IN)).collect();
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
    }
}

/// Writes a second and the median latency.
#[derive(Clone, Copy)]
struct Figure {
    writes_per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// The figure of the round whose rate is the median.
fn median(mut rounds: Vec<Figure>) -> Figure {
    rounds.sort_by(|a, b| a.writes_per_second.total_cmp(&b.writes_per_second));
    rounds[rounds.len() / 2]
}

async fn opened(disk: &Disk, op: Op) -> FileId {
    disk.submit(op).expect("room");
    match disk.completion().await.result {
        Ok(Done::Opened { file, .. }) => file,
        other => panic!("{other:?}"),
    }
}

/// Keeps `depth` writes in flight for a second.
fn ours(directory: &Path, engine: Engine, idle: Idle, depth: usize) -> Figure {
    let disk = Disk::open(directory, DiskConfig { engine, ..DiskConfig::default() }).expect("a disk");
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
    let to = latencies.clone();
    let load = move || async move {
        let file = opened(&disk, Op::Open { name: "bench".into() }).await;
        let mut next = 0;
        let mut begun = std::collections::BTreeMap::new();
        let mut write = |buffer| {
            let ticket = disk.submit(Op::Write { file, offset: next, buffer }).expect("room");
            next = (next + BLOCK_BYTES as u64) % FILE_BYTES;
            ticket
        };
        let start = Monotonic.now();
        for _ in 0..depth {
            let at = Monotonic.now();
            begun.insert(write(Aligned::zeroed(BLOCK_BYTES)), at);
        }
        while !begun.is_empty() {
            let completion = disk.completion().await;
            completion.result.expect("a write");
            let now = Monotonic.now();
            to.borrow_mut().push((now - begun.remove(&completion.ticket).expect("mine")).as_nanos() as u64);
            if now - start < Duration::from_secs(SECONDS) {
                begun.insert(write(completion.buffer.expect("back")), now);
            }
        }
        (Monotonic.now() - start).as_secs_f64()
    };
    let seconds = run(CoreConfig { idle, ..CoreConfig::default() }, || Nothing, load).expect("a run");
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    let at = |part: usize| latencies[(latencies.len() * part / 1000).min(latencies.len() - 1)] as f64 / 1e3;
    Figure { writes_per_second: latencies.len() as f64 / seconds, p50_us: at(500), p99_us: at(990) }
}

/// The same by fio. `None` where it is not installed.
fn fio(directory: &Path, depth: usize) -> Option<Figure> {
    let output = Command::new("fio")
        .args(["--name=bench", "--ioengine=io_uring", "--direct=1", "--sync=dsync", "--rw=write", "--bs=4k"])
        .args(["--time_based", "--overwrite=1", "--thread", "--output-format=terse", "--percentile_list=50:99"])
        .arg(format!("--filename={}", directory.join("bench").display()))
        .args([format!("--size={FILE_BYTES}"), format!("--iodepth={depth}"), format!("--runtime={SECONDS}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<&str> = text.trim().split(';').collect();
    // Version 3 of the format: writes begin at field 46, with rates at 48, and their completion latencies' percentiles at 58.
    let percentile = |at: usize| fields.get(at)?.split_once('=')?.1.parse::<f64>().ok();
    let writes_per_second = fields.get(48)?.parse().ok()?;
    Some(Figure { writes_per_second, p50_us: percentile(58)?, p99_us: percentile(59)? })
}

/// One at a time into blocks that are only allocated: why a new file is written in full. The file is longer than a second's writes.
fn first_writes(directory: &Path) -> Figure {
    let file = std::fs::File::create(directory.join("bench")).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE_BYTES).expect("room");
    file.sync_all().expect("a sync");
    ours(directory, Engine::Best, Idle::default(), 1)
}

fn prepare(directory: &Path) {
    let _ = std::fs::remove_file(directory.join("bench"));
    let disk = Disk::open(directory, DiskConfig::default()).expect("a disk");
    println!("{}", disk.describe());
    let create = move || async move { opened(&disk, Op::Create { name: "bench".into(), bytes: FILE_BYTES }).await };
    let start = Monotonic.now();
    run(CoreConfig::default(), || Nothing, create).expect("a file");
    println!("a new file of {} MiB takes {} ms", FILE_BYTES >> 20, (Monotonic.now() - start).as_millis());
}

fn show(name: &str, depth: usize, figure: Figure) {
    let Figure { writes_per_second, p50_us, p99_us } = figure;
    println!("{name:<22} {depth:>3} {writes_per_second:>9.0} {p50_us:>9.0} {p99_us:>9.0}");
}

fn main() {
    let parent = std::env::var_os("DISK_BENCH_DIR").map_or(PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = parent.join(format!("disk-bench-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a new directory");
    let allocated = first_writes(&directory);
    println!("{:<22} {:>3} {:>9} {:>9} {:>9}", "4 KiB, durable", "at", "writes/s", "p50 us", "p99 us");
    show("allocated only", 1, allocated);
    prepare(&directory);
    for depth in [1, 4, 16, 64] {
        let (mut uring, mut parked, mut thread, mut theirs) = (vec![], vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            theirs.extend(fio(&directory, depth));
            uring.push(ours(&directory, Engine::Best, Idle::default(), depth));
            parked.push(ours(&directory, Engine::Best, Idle::Park, depth));
            thread.push(ours(&directory, Engine::Thread, Idle::default(), depth));
        }
        let ours = median(uring);
        show("io_uring", depth, ours);
        show("io_uring, core parks", depth, median(parked));
        show("thread", depth, median(thread));
        if !theirs.is_empty() {
            let theirs = median(theirs);
            show("fio", depth, theirs);
            println!("{:<22} {depth:>3} {:>9.2}", "io_uring / fio", ours.writes_per_second / theirs.writes_per_second);
        }
    }
    let _ = std::fs::remove_dir_all(&directory);
}
