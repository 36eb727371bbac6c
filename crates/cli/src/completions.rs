//! `phalanx completions`: completions of shells, and manual pages.

use crate::args::Completions;
use crate::failure::Failure;

pub(crate) fn completions(_options: &Completions) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
