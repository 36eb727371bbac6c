//! What the tests of the cluster share: a load generator that accounts for every client error,
//! facts about processes from `/proc`, guarded child processes, and waiting for a state.
//!
//! Nothing here ever addresses another machine, and every run is bounded.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod load;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(unix)]
pub mod spawned;
pub mod wait;
