//! Logs: what workers said, kept in files; and `phalanx logs`.

pub(crate) mod index;
mod old;
mod places;
mod sink;
mod style;

pub(crate) use old::{Rules, Tidy, with};
pub(crate) use places::{Places, base, is_file};
pub(crate) use sink::{Sink, now};
pub(crate) use style::{DateFormat, Piece, Style, take};

use crate::args::LogsOf;
use crate::failure::Failure;

pub(crate) fn logs(_options: &LogsOf) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn flush(_apps: &[String]) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn reopen(_apps: &[String]) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
