//! Applications of files.

use super::super::{AppConfig, environment};
use super::{examined, told};
use std::collections::BTreeMap;

fn one(text: &str, file: &str, environment: Option<&str>) -> AppConfig {
    let done = examined(text, file, environment);
    assert!(done.problems.is_empty(), "{text}: {:?}", done.problems);
    done.apps.into_iter().next().unwrap_or_else(|| panic!("no application: {text}"))
}

fn line(app: &AppConfig) -> String {
    app.argv.join(" ")
}

#[test]
fn every_language_says_the_same() {
    let toml = r#"
        [[apps]]
        name = "api"
        script = "./server.js"
        args = ["--x", "a b"]
        cwd = "current"
        instances = 4
        maxMemoryRestart = "300M"
        autorestart = false
        stop_exit_codes = [0, 3]
        after = ["db"]
        [apps.env]
        PORT = 3000
        DEBUG = true
        [apps.env_production]
        PORT = 80

        [[apps]]
        name = "db"
        script = "db"
    "#;
    let yaml = "
apps:
  - name: api
    script: ./server.js
    args: [--x, a b]
    cwd: current
    instances: 4
    maxMemoryRestart: 300M
    autorestart: false
    stop_exit_codes: [0, 3]
    after: db
    env: { PORT: 3000, DEBUG: true }
    env_production:
      PORT: 80
  - { name: db, script: db }
";
    let json = r#"{ "apps": [
        { "name": "api", "script": "./server.js", "args": ["--x", "a b"], "cwd": "current", "instances": 4,
          "maxMemoryRestart": "300M", "autorestart": false, "stop_exit_codes": [0, 3], "after": ["db"],
          "env": { "PORT": 3000, "DEBUG": true }, "env_production": { "PORT": 80 } },
        { "name": "db", "script": "db" }
    ] }"#;
    let json5 = r"[ // a bare list
        { name: 'api', script: './server.js', args: '--x \'a b\'', cwd: './current', instances: '4',
          max_memory: '300M', no_autorestart: true, 'stop-exit-codes': '0,3', after: ['db'],
          env: { PORT: '3000', DEBUG: 'true' }, env_production: { PORT: 80, }, },
        { name: 'db', script: 'db' },
    ]";
    let by_name = r#"
        [apps.api]
        command = "./server.js --x 'a b'"
        cwd = "current"
        instances = 4
        max_memory_restart = "300M"
        autorestart = false
        stop_exit_codes = "0,3"
        after = "db"
        env.PORT = 3000
        env.DEBUG = true
        environments.production.env.PORT = 80
        [apps.db]
        exec = "db"
    "#;
    for environment in [None, Some("production")] {
        let wanted = examined(toml, "/srv/phalanx.toml", environment);
        assert_eq!(wanted.problems, []);
        assert_eq!(wanted.names, ["api", "db"]);
        let names: Vec<&str> = wanted.apps.iter().map(|app| app.name.as_str()).collect();
        assert_eq!(names, ["db", "api"], "the order in which they start");
        let api = wanted.apps.last().unwrap();
        assert_eq!(
            line(api),
            "--name api --instances 4 --stop-exit-codes 0,3 --no-autorestart --max-memory 300M /srv/current/server.js -- --x a b"
        );
        let port = if environment.is_some() { "80" } else { "3000" };
        assert_eq!(api.env.get("PORT").map(String::as_str), Some(port));
        assert_eq!(api.env.get("DEBUG").map(String::as_str), Some("true"));
        for (text, file) in [
            (yaml, "/srv/phalanx.yaml"),
            (json, "/srv/phalanx.json"),
            (json, "/srv/phalanx.config.js"),
            (json5, "/srv/phalanx.json5"),
            (by_name, "/srv/phalanx.toml"),
        ] {
            let done = examined(text, file, environment);
            assert_eq!(done.problems, [], "{file}");
            assert_eq!(done.apps, wanted.apps, "{file}, {environment:?}");
        }
    }
}

