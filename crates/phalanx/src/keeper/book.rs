//! What a primary writes down for the next one, in memory that outlives it.
//!
//! There are two pages, written in turn, and each begins with a number: the page with the higher one is whole, as the
//! number is written last. A third holds, at a place for each worker, what changes too often to be written down as a
//! whole: see [`Mark`].

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// The names of the pages, and of the marks.
pub(crate) const NAMES: [&str; 3] = ["book.0", "book.1", "book.marks"];
/// What is before a page's text: its number and its length.
const HEAD: usize = 16;
/// Where its text begins.
const TEXT: u64 = HEAD as u64;
/// No text is longer; beyond it something is wrong.
const LONGEST: u64 = 64 << 20;
/// Marks of so many workers: by their numbers, around and around.
const MARKED: u32 = 1 << 16;
/// Bytes of marks for each.
const KINDS: usize = 4;

/// Bytes of what a worker asked.
pub(crate) const QUESTION: usize = 32;
/// So many of its last questions there is room for. They may be of several processes and threads of its.
const LAST: usize = 8;
/// Bytes of all of them.
const ASKED: usize = LAST * QUESTION;
/// Where these begin: behind all other marks.
const QUESTIONS: u64 = MARKED as u64 * KINDS as u64;

/// Both pages and the marks.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) pages: [Arc<OwnedFd>; 2],
    pub(crate) marks: Arc<OwnedFd>,
    number: u64,
    /// What was written last.
    last: Vec<u8>,
}

impl Book {
    pub(crate) fn new() -> io::Result<Self> {
        let page = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(Arc::new);
        let marks = page("phalanx-marks")?;
        ftruncate(&marks, QUESTIONS + u64::from(MARKED) * ASKED as u64)?;
        Ok(Self {
            pages: [page("phalanx-book-0")?, page("phalanx-book-1")?],
            marks,
            number: 0,
            last: Vec::new(),
        })
    }

    /// The book of the last primary.
    pub(crate) fn inherited(fds: &mut BTreeMap<String, OwnedFd>) -> Option<Self> {
        let [first, second, marks] = NAMES.map(|name| fds.remove(name).map(Arc::new));
        let pages = [first?, second?];
        let number = pages.iter().filter_map(|page| Some(head(page)?.0)).max().unwrap_or(0);
        Some(Self { pages, marks: marks?, number, last: Vec::new() })
    }

    /// Writes it down, unless it was the last that was.
    pub(crate) fn write(&mut self, text: Vec<u8>) -> io::Result<()> {
        if text == self.last {
            return Ok(());
        }
        let number = self.number + 1;
        let page = &self.pages[usize::from(number % 2 == 1)];
        write_all(page, &text, TEXT)?;
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&number.to_ne_bytes());
        head[8..].copy_from_slice(&(text.len() as u64).to_ne_bytes());
        write_all(page, &head, 0)?;
        (self.number, self.last) = (number, text);
        Ok(())
    }

    /// What was written last, if anything was.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let heads = self.pages.iter().filter_map(|page| Some((head(page)?, page)));
        let Some(((_, length), page)) = heads.max_by_key(|((number, _), _)| *number) else {
            return Ok(None);
        };
        let mut text = vec![0; usize::try_from(length.min(LONGEST)).unwrap_or(0)];
        let mut done = 0;
        while done < text.len() {
            let rest = text.get_mut(done..).unwrap_or_default();
            match pread(page, rest, TEXT + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(Some(text))
    }

    /// The marks of a worker.
    pub(crate) fn mark(&self, worker: u32) -> Mark {
        let number = u64::from(worker % MARKED);
        Mark {
            marks: Arc::clone(&self.marks),
            at: number * KINDS as u64,
            asked: QUESTIONS + number * ASKED as u64,
        }
    }
}

/// The number and the length of a page that was written.
fn head(page: &OwnedFd) -> Option<(u64, u64)> {
    let mut head = [0; HEAD];
    let got = pread(page, &mut head, 0).ok()?;
    let (number, length) = head.split_first_chunk::<8>()?;
    let number = u64::from_ne_bytes(*number);
    let length = u64::from_ne_bytes(*length.first_chunk::<8>()?);
    (got == head.len() && number > 0).then_some((number, length))
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = pwrite(fd, bytes, at)?;
        bytes = bytes.get(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}

/// What is true of a channel right now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A line was read in part.
    Reading,
    /// A line was written in part.
    Writing,
    /// A ping waits for its answer.
    Pinging,
    /// Its process is held still.
    Held,
}

