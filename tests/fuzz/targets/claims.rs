//! Who holds a claim: any order of claims, releases, parties that come and go and restarts, over a log that writes when the
//! fuzzer says so, against what must hold at every moment.
//!
//! What a claim that is under way will come to is not known here, and neither is when it begins to hold. So what must hold
//! is said of the claims that are known, and all of it once nothing is under way.

#![no_main]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failure here ends the target, as any finding does"
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use fuzz_stage::{Peer, call, covered, meet, runtime, turn};
use libfuzzer_sys::arbitrary::{Result as Read, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use waypost::call::{CallError, CallName, Json};
use waypost::error::{ErrorKind, Result};
use waypost::gateway::{Attached, Carrier, Gateway, Lease};
use waypost::log::memory::MemoryLog;
use waypost::log::{Append, Cursor, Event, EventLog, Noun, Record, RecordQuery, Ticket};

const PROJECTS: [&str; 2] = ["p", "q"];
const SCOPES: [&[&str]; 5] = [&["*"], &["a"], &["a:x", "b"], &["a:y"], &["c:*", "c", "b:x"]];
const KINDS: [&str; 4] = ["a", "b", "c", "d"];
const ACTIONS: [Option<&str>; 4] = [None, Some("x"), Some("y"), Some("z")];
const PARTY_NAMES: [&str; 3] = ["one", "two", "three"];

/// Parties that there can be in one input, gone ones too.
const PARTIES: usize = 10;

/// A log in memory that writes what it is allowed to.
struct Disk {
    memory: MemoryLog,
    allowed: Semaphore,
    waiting: AtomicUsize,
}

/// Counts an append until it is written or given up.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EventLog for Disk {
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Ticket>> {
        let waits = Waits::new(&self.waiting);
        Box::pin(async move {
            if let Ok(allowed) = self.allowed.acquire().await {
                allowed.forget();
            }
            drop(waits);
            self.memory.append(append).await
        })
    }

    fn read(&self, run: &str, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        self.memory.read(run, after, limit)
    }

    fn feed(&self, after: Cursor, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        self.memory.feed(after, limit)
    }

    fn latest(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Event>>> {
        self.memory.latest(limit)
    }

    fn tip(&self) -> watch::Receiver<Cursor> {
        self.memory.tip()
    }

    fn record(&self, noun: Noun, id: &str) -> BoxFuture<'_, Result<Option<Record>>> {
        self.memory.record(noun, id)
    }

    fn records(&self, query: RecordQuery) -> BoxFuture<'_, Result<Vec<Record>>> {
        self.memory.records(query)
    }

    fn blob(&self, digest: &str) -> BoxFuture<'_, Result<Json>> {
        self.memory.blob(digest)
    }
}

/// One carrier from attach to detach, and after.
struct Party {
    name: usize,
    credential: u8,
    peer: Arc<Peer>,
    attached: Option<Arc<Attached>>,
    gone: bool,
    /// The scope and the epoch of the claim that it is known to hold, by project.
    held: HashMap<usize, (usize, u64)>,
    subscribed: HashSet<usize>,
}

/// A claim that is under way.
struct Claiming {
    who: usize,
    project: usize,
    scope: usize,
    outcome: BoxFuture<'static, std::result::Result<Lease, CallError>>,
    /// What the party held before.
    before: Option<(usize, u64)>,
    /// The highest epoch that was known when it began.
    floor: u64,
    /// Nothing else happened to the claims of the project meanwhile.
    alone: bool,
    /// Its party has let go of whatever it held meanwhile.
    let_go: bool,
}

struct World {
    runtime: Runtime,
    disk: Arc<Disk>,
    gateway: Arc<Gateway>,
    parties: Vec<Party>,
    claiming: Vec<Claiming>,
    /// Parties that wait for the record of what they let go.
    releasing: Vec<(usize, BoxFuture<'static, std::result::Result<(), CallError>>)>,
    /// Every epoch that was granted.
    epochs: HashSet<u64>,
    highest: u64,
    lagged: u64,
}

fuzz_target!(|data: &[u8]| {
    let disk = Arc::new(Disk {
        memory: MemoryLog::new(10_000),
        allowed: Semaphore::new(0),
        waiting: AtomicUsize::new(0),
    });
    let mut world = World::new(disk, HashSet::new());
    let mut input = Unstructured::new(data);
    while !input.is_empty() {
        match world.step(&mut input) {
            Ok(true) => world = world.restarted(),
            Ok(false) => world.check(),
            Err(_) => break,
        }
    }
    world.settle();
    world.end();
});

impl World {
    fn new(disk: Arc<Disk>, epochs: HashSet<u64>) -> Self {
        let highest = epochs.iter().max().copied().unwrap_or(0);
        Self {
            runtime: runtime(),
            gateway: Arc::new(Gateway::new(disk.clone())),
            disk,
            parties: Vec::new(),
            claiming: Vec::new(),
            releasing: Vec::new(),
            epochs,
            highest,
            lagged: 0,
        }
    }