#[test]
fn one_application_alone() {
    let app = one("script = 'a.js'\n'$schema' = 'x'\nport = 3000", "/srv/phalanx.toml", None);
    assert_eq!((app.name.as_str(), line(&app).as_str()), ("a", "--name a a.js"));
    assert_eq!(app.env.get("PORT").map(String::as_str), Some("3000"));
    assert_eq!((app.namespace.as_str(), app.autostart), ("default", true));
    assert_eq!(app.cwd.to_str(), Some("/srv"));
    let shared =
        one("script: a.js\nport: [3000, 3001]\nautostart: false\nnamespace: web", "/a.yaml", None);
    assert_eq!(line(&shared), "--name a --namespace=web --port 3000,3001 a.js");
    assert!(!shared.autostart && shared.env.is_empty());
}

#[test]
fn command_lines() {
    for (text, wanted) in [
        ("script = 'npm'\nargs = 'run start:api'", "--name npm npm -- run start:api"),
        ("cmd = 'uvicorn app:app --port 80'", "--name uvicorn uvicorn -- app:app --port 80"),
        ("command = 'PORT=1 node x | tee y'", "--name x sh -- -c PORT=1 node x | tee y"),
        ("program = '/usr/bin/app'\nroot = 'jail'", "--name x --root /srv/jail /usr/bin/app"),
        ("script = 'dist/../s.js'", "--name x /srv/s.js"),
        ("script = '-odd'", "--name x -- -odd"),
        ("script = 'x.js'\nargs = ['']", "--name x x.js -- "),
        (
            "script = 'a'\nnode_args = ['--inspect', '-r x']",
            "--name x --interpreter-args=--inspect --interpreter-args=-r x a",
        ),
    ] {
        let named = if wanted.starts_with("--name x") { "name = 'x'\n" } else { "" };
        let app = one(&format!("{named}{text}"), "/srv/phalanx.toml", None);
        assert_eq!(line(&app), wanted, "{text}");
    }
}

#[test]
fn environments_replace_any_key() {
    let text = "
apps:
  - name: api
    script: a.js
    instances: 2
    grace: 5s
    env: { A: 1, B: 2, C: 3 }
    environments:
      production:
        instances: max
        killTimeout: 1m
        env: { B: 20, C: null }
      staging: { script: b.js }
    env_production: { A: 10 }
";
    let of = |environment| one(text, "/srv/phalanx.yml", environment);
    let env = |app: &AppConfig| {
        app.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line(&of(None)), "--name api --instances 2 --grace 5s a.js");
    assert_eq!(env(&of(None)), "A=1 B=2 C=3");
    let production = of(Some("production"));
    assert_eq!(line(&production), "--name api --instances max --grace 1m a.js");
    assert_eq!(env(&production), "A=10 B=20");
    assert!(production.pass_env.contains(&"!C".to_owned()), "{:?}", production.pass_env);
    assert_eq!(line(&of(Some("staging"))), "--name api --instances 2 --grace 5s b.js");
    let unknown = examined(text, "/srv/phalanx.yml", Some("prod"));
    assert_eq!(unknown.problems.len(), 1);
    assert_eq!(
        unknown.problems[0].words,
        "no application knows the environment `prod`: there are production, staging"
    );
    let none = examined("script: a.js", "/srv/phalanx.yml", Some("prod"));
    assert_eq!(none.warnings, ["no application knows the environment `prod`: there are none"]);
}

