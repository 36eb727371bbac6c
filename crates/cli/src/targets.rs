//! Which applications a command is about.

use crate::failure::Failure;
use crate::home::{App, Home};

/// The applications that are meant, each once, by id.
///
/// # Errors
/// Something that means none.
pub(crate) fn resolve(home: &Home, wanted: &[String]) -> Result<Vec<App>, Failure> {
    if wanted.iter().any(|name| name == "all") {
        return any(home, &[]);
    }
    wanted.iter().map(|name| home.existing(name)).collect()
}

/// As [`resolve`]; all if none is named.
pub(crate) fn any(home: &Home, wanted: &[String]) -> Result<Vec<App>, Failure> {
    if wanted.is_empty() {
        return Ok(home.names()?.iter().map(|name| home.app(name)).collect());
    }
    resolve(home, wanted)
}
