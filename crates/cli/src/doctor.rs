//! `phalanx doctor`: what this machine has, and what it lacks.

use crate::failure::Failure;
use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn doctor(_options: &Doctor) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
