//! What is served, where, and to whom: in the variables that pm2 has for it.

use crate::failure::{Failure, USAGE};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Uri, header};
use phalanx::Address;
use std::hint::black_box;
use std::path::{Path, PathBuf};

/// How the names of all of them begin.
pub(super) const PREFIX: &str = "PM2_SERVE_";
pub(super) const PATH: &str = "PM2_SERVE_PATH";
pub(super) const PORT: &str = "PM2_SERVE_PORT";
pub(super) const SPA: &str = "PM2_SERVE_SPA";
const HOMEPAGE: &str = "PM2_SERVE_HOMEPAGE";
pub(super) const AUTH: &str = "PM2_SERVE_BASIC_AUTH";
pub(super) const USERNAME: &str = "PM2_SERVE_BASIC_AUTH_USERNAME";
pub(super) const PASSWORD: &str = "PM2_SERVE_BASIC_AUTH_PASSWORD";

pub(super) const DEFAULT_PATH: &str = ".";
pub(super) const DEFAULT_PORT: &str = "8080";
const INDEX: &str = "/index.html";

/// A directory of files, as it is served.
pub(super) struct Site {
    pub(super) path: PathBuf,
    pub(super) address: Address,
    /// Paths that are not there are answered with the first page.
    pub(super) spa: bool,
    /// The first page, if it is another one than a directory's usual one, or has to be known by name.
    pub(super) homepage: Uri,
    pub(super) auth: Option<Auth>,
}

impl Site {
    /// As the variables have it.
    ///
    /// # Errors
    /// One of them makes no sense, or what was meant to be closed would be open.
    pub(super) fn of(get: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let text = |name| get(name).filter(|text| !text.is_empty());
        let homepage = text(HOMEPAGE).unwrap_or_else(|| INDEX.into());
        let port = text(PORT).unwrap_or_else(|| DEFAULT_PORT.into());
        Ok(Self {
            path: text(PATH).unwrap_or_else(|| DEFAULT_PATH.into()).into(),
            address: address(&port)?,
            spa: is_on(SPA, text(SPA).as_deref())?.unwrap_or_default(),
            homepage: page(&homepage)?,
            auth: Auth::of(is_on(AUTH, text(AUTH).as_deref())?, text(USERNAME), text(PASSWORD))?,
        })
    }

    /// That there is something to serve.
    ///
    /// # Errors
    /// It is no directory, or cannot be read.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Err(error) = std::fs::read_dir(&self.path) else { return Ok(()) };
        let (path, shown) = (&self.path, self.path.display());
        let message = match std::fs::metadata(path) {
            Ok(about) if !about.is_dir() => format!("cannot serve {shown}: it is no directory"),
            _ => format!("cannot serve {shown}: {error}"),
        };
        Err(Failure::tool(USAGE, message).hint(match is_port(path) {
            Some(port) => format!("the directory comes first: `phalanx serve . {port}`"),
            None => "PATH is the directory with the files, `phalanx serve dist 8080`; in a configuration file PM2_SERVE_PATH".into(),
        }))
    }

    /// Whether its first page is what a directory shows by itself.
    pub(super) fn is_usual(&self) -> bool {
        self.homepage.path() == INDEX
    }
}

/// A port that stands where a directory does.
fn is_port(path: &Path) -> Option<u16> {
    path.file_name()?.to_str()?.parse().ok()
}

fn is_on(name: &str, text: Option<&str>) -> Result<Option<bool>, Failure> {
    match text.map(str::trim) {
        None => Ok(None),
        Some("true" | "1") => Ok(Some(true)),
        Some("false" | "0") => Ok(Some(false)),
        Some(other) => {
            let message = format!("{name} is `{}`: expected true or false", other.escape_debug());
            Err(Failure::tool(USAGE, message))
        }
    }
}

fn address(text: &str) -> Result<Address, Failure> {
    let text = text.trim();
    let address = text.parse().ok().filter(|address| match address {
        Address::Ip(address) => address.port() > 0,
        Address::Unix(_) => true,
    });
    address.ok_or_else(|| {
        Failure::tool(USAGE, format!("cannot serve on `{}`: it is no port", text.escape_debug()))
            .hint("PORT is a number from 1 to 65535, or an address: 127.0.0.1:8080, unix:/run/site.sock")
    })
}