/// The marks of one worker: what is true of its channel, and which of its system calls were heard last. They cost a system
/// call when they change, which is rare.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    marks: Arc<OwnedFd>,
    at: u64,
    asked: u64,
}

impl Mark {
    pub(crate) fn set(&self, kind: Kind, on: bool) {
        // Without it the next primary only knows less.
        let _ = pwrite(&self.marks, &[u8::from(on)], self.at + kind as u64);
    }

    pub(crate) fn is_set(&self, kind: Kind) -> bool {
        let mut byte = [0];
        pread(&self.marks, &mut byte, self.at + kind as u64).is_ok_and(|n| n == 1 && byte[0] != 0)
    }

    /// The kernel told what waits for an answer now, by a number that is one more than the last one. It tells it once only.
    pub(crate) fn asks(&self, number: u64, what: &[u8; QUESTION]) {
        let place = number % LAST as u64 * QUESTION as u64;
        let _ = pwrite(&self.marks, what, self.asked + place);
    }

    /// What the kernel told last, answered or not, in no order.
    pub(crate) fn asked(&self) -> Vec<[u8; QUESTION]> {
        let mut all = [0; ASKED];
        let got = pread(&self.marks, &mut all, self.asked).unwrap_or(0);
        let parts = all.get(..got).unwrap_or_default().chunks_exact(QUESTION);
        let questions = parts.filter_map(|part| part.first_chunk().copied());
        questions.filter(|question| *question != [0; QUESTION]).collect()
    }

    /// As for a new worker.
    pub(crate) fn clear(&self) {
        let _ = pwrite(&self.marks, &[0; KINDS], self.at);
        let _ = pwrite(&self.marks, &[0; ASKED], self.asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read() {
        let mut book = Book::new().expect("a book");
        assert_eq!(book.read().expect("read"), None);
        for text in ["one", "a longer one", "two", ""] {
            book.write(text.into()).expect("written");
            assert_eq!(book.read().expect("read").as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn a_page_that_is_half_written_does_not_count() {
        let mut book = Book::new().expect("a book");
        book.write(b"old".to_vec()).expect("written");
        book.write(b"good".to_vec()).expect("written");
        // The next page's text is there, its number is not.
        write_all(&book.pages[1], b"half", TEXT).expect("written");
        assert_eq!(book.read().expect("read").as_deref(), Some(&b"good"[..]));
        let mut fds: BTreeMap<String, OwnedFd> = NAMES
            .iter()
            .zip([&book.pages[0], &book.pages[1], &book.marks])
            .map(|(name, fd)| ((*name).to_owned(), fd.try_clone().expect("a duplicate")))
            .collect();
        let mut next = Book::inherited(&mut fds).expect("a book");
        next.write(b"new".to_vec()).expect("written");
        assert_eq!(book.read().expect("read").as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn marks_are_each_ones_own() {
        let book = Book::new().expect("a book");
        let (one, two) = (book.mark(1), book.mark(2));
        one.set(Kind::Pinging, true);
        assert!(one.is_set(Kind::Pinging) && !one.is_set(Kind::Reading));
        assert!(!two.is_set(Kind::Pinging));
        one.clear();
        assert!(!one.is_set(Kind::Pinging));
        let last = book.mark(MARKED - 1);
        for mark in [&one, &last] {
            assert!(mark.asked().is_empty());
            // Around and around.
            for number in u64::MAX - 2 * LAST as u64..=u64::MAX {
                mark.asks(number, &[number.to_le_bytes()[0]; QUESTION]);
            }
            let mut asked = mark.asked();
            asked.sort_unstable();
            let last: Vec<_> =
                (256 - LAST..256).map(|number| [number.to_le_bytes()[0]; QUESTION]).collect();
            assert_eq!(asked, last);
        }
        assert!(two.asked().is_empty());
        assert!(!one.is_set(Kind::Reading) && !last.is_set(Kind::Held));
        one.clear();
        assert_eq!((one.asked().len(), last.asked().len()), (0, LAST));
    }

    /// An earlier version had no place for questions.
    #[test]
    fn a_shorter_page_of_marks_will_do() {
        let book = Book::new().expect("a book");
        ftruncate(&book.marks, QUESTIONS).expect("shorter");
        let mark = book.mark(3);
        assert!(mark.asked().is_empty());
        mark.asks(5, &[1; QUESTION]);
        assert_eq!(mark.asked(), [[1; QUESTION]]);
        assert!(book.mark(2).asked().is_empty());
    }
}
