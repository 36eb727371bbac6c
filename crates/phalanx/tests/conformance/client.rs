//! The clients of the scenarios: plain sockets that give up in time.

use crate::subject::{PATIENCE, node, scripts};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn free_port() -> u16 {
    bench::wait::free_port()
}

pub(crate) fn local(port: u16) -> SocketAddr {
    (LOCALHOST, port).into()
}

pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A line of what the other side says.
pub(crate) fn line(stream: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Connects, and reads which worker it got; the connection goes on.
pub(crate) fn greeted(to: SocketAddr) -> (u64, TcpStream) {
    let stream = connect(to).unwrap_or_else(|e| panic!("{to} cannot be connected to: {e}"));
    let said = line(&stream).unwrap_or_else(|e| panic!("{to} says nothing: {e}"));
    let worker = said.parse().unwrap_or_else(|_| panic!("{to} said {said:?} and no number"));
    (worker, stream)
}

/// Everything that is said until the end.
pub(crate) fn all(mut stream: impl Read) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Asks on a connection of its own, and returns the answer's body.
pub(crate) fn get(to: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = connect(to)?;
    ask(&mut stream, path)?;
    answer(&mut stream)
}

/// Sends a request of a connection that stays open.
pub(crate) fn ask(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// The body of the answer.
pub(crate) fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut head = String::new();
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let head = head.trim_end().to_ascii_lowercase();
        if let Some(value) = head.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if head.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    String::from_utf8(body).map_err(io::Error::other)
}

/// Sends a datagram, and returns the answer.
pub(crate) fn datagram(to: SocketAddr, text: &str) -> io::Result<String> {
    let own: SocketAddr =
        if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" }.parse().map_err(io::Error::other)?;
    let socket = UdpSocket::bind(own)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(text.as_bytes(), to)?;
    let mut answer = [0; 128];
    let (n, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
}

pub(crate) fn unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Runs a client script, and returns what it printed.
pub(crate) fn script(name: &str, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    let limit = Duration::from_secs(15).as_secs().to_string();
    command.arg(limit).arg(node()).arg(scripts().join("clients").join(name)).args(args);
    let done = command.output().expect("the client runs");
    let (said, why) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{name} {args:?}: {}\n{said}{why}", done.status);
    said.into_owned()
}
