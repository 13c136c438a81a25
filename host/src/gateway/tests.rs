//! What the gateway promises, shown with a carrier that the test plays itself.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::call::{Principal, PrincipalKind, Rights, Scope};
use crate::log::memory::MemoryLog;
use crate::log::{Append, Cursor, Event, Noun, Record, RecordQuery, Ticket};
use crate::workspace::Workspace;

const PROJECT: &str = "p";

/// A call of an agent in the test project.
pub(crate) fn call(name: &str) -> Call {
    let principal = Principal {
        project: PROJECT.into(),
        run: None,
        kind: PrincipalKind::Agent,
        id: "a".into(),
        rights: Rights::all(),
    };
    let workspace = Arc::new(Workspace::open(&std::env::temp_dir()).unwrap());
    let scope = Scope {
        environment: None,
        labels: BTreeMap::new(),
        workspace,
    };
    let message = Json::parse(r#"{"text":"hello"}"#).unwrap();
    Call::new(
        name.parse().unwrap(),
        message,
        Arc::new(principal),
        Arc::new(scope),
        Duration::from_secs(60),
    )
}

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

/// A carrier in the hands of the test.
struct Peer {
    target: Target,
    credential: [u8; 32],
    /// Ids of requests that were sent; none is sent while it is absent.
    sent: Option<mpsc::Sender<Uuid>>,
    heard: Mutex<Vec<(Arc<Notification>, u64)>>,
    room: AtomicUsize,
}

impl Carrier for Peer {
    fn target(&self) -> &Target {
        &self.target
    }

    fn credential(&self) -> &[u8; 32] {
        &self.credential
    }

    fn stops(&self) -> bool {
        false
    }

    fn request<'a>(
        &'a self,
        _call: &'a Call,
        ticket: RequestTicket,
        _sink: &'a Sink,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let Some(sent) = &self.sent else {
                return ticket.reply().await;
            };
            assert!(ticket.delivery().start());
            sent.send(ticket.id()).await.unwrap();
            ticket.reply().await
        })
    }

    fn notify(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        let room = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1))
            .is_ok();
        if room {
            self.heard.lock().unwrap().push((notification.clone(), dropped));
        }
        room
    }
}

fn peer(name: &str, credential: u8) -> (Arc<Peer>, mpsc::Receiver<Uuid>) {
    let (sent, requests) = mpsc::channel(16);
    let peer = Peer {
        target: Target::Connection(name.into()),
        credential: [credential; 32],
        sent: Some(sent),
        heard: Mutex::default(),
        room: AtomicUsize::new(1024),
    };
    (Arc::new(peer), requests)
}

struct Hub {
    gateway: Arc<Gateway>,
    log: Arc<MemoryLog>,
}

impl Hub {
    fn new() -> Self {
        let log = Arc::new(MemoryLog::new(10_000));
        Self {
            gateway: Arc::new(Gateway::new(log.clone())),
            log,
        }
    }

    fn attach(&self, name: &str) -> (Attached, mpsc::Receiver<Uuid>) {
        let (peer, requests) = peer(name, 0);
        (self.gateway.attach(peer).unwrap(), requests)
    }

    async fn claim(&self, attached: &Attached, scope: &[&str]) -> Result<u64, CallError> {
        let scope = scope.iter().map(|pattern| (*pattern).to_owned()).collect();
        self.gateway
            .claim(attached, PROJECT, scope)
            .await
            .map(|lease| lease.epoch)
    }

    fn proxy(&self, call: Call) -> JoinHandle<Result<Json, CallError>> {
        let gateway = self.gateway.clone();
        tokio::spawn(async move { gateway.proxy(&call, &Sink::discard()).await })
    }

    fn claimer(&self, name: &str) -> Option<String> {
        self.gateway
            .claimer(PROJECT, &name.parse().unwrap())
            .map(|target| target.to_string())
    }

