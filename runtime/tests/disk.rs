//! What every disk promises, asked of each kind of it: io_uring and the thread, on a real file system and in memory, and the
//! simulated one. The cores sleep whenever they can, so an operation whose end wakes nobody would hang its test.

mod support;

use rustix::fs::OFlags;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use support::files::{Scratch, Still, places, sim_world};
use trimaran_runtime::disk::{Engine, OpKind, Writes};
use trimaran_runtime::sim::disk::{DiskFaults, SimDisk};
use trimaran_runtime::{
    Aligned, BLOCK_BYTES, CoreConfig, Disk, DiskConfig, DiskError, Done, FileId, Idle, Lane, Op, run,
};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Runs a test on every kind of disk.
fn everywhere<F: Future<Output = ()> + 'static>(config: DiskConfig, test: impl Fn(Disk) -> F) {
    for writes in [Writes::Durable, Writes::Cached] {
        let config = DiskConfig { writes, ..config };
        for engine in [Engine::Best, Engine::Thread] {
            for place in places() {
                let scratch = Scratch::new(&place);
                let disk = || Disk::open(scratch.path(), DiskConfig { engine, ..config }).expect("a disk");
                let core = CoreConfig { idle: Idle::Park, ..CoreConfig::default() };
                run(core, || Still, || test(disk())).expect("no panic");
            }
        }
        let sim = SimDisk::new(7, DiskFaults::default());
        let (mut world, core) = sim_world(7);
        let disk = sim.mount(config);
        let task = world.spawn(core, Lane::Normal, test(disk));
        while world.step() {}
        assert!(task.is_finished(), "the simulated disk has forgotten an operation");
    }
}

/// Does one operation and waits for its end. Nothing else may be in flight.
async fn one(disk: &Disk, op: Op) -> (Result<Done, DiskError>, Option<Aligned>) {
    let ticket = disk.submit(op).expect("room");
    let completion = disk.completion().await;
    assert_eq!(completion.ticket, ticket);
    (completion.result, completion.buffer)
}

async fn create(disk: &Disk, name: &str, bytes: u64) -> FileId {
    match one(disk, Op::Create { name: name.into(), bytes }).await.0 {
        Ok(Done::Opened { file, bytes: length }) => {
            assert_eq!(length, bytes);
            file
        }
        other => panic!("{other:?}"),
    }
}

