//! Reloads that come by themselves: when files change, at certain times; and what a reload finds anew.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "habits/site.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod site;
#[path = "tool/support.rs"]
mod support;

use common::{LONG, phalanx};
use site::{Site, put, server, switch, word};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use support::Tool;

/// What a program says is in a file that it has as a module.
fn of_module() -> String {
    server("words", "const words = require('./lib/words.js');")
}

fn module(site: &Path, words: &str) {
    put(&site.join("lib/words.js"), &format!("module.exports = '{words}';\n"));
}

fn watched(more: &[&str]) -> Site {
    let kept = tempfile::tempdir().unwrap().keep();
    let directory = kept.canonicalize().unwrap();
    for name in ["lib", "node_modules/x", "dist"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    fs::write(directory.join("server.js"), of_module()).unwrap();
    fs::write(directory.join(".gitignore"), "dist\n").unwrap();
    module(&directory, "one");
    let mut command = phalanx(["run", "server.js", "-i", "2", "--watch"].iter().chain(more));
    command.current_dir(&directory).env("PWD", &directory);
    let site = Site::of(command, directory);
    site.cluster.line(0, "watching ");
    site
}

/// How many reloads have begun.
fn reloads(site: &Site) -> usize {
    site.output().matches("rolling reload").count()
}

/// Nothing of it stays.
fn end(site: Site) {
    let directory = site.directory.clone();
    site.cluster.stop();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn changed_files_are_loaded_and_no_request_is_lost() {
    let site = watched(&[]);
    let loads = site.load();
    for words in ["two", "three"] {
        module(&site.directory, words);
        site.until_says(words);
    }
    // What does not count; then what does: if the first had been waited for, there were two more.
    let before = reloads(&site);
    for name in ["node_modules/x/index.js", "dist/out.js", "debug.log", ".env", "lib/.words.js.swp"]
    {
        fs::write(site.directory.join(name), "x").unwrap();
    }
    fs::create_dir_all(site.directory.join("new/deep")).unwrap();
    fs::write(site.directory.join("new/deep/a.js"), "").unwrap();
    site.cluster.until("the reload", || (reloads(&site) > before).then_some(()));
    assert!(site.output().contains("a.js changed"), "{}", site.output());
    // Directories that go and come are watched again, and links that lead elsewhere are followed.
    fs::remove_dir_all(site.directory.join("new")).unwrap();
    fs::rename(site.directory.join("lib"), site.directory.join("old")).unwrap();
    fs::create_dir(site.directory.join("lib")).unwrap();
    module(&site.directory, "four");
    site.until_says("four");
    module(&site.directory, "five");
    site.until_says("five");
    site.lost_nothing(loads);
    end(site);
}

#[test]
fn many_changes_are_few_reloads() {
    let site = watched(&["--watch-delay", "500ms"]);
    for number in 0..2000 {
        fs::write(site.directory.join(format!("lib/{number}.js")), "x").unwrap();
    }
    module(&site.directory, "two");
    site.until_says("two");
    assert!(reloads(&site) <= 5, "{}", site.output());
    end(site);
}

#[test]
fn code_that_does_not_start_is_not_taken() {
    let site = watched(&["--max-restarts", "3"]);
    let loads = site.load();
    put(&site.directory.join("lib/words.js"), "throw new Error('broken on purpose');\n");
    site.cluster.line(0, "the code from before goes on");
    site.until_says("one");
    module(&site.directory, "two");
    site.until_says("two");
    site.lost_nothing(loads);
    end(site);
}

#[test]
fn only_what_is_asked_for() {
    let site = watched(&["lib", "--ext", "js", "--ignore-watch", "skipped private.js"]);
    let before = reloads(&site);
    for name in ["server.css", "lib/a.css", "lib/private.js", "other.js"] {
        fs::write(site.directory.join(name), "x").unwrap();
    }
    module(&site.directory, "two");
    site.until_says("two");
    let said = site.output();
    assert_eq!(reloads(&site), before + 1, "{said}");
    assert!(said.contains("lib/words.js changed"), "{said}");
    end(site);
}

#[test]
fn a_limit_of_the_kernel_is_named_and_the_application_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().canonicalize().unwrap();
    fs::write(directory.join("server.js"), server("'here'", "")).unwrap();
    fs::create_dir_all(directory.join("a/b/c")).unwrap();
    // In a user namespace of its own the limit is nobody else's.
    let script = "echo 2 > /proc/sys/user/max_inotify_watches && exec \"$PHALANX\" run server.js -i 1 --watch";
    let mut command = common::clean("unshare", ["-U", "-r", "sh", "-c", script]);
    command.current_dir(&directory).env("PHALANX", common::PHALANX);
    let site = Site::of(command, directory);
    let said = site.cluster.line(0, "files are not watched");
    assert!(said.contains("fs.inotify.max_user_watches"), "{said}");
    site.until_says("here");
    site.cluster.stop();
}

#[test]
fn a_link_that_is_switched_is_a_change() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().canonicalize().unwrap();
    for name in ["1", "2"] {
        fs::create_dir_all(directory.join("releases").join(name)).unwrap();
        let script = directory.join(format!("releases/{name}/server.js"));
        fs::write(script, server(&format!("'release {name}'"), "")).unwrap();
    }
    let current = directory.join("current");
    symlink("releases/1", &current).unwrap();
    let mut command = phalanx(["run", "server.js", "-i", "2", "--watch"]);
    command.current_dir(&current).env("PWD", &current);
    let site = Site::of(command, directory.clone());
    site.cluster.line(0, "watching ");
    let loads = site.load();
    switch(&current, "releases/2");
    site.until_says("release 2");
    put(&directory.join("releases/2/server.js"), &server("'changed there'", ""));
    site.until_says("changed there");
    site.lost_nothing(loads);
    site.cluster.stop();
}

