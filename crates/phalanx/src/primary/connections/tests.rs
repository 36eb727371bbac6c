//! Real sockets and real processes, and answers that no kernel gives.

use super::{Connection, Process, digest, established, inode_of, processes, request, sockets};
use bench::wait::until;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio, id};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

/// The kernel's clock has ticks of up to 10 ms, and each end is rounded.
const TICKS: Duration = Duration::from_millis(25);

/// A listener, and the connections to it: the client's side and the worker's.
struct Served {
    listener: TcpListener,
    port: u16,
}

impl Served {
    fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("listens");
        let port = listener.local_addr().expect("an address").port();
        Self { listener, port }
    }

    fn pair(&self, from: &str) -> (TcpStream, TcpStream) {
        let to: SocketAddr = format!("{from}:{}", self.port).parse().expect("an address");
        let client = TcpStream::connect(to).expect("connects");
        (client, self.listener.accept().expect("accepts").0)
    }
}

fn ports<const N: usize>(of: [&Served; N]) -> BTreeSet<u16> {
    of.iter().map(|served| served.port).collect()
}

/// What this process has at these ports.
fn own(ports: &BTreeSet<u16>) -> Vec<Connection> {
    established(&sockets(&[id()]).expect("sockets"), ports).expect("connections")
}

/// The one connection of this process at a port.
fn one(served: &Served) -> Connection {
    let mut all = own(&ports([served]));
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn of_worker(worker: u32, ports: &BTreeSet<u16>) -> io::Result<Vec<Connection>> {
    established(&sockets(&processes(worker))?, ports)
}

/// A child with a process group of its own, which is killed with it.
struct Worker(Child);

impl Worker {
    fn start(program: &str, arguments: &[&str], stdin: impl Into<Stdio>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(stdin).stdout(Stdio::piped()).process_group(0);
        Self(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    /// Waits for a line that it writes.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        for process in processes(self.id()) {
            let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a pid");
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn each_family() {
    for (address, from) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "[::1]")]
        .into_iter()
        .chain([("[::]:0", "127.0.0.1")])
    {
        let served = Served::at(address);
        let (client, worker) = served.pair(from);
        let seen = one(&served);
        assert_eq!(seen.peer, client.local_addr().expect("an address"), "{address} {from}");
        assert_eq!(seen.local, client.peer_addr().expect("an address"), "{address} {from}");
        assert_eq!((seen.unread, seen.unsent), (0, 0), "{seen}");
        let inode = inode_of(&worker).expect("an inode");
        assert!(sockets(&[id()]).expect("sockets").contains(&inode), "{inode}");
        let only = established(&BTreeSet::from([inode]), &ports([&served])).expect("connections");
        assert_eq!(only.len(), 1, "{only:?}");
        let other = inode_of(&client).expect("an inode");
        let none = established(&BTreeSet::from([other]), &ports([&served])).expect("connections");
        assert!(none.is_empty(), "the client's side is at another port: {none:?}");
    }
}

#[test]
fn only_these_ports() {
    let many: Vec<Served> = (0..12).map(|_| Served::at("127.0.0.1:0")).collect();
    let _pairs: Vec<_> = many.iter().map(|served| served.pair("127.0.0.1")).collect();
    // Few ports are asked for one by one, many together.
    for count in [0, 1, 2, 4, 5, 11] {
        let asked: BTreeSet<u16> = many.iter().take(count).map(|served| served.port).collect();
        let seen: BTreeSet<u16> = own(&asked).iter().map(|it| it.local.port()).collect();
        assert_eq!(seen, asked);
    }
    // A port that has only outgoing connections here.
    let (client, _worker) = many[0].pair("127.0.0.1");
    let outgoing = client.local_addr().expect("an address").port();
    let all = own(&ports([&many[0]]));
    assert!(all.len() == 2 && all.iter().all(|it| it.local.port() != outgoing), "{all:?}");
}

/// The idle time counts from the beginning, and again from the last byte in each direction.
#[test]
fn idle_since_the_last_byte() {
    let served = Served::at("127.0.0.1:0");
    let mut begin = Instant::now();
    let (mut client, mut worker) = served.pair("127.0.0.1");
    let silent = |what: &str, begin: Instant| {
        let first = one(&served);
        assert!(first.idle <= begin.elapsed() + TICKS, "{what}: {first}, {:?}", begin.elapsed());
        let grows = || Some(one(&served).idle).filter(|idle| *idle > Duration::from_millis(150));
        let idle = until(LONG, "150 ms of silence", grows).expect("grows");
        assert!(idle <= begin.elapsed() + TICKS, "{what}: {idle:?}, {:?}", begin.elapsed());
    };
    silent("established", begin);
    begin = Instant::now();
    client.write_all(b"question").expect("written");
    until(LONG, "8 bytes", || (one(&served).unread == 8).then_some(())).expect("arrives");
    silent("received", begin);
    // That the worker reads is no sign of life on the wire.
    worker.read_exact(&mut [0; 8]).expect("read");
    assert!(one(&served).idle > Duration::from_millis(150), "{}", one(&served));
    begin = Instant::now();
    worker.write_all(b"answer").expect("written");
    silent("sent", begin);
}

#[test]
fn unread_and_unsent() {
    let served = Served::at("127.0.0.1:0");
    let (mut client, mut worker) = served.pair("127.0.0.1");
    client.write_all(&[7; 1000]).expect("written");
    until(LONG, "1000 bytes", || (one(&served).unread == 1000).then_some(())).expect("arrive");
    worker.read_exact(&mut [0; 400]).expect("read");
    assert_eq!(one(&served).unread, 600);
    // The end of what the client says is no byte.
    client.shutdown(Shutdown::Write).expect("shut");
    worker.read_exact(&mut [0; 500]).expect("read");
    assert_eq!(one(&served).unread, 100);
    worker.read_to_end(&mut Vec::new()).expect("read");
    assert_eq!(one(&served).unread, 0);
    // The client reads nothing: the answer waits here.
    worker.set_nonblocking(true).expect("non-blocking");
    let written = until(LONG, "a full buffer", || {
        let error = (0..10_000).find_map(|_| worker.write_all(&[7; 65536]).err());
        error.map(|error| error.kind())
    });
    assert_eq!(written, Ok(ErrorKind::WouldBlock));
    assert!(one(&served).unsent > 0, "{}", one(&served));
}

#[test]
fn a_closed_one_vanishes() {
    let served = Served::at("127.0.0.1:0");
    let all = ports([&served]);
    let (client, worker) = served.pair("127.0.0.1");
    // The client may await the answer,
    client.shutdown(Shutdown::Write).expect("shut");
    until(LONG, "the client's end", || (worker.peek(&mut [0]).ok() == Some(0)).then_some(()))
        .expect("arrives");
    assert_eq!(own(&all).len(), 1);
    // which was the last.
    worker.shutdown(Shutdown::Write).expect("shut");
    assert!(own(&all).is_empty(), "{:?}", own(&all));
    let (_client, worker) = served.pair("127.0.0.1");
    worker.shutdown(Shutdown::Write).expect("shut");
    assert!(own(&all).is_empty(), "the worker's side is closed: {:?}", own(&all));
    let (_client, worker) = served.pair("127.0.0.1");
    assert_eq!(own(&all).len(), 1);
    drop(worker);
    assert!(own(&all).is_empty(), "{:?}", own(&all));
    // One that nobody has accepted is the slot's, not the worker's.
    let _waiting = TcpStream::connect(("127.0.0.1", served.port)).expect("connects");
    assert!(own(&all).is_empty(), "{:?}", own(&all));
}

/// A connection that a child holds is the child's, and only the child's.
#[test]
fn a_child_holds_a_connection() {
    let served = Served::at("127.0.0.1:0");
    let (_client, connection) = served.pair("127.0.0.1");
    let mut child = Worker::start("sleep", &["600"], OwnedFd::from(connection));
    let all = ports([&served]);
    assert_eq!(processes(child.id()), [child.id()]);
    assert_eq!(of_worker(child.id(), &all).expect("seen").len(), 1);
    assert!(own(&all).is_empty(), "{:?}", own(&all));
    // Ended, and not even reaped: no error, and nothing held.
    child.0.kill().expect("killed");
    until(LONG, "its end", || processes(child.id()).is_empty().then_some(())).expect("ends");
    assert_eq!(sockets(&[child.id()]).expect("no error"), BTreeSet::new());
    child.0.wait().expect("reaped");
    let listener = inode_of(&served.listener).expect("an inode");
    let rest = sockets(&[child.id(), id()]).expect("no error");
    assert!(rest.contains(&listener), "the others' are still told: {rest:?}");
}

/// A descendant in a session of its own, and a member of the group whose parent has ended.
#[test]
fn descendants_and_the_group() {
    let served = Served::at("127.0.0.1:0");
    let all = ports([&served]);
    for script in [
        "exec 3<&0 </dev/null; setsid sleep 600 <&3 3<&- & exec 3<&-; echo $!; wait",
        "exec 3<&0 </dev/null; (sleep 600 <&3 3<&- & echo $!); exec 3<&-; exec sleep 601",
    ] {
        let (_client, connection) = served.pair("127.0.0.1");
        let mut child = Worker::start("sh", &["-c", script], OwnedFd::from(connection));
        let holder: u32 = child.line().parse().expect("a pid");
        // `setsid` and the shells may still be about to become what they are told to be.
        let done = until(LONG, "two processes that sleep or wait", || {
            let found = processes(child.id());
            let held = of_worker(holder, &all).ok()?.len();
            let rest = sockets(&[child.id()]).ok()?.len();
            (found.len() == 2 && found.contains(&holder) && (held, rest) == (1, 0)).then_some(())
        });
        assert_eq!(done, Ok(()), "{script}: {:?}, holder {holder}", processes(child.id()));
        assert_eq!(of_worker(child.id(), &all).expect("seen").len(), 1, "{script}");
        drop(child);
        until(LONG, "its end", || of_worker(holder, &all).ok()?.is_empty().then_some(()))
            .expect("ends");
    }
    assert!(processes(0).is_empty(), "no worker has this number");
}

/// Its first thread has ended, and another still serves.
#[test]
fn a_process_without_its_first_thread() {
    let served = Served::at("127.0.0.1:0");
    let (_client, connection) = served.pair("127.0.0.1");
    let script = "import ctypes, threading, time\n\
                  threading.Thread(target=time.sleep, args=(600,)).start()\n\
                  print('ready', flush=True)\n\
                  ctypes.CDLL(None).pthread_exit(None)";
    let mut child = Worker::start("python3", &["-c", script], OwnedFd::from(connection));
    assert_eq!(child.line(), "ready");
    let zombie = || Process::of(child.id()).filter(|it| it.zombie).map(|it| it.threads);
    assert_eq!(until(LONG, "its first thread's end", zombie), Ok(2));
    assert_eq!(processes(child.id()), [child.id()]);
    assert_eq!(of_worker(child.id(), &ports([&served])).expect("seen").len(), 1);
}

const VICTIM: &str = "PHALANX_TEST_NOT_TO_BE_SEEN";

/// A process that may not be looked at. Root may look at all, so there the look is another process's: this
/// test again, without root's privileges.
#[test]
fn one_that_may_not_be_looked_at() {
    if let Ok(victim) = std::env::var(VICTIM) {
        let victim = victim.parse().expect("a number");
        assert_eq!(processes(victim), [victim], "who is there may be known");
        let error = sockets(&[id(), victim]).expect_err("not allowed");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(&format!("process {victim}:")), "{error}");
        eprintln!("not allowed to look");
        return;
    }
    // It says of itself that only a privileged process may look (PR_SET_DUMPABLE).
    let script = "import ctypes, time\n\
                  ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n\
                  print('ready', flush=True)\n\
                  time.sleep(600)";
    let mut victim = Worker::start("python3", &["-c", script], Stdio::null());
    assert_eq!(victim.line(), "ready");
    let this = std::env::current_exe().expect("a path");
    let mut look = if rustix::process::geteuid().is_root() {
        let mut look = Command::new("setpriv");
        look.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(this);
        look
    } else {
        Command::new(this)
    };
    let test = "primary::connections::tests::one_that_may_not_be_looked_at";
    look.args(["--exact", test, "--nocapture"]).env(VICTIM, victim.id().to_string());
    let output = look.output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("not allowed to look"), "{output:?}");
}