    /// The logged kinds and epochs, waiting until there are `count`.
    async fn logged(&self, count: usize) -> Vec<(String, u64)> {
        let mut tip = self.log.tip();
        loop {
            let events = self.log.feed(Cursor::default(), 1000).await.unwrap();
            if events.len() >= count {
                let epoch = |event: &Event| event.body.to::<serde_json::Value>().unwrap()["epoch"].as_u64().unwrap();
                return events
                    .iter()
                    .map(|event| (event.kind.to_string(), epoch(event)))
                    .collect();
            }
            tip.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_claim_is_exclusive_idempotent_and_freed_by_its_holder() {
    let hub = Hub::new();
    let ((a, _), (b, _)) = (hub.attach("a"), hub.attach("b"));
    assert_eq!(hub.claim(&a, &["inference", "fsEvent:*"]).await, Ok(1));
    assert_eq!(hub.claim(&a, &["fsEvent", "inference"]).await, Ok(1));
    let error = hub.claim(&b, &["fsEvent:readFile"]).await.unwrap_err();
    let message = "connection:a holds the claim on fsEvent in project p (epoch 1); it must relinquish it first";
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Denied, message));
    assert_eq!(hub.claim(&b, &["terminal"]).await, Ok(2));
    assert_eq!(hub.claimer("fsEvent:readFile").as_deref(), Some("connection:a"));
    assert_eq!(hub.claimer("terminal:x").as_deref(), Some("connection:b"));
    assert_eq!(hub.claimer("chat"), None);

    hub.gateway.relinquish(&a, PROJECT).await.unwrap();
    let error = hub.gateway.relinquish(&a, PROJECT).await.unwrap_err();
    assert_eq!(
        error.message,
        "connection:a holds no claim in project p; there is nothing to relinquish"
    );
    assert_eq!(hub.claim(&b, &["*"]).await, Ok(3));
    assert!(hub.gateway.has_claimer(PROJECT, &"anything".parse().unwrap()));
    assert!(!hub.gateway.has_claimer("other", &"anything".parse().unwrap()));
    drop(b);
    assert_eq!(hub.claimer("anything"), None);
    let word = |kind: &str| format!("claim.{kind}");
    let expected = [
        ("granted", 1),
        ("granted", 2),
        ("released", 1),
        ("granted", 3),
        ("released", 3),
    ];
    assert_eq!(hub.logged(5).await, expected.map(|(kind, epoch)| (word(kind), epoch)));
}

#[tokio::test]
async fn claims_of_different_projects_do_not_meet() {
    let hub = Hub::new();
    let ((a, _), (b, _)) = (hub.attach("a"), hub.attach("b"));
    assert!(hub.gateway.claim(&a, "one", vec!["*".to_owned()]).await.is_ok());
    assert!(hub.gateway.claim(&b, "two", vec!["*".to_owned()]).await.is_ok());
    assert_eq!(hub.gateway.stats().claims, 2);
    let error = hub
        .gateway
        .proxy(&call("inference"), &Sink::discard())
        .await
        .unwrap_err();
    let message = "nobody holds a claim on inference in project p; connect one that does";
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, message));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_claimants_exactly_one_wins() {
    // The disk is slow, so that all of them are there before the first grant is written.
    let memory = Arc::new(MemoryLog::new(100));
    let slow = Arc::new(Slow(memory.clone(), Semaphore::new(0)));
    let hub = Arc::new(Hub {
        gateway: Arc::new(Gateway::new(slow.clone())),
        log: memory,
    });
    let there = Arc::new(tokio::sync::Barrier::new(65));
    let claims = (0..64).map(|number| {
        let (hub, there) = (hub.clone(), there.clone());
        tokio::spawn(async move {
            let (attached, _) = hub.attach(&format!("c{number}"));
            let mut claim = Box::pin(hub.claim(&attached, &["*"]));
            let early = futures::poll!(&mut claim);
            there.wait().await;
            assert!(early.is_pending());
            let won = claim.await.is_ok();
            (won, attached)
        })
    });
    let claims: Vec<_> = claims.collect();
    there.wait().await;
    slow.1.add_permits(64);
    let outcomes = futures::future::join_all(claims).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.as_ref().unwrap().0).count(), 1);
    assert_eq!(hub.gateway.stats().attached, 64);
}

