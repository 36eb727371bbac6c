//! Reloads when files change.

use super::quiet::{Circle, Quiet};
use super::rules::PATTERN_FILES;
use super::tree::{Tree, Trouble, Wish};
use super::{Ended, Reloads};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind};
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Directories come and go in numbers: they are looked for together.
const TOGETHER: Duration = Duration::from_millis(50);
/// How often it is looked whether what went away is back.
const BACK: Duration = Duration::from_millis(500);

/// What the watcher's thread has seen and nobody has dealt with.
#[derive(Default)]
struct Seen {
    tree: Option<Arc<Tree>>,
    /// The first file.
    changed: Option<PathBuf>,
    /// Directories came or went.
    other_tree: bool,
}

#[derive(Clone, Default)]
struct Eyes {
    seen: Arc<Mutex<Seen>>,
    wake: Arc<Notify>,
}

impl Eyes {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the watcher's thread; whoever reads a file brings it here, so it is quick.
    fn see(&self, event: notify::Result<notify::Event>) {
        let mut seen = self.lock();
        let before = (seen.other_tree, seen.changed.is_some());
        match event {
            Ok(event) if event.need_rescan() => {
                seen.other_tree = true;
                seen.note(Path::new("files"));
            }
            Ok(event) => match meaning(event.kind) {
                Meaning::Nothing => return,
                meaning => event.paths.iter().for_each(|path| seen.judge(path, meaning)),
            },
            Err(error) => tracing::debug!("watching files: {error}"),
        }
        if before != (seen.other_tree, seen.changed.is_some()) || seen.changed.is_some() {
            drop(seen);
            self.wake.notify_one();
        }
    }
}

/// What a fact of the watcher's may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    File,
    Directory,
    /// A name leads elsewhere now: to a file, or to a directory.
    Name,
}

const fn meaning(kind: EventKind) -> Meaning {
    match kind {
        EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder) => {
            Meaning::Directory
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Data(_)) => Meaning::File,
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
            Meaning::Name
        }
        _ => Meaning::Nothing,
    }
}

impl Seen {
    fn judge(&mut self, path: &Path, meaning: Meaning) {
        let Some(tree) = self.tree.clone() else { return };
        let leads = meaning != Meaning::File && tree.links.contains(path);
        if leads {
            self.other_tree = true;
            return self.note(path);
        }
        let patterns = path.file_name().is_some_and(|n| PATTERN_FILES.iter().any(|p| n == *p));
        let directory = match meaning {
            Meaning::Directory => true,
            Meaning::Name => tree.directories.contains(path) || path.is_dir(),
            Meaning::File | Meaning::Nothing => false,
        };
        if patterns || directory && (tree.rules.enters(path) || tree.directories.contains(path)) {
            self.other_tree = true;
        }
        if !directory && tree.rules.counts(path) {
            self.note(path);
        }
    }

    fn note(&mut self, path: &Path) {
        self.changed.get_or_insert_with(|| path.to_owned());
    }
}

/// Watches until the cluster has stopped, or nothing can be watched; that is said.
pub(super) async fn watch(wish: Wish, reloads: Reloads) {
    let eyes = Eyes::default();
    let watcher = match open(&eyes) {
        Ok(watcher) => Arc::new(Mutex::new(watcher)),
        Err(error) => return give_up(&Trouble::Watching(error)),
    };
    let mut state = State {
        quiet: Quiet::new(wish.watch.delay),
        circle: Circle::default(),
        wish: Arc::new(wish),
        eyes,
        watcher,
        begin: Instant::now(),
        first: None,
    };
    match state.look(true).await {
        Ok(tree) => say_what(&tree, &state.wish),
        Err(trouble) => return give_up(&trouble),
    }
    if let Err(trouble) = state.go_on(&reloads).await {
        give_up(&trouble);
    }
}

fn open(eyes: &Eyes) -> notify::Result<RecommendedWatcher> {
    let eyes = eyes.clone();
    notify::recommended_watcher(move |event| eyes.see(event))
}

fn say_what(tree: &Tree, wish: &Wish) {
    let paths: Vec<String> = wish.paths.iter().map(|path| path.display().to_string()).collect();
    let count = tree.directories.len();
    tracing::info!("watching {} ({count} directories)", paths.join(", "));
    for path in &tree.missing {
        tracing::warn!("{} is not there: it is watched when it is", path.display());
    }
}

fn give_up(trouble: &Trouble) {
    let end = "files are not watched, and the application goes on without";
    match trouble {
        Trouble::Pattern(why) => tracing::error!("{end}: --ignore-watch: {why}"),
        Trouble::TooMany => tracing::error!(
            "{end}: there are too many directories; `--watch PATH` names those that matter, `--ignore-watch` those that do not"
        ),
        Trouble::Watching(error) => match limit(error) {
            Some(limit) => tracing::error!(
                "{end}: the kernel's limit {limit} is reached; `sysctl -w {limit}=524288` raises it, `--watch PATH` and `--ignore-watch` need less"
            ),
            None => tracing::error!("{end}: {error}"),
        },
    }
}

