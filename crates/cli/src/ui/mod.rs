//! What people see: words, tables, details, progress. Texts are made by functions of what is to be shown and of the screen
//! that it is shown on; only [`screen`] and [`progress`] ask or touch a terminal.

pub(crate) mod applications;
pub(crate) mod details;
pub(crate) mod given;
pub(crate) mod progress;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod waits;
pub(crate) mod watch;
pub(crate) mod words;

#[cfg(test)]
mod tests;
