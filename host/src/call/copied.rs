//! What went through a sink, kept beside it as far as there is room.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Json;

/// A copy of the chunks of one answer. Whoever hands them over never waits for it.
#[derive(Debug)]
pub struct Copied {
    /// Bytes that all copies together may keep.
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Json>,
    /// The room that they take.
    taken: Option<OwnedSemaphorePermit>,
    /// Whether there was no room for one of them.
    cut: bool,
}

/// Chunks and the room that they take, for as long as this is there.
#[derive(Debug)]
pub struct Kept {
    /// The chunks, in order.
    pub chunks: Vec<Json>,
    _taken: Option<OwnedSemaphorePermit>,
}

impl Copied {
    pub(super) fn new(room: Arc<Semaphore>) -> Self {
        Self {
            room,
            state: Mutex::default(),
        }
    }

    /// Keeps one more chunk, or nothing any more when there is no room for it.
    pub(super) fn keep(&self, chunk: &Json) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cut {
            return;
        }
        let bytes = u32::try_from(chunk.as_str().len()).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            Ok(more) => {
                match &mut state.taken {
                    Some(taken) => taken.merge(more),
                    none => *none = Some(more),
                }
                state.chunks.push(chunk.clone());
            }
            Err(_) => {
                *state = State {
                    cut: true,
                    ..State::default()
                }
            }
        }
    }

    /// All chunks; none when there was no room for one of them.
    pub fn take(&self) -> Option<Kept> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { chunks, taken, cut } = std::mem::take(&mut *state);
        (!cut).then_some(Kept { chunks, _taken: taken })
    }
}
