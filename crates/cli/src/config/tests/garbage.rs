//! What nobody wrote on purpose: it is refused in words, and nothing breaks.

use super::super::dotenv;
use super::super::parse::{Format, parse};
use super::{examined, told};
use proptest::prelude::*;

const FILES: [&str; 4] = ["/p.toml", "/p.yaml", "/p.json", "/ecosystem.config.js"];

#[test]
fn deep_and_wide() {
    for (file, open, close) in
        [("/p.json", "[", "]"), ("/p.yaml", "[", "]"), ("/p.json5", "{a:", "}")]
    {
        let text = format!("{}{}", open.repeat(20_000), close.repeat(20_000));
        let words = told(&text, file);
        assert!(!words.is_empty() && words.lines().count() == 1, "{words}");
    }
    let toml = format!("a = {}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(!told(&toml, "/p.toml").is_empty());
    let dots = format!("a{} = 1", ".a".repeat(20_000));
    assert!(!told(&dots, "/p.toml").is_empty());
    let wide = format!("script = 'a'\nargs = [{}]", "1,".repeat(60_000));
    assert!(told(&wide, "/p.toml").contains("more than"), "it is too much");
    // Nine times nine times …
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let names = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{names}]\n"));
    }
    assert!(!told(&bomb, "/p.yaml").is_empty());
    let many = "[[apps]]\nscript = 'a'\n".repeat(501);
    assert!(told(&many, "/p.toml").contains("more than 500 applications"));
}

#[test]
fn numbers_as_they_are_written() {
    let text =
        "script = 'a'\n[env]\nA = 1.10\nB = 0x10\nC = 1_000\nD = 2026-01-31\nE = -0\nF = 1e3";
    let done = examined(text, "/p.toml", None);
    assert_eq!(done.problems, []);
    let env = &done.apps.first().expect("one").env;
    let all: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(all, ["A=1.10", "B=16", "C=1000", "D=2026-01-31", "E=0", "F=1e3"]);
}

fn value() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        Just("true".to_owned()),
        Just("null".to_owned()),
        "-?(0|[1-9][0-9]{0,17})",
        "-?[1-9][0-9]{0,4}\\.[0-9]{1,3}(e[0-9]{1,2})?",
        "\"[ -!#-\\[\\]-~äß→\\u{0}]{0,12}\"",
    ];
    plain.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((key(), inner), 0..4).prop_map(|entries| {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}

const KEYS: [&str; 31] = [
    "apps",
    "name",
    "script",
    "args",
    "cwd",
    "env",
    "env_x",
    "env_file",
    "pass_env",
    "after",
    "autostart",
    "environments",
    "instances",
    "port",
    "listen",
    "secret",
    "health_command",
    "inspect",
    "rollback",
    "autorestart",
    "canary",
    "grace",
    "stop_exit_codes",
    "capabilities",
    "exec_mode",
    "filter_env",
    "watch",
    "deploy",
    "<<",
    "$schema",
    "namespace",
];

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => "[a-zA-Z_-]{0,9}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}\"'=:,.#&*\\n a-z0-9\\-<>!|\\\\]{0,80}") {
        for file in FILES {
            let done = examined(&text, file, Some("x"));
            prop_assert!(!done.problems.is_empty() || !done.apps.is_empty());
        }
        let _ = dotenv::parse(&text);
    }

    #[test]
    fn any_values_of_keys_are_read_or_refused(entries in prop::collection::vec((key(), value()), 0..8)) {
        let entries: Vec<String> = entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let text = format!("{{\"script\":\"a\",{}}}", entries.join(","));
        for file in ["/p.json", "/p.yaml", "/ecosystem.config.js"] {
            let done = examined(&text, file, Some("x"));
            prop_assert!(!done.problems.is_empty() || !done.apps.is_empty(), "{text}");
            for app in &done.apps {
                prop_assert!(app.argv.iter().all(|word| !word.contains('\0')), "{:?}", app.argv);
            }
        }
    }

    #[test]
    fn json_is_yaml_too(value in value()) {
        // Floats are written in other digits, and `<<` is a key of YAML's own.
        prop_assume!(!value.contains(['.', '\0']) && !value.contains("<<"));
        let json = parse(&value, Format::Json).map(|item| item.node);
        let yaml = parse(&value, Format::Yaml).map(|item| item.node);
        if let (Ok(json), Ok(yaml)) = (json, yaml) {
            prop_assert_eq!(json, yaml);
        }
    }
}
