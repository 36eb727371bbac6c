//! The files of a directory, and no others: no link leads out of it, and what begins with a dot is not there.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::future::{Future, Ready, ready};
use std::io::{self, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File as Served};

/// What others may read although its name begins with a dot (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// A directory by its name. It is looked up for each request: what was put in its place, or where a link leads now, is
/// what is served.
#[derive(Clone, Debug)]
pub(super) struct Root(Arc<Path>);

impl Root {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.into())
    }
}

type Later<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for Root {
    type File = Opened;
    type Metadata = Metadata;
    type OpenFuture = Later<Opened>;
    type MetadataFuture = Later<Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let root = Arc::clone(&self.0);
        Box::pin(aside(move || {
            // A pipe without a writer would be waited for.
            let file = find(&root, &path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            let about = file.metadata()?;
            match about.is_file() {
                true => Ok(Opened { file: file.into(), about }),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        }))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let root = Arc::clone(&self.0);
        Box::pin(aside(move || {
            let about = find(&root, &path, OFlags::PATH)?.metadata()?;
            match about.is_file() || about.is_dir() {
                true => Ok(about),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        }))
    }
}

/// A disk, or another machine's, may take its time.
async fn aside<T: Send + 'static>(
    deed: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(deed).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// What a path means within a root; all that somebody may have typed that is not there is simply not there.
fn find(root: &Path, path: &Path, flags: OFlags) -> io::Result<File> {
    let absent = || io::Error::from(io::ErrorKind::NotFound);
    let inside = plain(path).ok_or_else(absent)?;
    beneath(root, &inside, flags | OFlags::CLOEXEC).map_err(|errno| match errno {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::XDEV
        | Errno::ACCESS
        | Errno::PERM
        | Errno::NXIO
        | Errno::INVAL => absent(),
        other => other.into(),
    })
}

/// The path without what is about nothing; `None` if it is none that is shown.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let hides = |(at, name): (usize, &&std::ffi::OsStr)| {
        name.as_encoded_bytes().starts_with(b".") && (at > 0 || **name != *WELL_KNOWN)
    };
    if names.iter().enumerate().any(hides) {
        return None;
    }
    let path: PathBuf = names.iter().collect();
    Some(if names.is_empty() { ".".into() } else { path })
}

/// Opens it without leaving the root, whatever links say.
#[cfg(target_os = "linux")]
fn beneath(root: &Path, path: &Path, flags: OFlags) -> Result<File, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    let top = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(&top, path, flags, Mode::empty(), rules) {
        // It may be a link with an absolute name of something within.
        Err(Errno::XDEV) => {
            let (_, inside) = real(root, path)?;
            let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(&top, inside, flags, Mode::empty(), rules).map(File::from)
        }
        // An old kernel, or one that is not allowed to.
        Err(Errno::NOSYS | Errno::PERM) => as_named(root, path, flags),
        opened => opened.map(File::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn beneath(root: &Path, path: &Path, flags: OFlags) -> Result<File, Errno> {
    as_named(root, path, flags)
}

/// Opens what it is really called, if that is within the root.
fn as_named(root: &Path, path: &Path, flags: OFlags) -> Result<File, Errno> {
    let (real, _) = real(root, path)?;
    open(real, flags | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
}

/// What a path is really called: by its whole name, and as seen from the root.
fn real(root: &Path, path: &Path) -> Result<(PathBuf, PathBuf), Errno> {
    let whole = |path: &Path| {
        path.canonicalize().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))
    };
    let root = whole(root)?;
    let real = whole(&root.join(path))?;
    let inside = real.strip_prefix(&root).map_err(|_| Errno::XDEV)?;
    let inside = if inside.as_os_str().is_empty() { ".".into() } else { inside.to_owned() };
    Ok((real, inside))
}

/// A file that is open.
pub(super) struct Opened {
    file: tokio::fs::File,
    about: Metadata,
}

impl Served for Opened {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.about.clone()))
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(context, buffer)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_that_are_shown() {
        for (path, inside) in [
            ("./.", Some(".")),
            ("././a/b.html", Some("a/b.html")),
            (".well-known/x", Some(".well-known/x")),
            ("a/.well-known", None),
            (".env", None),
            ("a/.git/config", None),
            ("../a", None),
            ("/a", None),
        ] {
            assert_eq!(plain(Path::new(path)), inside.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn links_that_lead_out_lead_nowhere() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("in")).expect("made");
        fs::write(root.join("in/page"), "").expect("written");
        fs::write(directory.path().join("secret"), "").expect("written");
        for (to, link) in [
            ("in/page", "relative"),
            (root.join("in/page").to_str().expect("text"), "absolute"),
            (root.join("in").to_str().expect("text"), "all"),
            ("../secret", "out"),
            (directory.path().join("secret").to_str().expect("text"), "far-out"),
            ("../../secret", "in/deep"),
            ("/", "everything"),
            ("loop", "loop"),
        ] {
            symlink(to, root.join(link)).expect("linked");
        }
        for kernel in [true, false] {
            let opens = |path: &str| {
                let (path, flags) = (Path::new(path), OFlags::RDONLY);
                let opened =
                    if kernel { beneath(&root, path, flags) } else { as_named(&root, path, flags) };
                opened.is_ok()
            };
            for good in ["in/page", "relative", "absolute", "all/page", "."] {
                assert!(opens(good), "{good}");
            }
            for bad in ["out", "far-out", "in/deep", "everything/etc/passwd", "loop", "none"] {
                assert!(!opens(bad), "{bad}");
            }
        }
    }
}
