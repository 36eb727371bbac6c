//! `phalanx save` and `phalanx resurrect`.

use crate::args::{Resurrect, Save};
use crate::failure::Failure;

pub(crate) fn save(_options: &Save) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn resurrect(_options: &Resurrect) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
