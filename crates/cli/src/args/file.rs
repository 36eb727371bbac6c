//! Options about configuration files, and which of what they say.

use clap::Args;

#[derive(Args, Debug)]
#[command(next_help_heading = "Configuration files")]
pub(crate) struct FromFile {
    /// The environment of a configuration file: its `env_NAME` and worker counts are used
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Only these applications of a configuration file
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}
