//! pm2's commands that are no commands here: what has a counterpart does it, the others name it.

use super::Reload;
use clap::{Args, Subcommand};
use std::ffi::OsString;

#[derive(Debug, Subcommand)]
pub(crate) enum Pm2 {
    /// `list --watch`
    #[command(hide = true, aliases = ["dashboard", "dash", "imonit"])]
    Monit(Words),
    /// `list --json`, with pm2's keys
    #[command(hide = true, alias = "prettylist")]
    Jlist(Words),
    /// `stop all`
    #[command(hide = true)]
    Kill(Words),
    /// `restart`, and `start` for what does not run
    #[command(hide = true, name = "startOrRestart", aliases = ["startorrestart", "start-or-restart"])]
    StartOrRestart(Reload),
    /// `reload`, and `start` for what does not run
    #[command(hide = true, name = "startOrReload", aliases = ["startOrGracefulReload", "startorreload", "startorgracefulreload", "start-or-reload"])]
    StartOrReload(Reload),
    /// `reload`
    #[command(hide = true, name = "gracefulReload", aliases = ["softReload", "gracefulreload"])]
    GracefulReload(Reload),
    /// `upgrade all`
    #[command(hide = true, name = "updatePM2", aliases = ["update", "updatepm2", "deepUpdate"])]
    Update(Words),
    /// `doctor`
    #[command(hide = true, aliases = ["slist", "sysinfos"])]
    Report(Words),
    /// pm2's modules
    #[command(hide = true, aliases = ["i", "module:install", "module:update", "module:generate", "uninstall", "module:uninstall", "package", "module:package", "publish", "module:publish", "generate", "install-otel", "uninstall-otel", "autoinstall"])]
    Install(Words),
    /// The settings of pm2's modules
    #[command(hide = true, aliases = ["get", "multiset", "unset", "conf", "config"])]
    Set(Words),
    /// pm2.io
    #[command(hide = true, aliases = ["unlink", "monitor", "unmonitor", "open", "plus", "register", "login", "logout", "link:stop"])]
    Link(Words),
    /// git
    #[command(hide = true, aliases = ["forward", "backward"])]
    Pull(Words),
    /// Actions
    #[command(hide = true)]
    Trigger(Words),
    /// A terminal to a worker
    #[command(hide = true)]
    Attach(Words),
    /// HTTP for the outside
    #[command(hide = true)]
    Web(Words),
    /// The snapshot
    #[command(hide = true)]
    Cleardump(Words),
    /// logrotate(8)
    #[command(hide = true)]
    Logrotate(Words),
    /// The inspector
    #[command(hide = true, aliases = ["profile:cpu", "profile:mem", "profile"])]
    Inspect(Words),
    /// Samples
    #[command(hide = true, alias = "examples")]
    Create(Words),
    /// The shell's completion
    #[command(hide = true)]
    Completion(Words),
}

/// Whatever follows.
#[derive(Args, Debug)]
pub(crate) struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}
