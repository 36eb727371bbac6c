//! The primary is killed, the keeper is, both are, and programs change under a load: workers serve on, and nothing is
//! lost or left.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "survival/kept.rs"]
mod kept;

#[path = "survival/adopted.rs"]
mod adopted;
#[path = "survival/kills.rs"]
mod kills;
#[path = "survival/lines.rs"]
mod lines;
#[path = "survival/moments.rs"]
mod moments;
#[path = "survival/stops.rs"]
mod stops;
#[path = "survival/told.rs"]
mod told;
#[path = "survival/upgrades.rs"]
mod upgrades;
