//! A cluster of a demo: nodes of this very program, a connection to them, an eye on signals and early ends, and what an
//! operator does to members.

use crate::admin::{self, Change, ChangeError, Members, NodeStatus, Probe};
use crate::program::connect::Connection;
use crate::program::error::Error;
use crate::program::member;
use crate::program::nodes::Nodes;
use crate::program::signals::Signals;
use futures::future::{Either, select};
use rustix::process::Signal;
use std::net::SocketAddrV4;
use std::pin::pin;
use std::time::Duration;
use trimaran_runtime::{Instant, now, sleep};

/// Between two looks at signals, processes and statuses.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One look at who the members are.
const PROBE_WITHIN: Duration = Duration::from_millis(200);

/// Nodes that run and the way to them. Dropping it ends them.
pub struct LocalCluster {
    /// The processes.
    pub nodes: Nodes,
    /// The way to them; its servers are theirs.
    pub connection: Connection,
    /// What may end it all.
    pub signals: Signals,
}

impl LocalCluster {
    /// Lets tasks run for a while.
    ///
    /// # Errors
    /// As soon as a signal has come or a node has ended by itself.
    pub async fn wait(&mut self, time: Duration) -> Result<(), Error> {
        let until = now() + time;
        loop {
            self.signals.check()?;
            self.nodes.check()?;
            let left = until.saturating_since(now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// The nodes' client addresses in the order of their slots.
    pub fn members(&self) -> Vec<SocketAddrV4> {
        self.nodes.addresses().into_iter().map(|(_, client)| client).collect()
    }

    /// Waits until every node answers, forms the cluster `name` and returns the slot of its leader.
    ///
    /// # Errors
    /// What keeps it from being formed until `patience` is over.
    pub async fn form(&mut self, name: &str, patience: Duration) -> Result<u8, Error> {
        let members = self.members();
        let give_up = now() + patience;
        for &member in &members {
            while let Err(error) = self.connection.status(member).await {
                if now() >= give_up {
                    return Err(error);
                }
                self.wait(LOOK_EVERY).await?;
            }
        }
        self.connection.init(name, &members).await?;
        self.leader(give_up).await.map(|(leader, _)| leader)
    }

    /// The statuses of all nodes that answer, in the order of their slots.
    pub async fn statuses(&self) -> Vec<(u8, Option<NodeStatus>)> {
        let asked = self.nodes.addresses().into_iter().map(|(slot, client)| {
            let connection = self.connection.clone();
            async move { (slot, connection.status(client).await.ok()) }
        });
        futures::future::join_all(asked).await
    }

    /// Waits for a node that leads; of two that say so, the one with the higher term does.
    ///
    /// # Errors
    /// E0301 where none does at `give_up`.
    pub async fn leader(&mut self, give_up: Instant) -> Result<(u8, NodeStatus), Error> {
        loop {
            let statuses = self.statuses().await;
            let total = u8::try_from(statuses.len()).unwrap_or(u8::MAX);
            let reachable = statuses.iter().filter(|(_, status)| status.is_some()).count() as u8;
            let leading = statuses.into_iter().filter_map(|(slot, status)| Some((slot, status?)));
            let leader = leading.filter(|(_, status)| status.role == "leader").max_by_key(|(_, status)| status.term);
            if let Some(leader) = leader {
                return Ok(leader);
            }
            if now() >= give_up {
                return Err(Error::NoQuorum { reachable, total, quorum: total / 2 + 1 });
            }
            self.wait(LOOK_EVERY).await?;
        }
    }
    /// The slot of the node that leads, as this connection's client knows, or else as the nodes say. Asking them makes each hash
    /// its state, which takes time.
    ///
    /// # Errors
    /// As [`LocalCluster::leader`].
    pub async fn leading(&mut self, patience: Duration) -> Result<u8, Error> {
        let known = self.connection.client().leader();
        match self.nodes.addresses().into_iter().find(|(_, client)| Some(*client) == known) {
            Some((slot, _)) => Ok(slot),
            None => self.leader(now() + patience).await.map(|(slot, _)| slot),
        }
    }

    /// Waits until every node, in its present life, is a voter in the eyes of all, and nobody else is; tells whether it came to that
    /// by `give_up`.
    ///
    /// # Errors
    /// As [`LocalCluster::wait`].
    pub async fn whole(&mut self, give_up: Instant) -> Result<bool, Error> {
        loop {
            let members = self.members();
            let asked = members.iter().map(|&node| admin::probe(self.connection.client(), node, PROBE_WITHIN));
            let probes: Vec<Probe> = futures::future::join_all(asked).await.into_iter().flatten().collect();
            let knows_all = |probe: &Probe| {
                probe.members.len() == probes.len() && probes.iter().all(|other| probe.members.contains(&other.node))
            };
            if probes.len() == members.len() && probes.iter().all(knows_all) {
                return Ok(true);
            }
            if now() >= give_up {
                return Ok(false);
            }
            self.wait(LOOK_EVERY).await?;
        }
    }

    /// Asks a node to end, as an operator does, and waits for it. A leader hands over first.
    ///
    /// # Errors
    /// One that runs on, and as [`LocalCluster::wait`].
    pub async fn end(&mut self, slot: u8, patience: Duration) -> Result<(), Error> {
        let give_up = now() + patience;
        self.nodes.signal(slot, Signal::TERM)?;
        while !self.nodes.has_ended(slot) {
            if now() >= give_up {
                let what = format!("node {slot} does not end {patience:?} after SIGTERM");
                return Err(Error::DemoFailed { what });
            }
            self.wait(LOOK_EVERY).await?;
        }
        Ok(())
    }

    /// Starts one more node and takes it in as a voter.
    ///
    /// # Errors
    /// What keeps it outside until `patience` is over.
    pub async fn add(&mut self, slot: u8, patience: Duration) -> Result<(), Error> {
        self.nodes.add(slot)?;
        let sits = move |members: &Members| members.voters.iter().any(|member| member.slot == slot);
        self.change(slot, Change::Add { slot, learner: false }, sits, patience).await
    }

    /// Takes a member out, and then ends its process.
    ///
    /// # Errors
    /// What keeps it inside until `patience` is over.
    pub async fn remove(&mut self, slot: u8, patience: Duration) -> Result<(), Error> {
        let is_out = move |members: &Members| members.all().all(|member| member.slot != slot);
        self.change(slot, Change::Remove { slot }, is_out, patience).await?;
        self.end(slot, patience).await?;
        self.nodes.forget(slot);
        Ok(())
    }

    /// Asks for a change until it is `done`: a new node may not have asked to be taken in yet, and leadership may move.
    async fn change(
        &mut self,
        slot: u8,
        change: Change,
        done: impl Fn(&Members) -> bool,
        patience: Duration,
    ) -> Result<(), Error> {
        let give_up = now() + patience;
        // Not the one concerned: it may not listen yet, and everybody who is asked is waited for.
        let others = self.nodes.addresses().into_iter().filter(|(other, _)| *other != slot);
        let servers: Vec<SocketAddrV4> = others.map(|(_, client)| client).collect();
        let connection = self.connection.clone();
        loop {
            let left = give_up.saturating_since(now()).max(LOOK_EVERY);
            let changing = pin!(admin::change(connection.client(), &servers, change, left));
            let changed = match select(changing, pin!(self.wait(2 * patience))).await {
                Either::Left((changed, _)) => changed,
                Either::Right((ended, _)) => return Err(ended.err().unwrap_or(Error::ChangePending)),
            };
            let Err(error) = changed else { return Ok(()) };
            let seen = admin::members_of(connection.client(), &servers, PROBE_WITHIN).await;
            if seen.is_ok_and(|members| !members.changing && done(&members)) {
                return Ok(());
            }
            if now() >= give_up || matches!(error, ChangeError::Pending(_)) {
                return Err(member::failure(&connection, error));
            }
            self.wait(LOOK_EVERY).await?;
        }
    }
}
