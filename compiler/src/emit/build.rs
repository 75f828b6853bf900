//! Compiles specialisations for architectures, several at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use toolchain::cache::CacheError;
use toolchain::nvrtc::{Compiled, Source};

use super::library::KernelCompiler;

/// One compilation.
pub struct Job<'a> {
    /// What is compiled.
    pub source: Source<'a>,
    /// For what, as `sm_80`.
    pub architecture: &'static str,
    /// With what.
    pub options: Vec<String>,
}

/// What a job gave, and whether it was kept from before.
pub type Answer = Result<(Compiled, bool), CacheError>;

/// Carries out every job on at most `threads` threads; answers are in the order of the jobs. `advance` is called on this
/// thread after each.
pub fn compile_all(jobs: &[Job], compiler: &dyn KernelCompiler, threads: usize, advance: &dyn Fn()) -> Vec<Answer> {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    let work = |send: mpsc::Sender<(usize, Answer)>| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { return };
            let answer = compiler.compile(&job.source, job.architecture, &job.options);
            if send.send((at, answer)).is_err() {
                return;
            }
        }
    };
    let mut answers: Vec<Option<Answer>> = jobs.iter().map(|_| None).collect();
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            let (work, send) = (&work, send.clone());
            scope.spawn(move || work(send));
        }
        drop(send);
        for (at, answer) in receive {
            answers[at] = Some(answer);
            advance();
        }
    });
    answers.into_iter().flatten().collect()
}
