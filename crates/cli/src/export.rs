//! `phalanx export`: the configuration of a proxy in front of workers that have a port each (`--port-base`).

use crate::args::{Arguments, count_or_max};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};

/// The greatest weight that haproxy knows.
const HAPROXY_MOST: u32 = 256;
/// Room below and above a weight, to change it while haproxy runs.
const HAPROXY_ROOM: u32 = 10;
/// Idle connections that each process of nginx keeps to all workers together.
const KEPT: usize = 32;

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// Whose configuration it is
    proxy: Proxy,
    /// The port of the worker in slot 0, as `phalanx run` has it
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port_base: u16,
    /// How many workers: a number; max or 0 for one per core; -1 for one less than that
    #[arg(short = 'i', long, value_name = "N|max|-N", value_parser = count_or_max, allow_negative_numbers = true)]
    instances: usize,
    /// What the group of servers is called
    #[arg(long, default_value = "app", value_parser = name)]
    name: String,
    /// Where the workers are, as the proxy sees it: an IP address or a host's name
    #[arg(long, default_value = "127.0.0.1", value_parser = host)]
    host: String,
    /// How much each worker gets, by slot; 0: nothing new, and not all of them. Else all get the same
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proxy {
    /// An `upstream` block
    Nginx,
    /// A `backend` section
    Haproxy,
}

