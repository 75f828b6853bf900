//! Load over loopback: thousands of requests from clients that vanish, read slowly or send nonsense, while pages and the queue
//! are short. Who stays must get the answer that the request has alone; when all is over, nothing may be left behind.
//!
//! What is asked is drawn by number, so a failure names a request that can be asked again; what meets what is up to the
//! machine. Nothing is timed but for a watchdog that names the requests that are stuck.

mod client;
mod judge;
mod mix;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use client::{Connection, Manner, Outcome, Question, Reply};
use compiler::target::Activations;
use mix::{CONTEXT, Case, Expected, MODEL};
use moesaic_tests::artifacts;
use moesaic_tests::served::Served;
use runtime::engine::EngineOptions;
use runtime::kv::PrefixCacheOptions;
use runtime::server::ServerOptions;
use serde_json::Value;
use tokio::task::LocalSet;
use tokio::time::sleep;

/// Requests before memory is first looked at: caches and buffers fill.
const WARM_UP: u64 = 500;
/// Requests in all after that.
const REQUESTS: u64 = 2000;
/// Parts of them after each of which memory is looked at.
const PARTS: u64 = 4;
/// Clients at a time: more than can wait and run.
const CLIENTS: usize = 24;
/// Requests beside which clients rest that read nothing.
const BESIDE_RESTING: u64 = 300;
/// Those clients.
const RESTING: usize = 2;
/// Requests that may wait for their first step.
const MAX_WAITING: usize = 6;
/// Sequences that may run.
const MAX_SEQS: usize = 5;
/// Tokens of all sequences: fewer than so many sequences may want.
const KV_TOKENS: u64 = 576;
/// Bytes a request that the part which leaves least may leave in memory. The allocator grows in jumps, a leak steadily.
const STEADY_GROWTH: u64 = 2 << 10;
/// As [`STEADY_GROWTH`], of all parts together.
const GROWTH: u64 = 5 << 10;
/// How long all may take before what is under way counts as stuck.
const WATCHDOG: Duration = Duration::from_secs(300);

fn options(options: &mut ServerOptions) {
    let service = &mut options.models.service;
    service.engine = EngineOptions {
        threads: Some(1),
        max_model_len: Some(CONTEXT),
        kv_tokens: Some(KV_TOKENS),
        ..EngineOptions::default()
    };
    (service.max_num_seqs, service.max_waiting) = (MAX_SEQS, MAX_WAITING);
    // Two clients read nothing for as long as all others ask, however long that takes.
    (service.slow_reader, options.connections.write_time) = (WATCHDOG, WATCHDOG);
    service.prefix_cache = Some(PrefixCacheOptions { host_bytes: 256 << 10, ..PrefixCacheOptions::default() });
}

/// What clients share.
struct Load {
    address: SocketAddr,
    catalogue: Vec<Question>,
    /// What each entry of the catalogue gives alone.
    alone: OnceCell<Vec<Value>>,
    next: RefCell<std::ops::Range<u64>>,
    under_way: RefCell<BTreeMap<String, String>>,
    seen: RefCell<Seen>,
}

/// What was counted.
#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    refused: u64,
    gone: u64,
    queue_full: u64,
    most_waiting: u64,
    most_running: u64,
    wrong: Vec<String>,
}

impl Seen {
    fn note(&mut self, metrics: &Metrics) {
        self.most_waiting = self.most_waiting.max(metrics.value("num_requests_waiting") as u64);
        self.most_running = self.most_running.max(metrics.value("num_requests_running") as u64);
    }
}

/// Bounds the arenas of glibc's allocator. Each keeps what its thread once needed, and a leak would drown in that.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Runs the load in a process of its own, with a setting that must stand when a process begins.
#[test]
fn a_load_leaves_nothing_behind() {
    if std::env::var_os(ARENAS).is_some() {
        return load();
    }
    let this = std::env::current_exe().expect("a test binary");
    let arguments = ["a_load_leaves_nothing_behind", "--exact", "--nocapture"];
    let ran = std::process::Command::new(this).args(arguments).env(ARENAS, "1").output().expect("a process");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
    eprint!("{err}");
}

