//! A client of HTTP/1.1 that can misbehave: it stops in the middle of a request or an answer, reads slowly, or just goes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

/// How a client treats its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It reads everything as it comes.
    Polite,
    /// It reads nothing for a while, then a few bytes at a time, with a small buffer.
    Slow,
    /// It goes after so many bytes of the request.
    GoesWhileAsking(usize),
    /// It goes after so many bytes of the answer; it reads like a polite one until then, rests, and goes.
    GoesWhileReading(usize),
    /// The same, but it reads slowly.
    GoesSlowly(usize),
}

impl Manner {
    fn is_slow(self) -> bool {
        matches!(self, Manner::Slow | Manner::GoesSlowly(_))
    }

    /// Bytes of the answer after which the client goes.
    fn most_read(self) -> usize {
        match self {
            Manner::GoesWhileReading(bytes) | Manner::GoesSlowly(bytes) => bytes,
            _ => usize::MAX,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// GET or POST.
    pub method: &'static str,
    /// Where.
    pub path: &'static str,
    /// The document, or what should be one.
    pub body: Vec<u8>,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its body, whole.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What came of a question.
#[derive(Debug)]
pub enum Outcome {
    /// An answer to its end.
    Replied(Reply),
    /// The client went, as it meant to.
    Gone,
}

/// Pause of a slow reader before it begins.
const LONG_REST: Duration = Duration::from_millis(25);

/// Pause of a slow reader between two pieces, and of one that is about to go.
const SHORT_REST: Duration = Duration::from_millis(1);

/// A connection.
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    received: usize,
    manner: Manner,
}

impl Connection {
    /// Connects; slow readers get the smallest buffer the system gives.
    pub async fn open(address: SocketAddr, manner: Manner) -> io::Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if manner.is_slow() {
            socket.set_recv_buffer_size(1)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, unread: Vec::new(), received: 0, manner })
    }

    /// Asks, and reads the answer as far as the manner goes. The connection can be used again after an answer.
    pub async fn ask(&mut self, question: &Question, manner: Manner) -> io::Result<Outcome> {
        (self.manner, self.received) = (manner, 0);
        if let Manner::GoesWhileAsking(bytes) = manner {
            let whole = self.written(question)?;
            self.stream.write_all(&whole[..bytes.min(whole.len() - 1)]).await?;
            sleep(SHORT_REST).await;
            return Ok(Outcome::Gone);
        }
        self.send(question).await?;
        if manner.is_slow() {
            sleep(LONG_REST).await;
        }
        Ok(self.reply().await?.map_or(Outcome::Gone, Outcome::Replied))
    }

    /// Asks, and reads nothing.
    pub async fn send(&mut self, question: &Question) -> io::Result<()> {
        let whole = self.written(question)?;
        self.stream.write_all(&whole).await
    }

    /// Reads the answer to what was sent, as fast as it comes.
    pub async fn receive_reply(&mut self) -> io::Result<Outcome> {
        (self.manner, self.received) = (Manner::Polite, 0);
        Ok(self.reply().await?.map_or(Outcome::Gone, Outcome::Replied))
    }

    fn written(&self, question: &Question) -> io::Result<Vec<u8>> {
        let Question { method, path, body } = question;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.stream.peer_addr()?,
            body.len()
        );
        Ok([head.as_bytes(), body].concat())
    }

    /// `None` if the client went before the end.
    async fn reply(&mut self) -> io::Result<Option<Reply>> {
        let Some(status) = self.line().await? else { return Ok(None) };
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        let mut headers = Vec::new();
        loop {
            match self.line().await? {
                None => return Ok(None),
                Some(line) if line.is_empty() => break,
                Some(line) => {
                    let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("no header"))?;
                    headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
            }
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        let length =
            reply.header("content-length").map(|length| length.parse().map_err(io::Error::other)).transpose()?;
        let body = match length {
            Some(length) => self.exactly(length).await?,
            None if reply.header("transfer-encoding") == Some("chunked") => self.pieces().await?,
            None => return Err(io::Error::other("a body without a length")),
        };
        Ok(body.map(|body| {
            reply.body = body;
            reply
        }))
    }

    /// A chunked body.
    async fn pieces(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.line().await? else { return Ok(None) };
            let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
            let Some(piece) = self.exactly(size).await? else { return Ok(None) };
            body.extend(piece);
            if self.line().await?.is_none() {
                return Ok(None);
            }
            if size == 0 {
                return Ok(Some(body));
            }
        }
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map(Some).map_err(io::Error::other);
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    async fn exactly(&mut self, bytes: usize) -> io::Result<Option<Vec<u8>>> {
        while self.unread.len() < bytes {
            if !self.receive().await? {
                return Ok(None);
            }
        }
        Ok(Some(self.unread.drain(..bytes).collect()))
    }

    /// Reads what has come; false when the client wants no more.
    async fn receive(&mut self) -> io::Result<bool> {
        if self.received >= self.manner.most_read() {
            sleep(SHORT_REST).await;
            return Ok(false);
        }
        let mut piece = [0; 4096];
        let most = if self.manner.is_slow() { 512 } else { piece.len() };
        let bytes = self.stream.read(&mut piece[..most]).await?;
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the connection in an answer"));
        }
        self.received += bytes;
        self.unread.extend(&piece[..bytes]);
        if self.manner.is_slow() {
            sleep(SHORT_REST).await;
        }
        Ok(true)
    }
}
