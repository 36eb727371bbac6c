//! The multi-process server cluster for one machine.
#![deny(unsafe_code)]

mod address;
mod channel;
mod cluster;
mod error;
mod event;
mod fan;
#[cfg(feature = "http")]
pub mod http;
mod message;
mod policy;
mod primary;
mod settings;
mod signals;
mod socket;
mod sys;
mod worker;

/// The environment variable in which `phalanx run --listen` tells workers where to listen.
pub const LISTEN_VARIABLE: &str = "PHALANX_LISTEN";

pub use address::Address;
pub use cluster::{Cluster, cores};
pub use error::{Error, Result};
pub use event::{Event, Events};
pub use message::{Handle, Message};
pub use policy::{Balance, Policy};
pub use primary::{Options, Primary, Reloaded, Status, WorkerHandle, WorkerState, WorkerStatus};
pub use settings::{Settings, Stdio};
pub use worker::{IntoAddress, ListenOptions, Listener, Messages, Stream, TcpListener, UnixListener, Worker, is_primary, is_worker};
pub use phalanx_core as core;
pub use phalanx_core::report::Report;
pub use phalanx_core::restart::Restart;
pub use phalanx_core::spec::{MAX_WORKERS, ReadyWhen, Spec};
pub use phalanx_core::worker::{Exit, SlotId, WorkerId};
pub use rustix::process::Signal;
