//! What a program feels that is under the filter: `bench probe …`, run as a worker by the bench itself.

use rustix::net::{AddressFamily, SocketType, bind, socket};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

/// Calls of a system call that does next to nothing.
const CALLS: u32 = 2_000_000;
const BINDS: u32 = 300;

/// Does what it is told; the results go to stdout.
pub(crate) fn probe(args: &[String]) -> Result<(), String> {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["calls"] => {
            let begun = Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(rustix::process::getppid());
            }
            tell(begun, CALLS);
            Ok(())
        }
        ["binds", port] => binds(port.parse().map_err(|_| "no port")?),
        ["serve"] => serve(),
        _ => Err("there are `calls`, `binds PORT` and `serve`".into()),
    }
}

fn tell(begun: Instant, count: u32) {
    println!("nanoseconds {:.1}", begun.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    // Who asked ends this process.
    std::thread::sleep(std::time::Duration::from_secs(60));
}

fn binds(port: u16) -> Result<(), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let begun = Instant::now();
    for _ in 0..BINDS {
        let socket =
            socket(AddressFamily::INET, SocketType::STREAM, None).map_err(|e| e.to_string())?;
        bind(&socket, &address).map_err(|e| e.to_string())?;
    }
    tell(begun, BINDS);
    Ok(())
}

/// More threads than the load has clients.
const THREADS: usize = 24;

/// A server that does nothing else: a thread for each client, one answer.
fn serve() -> Result<(), String> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).ok_or("no PORT")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| e.to_string())?;
    let listener = &listener;
    let body = format!("{{\"pid\":{},\"slot\":0}}", std::process::id());
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    // They live as long as the process, so that what they cost can be read.
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                for mut stream in listener.incoming().flatten() {
                    let mut request = [0; 4096];
                    while matches!(stream.read(&mut request), Ok(1..))
                        && stream.write_all(answer.as_bytes()).is_ok()
                    {}
                }
            });
        }
    });
    Ok(())
}
