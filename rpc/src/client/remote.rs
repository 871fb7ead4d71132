//! Calls from any thread: a client on a background thread of its own, with a core and a port, and a handle to it.
//!
//! ```text
//!   any thread:  submit ──► queue (bounded) ──► background thread: one task per call ──► Client ──► sockets
//!   any executor:   ▲                                              │
//!                   └────────────────── oneshot ◄──────────────────┘
//! ```

use super::connect::{ConnectError, parse_servers};
use super::typed::{Call, Caller, Indexed, IndexedCall, Kind, OwnedCall};
use super::{CallError, Client, ClientConfig, NotApplied, Reply};
use crate::r2p2::ReplyLimits;
use crate::r2p2::replies::TooManyCalls;
use futures::channel::oneshot;
use futures::future::{Either, select};
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::future::{Future, IntoFuture, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;
use trimaran_net::{Net, NetConfig, NetDriver, NetError, Port, SocketOptions, UdpConfig, UdpPort};
use trimaran_runtime::{CoreConfig, Driver, Flushed, Instant, Polled, spawn};

/// Calls that one background client has in hand at a time.
const CALLS_MAX: usize = 4096;
/// Room for the tries and questions of so many calls.
const TRIES_MAX: usize = 4 * CALLS_MAX;

/// A handle to a client that runs on a thread of its own. Cheap to clone, and to be used from any thread and under any
/// executor. The thread ends when the last handle is gone and no call made by one is still waited for.
#[derive(Clone)]
pub struct Remote {
    handle: Arc<Handle>,
}

/// Closes the queue when the last of its clones is gone.
struct Handle {
    queue: Arc<Queue>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Calls on their way to the background thread.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: VecDeque<Submitted>,
    /// Calls in the queue and in hand.
    open: usize,
    /// The background thread, where it waits for a call.
    waker: Option<Waker>,
    /// No handle is left.
    is_closed: bool,
    /// The background thread has ended.
    is_ended: bool,
}

struct Submitted {
    call: OwnedCall,
    reply: oneshot::Sender<Result<Reply, CallError>>,
}

impl Queue {
    fn push(&self, call: Submitted) -> Result<(), CallError> {
        let mut state = self.lock();
        if state.is_ended {
            return Err(CallError::NotApplied(NotApplied::Ended));
        }
        if state.open >= CALLS_MAX {
            return Err(CallError::NotApplied(NotApplied::TooManyCalls(TooManyCalls { calls: state.open })));
        }
        state.open += 1;
        state.calls.push_back(call);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The next call, `None` where there will be none any more.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Submitted>> {
        let mut state = self.lock();
        if let Some(call) = state.calls.pop_front() {
            return Poll::Ready(Some(call));
        }
        if state.is_closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a call as ended, however it ends.
struct Open(Arc<Queue>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

/// Refuses what is still in the queue, and all that comes later, however the background thread ends.
struct Ended(Arc<Queue>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_ended = true;
        let left = std::mem::take(&mut state.calls);
        drop(state);
        for call in left {
            let _ = call.reply.send(Err(CallError::NotApplied(NotApplied::Ended)));
        }
    }
}

impl Remote {
    /// A client of the cluster of these servers, written `10.0.0.1:8000,10.0.0.2:8000`, on a thread of its own. Nobody is
    /// asked yet, so the cluster need not be up.
    ///
    /// # Errors
    /// [`ConnectError`]: the text is wrong, or there is no thread or no network to be had.
    pub fn connect(servers: &str) -> Result<Remote, ConnectError> {
        Remote::connect_over(servers, kernel_sockets)
    }

    /// As [`Remote::connect`], over another port than the kernel's sockets. `open` makes it, on the background thread.
    ///
    /// # Errors
    /// As [`Remote::connect`]; what `open` says is in [`ConnectError::Start`].
    pub fn connect_over<P: Port + 'static, E: Display>(
        servers: &str,
        open: impl FnOnce() -> Result<P, E> + Send + 'static,
    ) -> Result<Remote, ConnectError> {
        let config = ClientConfig {
            replies: ReplyLimits { calls: TRIES_MAX, ..ReplyLimits::default() },
            socket: SocketOptions { rx_packets: TRIES_MAX, tx_packets: TRIES_MAX, ..SocketOptions::default() },
            ..ClientConfig::default()
        };
        Remote::start_over(parse_servers(servers)?, config, open)
    }

    /// As [`Remote::connect`], for addresses that are known and a client that is set up otherwise.
    ///
    /// # Errors
    /// [`ConnectError::Start`].
    pub fn start(servers: Vec<SocketAddrV4>, config: ClientConfig) -> Result<Remote, ConnectError> {
        Remote::start_over(servers, config, kernel_sockets)
    }

    /// As [`Remote::start`], over the port that `open` makes on the background thread.
    ///
    /// # Errors
    /// [`ConnectError::Start`].
    pub fn start_over<P: Port + 'static, E: Display>(
        servers: Vec<SocketAddrV4>,
        config: ClientConfig,
        open: impl FnOnce() -> Result<P, E> + Send + 'static,
    ) -> Result<Remote, ConnectError> {
        let queue = Arc::new(Queue::default());
        let (ready, wait) = sync_channel(1);
        let core = CoreConfig { name: "trimaran client".into(), ..CoreConfig::default() };
        let serving = Arc::clone(&queue);
        let main = move || serve(serving, servers, config, ready);
        let started = trimaran_runtime::start(core, move || Line::open(open), main);
        // The thread is left to itself: it ends with the handles.
        started.map_err(|error| ConnectError::Start(error.to_string()))?;
        match wait.recv() {
            Ok(Ok(())) => Ok(Remote { handle: Arc::new(Handle { queue }) }),
            Ok(Err(why)) => Err(ConnectError::Start(why)),
            Err(_) => Err(ConnectError::Start("its thread has ended".into())),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("calls", &self.handle.queue.lock().open).finish()
    }
}

impl Caller for Remote {
    type Reply = RemoteReply;

    fn submit(&self, call: OwnedCall) -> RemoteReply {
        let (reply, receiver) = oneshot::channel();
        let state = match self.handle.queue.push(Submitted { call, reply }) {
            Ok(()) => ReplyState::Waiting(receiver),
            Err(error) => ReplyState::Refused(error),
        };
        RemoteReply { state, _thread: self.clone() }
    }
}

/// A call on its way through the background thread. Dropped, it is given up.
#[must_use = "futures do nothing unless awaited"]
pub struct RemoteReply {
    state: ReplyState,
    /// It must live until there is an answer.
    _thread: Remote,
}

enum ReplyState {
    Waiting(oneshot::Receiver<Result<Reply, CallError>>),
    Refused(CallError),
}

impl Future for RemoteReply {
    type Output = Result<Reply, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            ReplyState::Refused(error) => Poll::Ready(Err(*error)),
            // Without an answer the thread has ended in the midst of the call, by a panic.
            ReplyState::Waiting(receiver) => {
                Pin::new(receiver).poll(cx).map(|end| end.unwrap_or(Err(CallError::Unknown { call_id: None })))
            }
        }
    }
}

impl fmt::Debug for RemoteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteReply").finish_non_exhaustive()
    }
}

