//! Histories of a log, with a look at every state of the disk that a loss of power could leave after each event.

use super::device::{Faulty, Platter};
use super::journal::{Dice, Journal, SETTINGS, assert_is_one_of, recovered};
use trimaran_raft::{Sabotage, Storage};

#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    pub(crate) seed: u64,
    /// Steps of each life, and more until so many writes have been begun in it.
    pub(crate) operations: usize,
    pub(crate) writes: usize,
    pub(crate) lives: usize,
    /// States looked at after each event, beside nothing and all.
    pub(crate) subsets: usize,
    pub(crate) durable_writes: bool,
    pub(crate) sabotage: Sabotage,
}

impl Default for History {
    fn default() -> Self {
        History {
            seed: 0,
            operations: 100,
            writes: 0,
            lives: 1,
            subsets: 64,
            durable_writes: true,
            sabotage: Sabotage::NONE,
        }
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Crashes {
    pub(crate) states: u64,
    pub(crate) lives: u64,
    /// States in which something was cut off.
    pub(crate) cut: u64,
    pub(crate) snapshots: u64,
    pub(crate) installs: u64,
}

impl Crashes {
    pub(crate) fn add(&mut self, other: &Crashes) {
        self.states += other.states;
        self.lives += other.lives;
        self.cut += other.cut;
        self.snapshots += other.snapshots;
        self.installs += other.installs;
    }

    pub(crate) fn of(history: &History) -> Crashes {
        let mut crashes = Crashes::default();
        let mut dice = Dice(history.seed);
        let settings = trimaran_raft::wal::WalSettings { sabotage: history.sabotage, ..SETTINGS };
        let mut journal = Journal::new(settings, history.durable_writes);
        for _ in 0..history.lives {
            crashes.lives += 1;
            let mut term = journal.hard.term.0.max(1);
            journal.disk.set(|faults| faults.holds = true);
            for step in 0..10_000 {
                if step >= history.operations && journal.states.len() > history.writes {
                    break;
                }
                let before = journal.disk.events();
                operate(&mut journal, &mut dice, &mut term, &mut crashes);
                if journal.disk.events() != before {
                    crashes.look(&journal, history, &mut dice);
                }
            }
            // Power is lost: the next life begins with one of the states that this leaves.
            let platter = crash(&journal.disk.platter(), &mut dice);
            let Ok(Some(found)) = recovered(&platter, history.sabotage) else {
                assert_eq!(journal.acknowledged, 0);
                return crashes;
            };
            let state = assert_is_one_of(Some(&found), &journal.states, journal.acknowledged, "the next life");
            let mut model = journal.states[state].clone();
            model.entries.resize(found.log.last().0 as usize, (found.log.base_term(), 0xffff));
            model.hard = found.hard;
            journal = Journal::resume(Faulty::new(platter, history.durable_writes), settings, found, model);
        }
        crashes
    }

    fn look(&mut self, journal: &Journal, history: &History, dice: &mut Dice) {
        let platter = journal.disk.platter();
        let (writes, renames) = (platter.writes.len(), platter.renames.len());
        let all = 1_u64.checked_shl((writes + renames) as u32).filter(|all| *all <= history.subsets as u64);
        let whole = |bits: u64| platter.after(|at, _| bits >> at & 1 == 1, |at| bits >> (writes + at) & 1 == 1);
        match all {
            Some(all) => (0..all).for_each(|bits| self.check(&whole(bits), journal, history)),
            None => (0..history.subsets).for_each(|_| {
                let bits = dice.below(usize::MAX) as u64;
                self.check(&whole(bits), journal, history);
            }),
        }
        self.check(&whole(u64::MAX), journal, history);
        self.check(&whole(0), journal, history);
        // Each write torn in several ways, whatever became of the others.
        for torn in 0..writes {
            let others = dice.below(usize::MAX) as u64;
            let sectors = platter.writes[torn].bytes.len() / super::device::SECTOR_BYTES;
            let tears: [&dyn Fn(usize) -> bool; 5] = [
                &|sector| sector == 0,
                &|sector| sector > 0,
                &|sector| sector + 1 < sectors,
                &|sector| sector % 2 == 0,
                &|sector| sector % 8 != 3,
            ];
            for tear in tears {
                let keeps = |at: usize, sector: usize| if at == torn { tear(sector) } else { others >> at & 1 == 1 };
                self.check(&platter.after(keeps, |at| others >> (32 + at) & 1 == 1), journal, history);
            }
        }
    }

    fn check(&mut self, platter: &Platter, journal: &Journal, history: &History) {
        self.states += 1;
        let what = format!("seed {}, event {}", history.seed, journal.disk.events());
        match recovered(platter, history.sabotage) {
            Ok(found) => {
                self.cut += u64::from(found.as_ref().is_some_and(|found| found.report.cut_records > 0));
                assert_is_one_of(found.as_deref(), &journal.states, journal.acknowledged, &what);
            }
            Err(error) => panic!("lost: {error}, {what}"),
        }
    }
}

/// One of the states that a loss of power leaves.
pub(crate) fn crash(platter: &Platter, dice: &mut Dice) -> Platter {
    let bits = dice.below(usize::MAX) as u64;
    let torn = dice.below(4);
    platter.after(
        |at, sector| bits >> (at % 32) & 1 == 1 && (at != torn || sector % 3 > 0),
        |at| bits >> (40 + at % 16) & 1 == 1,
    )
}

fn operate(journal: &mut Journal, dice: &mut Dice, term: &mut u64, crashes: &mut Crashes) {
    match dice.below(16) {
        0..=5 => (0..1 + dice.below(3)).for_each(|_| journal.append(dice.below(3000))),
        6 => journal.append(9000),
        7 => {
            *term += 1;
            let from = journal.log.last().next().0.saturating_sub(dice.below(4) as u64);
            let from = from.max(journal.committed.0 + 1).max(journal.log.base().0 + 1);
            journal.vote(*term, 1 + dice.below(3) as u8);
            journal.truncate(trimaran_raft::LogIndex(from));
        }
        8 => {
            *term += 1;
            journal.vote(*term, 1 + dice.below(3) as u8);
        }
        9 => {
            // What is acknowledged here may be committed elsewhere.
            let last = journal.last_acknowledged() as u64;
            let same = (journal.committed.0 + 1..=last.min(journal.log.last().0)).rev().find(|at| {
                let index = trimaran_raft::LogIndex(*at);
                journal.log.term_at(index).is_some()
                    && journal.states[journal.acknowledged].entries.get(*at as usize - 1)
                        == journal.model.entries.get(*at as usize - 1)
            });
            if let Some(at) = same {
                journal.committed = trimaran_raft::LogIndex(at);
            }
        }
        10 if journal.wal.wants_snapshot(journal.committed, false) => {
            crashes.snapshots += 1;
            journal.save(100 + dice.below(20_000));
        }
        11 if dice.below(6) == 0 && !journal.hard.term.eq(&trimaran_raft::Term(0)) => {
            crashes.installs += 1;
            *term += 1;
            journal.vote(*term, 1);
            journal.install(1 + dice.below(5) as u64, 100 + dice.below(9000));
        }
        _ => {
            let in_flight = journal.disk.in_flight();
            if in_flight > 0 {
                journal.disk.complete(dice.below(in_flight));
            }
        }
    }
    journal.tick(1_000_000);
    journal.poll();
    journal.flush();
}