#[tokio::test]
async fn a_reply_counts_once_from_the_one_that_was_asked() {
    let hub = Hub::new();
    let ((a, mut requests), (b, _)) = (hub.attach("a"), hub.attach("b"));
    hub.claim(&a, &["inference"]).await.unwrap();
    let asked = hub.proxy(call("inference"));
    let id = requests.recv().await.unwrap().to_string();
    let reply = |from, id: &str, text| hub.gateway.reply(from, id, Ok(json(text)));
    assert_eq!(reply(&b, &id, "1"), Err(Rejection::Foreign));
    assert_eq!(reply(&a, &Uuid::now_v7().to_string(), "2"), Err(Rejection::Unknown));
    assert_eq!(reply(&a, "not an id", "2"), Err(Rejection::Unknown));
    assert_eq!(reply(&a, &id, "3"), Ok(()));
    assert_eq!(reply(&a, &id, "4"), Err(Rejection::Duplicate));
    assert_eq!(asked.await.unwrap(), Ok(json("3")));
    assert_eq!(reply(&a, &id, "5"), Err(Rejection::Duplicate));
    let rejected = Rejected {
        unknown: 2,
        foreign: 1,
        duplicate: 2,
        late: 0,
        stale: 0,
    };
    let stats = hub.gateway.stats();
    assert_eq!((stats.rejected, stats.pending), (rejected, 0));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_a_late_reply_behind() {
    let hub = Hub::new();
    let (a, mut requests) = hub.attach("a");
    let mut call = call("inference");
    call.cancel = CancellationToken::new();
    let cancel = call.cancel.clone();
    hub.claim(&a, &["*"]).await.unwrap();
    let asked = hub.proxy(call);
    let id = requests.recv().await.unwrap().to_string();
    cancel.cancel();
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Indeterminate);
    assert_eq!(
        error.message,
        "the caller gave up while connection:a worked on inference; check what it did"
    );
    assert_eq!(hub.gateway.reply(&a, &id, Ok(Json::null())), Err(Rejection::Late));
}

#[tokio::test]
async fn a_claimer_that_goes_away_ends_its_requests() {
    for how in ["drop", "relinquish", "replace"] {
        let hub = Hub::new();
        let (a, mut requests) = hub.attach("a");
        hub.claim(&a, &["*"]).await.unwrap();
        let asked = hub.proxy(call("inference"));
        let id = requests.recv().await.unwrap().to_string();
        let mut kept = Vec::new();
        match how {
            "drop" => drop(a),
            "relinquish" => {
                hub.gateway.relinquish(&a, PROJECT).await.unwrap();
                assert_eq!(hub.gateway.reply(&a, &id, Ok(Json::null())), Err(Rejection::Stale));
                kept.push(a);
            }
            _ => {
                let (newer, _) = hub.attach("a");
                assert_eq!(
                    hub.gateway.reply(&newer, &id, Ok(Json::null())),
                    Err(Rejection::Foreign)
                );
                assert_eq!(hub.gateway.reply(&a, &id, Ok(Json::null())), Err(Rejection::Stale));
                kept.extend([a, newer]);
            }
        }
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Indeterminate, "{how}");
        assert_eq!(
            error.message,
            "connection:a went away while it worked on inference; check what it did"
        );
        assert_eq!(hub.claimer("inference"), None);
    }
}

#[tokio::test]
async fn what_was_never_sent_did_nothing() {
    let hub = Hub::new();
    let (silent, _) = peer("a", 0);
    let silent = Peer {
        sent: None,
        ..Arc::into_inner(silent).unwrap()
    };
    let a = hub.gateway.attach(Arc::new(silent)).unwrap();
    hub.claim(&a, &["*"]).await.unwrap();
    let stopped = call("inference");
    let cancel = stopped.cancel.clone();
    let sink = Sink::discard();
    let other = call("inference");
    let mut asked = Box::pin(hub.gateway.proxy(&stopped, &sink));
    let mut other = Box::pin(hub.gateway.proxy(&other, &sink));
    assert!(futures::poll!(&mut asked).is_pending() && futures::poll!(&mut other).is_pending());
    cancel.cancel();
    assert_eq!(asked.await.unwrap_err().kind, ErrorKind::Cancelled);
    drop(a);
    let error = other.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(
        error.message,
        "connection:a went away before inference was sent to it; nothing was done"
    );
    assert_eq!(
        hub.gateway.proxy(&stopped, &sink).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
}

#[tokio::test]
async fn requests_in_flight_have_a_limit() {
    let hub = Hub::new();
    let limits = Limits {
        pending: 1,
        ..Limits::default()
    };
    let gateway = Arc::new(Gateway::with_limits(hub.log.clone(), limits));
    let hub = Hub { gateway, ..hub };
    let (a, mut requests) = hub.attach("a");
    hub.claim(&a, &["*"]).await.unwrap();
    let first = hub.proxy(call("inference"));
    let id = requests.recv().await.unwrap().to_string();
    let error = hub.proxy(call("inference")).await.unwrap().unwrap_err();
    let expected = "limit: connection:a has 1 requests in flight, its limit; try again later";
    assert_eq!(error.to_string(), expected);
    hub.gateway.reply(&a, &id, Ok(Json::null())).unwrap();
    first.await.unwrap().unwrap();
    let second = hub.proxy(call("inference"));
    assert!(requests.recv().await.is_some());
    drop(a);
    assert!(second.await.unwrap().is_err());
}

#[tokio::test]
async fn a_connection_can_be_asked_by_name() {
    let hub = Hub::new();
    let error = hub
        .gateway
        .ask_connection("a", &call("x"), &Sink::discard())
        .await
        .unwrap_err();
    let message = "connection:a is not connected; start it and have it connect on /plugins";
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, message));
    let (a, mut requests) = hub.attach("a");
    let gateway = hub.gateway.clone();
    let asked = tokio::spawn(async move { gateway.ask_connection("a", &call("x"), &Sink::discard()).await });
    let id = requests.recv().await.unwrap().to_string();
    hub.gateway.reply(&a, &id, Ok(json("1"))).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(json("1")));
}

