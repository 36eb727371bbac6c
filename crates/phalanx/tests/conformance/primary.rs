//! The other primary: `conformance/primary.cjs`, line for line, on the library.

use phalanx::{
    Address, Event, Events, Exit, Handle, Options, Policy, Primary, Program, Settings, Signal,
    WorkerHandle,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// The variable that makes this program a primary.
pub(crate) const ROLE: &str = "PHALANX_CONFORMANCE_ROLE";
/// The Node of the workers, and its own arguments, split on spaces.
pub(crate) const NODE: &str = "PHALANX_NODE";
pub(crate) const NODE_ARGS: &str = "PHALANX_CONFORMANCE_NODE_ARGS";

/// Whether phalanx's workers get the preload.
pub(crate) fn has_preload() -> bool {
    std::env::var_os("PHALANX_CONFORMANCE_NO_PRELOAD").is_none()
}

type Said = Result<Value, Box<dyn Error>>;
/// Every worker that ever was.
type Workers = Arc<Mutex<BTreeMap<u64, WorkerHandle>>>;

pub(crate) fn play() {
    // Standard output is for events: workers write to standard error.
    let out = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).expect("standard output");
    rustix::stdio::dup2_stdout(std::io::stderr()).expect("standard error");
    let voice = Voice(Arc::new(Mutex::new(File::from(out))));
    let (orders, given) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line).expect("an order");
            if orders.send(order).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(obey_all(given, voice));
}

async fn obey_all(mut given: mpsc::UnboundedReceiver<Value>, voice: Voice) {
    let policy = Policy::from_env().expect("a policy");
    let primary = Primary::start(Options { policy, ..Options::default() }).expect("started");
    let workers = Workers::default();
    tokio::spawn(tell_all(primary.events(), Arc::clone(&workers), voice.clone()));
    // Whoever gives the orders is gone when they end.
    while let Some(order) = given.recv().await {
        if order["do"] == "quit" {
            break;
        }
        let (primary, workers, voice) = (primary.clone(), Arc::clone(&workers), voice.clone());
        // An order that takes its time does not keep the next one waiting.
        tokio::spawn(async move {
            voice.say(&match obey(&primary, &workers, &order).await {
                Ok(ok) => json!({ "reply": order["n"], "ok": ok }),
                Err(error) => json!({ "reply": order["n"], "error": error.to_string() }),
            });
        });
    }
    // As Node's: without a goodbye.
    std::process::exit(0);
}

/// Where events and replies go.
#[derive(Clone)]
struct Voice(Arc<Mutex<File>>);

impl Voice {
    fn say(&self, line: &Value) {
        // Nobody may be left to read it.
        let _ = writeln!(self.0.lock().expect("not poisoned"), "{line}");
    }
}

async fn tell_all(mut events: Events, workers: Workers, voice: Voice) {
    while let Some(event) = events.next().await {
        let Some(worker) = event.worker() else { continue };
        let id = u64::from(worker.id().0);
        let left = worker.exited_after_disconnect();
        let line = match &event {
            Event::Fork(worker) => {
                workers.lock().expect("not poisoned").insert(id, worker.clone());
                json!({ "event": "fork", "pid": worker.pid() })
            }
            Event::Online(_) => json!({ "event": "online" }),
            Event::Listening(_, Address::Unix(path)) => {
                json!({ "event": "listening", "address": { "path": path } })
            }
            Event::Listening(_, Address::Ip(address)) => {
                let address = json!({ "host": address.ip(), "port": address.port() });
                json!({ "event": "listening", "address": address })
            }
            Event::Message(_, message) => {
                let said: Value = message.parse().expect("JSON");
                let handle = message.take_handle().map(use_handle);
                json!({ "event": "message", "message": said, "handle": handle })
            }
            Event::Disconnect(_) => json!({ "event": "disconnect", "exitedAfterDisconnect": left }),
            Event::Exit(_, exit) => {
                let (code, signal) = match exit {
                    Exit::Code(code) => (Some(*code), None),
                    Exit::Signal(number) => (None, Some(signal_name(*number))),
                };
                json!({ "event": "exit", "code": code, "signal": signal, "exitedAfterDisconnect": left })
            }
            Event::Error(_, what) => json!({ "event": "error", "error": &**what }),
            _ => continue,
        };
        let mut line = line;
        line["id"] = json!(id);
        voice.say(&line);
    }
}

