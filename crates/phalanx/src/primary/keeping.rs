//! What this primary does for the one after it: its keeper has duplicates of all descriptors, and the book says what
//! they are.

use super::estate::Named;
use super::record::Fact;
use super::shell::Shell;
use crate::keeper::book::{Book, Mark, NAMES};
use crate::keeper::post::{self, Word};
use crate::sys;
use phalanx_core::time::Time;
use phalanx_core::worker::{Exit, WorkerId};
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::{mpsc, watch};

/// How soon a keeper that had no room is told again.
const RETRY: Duration = Duration::from_millis(20);

/// So many facts may be dealt with before the next primary's book is brought up to date. It is written as a whole: when
/// all workers start at once, not anew for each step of each of them.
const FACTS_AT_ONCE: u32 = 32;

/// Ends that are remembered: a worker's is waited for before so many others come.
const MOST_ENDS: usize = 4096;

/// How processes ended that are no children of this one: by their numbers.
pub(super) type Ends = watch::Sender<BTreeMap<u32, Exit>>;

/// The keeper, and what it was told.
#[derive(Default)]
pub(super) struct Keeping {
    post: Option<Arc<OwnedFd>>,
    book: Option<Book>,
    /// What the keeper has.
    kept: BTreeSet<String>,
    /// Something may have changed.
    pub(super) changed: bool,
    /// How often it was put off for facts that waited.
    put_off: u32,
    /// Which descriptors it was last brought up to date with, if that went well.
    settled: Option<u64>,
    /// When the first primary began, by the clock that is the same for all.
    pub(super) begun: OnceLock<Duration>,
    /// The keeper knows that this primary hears signals.
    ready: bool,
    /// The keeper is to be told again then.
    pub(super) again: Option<Time>,
    /// What it told.
    pub(super) ends: Arc<Ends>,
}

impl Keeping {
    /// With what was found at the start.
    pub(super) fn new(post: Option<Arc<OwnedFd>>, book: Option<Book>) -> Self {
        let book = book.or_else(|| {
            post.as_ref()?;
            // Without memory for it, nothing is kept.
            Book::new()
                .inspect_err(|error| {
                    tracing::error!("what a next primary needs cannot be kept: {error}");
                })
                .ok()
        });
        Self { post, book, changed: true, ..Self::default() }
    }

    /// Hears the keeper.
    pub(super) fn listen(&self, facts: mpsc::Sender<Fact>) {
        if let Some(post) = &self.post {
            tokio::spawn(hear(Arc::clone(post), Arc::clone(&self.ends), facts));
        }
    }

    /// It is told what it has; from now on it is told what changes.
    pub(super) fn has(&mut self, names: impl IntoIterator<Item = String>) {
        self.kept.extend(names);
        self.kept.extend(self.book.iter().flat_map(|_| NAMES).map(str::to_owned));
    }

    pub(super) fn is_kept(&self) -> bool {
        self.post.is_some()
    }

    /// Tells the keeper something that has no descriptor.
    pub(super) fn tell(&self, word: &Word) {
        if let Some(post) = &self.post {
            // One that has no room for it does without.
            let _ = post::send(post, word, None::<&OwnedFd>);
        }
    }

    pub(super) fn post(&self) -> Option<&Arc<OwnedFd>> {
        self.post.as_ref()
    }

    /// Where it is marked what is true of a worker's channel right now.
    pub(super) fn mark(&self, worker: WorkerId) -> Option<Mark> {
        self.book.as_ref().map(|book| book.mark(worker.0))
    }

    /// The book's descriptors, under their names.
    pub(super) fn pages(&self) -> Named {
        let Some(book) = &self.book else { return Named::new() };
        let [first, second] = &book.pages;
        NAMES
            .iter()
            .map(|name| (*name).to_owned())
            .zip([first, second, &book.marks].map(Arc::clone))
            .collect()
    }

    /// There is no keeper any more.
    pub(super) fn lose(&mut self) {
        (self.post, self.settled) = (None, None);
        self.kept.clear();
    }

    /// Writes it down, whoever reads it.
    pub(super) fn write(&mut self, text: Vec<u8>) -> io::Result<()> {
        let book = self.book.as_mut().ok_or_else(|| io::Error::other("there is no book"))?;
        book.write(text)
    }

    /// Brings the keeper and the book up to date. Descriptors come before the text that names them, and go after; `None`:
    /// they are the same as last time.
    fn settle(&mut self, text: Vec<u8>, fds: Option<Named>) -> io::Result<()> {
        let Some(post) = &self.post else { return Ok(()) };
        let Some(mut fds) = fds else { return self.write(text) };
        fds.extend(self.pages());
        for (name, fd) in &fds {
            if !self.kept.contains(name) {
                post::send(post, &Word::Keep(name.clone()), Some(fd.as_ref()))?;
                self.kept.insert(name.clone());
            }
        }
        if let Some(book) = &mut self.book {
            book.write(text)?;
        }
        // It has all of these; if it has no more, nothing is to be dropped.
        let none_gone = self.kept.len() == fds.len();
        let gone = self.kept.iter().filter(|name| !none_gone && !fds.contains_key(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            post::send(post, &Word::Drop(name.clone()), None::<&OwnedFd>)?;
            self.kept.remove(&name);
        }
        if !std::mem::replace(&mut self.ready, true) {
            post::send(post, &Word::Ready, None::<&OwnedFd>)?;
        }
        Ok(())
    }
}

/// Hears what the keeper says, until it is gone.
async fn hear(post: Arc<OwnedFd>, ends: Arc<Ends>, facts: mpsc::Sender<Fact>) {
    let Ok(watched) = sys::watch(post, Interest::READABLE) else { return };
    loop {
        let Ok(mut guard) = watched.readable().await else { return };
        match post::receive(watched.get_ref()) {
            Ok(Some((Word::Exited(pid, exit), _))) => {
                ends.send_modify(|ends| {
                    if ends.len() >= MOST_ENDS {
                        ends.pop_first();
                    }
                    ends.insert(pid, exit);
                });
            }
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Ok(None) | Err(_) => {
                let _ = facts.send(Fact::Unkept).await;
                return;
            }
        }
    }
}

impl Shell {
    /// Lets the keeper know what changed, if it may have.
    pub(super) fn settle_estate(&mut self) {
        let now = self.now();
        let late = self.keeping.again.is_some_and(|at| at <= now);
        if !self.keeping.is_kept() || !(self.keeping.changed || late) {
            return;
        }
        // What waits may change it again.
        if !late && !self.has_no_facts() && self.keeping.put_off < FACTS_AT_ONCE {
            self.keeping.put_off += 1;
            self.keeping.again.get_or_insert(now.after(RETRY));
            return;
        }
        self.keeping.put_off = 0;
        let (text, mark) = (self.estate_text(), self.descriptors_mark());
        let fds = (self.keeping.settled != Some(mark)).then(|| self.descriptors());
        self.keeping.changed = false;
        self.keeping.again = None;
        self.keeping.settled = None;
        match self.keeping.settle(text, fds) {
            Ok(()) => self.keeping.settled = Some(mark),
            // It has much to do; a descriptor more is in flight than may be.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ETOOMANYREFS)) =>
            {
                self.keeping.again = Some(now.after(RETRY));
            }
            // Its end is heard otherwise.
            Err(error) => tracing::debug!("the keeper cannot be told: {error}"),
        }
    }
}