#[tokio::test]
async fn taking_over_needs_the_same_credential() {
    let hub = Hub::new();
    let (old, _) = hub.attach("a");
    hub.claim(&old, &["*"]).await.unwrap();
    hub.gateway.subscribe(&old, PROJECT).unwrap();
    let error = hub.gateway.attach(peer("a", 1).0).err().unwrap();
    let message = "connection:a is attached with another credential; end that one first";
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Denied, message));
    assert!(old.replaced().now_or_never().is_none());

    let (new, _) = hub.attach("a");
    old.replaced().await;
    assert_eq!(hub.claim(&new, &["*"]).await, Ok(2));
    let stats = hub.gateway.stats();
    assert_eq!((stats.attached, stats.claims, stats.subscriptions), (1, 1, 0));
    let message = "connection:a is no longer attached; a newer one of its name took over";
    assert_eq!(hub.claim(&old, &["*"]).await.unwrap_err().message, message);
    assert_eq!(hub.gateway.subscribe(&old, PROJECT).unwrap_err().message, message);
    drop(old);
    assert_eq!(hub.claimer("inference").as_deref(), Some("connection:a"));
    assert_eq!(hub.gateway.stats().attached, 1);
}

#[tokio::test]
async fn subscribers_hear_of_their_project_and_learn_what_they_lost() {
    let hub = Hub::new();
    let ((quick, _), (slow, _)) = (peer("quick", 0), peer("slow", 0));
    slow.room.store(1, Ordering::Relaxed);
    let attached = [
        hub.gateway.attach(quick.clone()).unwrap(),
        hub.gateway.attach(slow.clone()).unwrap(),
    ];
    for attached in &attached {
        hub.gateway.subscribe(attached, PROJECT).unwrap();
        hub.gateway.subscribe(attached, PROJECT).unwrap();
    }
    assert_eq!(hub.gateway.stats().subscriptions, 2);
    let result = Ok(json("1"));
    for _ in 0..4 {
        hub.gateway.notify(&call("chat"), &result);
    }
    slow.room.store(1, Ordering::Relaxed);
    hub.gateway.notify(&call("chat"), &result);
    let dropped = |peer: &Peer| {
        peer.heard
            .lock()
            .unwrap()
            .iter()
            .map(|(_, dropped)| *dropped)
            .collect::<Vec<_>>()
    };
    assert_eq!(dropped(&quick), [0, 0, 0, 0, 0]);
    assert_eq!(dropped(&slow), [0, 3]);
    assert_eq!(hub.gateway.stats().lagged, 3);
    assert_eq!(quick.heard.lock().unwrap()[0].0.result, result);

    hub.gateway.unsubscribe(&attached[0], PROJECT);
    let [_, gone] = attached;
    drop(gone);
    hub.gateway.notify(&call("chat"), &result);
    assert_eq!(dropped(&quick).len(), 5);
    assert_eq!(hub.gateway.stats().subscriptions, 0);
}

