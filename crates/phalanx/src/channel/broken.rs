//! Why nothing more can be received.

use super::MAX_WAITING_FDS;
use phalanx_core::wire::WireError;
use std::io;

/// Why nothing more can be received.
#[derive(Debug)]
pub(crate) enum Broken {
    Wire(WireError),
    /// The peer closed in the middle of a line of which so many bytes had come.
    Unfinished(usize),
    TooManyDescriptors,
    Io(io::Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "garbage on its channel: {error}"),
            Self::Unfinished(bytes) => {
                write!(f, "its channel ended in the middle of a message, after {bytes} bytes of it")
            }
            Self::TooManyDescriptors => {
                write!(
                    f,
                    "more than {MAX_WAITING_FDS} descriptors on its channel without a message"
                )
            }
            Self::Io(error) => write!(f, "its channel failed: {error}"),
        }
    }
}
