//! The simulated disk: what a crash leaves, and each fault.

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use support::files::{Still, sim_world};
use support::ms;
use trimaran_runtime::disk::Writes;
use trimaran_runtime::sim::disk::{DiskFaults, SimDisk};
use trimaran_runtime::sim::{CoreIndex, World};
use trimaran_runtime::{Aligned, BLOCK_BYTES, Disk, DiskConfig, DiskError, Done, FileId, Instant, Lane, Op, now};

const BLOCK: u64 = BLOCK_BYTES as u64;
const EIO: DiskError = DiskError::Device { errno: 5 };
const DURABLE: DiskConfig =
    DiskConfig { ops_max: 256, files_max: 64, writes: Writes::Durable, engine: trimaran_runtime::disk::Engine::Best };
const CACHED: DiskConfig = DiskConfig { writes: Writes::Cached, ..DURABLE };

/// A machine with a disk.
struct Machine {
    world: World<Still>,
    core: CoreIndex,
    sim: SimDisk,
}

impl Machine {
    fn new(seed: u64, faults: DiskFaults) -> Machine {
        let (world, core) = sim_world(seed);
        Machine { world, core, sim: SimDisk::new(seed, faults) }
    }

    /// Runs a program on it to its end.
    fn run<F>(&mut self, config: DiskConfig, program: impl FnOnce(Disk) -> F) -> F::Output
    where
        F: Future + 'static,
    {
        let output = Rc::new(RefCell::new(None));
        let (to, program) = (output.clone(), program(self.sim.mount(config)));
        let program = async move {
            let output = program.await;
            *to.borrow_mut() = Some(output);
        };
        self.world.spawn(self.core, Lane::Normal, program).detach();
        while self.world.step() {}
        output.take().expect("it ends")
    }

    /// Runs a program until it has submitted all it will and the world's time is up, then kills it.
    fn kill<F>(&mut self, config: DiskConfig, program: impl FnOnce(Disk) -> F, after: Duration)
    where
        F: Future<Output = ()> + 'static,
    {
        let disk = self.sim.mount(config);
        self.world.spawn(self.core, Lane::Normal, program(disk)).detach();
        self.world.run_for(after);
        self.world.kill(self.core);
        self.world.revive(self.core, Still);
    }

    fn content(&self, name: &str) -> Vec<u8> {
        self.sim.mount(DURABLE).read(name).expect("a file")
    }
}

async fn one(disk: &Disk, op: Op) -> (Result<Done, DiskError>, Option<Aligned>) {
    disk.submit(op).expect("room");
    let completion = disk.completion().await;
    (completion.result, completion.buffer)
}

async fn do_all(disk: &Disk, ops: Vec<Op>) {
    for op in ops {
        one(disk, op).await.0.expect("no fault");
    }
}

async fn create(disk: &Disk, name: &str, blocks: u64) -> FileId {
    match one(disk, Op::Create { name: name.into(), bytes: blocks * BLOCK }).await.0 {
        Ok(Done::Opened { file, .. }) => file,
        other => panic!("{other:?}"),
    }
}

fn write(file: FileId, block: u64, byte: u8) -> Op {
    let mut buffer = Aligned::zeroed(BLOCK_BYTES);
    buffer.fill(byte);
    Op::Write { file, offset: block * BLOCK, buffer }
}

/// A file `log` of 8 blocks with a durable name, of which the first has the byte 1 as durable as the mode makes it.
async fn start(disk: &Disk) -> FileId {
    let file = create(disk, "log", 8).await;
    do_all(disk, vec![Op::SyncDirectory, write(file, 0, 1)]).await;
    file
}

#[test]
fn a_durable_write_survives_and_a_cached_one_only_with_a_sync() {
    let mut cached_lost = 0;
    for seed in 0..40 {
        for (config, sync) in [(DURABLE, false), (CACHED, true), (CACHED, false)] {
            let mut machine = Machine::new(seed, DiskFaults::default());
            machine.run(config, move |disk| async move {
                let file = start(&disk).await;
                if sync {
                    do_all(&disk, vec![Op::Sync { file }, write(file, 1, 2)]).await;
                }
            });
            machine.sim.power_cut();
            let survived = machine.content("log")[..BLOCK_BYTES].iter().all(|&byte| byte == 1);
            if config == DURABLE || sync {
                assert!(survived, "seed {seed}");
            } else {
                cached_lost += usize::from(!survived);
            }
        }
    }
    assert!(cached_lost >= 35, "{cached_lost} of 40");
}