#[test]
fn at_its_times() {
    let site = Site::run(&server("'here'", ""), &["-i", "2", "-c", "* * * * * *"]);
    let loads = site.load();
    site.cluster
        .until("three reloads", || (site.output().matches(" is done").count() >= 3).then_some(()));
    site.lost_nothing(loads);
    assert!(site.output().contains("cron: rolling reload"), "{}", site.output());
    site.cluster.stop();
}

#[test]
fn a_reload_that_takes_long_is_not_followed_by_those_it_missed() {
    let slow = "const listen = server.listen; server.listen = (...all) => setTimeout(() => listen.apply(server, all), 1500);";
    let site = Site::run(&server("'here'", slow), &["-i", "2", "--cron", "* * * * * *"]);
    site.cluster.line(0, "cron: the reload is left out, because another one is going on");
    site.cluster.stop();
}

#[test]
fn wrong_times_are_refused_with_an_example() {
    let tool = Tool::new();
    for pattern in ["every day", "61 * * * *", "0 0 30 2 *"] {
        tool.run(&["run", "--cron", pattern, "server.js"]).expect(2, &["0 3 * * *", pattern]);
    }
}

/// A directory with a program `node` in it, which tells its workers who it is.
fn runtime(directory: &Path, name: &str) {
    let bin = directory.join(name);
    fs::create_dir(&bin).unwrap();
    let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|place| place.join("node"))
        .find(|node| node.is_file())
        .expect("node");
    let text = format!("#!/bin/sh\nRUNTIME={name} exec {} \"$@\"\n", word(&real));
    fs::write(bin.join("node"), text).unwrap();
    fs::set_permissions(bin.join("node"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn another_runtime_behind_the_same_name() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().canonicalize().unwrap();
    runtime(&directory, "v1");
    runtime(&directory, "v2");
    runtime(&directory, "v3");
    let current = directory.join("current");
    symlink("v1", &current).unwrap();
    fs::write(directory.join("server.js"), server("process.env.RUNTIME", "")).unwrap();
    let first = directory.join("first");
    fs::create_dir(&first).unwrap();
    let path = format!("{}:{}:{}", word(&first), word(&current), std::env::var("PATH").unwrap());
    let mut command = phalanx(["run", "server.js", "-i", "2"]);
    command.current_dir(&directory).env("PATH", path);
    let site = Site::of(command, directory.clone());
    site.until_says("v1");
    let loads = site.load();
    switch(&current, "v2");
    site.cluster.reload(1);
    site.until_says("v2");
    // Found earlier in $PATH from now on.
    symlink("../v3/node", first.join("node")).unwrap();
    site.cluster.reload(2);
    site.until_says("v3");
    // One that is none: nothing begins.
    put(&directory.join("v3/node"), "#!/bin/sh\necho no\n");
    fs::set_permissions(directory.join("v3/node"), fs::Permissions::from_mode(0o755)).unwrap();
    let mark = site.cluster.process.mark();
    site.cluster.process.signal(bench::spawned::Signal::USR2).unwrap();
    site.cluster.line(mark, "the reload does not begin, and nothing has changed");
    site.until_says("v3");
    site.lost_nothing(loads);
    site.cluster.stop();
}

#[test]
fn another_release_behind_the_same_directory() {
    let tool = Tool::new();
    let directory = tool.directory().canonicalize().unwrap();
    for name in ["1", "2", "3"] {
        fs::create_dir_all(directory.join("releases").join(name)).unwrap();
        let begin = "const words = require('fs').readFileSync('words', 'utf8') + ' ' + __dirname.split('/').pop();";
        let script = server("words", begin);
        fs::write(directory.join(format!("releases/{name}/server.js")), script).unwrap();
        fs::write(directory.join(format!("releases/{name}/words")), name).unwrap();
    }
    let current = directory.join("current");
    symlink("releases/1", &current).unwrap();
    let mut command = tool.command(&["start", "server.js", "-i", "2", "--name", "app"]);
    command.current_dir(&current).env("PWD", &current);
    support::finish(support::begin(&mut command)).expect(0, &["listening"]);
    let says = || site::says(tool.address).unwrap();
    assert_eq!(says(), "1 1");
    let load = || bench::load::Load::new(tool.address).clients(4).duration(LONG);
    let loads = [load().start().unwrap(), load().keep_alive(true).start().unwrap()];
    for name in ["2", "3"] {
        switch(&current, format!("releases/{name}"));
        // The one before may be gone by then.
        fs::remove_dir_all(directory.join("releases/1"))
            .or_else(|_| fs::metadata(&current).map(drop))
            .unwrap();
        tool.run(&["reload", "app"]).expect(0, &["is done"]);
        assert_eq!(says(), format!("{name} {name}"));
    }
    for load in loads {
        let outcome = load.stop();
        assert!(outcome.answered > 0 && outcome.failed == 0, "{outcome}");
    }
    tool.run(&["delete", "all"]).expect(0, &[]);
}