fn page(text: &str) -> Result<Uri, Failure> {
    let path = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
    path.parse().map_err(|_| {
        Failure::tool(USAGE, format!("{HOMEPAGE} is `{}`: it is no path", text.escape_debug()))
            .hint("it is the path of a page, as clients ask for it: /index.html")
    })
}

/// Who may see it. It is never shown.
pub(super) struct Auth {
    /// Name and password, as clients send them.
    expected: String,
}

impl Auth {
    fn of(
        wanted: Option<bool>,
        name: Option<String>,
        password: Option<String>,
    ) -> Result<Option<Self>, Failure> {
        if wanted == Some(false) {
            return Ok(None);
        }
        match (name, password) {
            (None, None) if wanted.is_none() => Ok(None),
            (Some(name), Some(_)) if name.contains(':') => {
                Err(Failure::tool(USAGE, "the name for basic authentication has a colon in it")
                    .hint("a colon is what separates name and password"))
            }
            (Some(name), Some(password)) => {
                Ok(Some(Self { expected: STANDARD.encode(format!("{name}:{password}")) }))
            }
            _ => Err(Failure::tool(USAGE, "basic authentication needs a name and a password").hint(
                format!("--basic-auth-username and --basic-auth-password, or {USERNAME} and {PASSWORD} in the environment"),
            )),
        }
    }

    /// Whether a request comes from somebody who knows both.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        said.and_then(|said| said.split_once(' ')).is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("basic") && same(token.trim(), &self.expected)
        })
    }
}

/// Takes as long wherever they differ.
fn same(one: &str, other: &str) -> bool {
    let differences =
        one.bytes().zip(other.bytes()).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    one.len() == other.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(variables: &[(&str, &str)]) -> Result<Site, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Site::of(get).map_err(|failure| failure.message())
    }

    #[test]
    fn what_is_left_out() {
        let site = site(&[(PATH, "")]).expect("a site");
        assert_eq!((site.path.to_str(), site.spa), (Some("."), false));
        assert_eq!(site.address.to_string(), "[::]:8080");
        assert!(site.auth.is_none() && site.is_usual());
    }

    #[test]
    fn what_is_said() {
        let all = [
            (PATH, "dist"),
            (PORT, "127.0.0.1:81"),
            (SPA, "true"),
            (HOMEPAGE, "app.html"),
            (AUTH, "false"),
            (USERNAME, "me"),
        ];
        let site = site(&all).expect("a site");
        assert_eq!((site.path.to_str(), site.spa), (Some("dist"), true));
        assert_eq!(site.address.to_string(), "127.0.0.1:81");
        assert_eq!(site.homepage.path(), "/app.html");
        assert!(site.auth.is_none() && !site.is_usual());
    }

    #[test]
    fn what_makes_no_sense() {
        for (name, value, words) in [
            (PORT, "80x", "no port"),
            (PORT, "0", "no port"),
            (PORT, "70000", "no port"),
            (SPA, "yes", "true or false"),
            (HOMEPAGE, "/a b", "no path"),
            (AUTH, "true", "a name and a password"),
            (USERNAME, "me", "a name and a password"),
            (PASSWORD, "me", "a name and a password"),
        ] {
            let error = site(&[(name, value)]).err().unwrap_or_default();
            assert!(error.contains(words), "{name}={value}: {error}");
        }
        assert!(site(&[(USERNAME, "a:b"), (PASSWORD, "c")]).is_err());
    }

    #[test]
    fn who_is_let_in() {
        let site = site(&[(USERNAME, "me"), (PASSWORD, "s:ecret")]).expect("a site");
        let auth = site.auth.expect("closed");
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            auth.admits(&headers)
        };
        let good = STANDARD.encode("me:s:ecret");
        assert!(admits(&format!("Basic {good}")) && admits(&format!("bAsIc  {good} ")));
        for bad in ["", "Basic", "Basic ", &good, "Basic bWU6", &format!("Bearer {good}")] {
            assert!(!admits(bad), "{bad}");
        }
        assert!(!auth.admits(&HeaderMap::new()));
    }
}
