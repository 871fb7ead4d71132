//! What a disk costs once it runs: no allocation, no spin. In a program of its own, since the allocator is replaced.

mod support;

use std::rc::Rc;
use support::files::{Scratch, Still, places};
use trimaran_runtime::disk::Engine;
use trimaran_runtime::{Aligned, BLOCK_BYTES, Core, CoreConfig, Disk, DiskConfig, Done, Idle, Monotonic, Op};

/// Writes so many blocks, eight at a time, on a core that sleeps whenever it can.
fn write(
    core: &mut Core<Still>,
    disk: &Rc<Disk>,
    file: trimaran_runtime::FileId,
    count: u64,
    buffers: &mut Vec<Aligned>,
) {
    let mine = std::mem::take(buffers);
    let disk = disk.clone();
    *buffers = core.block_on(async move {
        let (mut buffers, mut begun, mut ended) = (mine, 0, 0);
        while ended < count {
            while begun < count
                && let Some(buffer) = buffers.pop()
            {
                disk.submit(Op::Write { file, offset: begun % 64 * BLOCK_BYTES as u64, buffer }).expect("room");
                begun += 1;
            }
            let completion = disk.completion().await;
            assert_eq!(completion.result, Ok(Done::Finished));
            buffers.extend(completion.buffer);
            ended += 1;
        }
        buffers
    });
}

#[test]
fn writes_allocate_nothing_and_a_waiting_core_sleeps() {
    for place in places() {
        for engine in [Engine::Best, Engine::Thread] {
            let scratch = Scratch::new(&place);
            let config = DiskConfig { engine, ..DiskConfig::default() };
            let disk = Rc::new(Disk::open(scratch.path(), config).expect("a disk"));
            let mut core = Core::new(CoreConfig { idle: Idle::Park, ..CoreConfig::default() }, Monotonic, Still);
            let create = disk.clone();
            let file = core.block_on(async move {
                create.submit(Op::Create { name: "log".into(), bytes: 64 * BLOCK_BYTES as u64 }).expect("room");
                match create.completion().await.result {
                    Ok(Done::Opened { file, .. }) => file,
                    other => panic!("{other:?}"),
                }
            });
            let mut buffers: Vec<Aligned> = (0..8).map(|_| Aligned::zeroed(BLOCK_BYTES)).collect();
            write(&mut core, &disk, file, 300, &mut buffers);
            // The main task itself takes the same few for any number of writes.
            let mut allocations = |count| {
                let counted = allocation_counter::measure(|| write(&mut core, &disk, file, count, &mut buffers));
                counted.count_total
            };
            assert_eq!(allocations(10), allocations(300), "{}", disk.describe());
            let stats = core.stats().clone();
            let turns = stats.turns.get();
            write(&mut core, &disk, file, 200, &mut buffers);
            // One turn to submit, one or two for each group that completes: a core that spins makes thousands.
            assert!(stats.turns.get() - turns < 900, "{} turns, {}", stats.turns.get() - turns, disk.describe());
        }
    }
}
