//! The multi-process server cluster for one machine: a *primary* forks *workers* that share their ports, the
//! kernel dispatches the connections, and a guard replaces every worker that ends.
//!
//! # A server on every core
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use phalanx::{Cluster, Worker};
//!
//! async fn serve(worker: Worker) -> phalanx::Result<()> {
//!     let app = Router::new().route("/", get(|| async { "hello" }));
//!     phalanx::http::serve(worker.listen(":8000").await?, app).await
//! }
//!
//! fn main() -> phalanx::Result<()> {
//!     Cluster::new().run(serve)
//! }
//! ```
//!
//! The program is started once and is the primary; it starts itself again as each worker, and the
//! environment tells which is which. Workers are guarded ([`Restart`]); SIGUSR2 replaces them one by
//! one without losing a request, SIGTERM lets them finish.
//!
//! [`Cluster`] is the short way; [`Primary`], [`WorkerHandle`] and [`Worker`] are the explicit one, for
//! programs that fork, watch and decide themselves.
//!
//! # How connections get to workers
//!
//! Per port, a [`Policy`]:
//!
//! * [`Policy::Direct`] (the default on Linux): every slot has a listening socket of its own with
//!   `SO_REUSEPORT`, and a small program in the kernel chooses one for each new connection. The primary
//!   is not in the data path. The sockets belong to the primary: what waits in the queue of a worker that
//!   dies is served by its replacement or, if others are free, by them; so is the queue of a worker that
//!   is stuck ([`Options::patience`]).
//! * [`Policy::RoundRobin`]: the primary accepts and hands each connection over. A worker that refuses it or
//!   dies before it took it loses it to another one.
//! * [`Policy::Shared`]: all workers accept from one socket.
//!
//! # Workers in Node
//!
//! [`Program`] makes [`Settings`] for a script: `Program::new("server.js").settings()?`. An unmodified Node (or Deno, or
//! Bun) program is then a worker like any other: it listens on the cluster's ports, its messages and handles are
//! [`Event::Message`]s, an exception it does not catch is an [`Event::Uncaught`], and [`WorkerHandle::metrics`] asks how it is. With
//! [`relay`], workers reach each other.
//!
//! # `node:cluster`, name by name
//!
//! | `node:cluster` | here | difference |
//! |---|---|---|
//! | `isPrimary`, `isMaster` | [`is_primary()`] | |
//! | `isWorker` | [`is_worker()`] | also checks that the channel is one: a worker's own children are not mistaken for workers |
//! | `setupPrimary(settings)`, `setupMaster` | [`Options::settings`] at the start, [`Primary::setup`] later | |
//! | `settings` | [`Primary::settings`] | |
//! | `settings.exec`, `args`, `cwd` | [`Settings::exec`], [`Settings::args`], [`Settings::cwd`] | `exec` is a program, by default this one; [`Program`] finds the one for a script |
//! | `settings.execArgv`, `inspectPort` | [`Settings::exec_args`], [`Settings::inspect`] | |
//! | `settings.windowsHide` | none | it is about Windows |
//! | `settings.silent`, `stdio` | [`Settings::stdio`], [`WorkerHandle::take_stdout`], [`WorkerHandle::take_stderr`] | a worker has no terminal input: it is in a process group of its own |
//! | `settings.uid`, `gid` | [`Settings::uid`], [`Settings::gid`] | by name, and more: [`Settings::permissions`] |
//! | `settings.serialization` | none | JSON |
//! | `schedulingPolicy`, `SCHED_RR`, `SCHED_NONE` | [`Options::policy`], [`Policy`]; per port [`ListenOptions::policy`] | `Direct` is new; `SCHED_RR` is `RoundRobin`, `SCHED_NONE` is `Shared` |
//! | `NODE_CLUSTER_SCHED_POLICY` | [`Policy::VARIABLE`] (`PHALANX_POLICY`), and Node's where that is not set | a wrong name is an error |
//! | `fork(env)` | [`Primary::fork`], [`Primary::fork_with`] | asynchronous; the guard's workers are forked by themselves |
//! | `workers` | [`Primary::status`] | |
//! | `worker` | [`Worker`] | the argument of [`Cluster::run`], or [`Worker::connect`] |
//! | `disconnect(cb)` | [`Primary::stop`] | returns when *all* workers are gone |
//! | event `setup` | [`Event::Setup`] | |
//! | event `fork` | [`Event::Fork`] | |
//! | event `online` | [`Event::Online`] | |
//! | event `listening(worker, address)` | [`Event::Listening`] | |
//! | event `message(worker, message, handle)` | [`Event::Message`] | the handle is taken with [`Message::take_handle`] |
//! | event `disconnect` | [`Event::Disconnect`] | |
//! | event `exit(worker, code, signal)` | [`Event::Exit`] | one [`Exit`]: a code or a signal; always after `disconnect` |
//! | event `error` | [`Event::Error`] | never ends the program |
//! | none | [`Event::Hung`] | a worker hangs or fails its checks: what was seen of it |
//! | none | [`Event::Report`], [`Event::Reloaded`] | what the guard did and why; what a reload came to |
//! | event `uncaughtExceptionMonitor` in the worker | [`Event::Uncaught`] | Node workers with the preload |
//! | `worker.id` | [`WorkerHandle::id`], [`Worker::id`] | and a slot, which a replacement takes over: [`WorkerHandle::slot`] |
//! | `worker.process.pid`, `.kill()` | [`WorkerHandle::pid`], [`WorkerHandle::kill`] | through a pidfd: never hits a stranger |
//! | `worker.send(message, handle, cb)` | [`WorkerHandle::send`], [`WorkerHandle::send_handle`]; [`Worker::send`], [`Worker::send_handle`] | returns when the kernel has it; waits instead of growing |
//! | | [`WorkerHandle::feed`], [`Worker::feed`], and `flush` | many small messages: what is fed is written together; a [`Message`] is passed on as it came |
//! | `worker.on('message')`, … | [`WorkerHandle::events`]; in the worker [`Worker::messages`] | what came before the first receiver is kept for it |
//! | `worker.kill(signal)`, `destroy` | [`WorkerHandle::kill`]; in the worker [`Worker::kill`] | |
//! | `worker.disconnect()` | [`WorkerHandle::disconnect`], [`Worker::disconnect`] | |
//! | `worker.isConnected()` | [`WorkerHandle::is_connected`], [`Worker::is_connected`] | |
//! | `worker.isDead()` | [`WorkerHandle::is_dead`] | and [`WorkerHandle::exited`] to wait for it |
//! | `worker.exitedAfterDisconnect` | [`WorkerHandle::exited_after_disconnect`], [`Worker::exited_after_disconnect`] | |
//! | event `disconnect` in the worker | [`Worker::draining`] (told to leave), [`Worker::disconnected`] (channel closed) | |
//! | `server.listen(port)`, `listen({port, backlog, ipv6Only, exclusive})` | [`Worker::listen`], [`Worker::listen_with`] | |
//! | `listen(path)`, `readableAll`, `writableAll` | [`Worker::listen_unix`], [`ListenOptions::mode`] | under every policy |
//! | `listen({fd})` | [`Worker::listen_fd`] | a listening socket that the primary was started with, nothing else |
//! | `dgram.bind()` | [`Worker::bind_udp`] | `direct` keeps a client with one worker |
//!
//! A worker of this crate speaks Node's own protocol, so each side also works with Node on the other.
//!
//! # Platforms
//!
//! Linux: everything. Other Unixes: no `Direct` (it means `RoundRobin`), no rescue, and a thread per worker
//! waits for its end. Windows: no.
#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!("phalanx needs Unix: descriptors that travel, signals, fork and exec");

