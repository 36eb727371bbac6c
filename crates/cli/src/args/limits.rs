//! Options about what workers may have, and how many there are.

use clap::Args;
use phalanx::limits::{Limits, Size};
use phalanx::scaling::{Scaling, Signal};
use phalanx::{Error, cores};
use std::time::Duration;

/// What workers may have, and how their number follows the load.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Replace a worker, without losing a request, when it and its children have more memory: 150M, 1G
    #[arg(long, visible_alias = "max-memory-restart", value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    max_memory: Option<u64>,
    /// Kill a worker at once that has more memory; the kernel does it where a control group is delegated
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    hard_memory: Option<u64>,
    /// Replace a worker that gets older
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    max_age: Option<Duration>,
    /// Replace a worker that has accepted so many connections (Node, and programs that know phalanx)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_connections: Option<u64>,
    /// A worker's share of busy processors, 1 to 10000; other programs have 100. Needs a delegated control group
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<u32>,
    /// At least so many workers; with --max their number follows the load
    #[arg(help_heading = "Scaling", long, value_name = "N")]
    min: Option<usize>,
    /// At most so many workers, or max for one per core; with --min their number follows the load
    #[arg(help_heading = "Scaling", long, value_name = "N|max", value_parser = super::count)]
    max: Option<usize>,
    /// What tells how busy workers are: cpu (per cent of one processor), lag (of Node's event loop, in ms), queue
    /// (connections that wait, per worker) or load (the machine's load average, per worker)
    #[arg(help_heading = "Scaling", long, value_name = "cpu|lag|queue|load", value_parser = signal)]
    scale_on: Option<Signal>,
    /// What that should be: 70 for cpu, 50 for lag, 4 for queue, 1 for load
    #[arg(help_heading = "Scaling", long, value_name = "X", value_parser = target, allow_negative_numbers = true)]
    scale_target: Option<f64>,
    /// How long no worker is added after a change; 5s
    #[arg(help_heading = "Scaling", long, value_name = "TIME", value_parser = super::time)]
    scale_up_after: Option<Duration>,
    /// How long fewer workers must have been enough; 60s
    #[arg(help_heading = "Scaling", long, value_name = "TIME", value_parser = super::time)]
    scale_down_after: Option<Duration>,
}

impl LimitArgs {
    /// What a worker may have.
    pub(crate) fn limits(&self) -> Result<Limits, Error> {
        let limits = Limits {
            memory: self.max_memory,
            hard_memory: self.hard_memory,
            age: self.max_age,
            connections: self.max_connections,
            cpu_weight: self.cpu_weight,
        };
        limits.check().map_err(Error::Setting)?;
        Ok(limits)
    }

    /// The rules by which the number of workers follows the load, if it does.
    pub(crate) fn scaling(&self) -> Result<Option<Scaling>, Error> {
        if self.min.is_none() && self.max.is_none() {
            let given = [
                ("--scale-on", self.scale_on.is_some()),
                ("--scale-target", self.scale_target.is_some()),
                ("--scale-up-after", self.scale_up_after.is_some()),
                ("--scale-down-after", self.scale_down_after.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Error::Setting(format!(
                    "{name} is about how the number of workers follows the load: say between which numbers, by --min and --max"
                ))),
                None => Ok(None),
            };
        }
        let (min, signal) = (self.min.unwrap_or(1), self.scale_on.unwrap_or_default());
        let usual = Scaling::default();
        let scaling = Scaling {
            min,
            max: self.max.unwrap_or_else(|| cores().max(min)),
            signal,
            target: self.scale_target.unwrap_or(signal.default_target()),
            up_after: self.scale_up_after.unwrap_or(usual.up_after),
            down_after: self.scale_down_after.unwrap_or(usual.down_after),
            ..usual
        };
        scaling.check().map_err(Error::Setting)?;
        Ok(Some(scaling))
    }

    /// How many workers there are in the beginning.
    pub(crate) fn first(&self, instances: Option<usize>) -> Result<usize, Error> {
        let Some(Scaling { min, max, .. }) = self.scaling()? else {
            return Ok(instances.unwrap_or_else(cores));
        };
        let first = instances.unwrap_or(min);
        if (min..=max).contains(&first) {
            return Ok(first);
        }
        Err(Error::Setting(format!(
            "{first} workers to begin with (-i) are not within --min {min} and --max {max}"
        )))
    }
}

fn size(text: &str) -> Result<u64, String> {
    text.parse().map(|Size(bytes)| bytes).map_err(str::to_owned)
}

fn signal(name: &str) -> Result<Signal, String> {
    [Signal::Cpu, Signal::EventLoopLag, Signal::AcceptQueue, Signal::LoadAverage]
        .into_iter()
        .find(|signal| signal.to_string() == name)
        .ok_or_else(|| "there are cpu, lag, queue and load".into())
}

fn target(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|n: &f64| n.is_finite() && *n > 0.0)
        .ok_or_else(|| "expected a number above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        limits: LimitArgs,
    }

    fn parsed(line: &str) -> Result<LimitArgs, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Only::try_parse_from(words).map(|only| only.limits).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_is_meant() {
        let args =
            parsed("--max-memory-restart 150M --hard-memory 1G --max-age 2h --max-connections 100")
                .unwrap();
        let limits = args.limits().unwrap();
        assert_eq!((limits.memory, limits.hard_memory), (Some(150 << 20), Some(1 << 30)));
        assert_eq!((limits.age, limits.connections), (Some(Duration::from_secs(7200)), Some(100)));
        assert!(args.scaling().unwrap().is_none());
        assert_eq!(args.first(Some(3)).unwrap(), 3);
        let args = parsed("--min 2 --max 6 --scale-on lag --scale-up-after 1s").unwrap();
        let scaling = args.scaling().unwrap().unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.signal), (2, 6, Signal::EventLoopLag));
        assert_eq!((scaling.target, scaling.up_after), (50.0, Duration::from_secs(1)));
        assert_eq!((args.first(None).unwrap(), args.first(Some(6)).unwrap()), (2, 6));
        assert_eq!(
            parsed("--min 1 --scale-target 70%").unwrap().scaling().unwrap().unwrap().target,
            70.0
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "--max-memory -1",
            "--max-memory 1X",
            "--max-age soon",
            "--max-connections -5",
            "--scale-on moon",
            "--scale-target 0",
            "--scale-target -3",
            "--scale-target NaN",
            "--max 1000",
            "--min -1",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        for line in [
            "--max-memory 1K",
            "--max-memory 2G --hard-memory 1G",
            "--max-age 10ms",
            "--max-connections 0",
            "--cpu-weight 0",
        ] {
            assert!(parsed(line).unwrap().limits().is_err(), "{line}");
        }
        for line in
            ["--min 4 --max 2", "--min 0 --max 2", "--scale-on cpu", "--scale-down-after 5s"]
        {
            assert!(parsed(line).unwrap().scaling().is_err(), "{line}");
        }
        for (line, first) in [("--min 2 --max 4", 5), ("--min 2 --max 4", 1)] {
            assert!(parsed(line).unwrap().first(Some(first)).is_err(), "{line} -i {first}");
        }
    }
}