/// Many connections are seen, each once, in a time that grows with their number and not faster.
#[test]
fn many_connections() {
    const COUNT: usize = 1_000;
    let served = Served::at("127.0.0.1:0");
    let _pairs: Vec<_> = (0..COUNT).map(|_| served.pair("127.0.0.1")).collect();
    let begin = Instant::now();
    let seen = own(&ports([&served]));
    let took = begin.elapsed();
    let peers: BTreeSet<SocketAddr> = seen.iter().map(|it| it.peer).collect();
    assert_eq!((seen.len(), peers.len()), (COUNT, COUNT));
    // 10 ms where nothing else runs.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn names_of_processes_may_be_odd() {
    let stat = b"7 (a) Z 1 \xff) S 5 6 6 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 99";
    let it = Process::parse(7, stat).expect("understood");
    assert_eq!((it.id, it.parent, it.group, it.zombie, it.threads), (7, 5, 6, false, 3));
    for odd in ["", ")", "7 (a)", "7 (a) S", "7 (a) S 5 6", "7 (a) S x y"] {
        assert!(Process::parse(7, odd.as_bytes()).is_none(), "{odd}");
    }
}

/// A message as netlink(7) has it.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(u32::try_from(16 + payload.len()).expect("small").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A connection as the kernel tells it, with an attribute before the one that counts.
fn told(family: u8, sent: u32, received: u32) -> Vec<u8> {
    let mut payload = vec![family, 1, 0, 0];
    payload.extend(8000_u16.to_be_bytes());
    payload.extend(4711_u16.to_be_bytes());
    payload.resize(56, 0);
    for number in [3_u32, 5, 1000, 77] {
        payload.extend(number.to_ne_bytes());
    }
    let mut info = vec![0; 104];
    info.splice(44..48, sent.to_ne_bytes());
    info.splice(52..56, received.to_ne_bytes());
    for (kind, content) in [(8_u16, &[1][..]), (2, &info)] {
        payload.extend(u16::try_from(4 + content.len()).expect("small").to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(content);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    message(20, 2, &payload)
}

fn read(bytes: &[u8]) -> (io::Result<bool>, Vec<(u64, Connection)>) {
    let mut found = Vec::new();
    let result = digest(bytes, &mut |inode, connection| found.push((inode, connection)));
    (result, found)
}

#[test]
fn an_answer_is_understood() {
    let answer = [told(2, u32::MAX, 1500), told(10, 20, u32::MAX), message(3, 2, &[0; 4])].concat();
    let (over, found) = read(&answer);
    assert!(over.expect("no error"), "the end was there");
    let (inode, first) = &found[0];
    assert_eq!((*inode, first.unread, first.unsent), (77, 3, 5));
    assert_eq!(first.idle, Duration::from_millis(1500));
    assert_eq!((first.local.to_string(), first.peer.port()), ("0.0.0.0:8000".into(), 4711));
    assert_eq!(found[1].1.idle, Duration::from_millis(20));
    assert!(!read(&told(2, 0, 0)).0.expect("no error"), "more is to come");
    let text = "0.0.0.0:4711 to 0.0.0.0:8000, idle for 1.5s, 3 bytes unread, 5 unsent";
    assert_eq!(first.to_string(), text);
}

#[test]
fn errors_of_the_kernel() {
    // ENOENT, as an answer and at the end: no such table.
    for kind in [2, 3] {
        let error = read(&message(kind, 0, &(-2_i32).to_ne_bytes())).0.expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    let least = read(&message(2, 0, &i32::MIN.to_ne_bytes())).0;
    assert!(least.is_err(), "{least:?}");
    let torn = read(&message(20, 0x10, &[])).0.expect_err("an error");
    assert_eq!(torn.kind(), ErrorKind::ResourceBusy, "{torn}");
    // A real kernel refuses a family that there is not.
    let refused = super::dump(&request(200, 0), &mut |_, _| ());
    assert!(refused.is_err(), "{refused:?}");
}

/// Whatever the kernel says: an answer or an error, and in the end one of both.
#[test]
fn odd_answers() {
    let answer = [told(2, 1, 2), told(10, 3, 4), message(3, 2, &[0; 4])].concat();
    for length in 0..answer.len() - 4 {
        let cut = read(&answer[..length]).0;
        assert!(!matches!(cut, Ok(true)), "{length}: the end was cut off: {cut:?}");
    }
    assert_eq!(read(&[]).0.expect_err("an error").kind(), ErrorKind::InvalidData);
    for at in 0..answer.len() {
        for value in [0, 1, 3, 4, 15, 16, 17, 127, 128, 255] {
            let mut odd = answer.clone();
            odd[at] = value;
            let found = read(&odd).1;
            assert!(found.len() <= 2, "{at} {value}: {found:?}");
        }
    }
}
