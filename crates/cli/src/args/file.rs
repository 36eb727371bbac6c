//! Options about configuration files, and which of what they say.

use clap::Args;

#[derive(Args, Debug)]
#[command(next_help_heading = "Configuration files")]
pub(crate) struct FromFile {
    /// The environment of a configuration file: its `environments.NAME` and `env_NAME` are used
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Only these applications of a configuration file
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// One of several that `run FILE` starts: its standard input is a socket of theirs
    #[arg(long, hide = true)]
    pub(crate) member: bool,
}
