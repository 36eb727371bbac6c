//! wrk, a closed-loop load generator: how it is called, and what it says.
//!
//! It counts no request that gets no answer, so it cannot say that nothing was lost: it is for
//! rates only.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// One closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrk {
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    /// Otherwise a connection for each request.
    pub(crate) keep_alive: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Connections that could not be made or broke, and answers that did not come in time.
    pub(crate) errors: u64,
    /// Answers with a status of neither 2xx nor 3xx.
    pub(crate) refused: u64,
}

impl Wrk {
    /// As one would type it.
    pub(crate) fn command(self, program: &Path, address: SocketAddr) -> Command {
        let mut command = Command::new(program);
        command.args(["-t1", "--latency"]);
        command.arg(format!("-c{}", self.connections)).arg(format!("-d{}s", self.seconds));
        if !self.keep_alive {
            // The blank is needed: without it wrk leaves the header out and says nothing.
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{address}/"));
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// When wrk fails, says what is not understood, or got no answer at all.
    pub(crate) fn run(self, program: &Path, address: SocketAddr) -> Result<Measured, String> {
        let output = self.command(program, address).output();
        let output = output.map_err(|error| format!("cannot start wrk: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            return Err(format!("wrk failed: {}{}", said.trim(), complaint.trim()));
        }
        parse(&said).ok_or_else(|| format!("wrk's output is not understood:\n{said}"))
    }
}

/// What wrk printed; `None` also when no request was answered.
fn parse(said: &str) -> Option<Measured> {
    let mut measured = Measured::default();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [count, "requests", "in", ..] => measured.requests = count.parse().ok()?,
            ["Requests/sec:", rate] => measured.rate = rate.parse().ok()?,
            ["50%", time] => measured.p50 = duration(time)?,
            ["99%", time] => measured.p99 = duration(time)?,
            ["Socket", "errors:", ref counts @ ..] => {
                let counts = counts.iter().map(|count| count.trim_end_matches(','));
                measured.errors = counts.filter_map(|count| count.parse::<u64>().ok()).sum();
            }
            ["Non-2xx", "or", "3xx", "responses:", count] => {
                measured.refused = count.parse().ok()?;
            }
            _ => {}
        }
    }
    (measured.requests > 0 && measured.rate > 0.0).then_some(measured)
}

/// A time as wrk prints it: `374.00us`, `1.14ms`, `1.10s`, `2.00m`, `1.00h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from wrk 4.1.0.
    const GOOD: &str = "Running 1s test @ http://127.0.0.1:21990/
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.14ms    2.11ms  29.58ms   91.09%
    Req/Sec    14.35k     8.34k   22.69k    72.73%
  Latency Distribution
     50%  374.00us
     75%  748.00us
     90%    2.89ms
     99%   10.94ms
  15689 requests in 1.10s, 2.03MB read
Requests/sec:  14267.63
Transfer/sec:      1.85MB
";
    const REFUSED: &str = "Running 1s test @ http://127.0.0.1:21991/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.01ms    2.84ms  29.16ms   92.83%
    Req/Sec    13.33k     6.69k   20.08k    60.00%
  Latency Distribution
     50%   94.00us
     75%  251.00us
     90%    2.69ms
     99%   15.63ms
  13242 requests in 1.01s, 1.77MB read
  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 13242
Requests/sec:  13076.22
Transfer/sec:      1.75MB
";
    const NOTHING: &str = "Running 1s test @ http://127.0.0.1:21992/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.00us    0.00us   0.00us    -nan%
    Req/Sec     0.00      0.00     0.00      -nan%
  Latency Distribution
     50%    0.00us
     75%    0.00us
     90%    0.00us
     99%    0.00us
  0 requests in 1.10s, 0.00B read
  Socket errors: connect 0, read 7139, write 0, timeout 0
Requests/sec:      0.00
Transfer/sec:       0.00B
";

    #[test]
    fn a_good_run_is_understood() {
        let expected = Measured {
            requests: 15_689,
            rate: 14_267.63,
            p50: Duration::from_micros(374),
            p99: Duration::from_micros(10_940),
            errors: 0,
            refused: 0,
        };
        assert_eq!(parse(GOOD), Some(expected));
    }

    #[test]
    fn errors_are_counted_together_and_statuses_apart() {
        let measured = parse(REFUSED).unwrap();
        assert_eq!((measured.errors, measured.refused, measured.requests), (4_321, 13_242, 13_242));
    }

    #[test]
    fn no_answer_and_half_an_output_are_no_result() {
        assert_eq!(parse(NOTHING), None);
        assert_eq!(parse(""), None);
        let half = GOOD.len() / 2;
        assert_eq!(parse(&GOOD[..half]), None);
        assert_eq!(parse(&GOOD.replace("14267.63", "many")), None);
    }

    #[test]
    fn times_have_units() {
        let all = ["1.50us", "2.00ms", "1.10s", "2.00m", "1.00h"].map(duration);
        let nanos = [1_500, 2_000_000, 1_100_000_000, 120_000_000_000, 3_600_000_000_000];
        assert_eq!(all, nanos.map(|nanos| Some(Duration::from_nanos(nanos))));
        assert_eq!(["1.00", "ms", "", "1.0d"].map(duration), [None; 4]);
    }

    #[test]
    fn the_command_closes_connections_only_when_told_to() {
        let wrk = Wrk { connections: 16, seconds: 3, keep_alive: true };
        let address = SocketAddr::from(([127, 0, 0, 1], 8_000));
        let args = |wrk: Wrk| {
            let command = wrk.command(Path::new("wrk"), address);
            let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
            args.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(args(wrk), "-t1 --latency -c16 -d3s http://127.0.0.1:8000/");
        let each = args(Wrk { keep_alive: false, ..wrk });
        assert_eq!(each, "-t1 --latency -c16 -d3s -H Connection: close http://127.0.0.1:8000/");
    }
}
