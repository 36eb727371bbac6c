//! What phalanx's preload in a Node worker and the primary tell each other: frames of the `cmd`
//! [`COMMAND`], which Node shows to no program, and which every other peer ignores.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// The `cmd` of these frames.
pub(super) const COMMAND: &str = "NODE_PHALANX";

/// What such a frame says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "lowercase")]
pub enum Note {
    /// Primary: report your metrics.
    Ask {
        /// Repeated in the report.
        id: u64,
    },
    /// Primary: tell your counts.
    Count,
    /// Worker: my counts.
    Counts {
        /// Connections that all servers accepted, since the first question in Node.
        accepted: u64,
        /// Those that are open.
        open: u32,
        /// How late the event loop was at most since the last question, in milliseconds.
        #[serde(default)]
        lag: f64,
    },
    /// Primary: you will be told to leave, and then have so long.
    Leave {
        /// In milliseconds; absent: as long as you like.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace: Option<u64>,
        /// The same with upgraded connections.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upgraded: Option<u64>,
        /// The signal whose handler is called when all is finished; absent: SIGTERM.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// Your program gets the message `shutdown` then, instead.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        message: bool,
    },
    /// Worker: my metrics.
    Report {
        /// The question's.
        id: u64,
        /// They.
        #[serde(flatten)]
        metrics: Metrics,
    },
    /// Worker: a server listens that the primary was not asked for.
    Serves,
    /// Worker: it lives, though it does not read on.
    Alive,
    /// Worker: so many connections speak another protocol by now, and go on while it drains.
    Upgraded {
        /// How many.
        count: u32,
    },
    /// Worker: an exception that nobody caught; the program probably dies of it.
    Uncaught(Uncaught),
}

/// A Node worker at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    /// The event loop: the part of the time since the report before in which it was busy, 0 to 1.
    pub utilization: f64,
    /// How late the event loop was when it was last looked at, in milliseconds.
    pub lag: f64,
    /// How late it was at most since the report before, in milliseconds.
    pub lag_max: f64,
    /// Bytes of the heap that are in use.
    pub heap_used: f64,
    /// Bytes of the heap.
    pub heap_total: f64,
    /// Bytes outside of the heap that objects hold.
    pub external: f64,
    /// Bytes of the process in memory.
    pub rss: f64,
    /// Open connections of all servers.
    pub open: f64,
    /// HTTP/1 requests that came.
    pub requests: f64,
    /// Their responses that were sent.
    pub responses: f64,
    /// The latencies of those, added up, in milliseconds.
    pub spent: f64,
    /// How many had a latency below 2ⁿ µs and not below half of it; the last: and above.
    pub latency: Vec<u64>,
}

impl Metrics {
    /// The latency that this part (0 to 1) of the responses did not exceed, as the upper end of its bucket.
    ///
    /// ```
    /// use phalanx_core::wire::Metrics;
    /// let metrics = Metrics { latency: vec![0, 0, 98, 0, 2], ..Metrics::default() };
    /// assert_eq!(metrics.quantile(0.5).map(|d| d.as_micros()), Some(4));
    /// assert_eq!(metrics.quantile(0.99).map(|d| d.as_micros()), Some(16));
    /// assert_eq!(Metrics::default().quantile(0.5), None);
    /// ```
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let total: u64 = self.latency.iter().fold(0, |sum, n| sum.saturating_add(*n));
        let mut seen = 0u64;
        for (bucket, n) in self.latency.iter().enumerate() {
            seen = seen.saturating_add(*n);
            // Counts below 2⁵³ are exact; a worker's word may be anything, and then it does not matter.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            if total > 0 && seen as f64 >= total as f64 * part {
                return Some(Duration::from_micros(1 << bucket.min(32)));
            }
        }
        None
    }
}

/// An exception that nobody caught.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uncaught {
    /// `uncaughtException` or `unhandledRejection`.
    pub origin: String,
    /// The program has a handler for it, and may go on.
    pub caught: bool,
    /// Its class, or the type of what was thrown.
    pub name: String,
    /// What it says.
    pub message: String,
    /// Where it comes from, as Node prints it.
    pub stack: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::super::{Act, Cluster, Decoder, Dialect, Frame, Handle, HandleKind};
    use super::*;
    use alloc::boxed::Box;

    fn decoded(line: &[u8]) -> Frame {
        let mut decoder = Decoder::new(1 << 16);
        decoder.feed(line);
        decoder.next_frame().expect("valid").expect("whole")
    }

    #[test]
    fn notes_come_back_as_they_were() {
        let metrics = Metrics { latency: alloc::vec![1, 2], open: 3.0, ..Metrics::default() };
        for note in [
            Note::Ask { id: 7 },
            Note::Leave {
                grace: Some(30_000),
                upgraded: Some(60_000),
                signal: Some("SIGINT".into()),
                message: true,
            },
            Note::Leave { grace: None, upgraded: None, signal: None, message: false },
            Note::Report { id: 7, metrics },
            Note::Serves,
            Note::Alive,
            Note::Upgraded { count: 2 },
            Note::Count,
            Note::Counts { accepted: 7, open: 2, lag: 1.5 },
            Note::Uncaught(Uncaught { message: "no".into(), ..Uncaught::default() }),
        ] {
            let frame = decoded(&Frame::Note(note.clone()).encode());
            assert!(matches!(&frame, Frame::Note(same) if *same == note), "{frame:?}");
        }
        let other = decoded(b"{\"cmd\":\"NODE_PHALANX\",\"act\":\"sing\"}\n");
        assert!(matches!(&other, Frame::Unknown(cmd) if cmd == COMMAND), "{other:?}");
    }

    #[test]
    fn bun_is_written_to_in_its_dialect() {
        let act = Act::NewConn { key: "k".into() };
        let frame = Frame::Cluster(Cluster { seq: Some(1), ack: None, act });
        let handle = Frame::Handle(Handle {
            kind: HandleKind::Native,
            key: None,
            message: Box::new(frame.clone()),
        });
        let bun = |frame: &Frame| String::from_utf8(frame.encode_for(Dialect::Bun)).expect("text");
        let line = bun(&handle);
        assert!(line.starts_with("\u{2}{") && line.contains("\"$hasHandle\":true"), "{line}");
        assert!(!bun(&frame).contains("$hasHandle"), "{}", bun(&frame));
        // What is not the cluster's own is written alike.
        assert_eq!(Frame::HandleAck.encode_for(Dialect::Bun), Frame::HandleAck.encode());
        assert_eq!(Frame::ping().encode_for(Dialect::Bun), Frame::ping().encode());
    }
}