impl<K: Kind, T: DeserializeOwned, E> Call<Remote, K, T, E> {
    /// Makes the call and blocks this thread until it ends: for threads that run no executor. In a task, `.await` it: this
    /// would hold up all the others.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn wait(self) -> Result<T, CallError<E>> {
        block_on(self.into_future())
    }
}

impl<K: Kind, T: DeserializeOwned, E> IndexedCall<Remote, K, T, E> {
    /// As [`Call::wait`].
    ///
    /// # Errors
    /// [`CallError`].
    pub fn wait(self) -> Result<Indexed<T>, CallError<E>> {
        block_on(self.into_future())
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(end) => return end,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    // Driver and main task are made by two closures on the new thread, and the handle must go from one to the other.
    static NET: RefCell<Result<Option<Net>, String>> = const { RefCell::new(Ok(None)) };
}

/// The main task of the background thread.
async fn serve(
    queue: Arc<Queue>,
    servers: Vec<SocketAddrV4>,
    config: ClientConfig,
    ready: SyncSender<Result<(), String>>,
) {
    let _ended = Ended(Arc::clone(&queue));
    let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let opened = match NET.replace(Ok(None)) {
        Ok(Some(net)) => Client::new(&net, local, servers, config).map_err(|error| error.to_string()),
        Ok(None) => Err("its network is in use".into()),
        Err(why) => Err(why),
    };
    let client = match opened {
        Ok(client) => client,
        Err(why) => return drop(ready.send(Err(why))),
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    while let Some(Submitted { call, mut reply }) = poll_fn(|cx| queue.poll_next(cx)).await {
        let (client, open) = (client.clone(), Open(Arc::clone(&queue)));
        spawn(async move {
            let _open = open;
            let end = match select(pin!(client.call_owned(&call)), reply.cancellation()).await {
                Either::Left((end, _)) => end,
                Either::Right(_) => return,
            };
            // Whoever asked may have gone.
            let _ = reply.send(end);
        })
        .detach();
    }
}

/// The driver of the background thread, which must be there even where there is no network.
struct Line<P: Port>(Option<NetDriver<P>>);

fn kernel_sockets() -> Result<UdpPort, NetError> {
    UdpPort::new(UdpConfig::default())
}

impl<P: Port + 'static> Line<P> {
    fn open<E: Display>(open: impl FnOnce() -> Result<P, E>) -> Line<P> {
        match open() {
            Ok(port) => {
                let (driver, net) = NetDriver::new(port, NetConfig::default());
                NET.set(Ok(Some(net)));
                Line(Some(driver))
            }
            Err(error) => {
                NET.set(Err(error.to_string()));
                Line(None)
            }
        }
    }
}

impl<P: Port> Driver for Line<P> {
    fn start(&mut self) {
        if let Some(driver) = &mut self.0 {
            driver.start();
        }
    }

    fn poll(&mut self, now: Instant, budget: usize) -> Polled {
        self.0.as_mut().map(|driver| driver.poll(now, budget)).unwrap_or_default()
    }

    fn flush(&mut self, now: Instant) -> Flushed {
        self.0.as_mut().map(|driver| driver.flush(now)).unwrap_or_default()
    }

    fn park(&mut self, timeout: Option<Duration>, wake: Option<BorrowedFd<'_>>) {
        if let Some(driver) = &mut self.0 {
            driver.park(timeout, wake);
        }
    }
}
