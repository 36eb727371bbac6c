//! The environment of an application: what is declared, and what is passed on from whoever starts it.

use super::AppConfig;
use super::words::is_variable;
use std::collections::BTreeMap;

/// What is passed on if a file does not say: what programs need to find themselves in a system, and nothing of what one shell
/// happens to have.
pub(super) const PASSED: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TERM",
    "TMPDIR",
    "XDG_*",
    "PHALANX_*",
];

/// The environment of an application: a pure function of what is declared and of what is passed on.
pub(crate) fn environment(
    app: &AppConfig,
    of_starter: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let passed = of_starter.iter().filter(|(name, _)| is_passed(&app.pass_env, name));
    let mut all: BTreeMap<String, String> =
        passed.map(|(name, value)| (name.clone(), value.clone())).collect();
    all.extend(app.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

/// Whether a variable is passed on: one of the patterns means it, and none with `!` before it does.
pub(super) fn is_passed(patterns: &[String], name: &str) -> bool {
    let means = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(word), Some(_)) => name.contains(word.trim_end_matches('*')),
        (None, Some(begin)) => name.starts_with(begin),
        _ => name == pattern,
    };
    let not = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(means);
    !not && patterns.iter().any(|pattern| means(pattern))
}

/// Whether this is such a pattern.
pub(super) fn check_pattern(pattern: &str) -> Result<(), String> {
    let name = pattern.strip_prefix('!').unwrap_or(pattern);
    let inner = name.strip_suffix('*').map(|name| name.strip_prefix('*').unwrap_or(name));
    let name = inner.unwrap_or(name);
    let fits = !name.contains(['*', '=', '!']) && !name.chars().any(char::is_whitespace);
    if fits && !pattern.trim_start_matches('!').is_empty() {
        return Ok(());
    }
    let pattern = pattern.escape_debug();
    Err(format!("`{pattern}` is no name of a variable, and no beginning of one with * at the end"))
}

/// Words that a secret's name has in it.
const INSIDE: [&str; 9] = [
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "APIKEY",
    "DATABASE_URL",
    "CONNECTION_STRING",
];
/// Words that are one of those that its name consists of.
const WORDS: [&str; 11] =
    ["KEY", "KEYS", "PASS", "PWD", "PW", "AUTH", "DSN", "PRIVATE", "COOKIE", "SALT", "JWT"];

/// Whether a variable's name says that its value is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // The shell's directories.
    if matches!(name.as_str(), "PWD" | "OLDPWD" | "SSH_AUTH_SOCK") {
        return false;
    }
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    INSIDE.iter().any(|word| name.contains(word)) || words.any(|word| WORDS.contains(&word))
}

/// Whether a value should not be shown: its name says so, or it is an address with a password in it.
pub(super) fn hides(name: &str, value: &str) -> bool {
    let user = value.split_once("://").and_then(|(_, rest)| {
        rest.split(['/', '?', '#']).next().and_then(|place| place.rsplit_once('@'))
    });
    is_secret(name) || user.is_some_and(|(user, _)| user.contains(':'))
}

/// Variables as they may be shown: this stands in place of secrets.
pub(crate) fn without_secrets(
    variables: BTreeMap<String, String>,
    hidden: &str,
) -> BTreeMap<String, String> {
    let shown = |(name, value): (String, String)| {
        let value = if hides(&name, &value) { hidden.to_owned() } else { value };
        (name, value)
    };
    variables.into_iter().map(shown).collect()
}

/// A name that a variable can have.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if is_variable(name) || !name.is_empty() && !name.contains(['=', '\0']) {
        return Ok(());
    }
    Err(format!("`{}` is no name of a variable", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        for name in [
            "API_KEY",
            "github_token",
            "DB_PASSWORD",
            "SECRET",
            "DATABASE_URL",
            "AWS_SECRET_ACCESS_KEY",
            "SENTRY_DSN",
            "DB_PWD",
            "AUTH_HEADER",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "db.pass",
            "PG_PW",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "PATH",
            "PWD",
            "KEYBOARD",
            "AUTHOR",
            "PORT",
            "MONKEY",
            "COMPASS",
            "SSH_AUTH_SOCK",
            "NODE_ENV",
            "",
        ] {
            assert!(!is_secret(name), "{name}");
        }
        assert!(hides("REDIS", "redis://me:it@host/0"));
        assert!(!hides("SITE", "https://host/a:b@c") && !hides("MAIL", "a:b@c"));
    }

    #[test]
    fn what_is_passed_on() {
        let patterns = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let list = patterns("PATH LC_* !LC_ALL");
        for (name, passed) in
            [("PATH", true), ("PATHS", false), ("LC_TIME", true), ("LC_ALL", false), ("LC", false)]
        {
            assert_eq!(is_passed(&list, name), passed, "{name}");
        }
        assert!(is_passed(&patterns("*"), "ANY") && !is_passed(&patterns("* !A*"), "ANY"));
        assert!(!is_passed(&[], "PATH") && !is_passed(&patterns("!A"), "B"));
        assert!(is_passed(&patterns("*B*"), "ABC") && !is_passed(&patterns("* !*B*"), "ABC"));
        for wrong in ["", "!", "A=B", "A*B", "*A", "A**", "A B", "!!A"] {
            assert!(check_pattern(wrong).is_err(), "{wrong:?}");
        }
        for right in ["A", "A_*", "*", "!A", "!A*", "*A*", "npm_config_*"] {
            assert!(check_pattern(right).is_ok(), "{right:?}");
        }
    }
}