#[test]
fn what_a_program_gets_is_declared() {
    let starter: BTreeMap<String, String> =
        [("PATH", "/bin"), ("HOME", "/root"), ("AWS_KEY", "x"), ("LC_ALL", "C"), ("A", "old")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let of = |text: &str, file: &str| {
        let app = one(&format!("script = 'a'\n{text}"), file, None);
        environment(&app, &starter)
            .into_iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let toml = "/srv/phalanx.toml";
    assert_eq!(of("env.A = 1", toml), "A=1 HOME=/root LC_ALL=C PATH=/bin");
    assert_eq!(of("pass_env = []", toml), "");
    assert_eq!(of("pass_env = ['AWS_*', 'PATH']", toml), "AWS_KEY=x PATH=/bin");
    assert_eq!(of("pass_env = 'AWS_*, PATH'", toml), "AWS_KEY=x PATH=/bin");
    assert_eq!(of("pass_env = '!HOME'", toml), "LC_ALL=C PATH=/bin");
    assert_eq!(
        of("pass_env = true\nfilter_env = ['WS_', 'LC']", toml),
        "A=old HOME=/root PATH=/bin"
    );
    assert_eq!(of("", "/srv/ecosystem.toml"), "A=old AWS_KEY=x HOME=/root LC_ALL=C PATH=/bin");
    assert_eq!(of("filter_env = true", "/srv/ecosystem.toml"), "HOME=/root PATH=/bin");
    assert_eq!(
        of("filter_env = 'KEY'", "/srv/ecosystem.toml"),
        "A=old HOME=/root LC_ALL=C PATH=/bin"
    );
    let null = one(r#"{"script": "a", "env": {"PATH": null}}"#, "/srv/phalanx.json", None);
    assert!(!environment(&null, &starter).contains_key("PATH"));
}

#[test]
fn files_of_pm2s() {
    let text = r#"{ "apps": [{
        "name": "api", "script": "app.js", "exec_mode": "cluster", "min_uptime": 1000, "max_restarts": 16,
        "kill_timeout": 5000, "listen_timeout": 3000, "max_memory_restart": "300M", "node_args": "--max-old-space-size=300",
        "restart_delay": 100, "autorestart": true, "stop_exit_codes": [0], "vizion": false, "pmx": true, "windowsHide": true, "treekill": true, "merge_logs": true,
        "wait_ready": true, "watch": false, "ignore_watch": ["node_modules", "logs"], "cron_restart": "0 3 * * *", "time": true,
        "out_file": "logs/out.log", "error_file": "/dev/null", "log_type": "json", "log_date_format": "YYYY-MM-DD",
        "instance_var": "INSTANCE", "exp_backoff_restart_delay": 50, "pid_file": "run/app.pid", "shutdown_with_message": true,
        "uid": 1000, "gid": "www-data", "interpreter": "node", "source_map_support": true, "port": "3000"
    }], "deploy": { "production": { "user": "u" } } }"#;
    let done = examined(text, "/srv/ecosystem.config.js", None);
    assert_eq!(done.problems, []);
    let app = done.apps.first().expect("an application");
    let words = line(app);
    for part in [
        "--name api --instances 1 ",
        "--grace 5000 ",
        "--start-timeout 3000 ",
        "--max-memory 300M",
        "--interpreter-args=--max-old-space-size=300",
        "--user 1000 --group www-data",
        "--min-uptime 1000",
        "--stop-exit-codes 0",
        "--interpreter node",
        " app.js",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    for part in [
        "--wait-ready ",
        "--cron 0 3 * * *",
        "--time ",
        "--output /srv/logs/out.log",
        "--error /dev/null",
        "--log-type json",
        "--instance-var INSTANCE",
        "--pid /srv/run/app.pid",
        "--shutdown-with-message",
        "--restart-delay 100",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    for part in ["autorestart", "watch", "merge-logs", "treekill"] {
        assert!(!words.contains(part), "{part}: {words}");
    }
    assert_eq!(app.env.get("PORT").map(String::as_str), Some("3000"));
    assert_eq!(done.warnings.len(), 2, "{:?}", done.warnings);
    let all = done.warnings.join("\n");
    for word in [
        "pmx, windowsHide, source_map_support are pm2's, and do nothing here",
        "restart_delay and exp_backoff_restart_delay mean the same here",
    ] {
        assert!(all.contains(word), "{all}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    for (text, wanted) in [
        ("", "phalanx.toml: there is no application in it"),
        ("apps = []", "phalanx.toml: there is no application in it"),
        (
            "apps = 3",
            "phalanx.toml:1: apps: expected a list of applications, or a table of them by name, and this is a number",
        ),
        ("apps = [1]", "phalanx.toml:1: apps[0]: expected an application, and this is a number"),
        (
            "[apps]\nscript = 'x'",
            "phalanx.toml:2: apps.script: expected an application, and this is a text; one alone is [[apps]] or [apps.NAME]",
        ),
        (
            "[[apps]]\nname = 'a'",
            "phalanx.toml:1: apps[0] (a): script: it is missing: the script, program or command line that is run",
        ),
        (
            "[[apps]]\nname = 'api'\nscript = 'a'\nmax_memroy = '1G'",
            "phalanx.toml:4: apps[0] (api): max_memroy: there is no such key; did you mean max_memory?",
        ),
        ("script = 'a'\nmaxMemory = 'lots'", "phalanx.toml:2: a: maxMemory: `lots`: "),
        ("script = 'a'\ngrace = true", "phalanx.toml:2: a: grace: expected TIME, and this is true"),
        (
            "script = 'a'\ninstances_production = 4",
            "phalanx.toml:2: a: instances_production: there is no such key; what instances is in an environment is said in environments.production",
        ),
        (
            "script = 'a'\nname = 'a b'",
            "phalanx.toml:2: name: `a b` cannot be an application's name: a name consists of letters (a to z), digits, `.`, `-` and `_`",
        ),
        (
            "script = 'a'\nnamespace = 'a b'",
            "phalanx.toml:2: a: namespace: `a b` cannot be a namespace: a name consists of letters (a to z), digits, `.`, `-` and `_`",
        ),
        (
            "script = 'a'\nnamespace = 'all'",
            "phalanx.toml:2: a: namespace: `all` cannot be a namespace: `all` means all applications",
        ),
        (
            "script = 'a'\nname_prefix = 'x'",
            "phalanx.toml:2: a: name_prefix: pm2's; write the whole `name`",
        ),
        (
            "script = 'a'\ngrace = 1\nkill_timeout = 2",
            "phalanx.toml:3: a: kill_timeout: it means the same as `grace`, which is there too",
        ),
        ("script = 'a'\nscript = 'b'", "phalanx.toml:2: duplicate key"),
        ("script = 'a'\nargs = \"'x\"", "phalanx.toml:2: a: args: a quote is not closed"),
        (
            "script = 'a | b'\nname = 'a'\nargs = 'x'",
            "phalanx.toml:1: a: script: it is a command line for a shell: put the arguments into it",
        ),
        (
            "script = 'a'\nenv = 3",
            "phalanx.toml:2: a: env: expected a table of variables, and this is a number",
        ),
        (
            "script = 'a'\n[env]\nX = [1]",
            "phalanx.toml:3: a: env.X: expected a text, a number, true or false, and this is a list",
        ),
        (
            "script = 'a'\nenv_file = 'none.env'",
            "phalanx.toml:2: a: env_file: /srv/none.env: cannot read it: No such file or directory (os error 2)",
        ),
        (
            "script = 'a'\npass_env = ['A=B']",
            "phalanx.toml:2: a: pass_env: `A=B` is no name of a variable, and no beginning of one with * at the end",
        ),
        (
            "script = 'a'\nautostart = 1",
            "phalanx.toml:2: a: autostart: expected true or false, and this is a number",
        ),
        (
            "script = 'a'\nexec_mode = 'thread'",
            "phalanx.toml:2: a: exec_mode: expected cluster or fork; here they are the same",
        ),
        (
            "script = 'a'\nkeeper = true\nno_keeper = true",
            "phalanx.toml: a: the argument 'keeper' cannot be used with 'no_keeper'",
        ),
        ("script = 'a'\nmin = 4\nmax = 2", "phalanx.toml: a: "),
        (
            "script = 'a'\nhealth_interval = 5000",
            "phalanx.toml: a: the following required arguments were not provided: ",
        ),
        (
            "script = 'a'\nhost = 1",
            "phalanx.toml:2: a: host: there is no such key; `phalanx check --schema` has them all",
        ),
        (
            "static = []\n[[apps]]\nscript = 'a'",
            "phalanx.toml:1: static: pm2's; files are served by a server of your own, which phalanx runs",
        ),
        (
            "app_s = []\n[[apps]]\nscript = 'a'",
            "phalanx.toml:1: app_s: there is no such key beside apps; did you mean apps?",
        ),
        (
            "[[apps]]\nscript = 'a.js'\n[[apps]]\nscript = 'a.py'",
            "phalanx.toml:3: two applications are called a (number 1 and 2)",
        ),
        (
            "[[apps]]\nscript = 'api'\nafter = ['bd']\n[[apps]]\nscript = 'db'",
            "phalanx.toml:1: api: after: no application is called `bd`; did you mean db? (there are api, db)",
        ),
        (
            "[[apps]]\nscript = 'a'\nafter = 'b'\n[[apps]]\nscript = 'b'\nafter = 'a'",
            "phalanx.toml:1: a: after: each waits for the next: a → b → a",
        ),
        (
            "[apps.a]\nname = 'b'\nscript = 'x'",
            "phalanx.toml:2: apps.a: name: it is `b`, and the table is called `a`",
        ),
        (
            "script = 'a'\nenvironments.x.name = 'b'",
            "phalanx.toml:2: a: name: it cannot be in an environment",
        ),
        (
            "script = 'a'\nenvironments.x = 3",
            "phalanx.toml:2: a: environments.x: expected a table of keys, and this is a number",
        ),
        (
            "script = 'a'\nenvironments.x.instnaces = 3",
            "phalanx.toml:2: a: instnaces: there is no such key; did you mean instances?",
        ),
        (
            "script = 'a'\nenvironments.production.max_memory = 'bad'",
            "phalanx.toml:2: a, environment production: max_memory: `bad`: ",
        ),
        (
            "[[apps]]\nscript = 'a'\nenvironments.x = { min = 4, max = 2 }",
            "phalanx.toml:1: apps[0] (a), environment x: ",
        ),
        (
            "script = 'a'\n[env_x]\nA = [1]",
            "phalanx.toml:3: a, environment x: env_x.A: expected a text, a number, true or false, and this is a list",
        ),
        (
            "script = 'a'\ncron = '61 * * * *'",
            "phalanx.toml:2: a: cron: `61 * * * *`: expected minute (0-59), hour (0-23), ",
        ),
        (
            "script = 'a'\nlog_keep = 'many'",
            "phalanx.toml:2: a: log_keep: `many`: expected a whole number",
        ),
        (
            "script = 'a'\nmax_restarts = 5000",
            "phalanx.toml:2: a: max_restarts: `5000`: expected a number from 0 to 1000",
        ),
        (
            "script = 'a'\nlog_type = 'xml'",
            "phalanx.toml:2: a: log_type: `xml`: expected raw or json",
        ),
        ("a = [", "phalanx.toml:1: unclosed array, expected `]`"),
    ] {
        let words = told(text, "/srv/phalanx.toml");
        assert!(words.starts_with(wanted), "{text}\n     told: {words}\n expected: {wanted}");
    }
    for (text, file, wanted) in [
        ("apps:\n  - script: [", "p.yaml", "p.yaml:3: "),
        ("a: &a [*a]", "p.yaml", "p.yaml"),
        ("script: a\nscript: b", "p.yml", "p.yml:1: `script` is there twice"),
        ("---\na: 1\n---\nb: 2", "p.yml", "p.yml: "),
        ("script: !x 3", "p.yml", "p.yml:1: "),
        ("{\n\"script\": \"a\",\n\"script\": \"b\" }", "p.json", "p.json:"),
        ("{\"script\": }", "p.json", "p.json:1: "),
        ("{} x", "p.json5", "p.json5:1: "),
        ("true", "p.json", "p.json: expected tables and keys, and this is true"),
    ] {
        let words = told(text, file);
        assert!(words.starts_with(wanted), "{text}\n     told: {words}\n expected: {wanted}");
    }
}

/// Not only the first.
#[test]
fn all_that_is_wrong_is_told() {
    let text = "[[apps]]\nscript = 'a'\ngrace = 'soon'\nmax_memory = 'much'\ncolour = 1\n[[apps]]\nscript = 'b'\nnice = 99";
    let words = told(text, "/srv/phalanx.toml");
    for part in [
        ":5: apps[0] (a): colour:",
        ":3: apps[0] (a): grace: `soon`:",
        ":4: apps[0] (a): max_memory: `much`:",
        ":8: apps[1] (b): nice: `99`: ",
    ] {
        assert!(words.contains(part), "{part}:\n{words}");
    }
    assert_eq!(words.lines().count(), 4, "{words}");
}

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
    let home = super::super::values::home().expect("a home directory").display().to_string();
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

#[test]
fn yaml_has_merge_keys() {
    let text = "
base: &base { script: a.js, instances: 2 }
";
    assert!(!told(text, "p.yaml").is_empty(), "base is no key");
    let text = "
- &base { name: a, script: a.js, instances: 2, env: { A: 1 } }
- { <<: *base, name: b, instances: 3 }
- { <<: [*base], name: c }
";
    let done = examined(text, "/p.yaml", None);
    assert_eq!(done.problems, []);
    let lines: Vec<String> = done.apps.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "--name a --instances 2 a.js",
            "--name b --instances 3 a.js",
            "--name c --instances 2 a.js"
        ]
    );
}
