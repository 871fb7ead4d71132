//! Clients of a simulated cluster: a workload that is recorded, or code of the test's own.

use super::calls::CallHistory;
use super::cluster::CLIENTS_MAX;
use super::handle::{Drive, Sim};
use super::rng::SimRng;
use super::seat::{ClientSeat, sleep};
use crate::client::{AnyRequest, Caller, Client, ClientConfig, Consistency, OwnedCall};
use crate::service::Service;
use futures::FutureExt;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::rc::Rc;
use std::time::Duration;
use trimaran_runtime::now;

/// Time for each call, unless the test says otherwise.
const DEADLINE: Duration = Duration::from_secs(1);
/// Longest pause between two calls of a client, unless the test says otherwise: a thousand calls then last for a good while,
/// which faults need to strike.
const PACE: Duration = Duration::from_millis(4);
/// How long clients may work, unless the test says otherwise.
const LIMIT: Duration = Duration::from_secs(600);

/// What clients ask: so many requests in all, each made by a function of the test's.
#[derive(Debug, Clone)]
pub struct Workload<F> {
    count: u64,
    next: F,
}

/// A workload of `count` requests in all. `next` makes them, from the random numbers of the client that is to send each.
///
/// ```
/// use trimaran_rpc::sim::{self, AnyRequest, SimRng, Workload};
///
/// fn workload(count: u64) -> Workload<impl FnMut(&mut SimRng) -> AnyRequest> {
///     sim::ops(count, |rng| match rng.below(3) {
///         0 => AnyRequest::write(1, b"put"),
///         _ => AnyRequest::read(2, b"get"),
///     })
/// }
/// # let _ = workload(2_000);
/// ```
pub fn ops<F, R>(count: u64, next: F) -> Workload<F>
where
    F: FnMut(&mut SimRng) -> R,
    R: Into<AnyRequest>,
{
    Workload { count, next }
}

/// Clients that have yet to be given work; each will have a machine of its own. Faults strike while they work.
#[derive(Debug, Clone)]
#[must_use = "clients do nothing until they are given work"]
pub struct Clients<S: Service> {
    sim: Sim<S>,
    count: u32,
    deadline: Duration,
    pace: Duration,
    limit: Duration,
    mixes_reads: bool,
}

impl<S: Service> Clients<S> {
    pub(super) fn new(sim: Sim<S>, count: u32) -> Self {
        assert!(count <= u32::from(CLIENTS_MAX), "a simulation has at most {CLIENTS_MAX} clients");
        Clients { sim, count, deadline: DEADLINE, pace: PACE, limit: LIMIT, mixes_reads: false }
    }

    /// Time for each call that names none; 1 s at first. A shorter one leaves more calls of unknown outcome behind.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Clients of [`Clients::run`] pause between two calls for up to so long; 4 ms at first. With 0 they send the next request as soon
    /// as they have an answer, and thousands of calls may be over before the first fault strikes.
    pub fn pace(mut self, longest: Duration) -> Self {
        self.pace = longest;
        self
    }

    /// How long all the work may take, in virtual time; 600 s at first.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Each read of [`Clients::run`] gets a consistency drawn by the seed (a lease where [`Sim::leases`] allows it), and half of them a
    /// replica that must answer, whoever leads. Those that must be linearizable are recorded as ever. Of the others the log index of
    /// the answer is checked: at least what was asked for, and no older than what was allowed.
    pub fn mixed_reads(mut self) -> Self {
        self.mixes_reads = true;
        self
    }

    /// Each client issues its share of the workload, one call after the other, and records what it asked and was told. Calls
    /// that are neither linearizable reads nor go through the log are made, but not recorded: no order of operations binds them.
    ///
    /// The history that comes back holds everything since the simulation began.
    ///
    /// # Panics
    /// Where the simulator finds a fault of the service, or [`Clients::limit`] is over.
    pub async fn run<F, R>(self, workload: Workload<F>) -> CallHistory<S>
    where
        F: FnMut(&mut SimRng) -> R + 'static,
        R: Into<AnyRequest>,
    {
        let Workload { count, next } = workload;
        let (next, pace, deadline) = (Rc::new(RefCell::new(next)), self.pace, self.deadline);
        let clients = u64::from(self.count.max(1));
        let (mixes_reads, replicas, leases, acknowledged) = {
            let mut inner = self.sim.inner();
            let replicas = inner.formed().nodes() as u8;
            (self.mixes_reads, replicas, inner.leases(), inner.acknowledged.clone())
        };
        let mut turn = 0;
        self.each(move |client, mut seat| {
            let share = (count + clients - 1 - turn) / clients;
            turn += 1;
            let (next, acknowledged) = (next.clone(), acknowledged.clone());
            async move {
                for _ in 0..share {
                    let request: AnyRequest = next.borrow_mut()(&mut seat.rng).into();
                    let mut call = OwnedCall { within: Some(deadline), ..OwnedCall::new(request.clone()) };
                    if mixes_reads {
                        acknowledged.borrow().draw(&mut call, &mut seat.rng, replicas, leases);
                    }
                    let is_judged = matches!(call.consistency, Consistency::Linearizable | Consistency::Lease);
                    let recording = is_judged.then(|| seat.begin(&request));
                    let begun = now();
                    let end = client.submit(call.clone()).await;
                    if let Some(recording) = recording {
                        recording.end(end.as_ref());
                    }
                    if let Err(stale) = acknowledged.borrow_mut().check(&call, begun, now(), &end) {
                        panic!("{stale}");
                    }
                    let pause = seat.rng.below(pace.as_nanos() as u64 + 1);
                    sleep(Duration::from_nanos(pause)).await;
                }
            }
        })
        .await
    }

