//! Programs that do odd, wrong and hostile things with sockets, while their binds are intercepted.
//!
//! Nearly all of them are scripts for `hostile/hostile.c`, which says what came of each step. What it
//! says as a worker is compared with what it says alone: no program is to see a difference.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "intercept/hostile.rs"]
mod hostile;

#[path = "intercept/processes.rs"]
mod processes;
#[path = "intercept/sockets.rs"]
mod sockets;
#[path = "intercept/surroundings.rs"]
mod surroundings;
#[path = "intercept/survival.rs"]
mod survival;
#[path = "intercept/wrong.rs"]
mod wrong;
