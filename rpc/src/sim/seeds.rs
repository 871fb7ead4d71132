//! One test over many seeds: what `#[trimaran_rpc::test]` expands to.

use super::calls::write_json;
use super::chaos::{Fault, FaultCounts};
use super::handle::{Sim, Tally};
use crate::replica::panic_message;
use crate::service::Service;
use futures::task::{ArcWake, waker_ref};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::future::Future;
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use trimaran_net::PcapWriter;

/// The seed to replay, alone and with the log on standard error.
const SEED_VARIABLE: &str = "TRIMARAN_SEED";
/// How many seeds to run, whatever the test says.
const SEEDS_VARIABLE: &str = "TRIMARAN_SEEDS";
/// The most detailed level that a replay logs: error, warn, info (unless set), debug, trace.
const LOG_VARIABLE: &str = "TRIMARAN_LOG";
/// Every so many seeds one is run twice: its trace must not differ.
const REPEAT_EVERY: u64 = 50;
/// From so many seeds on, each kind of fault that the test asks for must have struck.
const SEEDS_FOR_ALL_FAULTS: u64 = 20;
/// Bytes of packets kept of a failing seed; later ones are left out.
const PCAP_BYTES_MAX: u64 = 256 << 20;

/// Runs `body` for seeds 0 to `seeds` - 1, each with a simulation of its own, on this thread. `name` is the test's.
///
/// A seed fails when `body` panics, as its assertions do, or when the simulator finds a fault. It is then run again with all
/// packets recorded, and `target/trimaran-sim/<name>/<seed>/` gets `trace.pcap` (for any analyser) and `history.json`. Every
/// 50th seed is run twice, and fails where the two runs differ: then something in the service or the test is drawn from outside
/// of the simulation.
///
/// `TRIMARAN_SEED=17` replays that one seed with its log (`TRIMARAN_LOG=debug` for more of it); `TRIMARAN_SEEDS=10000` is for a
/// night. At the end one line says what was done; `cargo test -- --nocapture` shows it.
///
/// # Panics
/// At the first seed that fails, with the seed, what was found, and how to replay it. Also where a kind of fault that the test
/// asked for has struck in none of 20 or more seeds: such a test shows nothing.
pub fn run_seeds<S, F>(name: &str, seeds: u64, body: F)
where
    S: Service + Default,
    F: AsyncFn(Sim<S>),
{
    run_seeds_with(name, seeds, S::default, body);
}

/// As [`run_seeds`], for a service that has no default: every start of a node makes one with `make`.
///
/// # Panics
/// As [`run_seeds`].
pub fn run_seeds_with<S, F>(name: &str, seeds: u64, make: impl Fn() -> S + Clone + 'static, body: F)
where
    S: Service,
    F: AsyncFn(Sim<S>),
{
    let run = |seed, artefacts: Option<&Path>| one(&Sim::with_service(seed, make.clone()), &body, artefacts);
    if let Some(seed) = number(SEED_VARIABLE) {
        return replay(name, seed, run);
    }
    let seeds = number(SEEDS_VARIABLE).unwrap_or(seeds);
    let started = processor_time();
    let mut total = Total::default();
    for seed in 0..seeds {
        let (tally, mut end) = run(seed, None);
        total.add(&tally);
        if end.is_ok() && seed.is_multiple_of(REPEAT_EVERY) {
            total.repeated += 1;
            let (again, _) = run(seed, None);
            total.packets += again.packets;
            if again.trace_hash != tally.trace_hash {
                end = Err(DIFFERS.to_owned());
            }
        }
        if let Err(failure) = end {
            let directory = directory(name, seed);
            eprintln!("{name}: seed {seed} failed; it runs again, with its packets and history recorded");
            let _ = run(seed, Some(&directory));
            fail(report(name, seed, Some(seeds), &tally, &failure, &directory));
        }
    }
    println!("{}", total.line(name, processor_time().saturating_sub(started)));
    let missing = total.never_struck();
    assert!(
        seeds < SEEDS_FOR_ALL_FAULTS || missing.is_empty(),
        "{name}: in none of {seeds} seeds did these faults strike: {}. Let clients work longer, with more operations or a longer \
         pause between them, or let faults strike more often",
        missing.join(", ")
    );
}

const DIFFERS: &str = "two runs of this seed differ: something in the service or the test comes from outside of the simulation, \
                       such as a clock, an address, a hashed collection or a static variable";

fn replay(name: &str, seed: u64, run: impl Fn(u64, Option<&Path>) -> (Tally, Result<(), String>)) {
    let level = std::env::var(LOG_VARIABLE).ok().and_then(|level| level.parse().ok());
    let log = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(tracing_subscriber::filter::LevelFilter::INFO))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .finish();
    let directory = directory(name, seed);
    let (tally, end) = tracing::subscriber::with_default(log, || run(seed, Some(&directory)));
    if let Err(failure) = end {
        fail(report(name, seed, None, &tally, &failure, &directory));
    }
    println!("{name}: seed {seed} passed, {}; see {}", summary(&tally), directory.display());
}

