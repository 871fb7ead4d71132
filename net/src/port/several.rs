//! What ports over several devices have in common: whose turn it is, one sleep for all, one account of all.

use crate::port::PortDescription;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// Most devices of one port.
pub const DEVICES_MAX: usize = 32;
/// Among the devices' numbers, that of the core's own descriptor.
const WAKE_KEY: u64 = u64::MAX;

/// Takes at most `max` from `count` devices, `first` of them first: each has the same share, and those that have more take what others
/// leave. `take` is told whom to ask for how many, and says how many there were. Returns how many that makes.
pub(super) fn take_turns(count: usize, first: usize, max: usize, mut take: impl FnMut(usize, usize) -> usize) -> usize {
    let share = max.div_ceil(count);
    let (mut taken, mut have_more) = (0, u32::MAX);
    for limit in [share, max] {
        for at in (first..count).chain(0..first) {
            let want = limit.min(max - taken);
            if want == 0 || have_more & 1 << at == 0 {
                continue;
            }
            let got = take(at, want);
            taken += got;
            if got < want {
                have_more &= !(1 << at);
            }
        }
    }
    taken
}

/// Watches what wakes devices, and the core's own descriptor with them.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: OwnedFd,
    wake: Option<RawFd>,
}

impl Watch {
    /// Of devices by what becomes readable for each, in order; `None` where the kernel has no descriptor left: who cannot watch does not sleep.
    pub(super) fn over<'a>(devices: impl Iterator<Item = Option<BorrowedFd<'a>>>) -> Option<Watch> {
        let made = || -> rustix::io::Result<OwnedFd> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            for (at, fd) in devices.enumerate() {
                if let Some(fd) = fd {
                    epoll::add(&epoll, fd, EventData::new_u64(at as u64), EventFlags::IN)?;
                }
            }
            Ok(epoll)
        };
        match made() {
            Ok(epoll) => Some(Watch { epoll, wake: None }),
            Err(errno) => {
                tracing::warn!(%errno, "cannot wait for several devices: an idle core does not sleep");
                None
            }
        }
    }

    /// Readable while one of them is.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Waits until one of them is readable, or `wake`, which is the same in every call, or the time is over; tells which devices are.
    pub(super) fn wait(
        &mut self,
        longest: Option<Duration>,
        wake: Option<BorrowedFd<'_>>,
        mut is_ready: impl FnMut(usize),
    ) {
        if let Some(wake) = wake.filter(|wake| self.wake != Some(wake.as_raw_fd())) {
            match epoll::add(&self.epoll, wake, EventData::new_u64(WAKE_KEY), EventFlags::IN) {
                Ok(()) => self.wake = Some(wake.as_raw_fd()),
                Err(errno) => {
                    tracing::error!(%errno, "cannot watch the core's wake fd: wakes from other threads are late");
                }
            }
        }
        // A duration that does not fit a timespec is 292 billion years.
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let mut events = [const { MaybeUninit::<Event>::uninit() }; DEVICES_MAX + 1];
        // An error (a signal, most likely) looks like a sleep that ended early, which every caller expects.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], longest.as_ref()) else { return };
        for event in events.iter().filter(|event| event.data.u64() != WAKE_KEY) {
            is_ready(event.data.u64() as usize);
        }
    }
}

/// What several devices say of themselves as one: the words of each, once; the link is up where each is.
pub(super) fn describe_all(each: &[PortDescription]) -> PortDescription {
    let of = |word: fn(&PortDescription) -> &String| {
        let mut words: Vec<&str> = Vec::new();
        for said in each {
            if !words.contains(&word(said).as_str()) {
                words.push(word(said));
            }
        }
        words.join(", ")
    };
    PortDescription {
        kind: of(|said| &said.kind),
        device: of(|said| &said.device),
        driver: of(|said| &said.driver),
        link_up: each.iter().map(|said| said.link_up).reduce(|a, b| Some(a? && b?)).flatten(),
        sleeps: of(|said| &said.sleeps),
    }
}

/// Tells the counts of several devices, those of one name together. `each` has every device tell its own.
pub(super) fn sum_counters(each: impl FnOnce(&mut dyn FnMut(&str, u64)), tell: &mut dyn FnMut(&str, u64)) {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    each(&mut |name, count| *sums.entry(name.to_owned()).or_default() += count);
    sums.iter().for_each(|(name, count)| tell(name, *count));
}
