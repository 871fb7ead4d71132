// Options that a state does not have.
#![allow(unused)]

use trimaran_rpc::prelude::*;

#[derive(State)]
#[state(version = 0, load_with = "old")]
struct A;

#[derive(State)]
#[state(verison = 2)]
struct B;

#[derive(State)]
#[state(version = 2)]
#[state(load_with = old)]
struct C;

fn main() {}