fn filled(blocks: usize, byte: u8) -> Aligned {
    let mut buffer = Aligned::zeroed(blocks * BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

#[test]
fn what_was_written_is_read_again_and_buffers_come_back() {
    everywhere(DiskConfig::default(), |disk| async move {
        let file = create(&disk, "log", 64 * BLOCK).await;
        let mut tickets = Vec::new();
        for block in 0..32 {
            let buffer = filled(1, block as u8 + 1);
            let place = buffer.as_ptr().addr();
            tickets.push((disk.submit(Op::Write { file, offset: 2 * block * BLOCK, buffer }).expect("room"), place));
        }
        assert_eq!(disk.ops(), 32);
        assert!(matches!(disk.oldest(), Some((OpKind::Write, _))));
        while !tickets.is_empty() {
            let completion = disk.completion().await;
            assert_eq!(completion.result, Ok(Done::Finished));
            let at = tickets.iter().position(|(ticket, _)| *ticket == completion.ticket).expect("one of mine, once");
            let (_, place) = tickets.swap_remove(at);
            assert_eq!(completion.buffer.map(|buffer| buffer.as_ptr().addr()), Some(place));
        }
        assert_eq!((disk.ops(), disk.oldest()), (0, None));
        assert_eq!(one(&disk, Op::Sync { file }).await.0, Ok(Done::Finished));
        assert_eq!(one(&disk, Op::SyncDirectory).await.0, Ok(Done::Finished));
        let (result, buffer) = one(&disk, Op::Read { file, offset: 0, buffer: filled(64, 99) }).await;
        assert_eq!(result, Ok(Done::Read { bytes: 64 * BLOCK_BYTES }));
        for (index, block) in buffer.expect("the buffer").chunks(BLOCK_BYTES).enumerate() {
            let byte = if index % 2 == 0 { index as u8 / 2 + 1 } else { 0 };
            assert!(block.iter().all(|&got| got == byte), "block {index}");
        }
        // What tools read.
        let list = disk.list().expect("a listing");
        assert_eq!(list.len(), 1);
        assert_eq!((&*list[0].name, list[0].bytes), ("log", 64 * BLOCK));
        let mut part = [0; 3];
        assert_eq!(disk.read_at("log", 2 * BLOCK - 1, &mut part), Ok(3));
        assert_eq!(part, [0, 2, 2]);
        assert_eq!(disk.read_at("log", 64 * BLOCK - 1, &mut part), Ok(1));
        assert_eq!(disk.read("log").map(|content| content.len()), Ok(64 * BLOCK_BYTES));
        assert_eq!(disk.file_bytes("gone"), Err(DiskError::NotFound));
    });
}

#[test]
fn a_read_ends_at_the_end_and_a_write_moves_it() {
    everywhere(DiskConfig::default(), |disk| async move {
        let file = create(&disk, "short", BLOCK).await;
        let (result, buffer) = one(&disk, Op::Read { file, offset: 0, buffer: filled(2, 9) }).await;
        assert_eq!(result, Ok(Done::Read { bytes: BLOCK_BYTES }));
        let (result, buffer) = one(&disk, Op::Read { file, offset: BLOCK, buffer: buffer.expect("back") }).await;
        assert_eq!((result, buffer.is_some()), (Ok(Done::Read { bytes: 0 }), true));
        assert_eq!(one(&disk, Op::Write { file, offset: 2 * BLOCK, buffer: filled(1, 4) }).await.0, Ok(Done::Finished));
        assert_eq!(disk.file_bytes("short"), Ok(3 * BLOCK));
        assert_eq!(disk.read("short").expect("content")[BLOCK_BYTES..], [[0; BLOCK_BYTES], [4; BLOCK_BYTES]].concat());
    });
}

#[test]
fn names_change_and_open_files_stay() {
    everywhere(DiskConfig::default(), |disk| async move {
        let old = create(&disk, "old", BLOCK).await;
        let new = create(&disk, "new", 2 * BLOCK).await;
        assert_eq!(one(&disk, Op::Create { name: "old".into(), bytes: 0 }).await.0, Err(DiskError::Exists));
        assert_eq!(one(&disk, Op::Rename { from: "new".into(), to: "old".into() }).await.0, Ok(Done::Finished));
        assert_eq!(disk.file_bytes("old"), Ok(2 * BLOCK));
        assert_eq!(one(&disk, Op::Rename { from: "new".into(), to: "x".into() }).await.0, Err(DiskError::NotFound));
        assert_eq!(one(&disk, Op::Remove { name: "old".into() }).await.0, Ok(Done::Finished));
        assert_eq!(one(&disk, Op::Remove { name: "old".into() }).await.0, Err(DiskError::NotFound));
        assert_eq!(one(&disk, Op::Open { name: "old".into() }).await.0, Err(DiskError::NotFound));
        assert_eq!(disk.list(), Ok(vec![]));
        for file in [old, new] {
            assert_eq!(one(&disk, Op::Write { file, offset: 0, buffer: filled(1, 1) }).await.0, Ok(Done::Finished));
            assert_eq!(one(&disk, Op::Close { file }).await.0, Ok(Done::Finished));
            let (result, buffer) = one(&disk, Op::Write { file, offset: 0, buffer: filled(1, 1) }).await;
            assert_eq!((result, buffer.is_some()), (Err(DiskError::Closed(file)), true));
            assert_eq!(one(&disk, Op::Close { file }).await.0, Err(DiskError::Closed(file)));
        }
    });
}

#[test]
fn what_is_wrong_is_refused_and_the_buffer_comes_back() {
    everywhere(DiskConfig { files_max: 2, ..DiskConfig::default() }, |disk| async move {
        for name in ["", ".", "..", ".hidden", "a/b", "LOCK", "nul\0", &"x".repeat(201)] {
            let name = || name.to_owned();
            assert_eq!(one(&disk, Op::Create { name: name(), bytes: 0 }).await.0, Err(DiskError::Name));
            assert_eq!(one(&disk, Op::Open { name: name() }).await.0, Err(DiskError::Name));
            assert_eq!(one(&disk, Op::Remove { name: name() }).await.0, Err(DiskError::Name));
            assert_eq!(one(&disk, Op::Rename { from: "a".into(), to: name() }).await.0, Err(DiskError::Name));
            assert_eq!(disk.read(&name()), Err(DiskError::Name));
        }
        let file = create(&disk, "file", BLOCK).await;
        for offset in [1, 512, BLOCK + 2048] {
            let (result, buffer) = one(&disk, Op::Write { file, offset, buffer: filled(1, 1) }).await;
            assert_eq!((result, buffer.is_some()), (Err(DiskError::Misaligned), true));
            let (result, buffer) = one(&disk, Op::Read { file, offset, buffer: filled(1, 1) }).await;
            assert_eq!((result, buffer.is_some()), (Err(DiskError::Misaligned), true));
        }
        assert_eq!(one(&disk, Op::Create { name: "odd".into(), bytes: 512 }).await.0, Err(DiskError::Misaligned));
        create(&disk, "second", 0).await;
        assert_eq!(one(&disk, Op::Open { name: "file".into() }).await.0, Err(DiskError::TooManyFiles));
        assert_eq!(one(&disk, Op::Close { file }).await.0, Ok(Done::Finished));
        // A place is free again, also after an attempt that failed.
        assert_eq!(one(&disk, Op::Open { name: "gone".into() }).await.0, Err(DiskError::NotFound));
        let Ok(Done::Opened { file: again, .. }) = one(&disk, Op::Open { name: "file".into() }).await.0 else {
            panic!()
        };
        assert_ne!(again, file, "an id is never used again");
    });
}

#[test]
fn a_full_disk_of_operations_gives_the_next_one_back_until_a_completion_is_taken() {
    everywhere(DiskConfig { ops_max: 4, ..DiskConfig::default() }, |disk| async move {
        let file = create(&disk, "log", 8 * BLOCK).await;
        for round in 0..5 {
            for block in 0..4 {
                disk.submit(Op::Write { file, offset: block * BLOCK, buffer: filled(1, round) }).expect("room");
            }
            let full = disk.submit(Op::Write { file, offset: 0, buffer: filled(1, 0) }).expect_err("no room");
            assert!(full.0.into_buffer().is_some());
            assert_eq!(disk.completion().await.result, Ok(Done::Finished));
            disk.submit(Op::Sync { file }).expect("room again");
            for _ in 0..4 {
                assert_eq!(disk.completion().await.result, Ok(Done::Finished));
            }
        }
    });
}

#[test]
fn clones_share_one_disk_and_the_last_to_wait_is_told() {
    everywhere(DiskConfig::default(), |disk| async move {
        let clone = disk.clone();
        let file = create(&disk, "log", BLOCK).await;
        disk.submit(Op::Write { file, offset: 0, buffer: filled(1, 1) }).expect("room");
        assert_eq!(clone.ops(), 1);
        assert!(clone.completion().await.result.is_ok());
        assert_eq!(disk.ops(), 0);
    });
}

/// The buffers are the kernel's until it has answered: they must outlive handle, task and core.
#[test]
fn dropping_a_disk_with_operations_in_flight_waits_for_them() {
    for engine in [Engine::Best, Engine::Thread] {
        for place in places() {
            let scratch = Scratch::new(&place);
            let config = DiskConfig { engine, ..DiskConfig::default() };
            for round in 1..20u8 {
                let disk = Rc::new(Disk::open(scratch.path(), config).expect("a disk"));
                let work = move || async move {
                    let name = format!("log-{round}");
                    let file = create(&disk, &name, 64 * BLOCK).await;
                    for block in 0..64 {
                        disk.submit(Op::Write { file, offset: block * BLOCK, buffer: filled(1, round) }).expect("room");
                    }
                    for _ in 0..round {
                        disk.completion().await;
                    }
                };
                run(CoreConfig { idle: Idle::Park, ..CoreConfig::default() }, || Still, work).expect("no panic");
                let disk = Disk::open(scratch.path(), config).expect("a disk");
                let content = disk.read(&format!("log-{round}")).expect("a file");
                let written =
                    content.chunks(BLOCK_BYTES).filter(|block| block.iter().all(|&byte| byte == round)).count();
                let blank = content.chunks(BLOCK_BYTES).filter(|block| block.iter().all(|&byte| byte == 0)).count();
                assert_eq!(written + blank, 64, "{}", disk.describe());
                // The thread leaves undone what it has not begun; the kernel has all of it.
                let least = if disk.describe().contains("io_uring") { 64 } else { usize::from(round) };
                assert!(written >= least, "{written} of {least}");
            }
        }
    }
}

#[test]
fn a_directory_is_locked_by_one_handle_at_a_time() {
    for place in places() {
        let scratch = Scratch::new(&place);
        let open = || Disk::open(scratch.path(), DiskConfig::default()).expect("a disk");
        let (first, second) = (open(), open());
        assert_eq!((first.lock(), first.lock()), (Ok(()), Ok(())));
        assert_eq!(second.lock(), Err(DiskError::Held));
        assert_eq!(first.list(), Ok(vec![]), "the lock is no file of the disk's");
        drop(first);
        assert_eq!(second.lock(), Ok(()));
        assert_eq!(Disk::open(&scratch.path().join("gone"), DiskConfig::default()).err(), Some(DiskError::NotFound));
    }
}

#[test]
fn it_says_how_it_is_driven() {
    let scratch = Scratch::new(&places()[0]);
    let config = DiskConfig { engine: Engine::Thread, writes: Writes::Cached, ..DiskConfig::default() };
    let disk = Disk::open(scratch.path(), config).expect("a disk");
    let text = disk.describe();
    assert!(text.contains("a thread (by configuration)") && text.contains("durable after a sync"), "{text}");
    // Which of the two depends on where the test runs; a container may forbid io_uring.
    let text = Disk::open(scratch.path(), DiskConfig::default()).expect("a disk").describe();
    assert!(text.contains("io_uring, direct") || text.contains("a thread (the "), "{text}");
    assert!(text.contains("durable when it completes"), "{text}");
}

/// What durability rests on, and no test without a power switch could see: the flags under which the kernel has the file.
#[test]
fn durable_files_are_open_for_synchronous_and_direct_writes() {
    for (writes, is_durable) in [(Writes::Durable, true), (Writes::Cached, false)] {
        let scratch = Scratch::new(&places()[0]);
        let path = scratch.path().join("log");
        let disk = Disk::open(scratch.path(), DiskConfig { writes, ..DiskConfig::default() }).expect("a disk");
        let is_direct = disk.describe().contains(", direct");
        let flags = move || async move {
            create(&disk, "log", BLOCK).await;
            let descriptors = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
            let mine = descriptors.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path));
            let numbers: Vec<_> = mine.map(|fd| fd.file_name()).collect();
            assert_eq!(numbers.len(), 1, "one descriptor of the file");
            let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(&numbers[0])).expect("procfs");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
            OFlags::from_bits_retain(u32::from_str_radix(&flags, 8).expect("octal"))
        };
        let core = CoreConfig { idle: Idle::Park, ..CoreConfig::default() };
        let flags = run(core, || Still, flags).expect("no panic");
        assert_eq!(
            (flags.contains(OFlags::DSYNC), flags.contains(OFlags::DIRECT)),
            (is_durable, is_direct),
            "{flags:?}"
        );
    }
}
