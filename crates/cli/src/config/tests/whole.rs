//! Files as a whole: all that is wrong is told, what says nothing is passed over, paths lead where they are meant.

use super::super::values::home;
use super::{examined, line, one, told};

/// What is wrong in one place keeps nothing from being told that is wrong in another.
#[test]
fn nothing_hides_behind_another_error() {
    let words = told(
        "[[apps]]\nname = 'a'\nscript = 'a'\ninstances = 'many'\nafter = 'b'\nkeeper = true\nno_keeper = true\n\
         [[apps]]\nname = 'b'\nnice = 99\nafter = ['a', 'zed']\ncolour = 1\n\
         [[apps]]\nname = 'a'\nscript = 'x'\nenvironments.x.grace = 'soon'\n",
        "/srv/phalanx.toml",
    );
    for part in [
        ":4: apps[0] (a): instances: `many`: ",
        "apps[0] (a): the argument 'keeper' cannot be used with 'no_keeper'",
        "apps[1] (b): script: it is missing",
        ":10: apps[1] (b): nice: `99`: ",
        ":12: apps[1] (b): colour: ",
        "two applications are called a (number 1 and 3)",
        "b: after: no application is called `zed`",
        "a: after: each waits for the next: a → b → a",
        ":16: apps[2] (a), environment x: grace: `soon`: ",
    ] {
        assert!(words.contains(part), "{part}:\n{words}");
    }
    assert_eq!(words.lines().count(), 9, "{words}");
    let words = told("apps:\n- 3\n- { script: a, grace: soon }\n- x", "/p.yaml");
    for part in ["apps[0]: expected an application", "grace: `soon`", "apps[2]: expected"] {
        assert!(words.contains(part), "{part}:\n{words}");
    }
    // One whose name is wrong may be the one that is meant.
    let words = told("- { name: b c, script: a }\n- { script: d, after: b }", "/p.yaml");
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(
        examined("script: a\nenvironments: { x: { grace: soon } }", "/p.yaml", Some("x"))
            .problems
            .iter()
            .all(|problem| problem.place.as_deref() == Some("a"))
    );
}

/// What another environment says may be on another machine.
#[test]
fn what_is_not_chosen_need_not_be_whole() {
    let text = "environments:\n  here: { script: a.js }\n  there: { env_file: /none/there.env }\nname: a\n";
    assert_eq!(line(&one(text, "/srv/phalanx.yaml", Some("here"))), "--name a a.js");
    let there = examined(text, "/srv/phalanx.yaml", Some("there"));
    assert_eq!(there.problems.len(), 2, "{:?}", there.problems);
}

#[test]
fn what_is_empty_is_not_said() {
    let text = r#"{ "apps": [{ "name": "", "script": "a.js", "args": "", "cwd": "", "error_file": "", "out_file": null,
        "cron_restart": "", "max_memory_restart": "", "watch": "", "time": "", "autostart": "", "namespace": null,
        "instances": "", "interpreter": " ", "exec_mode": "", "after": "", "env": "", "env_file": "", "filter_env": "",
        "port": "", "pass_env": null, "restart_delay": "", "exp_backoff_restart_delay": 50, "source_map_support": "",
        "env_x": "", "deploy_to": 1 }] }"#;
    let words = told(text, "/srv/ecosystem.json");
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(words.contains("deploy_to"), "{words}");
    let done = examined(
        &text.replace(r#""deploy_to": 1"#, r#""vizion": null"#),
        "/srv/ecosystem.json",
        Some("x"),
    );
    assert_eq!((done.problems, done.warnings), (Vec::new(), Vec::new()));
    let app = done.apps.first().expect("an application");
    assert_eq!(line(app), "--name a --instances 1 --restart-delay 50 a.js");
    assert_eq!(
        (app.cwd.to_str(), app.namespace.as_str(), app.autostart),
        (Some("/srv"), "default", true)
    );
    assert_eq!(app.pass_env, ["*"]);
    // In an environment it takes back what was said.
    let text = "script: a.js\ngrace: 5s\nnice: 3\nafter: x\nenvironments: { y: { kill_timeout: '', nice: null, after: '' } }";
    assert_eq!(line(&one(text, "/srv/phalanx.yaml", Some("y"))), "--name a a.js");
    assert!(told("script: ''", "/p.yaml").contains("script: it is missing"));
    assert!(told("script: a\ncolour: ''", "/p.yaml").contains("there is no such key"));
}

#[test]
fn paths_from_the_home_directory() {
    let home = home().expect("a home directory").display().to_string();
    let app = one(
        "script = '~/app/s.js'\ncwd = '~/app'\nout_file = '~/til.log'\nenv.A = '~/x'",
        "/srv/phalanx.toml",
        None,
    );
    assert_eq!(line(&app), format!("--name s --output {home}/til.log {home}/app/s.js"));
    assert_eq!(app.cwd.to_str(), Some(format!("{home}/app").as_str()));
    assert_eq!(app.env.get("A").map(String::as_str), Some("~/x"));
    let words = told("script = 'a'\nenv_file = '~/no-such-file.env'", "/srv/phalanx.toml");
    assert!(words.contains(&format!("{home}/no-such-file.env: cannot read it")), "{words}");
}

/// It is looked for beside the file as well, whatever its name has in it.
#[test]
fn a_script_with_blanks_in_its_name() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("phalanx.toml");
    std::fs::write(place.path().join("my run.sh"), "").expect("written");
    std::fs::create_dir(place.path().join("work")).expect("made");
    let text = "name = 'x'\nscript = 'my run.sh'\ncwd = 'work'";
    let app = one(text, file.to_str().expect("a name"), None);
    let script = place.path().join("my run.sh").display().to_string();
    assert_eq!(app.argv, ["--name", "x", &script]);
}

#[test]
fn what_is_aside_says_nothing() {
    let text = "
x-base: &base { script: a.js, instances: 2 }
.more: &more { env: { A: 1 } }
x-note: [1, { colour: red }]
apps:
  - { <<: [*base, *more], name: b }
";
    let app = one(text, "/p.yaml", None);
    assert_eq!((line(&app).as_str(), app.env.len()), ("--name b --instances 2 a.js", 1));
    assert_eq!(line(&one("x-note: 1\n.x: 2\nscript: a.js", "/p.yaml", None)), "--name a a.js");
    assert!(told("x-note: 1", "/p.yaml").contains("there is no application in it"));
    assert!(told("apps: [{ script: a, x-note: 1 }]", "/p.yaml").contains("x-note: there is no"));
}