#[test]
fn what_the_kernel_has_survives_the_process() {
    let mut machine = Machine::new(3, DiskFaults::default());
    machine.run(CACHED, |disk| async move {
        start(&disk).await;
    });
    machine.sim.end_process();
    assert!(machine.content("log")[..BLOCK_BYTES].iter().all(|&byte| byte == 1));
}

#[test]
fn a_killed_process_leaves_its_operations_done_or_not_and_each_as_a_whole() {
    let mut done = BTreeSet::new();
    for seed in 0..40 {
        let mut machine =
            Machine::new(seed, DiskFaults { delay_min: ms(1), delay_max: ms(1), ..DiskFaults::default() });
        let program = |disk: Disk| async move {
            let file = create(&disk, "log", 2).await;
            for block in 0..2 {
                disk.submit(write(file, block, 5)).expect("room");
            }
            std::future::pending().await
        };
        // The file is there after a millisecond, the writes need another.
        machine.kill(DURABLE, program, Duration::from_micros(1500));
        assert_eq!(machine.sim.counters().cut_short, 2);
        let content = machine.content("log");
        let state: Vec<u8> = content.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert!(
            content.chunks(BLOCK_BYTES).all(|block| block.iter().all(|&byte| byte == block[0])),
            "torn without a power cut"
        );
        done.insert(state);
    }
    assert_eq!(done.len(), 4, "{done:?}");
}

#[test]
fn a_power_cut_tears_what_is_in_flight_between_sectors_and_nowhere_else() {
    let (mut torn, mut seen) = (0, BTreeSet::new());
    for seed in 0..60 {
        let mut machine =
            Machine::new(seed, DiskFaults { delay_min: ms(1), delay_max: ms(1), ..DiskFaults::default() });
        let disk = machine.sim.mount(DURABLE);
        let program = async move {
            let file = start(&disk).await;
            disk.submit(write(file, 0, 2)).expect("room");
            disk.completion().await;
        };
        machine.world.spawn(machine.core, Lane::Normal, program).detach();
        machine.world.run_for(Duration::from_micros(3500));
        machine.sim.power_cut();
        torn += machine.sim.counters().torn_writes;
        let content = machine.content("log");
        for sector in content[..BLOCK_BYTES].chunks(512) {
            assert!(sector[0] == 1 || sector[0] == 2);
            assert!(sector.iter().all(|&byte| byte == sector[0]));
        }
        seen.insert(content[..BLOCK_BYTES].chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>());
        assert!(content[BLOCK_BYTES..].iter().all(|&byte| byte == 0));
        // The program of before is cut off: nobody tells it anything.
        machine.world.run_for(ms(100));
        assert_eq!(machine.content("log"), content);
    }
    assert!(torn >= 50 && seen.len() >= 40, "{torn} torn, {} states", seen.len());
}

#[test]
fn names_are_durable_after_a_sync_of_the_directory_and_not_before() {
    let mut states = BTreeSet::new();
    for seed in 0..60 {
        let mut machine = Machine::new(seed, DiskFaults::default());
        machine.run(DURABLE, |disk| async move {
            create(&disk, "kept", 1).await;
            do_all(&disk, vec![Op::SyncDirectory]).await;
            create(&disk, "new", 1).await;
            do_all(&disk, vec![Op::Rename { from: "kept".into(), to: "moved".into() }]).await;
        });
        machine.sim.power_cut();
        let names = |disk: Disk| disk.list().expect("a list").into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        states.insert(names(machine.sim.mount(DURABLE)));
        machine.run(DURABLE, |disk| async move {
            let file = create(&disk, "tmp", 1).await;
            let rename = Op::Rename { from: "tmp".into(), to: "final".into() };
            do_all(&disk, vec![write(file, 0, 9), rename, Op::SyncDirectory]).await;
        });
        machine.sim.power_cut();
        assert!(machine.content("final").iter().all(|&byte| byte == 9));
        assert!(machine.sim.counters().lost_names <= 2);
    }
    let expected = [vec!["kept"], vec!["kept", "new"], vec!["moved"], vec!["moved", "new"]];
    assert_eq!(states, expected.map(|names| names.into_iter().map(str::to_owned).collect()).into());
}

