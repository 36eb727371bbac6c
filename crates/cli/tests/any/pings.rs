//! A load for servers that do not speak HTTP: a question and its answer on a socket of its own, again
//! and again, with nothing repeated.

use bench::load::{Failure, Outcome, Phase};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What each client waits after an answer: the machine is to have some room.
const THINK: Duration = Duration::from_millis(4);
const CLIENTS: usize = 6;

/// One question: the client's address as soon as it is known, and the answer.
pub(crate) type Ask = fn(SocketAddr, &mut Option<SocketAddr>) -> Result<String, (Phase, io::Error)>;

/// Redis is asked for a sign of life.
pub(crate) fn redis(
    target: SocketAddr,
    local: &mut Option<SocketAddr>,
) -> Result<String, (Phase, io::Error)> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT).map_err(at(Phase::Connect))?;
    *local = stream.local_addr().ok();
    stream.set_read_timeout(Some(TIMEOUT)).map_err(at(Phase::Connect))?;
    stream.write_all(b"PING\r\n").map_err(at(Phase::Write))?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).map_err(at(Phase::ReadNothing))?;
    if answer == *b"+PONG\r\n" { Ok("PONG".to_owned()) } else { Err(bad(&answer)) }
}

/// A datagram comes back, with what its server says about itself.
pub(crate) fn udp(
    target: SocketAddr,
    local: &mut Option<SocketAddr>,
) -> Result<String, (Phase, io::Error)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(at(Phase::Connect))?;
    *local = socket.local_addr().ok();
    socket.set_read_timeout(Some(TIMEOUT)).map_err(at(Phase::Connect))?;
    socket.connect(target).map_err(at(Phase::Connect))?;
    let question = format!("{local:?}");
    socket.send(question.as_bytes()).map_err(at(Phase::Write))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).map_err(at(Phase::ReadNothing))?;
    let text = String::from_utf8_lossy(&answer[..length]);
    let said = text.strip_prefix(&question).ok_or_else(|| bad(&answer[..length]))?;
    Ok(said.trim().to_owned())
}

fn at(phase: Phase) -> impl Fn(io::Error) -> (Phase, io::Error) {
    move |error| (phase, error)
}

fn bad(answer: &[u8]) -> (Phase, io::Error) {
    let text = String::from_utf8_lossy(answer);
    (Phase::BadResponse, io::Error::other(format!("not the answer: {text:?}")))
}

/// A load that runs until it is stopped or dropped.
pub(crate) struct Pings {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Outcome>>,
    begin: Instant,
}

impl Pings {
    /// `most` bounds how long it runs.
    pub(crate) fn start(target: SocketAddr, ask: Ask, most: Duration) -> Self {
        let begin = Instant::now();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let mut seen = Outcome::default();
                while !stop.load(Ordering::Relaxed) && begin.elapsed() < most {
                    let before = seen.answered;
                    one(target, ask, begin, &mut seen);
                    answered.fetch_add(seen.answered - before, Ordering::Relaxed);
                    thread::sleep(THINK);
                }
                seen
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, answered, clients, begin }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Asks no more, and waits for the answers that are due.
    pub(crate) fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for client in self.clients.drain(..) {
            let one = client.join().expect("the client does not panic");
            all.answered += one.answered;
            all.failed += one.failed;
            all.connections += one.connections;
            all.errors.extend(one.errors);
            for (phase, count) in one.by_phase {
                *all.by_phase.entry(phase).or_default() += count;
            }
            all.slowest_new_connection = all.slowest_new_connection.max(one.slowest_new_connection);
        }
        all.elapsed = self.begin.elapsed();
        all
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn one(target: SocketAddr, ask: Ask, begin: Instant, seen: &mut Outcome) {
    let began = begin.elapsed();
    let mut local = None;
    match ask(target, &mut local) {
        Ok(_) => {
            seen.answered += 1;
            seen.connections += 1;
            let took = begin.elapsed().saturating_sub(began);
            seen.slowest_new_connection = seen.slowest_new_connection.max(took);
        }
        Err((phase, error)) => {
            seen.failed += 1;
            *seen.by_phase.entry(phase).or_default() += 1;
            seen.errors.push(Failure {
                at: begin.elapsed(),
                began,
                phase,
                local,
                request_on_connection: 1,
                error: error.to_string(),
                kind: error.kind(),
            });
        }
    }
}
