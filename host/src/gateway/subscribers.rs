//! Subscribers: who hears of a project's locally handled calls.
//!
//! A notification is made once and shared. A subscriber without room loses it and learns with the next one how many
//! it lost; nobody waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use uuid::Uuid;

use super::Attachment;
use crate::call::{Call, CallError, CallName, Json, Path};
use crate::error::Result;

/// One call that was handled locally, as its subscribers hear of it.
#[derive(Clone, Debug)]
pub struct Notification {
    /// The call's id.
    pub id: Uuid,
    /// The run that it belonged to.
    pub run: Option<Arc<str>>,
    /// What it passed through.
    pub path: Path,
    /// The project.
    pub project: Arc<str>,
    /// Kind and action.
    pub name: CallName,
    /// The canonical message.
    pub message: Json,
    /// The frame that asked for it, when it came as one.
    pub frame: Option<Json>,
    /// How it ended.
    pub result: Result<Json, CallError>,
    /// When, for people.
    pub at: SystemTime,
}

impl Notification {
    /// Of a call that ended now.
    pub fn new(call: &Call, result: &Result<Json, CallError>) -> Self {
        Self {
            id: call.id,
            run: call.principal.run.clone(),
            path: call.path.clone(),
            project: call.principal.project.clone(),
            name: call.name.clone(),
            message: call.message.clone(),
            frame: call.frame.clone(),
            result: result.clone(),
            at: SystemTime::now(),
        }
    }

    /// About how many bytes it keeps.
    pub fn size(&self) -> usize {
        let result = match &self.result {
            Ok(result) => result.as_str().len(),
            Err(error) => error.message.len(),
        };
        self.message.as_str().len() + self.frame.as_ref().map_or(0, |frame| frame.as_str().len()) + result
    }
}

/// All subscriptions.
#[derive(Default)]
pub(super) struct Subscribers {
    by_project: RwLock<HashMap<Arc<str>, Vec<Arc<Attachment>>>>,
    count: AtomicUsize,
    lagged: AtomicU64,
}

impl Subscribers {
    pub(super) fn add(&self, subscriber: &Arc<Attachment>, project: &str) -> Result<(), CallError> {
        let mut by_project = self.by_project.write().unwrap_or_else(PoisonError::into_inner);
        subscriber.check()?;
        let list = by_project.entry(project.into()).or_default();
        if !list.iter().any(|other| other.number == subscriber.number) {
            list.push(subscriber.clone());
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes a subscriber from one project, or from all.
    pub(super) fn remove(&self, subscriber: &Attachment, project: Option<&str>) {
        let mut by_project = self.by_project.write().unwrap_or_else(PoisonError::into_inner);
        by_project.retain(|name, list| {
            if project.is_none_or(|project| *project == **name) {
                list.retain(|other| other.number != subscriber.number);
            }
            !list.is_empty()
        });
        self.count
            .store(by_project.values().map(Vec::len).sum(), Ordering::Relaxed);
    }

    pub(super) fn tell(&self, call: &Call, result: &Result<Json, CallError>) {
        if self.count() == 0 {
            return;
        }
        let by_project = self.by_project.read().unwrap_or_else(PoisonError::into_inner);
        let Some(subscribers) = by_project.get(&call.principal.project) else {
            return;
        };
        let notification = Arc::new(Notification::new(call, result));
        // Whoever makes calls because it was told of one is not told of those: they would never end.
        let others = subscribers
            .iter()
            .filter(|subscriber| !call.path.holds(subscriber.target()));
        for subscriber in others {
            let dropped = subscriber.lagged.swap(0, Ordering::Relaxed);
            if !subscriber.carrier.notify(&notification, dropped) {
                subscriber
                    .lagged
                    .fetch_add(dropped.saturating_add(1), Ordering::Relaxed);
                self.lagged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn lagged(&self) -> u64 {
        self.lagged.load(Ordering::Relaxed)
    }
}
