//! The client's side of the wiring: a core of this thread, a socket, and `trimaran_rpc`'s client on it.

use crate::error::Error;
use crate::journal::Page;
use crate::load::{Failure, Target};
use crate::resp::{self, Reply};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;
use trimaran_net::{NetConfig, NetDriver, NetError, SocketOptions, UdpConfig, UdpPort};
use trimaran_raft::ClusterId;
use trimaran_rpc::admin::{self, InitError, NodeStatus};
use trimaran_rpc::client::{Call, CallError, Client, ClientConfig, NotApplied};
use trimaran_rpc::r2p2::policy::Policy;
use trimaran_rpc::r2p2::{Refusal, ReplyLimits};
use trimaran_runtime::{CoreConfig, Instant, Panicked, RuntimeError, now};

/// The method key of all our calls: the service is one method over RESP commands.
const METHOD: &str = "kv.command/1";
/// Calls on their way at a time, and packets queued for them: what `kv bench` may ask for, and room for tries.
const CALLS_MAX: usize = 32_768;

/// How long nodes are asked for their state after a call without an answer.
const EXPLAIN_WITHIN: Duration = Duration::from_millis(300);

/// A client of one cluster. Cheap to clone; belongs to one core.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    method: u32,
    servers: Rc<[SocketAddrV4]>,
    deadline: Duration,
}

/// Runs `main` with a connection to `servers` on a core on this thread. Calls get `deadline` each.
pub fn run<F, T>(servers: Vec<SocketAddrV4>, deadline: Duration, main: impl FnOnce(Connection) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + 'static,
    T: 'static,
{
    let port = UdpPort::new(UdpConfig::default()).map_err(net_error)?;
    let (driver, net) = NetDriver::new(port, NetConfig::default());
    let config = CoreConfig { name: "client".into(), ..CoreConfig::default() };
    let connect = move || {
        let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let client = Client::new(&net, local, servers.clone(), client_config()).map_err(net_error);
        let method = admin::method_key(METHOD);
        let main = client.map(|client| main(Connection { client, method, servers: servers.into(), deadline }));
        async move { main?.await }
    };
    trimaran_runtime::run(config, move || driver, connect).map_err(runtime_error)?
}

impl Connection {
    /// A command for the cluster as a whole: the leader answers, or any node under policy 0.
    pub async fn command(&self, policy: Policy, request: &[u8]) -> Result<Vec<u8>, Error> {
        match self.call(policy, request, self.deadline).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Unknown) => Err(self.explain(policy).await),
            Err(error) => Err(self.error(error)),
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

    async fn call(&self, policy: Policy, body: &[u8], within: Duration) -> Result<Vec<u8>, CallError> {
        let call = Call { method: self.method, policy, shard: 0, body, server: None };
        self.client.call(call, within).await.map(|reply| reply.body)
    }

    /// One page of a node's journal.
    pub async fn journal(&self, node: SocketAddrV4, position: u64) -> Result<Page, Error> {
        let mut request = Vec::new();
        resp::emit_command(&[b"JOURNAL", position.to_string().as_bytes()], &mut request);
        let call = self.client.call_raw(node, Policy::FixedRoute, &request, self.deadline);
        let reply = call.await.map_err(|error| self.error(error))?;
        match accepted(&reply)? {
            Reply::Bulk(page) => Page::parse(page).map_err(|error| Error::BadAnswer { what: error.to_string() }),
            other => Err(Error::BadAnswer { what: format!("{other:?} is no journal page") }),
        }
    }

    /// How one node is.
    pub async fn status(&self, node: SocketAddrV4) -> Result<NodeStatus, Error> {
        let status = admin::status(&self.client, node, self.deadline).await;
        status.map_err(|error| match error {
            CallError::Unknown => Error::Unreachable { servers: node.to_string(), within: self.deadline },
            error => self.error(error),
        })
    }

    /// Forms a cluster of `members`, each of which must answer.
    pub async fn init(&self, name: &str, members: &[SocketAddrV4]) -> Result<ClusterId, Error> {
        let fresh = ClusterId(random_u128()?);
        admin::init(&self.client, name, members, fresh, self.deadline).await.map_err(|error| match error {
            InitError::Unreachable { address, .. } => {
                Error::Unreachable { servers: address.to_string(), within: self.deadline }
            }
            InitError::AlreadyMember { address, cluster } => {
                Error::AlreadyInitialised { who: address.to_string(), cluster }
            }
            InitError::Refused { address, why } => Error::InitRefused { who: address.to_string(), why },
        })
    }

    fn error(&self, error: CallError) -> Error {
        match error {
            CallError::NoQuorum { reachable, total, quorum } => Error::NoQuorum { reachable, total, quorum },
            CallError::NotApplied(NotApplied::Refused(Refusal::Uninitialised)) => {
                let who = self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Error::Uninitialised { who }
            }
            CallError::NotApplied(reason) => Error::NotApplied { reason: reason.to_string() },
            CallError::Internal => Error::ServiceFailed,
            _ => Error::Unknown { within: self.deadline, cluster: None },
        }
    }
}

impl Target for Connection {
    async fn call(&self, policy: Policy, request: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        let within = deadline.saturating_since(now());
        self.call(policy, request, within).await.map_err(|error| match error {
            CallError::NotApplied(_) | CallError::NoQuorum { .. } => Failure::NotApplied,
            _ => Failure::Unknown,
        })
    }
}

fn client_config() -> ClientConfig {
    ClientConfig {
        replies: ReplyLimits { calls: CALLS_MAX, ..ReplyLimits::default() },
        socket: SocketOptions { rx_packets: CALLS_MAX, tx_packets: CALLS_MAX, ..SocketOptions::default() },
        ..ClientConfig::default()
    }
}

/// The reply's value; a refusal is an error.
pub fn accepted(reply: &[u8]) -> Result<Reply<'_>, Error> {
    match Reply::parse(reply) {
        Ok(Reply::Error(message)) => Err(Error::Refused { message: message.to_owned() }),
        Ok(reply) => Ok(reply),
        Err(_) => {
            let shown = reply.get(..40).unwrap_or(reply);
            Err(Error::BadAnswer { what: shown.escape_ascii().to_string() })
        }
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
        NetError::AddressInUse { addr } => {
            Error::AddressInUse { address: addr, owner: crate::machine::udp_owner(addr) }
        }
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
