//! The client's side of the wiring: a core of this thread, a socket, and the client on it, whose failures it explains.

use crate::admin::{self, InitError, NodeStatus};
use crate::client::{CallError, Caller, Client, ClientConfig, MethodCall, NotApplied, OwnedCall, Reply};
use crate::pins::Pins;
use crate::program::error::Error;
use crate::program::machine;
use crate::program::port::{Between, Loss, PortPlan};
use crate::r2p2::policy::Policy;
use crate::r2p2::{Refusal, ReplyLimits};
use std::fmt::Display;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{NetError, SocketOptions};
use trimaran_raft::ClusterId;
use trimaran_runtime::{CoreConfig, Idle, Panicked, RuntimeError};

/// Calls on their way at a time, and packets queued for them: what a benchmark may ask for, and room for tries.
const CALLS_MAX: usize = 32_768;

/// How long the first leader of a shard is waited for, and then the one that is to lead it.
const SPREAD_WITHIN: Duration = Duration::from_secs(2);

/// How long nodes are asked for their state after a call without an answer.
const EXPLAIN_WITHIN: Duration = Duration::from_millis(300);

/// A client of one cluster. Cheap to clone; belongs to one core.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    servers: Rc<[SocketAddrV4]>,
    deadline: Duration,
}

/// Whom a client asks, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Client addresses of the nodes.
    pub servers: Vec<SocketAddrV4>,
    /// How long one call may take.
    pub deadline: Duration,
    /// By which port.
    pub port: PortPlan,
    /// Packets that are lost on purpose.
    pub loss: Option<Loss>,
    /// What its core does while nothing is to be done, on the kernel's sockets.
    pub idle: Idle,
}

impl Target {
    /// These servers, by the kernel's sockets.
    pub fn new(servers: Vec<SocketAddrV4>, deadline: Duration) -> Self {
        Target { servers, deadline, port: PortPlan::default(), loss: None, idle: Idle::default() }
    }
}

/// Runs `main` with a connection to `target` on a core on this thread. Its writes have a session: for many calls.
///
/// # Errors
/// Those of `main`, and those of the environment.
pub fn run<F, T>(target: Target, main: impl FnOnce(Connection) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    run_as(client_config(true), target, main)
}

/// As [`run`], with so many connections, each with a socket and sessions of its own, all on one core.
///
/// # Errors
/// As [`run`].
pub fn run_many<F, T>(target: Target, connections: usize, main: impl FnOnce(Vec<Connection>) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    run_several(client_config(true), target, connections, main)
}

/// As [`run`], for a process that makes one call and ends. It opens no session, which would outlive it by ten minutes: a
/// shell script that makes calls in a loop would take the sessions of all other clients.
///
/// # Errors
/// As [`run`].
pub fn once<F, T>(target: Target, main: impl FnOnce(Connection) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    run_as(client_config(false), target, main)
}

fn run_as<F, T>(client: ClientConfig, target: Target, main: impl FnOnce(Connection) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    run_several(client, target, 1, |connections| {
        let main = connections.into_iter().next().map(main);
        // One was asked for, and what keeps it from being made has been said.
        async move { main.ok_or(Error::Interrupted)?.await }
    })
}

fn run_several<F, T>(
    client: ClientConfig,
    target: Target,
    connections: usize,
    main: impl FnOnce(Vec<Connection>) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    let Target { servers, deadline, port, loss, idle } = target;
    let config = CoreConfig { name: "client".into(), idle, ..CoreConfig::default() };
    port.run(config, &Between { capture: None, loss }, move |net| {
        let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        Pins::new(net.clone()).pin(servers.iter().map(|server| *server.ip()));
        let connect = |_| {
            let client = Client::new(&net, local, servers.clone(), client).map_err(net_error)?;
            Ok(Connection { client, servers: servers.clone().into(), deadline })
        };
        let connected: Result<Vec<Connection>, Error> = (0..connections).map(connect).collect();
        let main = connected.map(main);
        async move { main?.await }
    })
}

impl Connection {
    /// The client itself.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The servers given, in their order.
    pub fn servers(&self) -> &[SocketAddrV4] {
        &self.servers
    }

