//! The same scenarios against node:cluster's primary and against this library's, with the same
//! unmodified Node programs as workers: see `conformance/README.md`.
//!
//! This program is its own primary: started with a role in the environment it is one that takes
//! orders, else it runs the scenarios.
#![cfg(target_os = "linux")]

mod client;
mod errors;
mod flaws;
mod handles;
mod identity;
mod life;
mod listen;
mod messages;
mod primary;
mod secure;
mod serving;
mod subject;

use libtest_mimic::{Arguments, Trial};
use subject::Kind;

fn main() {
    if std::env::var_os(primary::ROLE).is_some() {
        return primary::play();
    }
    let mut trials = Vec::new();
    trials.extend(identity::trials());
    trials.extend(listen::trials());
    trials.extend(errors::trials());
    trials.extend(serving::trials());
    trials.extend(secure::trials());
    trials.extend(messages::trials());
    trials.extend(handles::trials());
    trials.extend(life::trials());
    trials.extend(flaws::trials());
    let mut arguments = Arguments::from_args();
    // Most of them wait most of the time.
    arguments.test_threads = arguments.test_threads.map(|threads| threads * 2);
    libtest_mimic::run(&arguments, trials).exit();
}

/// A scenario against each of some primaries.
fn against(kinds: &[Kind], name: &str, scenario: fn(Kind)) -> Vec<Trial> {
    let name = name.trim_start_matches("conformance::");
    kinds
        .iter()
        .map(|kind| {
            let kind = *kind;
            Trial::test(format!("{name}::{kind}"), move || {
                scenario(kind);
                Ok(())
            })
        })
        .collect()
}

/// A list of scenarios, each named after its function, against every primary.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $crate::scenarios!(trials: $($name),*);
    };
    ($list:ident: $($name:ident),* $(,)?) => {
        pub(crate) fn $list() -> Vec<libtest_mimic::Trial> {
            [$($crate::against(
                &$crate::subject::Kind::ALL,
                concat!(module_path!(), "::", stringify!($name)),
                $name,
            )),*].into_iter().flatten().collect()
        }
    };
}