/// Ends the test. The hook has told of the panic, and where it was, already.
fn fail(report: String) -> ! {
    eprintln!("\n{report}");
    resume_unwind(Box::new(report))
}

/// Runs one seed to its end; with `artefacts` it leaves packets and history in that directory.
fn one<S: Service, F: AsyncFn(Sim<S>)>(
    sim: &Sim<S>,
    body: &F,
    artefacts: Option<&Path>,
) -> (Tally, Result<(), String>) {
    if let Some(directory) = artefacts {
        kept(directory, fs::create_dir_all(directory));
        let path = directory.join("trace.pcap");
        let opened = File::create(&path).and_then(|file| {
            let out: Box<dyn Write> = Box::new(BufWriter::new(file));
            PcapWriter::new(out, PCAP_BYTES_MAX)
        });
        if let Some(tap) = kept(&path, opened) {
            sim.tap(tap);
        }
    }
    let end = catch_unwind(AssertUnwindSafe(|| block_on(body(sim.clone()))));
    if let Some(directory) = artefacts {
        sim.end_tap();
        let path = directory.join("history.json");
        let record = sim.inner().record.clone();
        kept(&path, File::create(&path).and_then(|file| write_json(&record.borrow(), BufWriter::new(file))));
    }
    (sim.tally(), end.map_err(|panic| panic_message(panic.as_ref())))
}

/// A failed run is worth more than a full disk: what cannot be written is said and left out.
fn kept<T>(path: &Path, written: std::io::Result<T>) -> Option<T> {
    written.inspect_err(|error| eprintln!("cannot write {}: {error}", path.display())).ok()
}

fn report(name: &str, seed: u64, of: Option<u64>, tally: &Tally, failure: &str, directory: &Path) -> String {
    let of = of.map_or_else(String::new, |seeds| format!(" of 0..{seeds}"));
    format!(
        "{name}: seed {seed}{of} failed after {}:\n{failure}\nreplay it: {SEED_VARIABLE}={seed} cargo test {name} -- --nocapture\n\
         packets and history: {}",
        summary(tally),
        directory.display()
    )
}

fn summary(tally: &Tally) -> String {
    format!(
        "{:.3} s of virtual time, {} packets and {} operations",
        tally.virtual_time.as_secs_f64(),
        tally.packets,
        tally.operations
    )
}

/// Where a seed's artefacts go: below the target directory, which is where this test program lies unless it is named.
fn directory(name: &str, seed: u64) -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let found = || {
        let program = std::env::current_exe().ok()?;
        // <target>/<profile>/deps/<program>
        let deps = program.ancestors().find(|path| path.ends_with("deps"))?;
        Some(deps.parent()?.parent()?.to_path_buf())
    };
    let target = named.or_else(found).unwrap_or_else(|| PathBuf::from("target"));
    // A test's name may hold colons or slashes.
    let name: String =
        name.chars().map(|c| if c.is_alphanumeric() || c == '_' || c == '-' { c } else { '.' }).collect();
    target.join("trimaran-sim").join(name).join(seed.to_string())
}

/// What this thread has used so far; how busy the machine is does not matter.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    match value.parse() {
        Ok(number) => Some(number),
        Err(error) => panic!("{variable}={value}: {error}"),
    }
}

/// What all seeds did.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    repeated: u64,
    virtual_time: Duration,
    packets: u64,
    operations: usize,
    asked: Vec<Fault>,
    faults: FaultCounts,
}

impl Total {
    fn add(&mut self, tally: &Tally) {
        self.seeds += 1;
        self.virtual_time += tally.virtual_time;
        self.packets += tally.packets;
        self.operations += tally.operations;
        self.asked.extend(tally.asked.kinds());
        self.asked.sort_unstable();
        self.asked.dedup();
        self.faults.merge(&tally.faults);
    }

    fn never_struck(&self) -> Vec<&'static str> {
        self.asked.iter().filter(|fault| self.faults.get(**fault) == 0).map(|fault| fault.name()).collect()
    }

    fn line(&self, name: &str, took: Duration) -> String {
        let struck = Fault::ALL.iter().filter(|fault| self.faults.get(**fault) > 0);
        let struck: Vec<_> = struck.map(|fault| format!("{} {}", fault.name(), self.faults.get(*fault))).collect();
        format!(
            "{name}: {} seeds ({} of them twice), {:.1} s of virtual time, {} operations, {} packets, {:.0} packets/s of processor time; faults: {}",
            self.seeds,
            self.repeated,
            self.virtual_time.as_secs_f64(),
            self.operations,
            self.packets,
            self.packets as f64 / took.as_secs_f64().max(1e-9),
            if struck.is_empty() { "none".to_owned() } else { struck.join(", ") }
        )
    }
}

struct Woken(AtomicBool);

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::Relaxed);
    }
}

/// Polls to the end. The futures of a simulation make their own progress; one that waits for something else waits for ever.
fn block_on<F: Future>(future: F) -> F::Output {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = waker_ref(&woken);
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        assert!(
            woken.0.swap(false, Ordering::Relaxed),
            "the test awaits something that only the simulated world can bring about: await it in a client's code"
        );
    }
}