    /// How long one call may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// One call, whose failure says what the user can do about it.
    ///
    /// # Errors
    /// Those of the cluster, E03xx. What the service refuses is a reply with [`Status::App`](crate::r2p2::Status::App).
    pub async fn call(&self, call: MethodCall<'_>) -> Result<Reply, Error> {
        match self.client.call(call, self.deadline).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.failure(call.policy, error).await),
        }
    }

    /// As [`Connection::call`], in the shard of a key, see [`Client::call_keyed`].
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_keyed(&self, call: MethodCall<'_>, key: Option<u64>) -> Result<Reply, Error> {
        match self.client.call_keyed(call, key, self.deadline).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.failure(call.policy, error).await),
        }
    }

    /// As [`Connection::call`], for a call with options. It gets this connection's deadline, unless it has one.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn submit(&self, call: OwnedCall) -> Result<Reply, Error> {
        let policy = call.request.policy;
        let within = call.within.or(Some(self.deadline));
        match self.client.submit(OwnedCall { within, ..call }).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.failure(policy, error).await),
        }
    }

    /// What the user can do about a call of this connection's client that failed. Where nobody has answered it, the nodes
    /// are asked how they are.
    pub async fn failure<E: Display>(&self, policy: Policy, error: CallError<E>) -> Error {
        match error {
            CallError::App(refusal) => Error::Refused { message: refusal.to_string() },
            CallError::Unknown { .. } => self.explain(policy).await,
            error => self.error(error),
        }
    }

    /// Why nobody may have answered, as the nodes see it now.
    async fn explain(&self, policy: Policy) -> Error {
        let asked = self.servers.iter().map(|&server| admin::status(&self.client, server, EXPLAIN_WITHIN));
        let answers: Vec<NodeStatus> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        let is_write = policy == Policy::ReplicatedRoute;
        match answers.into_iter().max_by_key(|status| (status.term, status.reachable)) {
            None => self.unreachable(),
            Some(NodeStatus { reachable, total, quorum, .. }) if reachable < quorum && !is_write => {
                Error::NoQuorum { reachable, total, quorum }
            }
            Some(NodeStatus { reachable, total, quorum, .. }) => {
                let short = || format!("{reachable} of {total} replicas reachable, {quorum} needed");
                Error::Unknown { within: self.deadline, cluster: (reachable < quorum).then(short) }
            }
        }
    }

    fn unreachable(&self) -> Error {
        let servers = self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::Unreachable { servers, within: self.deadline }
    }

    /// How one node is.
    pub async fn status(&self, node: SocketAddrV4) -> Result<NodeStatus, Error> {
        let status = admin::status(&self.client, node, self.deadline).await;
        status.map_err(|error| match error {
            CallError::Unknown { .. } => Error::Unreachable { servers: node.to_string(), within: self.deadline },
            error => self.error(error),
        })
    }

    /// Forms a cluster of `members`, each of which must answer.
    pub async fn init(&self, name: &str, members: &[SocketAddrV4]) -> Result<ClusterId, Error> {
        let fresh = ClusterId(random_u128()?);
        let formed = admin::init_shards(&self.client, name, members, fresh, self.deadline).await;
        let (cluster, shards) = formed.map_err(|error| match error {
            InitError::Unreachable { address, .. } => {
                Error::Unreachable { servers: address.to_string(), within: self.deadline }
            }
            InitError::AlreadyMember { address, cluster } => {
                Error::AlreadyInitialised { who: address.to_string(), cluster }
            }
            InitError::Refused { address, why } => Error::InitRefused { who: address.to_string(), why },
        })?;
        if shards == 1 {
            return Ok(cluster);
        }
        // It works without, if less well; `member spread` does the same later.
        let failed = admin::spread(&self.client, members, SPREAD_WITHIN).await.unwrap_or_default();
        for (shard, end) in failed {
            if let Err(error) = end {
                tracing::warn!("shard {shard} stays with the leader that it has chosen: {error}");
            }
        }
        Ok(cluster)
    }

    /// A call's failure in the words of whoever made it.
    pub fn error<E>(&self, error: CallError<E>) -> Error {
        match error {
            CallError::NoQuorum { reachable, total, quorum } => Error::NoQuorum { reachable, total, quorum },
            CallError::NotApplied(NotApplied::Refused(Refusal::Uninitialised)) => {
                let who = self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Error::Uninitialised { who }
            }
            CallError::NotApplied(NotApplied::Refused(why)) => Error::NotApplied { reason: refused(why) },
            CallError::NotApplied(reason) => Error::NotApplied { reason: reason.to_string() },
            CallError::Internal => Error::ServiceFailed,
            CallError::ClusterReplaced => Error::ClusterReplaced,
            _ => Error::Unknown { within: self.deadline, cluster: None },
        }
    }
}

/// Why a server refused a call, and what may be done about it.
fn refused(why: Refusal) -> String {
    let text = match why {
        Refusal::LeasesOff => {
            "reads by a lease are not enabled there: write `lease = true` into [reads] of the nodes' configurations, or ask for `linearizable`"
        }
        Refusal::UnknownConsistency => {
            "the node does not know this consistency: it is of an older version, or the method is no read"
        }
        Refusal::TooStale => {
            "no replica asked knows a state so new: allow for more than two heartbeats, 40 ms in the profile `shared`"
        }
        Refusal::NotYet => {
            "no replica asked has come so far in the log: the index is of another cluster, or replicas are behind"
        }
        why => return NotApplied::Refused(why).to_string(),
    };
    text.to_owned()
}

fn client_config(sessions: bool) -> ClientConfig {
    ClientConfig {
        sessions,
        replies: ReplyLimits { calls: CALLS_MAX, ..ReplyLimits::default() },
        socket: SocketOptions { rx_packets: CALLS_MAX, tx_packets: CALLS_MAX, ..SocketOptions::default() },
        ..ClientConfig::default()
    }
}

/// Drawn from the kernel's generator: ids must differ between machines and lives.
pub fn random_u128() -> Result<u128, Error> {
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => Ok(u128::from_le_bytes(bytes)),
        Ok(_) => Err(Error::io("draw a random number", std::io::ErrorKind::UnexpectedEof.into())),
        Err(errno) => Err(Error::io("draw a random number", errno.into())),
    }
}

/// What the network layer says, in this program's words.
pub fn net_error(error: NetError) -> Error {
    match error {
        NetError::AddressInUse { addr } => Error::AddressInUse { address: addr, owner: machine::udp_owner(addr) },
        NetError::AddressNotAvailable { addr } => Error::AddressElsewhere { address: addr },
        NetError::Io { action, source } => Error::io(action, source),
        other => Error::io("use the network", std::io::Error::other(other)),
    }
}

/// What the runtime says, in this program's words.
pub fn runtime_error(error: RuntimeError) -> Error {
    match error {
        RuntimeError::MainPanicked(task) => panicked(task),
        other => Error::io("run the core", std::io::Error::other(other)),
    }
}

/// A fault of this program.
pub fn panicked(task: Panicked) -> Error {
    Error::Panicked { what: task.to_string() }
}
