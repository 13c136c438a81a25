//! The writing side of the socket, for many tasks at once: whole frames, in order, whoever is dropped meanwhile.
//!
//! The first frame goes out at once, so that one call alone waits for no other task. Those that are sent in the same moment
//! go after it together, once whoever has something to send has sent it: under load one system call carries many frames. What
//! the socket does not take waits here, and [`Pipe::send`] makes its caller wait as long as that is much.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// So many bytes may wait before a caller has to.
const WAITING: usize = 1 << 20;

/// So many frames go into one system call.
const TOGETHER: usize = 64;

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
    /// Whether one has gone out at once; what is sent now follows it with the others.
    begun: bool,
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
        if !queue.begun {
            queue.begun = true;
            self.write(&mut queue);
        }
        self.more.notify_one();
    }

    /// Sends a frame, after waiting for room.
    pub(super) async fn send(&self, frame: Vec<u8>) {
        while self.lock().bytes > WAITING {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.lock().bytes > WAITING {
                room.await;
            }
        }
        self.push(frame);
    }

    /// Sends what waits, for ever.
    pub(super) async fn work(&self) {
        loop {
            self.more.notified().await;
            // Behind everybody who is about to send something.
            tokio::task::yield_now().await;
            loop {
                self.write(&mut self.lock());
                self.room.notify_waiters();
                if self.lock().frames.is_empty() {
                    break;
                }
                if self.half.writable().await.is_err() {
                    self.close();
                    return;
                }
            }
            self.lock().begun = false;
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
        while !queue.frames.is_empty() {
            let mut skipped = queue.sent;
            let waiting = queue.frames.iter().take(TOGETHER);
            let slices: Vec<IoSlice<'_>> = waiting
                .map(|frame| IoSlice::new(frame.get(std::mem::take(&mut skipped)..).unwrap_or_default()))
                .collect();
            match self.half.try_write_vectored(&slices) {
                Ok(written) => queue.went(written),
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

impl Queue {
    /// So many bytes of the frames have gone out.
    fn went(&mut self, bytes: usize) {
        self.sent += bytes;
        while let Some(first) = self.frames.front().map(Vec::len).filter(|first| *first <= self.sent) {
            self.sent -= first;
            self.bytes = self.bytes.saturating_sub(first);
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::task::JoinSet;

    use super::*;

    /// A frame of this sender: its length, and then the sender's number all over. Some are more than may wait.
    fn frame(sender: u8, round: usize) -> Vec<u8> {
        let length = match round % 40 {
            39 => 2 * WAITING,
            _ => 5 + (round * 7919 + usize::from(sender)) % 700,
        };
        let mut frame = vec![sender; length];
        frame.splice(..4, u32::try_from(length).unwrap().to_le_bytes());
        frame
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_of_many_arrive_whole_and_each_senders_in_order() {
        const SENDERS: u8 = 16;
        const ROUNDS: usize = 120;
        let (reader, writer) = UnixStream::pair().unwrap();
        let (mut reader, _keep) = reader.into_split();
        let pipe = Arc::new(Pipe::new(writer.into_split().1));
        let working = tokio::spawn({
            let pipe = Arc::clone(&pipe);
            async move { pipe.work().await }
        });
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            let pipe = Arc::clone(&pipe);
            senders.spawn(async move {
                for round in 0..ROUNDS {
                    pipe.send(frame(sender, round)).await;
                }
            });
        }
        let mut rounds = [0; SENDERS as usize];
        for _ in 0..usize::from(SENDERS) * ROUNDS {
            let length = reader.read_u32_le().await.unwrap();
            let mut rest = vec![0; length as usize - 4];
            reader.read_exact(&mut rest).await.unwrap();
            let whole = [&length.to_le_bytes()[..], &rest].concat();
            let sender = rest[0];
            assert_eq!(whole, frame(sender, rounds[usize::from(sender)]));
            rounds[usize::from(sender)] += 1;
        }
        senders.join_all().await;
        assert_eq!(pipe.lock().bytes, 0);
        working.abort();
    }

    #[tokio::test]
    async fn a_pipe_whose_other_end_is_gone_takes_everything_and_keeps_nothing() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let pipe = Pipe::new(writer.into_split().1);
        drop(reader);
        for round in 0..3 {
            pipe.send(vec![0; WAITING + round]).await;
        }
        let queue = pipe.lock();
        assert!(queue.closed && queue.frames.is_empty() && queue.bytes == 0);
    }
}
