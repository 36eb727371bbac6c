//! Options about reloads that come by themselves: when files change, and at certain times.

use clap::Args;

#[derive(Args, Debug)]
#[command(next_help_heading = "Planned reloads")]
pub(crate) struct Planned {}
