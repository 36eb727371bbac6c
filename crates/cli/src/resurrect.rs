//! `phalanx save` and `phalanx resurrect`.

use crate::args::{Resurrect, Save};
use crate::failure::Failure;

pub(crate) fn save(_options: &Save) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn resurrect(options: &Resurrect) -> Result<(), Failure> {
    if options.stay {
        return crate::startup::stay::stay(once);
    }
    once()
}

fn once() -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
