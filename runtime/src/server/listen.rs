//! Connections: accepted by a loop of our own, so many at a time, none held by a peer that does nothing.
//!
//! The usual loops wait for ever on a peer that sends half a header, or that reads nothing of its answer. Here a socket is
//! wrapped ([`TimedStream`]): between requests it must bring a byte within the idle time-out, from a request's first byte its
//! header must be complete within the header time-out, and an answer that cannot be written for the write time-out ends the
//! connection. Bodies have a time-out of their own, see [`super::request`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Bounds of what connections may hold.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Most connections at a time, at least 1; further ones wait to be accepted.
    pub connections: usize,
    /// Most time for a request's header.
    pub header_time: Duration,
    /// Most time between requests.
    pub idle_time: Duration,
    /// Most time in which nothing of an answer can be written.
    pub write_time: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            connections: 1024,
            header_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(60),
        }
    }
}

/// Most bytes of a request's header.
const MAX_HEADER: usize = 64 << 10;

/// Most requests at a time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 128;

/// How the loop and its connections end.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    /// No more connections, and no more requests on those there are.
    pub stop: CancellationToken,
    /// An end to what is still under way.
    pub abort: CancellationToken,
    /// The connections.
    pub connections: TaskTracker,
}

/// Accepts connections until it is stopped.
pub(super) async fn accept(listener: TcpListener, router: Router, limits: ConnectionLimits, ending: Ending) {
    let slots = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?.0, slot))
        };
        let accepted = tokio::select! {
            () = ending.stop.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = serve(stream, router.clone(), limits, ending.clone(), slot);
                ending.connections.spawn(connection);
            }
            Err(error) => {
                // Of a peer that left already, or for lack of file descriptors, which others will free.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
    limits: ConnectionLimits,
    ending: Ending,
    _slot: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let in_flight = Arc::new(AtomicUsize::new(0));
    let io = TokioIo::new(TimedStream::new(stream, limits, in_flight.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, guard) = (router.clone(), InFlight::new(&in_flight));
        async move {
            let response: Result<Response<Body>, _> = router.oneshot(request.map(Body::new)).await;
            response.map(|response| response.map(|body| CountedBody { body, _guard: guard }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(MAX_HEADER).header_read_timeout(None);
    builder.http2().max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADER as u32);
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = ending.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = ending.abort.cancelled() => return,
        }
    }
}

/// Counts a request from its header to the last byte of its answer.
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(count: &Arc<AtomicUsize>) -> InFlight {
        count.fetch_add(1, Ordering::AcqRel);
        InFlight(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that counts as in flight until it is dropped.
struct CountedBody {
    body: Body,
    _guard: InFlight,
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing.
    Idle,
    /// A header has begun.
    Header,
    /// A request is in flight.
    Busy,
}

/// A socket that gives up on a peer that does nothing.
struct TimedStream {
    stream: TcpStream,
    limits: ConnectionLimits,
    in_flight: Arc<AtomicUsize>,
    phase: Phase,
    /// When the phase has lasted too long.
    read_timer: Pin<Box<Sleep>>,
    /// When a write has waited too long; `None` while none waits.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    fn new(stream: TcpStream, limits: ConnectionLimits, in_flight: Arc<AtomicUsize>) -> TimedStream {
        // A connection is opened to send a request: its header is due from the start.
        let read_timer = Box::pin(tokio::time::sleep(limits.header_time));
        TimedStream { stream, limits, in_flight, phase: Phase::Header, read_timer, write_timer: None }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let time = if phase == Phase::Header { self.limits.header_time } else { self.limits.idle_time };
        self.read_timer.as_mut().reset(Instant::now() + time);
    }

    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Ready once the phase has lasted too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match (self.phase, self.is_busy()) {
                (Phase::Busy, false) => self.enter(Phase::Idle),
                (Phase::Idle | Phase::Header, true) => self.enter(Phase::Busy),
                _ => {}
            }
            ready!(self.read_timer.as_mut().poll(cx));
            if !self.is_busy() && self.phase != Phase::Busy {
                return Poll::Ready(());
            }
            // A request may end without another read; the timer goes on so that the connection is looked at again.
            self.enter(Phase::Busy);
        }
    }

    /// Turns a write that has waited too long into an error.
    fn timed_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let time = self.limits.write_time;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before && !this.is_busy() && this.phase != Phase::Header {
                this.enter(Phase::Header);
            }
            return Poll::Ready(read);
        }
        ready!(this.poll_overdue(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer sends nothing")))
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.timed_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.timed_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