    /// One step; whether it is a restart.
    fn step(&mut self, input: &mut Unstructured) -> Read<bool> {
        let party = |input: &mut Unstructured| input.int_in_range(0..=PARTIES - 1);
        let project = |input: &mut Unstructured| input.int_in_range(0..=PROJECTS.len() - 1);
        match input.int_in_range(0..=11u8)? {
            0 => self.attach(
                input.int_in_range(0..=PARTY_NAMES.len() - 1)?,
                u8::from(input.ratio(1u8, 8u8)?),
            ),
            1 => self.detach(party(input)?),
            2..=4 => self.claim(
                party(input)?,
                project(input)?,
                input.int_in_range(0..=SCOPES.len() - 1)?,
            ),
            5 => self.relinquish(party(input)?, project(input)?),
            6 => self.disk.allowed.add_permits(1),
            7 => turn(&self.runtime),
            8 => self.settle(),
            9 => self.subscribe(party(input)?, project(input)?, input.arbitrary()?),
            10 => self.tell(project(input)?, input.int_in_range(0..=2)?),
            _ => return input.ratio(1u8, 4u8),
        }
        self.look();
        Ok(false)
    }

    fn attached(&self, who: usize) -> Option<Arc<Attached>> {
        self.parties.get(who)?.attached.clone()
    }

    fn live(&self, name: usize) -> Option<usize> {
        self.parties.iter().position(|party| party.name == name && !party.gone)
    }

    fn attach(&mut self, name: usize, credential: u8) {
        if self.parties.len() == PARTIES {
            return;
        }
        let peer = Peer::new(PARTY_NAMES[name], credential, false);
        let entered = self.runtime.enter();
        let outcome = self.gateway.attach(peer.clone());
        drop(entered);
        let old = self.live(name);
        if old.is_some_and(|old| self.parties[old].credential != credential) {
            assert_eq!(outcome.err().map(|error| error.kind), Some(ErrorKind::Denied));
            return;
        }
        if let Some(old) = old {
            self.gone(old);
        }
        self.parties.push(Party {
            name,
            credential,
            peer,
            attached: outcome.ok().map(Arc::new),
            gone: false,
            held: HashMap::new(),
            subscribed: HashSet::new(),
        });
    }

    fn detach(&mut self, who: usize) {
        // Nobody waits any more for what is under way; it goes on without.
        self.claiming.retain(|claiming| claiming.who != who);
        self.releasing.retain(|(releaser, _)| *releaser != who);
        let Some(attached) = self.parties.get_mut(who).and_then(|party| party.attached.take()) else {
            return;
        };
        let entered = self.runtime.enter();
        drop(attached);
        drop(entered);
        self.gone(who);
    }

    /// Nothing of a party holds any more.
    fn gone(&mut self, who: usize) {
        let party = &mut self.parties[who];
        party.gone = true;
        party.held.clear();
        party.subscribed.clear();
        for claiming in &mut self.claiming {
            claiming.alone = false;
        }
    }

    fn claim(&mut self, who: usize, project: usize, scope: usize) {
        let same = |claiming: &Claiming| claiming.who == who && claiming.project == project;
        let Some(attached) = self.attached(who).filter(|_| !self.claiming.iter().any(same)) else {
            return;
        };
        let gateway = Arc::clone(&self.gateway);
        let wanted: Vec<String> = SCOPES[scope].iter().map(|pattern| (*pattern).to_owned()).collect();
        let outcome = async move { gateway.claim(&attached, PROJECTS[project], wanted).await };
        for claiming in self.claiming.iter_mut().filter(|claiming| claiming.project == project) {
            claiming.alone = false;
        }
        let alone = !self.claiming.iter().any(|claiming| claiming.project == project);
        self.claiming.push(Claiming {
            who,
            project,
            scope,
            outcome: outcome.boxed(),
            before: self.parties[who].held.remove(&project),
            floor: self.highest,
            alone,
            let_go: false,
        });
    }

