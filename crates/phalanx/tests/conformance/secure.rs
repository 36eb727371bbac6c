//! TLS and HTTP/2: what the first worker says of its tickets is told to all.

use crate::client::{free_port, local, script};
use crate::scenarios;
use crate::subject::{Kind, Subject};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

scenarios!(
    https_resumes_on_any_worker,
    tls_resumes_on_any_worker,
    http2_over_tls,
    http2_in_the_clear,
);

/// A certificate for localhost that nobody else trusts.
fn certificate() -> TempDir {
    let place = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    command.arg("-keyout").arg(place.path().join("key.pem"));
    command.arg("-out").arg(place.path().join("cert.pem"));
    let done = command.output().expect("these scenarios need the program openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    place
}

fn fork(subject: &mut Subject, protocol: &str, port: u16, certificates: &Path) -> u64 {
    let env =
        json!({ "PROTOCOL": protocol, "PORT": port.to_string(), "CERTIFICATES": certificates });
    let id = subject.fork("secure.cjs", env);
    subject.event(id, "listening");
    id
}

fn resumes(kind: Kind, protocol: &str) {
    let place = certificate();
    let mut subject = Subject::start(kind);
    let port = free_port();
    let file = |name: &str| place.path().join(name).display().to_string();
    let (ca, session) = (file("cert.pem"), file("session"));
    let connect = |count: usize| -> Vec<Value> {
        let args = [&port.to_string(), &ca, &session, &count.to_string(), protocol];
        let said = script("tls.cjs", &args);
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    // The session is made on a worker that is not there any more when it is resumed.
    let first = fork(&mut subject, protocol, port, place.path());
    let told = json!({ "worker": first.to_string(), "resumed": false });
    assert_eq!(connect(1), [told]);
    let second = fork(&mut subject, protocol, port, place.path());
    subject.disconnect(first);
    subject.exit(first);
    let told = json!({ "worker": second.to_string(), "resumed": true });
    assert_eq!(connect(1), [told]);
    // With several, whoever answers.
    fork(&mut subject, protocol, port, place.path());
    let all = connect(8);
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|one| one["resumed"] == true), "{all:?}");
}

fn https_resumes_on_any_worker(kind: Kind) {
    resumes(kind, "https");
}

fn tls_resumes_on_any_worker(kind: Kind) {
    resumes(kind, "tls");
}

fn http2(kind: Kind, protocol: &str, scheme: &str, negotiated: &str) {
    let place = certificate();
    let mut subject = Subject::start(kind);
    let port = free_port();
    let ids = [0, 1].map(|_| fork(&mut subject, protocol, port, place.path()).to_string());
    let url = format!("{scheme}://{}", local(port));
    let ca = place.path().join("cert.pem").display().to_string();
    for _ in 0..2 {
        let said = script("http2.cjs", &[&url, &ca]);
        let told: Value = serde_json::from_str(&said).expect("JSON");
        let answers = told["answers"].as_array().expect("answers");
        assert_eq!((answers.len(), &told["protocol"]), (5, &json!(negotiated)), "{told}");
        let one = answers[0].as_str().expect("a worker").to_owned();
        assert!(ids.contains(&one) && answers.iter().all(|a| *a == one), "one worker: {told}");
    }
}

fn http2_over_tls(kind: Kind) {
    http2(kind, "http2", "https", "h2");
}

fn http2_in_the_clear(kind: Kind) {
    http2(kind, "h2c", "http", "h2c");
}