#[tokio::test]
async fn who_is_on_the_path_of_a_call_is_neither_asked_nor_told() {
    let hub = Hub::new();
    let (a, _) = peer("a", 0);
    let attached = hub.gateway.attach(a.clone()).unwrap();
    hub.claim(&attached, &["*"]).await.unwrap();
    hub.gateway.subscribe(&attached, PROJECT).unwrap();
    let mut call = call("inference");
    call.path = call.path.through(a.target.clone());
    let error = hub.gateway.proxy(&call, &Sink::discard()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unavailable: skipped: the call already passed through it"
    );
    hub.gateway.notify(&call, &Ok(Json::null()));
    assert!(a.heard.lock().unwrap().is_empty());
    assert_eq!(hub.gateway.stats().lagged, 0);
}

#[tokio::test]
async fn epochs_rise_over_a_restart_and_stale_claims_are_released() {
    let hub = Hub::new();
    let (a, _) = hub.attach("a");
    assert_eq!(hub.claim(&a, &["*"]).await, Ok(1));
    // The hub is gone without a word; another one opens its log.
    let next = Hub {
        gateway: Arc::new(Gateway::new(hub.log.clone())),
        log: hub.log.clone(),
    };
    next.gateway.restore().await.unwrap();
    let record = next.log.record(Noun::Claim, "p/connection:a").await.unwrap().unwrap();
    assert_eq!(record.state, "free");
    let (b, _) = next.attach("b");
    assert_eq!(next.claim(&b, &["*"]).await, Ok(3));
    let last = Hub {
        gateway: Arc::new(Gateway::new(hub.log.clone())),
        log: hub.log.clone(),
    };
    last.gateway.restore().await.unwrap();
    let (c, _) = last.attach("c");
    assert_eq!(last.claim(&c, &["*"]).await, Ok(5));
}

/// A log that writes only with a permit, and fails when it is closed.
struct Slow(Arc<MemoryLog>, Semaphore);

impl EventLog for Slow {
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Ticket>> {
        Box::pin(async move {
            let full = |_| crate::error::Error::new(ErrorKind::Internal, "the disk is full");
            self.1.acquire().await.map_err(full)?.forget();
            self.0.append(append).await
        })
    }

    fn read(&self, run: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        self.0.read(run, after, limit)
    }

    fn feed(&self, after: Cursor, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        self.0.feed(after, limit)
    }

    fn latest(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        self.0.latest(limit)
    }

    fn tip(&self) -> tokio::sync::watch::Receiver<Cursor> {
        self.0.tip()
    }

    fn record(&self, noun: Noun, id: &str) -> BoxFuture<'_, Result<Option<Record>>> {
        self.0.record(noun, id)
    }

    fn records(&self, query: RecordQuery) -> BoxFuture<'_, Result<Vec<Record>>> {
        self.0.records(query)
    }

    fn blob(&self, digest: &str) -> BoxFuture<'_, Result<Json>> {
        self.0.blob(digest)
    }
}

#[tokio::test]
async fn no_claim_holds_before_it_is_in_the_log() {
    let memory = Arc::new(MemoryLog::new(100));
    let slow = Arc::new(Slow(memory.clone(), Semaphore::new(0)));
    let hub = Hub {
        gateway: Arc::new(Gateway::new(slow.clone())),
        log: memory,
    };
    let (a, _) = hub.attach("a");
    let mut claim = Box::pin(hub.claim(&a, &["*"]));
    assert!(futures::poll!(&mut claim).is_pending());
    tokio::task::yield_now().await;
    assert_eq!(hub.claimer("inference"), None);
    slow.1.add_permits(1);
    assert_eq!(claim.await, Ok(1));
    assert_eq!(hub.claimer("inference").as_deref(), Some("connection:a"));

    // One that leaves while its grant is written does not get it, and the log says so.
    let (b, _) = hub.attach("b");
    let mut claim = Box::pin(hub.gateway.claim(&b, "other", vec!["*".to_owned()]));
    assert!(futures::poll!(&mut claim).is_pending());
    tokio::task::yield_now().await;
    drop(claim);
    drop(b);
    slow.1.add_permits(2);
    let expected = [("claim.granted", 1), ("claim.granted", 2), ("claim.released", 2)];
    assert_eq!(
        hub.logged(3).await,
        expected.map(|(kind, epoch)| (kind.to_owned(), epoch))
    );
    assert!(!hub.gateway.has_claimer("other", &"x".parse().unwrap()));

    slow.1.close();
    let error = hub.gateway.claim(&a, "third", vec!["*".to_owned()]).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Internal, "the disk is full")
    );
    assert!(!hub.gateway.has_claimer("third", &"x".parse().unwrap()));
}

mod model;
mod offers;
mod records;