#[test]
fn a_sync_covers_what_had_completed_when_it_was_submitted_and_no_more() {
    let (mut lost_writes, mut lost_names) = (0, 0);
    for seed in 0..20 {
        let mut machine = Machine::new(seed, DiskFaults::default());
        let sim = machine.sim.clone();
        machine.run(CACHED, move |disk| async move {
            let file = start(&disk).await;
            sim.set_faults(DiskFaults { delay_min: ms(5), delay_max: ms(5), ..DiskFaults::default() });
            let sync = disk.submit(Op::Sync { file }).expect("room");
            let directory = disk.submit(Op::SyncDirectory).expect("room");
            trimaran_runtime::sleep(Duration::from_micros(10)).await;
            sim.set_faults(DiskFaults::default());
            disk.submit(write(file, 0, 2)).expect("room");
            disk.submit(Op::Remove { name: "log".into() }).expect("room");
            let ended = [disk.completion().await, disk.completion().await].map(|completion| completion.ticket);
            assert!(!ended.contains(&sync) && !ended.contains(&directory));
            assert!(disk.completion().await.result.is_ok() && disk.completion().await.result.is_ok());
        });
        machine.sim.power_cut();
        lost_names += machine.sim.counters().lost_names;
        if let Ok(content) = machine.sim.mount(CACHED).read("log") {
            assert!(content[..BLOCK_BYTES].iter().all(|byte| [1, 2].contains(byte)), "the first write was synced");
            lost_writes += usize::from(content[..BLOCK_BYTES].contains(&1));
        }
    }
    assert!(lost_names >= 4 && lost_writes >= 4, "{lost_names} removals and {lost_writes} writes came undone");
}

#[test]
fn one_seed_gives_one_disk() {
    let history = |seed| {
        let faults = DiskFaults { write_error: 0.1, misdirect: 0.1, slow: 0.1, ..DiskFaults::default() };
        let mut machine = Machine::new(seed, DiskFaults::default());
        let sim = machine.sim.clone();
        let log = machine.run(CACHED, move |disk| async move {
            let file = start(&disk).await;
            sim.set_faults(faults);
            let mut log = Vec::new();
            for round in 0..50u8 {
                disk.submit(write(file, u64::from(round % 8), round)).expect("room");
                disk.submit(write(file, u64::from(round % 5), round)).expect("room");
                log.push((now(), disk.completion().await.ticket));
                let completion = disk.completion().await;
                log.push((now(), completion.ticket));
            }
            log
        });
        machine.sim.power_cut();
        machine.sim.set_faults(DiskFaults::default());
        (log, machine.content("log"), machine.sim.counters(), machine.world.trace_hash())
    };
    assert!(history(1) == history(1));
    assert!(history(1) != history(2));
}

/// Runs a fault at certainty on `op` and gives its result.
fn strike(
    faults: DiskFaults,
    config: DiskConfig,
    op: impl FnOnce(FileId) -> Op + 'static,
) -> (Machine, Result<Done, DiskError>) {
    let mut machine = Machine::new(5, DiskFaults::default());
    let sim = machine.sim.clone();
    let result = machine.run(config, move |disk| async move {
        let file = start(&disk).await;
        do_all(&disk, vec![write(file, 0, 3)]).await;
        sim.set_faults(faults);
        one(&disk, op(file)).await.0
    });
    machine.sim.set_faults(DiskFaults::default());
    (machine, result)
}

#[test]
fn errors_strike_reads_writes_and_syncs() {
    let read = |file| Op::Read { file, offset: 0, buffer: Aligned::zeroed(BLOCK_BYTES) };
    let (machine, result) =
        strike(DiskFaults { write_error: 1.0, ..DiskFaults::default() }, DURABLE, |file| write(file, 0, 4));
    assert_eq!((result, machine.sim.counters().write_errors), (Err(EIO), 1));
    let (machine, result) = strike(DiskFaults { read_error: 1.0, ..DiskFaults::default() }, DURABLE, read);
    assert_eq!((result, machine.sim.counters().read_errors), (Err(EIO), 1));
    let (machine, result) =
        strike(DiskFaults { sync_error: 1.0, ..DiskFaults::default() }, CACHED, |file| Op::Sync { file });
    assert_eq!((result, machine.sim.counters().sync_errors), (Err(EIO), 1));
    machine.sim.power_cut();
    assert!(
        machine.sim.counters().lost_writes + machine.sim.counters().torn_writes > 0,
        "a failed sync makes nothing durable"
    );
}

