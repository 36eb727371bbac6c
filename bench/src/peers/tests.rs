//! Each peer starts, serves with as many workers as it was asked for, loads its code anew, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::OnceLock;

const WORKERS: usize = 2;

/// For peers that bring their programs themselves.
static NONE: Programs = Programs { phalanx: PathBuf::new(), app: PathBuf::new() };

/// The programs of the build that is tested.
fn built() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        // The test is in `deps`, below the programs.
        let place = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        // All of the workspace, as its tests are built, so that nothing is built again with other features.
        cargo.args(["build", "--quiet", "--locked", "--workspace", "--bins", "--examples"]);
        cargo.args(["--profile", if place.ends_with("release") { "release" } else { "test" }]);
        let target = place.parent().unwrap();
        assert!(cargo.env("CARGO_TARGET_DIR", target).status().unwrap().success());
        Programs { phalanx: place.join("phalanx"), app: place.join("serve") }
    })
}

/// Starts it, looks at it, reloads it if it can, and ends it.
fn whole_life(programs: &Programs, peer: &Peer, app: &'static str) {
    let name = peer.name;
    (peer.needs)().unwrap();
    let mut serving = peer.start(programs, &Job::new(app, WORKERS)).unwrap();
    let wanted = if peer.single { 1 } else { WORKERS };
    let first = who_answers(&serving, wanted);
    assert_eq!(first, serving.workers(), "{name}: who answers are the workers");
    assert_eq!(first.len(), wanted, "{name}");
    assert!(serving.managers().is_disjoint(&first), "{name}");
    assert_eq!(
        serving.managers().contains(&serving.manager.unwrap_or(0)),
        serving.manager.is_some()
    );
    assert!(serving.cpu() > serving.manager_cpu(), "{name}");
    assert_eq!(serving.manager_cpu().is_zero(), serving.manager.is_none(), "{name}");
    let mut all = serving.processes();
    if !matches!(serving.reload, Reload::None) {
        serving.reload(PATIENCE).unwrap_or_else(|error| panic!("{name}: {error}"));
        let second = who_answers(&serving, wanted);
        assert!(first.is_disjoint(&second), "{name}: {first:?} {second:?}");
        all.extend(serving.processes());
    }
    drop(serving);
    wait::until(PATIENCE, "the end of all processes", || {
        all.iter().all(|pid| !process::is_alive(*pid)).then_some(())
    })
    .unwrap_or_else(|error| panic!("{name}: {error}: {all:?}"));
}

/// The processes that answer, when there are so many of them.
fn who_answers(serving: &Serving, wanted: usize) -> BTreeSet<u32> {
    let mut last = BTreeSet::new();
    let found = wait::until(PATIENCE, "so many processes to answer", || {
        let outcome = run(Load::new(serving.address).clients(4).requests(100)).ok()?;
        last = outcome.by_worker.keys().filter_map(|pid| pid.parse().ok()).collect();
        (last.len() == wanted && outcome.failed == 0).then_some(())
    });
    found.unwrap_or_else(|error| panic!("{error}: {last:?}\n{}", serving.outputs()));
    last
}

#[test]
fn node_alone_and_under_its_own_primary() {
    whole_life(&NONE, &alone(), "server.js");
    whole_life(&NONE, &cluster("rr"), "server.js");
    whole_life(&NONE, &cluster("none"), "slow.js");
}

#[test]
fn node_on_sockets_of_its_own() {
    whole_life(&NONE, &raw(), "server.js");
}

#[test]
fn the_same_application_in_frameworks() {
    for app in ["express.js", "fastify.js"] {
        whole_life(&NONE, &alone(), app);
        whole_life(&NONE, &raw(), app);
    }
}

#[test]
fn node_behind_nginx() {
    whole_life(&NONE, &nginx(), "server.js");
}

#[test]
fn node_under_pm2() {
    whole_life(&NONE, &pm2(), "server.js");
}

#[test]
fn node_under_phalanx() {
    whole_life(built(), &phalanx("direct"), "server.js");
    whole_life(built(), &phalanx("round-robin"), "fastify.js");
}

#[test]
fn a_rust_program_in_its_ways() {
    for peer in [own("direct"), own("round-robin"), own_raw(), own_threads()] {
        whole_life(built(), &peer, "");
    }
}

#[test]
fn who_cannot_be_had_is_left_out_with_the_reason() {
    let missing = Peer::new("a peer", || Err("nobody has it".into()), |_, _, _| Err("".into()));
    let (peers, notes) = at_hand([alone(), missing, raw()]);
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    assert_eq!(names, ["one node process", "raw SO_REUSEPORT"]);
    assert_eq!(notes, ["a peer is left out: nobody has it"]);
}
