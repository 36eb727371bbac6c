//! Asking and telling applications, as the library has it.

pub(crate) use phalanx::control::{Description, Refusal, Unanswered, Word, ask, ask_within};
