//! Output that never waits: a reader that does not read must not stop the primary.
//!
//! A thread writes; what it has no time for is lost when too much waits. (The crate made for this prints to
//! stdout when its own queue is full, which is to wait after all.)

use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::{Duration, Instant};

/// Pieces that may wait.
const WAITING: usize = 1024;
/// How long the end may take for what still waits.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often there is looked whether the end can be told.
const LOOK: Duration = Duration::from_millis(5);

enum Order {
    Write(Vec<u8>),
    /// All before it is written: say so.
    End(SyncSender<()>),
}

/// The writer. Each write is one piece: written as a whole, or lost.
#[derive(Clone)]
pub(crate) struct Patient {
    orders: SyncSender<Order>,
}

/// Waits, when it is dropped, until everything is written; not for ever.
pub(crate) struct Rest {
    orders: SyncSender<Order>,
}

/// A writer in front of another one.
pub(crate) fn patient(mut to: impl Write + Send + 'static) -> (Patient, Rest) {
    let (orders, given) = mpsc::sync_channel(WAITING);
    std::thread::spawn(move || {
        for order in given {
            match order {
                // Nobody may be there to read it.
                Order::Write(piece) => drop(to.write_all(&piece).and_then(|()| to.flush())),
                Order::End(told) => drop(told.send(())),
            }
        }
    });
    (Patient { orders: orders.clone() }, Rest { orders })
}

impl Write for Patient {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let _ = self.orders.try_send(Order::Write(piece.to_owned()));
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let (told, end) = mpsc::sync_channel(1);
        let until = Instant::now() + LAST_WORDS;
        let mut order = Order::End(told);
        while let Err(TrySendError::Full(again)) = self.orders.try_send(order) {
            if Instant::now() >= until {
                return;
            }
            order = again;
            std::thread::sleep(LOOK);
        }
        let _ = end.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_is_written_at_the_end() {
        let kept = Kept::default();
        let (mut writer, rest) = patient(kept.clone());
        for n in 0..WAITING / 2 {
            writeln!(writer, "{n}").expect("never fails");
        }
        drop(rest);
        let lock = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(lock.ends_with(b"511\n"), "{}", lock.len());
    }

    #[test]
    fn nobody_waits_for_a_reader() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (mut lines, rest) = patient(writer);
        let begin = Instant::now();
        for _ in 0..10_000 {
            lines.write_all(&[b'x'; 1000]).expect("never fails");
        }
        drop(rest);
        assert!(begin.elapsed() < 30 * LAST_WORDS, "it waited for a reader");
        drop(reader);
    }
}
