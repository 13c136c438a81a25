//! The writing side of the socket, for many tasks at once: whole frames, in order, whoever is dropped meanwhile.
//!
//! A frame goes out at once when nothing waits before it, so that the common case costs no other task. What the socket does
//! not take waits here, and [`Pipe::send`] makes its caller wait as long as that is much.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// So many bytes may wait before a caller has to.
const WAITING: usize = 1 << 20;

/// The writing side of a socket.
pub(super) struct Pipe {
    half: OwnedWriteHalf,
    queue: Mutex<Queue>,
    more: Notify,
    room: Notify,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    /// Of the first of them.
    sent: usize,
    bytes: usize,
    closed: bool,
}

impl Pipe {
    /// Over this half; [`Pipe::work`] must run as well.
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self {
            half,
            queue: Mutex::default(),
            more: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Sends a frame without waiting: for what is bounded by its caller. A socket that is closed takes nothing; its reading
    /// side says so.
    pub(super) fn push(&self, frame: Vec<u8>) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        if queue.frames.len() == 1 {
            self.write(&mut queue);
        }
        if !queue.frames.is_empty() {
            self.more.notify_one();
        }
    }

    /// Sends a frame, after waiting for room.
    pub(super) async fn send(&self, frame: Vec<u8>) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.lock().bytes <= WAITING {
                break;
            }
            room.await;
        }
        self.push(frame);
    }

    /// Sends what waits, for ever.
    pub(super) async fn work(&self) {
        loop {
            self.more.notified().await;
            while !self.lock().frames.is_empty() {
                if self.half.writable().await.is_err() {
                    self.close();
                    return;
                }
                self.write(&mut self.lock());
                self.room.notify_waiters();
            }
        }
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        *queue = Queue {
            closed: true,
            ..Queue::default()
        };
        drop(queue);
        self.room.notify_waiters();
    }

    /// Writes as much as the socket takes.
    fn write(&self, queue: &mut Queue) {
        while let Some(first) = queue.frames.front() {
            match self.half.try_write(first.get(queue.sent..).unwrap_or_default()) {
                Ok(written) => {
                    queue.sent += written;
                    if queue.sent >= first.len() {
                        queue.bytes = queue.bytes.saturating_sub(first.len());
                        queue.sent = 0;
                        queue.frames.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    *queue = Queue {
                        closed: true,
                        ..Queue::default()
                    };
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
