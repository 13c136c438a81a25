//! What the fuzz targets share: JSON as it was written, a call, and a carrier of the gateway that the target plays itself.
//!
//! Nothing here waits: a target decides when each side goes on. Not here: what is expected.

#![allow(clippy::expect_used, reason = "a failure here ends the target, as any finding does")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use waypost::call::{Call, CallError, CallName, Json, Principal, PrincipalKind, Rights, Scope, Sink, Target};
use waypost::gateway::{Carrier, Delivery, Notification, RequestTicket};
use waypost::workspace::Workspace;

/// The fields of an object, each as it was written.
pub type Fields = BTreeMap<String, Box<RawValue>>;

/// The fields of what must be one JSON object.
pub fn object(json: &Json) -> Fields {
    serde_json::from_str(json.as_str()).expect("it is one JSON object")
}

/// Whether a JSON text is a string or a number.
pub fn raw_is_scalar(raw: &str) -> bool {
    raw.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

/// Whether both have a call in common, judged by calls and not by patterns: `kinds` and `actions` stand for all there are.
pub fn meet(one: &[&str], other: &[&str], kinds: &[&str], actions: &[Option<&str>]) -> bool {
    let mut names = kinds
        .iter()
        .flat_map(|kind| actions.iter().map(|action| CallName::new(kind, *action)));
    names.any(|name| covered(one, &name) && covered(other, &name))
}

/// Whether one of the patterns covers a call.
pub fn covered(scope: &[&str], name: &CallName) -> bool {
    scope.iter().any(|pattern| waypost::call::covers(pattern, name))
}

/// A call of an agent.
pub fn call(project: &str, name: &str) -> Call {
    static SCOPE: OnceLock<Arc<Scope>> = OnceLock::new();
    let scope = SCOPE.get_or_init(|| {
        let workspace = Workspace::open(&std::env::temp_dir()).expect("the folder for temporary files is there");
        Arc::new(Scope {
            environment: None,
            labels: BTreeMap::new(),
            workspace: Arc::new(workspace),
        })
    });
    let principal = Principal {
        project: project.into(),
        run: None,
        kind: PrincipalKind::Agent,
        id: "a".into(),
        rights: Rights::all(),
    };
    let name = name.parse().expect("it names a call");
    Call::new(
        name,
        Json::null(),
        Arc::new(principal),
        Arc::clone(scope),
        Duration::from_secs(3600),
    )
}

/// A runtime whose tasks run only while something is blocked on.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs nothing")
}

/// Lets the tasks of a runtime do what they can.
pub fn turn(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    });
}

/// A request that the gateway handed to a carrier.
pub struct Sent {
    /// Its id.
    pub id: String,
    /// The epoch of the claim it is made under.
    pub epoch: Option<u64>,
    /// Whether it has left.
    pub delivery: Delivery,
    /// Of a carrier that stops: ends the request with what it comes to.
    pub end: Option<oneshot::Sender<Result<Json, CallError>>>,
}

/// A carrier whose every step is the target's.
pub struct Peer {
    target: Target,
    credential: [u8; 32],
    stops: bool,
    sent: Mutex<Vec<Sent>>,
    room: AtomicUsize,
}

impl Peer {
    /// A connection of this name, or a plugin when it stops what is cancelled.
    pub fn new(name: &str, credential: u8, stops: bool) -> Arc<Self> {
        let target = if stops {
            Target::Plugin(name.into())
        } else {
            Target::Connection(name.into())
        };
        Arc::new(Self {
            target,
            credential: [credential; 32],
            stops,
            sent: Mutex::default(),
            room: AtomicUsize::new(0),
        })
    }

    /// Takes the one request that was handed over since the last time, if there is one.
    pub fn sent(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes so many notifications from now on.
    pub fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// How many more it takes.
    pub fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }
}

impl Carrier for Peer {
    fn target(&self) -> &Target {
        &self.target
    }

    fn credential(&self) -> &[u8; 32] {
        &self.credential
    }

    fn stops(&self) -> bool {
        self.stops
    }

    fn request<'a>(
        &'a self,
        call: &'a Call,
        ticket: RequestTicket,
        _sink: &'a Sink,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let (end, ended) = oneshot::channel();
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(Sent {
                id: ticket.id().to_string(),
                epoch: ticket.epoch(),
                delivery: ticket.delivery(),
                end: self.stops.then_some(end),
            });
            if !self.stops {
                return ticket.reply().await;
            }
            let stopped = || CallError::stopped(call);
            let result = tokio::select! {
                biased;
                result = ended => result.unwrap_or_else(|_| Err(stopped())),
                () = call.cancel.cancelled() => Err(stopped()),
            };
            ticket.end(result).await
        })
    }

    fn notify(&self, _notification: &Arc<Notification>, _dropped: u64) -> bool {
        let take = |room: usize| room.checked_sub(1);
        self.room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}
