//! `phalanx serve`: a directory of files over HTTP, as an application like any other.
//!
//! Its workers are this very program, on the library: so they share the port by any policy, and a reload loses nothing.
//! What is served is said by variables, which pm2 has too: an application of a configuration file whose script is `serve`
//! is the same.

mod answer;
mod root;
mod site;

use crate::args::Run;
use crate::args::serve::{Serve, said};
use crate::failure::{Failure, USAGE};
use crate::home::{Home, Spec, name_of};
use crate::{config, intent, log, show, start};
use answer::Answers;
use phalanx::{Address, Cluster, ListenOptions, Program, Settings, Worker};
use site::Site;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The script that means it.
const SCRIPT: &str = "serve";
/// The command line of its workers.
const WORKER: &str = "serve-files";

/// `phalanx serve`. The name of what was started.
pub(crate) fn serve(options: Serve) -> Result<String, Failure> {
    if options.ftp {
        return Err(Failure::tool(USAGE, "--ftp is pm2's, and directories are not listed here")
            .hint("a page with links does it: an index.html"));
    }
    let mut said = said(&options.run.words);
    if let Some(long) = said.nothing {
        return Err(Failure::tool(USAGE, format!("--{long} means nothing to a server of files"))
            .hint("`phalanx serve --help` shows what does"));
    }
    if !said.needless.is_empty() {
        let names = said.needless.join(", ");
        show::say(&format!("{names}: not needed here, files are read for each request"));
    }
    let Serve { run, spa, basic_auth_username, basic_auth_password, .. } = options;
    let mut run = run.settled();
    let mut variables = place(&run.program, &run.args)?;
    let auth = [(site::USERNAME, basic_auth_username), (site::PASSWORD, basic_auth_password)];
    let auth = auth.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let auth: Vec<(String, String)> = auth.collect();
    let on = [(site::SPA, spa), (site::AUTH, !auth.is_empty())].into_iter().filter(|(_, on)| *on);
    variables.extend(on.map(|(name, _)| (name.to_owned(), "true".to_owned())));
    variables.extend(auth);
    let site = Site::of(|name| variables.get(name).cloned().or_else(|| of_this_process(name)))?;
    site.check()?;
    if run.name.is_none() {
        let name = name_for(&site.address);
        said.argv.push(format!("--name={name}"));
        run.name = Some(name);
    }
    said.argv.push(SCRIPT.into());
    // Nothing here is meant by the words that it was called with.
    run.program.clear();
    run.args.clear();
    let mut spec = intent::of_command_line(&run, said.argv)?;
    spec.env.extend(variables);
    if run.habits.no_daemon {
        return Err(in_foreground(&spec));
    }
    let name = spec.name.clone();
    start::start_new(&Home::find()?, spec, &run)?;
    Ok(name)
}

/// PATH and PORT, as variables.
fn place(words: &[OsString], more: &[OsString]) -> Result<BTreeMap<String, String>, Failure> {
    let mut words = words.iter().chain(more).map(|word| {
        word.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::tool(USAGE, format!("`{}` is no text", word.to_string_lossy().escape_debug()))
        })
    });
    let (path, port) = (words.next().transpose()?, words.next().transpose()?);
    if let Some(word) = words.next().transpose()? {
        let message = format!("`{}` is one word too many", word.escape_debug());
        return Err(Failure::tool(USAGE, message).hint("`phalanx serve PATH PORT` is all there is"));
    }
    let or_else = |word: Option<String>, name, otherwise: &str| {
        let said = word.or_else(|| of_this_process(name).filter(|value| !value.is_empty()));
        said.unwrap_or_else(|| otherwise.to_owned())
    };
    let path = config::absolute(&intent::here()?, or_else(path, site::PATH, site::DEFAULT_PATH));
    let port = or_else(port, site::PORT, site::DEFAULT_PORT);
    Ok([(site::PATH, path.display().to_string()), (site::PORT, port)]
        .map(|(name, value)| (name.to_owned(), value))
        .into())
}

fn of_this_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// As pm2 calls it.
fn name_for(address: &Address) -> String {
    match address {
        Address::Ip(address) => format!("static-page-server-{}", address.port()),
        Address::Unix(path) => {
            name_of(&format!("static-page-server-{}", path.display()).replace('/', "-"))
        }
    }
}

