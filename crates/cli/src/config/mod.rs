//! Configuration files: what they say, checked, and turned into the command lines of `phalanx run`.

use crate::args::{Check, Init};
use crate::failure::Failure;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AppConfig {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) argv: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) pass_env: Vec<String>,
    pub(crate) after: Vec<String>,
    pub(crate) autostart: bool,
}

pub(crate) struct Loaded {
    pub(crate) file: PathBuf,
    pub(crate) environment: Option<String>,
    pub(crate) apps: Vec<AppConfig>,
    pub(crate) warnings: Vec<String>,
}

pub(crate) struct Plan<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) cwd: &'a str,
    pub(crate) env: &'a BTreeMap<String, String>,
}

pub(crate) fn is_config(_path: &Path) -> bool {
    false
}

pub(crate) fn default_file(_directory: &Path) -> Option<PathBuf> {
    None
}

pub(crate) fn load(
    _file: &Path,
    _environment: Option<&str>,
    _only: &[String],
) -> Result<Loaded, Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn environment(
    app: &AppConfig,
    of_starter: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = of_starter.clone();
    all.extend(app.env.clone());
    all
}

pub(crate) fn changes(old: &Plan<'_>, new: &Plan<'_>) -> Vec<String> {
    let same = old.argv == new.argv && old.cwd == new.cwd && old.env == new.env;
    if same { Vec::new() } else { vec!["something".to_owned()] }
}

pub(crate) fn is_secret(name: &str) -> bool {
    name.contains("SECRET")
}

pub(crate) fn init(_options: &Init) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}

pub(crate) fn check(_options: &Check) -> Result<(), Failure> {
    Err(Failure::tool(crate::failure::UNEXPECTED, "not yet"))
}
