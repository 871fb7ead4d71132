//! One replica on the current core: binds its two sockets, builds what serves them, starts the tasks.

use crate::admin::Admin;
use crate::answer::Answers;
use crate::apply::elsewhere::Applier;
use crate::endpoint::Endpoint;
use crate::flow::FlowConfig;
use crate::forward::{Forwarder, Joiner};
use crate::peer::{ForwardQueue, PeerSocket, PeerTransport};
use crate::pins::Pins;
use crate::r2p2::reassembly::{self, Requests};
use crate::reads::Reads;
use crate::replica::Replica;
use crate::replicated::Replicated;
use crate::service::{Service, method_key};
use crate::session::REGISTER;
use crate::shards::ShardPlace;
use crate::stats::ServerCounters;
use crate::storage::{DataDirectory, DataError, Durability, NodeStorage};
use crate::{apply, background};
use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{Net, NetError, Priority, SocketOptions};
use trimaran_raft::{
    Fatal, Incarnation, Limits, LogIndex, Member, NodeId, ReadSettings, Sabotage, Shard, ShardConfig, Slot, Timing,
};
use trimaran_runtime::{Lane, Task, handoff, now, sleep};

/// Handlers of one replica that may run at a time; more wait, as many as reads may.
const LOCALS_MAX: usize = 4096;

/// Between two looks at a transfer.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// For a node's last datagrams to leave.
const LAST_WORDS: Duration = Duration::from_millis(2);

/// At one call at a time the next one carries the news of the last commit: followers are not woken for it in between.
const COMMIT_NOTICE: Duration = Duration::from_micros(200);

/// What a node must be told.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The cluster's name; `init` refuses nodes of another.
    pub cluster_name: String,
    /// Seat in the cluster, 1 to 9.
    pub slot: Slot,
    /// Which of the cluster's shards this replica is of. The addresses below are this shard's own.
    pub place: ShardPlace,
    /// Drawn at random at every start: a node that has lost its memory must not be taken for the one that promised. One that finds its
    /// life in a [`DataDirectory`] goes on under the incarnation there.
    pub incarnation: Incarnation,
    /// Where clients send requests; port 0 is not allowed.
    pub client: SocketAddrV4,
    /// Where peers send Raft messages; port 0 is not allowed.
    pub peer: SocketAddrV4,
    /// Peer addresses of the listed members, this node's own among them: whom to ask when it has lost its memory.
    pub contacts: Vec<SocketAddrV4>,
    /// Heartbeats and election timeouts.
    pub timing: Timing,
    /// Budgets of the log.
    pub log_limits: Limits,
    /// Bounds on requests of several packets.
    pub request_limits: reassembly::Limits,
    /// Bytes of paced replies that may wait at a time.
    pub reply_bytes: usize,
    /// Reads that may wait at a time, for their round of ReadIndex and again for the state.
    pub queued_reads: usize,
    /// Leases, and the bound on the members' clocks that they and the ages of states rest on. A read waits for this replica to
    /// apply what it must see for [`ReadSettings::patience`].
    pub reads: ReadSettings,
    /// Receive buffer of each socket, in bytes.
    pub rcvbuf_bytes: usize,
    /// The R2P2 router that gets a FEEDBACK after each reply.
    pub router: Option<SocketAddrV4>,
    /// Seeds election timeouts.
    pub seed: u64,
    /// Rules of Raft's broken on purpose, for tests; nothing without the feature `sabotage`.
    pub sabotage: Sabotage,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A socket could not be bound.
    #[error("{what} socket: {source}")]
    Bind {
        /// `client` or `peer`.
        what: &'static str,
        /// What the port said.
        source: NetError,
    },
    /// The data directory cannot be used after all.
    #[error("the data directory: {0}")]
    Data(#[from] DataError),
}

/// The apply task.
type Applying = Pin<Box<dyn Future<Output = ()>>>;

/// A running replica. Dropping it ends its tasks and closes its sockets.
pub struct Node {
    replicated: Rc<Replicated>,
    ended: Rc<RefCell<Option<Fatal>>>,
    _tasks: Vec<Task<()>>,
}