    /// Each client runs code of the test's own with the real client, for instance a typed one made of it. What the seat
    /// records is judged; what it does not record must change nothing.
    ///
    /// ```
    /// # use trimaran_rpc::service::{Answer, Cx, ReadCx, Service};
    /// # use trimaran_rpc::state::{Reader, State, StateError, Writer};
    /// # #[derive(Default)]
    /// # struct Echo;
    /// # impl State for Echo {
    /// #     async fn save(&self, _: &mut Writer) {}
    /// #     async fn load(_: u32, _: &mut Reader<'_>) -> Result<Self, StateError> {
    /// #         Ok(Echo)
    /// #     }
    /// # }
    /// # impl Service for Echo {
    /// #     const NAME: &'static str = "echo";
    /// #     async fn apply(&mut self, _: &mut Cx, request: &[u8], reply: &mut Vec<u8>) -> Answer {
    /// #         reply.extend(request);
    /// #         Answer::Ok
    /// #     }
    /// #     fn query(&self, _: &ReadCx, _: &[u8], _: &mut Vec<u8>) -> Answer {
    /// #         Answer::Ok
    /// #     }
    /// # }
    /// use std::time::Duration;
    /// use trimaran_rpc::sim::{self, AnyRequest, Sim};
    ///
    /// # fn main() {
    /// sim::run_seeds("echoes", 1, |sim: Sim<Echo>| async move {
    ///     let history = sim.clients(2).each(|client, mut me| async move {
    ///         let request = AnyRequest::write(1, me.rng.bytes(8));
    ///         let recording = me.begin(&request);
    ///         let end = sim::submit(&client, &request, Duration::from_millis(50)).await;
    ///         recording.end(end.as_ref());
    ///     });
    ///     history.await.check_linearizable();
    /// });
    /// # }
    /// ```
    ///
    /// # Panics
    /// As [`Clients::run`], and with the panic of a client.
    pub async fn each<F, W>(self, work: W) -> CallHistory<S>
    where
        W: FnMut(Client, ClientSeat) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let work = Rc::new(RefCell::new(work));
        let state = Rc::new(State { left: Cell::new(self.count), panic: RefCell::new(None) });
        for _ in 0..self.count {
            self.add(work.clone(), state.clone());
        }
        let end = self.sim.now() + self.limit;
        Drive::new(&self.sim, |sim| {
            if let Some(panic) = state.panic.borrow_mut().take() {
                resume_unwind(panic);
            }
            let is_late = sim.now() >= end;
            assert!(!is_late, "{} clients have not come to their end after {:?}", state.left.get(), self.limit);
            state.left.get() == 0
        })
        .await;
        let inner = self.sim.inner();
        let record = inner.record.borrow().clone();
        CallHistory::new(record, inner.make.clone())
    }

    /// Adds one client, which begins with the next step.
    fn add<F, W>(&self, work: Rc<RefCell<W>>, state: Rc<State>)
    where
        W: FnMut(Client, ClientSeat) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let mut inner = self.sim.inner();
        let servers = inner.formed().addresses();
        let (number, seed) = (inner.clients, inner.rng.next_u64());
        inner.clients += 1;
        let seat = ClientSeat::new(number, seed, servers.clone(), inner.record.clone(), S::methods());
        let working = inner.working.clone();
        working.set(working.get() + 1);
        let config = ClientConfig { deadline: self.deadline, sessions: true, ..ClientConfig::default() };
        let ip = inner.formed().client_with(servers, config, move |client| async move {
            // The panic is the test's, not the simulated machine's.
            let running = async move {
                let running = work.borrow_mut()(client, seat);
                running.await;
            };
            if let Err(panic) = AssertUnwindSafe(running).catch_unwind().await {
                state.panic.borrow_mut().get_or_insert(panic);
            }
            state.left.set(state.left.get() - 1);
            working.set(working.get() - 1);
        });
        inner.add_client(ip);
    }
}

/// How clients that began together stand.
struct State {
    /// Those that have not come to their end.
    left: Cell<u32>,
    /// The first panic of one.
    panic: RefCell<Option<Box<dyn Any + Send>>>,
}
