//! `init`: forms a new, empty cluster, which nothing else ever does.

use crate::program::cli::Init;
use crate::program::config::Config;
use crate::program::connect::{self, Target};
use crate::program::error::Error;
use crate::program::say;

/// Forms a cluster of the members that a configuration lists, and prints its id.
///
/// # Errors
/// The configuration's (E02xx); a member that is silent, belongs to a cluster or refuses (E0302, E0304, E0312).
pub fn run(init: &Init) -> Result<(), Error> {
    let (config, _) = Config::load(&init.config)?;
    let addresses: Vec<_> = config.members.iter().map(|member| member.client).collect();
    let members = addresses.clone();
    let target = Target { port: init.port.plan()?, ..Target::new(addresses, init.deadline) };
    let cluster =
        connect::once(target, move |connection| async move { connection.init(&config.cluster, &members).await })?;
    say(&format!("formed cluster {cluster}\n"))
}