fn load() {
    let served = Served::start(MODEL, &artifacts::options(Activations::F32), options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let load = Rc::new(Load {
        address: served.address(),
        catalogue: mix::catalogue(),
        alone: OnceCell::new(),
        next: RefCell::new(0..0),
        under_way: RefCell::default(),
        seen: RefCell::default(),
    });
    LocalSet::new().block_on(&runtime, async {
        let ended = tokio::time::timeout(WATCHDOG, drive(load.clone())).await;
        assert!(ended.is_ok(), "stuck: {:#?}", load.under_way.borrow());
    });
}

async fn drive(load: Rc<Load>) {
    let files = open_files();
    load.alone.set(answers_alone(&load).await).expect("asked once");
    let mut resident = Vec::new();
    for requests in std::iter::once(WARM_UP).chain((0..PARTS).map(|_| REQUESTS / PARTS)) {
        run(&load, requests).await;
        quiet(&load, files).await;
        resident.push(resident_bytes());
    }
    assert_grown_little(&resident);
    run_beside_resting_clients(&load).await;
    quiet(&load, files).await;
    check(&load.seen.borrow());
    let metrics = Metrics::read(&load).await;
    assert!(metrics.value("num_preemptions_total") > 0.0 && metrics.value("prefix_cache_hits_total") > 0.0);
    assert_eq!(metrics.value("request_failures_total"), 0.0);
    takes_most_pages(&load).await;
}

fn check(seen: &Seen) {
    assert!(seen.wrong.is_empty(), "{} wrong, such as {:#?}", seen.wrong.len(), &seen.wrong[..seen.wrong.len().min(5)]);
    assert_eq!(seen.answered + seen.refused + seen.gone, WARM_UP + REQUESTS + BESIDE_RESTING);
    for (count, what) in [
        (seen.answered, "answered"),
        (seen.refused, "refused"),
        (seen.gone, "given up"),
        (seen.queue_full, "turned away"),
    ] {
        assert!(count > 100, "{count} requests {what}");
    }
    // Those that lost their pages wait, too: they were among those that ran, or rest.
    assert!(seen.most_waiting <= (MAX_WAITING + MAX_SEQS + RESTING) as u64, "{} waited", seen.most_waiting);
    assert!(seen.most_running <= MAX_SEQS as u64, "{} ran", seen.most_running);
}

/// Asks everything of the catalogue, one after the other.
async fn answers_alone(load: &Load) -> Vec<Value> {
    let mut alone = Vec::new();
    for question in &load.catalogue {
        let reply = ask_once(load, "alone", question).await;
        let text = || format!("{}: {}", String::from_utf8_lossy(&question.body), reply.text());
        assert_eq!(reply.status, 200, "{}", text());
        alone.push(judge::content(&reply).unwrap_or_else(|e| panic!("{e}: {}", text())));
    }
    alone
}

/// Has the clients ask the next so many things.
async fn run(load: &Rc<Load>, requests: u64) {
    let from = load.next.borrow().end;
    load.next.replace(from..from + requests);
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::task::spawn_local(client(load.clone()))).collect();
    let watcher = tokio::task::spawn_local(watch(load.clone()));
    for client in clients {
        client.await.expect("a client does not panic");
    }
    watcher.abort();
}

/// Load beside clients that asked for more than buffers hold and read none of it. They hold up nobody; in the end one reads
/// on, and gets what the request gives alone, and one goes.
async fn run_beside_resting_clients(load: &Rc<Load>) {
    let alone = judge::content(&ask_once(load, "a long answer", &mix::long()).await);
    let mut resting = Vec::new();
    for _ in 0..RESTING {
        let mut connection = Connection::open(load.address, Manner::Slow).await.expect("a connection");
        connection.send(&mix::long()).await.expect("sent");
        resting.push(connection);
    }
    // Later they could find the queue full.
    while Metrics::read(load).await.requests() < RESTING as f64 {
        sleep(Duration::from_millis(5)).await;
    }
    run(load, BESIDE_RESTING).await;
    let held = Metrics::read(load).await.requests();
    assert_eq!(held, RESTING as f64, "the system's buffers hold the whole of a long answer, so nobody rested");
    load.under_way.borrow_mut().insert("a client that rested".into(), shown(&mix::long()));
    let outcome = resting.remove(0).receive_reply().await.expect("an answer");
    load.under_way.borrow_mut().remove("a client that rested");
    let Outcome::Replied(reply) = outcome else { unreachable!("polite clients stay") };
    assert!(
        alone.is_ok() && judge::content(&reply) == alone,
        "after a rest: {:.2000}\nalone: {alone:.2000?}",
        reply.text()
    );
}

/// Asks one thing after the other, on the same connection while that can be.
async fn client(load: Rc<Load>) {
    let mut connection = None;
    loop {
        let Some(number) = load.next.borrow_mut().next() else { return };
        let case = mix::case(&load.catalogue, number);
        let (name, what) = (format!("request {number}"), format!("{:?} of {}", case.manner, shown(&case.question)));
        load.under_way.borrow_mut().insert(name.clone(), what.clone());
        if let Err(wrong) = serve_case(&load, &case, &mut connection).await {
            load.seen.borrow_mut().wrong.push(format!("{name}, {what}: {wrong}"));
            connection = None;
        }
        load.under_way.borrow_mut().remove(&name);
    }
}

/// Asks until there is room in the queue, and judges the reply.
async fn serve_case(load: &Load, case: &Case, kept: &mut Option<Connection>) -> Result<(), String> {
    loop {
        let reply = match ask(load, case, kept).await? {
            Outcome::Replied(reply) => reply,
            Outcome::Gone => {
                load.seen.borrow_mut().gone += 1;
                return Ok(());
            }
        };
        if reply.status == 429 {
            judge::error(&reply)?;
            let after = reply.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
            after.filter(|seconds| *seconds > 0).ok_or("429 without Retry-After")?;
            load.seen.borrow_mut().queue_full += 1;
            // Its whole seconds are for people's patience; the queue here moves every few milliseconds.
            sleep(Duration::from_millis(4)).await;
            continue;
        }
        return judged(load, case.expected, &reply);
    }
}