mod address;
mod channel;
mod cluster;
pub mod control;
mod error;
mod event;
mod fan;
#[cfg(feature = "http")]
pub mod http;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(not(target_os = "linux"))]
#[path = "keeper/none.rs"]
mod keeper;
mod message;
mod permissions;
mod policy;
mod primary;
mod program;
mod relay;
mod settings;
mod signals;
mod socket;
mod sys;
mod worker;

/// The environment variable in which `phalanx run --listen` tells workers where to listen.
pub const LISTEN_VARIABLE: &str = "PHALANX_LISTEN";

/// Finds out where this process comes from: to be called first in `main`, before any thread is started, by programs that
/// do more in their primaries than to run a [`Cluster`] at once. A process that became this program, or was started by
/// a keeper, takes over what it was left. `keeper`: if it was neither, it becomes a keeper itself
/// ([`Cluster::keeper`]). Returns in primaries (and workers) only. Linux; elsewhere it does nothing.
///
/// ```no_run
/// fn main() -> phalanx::Result<()> {
///     phalanx::keep(true)?;
///     // Logs, threads, …
///     phalanx::Cluster::new().run(|_worker| async { Ok::<(), phalanx::Error>(()) })
/// }
/// ```
///
/// # Errors
/// This process has threads already, or what it was left cannot be taken.
pub fn keep(keeper: bool) -> Result<()> {
    if is_worker() { Ok(()) } else { keeper::begin(keeper) }
}

/// Whether this process was started by [`Primary::upgrade`] only to find out whether it could take over: it ends where its
/// primary would begin. A program asks before it changes anything that others see (files, locks, sockets).
#[must_use]
pub fn rehearses() -> bool {
    keeper::rehearses()
}

/// Whether there are workers of a primary before this one to be taken over. Their service goes on whatever happens to the
/// program that they were started from, so a primary should begin even if it cannot start others.
#[must_use]
pub fn takes_over() -> bool {
    keeper::has_left()
}

pub use address::Address;
pub use cluster::{Cluster, cores};
pub use error::{Error, Result};
pub use event::{Event, Events};
pub use message::{Handle, Message};
pub use permissions::{Account, Capability, Inherit, Landlock, Limit, Permissions};
pub use phalanx_core as core;
pub use phalanx_core::cluster::{Drained, Outcome, Receipt, ReloadPhase, ReloadStatus};
pub use phalanx_core::ends::{self, EndRecord};
pub use phalanx_core::heartbeat::Rules as Heartbeat;
pub use phalanx_core::limits::{self, Limits};
pub use phalanx_core::report::Report;
pub use phalanx_core::restart::Restart;
pub use phalanx_core::scaling::{self, Scaling};
pub use phalanx_core::spec::{Canary, MAX_WORKERS, ReadyWhen, ReloadRules, Share, Spec};
pub use phalanx_core::wire::{Metrics, Uncaught};
pub use phalanx_core::worker::{EndKind, Exit, Leave, SlotId, WorkerId};
pub use policy::{Balance, Policy};
pub use primary::{
    Check, Evidence, Health, HealthStatus, Options, Primary, Reloaded, Renew, Status, WorkerHandle,
    WorkerOutput, WorkerState, WorkerStatus,
};
pub use program::Program;
pub use relay::relay;
pub use rustix::process::Signal;
pub use settings::{Intercept, Knows, Settings, Stdio};
pub use worker::{
    IntoAddress, ListenOptions, Listener, Messages, Stream, TcpListener, UnixListener, Worker,
    is_primary, is_worker,
};

/// The Rust of `docs/practices.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/practices.md")]
mod practices {}
