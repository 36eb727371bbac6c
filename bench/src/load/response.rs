//! Reads one HTTP/1.1 response, strictly: anything odd is a failure, not an answer.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::outcome::Phase;

/// A head, a chunk size or a trailer line may not be longer than this.
const LONGEST_HEAD: usize = 64 * 1_024;
/// So much of a body is kept, to look for the worker in it.
const KEPT_BODY: usize = 16 * 1_024;

/// What went wrong with one request.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) phase: Phase,
    pub(super) kind: io::ErrorKind,
    pub(super) error: String,
}

impl Fault {
    pub(super) fn io(phase: Phase, error: &io::Error) -> Self {
        Self { phase, kind: error.kind(), error: error.to_string() }
    }

    pub(super) fn bad(error: impl Into<String>) -> Self {
        Self { phase: Phase::BadResponse, kind: io::ErrorKind::InvalidData, error: error.into() }
    }
}

/// One complete response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the connection may be used again.
    pub(super) reusable: bool,
    /// Who answered.
    pub(super) worker: String,
}

enum Length {
    Known(u64),
    Chunked,
    UntilEnd,
}

struct Head {
    status: u16,
    length: Length,
    close: bool,
    worker: Option<String>,
}

/// The reading side of one connection, with what was read but not used.
pub(super) struct Reader {
    buffer: Vec<u8>,
    /// Whether a byte of the present response has come.
    pub(super) begun: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::new(), begun: false }
    }

    /// Reads the response to one GET. Nothing may follow it.
    pub(super) async fn answer<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> Result<Answer, Fault> {
        self.begun = !self.buffer.is_empty();
        let head = self.head(stream).await?;
        let mut kept = Vec::new();
        let ended = match head.length {
            Length::Known(length) => {
                self.take(stream, length, &mut kept).await?;
                false
            }
            Length::Chunked => {
                self.chunks(stream, &mut kept).await?;
                false
            }
            Length::UntilEnd => {
                self.rest(stream, &mut kept).await?;
                true
            }
        };
        if !self.buffer.is_empty() {
            let count = self.buffer.len();
            return Err(Fault::bad(format!("{count} bytes after the end of the response")));
        }
        let worker = head.worker.or_else(|| pid_in(&kept)).unwrap_or_else(|| "?".to_owned());
        Ok(Answer { status: head.status, reusable: !head.close && !ended, worker })
    }

    /// Reads more into the buffer; 0 at the end of file.
    async fn more<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<usize, Fault> {
        self.buffer.reserve(4_096);
        match stream.read_buf(&mut self.buffer).await {
            Ok(count) => {
                self.begun |= count > 0;
                Ok(count)
            }
            Err(error) => Err(Fault::io(self.phase(), &error)),
        }
    }

    /// Like `more`, where the end of file is a failure.
    async fn must<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), Fault> {
        if self.more(stream).await? > 0 {
            return Ok(());
        }
        let error = match self.phase() {
            Phase::ReadNothing => "end of file instead of a response",
            _ => "end of file inside the response",
        };
        let kind = io::ErrorKind::UnexpectedEof;
        Err(Fault { phase: self.phase(), kind, error: error.to_owned() })
    }

    fn phase(&self) -> Phase {
        if self.begun { Phase::ReadPartial } else { Phase::ReadNothing }
    }

    async fn head<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<Head, Fault> {
        loop {
            if let Some((size, head)) = parse_head(&self.buffer)? {
                self.buffer.drain(..size);
                match head.status {
                    101 => return Err(Fault::bad("status 101 that nobody asked for")),
                    100..=199 => continue,
                    _ => return Ok(head),
                }
            }
            if self.buffer.len() > LONGEST_HEAD {
                return Err(Fault::bad("a head without an end"));
            }
            self.must(stream).await?;
        }
    }

    async fn take<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        mut length: u64,
        kept: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.must(stream).await?;
            }
            let count = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            keep(kept, &self.buffer[..count]);
            self.buffer.drain(..count);
            length -= count as u64;
        }
        Ok(())
    }

    async fn rest<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        kept: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        loop {
            keep(kept, &self.buffer);
            self.buffer.clear();
            if self.more(stream).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn chunks<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        kept: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        loop {
            let size = match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((used, size))) => {
                    self.buffer.drain(..used);
                    size
                }
                Ok(httparse::Status::Partial) if self.buffer.len() <= LONGEST_HEAD => {
                    self.must(stream).await?;
                    continue;
                }
                _ => return Err(Fault::bad("not a chunk size")),
            };
            if size == 0 {
                // The trailer: lines up to an empty one.
                while !self.line(stream).await?.is_empty() {}
                return Ok(());
            }
            self.take(stream, size, kept).await?;
            if !self.line(stream).await?.is_empty() {
                return Err(Fault::bad("a chunk longer than its size"));
            }
        }
    }

    async fn line<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<Vec<u8>, Fault> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer[..end].to_vec();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > LONGEST_HEAD {
                return Err(Fault::bad("a line without an end"));
            }
            self.must(stream).await?;
        }
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT_BODY.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Head)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            return Err(Fault::bad(format!("not a response ({error}): {start:?}")));
        }
    };
    let status = response.code.unwrap_or(0);
    // An HTTP/1.0 server closes.
    let mut close = response.version == Some(0);
    let (mut chunked, mut known, mut worker) = (false, None, None);
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let mut tokens = value.split(',').map(str::trim);
        let name = header.name;
        if name.eq_ignore_ascii_case("connection") {
            close |= tokens.any(|token| token.eq_ignore_ascii_case("close"));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = tokens.next_back().is_some_and(|last| last.eq_ignore_ascii_case("chunked"));
        } else if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse::<u64>().ok();
            if length.is_none() || known.is_some_and(|known| Some(known) != length) {
                return Err(Fault::bad(format!("content-length {value:?}")));
            }
            known = length;
        } else if name.eq_ignore_ascii_case("x-worker") {
            worker = Some(value.trim().to_owned());
        }
    }
    let length = match (status, chunked, known) {
        (100..=199 | 204 | 304, _, _) => Length::Known(0),
        (_, true, _) => Length::Chunked,
        (_, false, Some(length)) => Length::Known(length),
        (_, false, None) => Length::UntilEnd,
    };
    Ok(Some((size, Head { status, length, close, worker })))
}