impl Node {
    /// For a node that is about to be stopped on purpose: hands leadership over, if it leads, to whoever has most of the log, and
    /// waits until another leads, at most `within`. Clients then lose no more time than a few round trips. Tells the peers in any
    /// case that this node goes, so that nobody waits for an election timeout.
    ///
    /// Await it on the node's core.
    pub fn hand_over(&self, within: Duration) -> impl Future<Output = ()> + use<> {
        let shard = self.replicated.shard.clone();
        async move {
            let until = now() + within;
            // Refused: it does not lead, or nobody is fit to take over.
            let _ = shard.transfer(None);
            while shard.is_leader() && shard.status().transferring.is_some() && now() < until {
                sleep(LOOK_EVERY).await;
            }
            if shard.is_leader() {
                shard.farewell();
            }
            sleep(LAST_WORDS).await;
        }
    }

    /// After [`Node::hand_over`], for a node with a data directory: makes all durable and writes down that nothing is missing, so
    /// that the next start needs to believe nothing. Waits at most `within`; what is not done then is as after a crash.
    ///
    /// Await it on the node's core.
    pub fn close(&self, within: Duration) -> impl Future<Output = ()> + use<> {
        let shard = self.replicated.shard.clone();
        async move {
            let until = now() + within;
            shard.with_storage(NodeStorage::close);
            while !shard.with_storage(|storage| storage.is_closed()) && now() < until {
                sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Starts a replica of `service` on the current core that keeps everything in memory. It takes part in a cluster once `init`
    /// has formed one.
    ///
    /// # Errors
    /// An address that cannot be bound.
    pub fn start<S: Service>(net: &Net, config: NodeConfig, service: S) -> Result<Node, NodeError> {
        Node::start_in(net, config, service, None)
    }

    /// As [`Node::start`], with the log in `directory` if there is one: the node goes on with the life that was found there.
    ///
    /// # Errors
    /// An address that cannot be bound, or what is wrong with the directory.
    pub fn start_in<S: Service>(
        net: &Net,
        config: NodeConfig,
        service: S,
        directory: Option<DataDirectory>,
    ) -> Result<Node, NodeError> {
        Node::assemble(net, config, service, directory, |node, replica| Box::pin(apply::run(node, replica)))
    }

    /// As [`Node::start_in`] for a service whose handlers take long: the applier that comes with the node executes those of
    /// `#[replicated]` and `#[read]` methods. Run it on another core; packets and elections then have this one to themselves.
    /// Looks of `#[local]` handlers, snapshots and digests stay here.
    ///
    /// Each loan costs two hand-overs between the cores, some microseconds, and carries up to 64 entries or 100 us of work: for handlers
    /// of less than a microsecond [`Node::start_in`] is faster.
    ///
    /// # Errors
    /// Those of [`Node::start_in`].
    pub fn start_with_applier<S: Service>(
        net: &Net,
        config: NodeConfig,
        service: S,
        directory: Option<DataDirectory>,
    ) -> Result<(Node, Applier<S>), NodeError> {
        let (here, there) = handoff(apply::elsewhere::LOANS);
        let run = |node, replica| -> Applying { Box::pin(apply::run_elsewhere(node, replica, here)) };
        Ok((Node::assemble(net, config, service, directory, run)?, Applier::new(there)))
    }

    fn assemble<S: Service>(
        net: &Net,
        config: NodeConfig,
        service: S,
        directory: Option<DataDirectory>,
        applying: impl FnOnce(Rc<Replicated>, Replica<S>) -> Applying,
    ) -> Result<Node, NodeError> {
        let bind = |what, local, priority| {
            let options = SocketOptions { priority, rcvbuf_bytes: config.rcvbuf_bytes, ..SocketOptions::default() };
            net.bind(local, options).map_err(|source| NodeError::Bind { what, source })
        };
        let client_socket = Rc::new(bind("client", config.client, Priority::Normal)?);
        let peer_socket = bind("peer", config.peer, Priority::Control)?;
        let drawn = NodeId { slot: config.slot, incarnation: config.incarnation };
        let id = directory.as_ref().map_or(drawn, DataDirectory::id);
        let durability = directory.as_ref().map_or(Durability::Volatile, DataDirectory::durability);
        let recovered = directory.as_ref().map_or(LogIndex::ZERO, DataDirectory::last);
        let pins = Pins::new(net.clone());
        pins.pin(config.contacts.iter().map(|contact| *contact.ip()));
        let me = Member { id, client: config.client, peer: config.peer };
        let counters = Rc::new(ServerCounters::default());
        let pending = config.request_limits.pending_messages;
        let reassembly = config.request_limits.reassembly;

        let forwards = ForwardQueue::new(pending);
        let peers = PeerSocket::new(peer_socket, id, config.place, forwards.clone(), counters.clone());
        let shard_config = ShardConfig {
            timing: config.timing,
            limits: config.log_limits,
            reads: config.reads,
            contacts: config.contacts,
            commit_notice: COMMIT_NOTICE,
            sabotage: config.sabotage,
            shard: config.place.group(),
            ..ShardConfig::new(me, config.seed)
        };
        let transport = PeerTransport(peers.clone());
        let shard = match directory {
            None => Shard::new(shard_config, transport, NodeStorage::memory()),
            Some(directory) => directory.shard(shard_config, transport)?,
        };
        shard.set_clock(trimaran_runtime::read_clock);
        let flow = FlowConfig { reply_bytes: config.reply_bytes, router: config.router, ..FlowConfig::default() };
        let answers = Answers::new(client_socket.clone(), flow, counters.clone());
        // A client address may send as many requests within the memory as the socket brings in a good while.
        let forwarder = Forwarder::new(peers, pending.saturating_mul(16), reassembly, counters.clone());
        let locals = config.queued_reads.min(LOCALS_MAX);
        let reads = Reads::new(config.queued_reads, config.reads.lease);
        let replicated = Rc::new(
            Replicated::new(shard.clone(), id, answers, forwarder, counters, reads, S::mark)
                .with_durability(durability, recovered)
                .with_place(config.place),
        );
        let mut replica = Replica::new(service);
        replica.cx.place = config.place;
        let requests = Rc::new(RefCell::new(Requests::new(config.request_limits)));
        let admin =
            Admin::new(config.cluster_name, me, config.reads, net.clone(), replicated.clone(), requests.clone());
        let operators = admin.clone();
        let endpoint = Endpoint {
            socket: client_socket,
            forwards,
            joiner: Joiner::new(pending, reassembly),
            requests,
            node: replicated.clone(),
            admin,
            register: method_key(REGISTER),
        };
        let raft = shard;
        let ended = Rc::new(RefCell::new(None));
        let end = ended.clone();
        let tasks = vec![
            trimaran_runtime::spawn_in(Lane::Control, "raft", async move {
                let fatal = raft.run().await;
                tracing::error!(%fatal, "the Raft shard has stopped");
                *end.borrow_mut() = Some(fatal);
            }),
            trimaran_runtime::spawn_in(Lane::Normal, "requests", endpoint.run()),
            trimaran_runtime::spawn_in(Lane::Normal, "status", operators.run()),
            trimaran_runtime::spawn_in(Lane::Normal, "replies", replicated.answers.run()),
            trimaran_runtime::spawn_in(Lane::Normal, "reads", replicated.clone().run_reads()),
            trimaran_runtime::spawn_in(Lane::Normal, "waiting reads", replicated.clone().run_waiting_reads()),
            trimaran_runtime::spawn_in(Lane::Normal, "apply", applying(replicated.clone(), replica)),
            trimaran_runtime::spawn_in(Lane::Normal, "ticks", background::run_ticks(replicated.clone(), pins)),
            trimaran_runtime::spawn_in(
                Lane::Normal,
                "effects",
                background::run_effects::<S>(replicated.clone(), net.clone()),
            ),
            trimaran_runtime::spawn_in(
                Lane::Normal,
                "locals",
                background::run_locals::<S>(replicated.clone(), net.clone(), locals),
            ),
        ];
        Ok(Node { replicated, ended, _tasks: tasks })
    }

    /// The Raft shard, for tests and status.
    pub fn shard(&self) -> &Shard<impl trimaran_raft::Transport + use<>, NodeStorage> {
        &self.replicated.shard
    }

    /// As [`Node::shard`], by its type.
    pub(crate) fn own_shard(&self) -> &Shard<PeerTransport, NodeStorage> {
        &self.replicated.shard
    }

    /// Writes appended here and not yet applied.
    pub fn pending_writes(&self) -> usize {
        self.replicated.pending_writes()
    }

    /// Why this node takes part no more, if so: its disk has failed. It acknowledges nothing any more and should be ended.
    pub fn failed(&self) -> Option<Fatal> {
        self.ended.borrow().clone()
    }

    /// The entry after which this replica's state is known to be another than a majority's. It serves nothing any more, and will not by
    /// itself; another life in its place is given the others' state.
    pub fn outvoted(&self) -> Option<LogIndex> {
        self.replicated.shard.with_machine(trimaran_raft::Machine::outvoted)
    }

    /// Why this replica no longer applies, if so.
    pub fn halted(&self) -> Option<crate::apply::Halt> {
        self.replicated.halted()
    }
}
