//! The way of events from the engine's thread to a reader: bounded, and never waited on by the engine.
//!
//! A sender looks at the room that is left before it lets a sequence go on ([`EventSender::room`]), so that sending cannot
//! fail for lack of room; a reader that is gone shows in [`EventSender::is_closed`], which ends its request within a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::Event;

/// The reader's end of a request. Dropping it cancels the request.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Event>,
    /// One bit an answer that the reader wants no more of.
    ended: Arc<[AtomicU64]>,
}

impl EventStream {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// As [`EventStream::next`], for a thread outside any runtime.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// Ends one answer, because its text met a stop string: within a step it gets [`super::FinishReason::Cancelled`].
    pub fn end_answer(&self, answer: u32) {
        if let Some(word) = self.ended.get(answer as usize / 64) {
            word.fetch_or(1 << (answer % 64), Ordering::Relaxed);
        }
    }
}

/// The engine's end.
#[derive(Debug)]
pub struct EventSender {
    events: mpsc::Sender<Event>,
    ended: Arc<[AtomicU64]>,
}

impl EventSender {
    /// Events that can be sent before the reader has read one.
    pub fn room(&self) -> usize {
        self.events.capacity()
    }

    /// Whether the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the reader wants no more of an answer.
    pub fn is_ended(&self, answer: u32) -> bool {
        self.ended.get(answer as usize / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (answer % 64) & 1 == 1)
    }

    /// Sends an event; false if the reader is gone or there was no room.
    pub fn send(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }
}

/// A channel of `capacity` events for a request of so many answers.
pub fn event_channel(capacity: usize, answers: u32) -> (EventSender, EventStream) {
    let (sender, events) = mpsc::channel(capacity.max(1));
    let ended: Arc<[AtomicU64]> = (0..answers.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    (EventSender { events: sender, ended: ended.clone() }, EventStream { events, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_refuses_and_a_dropped_reader_closes() {
        let (sender, mut reader) = event_channel(1, 70);
        assert!(sender.send(Event::Hidden(vec![1.0])));
        assert!((sender.room(), sender.send(Event::Hidden(vec![2.0]))) == (0, false));
        assert_eq!(reader.blocking_next(), Some(Event::Hidden(vec![1.0])));
        reader.end_answer(69);
        assert!(sender.is_ended(69) && !sender.is_ended(5) && !sender.is_closed());
        drop(reader);
        assert!(sender.is_closed() && !sender.send(Event::Hidden(vec![])));
    }
}
