//! Single requests, and what is expected of their answers.

use crate::common::LONG;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};

/// A request on a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    status: u16,
    contains: String,
}

impl Request {
    pub(crate) fn get(path: &'static str) -> Self {
        let (method, body, contains) = ("GET", "", String::new());
        Self { method, path, headers: Vec::new(), body, status: 200, contains }
    }

    pub(crate) fn post(path: &'static str, kind: &str, body: &'static str) -> Self {
        let request = Self { method: "POST", body, ..Self::get(path) };
        request.header("Content-Type", kind).header("Content-Length", &body.len().to_string())
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// What the answer has to be.
    pub(crate) fn expect(mut self, status: u16, contains: &str) -> Self {
        self.status = status;
        contains.clone_into(&mut self.contains);
        self
    }

    pub(crate) fn accepts(&self, response: &Response) -> bool {
        response.status == self.status && response.body.contains(&self.contains)
    }

    fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let Self { method, path, body, .. } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }

    /// The process that answered.
    pub(crate) fn worker(&self) -> u32 {
        let worker = self.header("x-worker").and_then(|pid| pid.parse().ok());
        worker.unwrap_or_else(|| panic!("an answer that does not tell its worker: {self:?}"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..split]).ok()?;
        let rest = &bytes[split + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let headers = lines
            .map(|line| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())))
            .collect::<Option<_>>()?;
        let mut response = Self { status, headers, body: String::new() };
        let body = match (response.header("transfer-encoding"), response.header("content-length")) {
            (Some("chunked"), _) => joined(rest)?,
            (None, Some(length)) => {
                let length: usize = length.parse().ok()?;
                (rest.len() == length).then(|| rest.to_vec())?
            }
            _ => rest.to_vec(),
        };
        response.body = String::from_utf8(body).ok()?;
        Some(response)
    }
}

/// A chunked body, if it is complete.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        let chunk = rest.get(end + 2..end + 2 + size)?;
        rest = rest.get(end + 2 + size..)?.strip_prefix(b"\r\n")?;
        if size == 0 {
            return rest.is_empty().then_some(body);
        }
        body.extend_from_slice(chunk);
    }
}

/// One request, from one of so many source addresses in turn.
pub(crate) fn ask(address: SocketAddr, sources: u8, request: &Request) -> io::Result<Response> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let source = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % sources;
    let mut stream = connect(address, Ipv4Addr::new(127, 0, 0, source))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(&request.bytes(address))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Response::parse(&bytes).ok_or_else(|| {
        io::Error::other(format!("no complete answer: {:?}", String::from_utf8_lossy(&bytes)))
    })
}

fn connect(address: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let kind = (AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &address)?;
    Ok(TcpStream::from(socket))
}
