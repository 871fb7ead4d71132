//! `member`: who takes part, and changing it while the cluster serves.

use crate::admin::{self, Change, ChangeError, Changed, MemberInfo, Members};
use crate::program::cli::{Servers, parse_time};
use crate::program::config::SHARD_PORTS;
use crate::program::connect::{self, Connection};
use crate::program::error::Error;
use crate::program::say;
use clap::{Args, Subcommand};
use std::time::Duration;

/// A peer that has not answered the leader for so long is worth a word.
const SILENT_MS: u64 = 1000;

/// `member`
#[derive(Debug, Args)]
pub struct Member {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// What there is to do about members.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Show voters, learners, and the nodes that ask to be taken in
    List {
        #[command(flatten)]
        #[allow(missing_docs)]
        servers: Servers,
        /// One JSON object, or one for each shard
        #[arg(long)]
        json: bool,
    },
    /// Take the node in that was started with this slot, and asks for it
    Add {
        /// Its slot
        #[arg(value_parser = slot())]
        slot: u8,
        /// It gets all data and no vote, until it is promoted
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        to: To,
    },
    /// Make a learner a voter
    Promote {
        /// Its slot
        #[arg(value_parser = slot())]
        slot: u8,
        #[command(flatten)]
        #[allow(missing_docs)]
        to: To,
    },
    /// Take a member out, dead or alive; a leader hands over first
    Remove {
        /// Its slot
        #[arg(value_parser = slot())]
        slot: u8,
        #[command(flatten)]
        #[allow(missing_docs)]
        to: To,
    },
    /// Hand leadership over: to this voter, or to the one that has most of the log
    Transfer {
        /// Its slot
        #[arg(value_parser = slot())]
        slot: Option<u8>,
        #[command(flatten)]
        #[allow(missing_docs)]
        to: To,
    },
    /// With several shards: let each be led by a node of its own, shard n by the n-th member, and round again
    Spread {
        #[command(flatten)]
        #[allow(missing_docs)]
        to: To,
    },
    /// Take a change back that is under way, where that is still possible
    Cancel {
        #[command(flatten)]
        #[allow(missing_docs)]
        to: To,
    },
}

/// Which cluster, and how long it may take.
#[derive(Debug, Args)]
pub struct To {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,
    /// Only in this shard; in all of them otherwise, one after the other
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..i64::from(SHARD_PORTS)))]
    pub shard: Option<u16>,
    /// How long the change may take, in each shard; it goes on where that is too short
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    pub within: Duration,
}

fn slot() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=9)
}

