//! What happens to the cluster while the load goes on, one phase after the other.
//!
//! Each ends when every node is a full member again: the next one may then take one away.

use super::verdict::{Outage, outage};
use super::{LOOK_EVERY, PATIENCE, Stage, note};
use std::time::Duration;
use trimaran_rpc::program::error::Error;
use trimaran_runtime::{Instant, now};

/// The load alone, before anything happens.
const BEFORE: Duration = Duration::from_secs(1);
/// How long the killed leader is away.
const AWAY: Duration = Duration::from_secs(1);
/// The load alone after each step, so that a gap is seen to end.
const QUIET: Duration = Duration::from_millis(500);
/// `--kill-every` without `--seconds` lasts so long.
const KILLING: Duration = Duration::from_secs(14);
/// Leaders go on being killed until so long before the end.
const QUIET_END: Duration = Duration::from_secs(2);

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phase {
    /// In two words.
    pub(super) name: String,
    /// In more words.
    pub(super) what: String,
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// What did not come about.
    pub(super) fault: Option<String>,
}

/// Something that was done, and what clients saw of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) took: Duration,
    pub(super) outage: Outage,
    pub(super) fault: Option<String>,
}

impl Phase {
    /// With the longest gap between two of these acknowledgements.
    pub(super) fn seen(self, acknowledged_at: &[Instant]) -> Seen {
        let Phase { name, what, from, to, fault } = self;
        Seen { outage: outage(acknowledged_at, from, to), took: to.saturating_since(from), name, what, fault }
    }
}

impl Stage {
    /// All of the demo's phases; the first that does not come about is the last.
    pub(super) async fn phases(&mut self, start: Instant) -> Result<Vec<Phase>, Error> {
        self.cluster.wait(BEFORE).await?;
        if let Some(seconds) = self.demo.kill_every {
            return self.kill_again(start, Duration::from_secs(seconds.into())).await;
        }
        let mut phases = vec![self.kill_leader(start).await?];
        if !self.demo.quick && is_good(&phases) {
            phases.push(self.roll(start).await?);
        }
        if self.demo.data.is_some() && is_good(&phases) {
            phases.push(self.kill_all(start).await?);
        }
        if self.spare > 0 && is_good(&phases) {
            phases.push(self.grow(start).await?);
        }
        if self.spare > 0 && is_good(&phases) {
            phases.push(self.shrink(start).await?);
        }
        Ok(phases)
    }

    async fn kill_leader(&mut self, start: Instant) -> Result<Phase, Error> {
        let (slot, from) = self.kill(start).await?;
        self.cluster.wait(AWAY).await?;
        let returned = self.start_again(slot, start).await?;
        let what = format!("node {slot} by SIGKILL, and started again {} s later", AWAY.as_secs());
        self.end_phase("leader killed", &what, from, Some((slot, returned))).await
    }

    /// Kills the leader and starts it again at once, every so often, as long as the load shall last.
    async fn kill_again(&mut self, start: Instant, every: Duration) -> Result<Vec<Phase>, Error> {
        let end = start + self.demo.seconds.map_or(KILLING, |seconds| Duration::from_secs(seconds.into()));
        let mut phases = Vec::new();
        while now() + QUIET_END < end && is_good(&phases) {
            let (slot, from) = self.kill(start).await?;
            let returned = self.start_again(slot, start).await?;
            let next = (from + every).min(end);
            self.cluster.wait(next.saturating_since(now())).await?;
            let name = format!("kill {}", phases.len() + 1);
            phases.push(self.end_phase(&name, &format!("node {slot} by SIGKILL"), from, Some((slot, returned))).await?);
        }
        self.cluster.wait(end.saturating_since(now())).await?;
        note(start, &format!("{} kills", phases.len()))?;
        Ok(phases)
    }

    /// Every node ends as an operator ends it, and is started again, one after the other.
    async fn roll(&mut self, start: Instant) -> Result<Phase, Error> {
        let from = now();
        let mut slowest = (0, Some(Duration::ZERO));
        let slots: Vec<u8> = self.cluster.nodes.addresses().into_iter().map(|(slot, _)| slot).collect();
        for &slot in &slots {
            let leads = self.cluster.leading(PATIENCE).await? == slot;
            self.cluster.end(slot, PATIENCE).await?;
            let how = if leads { ", which led and has handed over," } else { "" };
            note(start, &format!("node {slot}{how} has ended at SIGTERM"))?;
            let returned = self.start_again(slot, start).await?;
            if returned.is_none() || returned > slowest.1 {
                slowest = (slot, returned);
            }
            if returned.is_none() {
                break;
            }
            self.cluster.wait(QUIET / 2).await?;
        }
        let what = format!("{} by SIGTERM, one after the other", list(&slots));
        self.end_phase("nodes rolled", &what, from, Some(slowest)).await
    }

    async fn grow(&mut self, start: Instant) -> Result<Phase, Error> {
        let (from, count) = (now(), self.demo.nodes);
        for slot in count + 1..=count + self.spare {
            self.cluster.add(slot, PATIENCE).await?;
            note(start, &format!("node {slot} is added"))?;
        }
        self.resized("grown", from, count, count + self.spare).await
    }

