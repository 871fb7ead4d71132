//! A client's background thread ends with the last that needs it. In a program of its own, where it is the only one.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;
use trimaran_rpc::client::{Call, CallError, ClientConfig, NotApplied, Remote, Replicated, Request};

fn background_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "trimaran client").count()
}

#[test]
fn the_thread_ends_with_its_handles_and_their_calls() {
    // Bound, and never read: nobody answers.
    let silent = UdpSocket::bind("127.0.79.1:0").expect("a socket");
    let server: SocketAddrV4 = silent.local_addr().expect("an address").to_string().parse().expect("IPv4");
    let remote = Remote::start(vec![server], ClientConfig::default()).expect("a client");
    assert_eq!(background_threads(), 1);
    let other = remote.clone();
    drop(remote);
    let call: Call<_, Replicated, u64, ()> = Request::new(1, Vec::new(), None).on(other);
    // Only the call is left, and it needs the thread until it ends.
    let call = call.deadline(Duration::from_millis(50));
    let end = std::thread::scope(|scope| scope.spawn(|| call.wait()).join().expect("no panic"));
    assert_eq!(end, Err(CallError::NotApplied(NotApplied::NotTaken)));
    while background_threads() > 0 {
        std::thread::yield_now();
    }
}
