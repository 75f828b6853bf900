//! A server over loopback with the model of a fixture, and a client that knows no more of HTTP than it needs.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use compiler::pipeline::CompileOptions;
use compiler::target::Activations;
use runtime::engine::EngineOptions;
use runtime::server::models::{ModelOptions, ModelSpec};
use runtime::server::{Server, ServerOptions};
use runtime::serving::ServiceOptions;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{artifacts, golden};

/// Longest sequence of a served fixture, in tokens; the fixtures themselves end at 512, which a few tools' schemas fill.
pub const CONTEXT: u64 = 4096;

/// A running server. Dropping it stops it.
pub struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _folders: [TempDir; 2],
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, in lower case.
    pub headers: String,
    /// Its body.
    pub body: String,
}

/// A server-sent event.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its data.
    pub data: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The body as events, comments left out.
    pub fn events(&self) -> Vec<Event> {
        let blocks = self.body.split("\n\n").filter(|block| !block.is_empty());
        let field = |block: &str, name: &str| {
            block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        blocks.filter_map(|b| Some(Event { name: field(b, "event"), data: field(b, "data")? })).collect()
    }

    /// The events' data as JSON; `[DONE]` must be the last, and is left out.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().map(|last| last.data).as_deref(), Some("[DONE]"), "{}", self.body);
        events.iter().map(|event| event.json()).collect()
    }
}

impl Event {
    /// Its data as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {}", self.data))
    }
}

impl Served {
    /// A server of the fixture, compiled with hidden states, called by its name.
    pub fn fixture(name: &str) -> Served {
        let compile = CompileOptions { embeddings: true, ..artifacts::options(Activations::F32) };
        Served::start(name, &compile, |_| {})
    }

    /// As [`Served::fixture`], compiled and served in another way.
    pub fn start(name: &str, compile: &CompileOptions, change: impl FnOnce(&mut ServerOptions)) -> Served {
        let checkpoint = with_long_context(&golden::folder().join(name));
        let (folder, artifact) = artifacts::compile_with(checkpoint.path(), compile);
        let engine = EngineOptions {
            threads: Some(1),
            max_model_len: Some(CONTEXT),
            kv_tokens: Some(4 * CONTEXT),
            ..EngineOptions::default()
        };
        let spec = ModelSpec { names: vec![name.into()], path: artifact.path().to_path_buf() };
        let service = ServiceOptions { engine, max_num_seqs: 8, ..ServiceOptions::default() };
        let mut options = ServerOptions::new(ModelOptions { service, ..ModelOptions::new(vec![spec]) });
        change(&mut options);
        let (stop, (told, ready)) = (CancellationToken::new(), std::sync::mpsc::channel());
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::bind("127.0.0.1:0".parse().expect("an address"), options).await.expect("a port");
                let address = server.address();
                server.run(stopping, |_| told.send(address).expect("the test waits")).await.expect("a server");
            });
        });
        let address = ready.recv().expect("the model is loaded");
        Served { address, stop, thread: Some(thread), _folders: [folder, checkpoint] }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Posts a document and reads the answer to its end.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let head = format!("content-type: application/json\r\ncontent-length: {}", body.len());
        read(self.send("POST", path, &head, &body))
    }

    /// Asks for a document.
    pub fn get(&self, path: &str) -> Answer {
        read(self.send("GET", path, "accept: */*", ""))
    }

    /// Posts a document and leaves the answer to the caller.
    pub fn open(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        self.send("POST", path, &format!("content-type: application/json\r\ncontent-length: {}", body.len()), &body)
    }

    /// HTTP 1.0: the answer ends where the connection does.
    fn send(&self, method: &str, path: &str, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        let request = format!("{method} {path} HTTP/1.0\r\nhost: {}\r\n{head}\r\n\r\n{body}", self.address);
        stream.write_all(request.as_bytes()).expect("written");
        stream
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the server panicked: {panic:?}");
        }
    }
}

fn read(mut stream: TcpStream) -> Answer {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer");
    let text = String::from_utf8(text).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, headers: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// A copy of a checkpoint whose configuration allows longer sequences.
fn with_long_context(checkpoint: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(checkpoint).expect("a checkpoint") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
    config["max_position_embeddings"] = Value::from(CONTEXT);
    fs::write(path, config.to_string()).expect("written");
    copy
}
