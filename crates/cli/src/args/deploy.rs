//! The command line of `deploy`.

use clap::Args;

#[derive(Args, Debug)]
#[command(override_usage = "phalanx deploy [OPTIONS] [FILE] ENV [COMMAND]")]
pub(crate) struct Deploy {
    /// A configuration file (else the one of this directory), a key below its `deploy`, and what to do: setup, update (or
    /// nothing), revert [N], current, previous, list, exec 'COMMAND', ref REF, or a branch, a tag or a commit
    #[arg(value_name = "WORDS", required = true)]
    pub(crate) words: Vec<String>,
    /// The command of `exec`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    /// `update` only: although what is here is not committed, or not pushed
    #[arg(short, long)]
    pub(crate) force: bool,
}
