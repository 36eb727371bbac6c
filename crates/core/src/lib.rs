//! The decisions of phalanx: pure functions of state, event and time.
//!
//! Nothing in this crate reads a clock, opens a file, sends a byte or waits. It is `no_std`, so it
//! could not. The library `phalanx` tells it what happened and performs what it decides.
//!
//! * [`cluster`]: what is wanted against what is; restart, scale, reload, stop.
//! * [`steering`]: weights of slots to the kernel's program that dispatches connections.
//! * [`balance`]: which worker gets the next connection, where the primary accepts.
//! * [`limits`], [`scaling`], [`ends`]: who has too much, how many there should be, why one ended.
//! * [`keeper`]: what follows the end of a primary.
//! * [`rescue`]: whether a slot's queue stands still.
//! * [`heartbeat`]: whether a worker that is there is alive.
//! * [`wire`]: Node's channel protocol, bytes to frames and back.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod balance;
pub mod cluster;
pub mod drain;
pub mod ends;
pub mod heartbeat;
pub mod keeper;
pub mod limits;
pub mod notify;
pub mod report;
pub mod rescue;
pub mod restart;
pub mod scaling;
pub mod spec;
pub mod steering;
pub mod time;
pub mod wire;
pub mod worker;
