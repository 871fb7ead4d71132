//! Backups over the client port, slice by slice: the node's side and the tool's.

use super::{Admin, MethodCall, Policy, Request, method_key};
use crate::apply::Job;
use crate::backup::{Backup, BackupHeader, SliceRequest, read_slice};
use crate::client::{CallError, Client, NotApplied};
use crate::r2p2::block::Refusal;
use crate::service::Answer;
use std::net::SocketAddrV4;
use std::time::Duration;
use trimaran_runtime::channel::oneshot;

/// The call's name.
pub(super) const BACKUP: &str = "trimaran.backup/1";
/// Tries of one slice.
const TRIES: u32 = 5;

impl Admin {
    /// Answers with a slice; the first of a backup makes it.
    pub(super) async fn backup(&self, request: &Request) {
        let Ok(SliceRequest { mut id, offset }) = serde_json::from_slice(request.body.bytes()) else {
            return self.node.refuse(request, Refusal::BadArguments);
        };
        if id == 0 {
            let (to, taken) = oneshot();
            let taken = match self.node.jobs.push(Job::Backup(to)) {
                Ok(()) => taken.await.ok().flatten(),
                Err(_) => None,
            };
            let Some(state) = taken else { return self.node.refuse(request, Refusal::Busy) };
            let cluster = self.node.shard.status().cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
            let header = BackupHeader {
                service: state.service.to_owned(),
                name: self.name.clone(),
                cluster,
                slot: self.me.id.slot.0,
                index: state.index.0,
                term: state.term.0,
                log_time: state.log_time,
                digest: state.digest,
            };
            id = self.kept.borrow_mut().put(Backup { header, state: state.bytes }.encode());
        }
        let slice = self.kept.borrow_mut().slice(id, offset);
        match slice {
            Some(slice) => self.node.answer(request, self.node.shard.status().applied, Answer::Ok, &slice),
            None => self.node.refuse(request, Refusal::Unspecified),
        }
    }
}

/// Takes a whole backup of one node.
///
/// # Errors
/// As calls; a backup that was replaced by somebody else's meanwhile is [`CallError::NotApplied`].
pub async fn backup(client: &Client, node: SocketAddrV4, within: Duration) -> Result<Vec<u8>, CallError> {
    let mut whole = Vec::new();
    let (mut id, mut total) = (0, u64::MAX);
    while (whole.len() as u64) < total {
        let slice = slice(client, node, SliceRequest { id, offset: whole.len() as u64 }, within).await?;
        let nonsense = || CallError::NotApplied(NotApplied::Refused(Refusal::Unspecified));
        let (of, length, bytes) = read_slice(&slice).ok_or_else(nonsense)?;
        if bytes.is_empty() || (id != 0 && of != id) {
            return Err(nonsense());
        }
        (id, total) = (of, length);
        whole.extend_from_slice(bytes);
    }
    Ok(whole)
}

async fn slice(
    client: &Client,
    node: SocketAddrV4,
    request: SliceRequest,
    within: Duration,
) -> Result<Vec<u8>, CallError> {
    let body = serde_json::to_vec(&request).unwrap_or_default();
    let mut tries = 0;
    loop {
        tries += 1;
        let call = MethodCall {
            method: method_key(BACKUP),
            policy: Policy::FixedRoute,
            shard: 0,
            body: &body,
            server: Some(node),
        };
        match client.call(call, within).await {
            Ok(reply) => return Ok(reply.body),
            Err(CallError::Unknown { .. }) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}
