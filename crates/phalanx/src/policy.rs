//! Scheduling policies, and the options of the ports they apply to.

use crate::error::{Error, Result};
use phalanx_core::balance::{LeastConnections, RoundRobin, Scheduler, Sticky};
use phalanx_core::steering;
use phalanx_core::worker::SlotId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How a port's connections get to its workers.
///
/// ```
/// use phalanx::Policy;
/// assert_eq!("round-robin".parse::<Policy>()?, Policy::RoundRobin);
/// assert!("fair".parse::<Policy>().is_err());
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Every worker has a listening socket of its own, and the kernel chooses one for each new
    /// connection. The primary has no part in it. TCP and UDP on Linux; elsewhere, and for unix
    /// sockets, it means [`Policy::RoundRobin`].
    Direct,
    /// The primary accepts and hands each connection to the next free worker, as
    /// `node:cluster`'s `SCHED_RR`. For UDP it means [`Policy::Shared`].
    RoundRobin,
    /// All workers accept from one socket, as `node:cluster`'s `SCHED_NONE`.
    Shared,
}

impl Default for Policy {
    fn default() -> Self {
        if cfg!(target_os = "linux") { Self::Direct } else { Self::RoundRobin }
    }
}

impl Policy {
    /// The environment variable that chooses the policy where the program does not: `direct`,
    /// `round-robin` or `shared`.
    pub const VARIABLE: &str = "PHALANX_POLICY";

    /// What the environment says: [`Policy::VARIABLE`], else Node's `NODE_CLUSTER_SCHED_POLICY` (`rr`
    /// or `none`), else the default.
    ///
    /// # Errors
    /// [`Error::Policy`] where [`Policy::VARIABLE`] names none.
    pub fn from_env() -> Result<Self> {
        if let Ok(name) = std::env::var(Self::VARIABLE) {
            return name.parse();
        }
        Ok(match std::env::var("NODE_CLUSTER_SCHED_POLICY").as_deref() {
            Ok("rr") => Self::RoundRobin,
            Ok("none") => Self::Shared,
            _ => Self::default(),
        })
    }

    /// Its name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::RoundRobin => "round-robin",
            Self::Shared => "shared",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "direct" => Ok(Self::Direct),
            "round-robin" | "rr" => Ok(Self::RoundRobin),
            "shared" | "none" => Ok(Self::Shared),
            other => Err(Error::Policy(crate::address::printable(other))),
        }
    }
}

/// Which worker gets a connection, under the policies where that is a choice.
///
/// In `direct` it is the kernel's steering, in `round-robin` (and in a rescue) a
/// [`Scheduler`](phalanx_core::balance::Scheduler).
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Balance {
    /// Evenly: at random by the kernel, one after the other by the primary.
    #[default]
    Even,
    /// The same source address, the same slot.
    Sticky,
    /// The fewest open connections (`round-robin`; in `direct`, evenly).
    LeastConnections,
    /// In `direct`, each slot's share; in `round-robin`, evenly.
    Weighted(Arc<dyn Fn(SlotId) -> u32 + Send + Sync>),
    /// In `round-robin`, a scheduler of one's own, made for each port; in `direct`, evenly.
    Custom(Arc<dyn Fn() -> Box<dyn Scheduler> + Send + Sync>),
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Even => "Even",
            Self::Sticky => "Sticky",
            Self::LeastConnections => "LeastConnections",
            Self::Weighted(_) => "Weighted",
            Self::Custom(_) => "Custom",
        })
    }
}

impl Balance {
    pub(crate) fn scheduler(&self) -> Box<dyn Scheduler> {
        match self {
            Self::Even | Self::Weighted(_) => Box::new(RoundRobin::default()),
            Self::Sticky => Box::new(Sticky::default()),
            Self::LeastConnections => Box::new(LeastConnections::default()),
            Self::Custom(make) => make(),
        }
    }

    pub(crate) fn mode(&self, udp: bool) -> steering::Mode {
        match self {
            Self::Sticky => steering::Mode::Source,
            _ if udp => steering::Mode::Flow,
            _ => steering::Mode::Random,
        }
    }

    pub(crate) fn weight(&self, slot: SlotId) -> u32 {
        match self {
            Self::Weighted(weight) => weight(slot),
            _ => 1,
        }
    }
}
