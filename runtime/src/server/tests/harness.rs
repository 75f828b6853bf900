//! A server over loopback with tiny models, and a client that shows the bytes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::artifact::FileInfo;
use crate::engine::EngineOptions;
use crate::server::models::{ModelOptions, ModelSpec};
use crate::server::{Server, ServerError, ServerOptions};
use crate::serving::ServiceOptions;
use crate::testing::{TinyModel, shapes, write_manifest};

/// Writes the tiny model with a tokenizer, one letter a token, and a chat template.
pub fn write_model(folder: &Path) {
    let mut manifest = TinyModel::new().write(folder);
    let template =
        "{% for m in messages %}{{ m.role[0] }}{{ m.content }} {% endfor %}{% if add_generation_prompt %}a{% endif %}";
    for (name, content) in [("tokenizer.json", tokenizer().to_string()), ("chat_template.jinja", template.to_string())]
    {
        fs::write(folder.join(name), &content).unwrap();
        let blake3 = blake3::hash(content.as_bytes()).to_hex().to_string();
        manifest.files.insert(name.into(), FileInfo { bytes: content.len() as u64, blake3 });
    }
    write_manifest(folder, &manifest);
}

fn tokenizer() -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let letters = ('a'..='z').chain([' ', '.', ',', '{', '}', '"', ':', '[', ']', '1']);
    let mut vocab: serde_json::Map<String, Value> =
        letters.enumerate().map(|(i, letter)| (letter.to_string(), json!(i + 4))).collect();
    for (id, token) in ["<unk>", "<s>", "<pad>", "</s>"].iter().enumerate() {
        vocab.insert(token.to_string(), json!(id));
    }
    assert_eq!(vocab.len(), shapes::VOCABULARY);
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "<pad>"), special(3, "</s>")],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []},
    })
}

/// A server and the folders of its models.
pub struct TestServer {
    pub address: SocketAddr,
    pub folder: TempDir,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ServerError>>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }
}

/// Options for models of these names, each in a folder of its own under `folder`.
pub fn options(folder: &Path, names: &[&str]) -> ServerOptions {
    let spec = |name: &&str| {
        let path = folder.join(name);
        write_model(&path);
        ModelSpec { names: vec![name.to_string()], path }
    };
    let engine = EngineOptions { threads: Some(1), kv_tokens: Some(512), ..EngineOptions::default() };
    let models = ModelOptions {
        service: ServiceOptions { engine, max_num_seqs: 4, max_waiting: 8, ..ServiceOptions::default() },
        retry_failed: Duration::ZERO,
        wait_for_room: Duration::from_secs(20),
        ..ModelOptions::new(names.iter().map(spec).collect())
    };
    ServerOptions { shutdown_timeout: Duration::from_secs(20), ..ServerOptions::new(models) }
}

impl TestServer {
    /// A server of one model called `tiny`.
    pub async fn start() -> TestServer {
        TestServer::start_with(&["tiny"], |_| {}).await
    }

    /// A server whose options were changed.
    pub async fn start_with(names: &[&str], change: impl FnOnce(&mut ServerOptions)) -> TestServer {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path(), names);
        change(&mut options);
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let (loaded, ready) = tokio::sync::oneshot::channel();
        let running = tokio::spawn(server.run(stop.clone(), move |_| {
            let _ = loaded.send(());
        }));
        ready.await.expect("the first model is loaded");
        let client = Client::builder(TokioExecutor::new()).build_http();
        TestServer { address, folder, stop, running, client }
    }

    /// The folder of a model.
    pub fn model(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An answer whose body is yet to be read.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> hyper::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.request(request.body(Full::from(body.to_string())).unwrap()).await.unwrap()
    }

    pub async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    /// A connection to write to as one likes.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Tells the server to stop, without waiting.
    pub fn tell_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the server and waits for its end.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

/// Everything that a peer sends until it closes the connection.
pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes bytes, whatever becomes of them.
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}