async fn ask(load: &Load, case: &Case, kept: &mut Option<Connection>) -> Result<Outcome, String> {
    // Only a polite client's connection has an ordinary buffer, and is left in order.
    let polite = case.manner == Manner::Polite;
    let mut connection = match kept.take().filter(|_| polite) {
        Some(connection) => connection,
        None => Connection::open(load.address, case.manner).await.map_err(|e| e.to_string())?,
    };
    let outcome = connection.ask(&case.question, case.manner).await.map_err(|e| e.to_string())?;
    if let (true, Outcome::Replied(reply)) = (polite, &outcome) {
        *kept = Some(connection).filter(|_| reply.header("connection") != Some("close"));
    }
    Ok(outcome)
}

fn judged(load: &Load, expected: Expected, reply: &Reply) -> Result<(), String> {
    match expected {
        Expected::Answer(entry) if reply.status == 200 => {
            let alone = load.alone.get().and_then(|alone| alone.get(entry)).ok_or("never asked alone")?;
            let content = judge::content(reply)?;
            if content != *alone {
                return Err(format!("{content}\nalone: {alone}"));
            }
            load.seen.borrow_mut().answered += 1;
        }
        Expected::Refusal(status) if reply.status == status => {
            judge::error(reply)?;
            load.seen.borrow_mut().refused += 1;
        }
        _ => return Err(format!("{expected:?}, but {}: {}", reply.status, reply.text())),
    }
    Ok(())
}

/// Looks at the gauges while the clients ask.
async fn watch(load: Rc<Load>) {
    loop {
        let metrics = Metrics::read(&load).await;
        load.seen.borrow_mut().note(&metrics);
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the server has noticed that all clients are gone: no request, no page in use, no connection.
async fn quiet(load: &Load, files: Option<usize>) {
    loop {
        let metrics = Metrics::read(load).await;
        let gauges = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"];
        let left = gauges.map(|name| (name, metrics.value(name)));
        let is_quiet = left.iter().all(|(_, value)| *value == 0.0) && open_files() <= files;
        let state = format!("{left:?}, {:?} open files after {files:?}", open_files());
        load.under_way.borrow_mut().insert("the server".into(), state);
        if is_quiet {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    load.under_way.borrow_mut().clear();
}

/// A last request whose sequence needs all that a sequence may have, which is most of the pages there are.
async fn takes_most_pages(load: &Load) {
    let body =
        serde_json::json!({"prompt": vec![3; 200], "max_tokens": CONTEXT - 200, "ignore_eos": true, "temperature": 0});
    let question = Question { method: "POST", path: "/v1/completions", body: body.to_string().into_bytes() };
    let reply = ask_once(load, "the last request", &question).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let content = judge::content(&reply).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(content["answer"], CONTEXT - 200);
}

/// Asks on a connection of its own.
async fn ask_once(load: &Load, name: &str, question: &Question) -> Reply {
    load.under_way.borrow_mut().insert(name.into(), shown(question));
    let mut connection = Connection::open(load.address, Manner::Polite).await.expect("a connection");
    let outcome = connection.ask(question, Manner::Polite).await.expect("an answer");
    load.under_way.borrow_mut().remove(name);
    match outcome {
        Outcome::Replied(reply) => reply,
        Outcome::Gone => unreachable!("polite clients stay"),
    }
}

fn shown(question: &Question) -> String {
    let body = String::from_utf8_lossy(&question.body);
    format!("{} {} {}", question.method, question.path, body.chars().take(300).collect::<String>())
}

/// `/metrics`.
struct Metrics(String);

impl Metrics {
    async fn read(load: &Load) -> Metrics {
        let question = Question { method: "GET", path: "/metrics", body: Vec::new() };
        Metrics(ask_once(load, "/metrics", &question).await.text())
    }

    /// Requests that run or wait.
    fn requests(&self) -> f64 {
        self.value("num_requests_running") + self.value("num_requests_waiting")
    }

    /// The model's value of a metric.
    fn value(&self, name: &str) -> f64 {
        let start = format!("moesaic:{name}{{model_name=\"{MODEL}\"}} ");
        let value = self.0.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }
}

/// Open files of this process, which is both client and server; `None` where the system does not tell.
fn open_files() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

/// Resident memory of this process; `None` where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// What requests leave in memory may be no more than noise.
fn assert_grown_little(resident: &[Option<u64>]) {
    let Some(resident) = resident.iter().copied().collect::<Option<Vec<u64>>>() else {
        return eprintln!("resident_memory: skipped, this system does not tell");
    };
    eprintln!("resident memory after the warm-up and each part: {resident:?}");
    let least = resident.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min();
    assert!(least <= Some(STEADY_GROWTH * REQUESTS / PARTS), "memory grows with every part: {resident:?}");
    let (first, last) = (resident[0], resident[resident.len() - 1]);
    assert!(last <= first + GROWTH * REQUESTS, "memory grew much: {resident:?}");
}
