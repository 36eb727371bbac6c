//! What is run on a host, as scripts of sh: pure functions of a deployment.
//!
//! A script comes on the standard input of a `sh` there. So no value passes through more than one shell, and each is one
//! word in single quotes.

use crate::config::Deployment;

/// What a deployment is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Setup,
    Update,
    Ref(String),
    Revert(u32),
    Current,
    Previous,
    List,
    Exec(String),
}

impl Task {
    /// As it is typed.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Update => "update",
            Self::Ref(_) => "ref",
            Self::Revert(_) => "revert",
            Self::Current => "current",
            Self::Previous => "previous",
            Self::List => "list",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether another commit is there afterwards.
    pub(super) const fn brings(&self) -> bool {
        matches!(self, Self::Update | Self::Ref(_) | Self::Revert(_))
    }

    /// Whether it is only asked for an answer.
    pub(super) const fn asks(&self) -> bool {
        matches!(self, Self::Current | Self::Previous | Self::List | Self::Exec(_))
    }
}

/// A part of a task that can fail by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) script: String,
}

/// What is done on each host, in order.
pub(super) fn steps(task: &Task, deployment: &Deployment) -> Vec<Step> {
    let (before, after) = match task {
        Task::Setup => (
            hook("pre-setup", deployment.pre_setup.as_deref(), false),
            hook("post-setup", deployment.post_setup.as_deref(), true),
        ),
        task if task.brings() => (
            hook("pre-deploy", deployment.pre_deploy.as_deref(), true),
            hook("post-deploy", deployment.post_deploy.as_deref(), true),
        ),
        _ => (None, None),
    };
    let own = (task.name(), own(task, deployment));
    let head = head(deployment);
    let all = before.into_iter().chain([own]).chain(after);
    all.map(|(name, body)| Step { name, script: format!("{head}{body}") }).collect()
}

/// A text as one word of a shell.
pub(super) fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A directory there: what is relative is so to the home directory, where a session begins.
fn place(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("\"$HOME\"/{}", word(rest)),
        None if path.starts_with('/') => word(path),
        None => format!("\"$PWD\"/{}", word(path)),
    }
}

/// What all scripts begin with.
fn head(deployment: &Deployment) -> String {
    let path = deployment.path.as_deref().unwrap_or_default();
    let mut text = "set -eu\n".to_owned();
    for (name, value) in &deployment.env {
        text.push_str(&format!("export {name}={}\n", word(value)));
    }
    text.push_str(&format!("deploy_path={}\n{FUNCTIONS}", place(path)));
    text
}

const FUNCTIONS: &str = r#"fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
enter() {
    cd "$deploy_path/$1" 2>/dev/null || fail "$deploy_path/$1 is not there: setup comes first"
    # By that name, and not where the link leads: what is started here follows it at each reload.
    export PWD
}
# A branch is meant as it is at origin, and not as it once was here.
commit_of() {
    if git show-ref --verify --quiet "refs/remotes/origin/$1"; then
        git rev-parse --verify --quiet "refs/remotes/origin/$1^{commit}"
    else
        git rev-parse --verify --quiet "$1^{commit}"
    fi
}
link() {
    if [ -e "$deploy_path/current" ] && [ ! -L "$deploy_path/current" ]; then
        fail "$deploy_path/current is there and no link: move it away"
    fi
    ln -sfn source "$deploy_path/current"
}
count() {
    if [ -f "$deploy_path/.deploys" ]; then
        wc -l <"$deploy_path/.deploys"
    else
        echo 0
    fi
}
# So many deployments before the last one.
before() {
    count=$(count)
    [ "$count" -gt "$1" ] || fail "there are not so many deployments before this one: list shows them"
    sed -n "$((count - $1))p" "$deploy_path/.deploys"
}
about() {
    git --no-pager log -1 --no-color --date=short --format='%h  %cd  %s' "$1" --
}
# Has the files of a commit, and notes it.
bring() {
    link
    git reset --quiet --hard "$1"
    if [ "$(tail -n 1 "$deploy_path/.deploys" 2>/dev/null || true)" != "$1" ]; then
        printf '%s\n' "$1" >>"$deploy_path/.deploys"
    fi
    about "$1"
}
"#;

/// A user's command, in a shell of its own.
fn hook(name: &'static str, command: Option<&str>, inside: bool) -> Option<(&'static str, String)> {
    let place = if inside { "enter current\n" } else { "" };
    command.map(|command| (name, format!("{place}exec sh -c {}\n", word(command))))
}

fn own(task: &Task, deployment: &Deployment) -> String {
    let reference = deployment.reference.as_deref().unwrap_or("origin/HEAD");
    match task {
        Task::Setup => setup(deployment.repo.as_deref().unwrap_or_default(), reference),
        Task::Update => update(reference),
        Task::Ref(reference) => update(reference),
        Task::Revert(n) => {
            format!(
                "enter source\ncommit=$(before {n})\ncommit=$(git rev-parse --verify \"$commit^{{commit}}\")\nbring \"$commit\"\n"
            )
        }
        Task::Current => "enter source\nabout HEAD\n".to_owned(),
        Task::Previous => "enter source\ncommit=$(before 1)\nabout \"$commit\"\n".to_owned(),
        Task::List => LIST.to_owned(),
        Task::Exec(command) => format!("enter current\nexec sh -c {}\n", word(command)),
    }
}

/// May be done again, after it failed, or for a host that came later: what is deployed stays.
fn setup(repo: &str, reference: &str) -> String {
    format!("repo={}\nref={}\n{SETUP}", word(repo), word(reference))
}

const SETUP: &str = r#"mkdir -p "$deploy_path/shared/logs" "$deploy_path/shared/pids"
if [ ! -e "$deploy_path/source" ]; then
    git clone --quiet -- "$repo" "$deploy_path/source"
