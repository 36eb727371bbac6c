//! What is done to an application under load.

use crate::common::LONG;
use crate::support::Tool;
use bench::wait;
use serde_json::Value;
use std::fmt;
use std::fs;

/// In the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    Reload,
    ScaleUp,
    ScaleDown,
    Cron,
    Watch,
    Upgrade,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reload => "reload",
            Self::ScaleUp => "scale +2",
            Self::ScaleDown => "scale -2",
            Self::Cron => "cron",
            Self::Watch => "watch",
            Self::Upgrade => "upgrade",
        })
    }
}

impl Deed {
    pub(crate) const ALL: [Self; 6] =
        [Self::Reload, Self::ScaleUp, Self::ScaleDown, Self::Cron, Self::Watch, Self::Upgrade];

    /// Does it to an application with four workers, which has four afterwards; or waits until it comes by itself.
    pub(crate) fn be_done(self, tool: &Tool, app: &str) {
        match self {
            Self::Reload => drop(tool.run(&["reload", app]).expect(0, &["4 workers replaced"])),
            Self::ScaleUp => {
                tool.run(&["scale", app, "+2"]).expect(0, &[]);
                assert_eq!(tool.workers(app).len(), 6);
            }
            Self::ScaleDown => {
                tool.run(&["scale", app, "-2"]).expect(0, &[]);
                assert_eq!(tool.workers(app).len(), 4);
                // Until those that leave are gone.
                until(tool, app, "four workers", |about| {
                    about["workers"].as_array().is_some_and(|workers| workers.len() == 4)
                });
            }
            Self::Cron => after_reloads(tool, app, 2, || ()),
            Self::Watch => after_reloads(tool, app, 1, || {
                let script = tool.directory().join("server.js");
                let text = fs::read_to_string(&script).unwrap();
                fs::write(script, text + "// Another line.\n").unwrap();
            }),
            Self::Upgrade => {
                let workers = tool.workers(app);
                tool.run(&["upgrade", app]).expect(0, &["has taken over"]);
                assert_eq!(tool.workers(app), workers);
            }
        }
    }
}

fn generation(about: &Value) -> u64 {
    about["reload"]["generation"].as_u64().unwrap()
}

/// Waits until so many reloads are done since what is done.
fn after_reloads(tool: &Tool, app: &str, count: u64, deed: impl FnOnce()) {
    let before = tool.about(app);
    let running = u64::from(before["reload"]["state"] == "running");
    let until_then = generation(&before) + running + count;
    deed();
    until(tool, app, "the reloads to be done", |about| {
        assert_ne!(about["reload"]["state"], "failed", "{about:#}");
        let at = generation(about);
        at > until_then || (at == until_then && about["reload"]["state"] == "done")
    });
}

fn until(tool: &Tool, app: &str, what: &str, accept: impl Fn(&Value) -> bool) {
    wait::until(LONG, what, || accept(&tool.about(app)).then_some(()))
        .unwrap_or_else(|error| panic!("{app}: {error}: {:#}", tool.about(app)));
}