async fn obey(primary: &Primary, workers: &Workers, order: &Value) -> Said {
    let worker = || {
        let id = order["id"].as_u64().unwrap_or(0);
        let known = workers.lock().expect("not poisoned").get(&id).cloned();
        known.ok_or_else(|| format!("there is no worker {id}"))
    };
    match order["do"].as_str().unwrap_or_default() {
        "fork" => {
            primary.setup(settings(order)?);
            let worker = primary.fork_with(env_of(order)).await?;
            // Its event may not have been told yet.
            let id = u64::from(worker.id().0);
            workers.lock().expect("not poisoned").insert(id, worker.clone());
            Ok(json!({ "id": id, "pid": worker.pid() }))
        }
        "supervise" => {
            let mut settings = settings(order)?;
            settings.env = env_of(order);
            primary.setup(settings);
            primary.scale(usize::try_from(order["workers"].as_u64().unwrap_or(0))?)?;
            Ok(json!(true))
        }
        "send" => {
            let worker = worker()?;
            let message = &order["message"];
            if order["handle"].is_null() {
                worker.send(message).await?;
                return Ok(json!(true));
            }
            let (handle, place) = make_handle(&order["handle"]).await?;
            worker.send_handle(message, handle).await?;
            Ok(place)
        }
        "disconnect" => {
            worker()?.disconnect();
            Ok(json!(true))
        }
        "kill" | "destroy" => {
            worker()?.kill(signal(order["signal"].as_str().unwrap_or("SIGTERM"))?)?;
            Ok(json!(true))
        }
        "state" => {
            let worker = worker()?;
            Ok(json!({
                "connected": worker.is_connected(),
                "dead": worker.is_dead(),
                "exitedAfterDisconnect": worker.exited_after_disconnect(),
            }))
        }
        "disconnectAll" => {
            primary.stop().await;
            let workers = workers.lock().expect("not poisoned");
            Ok(json!({ "alive": workers.values().filter(|worker| !worker.is_dead()).count() }))
        }
        // Whoever is asked for a status did what was there before.
        "ping" => Ok(json!(primary.status().await.is_ok())),
        other => Err(format!("unknown order {other}").into()),
    }
}

/// `node [its arguments] script [arguments]`.
fn settings(order: &Value) -> Result<Settings, Box<dyn Error>> {
    let node = std::env::var_os(NODE).ok_or("no Node was named")?;
    let own = std::env::var(NODE_ARGS).unwrap_or_default();
    let args = order["args"].as_array().into_iter().flatten();
    let program = Program::new(order["exec"].as_str().ok_or("no script was named")?)
        .args(args.filter_map(Value::as_str))
        .interpreter(node)
        .interpreter_args(own.split_whitespace())
        .preload(has_preload());
    let cwd = order["cwd"].as_str().map(Into::into);
    Ok(Settings { cwd, ..program.settings()? })
}

fn env_of(order: &Value) -> Vec<(OsString, OsString)> {
    let variables = order["env"].as_object().into_iter().flatten();
    variables.map(|(k, v)| (k.into(), v.as_str().unwrap_or_default().into())).collect()
}

/// Makes a handle to send to a worker; says where it is.
async fn make_handle(wish: &Value) -> Result<(Handle, Value), Box<dyn Error>> {
    let path = wish["path"].as_str().unwrap_or_default();
    let udp = |ip: IpAddr| -> Result<(Handle, Value), Box<dyn Error>> {
        let socket = std::net::UdpSocket::bind((ip, 0))?;
        let port = socket.local_addr()?.port();
        Ok((Handle::Udp(socket), json!({ "port": port })))
    };
    match wish["kind"].as_str().unwrap_or_default() {
        "tcp" => {
            let port = u16::try_from(wish["port"].as_u64().unwrap_or(0))?;
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            Ok((Handle::Tcp(stream), json!({})))
        }
        "unix" => Ok((Handle::Unix(UnixStream::connect(path)?), json!({}))),
        "tcp-server" => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            Ok((Handle::TcpListener(listener), json!({ "port": port })))
        }
        "unix-server" => Ok((Handle::UnixListener(UnixListener::bind(path)?), json!({}))),
        "udp4" => udp(Ipv4Addr::LOCALHOST.into()),
        "udp6" => udp(Ipv6Addr::LOCALHOST.into()),
        other => Err(format!("no handle is called {other}").into()),
    }
}

/// Uses a handle that came from a worker, so that its client can tell that it works here.
fn use_handle(handle: Handle) -> &'static str {
    match handle {
        Handle::Tcp(stream) => {
            let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
            tokio::spawn(say_and_close(stream, "primary has it\n"));
            "socket"
        }
        Handle::Unix(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream).expect("a stream");
            tokio::spawn(say_and_close(stream, "primary has it\n"));
            "socket"
        }
        Handle::TcpListener(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.expect("accepted");
                say_and_close(stream, "primary accepts\n").await;
            });
            "server"
        }
        Handle::UnixListener(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.expect("accepted");
                say_and_close(stream, "primary accepts\n").await;
            });
            "server"
        }
        Handle::Udp(socket) => {
            let socket = tokio::net::UdpSocket::from_std(socket).expect("a socket");
            tokio::spawn(async move {
                let mut text = [0; 64];
                let (n, from) = socket.recv_from(&mut text).await.expect("received");
                let answer = format!("primary got {}", String::from_utf8_lossy(&text[..n]));
                socket.send_to(answer.as_bytes(), from).await.expect("sent");
            });
            "udp"
        }
        _ => "unknown",
    }
}

async fn say_and_close(mut stream: impl AsyncWrite + Unpin, text: &str) {
    // The client may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

const SIGNALS: [(&str, Signal); 6] = [
    ("SIGTERM", Signal::TERM),
    ("SIGKILL", Signal::KILL),
    ("SIGINT", Signal::INT),
    ("SIGHUP", Signal::HUP),
    ("SIGABRT", Signal::ABORT),
    ("SIGUSR2", Signal::USR2),
];

fn signal(name: &str) -> Result<Signal, String> {
    let known = SIGNALS.iter().find(|(known, _)| *known == name);
    known.map(|(_, signal)| *signal).ok_or_else(|| format!("no signal is called {name}"))
}

fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}
