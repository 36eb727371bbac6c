//! Web frameworks, and a proxy.

use crate::app::{App, Options};
use crate::common::{self, LONG};
use crate::http::Request;
use crate::install::{install, start};

const JSON: &str = "application/json";

/// What every framework is asked. `malformed` and `failed` are its own words for errors.
fn questions(hello: &str, malformed: &str, failed: &str) -> Vec<Request> {
    let note = r#"{"text":"grüße","list":[1,2,{"deep":true}]}"#;
    vec![
        Request::get("/").expect(200, &format!(r#""hello":"{hello}""#)),
        Request::get("/users/42?verbose=yes").expect(200, r#"{"id":"42","verbose":"yes"}"#),
        Request::post("/echo", JSON, note).expect(201, note),
        Request::post("/echo", JSON, r#"{"text":"#).expect(400, malformed),
        Request::get("/stream").expect(200, &lines(200)),
        Request::get("/error").expect(500, failed),
        Request::get("/nowhere").expect(404, ""),
    ]
}

fn lines(count: usize) -> String {
    (1..=count).map(|number| format!("line {number}\n")).collect()
}

/// An application's whole life.
fn lives(name: &str, program: &str, more: &[&str], questions: &[Request]) {
    let app = App::start(name, program, &Options { more, ..Options::default() });
    app.answers(questions);
    app.reloads_under_load(|_| {});
    app.answers(questions);
    app.stop();
}

#[test]
fn express() {
    let mut all = questions("express", r#"{"error":""#, r#"{"error":"on purpose"}"#);
    all.push(Request::get("/static/style.css").expect(200, "font-family: serif"));
    lives("express", "server.js", &[], &all);
}

#[test]
fn express_round_robin() {
    let all = questions("express", r#"{"error":""#, r#"{"error":"on purpose"}"#);
    lives("express", "server.js", &["--policy", "round-robin"], &all);
}

#[test]
fn koa() {
    let all = questions("koa", r#"{"error":""#, r#"{"error":"on purpose"}"#);
    lives("koa", "server.js", &[], &all);
}

#[test]
fn fastify() {
    let all = questions("fastify", r#""statusCode":400"#, r#""message":"on purpose""#);
    lives("fastify", "server.js", &[], &all);
}

#[test]
fn nest() {
    let all = questions("nest", r#""statusCode":400"#, r#""message":"Internal server error""#);
    lives("nest", "dist/main.js", &[], &all);
}

#[test]
fn http_proxy() {
    let directory = install("proxy");
    let mut node = common::clean("node", [directory.join("backend.js")]);
    let backend = start(&mut node, "nodejs");
    let line = backend.wait_for_line(|line| line.starts_with('{'), LONG).unwrap();
    let address: serde_json::Value = serde_json::from_str(&line).unwrap();
    let url = format!("http://127.0.0.1:{}", address["port"]);

    let options = Options { env: &[("BACKEND", &url)], ..Options::default() };
    let app = App::start("proxy", "server.js", &options);
    let all = [
        Request::get("/").expect(200, r#"{"hello":"backend","forwarded":"127.0.0.1"}"#),
        Request::post("/echo", JSON, r#"{"text":"grüße"}"#).expect(201, r#"{"text":"grüße"}"#),
        Request::get("/stream").expect(200, &lines(200)),
        Request::get("/broken").expect(502, "socket hang up"),
    ];
    app.answers(&all);
    app.reloads_under_load(|_| {});
    app.answers(&all);
    app.stop();
}
