//! Addresses to listen on, as people write them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen: an IP address and a port, or the path of a unix socket.
///
/// Written `127.0.0.1:8000`, `[::1]:8000`, `:8000` or `8000` (any address, IPv6 and IPv4), `localhost:8000`
/// or `unix:/run/app.sock`.
///
/// ```
/// use phalanx::Address;
/// let address: Address = ":8000".parse()?;
/// assert_eq!(address.to_string(), "[::]:8000");
/// assert!("8000000".parse::<Address>().is_err());
/// # Ok::<(), phalanx::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// TCP (or UDP) on this address. `[::]` takes IPv4 as well, unless told otherwise.
    Ip(SocketAddr),
    /// A unix-domain stream socket.
    Unix(PathBuf),
}

impl Address {
    /// The addresses that `phalanx run --listen` named, in their order: a program that wants to be placed
    /// from outside listens on these. Else `PORT` on any address, as most platforms set it; else
    /// `otherwise`.
    ///
    /// # Errors
    /// An address that cannot be understood.
    pub fn all_from_env(otherwise: &str) -> Result<Vec<Self>> {
        let named = [crate::LISTEN_VARIABLE, "PORT"]
            .into_iter()
            .find_map(|name| Some((name, std::env::var(name).ok()?)));
        let Some((name, text)) = named else { return Ok(vec![otherwise.parse()?]) };
        let parse = |one: &str| one.parse().map_err(|_| Error::Address(format!("{name}={one}")));
        text.split(',').map(parse).collect()
    }

    /// The first of [`Address::all_from_env`].
    ///
    /// # Errors
    /// An address that cannot be understood.
    pub fn from_env(otherwise: &str) -> Result<Self> {
        let first = Self::all_from_env(otherwise)?.into_iter().next();
        first.ok_or_else(|| Error::Address(otherwise.to_owned()))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;
    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() || path.contains('\0') {
                Err(Error::Address(text.to_owned()))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let ip = match host {
            "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => return Err(Error::Address(text.to_owned())),
        };
        let port = port.parse().map_err(|_| Error::Address(text.to_owned()))?;
        Ok(Self::Ip(SocketAddr::new(ip, port)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", printable(&path.to_string_lossy())),
        }
    }
}

/// Text of somebody else's, fit for a line of a log: no control characters, and not for ever.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == LONGEST {
            shown.push('…');
            break;
        }
        // Nor what turns the direction of the text around it.
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, printed) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("80", "[::]:80"),
            (":0", "[::]:0"),
            ("localhost:8000", "127.0.0.1:8000"),
            ("unix:/tmp/x", "unix:/tmp/x"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), printed);
        }
        for text in ["", "x", "example:80", "1.2.3.4", "1.2.3.4:99999", "unix:", "::1", "-1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
