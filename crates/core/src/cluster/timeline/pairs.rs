//! Every event in every phase, of every kind of worker, in every mode: nothing panics, nothing is
//! planned twice, nobody is forgotten, and everything can still be stopped.

use super::*;
use crate::spec::{Canary, ReloadRules, Share};
use crate::worker::SlotId;
use alloc::collections::BTreeSet;

/// The ways to be of worker 1, as the events that lead there.
fn phases() -> Vec<(&'static str, Vec<Event>)> {
    let worker = WorkerId(1);
    let forked = Event::Forked { worker, pid: 101 };
    let listening = Event::Listening { worker };
    let disconnect = Event::Disconnect { worker };
    vec![
        ("forking", vec![]),
        ("forking, told", vec![disconnect.clone()]),
        ("starting", vec![forked.clone()]),
        ("online", vec![forked.clone(), Event::Online { worker }]),
        ("ready", vec![forked.clone(), listening.clone()]),
        ("told", vec![forked.clone(), listening.clone(), disconnect.clone()]),
        ("told early", vec![forked.clone(), disconnect]),
        ("left", vec![forked.clone(), listening.clone(), Event::Leaving { worker }]),
        ("left early", vec![forked.clone(), Event::ChannelClosed { worker }]),
        ("broken", vec![forked.clone(), listening, Event::Broken { worker, why: "no".into() }]),
        ("broken early", vec![forked.clone(), Event::Broken { worker, why: "no".into() }]),
        (
            "retiring",
            vec![
                forked.clone(),
                Event::Listening { worker },
                Event::Replace { worker, why: Leave::Memory },
            ],
        ),
        ("lost", vec![forked.clone(), Event::Lost { worker, why: Leave::Hung }]),
        ("crashed", vec![forked, Event::Exited { worker, exit: Exit::Code(1) }]),
        ("not started", vec![Event::ForkFailed { worker, why: "no".into(), permanent: false }]),
    ]
}

/// What the cluster is up to.
fn modes() -> Vec<(&'static str, Vec<Event>)> {
    vec![
        ("runs", vec![]),
        ("reloads", vec![Event::Reload]),
        ("restarts", vec![Event::Restart]),
        ("restarts and reloads", vec![Event::Restart, Event::Reload]),
        ("reloads and restarts", vec![Event::Reload, Event::Restart]),
        ("reloads twice", vec![Event::Reload, Event::Reload]),
        ("is to have none", vec![Event::Scale { workers: 0 }]),
        ("was to have none", vec![Event::Scale { workers: 0 }, Event::Scale { workers: 2 }]),
        ("stops", vec![Event::Stop]),
        ("stops now", vec![Event::StopNow]),
    ]
}

/// The rules that they live by.
fn specs() -> Vec<(&'static str, Spec)> {
    let reload = ReloadRules {
        at_once: Share::Percent(50),
        healthy_for: Duration::from_millis(200),
        rollback: true,
        canary: None,
    };
    let canary = Canary { slots: 1, time: Duration::from_millis(300), share: Some(5) };
    let stops = Restart { stop_codes: [0].into(), stop_signals: [9].into(), ..rules(1).restart };
    vec![
        ("plain", rules(1)),
        ("no restarts", restarts_off(1)),
        ("stop codes", Spec { restart: stops, ..rules(1) }),
        (
            "one start at a time",
            Spec { starts_at_once: 1, slow_start: Some(Duration::from_secs(1)), ..rules(1) },
        ),
        ("healthy, back", Spec { reload: reload.clone(), ..rules(1) }),
        ("canary", Spec { reload: ReloadRules { canary: Some(canary), ..reload }, ..rules(1) }),
    ]
}

fn events() -> Vec<Event> {
    let worker = WorkerId(1);
    let failed = |permanent| Event::ForkFailed { worker, why: "no".into(), permanent };
    vec![
        Event::Forked { worker, pid: 102 },
        failed(false),
        failed(true),
        Event::Online { worker },
        Event::Listening { worker },
        Event::Leaving { worker },
        Event::ChannelClosed { worker },
        Event::Broken { worker, why: "no".into() },
        Event::Exited { worker, exit: Exit::Code(0) },
        Event::Exited { worker, exit: Exit::Signal(9) },
        Event::Disconnect { worker },
        Event::Disconnect { worker: WorkerId(99) },
        Event::Replace { worker, why: Leave::Memory },
        Event::Lost { worker, why: Leave::Hung },
        Event::Terminated { worker },
        Event::OutOfMemory { worker, certain: true },
        Event::Cut { worker, connections: 3 },
        Event::CanGoBack(false),
        Event::Restart,
        Event::Scale { workers: 0 },
        Event::Scale { workers: 1 },
        Event::Scale { workers: 9 },
        Event::Reload,
        Event::Stop,
        Event::StopNow,
    ]
}

