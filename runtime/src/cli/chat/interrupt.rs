//! Ctrl-C: it ends an answer; where there is none, it ends the program as it always does.
//!
//! While a line is edited the terminal hands Ctrl-C to the editor as a key, so that this is about answers and pipes only.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell expects of a program that Ctrl-C has ended.
const EXIT_CODE: i32 = 130;

/// Whether Ctrl-C was pressed during the answer.
pub(super) struct Interrupt {
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    answering: AtomicBool,
    pressed: AtomicBool,
}

impl Interrupt {
    /// Listens to Ctrl-C from now on.
    pub(super) fn install() -> io::Result<Interrupt> {
        let flags = Arc::new(Flags::default());
        let (runtime, heard) = (tokio::runtime::Builder::new_current_thread().enable_io().build()?, flags.clone());
        std::thread::Builder::new().name("ctrl-c".into()).spawn(move || {
            runtime.block_on(async {
                while tokio::signal::ctrl_c().await.is_ok() {
                    // A second time means that stopping takes too long.
                    let stops = heard.answering.load(Ordering::Relaxed) && !heard.pressed.swap(true, Ordering::Relaxed);
                    if !stops {
                        std::process::exit(EXIT_CODE);
                    }
                }
            });
        })?;
        Ok(Interrupt { flags })
    }

    /// One that hears nothing.
    #[cfg(test)]
    pub(super) fn deaf() -> Interrupt {
        Interrupt { flags: Arc::new(Flags::default()) }
    }

    #[cfg(test)]
    pub(super) fn press(&self) {
        self.flags.pressed.store(true, Ordering::Relaxed);
    }

    /// An answer begins or has ended.
    pub(super) fn answering(&self, answering: bool) {
        self.flags.pressed.store(false, Ordering::Relaxed);
        self.flags.answering.store(answering, Ordering::Relaxed);
    }

    /// Whether the answer is to end.
    pub(super) fn is_set(&self) -> bool {
        self.flags.pressed.load(Ordering::Relaxed)
    }
}
