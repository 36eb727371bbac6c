//! `phalanx jlist`: what there is, with the keys that scripts know from pm2's: an object for each worker.
//!
//! Of pm2's keys those are there that scripts read. `pm_id` is the number of the application, as the commands take it; its
//! workers have different `NODE_APP_INSTANCE`.

use crate::control::Description;
use crate::failure::Failure;
use crate::home::{Home, Spec};
use crate::list::descriptions;
use crate::ui::words::{LOOP, Status, status};
use crate::{config, intent, show};
use phalanx::control::Worker;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) fn jlist() -> Result<(), Failure> {
    let home = Home::find()?;
    let mut all = Vec::new();
    for about in descriptions(&home)? {
        let spec = home.app(&about.name).spec();
        all.extend(of_application(&about, spec.as_ref(), SystemTime::now()));
    }
    show::print(&format!("{}\n", Value::Array(all)));
    Ok(())
}

/// Its workers, and the slots that wait for one; one that has none is there once.
fn of_application(about: &Description, spec: Option<&Spec>, now: SystemTime) -> Vec<Value> {
    let (program, interpreter, args) = called(about);
    let env = spec.map(|spec| config::without_secrets(spec.env.clone(), "(hidden)"));
    let of_all = json!({
        "name": about.name,
        "namespace": about.namespace,
        "pm_id": about.id,
        "created_at": since(now, about.uptime_ms),
        "exec_mode": "cluster_mode",
        "exec_interpreter": interpreter,
        "instances": about.wanted,
        "version": about.program_version.as_deref().unwrap_or("N/A"),
        "pm_exec_path": program,
        "args": args,
        "pm_cwd": about.cwd,
        "pm_out_log_path": about.logs.out,
        "pm_err_log_path": about.logs.err,
        "watch": about.watching,
        "cron_restart": about.cron,
        "username": about.user,
        "env": env.unwrap_or_default(),
    });
    let one = |pid: u32, memory: u64, cpu: f64, own: Value| {
        let mut env = of_all.clone();
        if let (Some(env), Value::Object(own)) = (env.as_object_mut(), own) {
            env.extend(own);
        }
        json!({
            "pid": pid,
            "name": about.name,
            "pm_id": about.id,
            "monit": { "memory": memory, "cpu": cpu },
            "pm2_env": env,
        })
    };
    let of_worker = |worker: &Worker| {
        let own = json!({
            "status": state(&worker.state),
            "NODE_APP_INSTANCE": worker.slot,
            "restart_time": worker.restarts,
            "unstable_restarts": 0,
            "pm_uptime": since(now, worker.age_ms),
        });
        let (memory, cpu) = (worker.memory_bytes, worker.cpu_percent);
        one(worker.pid.unwrap_or(0), memory.unwrap_or(0), cpu.unwrap_or(0.0), own)
    };
    let waiting = about.waiting.iter().map(|slot| {
        let own = json!({
            "status": if slot.crashes >= LOOP { "errored" } else { "waiting restart" },
            "NODE_APP_INSTANCE": slot.slot,
            "restart_time": slot.restarts,
            "unstable_restarts": slot.crashes,
            "pm_uptime": 0,
        });
        one(0, 0, 0.0, own)
    });
    let mut all: Vec<Value> = about.workers.iter().map(of_worker).chain(waiting).collect();
    if all.is_empty() {
        let state = match status(about) {
            Status::Ended | Status::Stopped | Status::Orphaned => "stopped",
            Status::Stopping => "stopping",
            Status::Errored | Status::NotAnswering => "errored",
            _ => "launching",
        };
        let own = json!({
            "status": state,
            "restart_time": about.restarts,
            "unstable_restarts": 0,
            "pm_uptime": 0,
        });
        all.push(one(0, 0, 0.0, own));
    }
    all
}

/// pm2's word for a worker's state.
fn state(state: &str) -> &'static str {
    match state {
        "listening" => "online",
        "draining" | "killed" => "stopping",
        _ => "launching",
    }
}

/// The program, what runs it if that was said, and its arguments.
fn called(about: &Description) -> (PathBuf, Option<String>, Vec<String>) {
    let Ok(options) = intent::options(&about.argv) else { return Default::default() };
    let mut words = options.program.iter().chain(&options.args);
    let program = words.next().map(|word| Path::new(&about.cwd).join(word)).unwrap_or_default();
    let args = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let interpreter = options.interpreter.map(|word| word.to_string_lossy().into_owned());
    (program, interpreter, args)
}

/// Milliseconds of the clock, so long ago.
fn since(now: SystemTime, ms: u64) -> u64 {
    let then = now.checked_sub(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx::control::Waiting;
    use std::collections::BTreeMap;

    fn about() -> Description {
        Description {
            name: "shop".into(),
            id: 3,
            state: "running".into(),
            uptime_ms: 9_000,
            argv: ["app.js", "-i", "2", "--", "a"].map(str::to_owned).into(),
            cwd: "/srv".into(),
            wanted: 2,
            ..Description::default()
        }
    }

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn a_worker_and_a_slot_that_waits() {
        let mut about = about();
        about.workers = vec![Worker {
            slot: 0,
            pid: Some(71),
            state: "listening".into(),
            age_ms: 1_000,
            restarts: 2,
            memory_bytes: Some(5),
            cpu_percent: Some(1.5),
            ..Worker::default()
        }];
        about.waiting = vec![Waiting { slot: 1, crashes: 1, restarts: 4, ..Waiting::default() }];
        let env = BTreeMap::from([("DB_PASSWORD".to_owned(), "x".to_owned())]);
        let spec = Spec::new("shop", Vec::new(), Path::new("/srv"), env);
        let all = of_application(&about, Some(&spec), at(10_000));
        let [serves, waits] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(serves["pid"], 71);
        assert_eq!(serves["pm_id"], 3);
        assert_eq!(serves["monit"], json!({ "memory": 5, "cpu": 1.5 }));
        let env = &serves["pm2_env"];
        assert_eq!(env["status"], "online");
        assert_eq!(env["pm_uptime"], 9_000);
        assert_eq!(env["created_at"], 1_000);
        assert_eq!(env["restart_time"], 2);
        assert_eq!(env["pm_exec_path"], "/srv/app.js");
        assert_eq!(env["args"], json!(["a"]));
        assert_eq!(env["env"], json!({ "DB_PASSWORD": "(hidden)" }));
        assert_eq!(waits["pid"], 0);
        assert_eq!(waits["pm2_env"]["status"], "waiting restart");
        assert_eq!(waits["pm2_env"]["NODE_APP_INSTANCE"], 1);
    }

    #[test]
    fn one_without_workers_is_there_once() {
        for (is, told) in [
            ("stopped", "stopped"),
            ("starting", "launching"),
            ("without primary", "stopped"),
            ("not answering", "errored"),
        ] {
            let about = Description { state: is.into(), ..about() };
            let all = of_application(&about, None, at(10_000));
            assert_eq!(all.len(), 1);
            assert_eq!(all[0]["pm2_env"]["status"], told, "{is}");
            assert_eq!(all[0]["pid"], 0);
        }
    }
}