/// Prints it, or says what is wrong with the command line and ends with code 2.
pub(crate) fn export(options: &Export) {
    let text = match options.check() {
        Ok(()) => options.text(),
        Err(why) => wrong(&why),
    };
    // A reader that went away has read enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// As clap says it of a single option.
fn wrong(why: &str) -> ! {
    let mut command = Arguments::command();
    command.build();
    let export = command.find_subcommand_mut("export").map(std::mem::take);
    export.unwrap_or(command).error(ErrorKind::ValueValidation, why).exit()
}

impl Export {
    /// What one option alone does not show.
    fn check(&self) -> Result<(), String> {
        let Self { port_base, instances, weights, .. } = self;
        let last = usize::from(*port_base) + instances - 1;
        if last > usize::from(u16::MAX) {
            return Err(format!(
                "{instances} workers from port {port_base} on need ports up to {last}, and 65535 is the last one"
            ));
        }
        if !weights.is_empty() && weights.len() != *instances {
            let given = weights.len();
            return Err(format!(
                "--weights has {given} for {instances} workers: give one for each"
            ));
        }
        if !weights.is_empty() && weights.iter().all(|weight| *weight == 0) {
            return Err("all weights are 0, which is: nothing for anybody".into());
        }
        Ok(())
    }

    fn text(&self) -> String {
        match self.proxy {
            Proxy::Nginx => self.nginx(),
            Proxy::Haproxy => self.haproxy(),
        }
    }

    /// The workers: slot, address, weight.
    fn servers(&self) -> impl Iterator<Item = (usize, String, Option<u16>)> {
        let weights = self.weights.iter().copied().map(Some).chain(std::iter::repeat(None));
        (0..self.instances).zip(weights).map(|(slot, weight)| {
            (slot, format!("{}:{}", self.host, usize::from(self.port_base) + slot), weight)
        })
    }

    fn head(&self) -> String {
        format!("# For: phalanx run --port-base {} -i {} …\n", self.port_base, self.instances)
    }

    fn nginx(&self) -> String {
        let name = &self.name;
        let mut text = self.head();
        let _ = writeln!(text, "upstream {name} {{");
        for (_, address, weight) in self.servers() {
            let weight = match weight {
                None | Some(1) => String::new(),
                Some(0) => " down".into(),
                Some(weight) => format!(" weight={weight}"),
            };
            let _ = writeln!(text, "    server {address}{weight};");
        }
        let _ = writeln!(text, "    keepalive {KEPT};\n}}");
        let _ = write!(
            text,
            r#"
# In a `server` block:
#
# location / {{
#     proxy_pass http://{name};
#     # Without these two, nginx makes a connection for each request.
#     proxy_http_version 1.1;
#     proxy_set_header Connection "";
#     proxy_set_header Host $host;
#     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
#     proxy_set_header X-Forwarded-Proto $scheme;
#     # The next worker is asked when one fails. Not for POST, LOCK and PATCH once they were sent, as that may
#     # do a thing twice: leave `non_idempotent` out unless your application bears it.
#     proxy_next_upstream error timeout;
#     proxy_next_upstream_tries 2;
# }}
"#
        );
        text
    }

    fn haproxy(&self) -> String {
        let name = &self.name;
        let (weights, exact) = haproxy_weights(&self.weights);
        let mut text = self.head();
        if !exact {
            let _ = writeln!(text, "# The weights are rounded: haproxy's end at {HAPROXY_MOST}.");
        }
        let _ = writeln!(
            text,
            "backend {name}\n    mode http\n    balance roundrobin\n    \
             # A worker that cannot be connected to was not asked: another one is.\n    \
             option redispatch"
        );
        for (slot, address, _) in self.servers() {
            let weight = weights.get(slot).map(|w| format!(" weight {w}")).unwrap_or_default();
            let _ = writeln!(text, "    server {name}{slot} {address}{weight} check");
        }
        let _ = write!(
            text,
            "
# In front of it:
#
# frontend {name}_front
#     mode http
#     bind :80
#     default_backend {name}
"
        );
        text
    }
}

/// The same proportions in haproxy's range; whether they are exactly the same. 0 stays 0: the server takes
/// nothing new. Nothing else becomes 0.
fn haproxy_weights(weights: &[u16]) -> (Vec<u32>, bool) {
    let weights: Vec<u32> = weights.iter().copied().map(u32::from).collect();
    let common = weights.iter().copied().fold(0, gcd).max(1);
    let least: Vec<u32> = weights.iter().map(|weight| weight / common).collect();
    let most = least.iter().copied().max().unwrap_or(1).max(1);
    if most <= HAPROXY_MOST {
        let times = (HAPROXY_MOST / most).min(HAPROXY_ROOM);
        return (least.iter().map(|weight| weight * times).collect(), true);
    }
    let scaled = |weight: &u32| (weight * HAPROXY_MOST + most / 2) / most;
    (least.iter().map(|weight| scaled(weight).max((*weight).min(1))).collect(), false)
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What is one word to both proxies, and for the people who read it.
fn name(text: &str) -> Result<String, String> {
    let fits = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && text.len() <= 64;
    let why = "expected a letter, then letters, digits, `_`, `-` or `.`; 64 at most";
    fits.then(|| text.to_owned()).ok_or_else(|| why.to_owned())
}

/// As it stands before a port.
fn host(text: &str) -> Result<String, String> {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(Ok(IpAddr::V6(address))) = inside.map(|v6| v6.parse::<Ipv6Addr>().map(IpAddr::V6)) {
        return Ok(format!("[{address}]"));
    }
    match text.parse() {
        Ok(IpAddr::V4(address)) => return Ok(address.to_string()),
        Ok(IpAddr::V6(address)) => return Ok(format!("[{address}]")),
        Err(_) => {}
    }
    let label = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    // `1.2.3` and `300.1.1.1` are neither an address nor a name.
    let named = text.split('.').all(label) && text.chars().any(|c| c.is_ascii_alphabetic());
    let why = "expected an IP address or a host's name, without a port";
    (named && text.len() <= 253).then(|| text.to_owned()).ok_or_else(|| why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_haproxy() {
        for (given, scaled, exact) in [
            (&[][..], &[][..], true),
            (&[3, 1, 1], &[30, 10, 10], true),
            (&[1, 1], &[10, 10], true),
            (&[1, 0], &[10, 0], true),
            (&[50, 100], &[10, 20], true),
            (&[100, 1], &[200, 2], true),
            (&[256, 1], &[256, 1], true),
            (&[257, 1], &[256, 1], false),
            (&[60_000, 1, 0], &[256, 1, 0], false),
            (&[65_535, 65_534], &[256, 256], false),
            (&[60_000, 20_000], &[30, 10], true),
        ] {
            assert_eq!(haproxy_weights(given), (scaled.to_vec(), exact), "{given:?}");
        }
    }

    #[test]
    fn names() {
        for good in ["app", "my-app_2", "A.b"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "1app", "a b", "a;b", "a{", "é", "a/b", "a:b", "-a", "a\nb", &"x".repeat(65)]
        {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts() {
        for (given, written) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("localhost", "localhost"),
            ("app-1.example.org", "app-1.example.org"),
        ] {
            assert_eq!(host(given).as_deref(), Ok(written));
        }
        for bad in
            ["", "a:80", "127.0.0.1:80", "1.2.3", "300.1.1.1", "a b", "-a", "a..b", "[::1", "a;"]
        {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
