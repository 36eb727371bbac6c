//! Clients of all kinds at once, on one socket that others use: chance has a part in what they say.

use crate::common::LONG;
use crate::random::Random;
use crate::support::Tool;
use crate::{list, programs};
use bench::{process, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request has so many bytes at most.
const LONGEST: usize = 64 << 10;
/// What one of those who talk does at most.
const TALKS: usize = 20_000;

/// Something that is no request, or a strange one. None of it changes anything.
fn nonsense(random: &mut Random) -> Vec<u8> {
    let line = |text: String| format!("{text}\n").into_bytes();
    let count = random.below(LONGEST);
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    match random.below(12) {
        0 => [random.bytes(count % 4000), b"\n".to_vec()].concat(),
        1 => random.bytes(count % 300),
        2 => b"{\"v\":1,\"cmd\":\"desc".to_vec(),
        3 => line("[".repeat(count)),
        4 => line(format!("{{\"v\":1,\"cmd\":\"send\",\"message\":{}}}", deep(count / 3))),
        5 => line(format!("{{\"v\":1,\"cmd\":\"send\",\"message\":{}}}", deep(count % 100))),
        6 => vec![b'x'; LONGEST + count],
        7 => "{\"v\":1,\"cmd\":\"describe\"}\n".repeat(1 + count % 50).into_bytes(),
        8 => line(format!("{{\"v\":1,\"cmd\":\"{}\"}}", "y".repeat(count))),
        9 => line(format!("{{\"v\":1e{count},\"cmd\":null,\"to\":-1.5,\"slot\":\"\"}}")),
        10 => vec![0; count % 5000],
        _ => line(format!("{{\"v\":1,\"cmd\":\"signal\",\"number\":{count},\"slot\":9{count}}}")),
    }
}

/// Says it; what is answered to whole lines, if it waits for that, are whole lines of JSON.
fn talk(tool: &Tool, random: &mut Random) {
    let mut stream = tool.connect("app");
    let words = nonsense(random);
    if stream.write_all(&words).is_err() || random.below(2) == 0 {
        return;
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{error}: {line:?} to {:?}", String::from_utf8_lossy(&words))
        });
        let known = answer["error"]["message"].is_string() || !answer["ok"].is_null();
        assert!(answer["v"] == 1 && known, "{answer}");
    }
}

/// Asks, and does not read, until no more can be asked; or begins to ask, and does not go on.
fn mute(tool: &Tool, asks: bool) -> UnixStream {
    let mut stream = tool.connect("app");
    stream.set_nonblocking(true).unwrap();
    if asks {
        while stream.write(b"{\"v\":1,\"cmd\":\"describe\"}\n").is_ok() {}
    } else {
        let _ = stream.write(b"{\"v\":1,\"cmd\":");
    }
    stream
}

#[test]
fn nonsense_and_silence_cost_others_nothing() {
    let tool = Tool::new();
    programs(&tool);
    let start = ["start", "idle.js", "-i", "2", "--ready", "online", "--name", "app"];
    tool.run(&start).expect(0, &["app"]);
    let primary = tool.primary("app");
    let descriptors = process::open_descriptors(primary).unwrap();
    let mut random = Random::new();
    let seeds: Vec<u64> = (0..4).map(|_| random.below(1 << 30) as u64).collect();
    let mutes: Vec<UnixStream> = (0..16).map(|number| mute(&tool, number % 2 == 0)).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in seeds {
            let (tool, over) = (&tool, &over);
            scope.spawn(move || {
                let mut random = Random::of(seed);
                let mut talks = 0;
                while !over.load(Ordering::Relaxed) && talks < TALKS {
                    talk(tool, &mut random);
                    talks += 1;
                }
                eprintln!("{talks} talks");
            });
        }
        let ended = std::panic::catch_unwind(|| others(&tool));
        over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    drop(mutes);
    assert_eq!(tool.primary("app"), primary);
    assert_eq!(tool.about("app")["restarts"], 0, "{:#}", tool.about("app"));
    wait::until(LONG, "no more descriptors than before", || {
        (process::open_descriptors(primary).ok()? <= descriptors).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", process::open_descriptors(primary)));
    tool.run(&["delete", "app"]).expect(0, &[]);
}

/// What everybody does meanwhile.
fn others(tool: &Tool) {
    for round in 0..3 {
        for words in [
            &["ping", "app"][..],
            &["describe", "app", "--json"],
            &["scale", "app", "3"],
            &["send", "app", "{}"],
            &["signal", "WINCH", "app"],
            &["reload", "app"],
            &["reset", "app"],
            &["scale", "app", "2"],
            &["why", "app"],
            &["logs", "app", "--no-follow"],
        ] {
            tool.run(words).expect(0, &[]);
        }
        let all = list(tool);
        assert_eq!(all[0]["state"], "running", "round {round}: {all:#?}");
    }
}
