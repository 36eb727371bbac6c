//! Configuration files: what they say, checked, and turned into the command lines of `phalanx run`.

use crate::args::{Check, Init};
use crate::failure::Failure;

pub(crate) fn init(_options: &Init) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn check(_options: &Check) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
