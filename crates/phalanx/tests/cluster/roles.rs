//! What this program does as a worker.

use axum::http::StatusCode;
use phalanx::{Address, Handle, ListenOptions, Worker};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The variable that names the role.
pub(crate) const ROLE: &str = "PHALANX_TEST_ROLE";

pub(crate) fn play(role: &str) {
    let threads = usize::from(role == "threads") * 2;
    let done = phalanx::Cluster::new().threads(threads).run(async |worker: Worker| match role {
        "http" => http(worker).await,
        "axum" => axum_server(worker).await,
        "exit" => std::process::exit(7),
        "silent" => std::future::pending().await,
        "upgrade" => upgrade(worker).await,
        "deaf" => deaf(worker).await,
        "chatty" => chatty(worker).await,
        _ => control(worker).await,
    });
    if let Err(error) = done {
        panic!("{error}");
    }
}

fn address() -> String {
    std::env::var("ADDRESS").expect("ADDRESS")
}

/// An HTTP server that says which worker it is.
async fn http(worker: Worker) -> phalanx::Result<()> {
    let listener = worker.listen(address()).await?;
    let id = worker.id().to_string();
    let app = axum::Router::new().fallback(move || async move {
        Ok::<_, Infallible>(([("x-worker", id)], format!("{{\"pid\":{}}}", std::process::id())))
    });
    phalanx::http::serve(listener, app).await
}

/// An HTTP server all of whose connections become echoes.
async fn upgrade(worker: Worker) -> phalanx::Result<()> {
    let listener = worker.listen(address()).await?;
    let app = axum::Router::new().fallback(|request: axum::extract::Request| async move {
        tokio::spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let io = hyper_util::rt::TokioIo::new(upgraded);
            let (mut from, mut to) = tokio::io::split(io);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        let headers = [("connection", "upgrade"), ("upgrade", "echo")];
        (StatusCode::SWITCHING_PROTOCOLS, headers)
    });
    phalanx::http::serve(listener, app).await
}

/// Wants messages and takes none.
async fn deaf(worker: Worker) -> phalanx::Result<()> {
    let _messages = worker.messages();
    worker.draining().await;
    Ok(())
}

/// Says more than anybody takes.
async fn chatty(worker: Worker) -> phalanx::Result<()> {
    let text = "x".repeat(100_000);
    while worker.send(&text).await.is_ok() && !worker.is_draining() {}
    Ok(())
}

/// As `http`, on axum's own `serve`, which knows nothing of draining.
async fn axum_server(worker: Worker) -> phalanx::Result<()> {
    let listener = worker.listen(address()).await?;
    let app =
        axum::Router::new().fallback(|| async { format!("{{\"pid\":{}}}", std::process::id()) });
    axum::serve(listener, app).await.expect("axum serves");
    Ok(())
}

