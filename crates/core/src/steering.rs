//! Steering: turns the slots' weights into a classic BPF program that chooses a slot.
//!
//! The program is for the `reuseport` group of one port: `SO_ATTACH_REUSEPORT_CBPF` of Linux (4.5
//! or newer for UDP, 4.6 for TCP). The kernel runs it for each new connection (TCP) or each
//! datagram (UDP); what it returns is an index into the group, in the order in which the sockets
//! were bound (UDP) or began to listen (TCP). When a socket is closed, the group's last socket
//! moves to its place: whoever closes one gives `program` the shares in the new order.
//!
//! This module only *computes* the program: it opens and attaches nothing, knows no clock and no
//! worker, and gives the same program for the same input. Whether a slot may get something new is
//! its caller's decision, passed in as [`Share`].
//!
//! Sources: socket(7) `SO_ATTACH_REUSEPORT_CBPF`; linux/filter.h and `linux/bpf_common.h` (the
//! instructions); the kernel's net/core/filter.c `bpf_check_classic` (what is accepted) and
//! `net/core/sock_reuseport.c` (an index out of range falls back to the kernel's own hash).

mod assemble;
mod hash;
mod insn;
#[cfg(test)]
mod interpret;
#[cfg(test)]
mod tests;
mod weights;

use alloc::vec::Vec;
use core::fmt;

use assemble::{Assembler, Leaf, Target};
pub use insn::Insn;

/// How many slots [`program`] can steer to.
///
/// Two search trees of this size and the hash stay well below the kernel's limit of 4096
/// instructions (`BPF_MAXINSNS`).
///
/// ```
/// assert_eq!(phalanx_core::steering::MAX_SLOTS, 512);
/// ```
pub const MAX_SLOTS: usize = 512;

/// How the kernel chooses a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// At random by weight, for each connection. For UDP that is for each *datagram*: choose
    /// [`Mode::Flow`] where a client's datagrams belong together.
    #[default]
    Random,
    /// Sticky by source address, IPv4 and IPv6 (an IPv4 client of a dual-stack socket arrives as
    /// IPv4).
    Source,
    /// Sticky by source address *and* source port: one UDP flow stays with one worker.
    ///
    /// An IPv6 packet with extension headers is steered by its address alone.
    Flow,
}

/// What one slot gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The slot's nominal share, in proportion to the others' weights. 0 is nothing.
    pub weight: u32,
    /// Whether the slot may get something new now.
    pub up: bool,
}

/// Why there is no program for the shares given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SteeringError {
    /// There is not one slot.
    NoSlots,
    /// There are more than [`MAX_SLOTS`] slots.
    TooManySlots {
        /// How many were given.
        slots: usize,
    },
}

impl fmt::Display for SteeringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlots => {
                f.write_str("a port without slots cannot be steered: give it at least one worker")
            }
            Self::TooManySlots { slots } => write!(
                f,
                "{slots} slots on one port are more than the kernel's steering can tell apart: \
                 use at most {MAX_SLOTS} workers"
            ),
        }
    }
}

impl core::error::Error for SteeringError {}

/// The program that puts new connections in slots by `mode` and `shares`.
///
/// What it returns is an index into `shares`, which must be in the order of the reuseport group.
///
/// - A slot of weight 0 gets nothing, and one that is not `up` gets nothing, as long as another
///   slot has a weight and is up.
/// - When no slot with a weight is up, all of them are used: connections wait in their queues for
///   the next worker. When all weights are 0, all are taken as 1.
/// - [`Mode::Source`] and [`Mode::Flow`] give each client a home slot by the *weights* alone. As
///   long as its home is not up a client is sent to another slot; the clients of other slots stay
///   where they are, and it returns when its home is up again. (Where a client goes meanwhile can
///   change each time another slot goes down or comes up.) A changed weight or number of slots
///   moves clients.
/// - Weights may be any `u32`, none is too large: they are divided by what they have in common,
///   and when their sum is above 2^20 scaled to that (a slot with a weight never falls to
///   nothing). So each slot's share is right to about 0.03 % of itself, and one part in a million
///   of the whole.
/// - The hash has no secret, and is the same on every machine: a client that can choose its
///   address or port can choose its slot.
///
/// ```
/// use phalanx_core::steering::{Mode, Share, program};
///
/// // Three equal slots: ld random; mod 3; ret.
/// let equal = [Share { weight: 1, up: true }; 3];
/// assert_eq!(program(Mode::Random, &equal)?.len(), 3);
///
/// // A canary in the last slot gets 5 % of the clients, each of whom stays where it is.
/// let weight = |weight| Share { weight, up: true };
/// let canary = program(Mode::Source, &[weight(95), weight(95), weight(10)])?;
/// assert!(canary.len() < 100);
/// # Ok::<(), phalanx_core::steering::SteeringError>(())
/// ```
pub fn program(mode: Mode, shares: &[Share]) -> Result<Vec<Insn>, SteeringError> {
    if shares.is_empty() {
        return Err(SteeringError::NoSlots);
    }
    if shares.len() > MAX_SLOTS {
        return Err(SteeringError::TooManySlots { slots: shares.len() });
    }
    let nominal = weights::nominal(shares);
    let effective = weights::effective(&nominal);

    // Back to front: see `Assembler`.
    let mut asm = Assembler::default();
    if let [only] = effective[..] {
        asm.block(&[Insn::ret(only.slot)]);
        return Ok(asm.finish());
    }
    let leaf_of = |part: &weights::Part| Leaf { weight: part.weight, to: Target::Slot(part.slot) };
    let here: Vec<Leaf> = weights::reduce(&effective).iter().map(leaf_of).collect();
    if mode == Mode::Random {
        asm.choose(&here);
        asm.block(&[Insn::ld_random()]);
        return Ok(asm.finish());
    }

    if effective.len() < nominal.len() {
        // Those whose home is not up choose again, with another hash, among the slots that are.
        asm.choose(&here);
        asm.block(&hash::again());
        let again = Target::Label(asm.label());
        let homes: Vec<Leaf> = weights::reduce(&nominal)
            .iter()
            .map(
                |part| {
                    if part.up { leaf_of(part) } else { Leaf { weight: part.weight, to: again } }
                },
            )
            .collect();
        asm.choose(&homes);
        asm.block(&hash::keep());
    } else {
        asm.choose(&here);
    }
    hash::of_packet(&mut asm, mode == Mode::Flow);
    Ok(asm.finish())
}
