//! `phalanx run`: a program on the crate, N times, in the foreground.

use crate::args::Run;
use crate::failure::Failure;
use crate::log;
use phalanx::{Address, Cluster, Error, LISTEN_VARIABLE, Settings};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(crate) fn run(options: Run) -> Result<(), Failure> {
    let program = find(&options.program)?;
    log::to_stderr();
    let mut settings = Settings { exec: Some(program), args: options.args, ..Settings::default() };
    if !options.listen.is_empty() {
        let list: Vec<String> = options.listen.iter().map(Address::to_string).collect();
        settings.env.push((LISTEN_VARIABLE.into(), list.join(",").into()));
    }
    let name = options.name.unwrap_or_else(|| options.program.to_string_lossy().into_owned());
    tracing::info!(name, workers = options.instances, pid = std::process::id(), "primary");
    let mut cluster = Cluster::new().workers(options.instances).settings(settings);
    if let Some(policy) = options.policy {
        cluster = cluster.policy(policy);
    }
    for address in options.listen {
        cluster = cluster.listen(address);
    }
    Ok(cluster.run_as_primary()?)
}

/// The program's file: as the shell would find it, or in the current directory.
fn find(program: &OsString) -> Result<PathBuf, Error> {
    let path = Path::new(program);
    let failed = |source| Error::Start { program: program.to_string_lossy().into_owned(), source };
    let named = path.components().count() > 1;
    if !named {
        let places = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&places)
            .map(|place| place.join(path))
            .find(|candidate| check(candidate).is_ok());
        if let Some(found) = found {
            return Ok(found);
        }
    }
    check(path).map_err(failed)?;
    // Without a slash the program would be looked for in $PATH.
    std::path::absolute(path).map_err(failed)
}

fn check(path: &Path) -> io::Result<()> {
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not executable"));
    }
    Ok(())
}