/// The number after `"pid":`, by a scan of the text.
fn pid_in(body: &[u8]) -> Option<String> {
    const FIELD: &[u8] = b"\"pid\":";
    let at = body.windows(FIELD.len()).position(|window| window == FIELD)?;
    let after = body[at + FIELD.len()..].trim_ascii_start();
    let digits: String = after
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    (!digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the same bytes at once and byte by byte: the result must not depend on it.
    async fn read(text: &str) -> Result<Answer, Fault> {
        let whole = Reader::new().answer(&mut text.as_bytes()).await;
        let (mut near, mut far) = tokio::io::duplex(1);
        let bytes = text.as_bytes().to_vec();
        let writer = tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut near, &bytes).await;
        });
        let single = Reader::new().answer(&mut far).await;
        drop(far);
        writer.await.unwrap();
        match (&whole, &single) {
            (Ok(whole), Ok(single)) => assert_eq!(whole, single),
            (Err(whole), Err(single)) => assert_eq!(whole.phase, single.phase, "{text:?}"),
            _ => panic!("{whole:?} but {single:?}"),
        }
        whole
    }

    async fn answer(text: &str) -> (u16, bool, String) {
        let answer = read(text).await.unwrap();
        (answer.status, answer.reusable, answer.worker)
    }

    async fn phase(text: &str) -> Phase {
        read(text).await.unwrap_err().phase
    }

    #[tokio::test]
    async fn all_three_kinds_of_length_are_read() {
        let known = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"pid\": 42}";
        assert_eq!(answer(known).await, (200, true, "42".to_owned()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5;x=y\r\n{\"pid\r\n4\r\n\":7}\r\n0\r\nSome: trailer\r\n\r\n";
        assert_eq!(answer(chunked).await, (200, true, "7".to_owned()));
        let ended = "HTTP/1.1 200 OK\r\nX-Worker: 3\r\n\r\n\"pid\":9";
        assert_eq!(answer(ended).await, (200, false, "3".to_owned()));
        let empty = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(answer(empty).await, (204, true, "?".to_owned()));
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_announced_by_header_or_by_version() {
        let close = "HTTP/1.1 200 OK\r\nconnection: foo, CLOSE\r\ncontent-length: 0\r\n\r\n";
        assert!(!answer(close).await.1);
        assert!(!answer("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").await.1);
    }

    #[tokio::test]
    async fn what_is_cut_off_is_told_from_what_is_wrong() {
        assert_eq!(phase("").await, Phase::ReadNothing);
        let whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for end in 1..whole.len() {
            assert_eq!(phase(&whole[..end]).await, Phase::ReadPartial, "{end}");
        }
        assert_eq!(
            phase("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1").await,
            Phase::ReadPartial
        );
        for wrong in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n123\r\n0\r\n\r\n",
        ] {
            assert_eq!(phase(wrong).await, Phase::BadResponse, "{wrong:?}");
        }
        let surplus = &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12"[..];
        let fault = Reader::new().answer(&mut &*surplus).await.unwrap_err();
        assert_eq!(fault.phase, Phase::BadResponse);
    }
}