    fn relinquish(&mut self, who: usize, project: usize) {
        let Some(attached) = self.attached(who) else { return };
        let gateway = Arc::clone(&self.gateway);
        let mut release = async move { gateway.relinquish(&attached, PROJECTS[project]).await }.boxed();
        let entered = self.runtime.enter();
        let outcome = (&mut release).now_or_never();
        drop(entered);
        let refused = outcome.as_ref().is_some_and(|outcome| outcome.is_err());
        let held = self.parties[who].held.remove(&project).is_some();
        let mut under_way = false;
        for claiming in self.claiming.iter_mut().filter(|claiming| claiming.project == project) {
            claiming.alone = false;
            claiming.let_go |= claiming.who == who;
            under_way |= claiming.who == who;
        }
        assert!(
            under_way || refused != held,
            "a claim is let go by who holds it, and by nobody else"
        );
        if outcome.is_none() {
            self.releasing.push((who, release));
        }
    }

    /// Looks at what is under way.
    fn look(&mut self) {
        let entered = self.runtime.enter();
        self.releasing
            .retain_mut(|(_, release)| release.now_or_never().is_none());
        let mut ended = Vec::new();
        self.claiming
            .retain_mut(|claiming| match (&mut claiming.outcome).now_or_never() {
                Some(outcome) => {
                    let forever = futures::future::pending().boxed();
                    let known = Claiming {
                        outcome: forever,
                        ..*claiming
                    };
                    ended.push((known, outcome));
                    false
                }
                None => true,
            });
        drop(entered);
        for (claiming, outcome) in ended {
            self.claimed(&claiming, outcome);
        }
    }