#[test]
fn a_full_disk_refuses_more_and_goes_on() {
    let faults = DiskFaults { space_bytes: 9 * BLOCK, ..DiskFaults::default() };
    let create = |_| Op::Create { name: "next".into(), bytes: 2 * BLOCK };
    let (machine, result) = strike(faults, DURABLE, create);
    assert_eq!((result, machine.sim.counters().no_space), (Err(DiskError::NoSpace), 1));
    assert_eq!(machine.sim.mount(DURABLE).list().map(|list| list.len()), Ok(1));
    let (machine, result) = strike(faults, DURABLE, |file| write(file, 9, 1));
    assert_eq!((result, machine.sim.counters().no_space), (Err(DiskError::NoSpace), 1));
    assert_eq!(strike(faults, DURABLE, |file| write(file, 8, 1)).1, Ok(Done::Finished));
    assert_eq!(strike(faults, DURABLE, |file| write(file, 0, 1)).1, Ok(Done::Finished));
}

#[test]
fn bits_rot_writes_go_astray_and_nobody_is_told() {
    let faults = DiskFaults { rot: 1.0, ..DiskFaults::default() };
    let (machine, result) = strike(faults, DURABLE, |file| write(file, 0, 3));
    let content = machine.content("log");
    let wrong: u32 =
        content.iter().enumerate().map(|(at, byte)| (byte ^ if at < BLOCK_BYTES { 3 } else { 0 }).count_ones()).sum();
    assert_eq!((result, wrong, machine.sim.counters().rotted), (Ok(Done::Finished), 1, 1));

    let faults = DiskFaults { misdirect: 1.0, ..DiskFaults::default() };
    let (machine, result) = strike(faults, DURABLE, |file| write(file, 2, 7));
    let blocks: Vec<u8> = machine.content("log").chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!((result, blocks[2], machine.sim.counters().misdirected), (Ok(Done::Finished), 0, 1));
    assert_eq!(blocks.iter().filter(|&&byte| byte == 7).count(), 1, "{blocks:?}");

    machine.sim.rot("log", 5, 3).expect("there");
    assert_eq!(machine.content("log")[5] ^ machine.content("log")[6], 8);
}

#[test]
fn a_stale_read_shows_the_content_before_the_last_write() {
    let faults = DiskFaults { stale_read: 1.0, ..DiskFaults::default() };
    let mut machine = Machine::new(5, faults);
    machine.run(DURABLE, |disk| async move {
        let file = start(&disk).await;
        do_all(&disk, vec![write(file, 0, 3)]).await;
        let (result, buffer) = one(&disk, Op::Read { file, offset: 0, buffer: Aligned::zeroed(2 * BLOCK_BYTES) }).await;
        assert_eq!(result, Ok(Done::Read { bytes: 2 * BLOCK_BYTES }));
        assert!(buffer.expect("back")[..BLOCK_BYTES].iter().all(|&byte| byte == 1));
    });
    assert_eq!(machine.sim.counters().stale_reads, 1);
}

#[test]
fn a_lost_sync_is_found_out_by_a_power_cut() {
    let faults = DiskFaults { lost_sync: 1.0, ..DiskFaults::default() };
    for (config, op) in [(DURABLE, (|file| write(file, 1, 6)) as fn(FileId) -> Op), (CACHED, |file| Op::Sync { file })]
    {
        let (machine, result) = strike(faults, config, op);
        assert_eq!((result, machine.sim.counters().lost_syncs), (Ok(Done::Finished), 1));
        machine.sim.power_cut();
        let counters = machine.sim.counters();
        assert!(counters.lost_writes + counters.torn_writes > 0, "{counters:?}");
    }
}

