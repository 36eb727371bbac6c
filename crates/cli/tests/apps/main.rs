//! Applications as people write them, from the npm registry, unmodified, as workers: each answers
//! correctly on every worker, is reloaded under load without an error at any client, and stops
//! without a trace. One directory per application: its program, and the versions it uses.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod app;
mod clients;
mod frameworks;
mod http;
mod install;
mod pressure;
mod session;
mod sockets;
