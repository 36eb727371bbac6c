//! The library against the real kernel: real processes, sockets and signals.
//!
//! This program is its own worker: started with a role in the environment it plays that role, else it
//! runs the tests.
#![cfg(unix)]

mod dispatch;
mod events;
mod faults;
mod handles;
mod listen;
mod liveness;
mod reload;
mod roles;
mod support;

use libtest_mimic::{Arguments, Trial};
use std::future::Future;

fn main() {
    if let Ok(role) = std::env::var(roles::ROLE) {
        return roles::play(&role);
    }
    let mut trials = Vec::new();
    trials.extend(events::trials());
    trials.extend(listen::trials());
    trials.extend(dispatch::trials());
    trials.extend(handles::trials());
    trials.extend(reload::trials());
    trials.extend(faults::trials());
    trials.extend(liveness::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A test that runs on a tokio runtime of its own.
fn trial<F>(name: &'static str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tested = async {
            tokio::time::timeout(support::LIMIT, test()).await.map_err(|_| "the test hangs")
        };
        Ok(runtime.block_on(tested)?)
    })
}

/// The tests of a file, each named after its function.
#[macro_export]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$($crate::trial(concat!(module_path!(), "::", stringify!($name)), $name)),*]
        }
    };
}
