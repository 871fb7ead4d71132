//! The macros of trimaran-rpc, which re-exports all of them; use them from there.
//!
//! ```text
//!  #[service] impl Kv { .. }         service.rs
//!      options                         options.rs
//!      marks, signatures, arguments    service/{mark,method,argument}.rs
//!      what a handler may not name     service/scan.rs
//!      method keys                     service/key.rs
//!      impl Service for Kv             service/server.rs
//!      KvClient, KvCalls, ..           service/client.rs
//!  #[derive(State)] struct Kv        state.rs
//!  #[data] struct Entry              data.rs
//!  #[test(seeds = 200)] async fn     test.rs
//!  check_schema!(Kv, "kv.txt")       schema.rs
//! ```
//!
//! All mistakes of an item are reported at once, each at the user's tokens, each with a `help:` line (`mistakes.rs`). The
//! item itself is always emitted, so that one mistake does not become ten. Generated code names only items of
//! `::trimaran_rpc`, and its variables are out of the reach of the user's names.
#![forbid(unsafe_code)]

mod data;
mod mistakes;
mod options;
mod schema;
mod service;
mod state;
mod test;
mod types;

use proc_macro::TokenStream;
use service::Mark;

/// Makes a replicated service of the type's `impl` block.
///
/// ```ignore
/// use trimaran_rpc::prelude::*;
///
/// #[derive(Default, State)]
/// pub struct Kv {
///     map: BTreeMap<String, Vec<u8>>,
/// }
///
/// #[service]
/// impl Kv {
///     /// Stores `value` and returns how many keys there are.
///     #[replicated]
///     pub async fn put(&mut self, cx: &mut Cx, key: &str, value: &[u8]) -> u64 {
///         self.map.insert(key.to_owned(), value.to_vec());
///         self.map.len() as u64
///     }
///
///     #[read]
///     pub async fn get(&self, cx: &ReadCx, key: &str) -> Option<Vec<u8>> {
///         self.map.get(key).cloned()
///     }
///
///     /// Answered by the replica asked.
///     #[local]
///     pub async fn size(cx: &LocalCx<Self>) -> Result<u64, String> {
///         cx.with_state(|kv| kv.map.len() as u64).await.map_err(|error| error.to_string())
///     }
/// }
/// ```
///
/// Methods with a mark can be called; the others are helpers. A marked method is `async`, is not generic, takes its context
/// first, then up to 16 arguments that serde can serialize (`#[data]` makes it so), and returns `Result<T, E>`, with both types
/// written out, or a plain `T`. Arguments may be `&str`, `&[u8]` and `&T`; replies own what they hold.
///
/// | mark | shape | runs |
/// |---|---|---|
/// | `#[replicated]` | `&mut self, cx: &mut Cx, ..` | on every replica, in the order of the log |
/// | `#[read]` | `&self, cx: &ReadCx, ..` | on one replica, in one go: it cannot await |
/// | `#[local]` | `cx: &LocalCx<Self>, ..` | on the replica asked, beside the state |
/// | `#[timer]` | as `#[replicated]`, returns nothing | in the log, when a handler's `cx.set_timer` is due |
/// | `#[effect]` | as `#[local]`, returns nothing | on the leader, at least once, after `cx.after_commit` |
///
/// # Generated
/// * `impl Service for Kv`.
/// * `KvClient<C>`, with one function for each callable method: `client.put("a", b"1").await`.
/// * `KvCalls`, with the same calls as values of type `Request`.
/// * `KvTimers` and `KvEffects`, where there are such methods: `cx.set_timer(at, KvTimers::expire("a"))`.
///
/// Each function has the visibility of its method, and each type is visible wherever one of its functions is: a client for
/// other crates needs `pub` methods.
///
/// # Options
/// * `#[service(name = "kv")]`: the service's name, first part of the method keys; the type's name in snake case if not given.
/// * `#[service(raw)]`: requests that name no method go to the type's `RawHandler`.
/// * `#[replicated(rev = 2)]`, on every mark: to be raised when arguments or meaning change. The method key is made of the
///   service's name, the method's name and this number; adding, moving and removing methods changes no other key.
/// * `#[shard_key]` on an argument: it decides the shard; otherwise the first `&str` or `&[u8]` does.
///
/// # Errors
/// The bodies of `#[replicated]` and `#[timer]` methods are searched for clocks, randomness, threads, files, the environment,
/// sockets, hashed maps and other executors, each reported with what to use instead. Helpers are not searched.
#[proc_macro_attribute]
pub fn service(options: TokenStream, item: TokenStream) -> TokenStream {
    service::expand(options.into(), item.into()).into()
}

/// Marks a method of a `#[service]` that changes state: it runs on every replica, in the order of the log, once per call.
///
/// ```ignore
/// #[replicated]
/// async fn put(&mut self, cx: &mut Cx, key: &str, value: &[u8]) -> Result<u64, KvError> { .. }
/// ```
///
/// It may await `cx.yield_now()` and nothing else; the time is `cx.now()`, randomness is `cx.rng()`.
#[proc_macro_attribute]
pub fn replicated(_: TokenStream, item: TokenStream) -> TokenStream {
    service::expand_mark(Mark::Replicated, item.into()).into()
}

/// Marks a method of a `#[service]` that looks at state: on one replica, linearizable unless the caller asks for less.
///
/// ```ignore
/// #[read]
/// async fn get(&self, cx: &ReadCx, key: &str) -> Option<Vec<u8>> { .. }
/// ```
///
/// It runs in one go between two entries of the log, so it cannot await.
#[proc_macro_attribute]
pub fn read(_: TokenStream, item: TokenStream) -> TokenStream {
    service::expand_mark(Mark::Read, item.into()).into()
}

