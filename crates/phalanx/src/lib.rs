//! The multi-process server cluster for one machine.
#![deny(unsafe_code)]

mod address;
mod channel;
mod error;
mod event;
mod message;
mod policy;
mod primary;
mod settings;
mod socket;
mod sys;

/// The environment variable in which `phalanx run --listen` tells workers where to listen.
pub const LISTEN_VARIABLE: &str = "PHALANX_LISTEN";

pub use address::Address;
pub use error::{Error, Result};
pub use event::{Event, Events};
pub use message::{Handle, Message};
pub use policy::{Balance, Policy};
pub use primary::{Options, Primary, Reloaded, Status, WorkerHandle, WorkerStatus};
pub use settings::{Settings, Stdio};
