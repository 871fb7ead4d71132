//! Follows the members of a cluster as they change, so that a client finds leaders that it was never told of.

use super::error::{CallError, NotApplied};
use super::exchange::{Shared, Tries, What};
use super::running::own_header;
use crate::admin::{MEMBERS, Members};
use crate::r2p2::{Policy, RequestBlock, ResponseBlock};
use crate::service::method_key;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_runtime::{Instant, now, sleep};

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
        shared.asks_members.set(true);
        let answer = ask(shared, node, now() + WITHIN).await;
        shared.asks_members.set(false);
        if let Some(members) = answer {
            let addresses = members.all().map(|member| (member.slot, member.client));
            shared.route.borrow_mut().set_members(addresses);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(shared: &Shared, node: SocketAddrV4, until: Instant) -> Option<Members> {
    let block = RequestBlock { method: method_key(MEMBERS), acked: shared.next_number(), ..RequestBlock::default() };
    let (echo, block) = (block.echo(), block.emit());
    let segments = shared.segmenter.own_request(block.len()).ok()?;
    let mut tries = Tries::new(shared);
    tries.send(node, own_header(Policy::FixedRoute), &segments, [&block, &[]], Some(echo)).ok()?;
    // Silence says nothing of the node that its other callers do not learn by themselves.
    let What::Answered(answer) = tries.event(until).await?.what else { return None };
    let (_, body) = ResponseBlock::parse(answer.bytes()).ok()?;
    serde_json::from_slice(body).ok()
}

/// The address of the member in this seat. Asks for the members where it is not known: whoever leads, then one server after the
/// other, at the pace of probes.
///
/// # Errors
/// There is no such seat, no member in it, or nobody has named the members by `deadline`.
pub(super) async fn find(shared: &Shared, slot: u8, deadline: Instant) -> Result<SocketAddrV4, CallError> {
    let mut asked = 0;
    loop {
        if let Some(address) = shared.route.borrow().member(slot) {
            return Ok(address);
        }
        let server = shared.route.borrow().server(asked);
        let Some(server) = server else { return Err(CallError::NotApplied(NotApplied::NoServers)) };
        asked += 1;
        let until = deadline.min(now() + WITHIN);
        let answer = ask(shared, server, until).await;
        let found = answer.as_ref().and_then(|members| members.all().find(|member| member.slot == slot));
        match (found.map(|member| member.client), answer) {
            (Some(address), Some(members)) => {
                let addresses = members.all().map(|member| (member.slot, member.client));
                shared.route.borrow_mut().set_members(addresses);
                return Ok(address);
            }
            // A node without a cluster names nobody.
            (_, Some(members)) if members.all().next().is_some() => {
                return Err(CallError::NotApplied(NotApplied::NoReplica(slot)));
            }
            _ if now() >= deadline => return Err(CallError::NotApplied(NotApplied::NotTaken)),
            (_, Some(_)) => drop(sleep(PAUSE.min(deadline.saturating_since(now()))).await),
            _ => {}
        }
    }
}
