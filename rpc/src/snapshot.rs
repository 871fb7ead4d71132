//! A replica's whole state as one run of bytes, for a peer that needs what the log no longer holds.
//!
//! Magic and format, the version of the service's state, the service's state, then what the framework keeps: timers,
//! outbox, sessions. Place in the log, log time, digest and configuration travel beside it, in Raft's trailer, with the hash
//! of all.

use crate::apply::Halt;
use crate::log_time::LogTime;
use crate::replica::{Contents, Replica};
use crate::service::Service;
use crate::state::{Reader, StateError, Turns, Writer};
use std::rc::Rc;
use std::time::Duration;
use trimaran_raft::{ReceivedSnapshot, Snapshot};
use trimaran_runtime::{Lane, sleep, spawn_in};

/// What every snapshot begins with.
const MAGIC: [u8; 8] = *b"trimaran";
/// The form of what follows.
const FORMAT: u32 = 1;

/// What is freed in one go: it takes some tens of microseconds.
const SMALL_BYTES: usize = 1 << 20;
/// Between two looks whether anybody still holds the bytes of a snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How the writing of a state has ended.
pub(crate) enum Taken {
    Whole(Snapshot),
    /// It has more bytes than are allowed, of which no more were written.
    TooLarge,
    /// It has no form.
    Unsaved,
}

/// Writes the state after the newest applied entry, a slice at a time, as far as `limit_bytes`. Nothing is applied here meanwhile.
pub(crate) async fn take<S: Service>(replica: &Replica<S>, limit_bytes: u64) -> Taken {
    let (mut writer, fullness) = Writer::bytes_up_to(limit_bytes);
    let save = async {
        writer.item(&MAGIC).await;
        writer.item(&(FORMAT, S::VERSION)).await;
        replica.save(&mut writer).await;
    };
    if fullness.unless_full(save).await.is_none() {
        return Taken::TooLarge;
    }
    match writer.into_bytes() {
        Ok(bytes) => {
            let (index, log_time) = (replica.cx.index, replica.cx.now.as_nanos());
            Taken::Whole(Snapshot { index, log_time, bytes: Rc::new(bytes) })
        }
        Err(error) => {
            tracing::error!(%error, "the state cannot be saved: peers that need it stay out");
            Taken::Unsaved
        }
    }
}

/// Sees to it that bytes which others hold, too (Raft for a peer, the log device until they last), are freed a slice at a time: whoever let
/// go of them last would free a gigabyte in one go, which takes some 70 ms.
pub(crate) fn give_back(bytes: Rc<Vec<u8>>) {
    if bytes.len() <= SMALL_BYTES {
        return;
    }
    let give_back = async {
        let mut held = bytes;
        loop {
            match Rc::try_unwrap(held) {
                Ok(bytes) => return Turns::new().drop_vec(bytes).await,
                Err(shared) => held = shared,
            }
            sleep(LOOK_EVERY).await;
        }
    };
    spawn_in(Lane::Normal, "snapshot freed", give_back).detach();
}

/// Takes on a received state and its place in the log, and returns the state before it. On an error nothing has changed.
pub(crate) async fn install<S: Service>(
    replica: &mut Replica<S>,
    snapshot: &ReceivedSnapshot,
) -> Result<Contents<S>, Box<Halt>> {
    let halt = |error: StateError| {
        Box::new(Halt {
            code: Halt::BAD_SNAPSHOT.into(),
            index: snapshot.index.0,
            method: 0,
            request_hash: 0,
            message: format!("the state that another replica sent cannot be read: {error}"),
        })
    };
    let former = read(replica, &snapshot.bytes).await.map_err(halt)?;
    replica.cx.index = snapshot.index;
    replica.cx.term = snapshot.term;
    replica.cx.now = LogTime::from_nanos(snapshot.log_time);
    replica.chain = snapshot.digest;
    Ok(former)
}

async fn read<S: Service>(replica: &mut Replica<S>, bytes: &[u8]) -> Result<Contents<S>, StateError> {
    let mut reader = Reader::new(bytes);
    let magic: [u8; 8] = reader.item().await?;
    let (format, version): (u32, u32) = reader.item().await?;
    if magic != MAGIC || format != FORMAT {
        return Err(StateError::Invalid(format!("format {format} is not known; this build reads {FORMAT}")));
    }
    replica.load(version, reader).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use trimaran_net::{NetConfig, NetDriver, SimNet};
    use trimaran_runtime::sim::World;

    /// Others let go of them without freeing them; they are freed soon after.
    #[test]
    fn what_others_hold_is_freed_here() {
        let (mut world, wire) = (World::new(1), SimNet::new(1));
        let (driver, _net) = NetDriver::new(wire.port(Ipv4Addr::new(10, 0, 0, 1)), NetConfig::default());
        let core = world.add_core("node", driver);
        let bytes = Rc::new(vec![7; 4 * SMALL_BYTES]);
        let held = Rc::downgrade(&bytes);
        world.enter(core, || give_back(bytes.clone()));
        world.run_for(10 * LOOK_EVERY);
        assert_eq!(held.strong_count(), 2);
        drop(bytes);
        assert_eq!(held.strong_count(), 1, "not in one go");
        world.run_for(10 * LOOK_EVERY);
        assert_eq!(held.strong_count(), 0);
    }
}