/// Marks a method of a `#[service]` that the replica asked answers by itself. It may await anything.
///
/// ```ignore
/// #[local]
/// async fn size(cx: &LocalCx<Self>) -> Result<usize, String> {
///     cx.with_state(|kv| kv.map.len()).await.map_err(|error| error.to_string())
/// }
/// ```
#[proc_macro_attribute]
pub fn local(_: TokenStream, item: TokenStream) -> TokenStream {
    service::expand_mark(Mark::Local, item.into()).into()
}

/// Marks a method of a `#[service]` that fires in the log, on every replica, when a timer is due.
///
/// ```ignore
/// #[timer]
/// async fn expire(&mut self, cx: &mut Cx, key: String) { self.map.remove(&key); }
///
/// // in a replicated method:
/// cx.set_timer(cx.now() + ttl, KvTimers::expire(key.to_owned()))?;
/// ```
///
/// Clients cannot call it.
#[proc_macro_attribute]
pub fn timer(_: TokenStream, item: TokenStream) -> TokenStream {
    service::expand_mark(Mark::Timer, item.into()).into()
}

/// Marks a method of a `#[service]` that acts on the world outside: on the leader only, at least once.
///
/// ```ignore
/// #[effect]
/// async fn mail(cx: &LocalCx<Self>, to: String, text: String) { .. }
///
/// // in a replicated method:
/// cx.after_commit(KvEffects::mail(to, text))?;
/// ```
///
/// Clients cannot call it.
#[proc_macro_attribute]
pub fn effect(_: TokenStream, item: TokenStream) -> TokenStream {
    service::expand_mark(Mark::Effect, item.into()).into()
}

/// Derives `State`: how the state of a service becomes a snapshot, and comes back from one.
///
/// ```ignore
/// #[derive(Default, State)]
/// #[state(version = 2, load_with = load_old)]
/// struct Kv {
///     map: BTreeMap<String, Entry>,
///     version: u64,
/// }
///
/// /// Reads what the build before wrote.
/// async fn load_old(version: u32, from: &mut Reader<'_>) -> Result<Kv, StateError> { .. }
/// ```
///
/// A struct is saved field by field, in order. Fields whose type is written as `BTreeMap`, `BTreeSet`, `Vec`, `VecDeque`,
/// `OrdMap`, `OrdSet` or `Vector` are saved element by element, so that a large state does not hold up the core; vectors of
/// bytes, like everything else, as one item. The bytes are the same either way. An enum is one item and needs serde's traits
/// (`#[data]`); the struct itself needs none. `discard`, which gives the memory back, goes through the same fields element by element.
///
/// # Options
/// * `version = N`, 1 if not given: raise it with each change of the form.
/// * `load_with = path`: reads other versions. Without it they are an error, and the replica keeps the state that it has.
///
/// # Errors
/// `HashMap` and `HashSet` fields: replicas compare the bytes of their states, and their order differs.
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(item: TokenStream) -> TokenStream {
    state::expand(item.into()).into()
}

/// Lets a struct or an enum travel in calls and stay in the state: derives serde's `Serialize` and `Deserialize`.
///
/// ```ignore
/// #[data]
/// #[derive(Debug, Clone, PartialEq)]
/// pub enum KvError {
///     Full { limit_bytes: u64 },
///     NoSuchKey(String),
/// }
/// ```
///
/// The crate needs no dependency on serde for it. Attributes such as `#[serde(default)]` work on fields and variants.
///
/// # Limits
/// A type may contain itself, in a `Box` or a collection. Values that nest more than 128 levels deep are refused where they are
/// read: as bad arguments, as a reply that cannot be decoded, and as a state that cannot be loaded. Each struct, tuple, enum,
/// option and collection is a level, and the list of a call's arguments is the first. Since they can be written, a handler
/// that wraps what it was given, or stores it inside of something else, must keep it below the limit by itself.
#[proc_macro_attribute]
pub fn data(options: TokenStream, item: TokenStream) -> TokenStream {
    data::expand(options.into(), item.into()).into()
}

/// A test that runs in the simulator, once for each seed.
///
/// ```ignore
/// #[trimaran_rpc::test(seeds = 200)]
/// async fn survives_a_dead_leader(sim: Sim<Kv>) {
///     sim.nodes(3).faults(Faults::crash_leader().every_ms(50));
///     let history = sim.clients(4).run(workload(2_000)).await;
///     history.check_linearizable();
/// }
/// ```
///
/// `seeds` is 100 if not given. A failure names its seed; `TRIMARAN_SEED=n cargo test survives` runs that one again.
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    test::expand(options.into(), item.into()).into()
}

/// A test that the methods of a service are those of a file, so that no change of the wire goes unnoticed.
///
/// ```ignore
/// trimaran_rpc::check_schema!(Kv, "schema/kv.txt");
/// ```
///
/// Expands to a `#[test]` that compares names, keys, marks, argument and return types, as written, with the file, whose
/// path is relative to the crate's manifest. `TRIMARAN_BLESS=1 cargo test schema` writes the file. Fields of structs
/// are not seen: a method whose types change inside needs another `rev` all the same.
#[proc_macro]
pub fn check_schema(input: TokenStream) -> TokenStream {
    schema::expand(input.into()).into()
}
