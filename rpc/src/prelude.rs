//! What the source of a service begins with: `use trimaran_rpc::prelude::*;`

pub use crate::client::{CallError, Consistency};
pub use crate::log_time::LogTime;
pub use crate::service::{Cx, LocalCx, ReadCx, Service};
pub use crate::state::State;
pub use serde::{Deserialize, Serialize};
pub use std::collections::{BTreeMap, BTreeSet};
pub use std::process::ExitCode;
pub use std::time::Duration;
pub use trimaran_macros::{State, data, effect, local, read, replicated, service, timer};
