//! `phalanx startup`: everything at boot, by systemd.

use crate::args::{Startup, Unstartup};
use crate::failure::Failure;

pub(crate) fn startup(_options: &Startup) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn unstartup(_options: &Unstartup) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