fi
cd "$deploy_path/source"
origin=$(git config --get remote.origin.url) || fail "$deploy_path/source is there, and no clone: move it away"
case $repo in
    # What is relative was made absolute by git.
    /* | *:*) [ "${origin%/}" = "${repo%/}" ] || fail "$deploy_path/source is a clone of $origin: move it away" ;;
esac
if [ "$(count)" -eq 0 ]; then
    git fetch --quiet --prune --tags --force origin
    commit=$(commit_of "$ref") || fail "there is no $ref in $repo"
    git reset --quiet --hard "$commit"
fi
link
about HEAD
"#;

fn update(reference: &str) -> String {
    format!("ref={}\n{UPDATE}", word(reference))
}

const UPDATE: &str = r#"enter source
git fetch --quiet --prune --tags --force origin
commit=$(commit_of "$ref") || fail "there is no $ref in $(git config --get remote.origin.url)"
bring "$commit"
"#;

/// The newest first, with the number that `revert` takes.
const LIST: &str = r#"enter source
[ "$(count)" -gt 0 ] || fail "nothing was deployed yet"
n=0
sed '1!G;h;$!d' "$deploy_path/.deploys" | while read -r commit; do
    printf '%3d  %s\n' "$n" "$(about "$commit" 2>/dev/null || printf '%s  is not there any more' "$commit")"
    n=$((n + 1))
done
"#;

/// For the standard input of a shell: it has all of it before it begins, so half of a script that got lost does nothing, and
/// no command reads what is not its own.
pub(super) fn for_input(script: &str) -> String {
    format!("{{\n{script}}} </dev/null\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const NASTY: [&str; 10] = [
        "plain",
        "",
        "a b  c",
        "it's",
        "'",
        "\"$HOME\" `id` $(id) \\",
        "two\nlines\n",
        "-n",
        "* ? [a] ~ # ! ; & | < >",
        "ä→€",
    ];

    /// As a host would run it.
    fn run(script: &str) -> (bool, String) {
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(for_input(script).as_bytes()).expect("written");
        drop(input);
        let done = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        (done.status.success(), text.into_owned())
    }

    fn deployment(path: &str) -> Deployment {
        Deployment { path: Some(path.into()), ..Deployment::default() }
    }

    fn script(task: &Task, deployment: &Deployment, step: usize) -> String {
        steps(task, deployment).get(step).expect("such a step").script.clone()
    }

    #[test]
    fn a_word_is_what_it_was() {
        for text in NASTY {
            let said = run(&format!("printf '%s|' {}\n", word(text)));
            assert_eq!(said, (true, format!("{text}|")), "{text:?}");
        }
    }

    #[test]
    fn values_and_commands_are_what_they_were() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["plain", "it's $HOME here", "two\nlines"] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.join("current")).expect("made");
            for value in NASTY {
                let mut all = deployment(path.to_str().expect("a path"));
                all.env = vec![("VALUE".into(), value.into())];
                let command = "printf '%s|' \"$VALUE\" \"${PWD##*/}\"; cat";
                let task = Task::Exec(command.into());
                let said = run(&script(&task, &all, 0));
                assert_eq!(said, (true, format!("{value}|current|")), "{name:?} {value:?}");
            }
        }
    }

    #[test]
    fn what_fails_is_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut all = deployment(directory.path().to_str().expect("a path"));
        all.pre_setup = Some("echo begun; exit 3".into());
        let (done, said) = run(&script(&Task::Setup, &all, 0));
        assert_eq!((done, said.as_str()), (false, "begun\n"));
        for task in [Task::Update, Task::Revert(1), Task::List, Task::Exec("true".into())] {
            let (done, said) = run(&script(&task, &all, 0));
            assert!(!done && said.contains("is not there: setup comes first"), "{task:?}: {said}");
        }
        // A connection that is lost in the middle.
        let whole = for_input(&script(&Task::Setup, &all, 0));
        let half = whole.get(..whole.len() / 2).expect("a half");
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        child.stdin.take().expect("a pipe").write_all(half.as_bytes()).expect("written");
        assert!(!child.wait().expect("it ends").success());
    }

    #[test]
    fn steps_in_order() {
        let mut all = deployment("~/site");
        let names = |task: &Task, all: &Deployment| -> Vec<&str> {
            steps(task, all).iter().map(|step| step.name).collect()
        };
        assert_eq!(names(&Task::Update, &all), ["update"]);
        for hook in [
            &mut all.pre_setup,
            &mut all.post_setup,
            &mut all.pre_deploy_local,
            &mut all.pre_deploy,
            &mut all.post_deploy,
        ] {
            *hook = Some("true".into());
        }
        assert_eq!(names(&Task::Setup, &all), ["pre-setup", "setup", "post-setup"]);
        assert_eq!(names(&Task::Update, &all), ["pre-deploy", "update", "post-deploy"]);
        assert_eq!(names(&Task::Ref("v1".into()), &all), ["pre-deploy", "ref", "post-deploy"]);
        assert_eq!(names(&Task::Revert(1), &all), ["pre-deploy", "revert", "post-deploy"]);
        for task in [Task::Current, Task::Previous, Task::List, Task::Exec("x".into())] {
            assert_eq!(names(&task, &all), [task.name()]);
        }
        assert_eq!(place("~/a b"), "\"$HOME\"/'a b'");
        assert_eq!(place("/srv/a"), "'/srv/a'");
        assert_eq!(place("a"), "\"$PWD\"/'a'");
        // Without a ref: what the repository takes for its main branch.
        assert!(script(&Task::Setup, &deployment("a"), 0).contains("ref='origin/HEAD'\n"));
    }
}