/// Runs the command.
///
/// # Errors
/// A cluster without a leader (E0316), a change that the leader refuses (E0317) or that takes longer (E0318), and what keeps a client
/// from asking.
pub fn run(member: &Member, program: &str) -> Result<(), Error> {
    let (change, to) = match &member.what {
        What::List { servers, json } => return list(servers, *json, program),
        What::Add { slot, learner, to } => (Change::Add { slot: *slot, learner: *learner }, to),
        What::Promote { slot, to } => (Change::Promote { slot: *slot }, to),
        What::Remove { slot, to } => (Change::Remove { slot: *slot }, to),
        What::Transfer { slot, to } => (Change::Transfer { to: *slot }, to),
        What::Cancel { to } => (Change::Cancel, to),
        What::Spread { to } => return spread(to, program),
    };
    let (target, within, only) = (to.servers.target()?, to.within, to.shard);
    let ends = connect::once(target, move |connection| async move {
        let ends = admin::change_all(connection.client(), connection.servers(), only, change, within).await;
        let ends = ends.map_err(|error| failure(&connection, error))?;
        let explain = |(shard, end): Changed| (shard, end.map_err(|error| failure(&connection, error)));
        Ok(ends.into_iter().map(explain).collect::<Vec<_>>())
    })?;
    let is_alone = ends.len() == 1;
    let (mut done, mut failed, mut first) = (Vec::new(), Vec::new(), None);
    for (shard, end) in ends {
        match end {
            Ok(members) if is_alone => say(&table(&members, program))?,
            Ok(members) => {
                say(&format!("shard {shard}: {}", table(&members, program)))?;
                done.push(shard.to_string());
            }
            Err(error) => {
                failed.push(format!("shard {shard} ({error})"));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        None => Ok(()),
        // Everywhere for the same reason, as far as anybody can tell.
        Some(error) if done.is_empty() => Err(error),
        Some(_) => {
            let done = format!("shard{} {}", if done.len() == 1 { "" } else { "s" }, done.join(", "));
            Err(Error::ChangePartial { done, failed: failed.join(", ") })
        }
    }
}

fn spread(to: &To, program: &str) -> Result<(), Error> {
    let within = to.within;
    let failed = connect::once(to.servers.target()?, move |connection| async move {
        let failed = admin::spread(connection.client(), connection.servers(), within).await;
        failed.map_err(|error| failure(&connection, error))
    })?;
    for (shard, end) in &failed {
        if let Err(error) = end {
            eprintln!("shard {shard} stays with its leader: {error}");
        }
    }
    list(&to.servers, false, program)
}

fn list(servers: &Servers, json: bool, program: &str) -> Result<(), Error> {
    let shards = connect::once(servers.target()?, |connection| async move {
        let (client, within) = (connection.client(), connection.deadline());
        let map = admin::shards_of(client, connection.servers(), within).await;
        let map = map.map_err(|error| failure(&connection, error))?;
        let asked = map.all().map(|shard| {
            let servers = admin::of_shard(connection.servers(), shard);
            async move { admin::members_of(client, &servers, within).await }
        });
        let shards = futures::future::join_all(asked).await;
        shards
            .into_iter()
            .map(|members| members.map_err(|error| failure(&connection, error)))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let is_alone = shards.len() == 1;
    for (shard, members) in shards.iter().enumerate() {
        match json {
            true => {
                let mut value = serde_json::to_value(members).unwrap_or_default();
                if !is_alone {
                    value["shard"] = shard.into();
                }
                say(&format!("{value}\n"))?;
            }
            false if is_alone => say(&table(members, program))?,
            false => say(&format!("shard {shard}: {}", table(members, program)))?,
        }
    }
    Ok(())
}

/// What a change of the members failed with, in the words of whoever made it.
pub(super) fn failure(connection: &Connection, error: ChangeError) -> Error {
    match error {
        ChangeError::NoLeader => Error::NoLeader {
            servers: connection.servers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        },
        ChangeError::Refused(why) => Error::ChangeRefused { why },
        ChangeError::Pending(_) => Error::ChangePending,
        ChangeError::Call(error) => connection.error(error),
    }
}

/// A line about each node, leaders first told apart.
fn table(members: &Members, program: &str) -> String {
    let mut out = match &members.cluster {
        Some(cluster) => format!("cluster {cluster}, term {}\n", members.term),
        None => format!("node {} belongs to no cluster: `{program} init` forms one\n", members.seen_by),
    };
    let mut line = |member: &MemberInfo, role: &str, remark: String| {
        let text =
            format!("  {}  {role:<8} clients {:<21} peers {:<21}{remark}", member.slot, member.client, member.peer);
        out += text.trim_end();
        out.push('\n');
    };
    let mut all: Vec<&MemberInfo> = members.all().collect();
    all.sort_by_key(|member| member.slot);
    for member in all {
        let role = match member {
            _ if members.leader == member.slot => "leader",
            _ if members.leaving.contains(member) && !members.voters.contains(member) => "leaving",
            _ if members.voters.contains(member) => "voter",
            _ => "learner",
        };
        line(member, role, remark(members, member.slot));
    }
    for member in &members.asking {
        line(member, "waits", format!("  `{program} member add {}` takes it in", member.slot));
    }
    if members.changing {
        out += "  a change is under way";
        for slot in &members.waits_for {
            out += &format!(", waits for {slot}");
        }
        out += "\n";
    }
    if let Some(slot) = members.transferring_to {
        out += &format!("  leadership is being handed to {slot}\n");
    }
    out
}

/// What the leader has to say of a member, if anything.
fn remark(members: &Members, slot: u8) -> String {
    let Some(peer) = members.peers.iter().find(|peer| peer.slot == slot) else { return String::new() };
    let behind = members.last.saturating_sub(peer.matched);
    match peer.silent_ms {
        _ if peer.out_of_reach => "  needs a snapshot".into(),
        None => "  has not answered".into(),
        Some(ms) if ms > SILENT_MS => format!("  has not answered for {:.1} s", ms as f64 / 1000.0),
        Some(_) if behind > 0 => format!("  {behind} entries behind"),
        Some(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::PeerInfo;

    fn info(slot: u8) -> MemberInfo {
        let address = |port: u16| format!("10.0.0.{slot}:{port}").parse().expect("an address");
        MemberInfo { slot, incarnation: "01".into(), client: address(8000), peer: address(8100) }
    }

    #[test]
    fn the_table_says_who_is_what_and_what_to_do_about_those_who_wait() {
        let peer = |slot, matched, silent_ms| PeerInfo { slot, matched, silent_ms, out_of_reach: false };
        let members = Members {
            seen_by: 2,
            cluster: Some("ab".into()),
            term: 7,
            leader: 2,
            voters: vec![info(2), info(4)],
            leaving: vec![info(1), info(2)],
            learners: vec![info(3)],
            asking: vec![info(5)],
            changing: true,
            waits_for: vec![3],
            transferring_to: None,
            last: 100,
            peers: vec![peer(1, 100, Some(2500)), peer(3, 40, Some(1)), peer(4, 100, Some(3))],
        };
        let expected = "\
cluster ab, term 7
  1  leaving  clients 10.0.0.1:8000         peers 10.0.0.1:8100          has not answered for 2.5 s
  2  leader   clients 10.0.0.2:8000         peers 10.0.0.2:8100
  3  learner  clients 10.0.0.3:8000         peers 10.0.0.3:8100          60 entries behind
  4  voter    clients 10.0.0.4:8000         peers 10.0.0.4:8100
  5  waits    clients 10.0.0.5:8000         peers 10.0.0.5:8100          `kv member add 5` takes it in
  a change is under way, waits for 3
";
        assert_eq!(table(&members, "kv"), expected);
    }
}
