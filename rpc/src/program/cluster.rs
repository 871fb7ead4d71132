//! A cluster of a demo: nodes of this very program, a connection to them, and an eye on signals and early ends.

use crate::admin::NodeStatus;
use crate::program::connect::Connection;
use crate::program::error::Error;
use crate::program::nodes::Nodes;
use crate::program::signals::Signals;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_runtime::{Instant, now, sleep};

/// Between two looks at signals, processes and statuses.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

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
}