/// Does what the test says, message by message.
async fn control(worker: Worker) -> phalanx::Result<()> {
    let mut messages = worker.messages();
    let mut servers = BTreeMap::new();
    loop {
        let message = tokio::select! {
            biased;
            message = messages.next() => message,
            () = worker.draining() => None,
        };
        let Some(message) = message else { break };
        let order: Value = message.parse()?;
        let text = |key: &str| order[key].as_str().unwrap_or_default().to_owned();
        let options = ListenOptions {
            policy: order["policy"].as_str().map(|p| p.parse().expect("a policy")),
            exclusive: order["exclusive"].as_bool().unwrap_or(false),
            v6_only: order["v6_only"].as_bool().unwrap_or(false),
            mode: order["mode"].as_u64().and_then(|m| u32::try_from(m).ok()),
            backlog: 0,
        };
        let done: Result<Value, String> = match text("do").as_str() {
            "listen" => listen(&worker, &text("address"), &options, &mut servers).await,
            "listen_std" => match worker.listen_with(text("address"), &options).await {
                Ok(listener) => listener
                    .into_tokio()
                    .map(|listener| {
                        let local = listener.local_addr().expect("an address").to_string();
                        let id = worker.id();
                        servers.insert(
                            local.clone(),
                            tokio::spawn(async move {
                                while let Ok((stream, _)) = listener.accept().await {
                                    tokio::spawn(greet(stream, id));
                                }
                            }),
                        );
                        json!(local)
                    })
                    .map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            },
            "listen_fd" => {
                let fd = u32::try_from(order["fd"].as_u64().unwrap_or(0)).unwrap_or(0);
                match worker.listen_fd(fd, &options).await {
                    Ok(listener) => Ok(serve(&worker, listener, &mut servers)),
                    Err(error) => Err(error.to_string()),
                }
            }
            "close" => {
                let closed = servers.remove(&text("address"));
                if let Some(task) = &closed {
                    task.abort();
                }
                // Aborted, it is dropped when the runtime comes to it.
                tokio::task::yield_now().await;
                Ok(json!(closed.is_some()))
            }
            "udp" => match worker.bind_udp(text("address"), &options).await {
                Ok(socket) => {
                    let local = socket.local_addr().expect("an address").to_string();
                    let id = worker.id();
                    tokio::spawn(async move {
                        let mut buffer = [0; 64];
                        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                            let _ = socket.send_to(id.to_string().as_bytes(), from).await;
                        }
                    });
                    Ok(json!(local))
                }
                Err(error) => Err(error.to_string()),
            },
            "echo" => Ok(order["value"].clone()),
            "env" => Ok(json!(std::env::var(text("name")).ok())),
            "childs_env" => {
                let child = std::process::Command::new("env").output().expect("env runs");
                Ok(json!(String::from_utf8_lossy(&child.stdout)))
            }
            "facts" => Ok(json!({
                "args": std::env::args().skip(1).collect::<Vec<_>>(),
                "cwd": std::env::current_dir().ok(),
                "worker": worker.id(), "slot": worker.slot(),
                "is_worker": phalanx::is_worker(), "is_primary": phalanx::is_primary(),
                "uid": rustix::process::getuid().as_raw(),
            })),
            "print" => {
                let _ = writeln!(std::io::stdout(), "on stdout");
                let _ = writeln!(std::io::stderr(), "on stderr");
                Ok(json!(true))
            }
            "exit" => {
                std::process::exit(i32::try_from(order["code"].as_i64().unwrap_or(0)).unwrap_or(1))
            }
            "disconnect" => {
                worker.disconnect().await;
                return Ok(());
            }
            "kill" => worker.kill().await,
            "close_channel" => {
                // Lives on without a channel, until it is killed.
                rustix::net::shutdown(borrowed_channel(), rustix::net::Shutdown::Both)
                    .expect("shutdown");
                std::thread::sleep(Duration::from_secs(60));
                Ok(json!(true))
            }
            "ignore" => {
                std::thread::sleep(Duration::from_secs(60));
                Ok(json!(true))
            }
            "block" => {
                std::thread::sleep(Duration::from_millis(order["ms"].as_u64().unwrap_or(0)));
                Ok(json!(true))
            }
            "ask_for_ever" => {
                // From this thread: nothing reads the channel meanwhile.
                let channel = borrowed_channel();
                rustix::io::ioctl_fionbio(&channel, false).expect("set");
                let ask =
                    "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{}}\n".repeat(100);
                while rustix::io::write(&channel, ask.as_bytes()).is_ok() {}
                Ok(json!(true))
            }
            "raw" => {
                rustix::io::write(borrowed_channel(), text("bytes").as_bytes()).expect("written");
                Ok(json!(true))
            }
            "flood" => {
                let count = order["count"].as_u64().unwrap_or(0);
                let filler = "x".repeat(1000);
                let fed = order["fed"].as_bool().unwrap_or(false);
                for n in 0..count {
                    let message = json!({ "flood": n, "filler": filler });
                    // Not all of them: they come in order however they go.
                    match fed && n % 5 != 0 {
                        true => worker.feed(&message).await?,
                        false => worker.send(&message).await?,
                    }
                }
                if order["then"] == "end" {
                    return Ok(());
                }
                Ok(json!(count))
            }
            "big" => {
                let size = usize::try_from(order["size"].as_u64().unwrap_or(0)).unwrap_or(0);
                worker
                    .send(&"y".repeat(size))
                    .await
                    .map(|()| json!(size))
                    .map_err(|e| e.to_string())
            }
            "reserved" => worker
                .send(&json!({ "cmd": "NODE_CLUSTER", "act": "online" }))
                .await
                .map(|()| json!(true))
                .map_err(|e| e.to_string()),
            "handle" => match message.take_handle() {
                Some(handle) => handle_back(&worker, handle).await,
                None => Err("no handle".into()),
            },
            other => Err(format!("unknown order {other}")),
        };
        let answer = match done {
            Ok(value) => json!({ "id": order["id"], "ok": value }),
            Err(error) => json!({ "id": order["id"], "error": error }),
        };
        worker.send(&answer).await?;
    }
    Ok(())
}

/// The channel, as another descriptor: no `unsafe` in tests.
fn borrowed_channel() -> rustix::fd::OwnedFd {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let me = pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd");
    pidfd_getfd(&me, 3, PidfdGetfdFlags::empty()).expect("a duplicate")
}

type Servers = BTreeMap<String, tokio::task::JoinHandle<()>>;

async fn listen(
    worker: &Worker,
    address: &str,
    options: &ListenOptions,
    servers: &mut Servers,
) -> Result<Value, String> {
    let address: Address = address.parse().map_err(|e: phalanx::Error| e.to_string())?;
    match &address {
        Address::Unix(path) => match worker.listen_unix(path, options).await {
            Ok(mut listener) => {
                let id = worker.id();
                let task = tokio::spawn(async move {
                    while let Some((stream, _)) = listener.accept().await {
                        tokio::spawn(greet(stream, id));
                    }
                });
                servers.insert(address.to_string(), task);
                Ok(json!(address.to_string()))
            }
            Err(error) => Err(error.to_string()),
        },
        Address::Ip(_) => match worker.listen_with(&address, options).await {
            Ok(listener) => Ok(serve(worker, listener, servers)),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn serve(worker: &Worker, mut listener: phalanx::TcpListener, servers: &mut Servers) -> Value {
    let local = listener.local_addr().expect("an address").to_string();
    let id = worker.id();
    let task = tokio::spawn(async move {
        while let Some((stream, _)) = listener.accept().await {
            tokio::spawn(greet(stream, id));
        }
    });
    servers.insert(local.clone(), task);
    json!(local)
}

/// Says who it is, then waits for the client to leave.
async fn greet(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, id: u32) {
    let _ = stream.write_all(format!("{id}\n").as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

/// Uses a handle that came, and sends it back.
async fn handle_back(worker: &Worker, handle: Handle) -> Result<Value, String> {
    let kind = match &handle {
        Handle::Tcp(stream) => {
            let mut stream = stream.try_clone().map_err(|e| e.to_string())?;
            stream.set_nonblocking(false).map_err(|e| e.to_string())?;
            stream.write_all(b"from the worker").map_err(|e| e.to_string())?;
            "tcp"
        }
        Handle::TcpListener(_) => "tcp listener",
        Handle::Udp(_) => "udp",
        Handle::Unix(_) => "unix",
        Handle::UnixListener(_) => "unix listener",
        _ => "something else",
    };
    worker.send_handle(&json!({ "back": kind }), handle).await.map_err(|e| e.to_string())?;
    Ok(json!(kind))
}