/// This process becomes its primary. Returns only if it cannot.
fn in_foreground(spec: &Spec) -> Failure {
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(error) => return Failure::os("find this program")(error),
    };
    let mut command = Command::new(this);
    command.arg0("phalanx").arg("run").args(&spec.argv).envs(of_site(&spec.env));
    Failure::os(format!("start {}", spec.name))(command.current_dir(&spec.cwd).exec())
}

/// Those of an environment that say what is served.
fn of_site(env: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    let all = env.iter().filter(|(name, _)| name.starts_with(site::PREFIX));
    all.map(|(name, value)| (name.clone(), value.clone()))
}

/// What is served is what the application is, and nothing of a shell's: it stays when the environment is taken anew.
pub(crate) fn keep(old: &Spec, env: &mut BTreeMap<String, String>) {
    if old.argv.last().is_some_and(|word| word == SCRIPT) {
        env.retain(|name, _| !name.starts_with(site::PREFIX));
        env.extend(of_site(&old.env));
    }
}

/// How its workers are started, if files are what is to be served: the script `serve`, unless a program of that name is
/// there and no variable says what is served.
///
/// # Errors
/// There is nothing to serve.
pub(crate) fn settings(options: &Run) -> Result<Option<Settings>, Failure> {
    if !is_meant(options) {
        return Ok(None);
    }
    let site = Site::of(of_this_process)?;
    // Who took over serves on, and starts workers for what will be there again.
    if phalanx::rehearses() || !phalanx::takes_over() {
        site.check()?;
    }
    let all: BTreeMap<String, String> = intent::of_this_shell();
    // Whatever else of the environment is not passed on.
    let env = of_site(&all).map(|(name, value)| (name.into(), value.into())).collect();
    Ok(Some(Settings { args: vec![WORKER.into()], env, ..Settings::default() }))
}

/// Where it listens, if it does: that is found out before any worker runs.
///
/// # Errors
/// That is no address.
pub(crate) fn address(options: &Run) -> Result<Option<Address>, Failure> {
    match is_meant(options) {
        true => Ok(Some(Site::of(of_this_process)?.address)),
        false => Ok(None),
    }
}

fn is_meant(options: &Run) -> bool {
    let [word] = options.program.as_slice() else { return false };
    let says = || {
        let mut names = std::env::vars_os().map(|(name, _)| name);
        names.any(|name| name.as_encoded_bytes().starts_with(site::PREFIX.as_bytes()))
    };
    word == SCRIPT
        && options.args.is_empty()
        && options.interpreter.is_none()
        && (says() || Program::new(SCRIPT).settings().is_err())
}

/// Serves, if that is what this process was started for.
pub(crate) fn as_worker() -> Option<Result<(), Failure>> {
    let mut words = std::env::args_os().skip(1);
    let is_one = words.next().is_some_and(|word| word == WORKER) && words.next().is_none();
    (is_one && phalanx::is_worker()).then(|| {
        let _rest = log::to_stderr();
        Ok(Cluster::new().run(work)?)
    })
}

async fn work(worker: Worker) -> Result<(), Failure> {
    let site = Site::of(of_this_process)?;
    let address = site.address.clone();
    let answers = Answers::of(site);
    match &address {
        Address::Unix(path) => {
            let listener = worker.listen_unix(path, &ListenOptions::default()).await?;
            phalanx::http::serve(listener, answers).await?;
        }
        Address::Ip(_) => {
            phalanx::http::serve(worker.listen(&address).await?, answers).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |text: &str| name_for(&text.parse().expect(text));
        assert_eq!(name("8080"), "static-page-server-8080");
        assert_eq!(name("127.0.0.1:81"), "static-page-server-81");
        assert_eq!(name("unix:/run/a b.sock"), "static-page-server--run-a-b.sock");
    }

    #[test]
    fn what_is_served_stays() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let old = Spec {
            argv: vec!["--name=x".into(), SCRIPT.into()],
            env: map(&[(site::PATH, "/srv"), ("A", "1")]),
            ..Spec::default()
        };
        let mut env = map(&[(site::PATH, "/other"), (site::SPA, "true"), ("A", "2")]);
        keep(&old, &mut env);
        assert_eq!(env, map(&[(site::PATH, "/srv"), ("A", "2")]));
    }
}