#[test]
fn a_stalled_disk_answers_later_and_the_oldest_operation_shows_it() {
    let mut machine = Machine::new(1, DiskFaults::default());
    let sim = machine.sim.clone();
    machine.run(DURABLE, move |disk| async move {
        let file = start(&disk).await;
        let before = now();
        disk.submit(write(file, 0, 1)).expect("room");
        sim.stall(ms(700));
        disk.completion().await;
        let after = now();
        assert!((ms(699)..ms(702)).contains(&(after - before)), "{:?}", after - before);
        disk.submit(write(file, 0, 1)).expect("room");
        trimaran_runtime::sleep(Duration::from_micros(10)).await;
        disk.submit(Op::Sync { file }).expect("room");
        let oldest = disk.oldest().expect("two are under way");
        assert_eq!(oldest, (trimaran_runtime::disk::OpKind::Write, after));
        for _ in 0..2 {
            disk.completion().await;
        }
        assert_eq!(disk.oldest(), None);
    });
    let faults = DiskFaults { slow: 1.0, slow_delay: ms(20), stall: 1.0, stall_time: ms(50), ..DiskFaults::default() };
    let before: Instant = machine.world.now();
    machine.sim.set_faults(faults);
    machine.run(DURABLE, |disk| async move {
        create(&disk, "slow", 1).await;
    });
    assert!(machine.world.now() - before >= ms(50));
    assert_eq!((machine.sim.counters().stalls, machine.sim.counters().slowed), (2, 1));
}

#[test]
fn all_crash_states_of_a_trace_can_be_listed() {
    let mut machine = Machine::new(1, DiskFaults::default());
    let sim = machine.sim.clone();
    let (begun, written, tail) = machine.run(DURABLE, move |disk| async move {
        let file = start(&disk).await;
        sim.record();
        disk.submit(write(file, 0, 2)).expect("room");
        trimaran_runtime::sleep(Duration::from_micros(10)).await;
        let begun = sim.trace_steps();
        disk.completion().await;
        let written = sim.trace_steps();
        do_all(&disk, vec![Op::Rename { from: "log".into(), to: "moved".into() }]).await;
        let tail = sim.trace_steps();
        do_all(&disk, vec![Op::SyncDirectory]).await;
        (begun, written, tail)
    });
    let trace = machine.sim.take_trace().expect("recorded");
    let states = |step: usize| -> Vec<(String, Vec<u8>)> {
        let mut all = trace.crash_states(step, 1000);
        let states: BTreeSet<_> = all
            .by_ref()
            .map(|disk| {
                let disk = disk.mount(DURABLE);
                let name = disk.list().expect("a list")[0].name.clone();
                let sectors =
                    disk.read(&name).expect("content")[..BLOCK_BYTES].chunks(512).map(|sector| sector[0]).collect();
                (name, sectors)
            })
            .collect();
        assert!(all.is_complete());
        states.into_iter().collect()
    };
    let state = |name: &str, byte| (name.to_owned(), vec![byte; 8]);
    assert_eq!(states(0), [state("log", 1)]);
    assert_eq!(states(begun).len(), 256, "each of eight sectors old or new");
    assert_eq!(states(written), [state("log", 2)]);
    assert_eq!(states(tail), [state("log", 2), state("moved", 2)]);
    assert_eq!(states(trace.steps()), [state("moved", 2)]);
    // Drawn states are among the listed ones, and a limit is kept.
    let drawn: BTreeSet<_> =
        (0..100).map(|seed| trace.crash(begun, seed).mount(DURABLE).read("log").expect("there")).collect();
    assert!(
        drawn.len() > 50 && drawn.iter().all(|content| content[..BLOCK_BYTES].iter().all(|byte| [1, 2].contains(byte)))
    );
    let mut few = trace.crash_states(begun, 10);
    assert_eq!((few.by_ref().count(), few.is_complete()), (10, false));
}

#[test]
fn a_file_that_is_being_made_may_be_found_at_any_stage() {
    let mut machine = Machine::new(1, DiskFaults::default());
    machine.sim.record();
    machine.run(DURABLE, |disk| async move {
        create(&disk, "log", 2).await;
    });
    let trace = machine.sim.take_trace().expect("recorded");
    let lengths = |step| {
        let lengths = trace.crash_states(step, 100).map(|disk| disk.mount(DURABLE).file_bytes("log"));
        lengths.collect::<BTreeSet<Result<u64, DiskError>>>()
    };
    let gone = Err(DiskError::NotFound);
    assert_eq!(lengths(1), [Ok(0), Ok(2 * BLOCK), gone].into());
    assert_eq!(lengths(trace.steps()), [Ok(2 * BLOCK), gone].into());
}
