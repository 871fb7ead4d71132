// A service and a file of this crate.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(Default, State)]
struct Kv {
    map: BTreeMap<String, u64>,
}

trimaran_rpc::check_schema!();
trimaran_rpc::check_schema!("schema/kv.txt");
trimaran_rpc::check_schema!(Kv, schema);
trimaran_rpc::check_schema!(Kv, "../kv.txt");

fn main() {}