/// A cluster, its clock, and whether it said that it stopped.
struct Bench {
    cluster: Cluster,
    now: Time,
    forked: BTreeSet<WorkerId>,
    stops: usize,
    what: String,
}

impl Bench {
    fn new(spec: Spec, manual: bool, what: String) -> Self {
        let mut cluster = Cluster::new(spec);
        if manual {
            assert_eq!(cluster.fork(), Some(WorkerId(1)), "{what}");
        }
        let mut bench = Self { cluster, now: Time::ZERO, forked: BTreeSet::new(), stops: 0, what };
        bench.plan();
        bench
    }

    fn observe(&mut self, event: Event) {
        self.cluster.observe(self.now, event);
        self.plan();
    }

    fn plan(&mut self) {
        let what = &self.what;
        let actions = self.cluster.plan(self.now);
        assert_eq!(self.cluster.plan(self.now), [], "{what}: planned twice");
        for action in actions {
            match action {
                Action::Fork { worker, .. } => {
                    assert!(self.forked.insert(worker), "{what}: forked twice");
                    assert!(self.cluster.worker(worker).is_some(), "{what}: forked and forgotten");
                }
                Action::Disconnect { worker }
                | Action::Terminate { worker }
                | Action::Kill { worker } => {
                    let pid = self.cluster.worker(worker).map(|w| w.pid);
                    assert!(matches!(pid, Some(Some(_))), "{what}: {worker} has no process");
                }
                Action::Report(Report::Stopped) => self.stops += 1,
                Action::Report(_) => {}
            }
        }
        assert!(self.cluster.wake().is_none_or(|at| at > self.now), "{what}: woken at once");
        let mut live: Vec<SlotId> =
            self.cluster.workers().filter(|w| w.guarded && w.is_live()).map(|w| w.slot).collect();
        let count = live.len();
        live.sort_unstable();
        live.dedup();
        let retiring = self.cluster.workers().any(|w| w.is_live() && w.retire.is_some());
        let surge = usize::from(self.cluster.is_reloading() || retiring);
        assert!(count <= live.len() + surge, "{what}: {count} live in {} slots", live.len());
        assert!(live.len() <= self.cluster.wanted().min(MAX_WORKERS), "{what}: too many");
    }

    /// Time goes on for a while, with nothing but timers.
    fn pass(&mut self, wakes: usize) {
        for _ in 0..wakes {
            let Some(wake) = self.cluster.wake() else { return };
            self.now = wake;
            self.plan();
        }
    }

    /// Stops it, ends every process, and sees it stopped, once.
    fn end(&mut self) {
        self.observe(Event::Stop);
        self.pass(4);
        loop {
            let Some(worker) = self.cluster.workers().next().cloned() else { break };
            let id = worker.id;
            match worker.pid {
                None => self.observe(Event::Forked { worker: id, pid: 7 }),
                Some(_) => self.observe(Event::Exited { worker: id, exit: Exit::Signal(9) }),
            }
        }
        let what = &self.what;
        assert!(self.cluster.is_stopped(), "{what}: not stopped");
        assert_eq!(self.stops, 1, "{what}: stopped so many times");
        assert_eq!(self.cluster.wake(), None, "{what}: stopped and to be woken");
    }
}

#[test]
fn every_event_in_every_phase() {
    let mut runs = 0;
    for (rule, spec) in specs() {
        for manual in [true, false] {
            for (mode, wishes) in modes() {
                for (phase, steps) in phases() {
                    for event in events() {
                        let what = format!("{phase}, {mode}, manual: {manual}, {rule}: {event:?}");
                        let mut bench = Bench::new(spec.clone(), manual, what);
                        for step in steps.iter().chain(&wishes).cloned().chain([event]) {
                            bench.observe(step);
                        }
                        bench.pass(3);
                        bench.end();
                        runs += 1;
                    }
                }
            }
        }
    }
    assert_eq!(runs, specs().len() * 2 * modes().len() * phases().len() * events().len());
}

#[test]
fn no_event_resurrects_a_stopped_cluster() {
    for event in events() {
        let mut bench = Bench::new(rules(0), false, format!("stopped: {event:?}"));
        bench.observe(Event::Stop);
        bench.observe(event);
        assert!(bench.cluster.is_stopped() && bench.cluster.fork().is_none(), "{}", bench.what);
        assert_eq!(bench.cluster.workers().count(), 0, "{}", bench.what);
    }
}