    /// What a claim came to.
    fn claimed(&mut self, claiming: &Claiming, outcome: std::result::Result<Lease, CallError>) {
        let Claiming {
            who,
            project,
            scope,
            before,
            floor,
            alone,
            let_go,
            ..
        } = *claiming;
        let others = self.parties.iter().enumerate().filter(|(other, _)| *other != who);
        let conflict = others
            .filter_map(|(_, other)| other.held.get(&project))
            .any(|(held, _)| meet(SCOPES[*held], SCOPES[scope], &KINDS, &ACTIONS));
        let gone = self.parties[who].gone;
        let again = before.filter(|(held, _)| *held == scope);
        let holds = match outcome {
            Ok(Lease { epoch }) => {
                assert!(!(alone && (conflict || gone)), "it is another's, or its party has gone");
                match again.filter(|_| !let_go) {
                    Some((_, known)) if !gone => assert_eq!(epoch, known, "the same claim is the same lease"),
                    _ if again.is_some_and(|(_, known)| known == epoch) => {}
                    _ => {
                        assert!(epoch > floor, "epochs rise");
                        assert!(self.epochs.insert(epoch), "an epoch is granted once");
                    }
                }
                self.highest = self.highest.max(epoch);
                Some((scope, epoch))
            }
            Err(error) if gone => {
                assert!(
                    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Denied),
                    "{error}"
                );
                None
            }
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Denied);
                assert!(conflict || !alone, "nobody else holds it");
                before
            }
        };
        if gone {
            return;
        }
        // Whether it let go of what it was granted, or of what it had before, is known by asking.
        let holds = holds.filter(|(held, _)| !let_go || self.is_claimed(who, project, *held));
        if let Some(held) = holds {
            self.parties[who].held.insert(project, held);
        }
    }

    /// Whether the hub says that a party holds a scope.
    fn is_claimed(&self, who: usize, project: usize, scope: usize) -> bool {
        let target = Some(self.parties[who].peer.target().clone());
        let mut covered = names().filter(|name| covered(SCOPES[scope], name));
        covered.any(|name| self.gateway.claimer(PROJECTS[project], &name) == target)
    }

    fn subscribe(&mut self, who: usize, project: usize, on: bool) {
        let Some(attached) = self.attached(who) else { return };
        let party = &mut self.parties[who];
        if on {
            let outcome = self.gateway.subscribe(&attached, PROJECTS[project]);
            assert_eq!(outcome.is_ok(), !party.gone);
            if !party.gone {
                party.subscribed.insert(project);
            }
        } else {
            self.gateway.unsubscribe(&attached, PROJECTS[project]);
            party.subscribed.remove(&project);
        }
    }

    /// Tells of a local call; each subscriber takes so many.
    fn tell(&mut self, project: usize, room: usize) {
        for party in &self.parties {
            party.peer.set_room(room);
        }
        self.gateway.notify(&call(PROJECTS[project], "a:x"), &Ok(Json::null()));
        for party in &self.parties {
            let hears = party.subscribed.contains(&project);
            assert_eq!(party.peer.room(), room.saturating_sub(usize::from(hears)));
            self.lagged += u64::from(hears && room == 0);
        }
    }

    /// Lets everything that is under way come to its end.
    fn settle(&mut self) {
        loop {
            turn(&self.runtime);
            self.look();
            let waiting = self.disk.waiting.load(Ordering::Relaxed);
            if waiting == 0 && self.claiming.is_empty() && self.releasing.is_empty() {
                break;
            }
            self.disk
                .allowed
                .add_permits(waiting.saturating_sub(self.disk.allowed.available_permits()));
        }
        turn(&self.runtime);
        self.check();
        self.check_log();
    }

    fn check(&self) {
        let held = |project: usize| {
            let parties = self.parties.iter();
            parties.filter_map(move |party| Some((party, *party.held.get(&project)?)))
        };
        for (project, id) in PROJECTS.iter().enumerate() {
            for name in names() {
                let mut holders = held(project).filter(|(_, (scope, _))| covered(SCOPES[*scope], &name));
                let holder = holders.next();
                assert!(holders.next().is_none(), "{name} of {id} has two holders");
                let claimer = self.gateway.claimer(id, &name);
                assert_eq!(claimer.is_some(), self.gateway.has_claimer(id, &name));
                match holder {
                    Some((party, _)) => assert_eq!(claimer.as_ref(), Some(party.peer.target())),
                    // Only what is under way can hold it.
                    None => assert!(claimer.is_none_or(|target| self.claiming.iter().any(|claiming| {
                        let party = &self.parties[claiming.who];
                        claiming.project == project && !party.gone && *party.peer.target() == target
                    }))),
                }
            }
        }
        let stats = self.gateway.stats();
        let known = (0..PROJECTS.len()).map(|project| held(project).count()).sum::<usize>();
        let under_way = self
            .claiming
            .iter()
            .filter(|claiming| !self.parties[claiming.who].gone)
            .count();
        assert!(
            (known..=known + under_way).contains(&stats.claims),
            "{} claims, {known} known",
            stats.claims
        );
        assert_eq!(stats.attached, self.parties.iter().filter(|party| !party.gone).count());
        assert_eq!(
            stats.subscriptions,
            self.parties.iter().map(|party| party.subscribed.len()).sum::<usize>()
        );
        assert_eq!(stats.lagged, self.lagged);
    }

    /// With nothing under way, the log says what is so.
    fn check_log(&self) {
        let query = RecordQuery {
            noun: Noun::Claim,
            project: None,
            states: vec!["held".to_owned()],
            limit: 1000,
        };
        let events = self
            .runtime
            .block_on(self.disk.feed(Cursor::default(), 10_000))
            .expect("a log in memory is read");
        let granted = events.iter().filter(|event| &*event.kind == "claim.granted");
        let epochs: Vec<u64> = granted.map(|event| epoch(&event.body)).collect();
        assert!(
            epochs.is_sorted_by(|one, next| one < next),
            "epochs rise in the log: {epochs:?}"
        );
        let records = self
            .runtime
            .block_on(self.disk.records(query))
            .expect("a log in memory is read");
        let mut logged: Vec<u64> = records.iter().map(|record| epoch(&record.body)).collect();
        let mut held: Vec<u64> = self
            .parties
            .iter()
            .flat_map(|party| party.held.values().map(|held| held.1))
            .collect();
        logged.sort_unstable();
        held.sort_unstable();
        assert_eq!(logged, held, "the log says who holds what");
    }

    /// All go, and nothing is left.
    fn end(&mut self) {
        for who in 0..self.parties.len() {
            self.detach(who);
        }
        self.settle();
        let stats = self.gateway.stats();
        assert_eq!(
            (stats.attached, stats.claims, stats.subscriptions, stats.pending),
            (0, 0, 0, 0)
        );
    }

    /// The hub is killed with all that is under way, and starts again on what is in the log.
    fn restarted(self) -> Self {
        let Self {
            runtime,
            disk,
            gateway,
            parties,
            claiming,
            releasing,
            epochs,
            ..
        } = self;
        drop((claiming, releasing));
        drop(runtime);
        drop((parties, gateway));
        let world = Self::new(disk, epochs);
        world.disk.allowed.add_permits(1);
        world
            .runtime
            .block_on(world.gateway.restore())
            .expect("what was written can be read");
        world.check();
        world.check_log();
        world
    }
}

/// Stand for all calls that there are.
fn names() -> impl Iterator<Item = CallName> {
    let kinds = KINDS.iter();
    kinds.flat_map(|kind| ACTIONS.iter().map(|action| CallName::new(kind, *action)))
}

fn epoch(body: &Json) -> u64 {
    body.to::<serde_json::Value>()
        .ok()
        .and_then(|body| body.get("epoch")?.as_u64())
        .expect("a claim has an epoch")
}
