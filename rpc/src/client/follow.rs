//! Follows the members of a cluster as they change, so that a client finds leaders that it was never told of.

use super::MethodCall;
use super::exchange::Shared;
use super::running::{Naming, Repeat, Running};
use crate::admin::{MEMBERS, Members};
use crate::r2p2::Policy;
use crate::service::method_key;
use std::time::Duration;
use trimaran_runtime::{now, sleep};

/// Time for an answer.
const WITHIN: Duration = Duration::from_millis(200);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks for the members whenever a leader is named that is not known, or was silent. Runs as long as the client.
pub(super) async fn follow(shared: &Shared) {
    loop {
        let asked = shared.route.borrow_mut().take_ask_members();
        let Some(node) = asked else {
            shared.members_wanted.notified().await;
            continue;
        };
        if let Some(members) = ask(shared, node).await {
            let addresses = members.all().map(|member| (member.slot, member.client));
            shared.route.borrow_mut().set_members(addresses);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(shared: &Shared, node: std::net::SocketAddrV4) -> Option<Members> {
    let call =
        MethodCall { method: method_key(MEMBERS), policy: Policy::FixedRoute, shard: 0, body: &[], server: Some(node) };
    let running = Running::new(shared, call, Naming::Nothing, Repeat::Never, now() + WITHIN);
    let reply = running.ok()?.run().await.ok()?;
    serde_json::from_slice(&reply.body).ok()
}