/// The limit that was met.
fn limit(error: &notify::Error) -> Option<&'static str> {
    match &error.kind {
        ErrorKind::MaxFilesWatch => Some("fs.inotify.max_user_watches"),
        ErrorKind::Io(error) if matches!(error.raw_os_error(), Some(24 | 23)) => {
            Some("fs.inotify.max_user_instances")
        }
        _ => None,
    }
}

struct State {
    wish: Arc<Wish>,
    eyes: Eyes,
    watcher: Arc<Mutex<RecommendedWatcher>>,
    quiet: Quiet,
    circle: Circle,
    begin: Instant,
    /// What no reload has followed yet.
    first: Option<PathBuf>,
}

impl State {
    async fn go_on(&mut self, reloads: &Reloads) -> Result<(), Trouble> {
        let mut reloading = None;
        loop {
            self.gather();
            let other_tree = std::mem::take(&mut self.eyes.lock().other_tree);
            if other_tree {
                tokio::time::sleep(TOGETHER).await;
                self.eyes.lock().other_tree = false;
                self.look(false).await?;
                continue;
            }
            let missing = self.missing();
            let due = self.quiet.due().filter(|_| reloading.is_none());
            let wait = due.map(|due| due.saturating_sub(self.begin.elapsed()));
            tokio::select! {
                () = self.eyes.wake.notified() => {}
                () = tokio::time::sleep(BACK), if !missing.is_empty() => {
                    // Asked by its name: nothing tells of it.
                    self.eyes.lock().other_tree = missing.iter().any(|path| path.exists());
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    if self.quiet.take(self.begin.elapsed()) {
                        let words = self.words();
                        if self.circle.begins(self.begin.elapsed()) {
                            tracing::warn!("{words} again, right after a reload: if the program itself writes that, it is reloaded for ever; `--ignore-watch` leaves it out");
                        }
                        reloading = Some(reloads.after_others(words));
                    }
                }
                ended = join(&mut reloading) => {
                    reloading = None;
                    self.circle.ended(self.begin.elapsed());
                    if ended == Ended::Stopping {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What was seen since.
    fn gather(&mut self) {
        if let Some(path) = self.eyes.lock().changed.take() {
            self.first.get_or_insert(path);
            self.quiet.changed(self.begin.elapsed());
        }
    }

    /// Why it is reloaded.
    fn words(&mut self) -> String {
        let first = self.first.take().unwrap_or_default();
        let here = self.wish.here.canonicalize().unwrap_or_default();
        let first = first.strip_prefix(&here).unwrap_or(&first).display().to_string();
        format!("{first} changed")
    }

    fn missing(&self) -> Vec<PathBuf> {
        self.eyes.lock().tree.as_ref().map(|tree| tree.missing.clone()).unwrap_or_default()
    }

    /// Looks for what there is to watch.
    async fn look(&mut self, at_first: bool) -> Result<Arc<Tree>, Trouble> {
        let (wish, watcher) = (Arc::clone(&self.wish), Arc::clone(&self.watcher));
        let known = self.eyes.lock().tree.clone();
        let looking = tokio::task::spawn_blocking(move || look(&wish, known.as_deref(), &watcher));
        let tree = match looking.await {
            Ok(tree) => Arc::new(tree?),
            Err(error) => {
                let why = notify::Error::generic(&error.to_string());
                return Err(Trouble::Watching(why));
            }
        };
        let mut seen = self.eyes.lock();
        seen.tree = Some(Arc::clone(&tree));
        if let Some(path) = tree.news.as_ref().filter(|_| !at_first) {
            seen.note(path);
            self.eyes.wake.notify_one();
        }
        drop(seen);
        Ok(tree)
    }
}

fn look(
    wish: &Wish,
    known: Option<&Tree>,
    watcher: &Mutex<RecommendedWatcher>,
) -> Result<Tree, Trouble> {
    let mut watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
    let before = known.map(|tree| tree.directories.clone()).unwrap_or_default();
    // One that is another under the same name has another watch; what is gone has none any more.
    let there: BTreeSet<PathBuf> = before.iter().filter(|path| path.is_dir()).cloned().collect();
    let mut watching = |path: &Path| watcher.watch(path, RecursiveMode::NonRecursive);
    let tree = Tree::look(wish, &there, &mut watching)?;
    for gone in before.difference(&tree.directories) {
        let _ = watcher.unwatch(gone);
    }
    Ok(tree)
}

async fn join(reloading: &mut Option<tokio::task::JoinHandle<Ended>>) -> Ended {
    match reloading {
        Some(task) => task.await.unwrap_or(Ended::Failed),
        None => std::future::pending().await,
    }
}
