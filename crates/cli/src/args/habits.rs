//! Options that people know from pm2, beyond those that are called the same here.

use clap::Args;

#[derive(Args, Debug)]
#[command(next_help_heading = "As pm2 has it")]
pub(crate) struct Habits {
    /// Take the environment of this shell, and of nothing before
    #[arg(short = 'a', long)]
    pub(crate) update_env: bool,
    /// Start it although one of that name runs: that one is deleted first
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only note what is to run, and do not start it
    #[arg(long)]
    pub(crate) no_autostart: bool,
}