    async fn shrink(&mut self, start: Instant) -> Result<Phase, Error> {
        let (from, count) = (now(), self.demo.nodes);
        for slot in count + 1..=count + self.spare {
            self.cluster.remove(slot, PATIENCE).await?;
            note(start, &format!("node {slot} is removed and has ended"))?;
        }
        self.resized("shrunk", from, count + self.spare, count).await
    }

    async fn resized(&mut self, how: &str, from: Instant, before: u8, after: u8) -> Result<Phase, Error> {
        let is_whole = self.cluster.whole(now() + PATIENCE).await?;
        let spare: Vec<u8> = (before.min(after) + 1..=before.max(after)).collect();
        let mut phase = self.end_phase(&format!("{how} {before} -> {after}"), &list(&spare), from, None).await?;
        phase.fault = (!is_whole).then(|| format!("the cluster was not {how} from {before} to {after} nodes"));
        Ok(phase)
    }

    /// Takes a quiet moment at the end of a phase. `returned`: who came back last or slowest, and how long after its start.
    async fn end_phase(
        &mut self,
        name: &str,
        what: &str,
        from: Instant,
        returned: Option<(u8, Option<Duration>)>,
    ) -> Result<Phase, Error> {
        self.cluster.wait(QUIET).await?;
        let (what, fault) = match returned {
            None => (what.to_owned(), None),
            Some((_, Some(time))) => (format!("{what}; voters again within {:.1} s", time.as_secs_f64()), None),
            Some((slot, None)) => {
                let fault = format!("node {slot} was no voter again {} s after its start", PATIENCE.as_secs());
                (what.to_owned(), Some(fault))
            }
        };
        Ok(Phase { name: name.to_owned(), what, from, to: now(), fault })
    }

    /// Kills the leader; returns who that was, and when.
    async fn kill(&mut self, start: Instant) -> Result<(u8, Instant), Error> {
        // The client has just heard from it.
        let slot = self.cluster.leading(PATIENCE).await?;
        let at = now();
        self.cluster.nodes.kill(slot)?;
        note(start, &format!("node {slot}, the leader, is killed"))?;
        Ok((slot, at))
    }

    /// Kills every node at once and starts all of them again from their directories.
    async fn kill_all(&mut self, start: Instant) -> Result<Phase, Error> {
        let from = now();
        let slots: Vec<u8> = self.cluster.nodes.addresses().into_iter().map(|(slot, _)| slot).collect();
        let returned = self.crash(&slots, AWAY, start).await?;
        let what = format!("{} by SIGKILL, and started again {} s later", list(&slots), AWAY.as_secs());
        self.end_phase("all killed", &what, from, Some((0, returned))).await
    }

    /// Kills these nodes in one go, starts them again after a while, and waits until the cluster is whole and has a leader; tells
    /// how long that took, if it came to that.
    pub(super) async fn crash(
        &mut self,
        slots: &[u8],
        away: Duration,
        start: Instant,
    ) -> Result<Option<Duration>, Error> {
        self.hook("cut", slots)?;
        slots.iter().try_for_each(|&slot| self.cluster.nodes.kill(slot))?;
        note(start, &format!("{} killed", list(slots)))?;
        self.cluster.wait(away).await?;
        self.hook("mend", slots)?;
        let from = now();
        slots.iter().try_for_each(|&slot| self.cluster.nodes.spawn(slot))?;
        if !self.cluster.whole(from + PATIENCE).await? {
            return Ok(None);
        }
        // Its log is applied again from the newest snapshot on, and what was committed when it was elected is all of it.
        let (leader, elected) = self.cluster.leader(from + PATIENCE).await?;
        loop {
            let (now_leads, status) = self.cluster.leader(from + PATIENCE).await?;
            if now_leads != leader || status.applied >= elected.last {
                break;
            }
            self.cluster.wait(LOOK_EVERY).await?;
        }
        let took = now().saturating_since(from);
        note(start, &format!("{} again, {:.2} s after the start", list(slots), took.as_secs_f64()))?;
        Ok(Some(took))
    }

    /// Starts a node again and waits until it is a voter, and all others are; tells how long that took, if it came to that.
    async fn start_again(&mut self, slot: u8, start: Instant) -> Result<Option<Duration>, Error> {
        let from = now();
        self.cluster.nodes.spawn(slot)?;
        let with = if self.demo.data.is_some() { "from its directory" } else { "with an empty memory" };
        note(start, &format!("node {slot} is started again, {with}"))?;
        let is_whole = self.cluster.whole(from + PATIENCE).await?;
        let took = now().saturating_since(from);
        if is_whole {
            note(start, &format!("node {slot} is a voter again"))?;
        }
        Ok(is_whole.then_some(took))
    }
}

fn is_good(phases: &[Phase]) -> bool {
    phases.iter().all(|phase| phase.fault.is_none())
}

/// Some nodes in words.
pub(super) fn list(slots: &[u8]) -> String {
    let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
    match slots.as_slice() {
        [one] => format!("node {one}"),
        slots => format!("nodes {}", slots.join(", ")),
    }
}
