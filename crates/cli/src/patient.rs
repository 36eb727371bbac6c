//! Output that never waits: a reader that does not read must not stop the primary.
//!
//! A thread writes; what it has no time for is lost when too much waits, and counted. (The crate made for this
//! prints to stdout when its own queue is full, which is to wait after all.)

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

/// Bytes that may wait.
const ROOM: usize = 4 << 20;
/// How long the end may take for what still waits.
const LAST_WORDS: Duration = Duration::from_secs(1);

enum Order {
    Write(Vec<u8>),
    /// All before it is written: say so.
    End(Sender<()>),
}

/// The writer. Each write is one piece: written as a whole, or lost.
#[derive(Clone)]
pub(crate) struct Patient {
    orders: Sender<Order>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// Pieces that were lost, and nobody was told of.
    lost: AtomicUsize,
}

/// Waits, when it is dropped, until everything is written; not for ever.
pub(crate) struct Rest {
    orders: Sender<Order>,
}

/// A writer in front of another one.
pub(crate) fn patient(mut to: impl Write + Send + 'static) -> (Patient, Rest) {
    let (orders, given) = mpsc::channel();
    let state = Arc::new(State::default());
    let shared = Arc::clone(&state);
    std::thread::spawn(move || {
        for order in given {
            match order {
                Order::Write(piece) => {
                    // Nobody may be there to read it.
                    let _ = to.write_all(&piece);
                    shared.waiting.fetch_sub(piece.len(), Ordering::Relaxed);
                    match shared.lost.swap(0, Ordering::Relaxed) {
                        0 => {}
                        lost => drop(writeln!(
                            to,
                            "phalanx: {lost} lines were not read in time and are lost"
                        )),
                    }
                    let _ = to.flush();
                }
                Order::End(told) => drop(told.send(())),
            }
        }
    });
    (Patient { orders: orders.clone(), state }, Rest { orders })
}

impl Write for Patient {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let State { waiting, lost } = &*self.state;
        if waiting.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() > ROOM {
            waiting.fetch_sub(piece.len(), Ordering::Relaxed);
            lost.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = self.orders.send(Order::Write(piece.to_owned()));
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let (told, end) = mpsc::channel();
        if self.orders.send(Order::End(told)).is_ok() {
            let _ = end.recv_timeout(LAST_WORDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};
    use std::time::Instant;

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
        for n in 0..10_000 {
            writeln!(writer, "{n}").expect("never fails");
        }
        drop(rest);
        let lock = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(lock.ends_with(b"\n9999\n"), "{}", lock.len());
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
