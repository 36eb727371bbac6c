//! Logs: what workers said, kept in files; and `phalanx logs`.

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
