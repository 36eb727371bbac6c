//! Options about what becomes of the words of workers.

use clap::Args;

#[derive(Args, Debug)]
#[command(next_help_heading = "Logs")]
pub(crate) struct Logging {}
