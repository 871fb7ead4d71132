// What differs between replicas, each with what to use instead.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

#[service]
impl Kv {
    #[replicated]
    async fn put(&mut self, cx: &mut Cx) {
        let _ = std::time::Instant::now();
        let _ = std::time::SystemTime::now();
        std::thread::yield_now();
        let _ = std::env::var("HOME");
        let _ = std::fs::read("kv.toml");
        let _ = std::fs::File::open("kv.toml");
        let _ = std::collections::HashMap::<u64, u64>::new();
        let _: std::collections::HashSet<u64> = Default::default();
        let _ = std::net::UdpSocket::bind("0.0.0.0:0");
        let _ = std::process::id();
        static mut COUNT: u64 = 0;
        println!("printing is allowed");
    }

    #[timer]
    async fn expire(&mut self, cx: &mut Cx) {
        let _ = random();
        sleep().await;
    }
}

fn main() {}

fn random() -> u64 {
    4
}

async fn sleep() {}
