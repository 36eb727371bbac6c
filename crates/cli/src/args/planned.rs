//! Options about reloads that come by themselves: when files change, and at certain times.

use super::time;
use crate::planned::cron::Pattern;
use clap::Args;
use std::ffi::OsString;
use std::time::Duration;

/// A number up to this is of seconds, as pm2's users type it; above, of milliseconds, as they write it in files.
const MOST_SECONDS: u64 = 60;

#[derive(Args, Debug)]
#[command(next_help_heading = "Planned reloads")]
pub(crate) struct Planned {
    /// Reload when a file changes there: files and directories, the working directory without any. What .gitignore names,
    /// dot files and `node_modules` do not count
    #[arg(long, value_name = "PATH,…", num_args = 0..=1, default_missing_value = "")]
    watch: Vec<String>,
    /// What does not count beside that: patterns as in .gitignore; `!PATTERN` counts all the same
    #[arg(long, value_name = "PATTERN,…", allow_hyphen_values = true, requires = "watch")]
    ignore_watch: Vec<String>,
    /// How long nothing must have changed any more; after ten times as long the reload comes in any case
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = delay, requires = "watch")]
    watch_delay: Duration,
    /// Only files with these extensions count
    #[arg(long, value_name = "EXT,…", value_delimiter = ',', requires = "watch")]
    ext: Vec<String>,
    /// Reload at these times, local ones: minute, hour, day of the month, month, day of the week, with seconds before them
    /// if there are six; off: not at all. May be given several times
    #[arg(short = 'c', long, visible_alias = "cron-restart", value_name = "PATTERN|off", value_parser = Pattern::read)]
    cron: Vec<Pattern>,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Nothing: the usual directory.
    pub(crate) paths: Vec<String>,
    pub(crate) ignore: Vec<String>,
    pub(crate) extensions: Vec<String>,
    pub(crate) delay: Duration,
}

impl Planned {
    /// The program, if it stands where a path to watch may: `--watch server.js`. It is no path then.
    pub(crate) fn take_program(
        &mut self,
        program: &[OsString],
        args: &[OsString],
    ) -> Option<OsString> {
        let options_only = args.first().is_none_or(|arg| arg.as_encoded_bytes().starts_with(b"-"));
        if !program.is_empty() || !options_only {
            return None;
        }
        let last = self.watch.last_mut().filter(|path| !path.is_empty())?;
        Some(std::mem::take(last).into())
    }

    /// What is watched.
    pub(crate) fn watch(&self) -> Option<Watch> {
        if self.watch.is_empty() {
            return None;
        }
        let paths = self.watch.iter().flat_map(|text| list(text));
        Some(Watch {
            paths: paths.collect(),
            ignore: self.ignore_watch.iter().flat_map(|text| list(text)).collect(),
            extensions: self
                .ext
                .iter()
                .map(|ext| ext.trim().trim_start_matches('.').into())
                .collect(),
            delay: self.watch_delay,
        })
    }

    /// Those times, in one line.
    pub(crate) fn cron_words(&self) -> Option<String> {
        let all: Vec<String> = self.cron().iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// When it is reloaded. One that says `off` takes back those before it.
    pub(crate) fn cron(&self) -> Vec<croner::Cron> {
        let last_off = self.cron.iter().rposition(|pattern| matches!(pattern, Pattern::Off));
        let patterns = self.cron.iter().skip(last_off.map_or(0, |at| at + 1));
        patterns.filter_map(Pattern::cron).collect()
    }
}

/// Several in one argument: separated by commas or blanks, as pm2's users write them. One that is there is one.
fn list(text: &str) -> Vec<String> {
    if !text.is_empty() && std::path::Path::new(text).exists() {
        return vec![text.to_owned()];
    }
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn delay(text: &str) -> Result<Duration, String> {
    if let Ok(number) = text.parse::<u64>()
        && number <= MOST_SECONDS
    {
        return Ok(Duration::from_secs(number));
    }
    let longest = Duration::from_secs(3600);
    time(text)
        .map_err(|_| "expected a time: 500ms, 2s; a number up to 60 is of seconds".into())
        .and_then(|time| {
            Some(time).filter(|t| *t <= longest).ok_or("that is more than an hour".into())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command, Run};
    use clap::Parser;

    fn run(words: &[&str]) -> Box<Run> {
        let line = ["phalanx", "run"].iter().chain(words);
        match Arguments::try_parse_from(line) {
            Ok(Arguments { command: Command::Run(run), .. }) => run,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn where_the_program_is() {
        for (words, program, paths) in [
            (&["--watch", "app.js"][..], Some("app.js"), Some(&[][..])),
            (&["--watch", "app.js", "-i", "2", "--", "--port", "1"], Some("app.js"), Some(&[])),
            (&["app.js", "--watch"], None, Some(&[])),
            (&["app.js", "--watch", "src,lib"], None, Some(&["src", "lib"])),
            (&["app.js", "--watch=a b", "--watch", "c"], None, Some(&["a", "b", "c"])),
            (&["--watch", "src", "--", "node", "app.js"], None, Some(&["src"])),
            (&["--watch", "--", "node", "app.js"], None, Some(&[])),
            (&["app.js"], None, None),
        ] {
            let mut run = run(words);
            let found = run.planned.take_program(&run.program, &run.args);
            assert_eq!(found, program.map(OsString::from), "{words:?}");
            let watch = run.planned.watch().map(|watch| watch.paths);
            let paths =
                paths.map(|paths| paths.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(watch, paths, "{words:?}");
        }
    }

    #[test]
    fn lists_and_delays() {
        let run =
            run(&["app.js", "--watch", "--ignore-watch=node_modules logs", "--ext", "js,.ts"]);
        let watch = run.planned.watch().expect("watched");
        assert_eq!(watch.ignore, ["node_modules", "logs"]);
        assert_eq!(watch.extensions, ["js", "ts"]);
        assert_eq!(delay("4"), Ok(Duration::from_secs(4)));
        assert_eq!(delay("1000"), Ok(Duration::from_secs(1)));
        assert_eq!(delay("500ms"), Ok(Duration::from_millis(500)));
        assert!(delay("-1").is_err() && delay("2h").is_err());
    }

    #[test]
    fn off_takes_back() {
        assert_eq!(
            run(&["a.js", "-c", "0 3 * * *", "--cron-restart", "0"]).planned.cron().len(),
            0
        );
        assert_eq!(run(&["a.js", "--cron", "off", "--cron", "* * * * *"]).planned.cron().len(), 1);
    }
}
