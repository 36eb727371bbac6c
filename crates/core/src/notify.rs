//! What a program says of itself by systemd's protocol (`sd_notify(3)`): datagrams of `NAME=value` lines.

/// One thing that it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// `READY=1`: it serves; after [`Word::Reloading`], again.
    Ready,
    /// `RELOADING=1`: it reads its configuration anew.
    Reloading,
    /// `STOPPING=1`: it leaves.
    Stopping,
    /// `STATUS=…`: for people.
    Status(&'a str),
    /// `WATCHDOG=1`: a sign of life.
    Alive,
    /// `WATCHDOG=trigger`: it found itself broken.
    Broken,
    /// Something that is not done here, by its name.
    Refused(&'a str),
}

/// What a program asks of its service manager that a primary does not do.
const REFUSED: [&str; 6] =
    ["MAINPID", "MAINPIDFDID", "FDSTORE", "FDSTOREREMOVE", "EXTEND_TIMEOUT_USEC", "WATCHDOG_USEC"];

/// The words of a datagram; what is unknown is passed over, as `sd_notify(3)` wants it.
///
/// ```
/// use phalanx_core::notify::{Word, words};
/// let all: Vec<_> = words(b"STATUS=loading\nREADY=1\nX_OWN=1\nMAINPID=7\n").collect();
/// assert_eq!(all, [Word::Status("loading"), Word::Ready, Word::Refused("MAINPID")]);
/// ```
pub fn words(datagram: &[u8]) -> impl Iterator<Item = Word<'_>> {
    let text = |line| core::str::from_utf8(line).ok();
    datagram.split(|byte| *byte == b'\n').filter_map(text).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some(match (name, value) {
            ("READY", "1") => Word::Ready,
            ("RELOADING", "1") => Word::Reloading,
            ("STOPPING", "1") => Word::Stopping,
            ("STATUS", status) => Word::Status(status),
            ("WATCHDOG", "1") => Word::Alive,
            ("WATCHDOG", "trigger") => Word::Broken,
            (name, _) if REFUSED.contains(&name) => Word::Refused(name),
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn only_what_is_meant() {
        let all = |text: &'static [u8]| words(text).collect::<Vec<_>>();
        assert_eq!(all(b"READY=0\nREADY=\nREADY\nready=1\n=1\n\n"), []);
        assert_eq!(all(b"STATUS=a=b c"), [Word::Status("a=b c")]);
        assert_eq!(all(b"STATUS=\xff\nWATCHDOG=1"), [Word::Alive]);
        assert_eq!(
            all(b"STOPPING=1\nRELOADING=1\nWATCHDOG=trigger\nFDSTORE=1"),
            [Word::Stopping, Word::Reloading, Word::Broken, Word::Refused("FDSTORE")]
        );
    }

    proptest! {
        #[test]
        fn anything_is_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = words(&bytes).count();
        }
    }
}
