//! The matrix: three kinds of Node applications, with a connection for each request and with kept ones, under everything that
//! replaces workers or the primary. No request fails, and the primary keeps no client's connection.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

#[path = "matrix/deeds.rs"]
mod deeds;
#[path = "tool/support.rs"]
mod support;

use bench::load::{Load, Outcome, Progress};
use bench::{process, wait};
use common::{LONG, accepted, is_free};
use deeds::Deed;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;
use support::{Tool, gone};

/// So many requests are asked for, in all cells together.
const REQUESTS: u64 = 100_000;
/// A load that nobody stops ends then.
const AT_MOST: Duration = Duration::from_secs(240);
/// So many each of those loads has at least whose requests are quick: there are eight.
const QUICK: u64 = 12_500;
/// And those whose requests take 200 ms.
const SLOWLY: u64 = 500;

/// What handles no signal.
const TRIVIAL: &str = "require('http').createServer((request, response) => response.end('here'))\n\
    .listen(process.env.PORT, '127.0.0.1');\n";

/// What every guide tells to write.
const GRACEFUL: &str = "const server = require('http').createServer((request, response) => response.end('here'));\n\
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => server.close(() => process.exit()));\n\
    server.listen(process.env.PORT, '127.0.0.1');\n";

/// What takes 200 ms for each request.
const SLOW: &str = "require('http').createServer((request, response) => setTimeout(() => response.end('here'), 200))\n\
    .listen(process.env.PORT, '127.0.0.1');\n";

/// An application in one of the two modes.
#[derive(Clone, Copy)]
struct Row {
    app: &'static str,
    script: &'static str,
    keep_alive: bool,
    clients: usize,
    /// Of a load.
    at_least: u64,
}

impl Row {
    const fn mode(self) -> &'static str {
        if self.keep_alive { "keep-alive" } else { "connection per request" }
    }

    fn load(self, tool: &Tool) -> Load {
        Load::new(tool.address)
            .clients(self.clients)
            .keep_alive(self.keep_alive)
            .duration(AT_MOST)
            .timeout(LONG)
    }
}

/// What was answered and what failed while something was done.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    answered: u64,
    failed: u64,
}

impl Cell {
    fn now(progress: &Progress) -> Self {
        Self { answered: progress.answered(), failed: progress.failed() }
    }

    const fn since(self, before: Self) -> Self {
        Self { answered: self.answered - before.answered, failed: self.failed - before.failed }
    }
}

/// What was done to an application in one of the modes, and what all of it came to.
struct Done {
    row: Row,
    cells: BTreeMap<Deed, Cell>,
    all: Cell,
}

/// One after the other: what comes by itself would else come between what is asked for.
const RUNS: [(&[&str], &[Deed]); 2] = [
    (&["--watch"], &[Deed::Reload, Deed::ScaleUp, Deed::ScaleDown, Deed::Upgrade, Deed::Watch]),
    (&["--cron", "* * * * * *"], &[Deed::Cron]),
];

/// Starts the application, and does everything to it under load.
fn run(row: Row) -> Done {
    let mut done = Done { row, cells: BTreeMap::new(), all: Cell::default() };
    for (options, deeds) in RUNS {
        let tool = Tool::new();
        tool.program("server.js", row.script);
        let start = ["start", "server.js", "-i", "4", "--name", row.app];
        tool.run(&[&start, options].concat()).expect(0, &["listening"]);
        under_load(&mut done, &tool, deeds);
    }
    done
}

fn under_load(done: &mut Done, tool: &Tool, deeds: &[Deed]) {
    let row = done.row;
    let what = format!("{}, {}", row.app, row.mode());
    let load = row.load(tool).start().unwrap();
    let until = |answered: u64| {
        wait::until(LONG, "the load to go on", || {
            (load.progress().answered() >= answered).then_some(())
        })
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    let a_round = 2 * u64::try_from(row.clients).unwrap();
    until(a_round);
    let primary = tool.primary(row.app);
    for deed in deeds {
        let before = Cell::now(load.progress());
        deed.be_done(tool, row.app);
        // And what comes after it is served as before.
        until(load.progress().answered() + a_round);
        done.cells.insert(*deed, Cell::now(load.progress()).since(before));
    }
    until(row.at_least);
    let outcome = load.stop();
    assert_nothing_failed(&what, &outcome, tool, row.app);
    assert_eq!(tool.primary(row.app), primary, "{what}: another primary");
    assert_nothing_kept(&what, tool, row.app);
    done.all.answered += outcome.answered;
    done.all.failed += outcome.failed;
}

fn assert_nothing_failed(what: &str, outcome: &Outcome, tool: &Tool, app: &str) {
    let said = || std::fs::read_to_string(tool.app(app).join("primary.log")).unwrap_or_default();
    assert_eq!(outcome.failed, 0, "{what}: {outcome}\n{}", common::tail(&said()));
}

/// No connection of a client's is in the primary or in its keeper; nothing is left when it is deleted.
fn assert_nothing_kept(what: &str, tool: &Tool, app: &str) {
    let primary = tool.primary(app);
    let keeper = process::stat(primary).unwrap().parent;
    for pid in [primary, keeper] {
        let kept = accepted(pid);
        assert!(kept.is_empty(), "{what}: process {pid} has connections of clients: {kept:?}");
    }
    tool.run(&["delete", app]).expect(0, &[]);
    gone(primary, LONG);
    gone(keeper, LONG);
    assert!(is_free(tool.address), "{what}: the port is in use");
}

/// The table, to be copied: attempts and errors.
fn table(all: &[Done]) -> String {
    let mut text = "| app | mode |".to_owned();
    let mut line = "\n|---|---|---|".to_owned();
    for deed in Deed::ALL {
        write!(text, " {deed} |").unwrap();
        line.push_str("---|");
    }
    text.push_str(" in all |");
    text.push_str(&line);
    for Done { row, cells, all } in all {
        write!(text, "\n| {} | {} |", row.app, row.mode()).unwrap();
        for cell in cells.values().chain([all]) {
            write!(text, " {} / {} |", cell.answered, cell.failed).unwrap();
        }
    }
    text
}

#[test]
fn nothing_that_replaces_workers_loses_a_request() {
    let both = |app, script, clients, at_least| {
        [false, true].map(|keep_alive| Row { app, script, keep_alive, clients, at_least })
    };
    // Requests that take long leave the cores to the others.
    let lanes: [Vec<Row>; 2] = [
        [both("trivial", TRIVIAL, 16, QUICK), both("graceful", GRACEFUL, 16, QUICK)].concat(),
        both("slow", SLOW, 64, SLOWLY).to_vec(),
    ];
    let done: Vec<Done> = thread::scope(|scope| {
        let lane = |rows: &[Row]| rows.iter().map(|row| run(*row)).collect::<Vec<_>>();
        let lanes = lanes.each_ref().map(|rows| scope.spawn(move || lane(rows)));
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    let table = table(&done);
    let answered: u64 = done.iter().map(|done| done.all.answered).sum();
    let failed: u64 = done.iter().map(|done| done.all.failed).sum();
    eprintln!("attempts / errors:\n\n{table}\n\n{answered} requests, {failed} failed");
    assert!(done.iter().all(|done| done.cells.len() == Deed::ALL.len()), "{table}");
    assert!(answered >= REQUESTS && failed == 0, "{table}");
}
