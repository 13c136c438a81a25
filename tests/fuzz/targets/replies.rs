//! Which reply counts: any order of requests, replies, ends of leases and callers that go, one step at a time, against what
//! must come of it.
//!
//! Nothing runs by itself: what is asked goes on when its caller looks, so that a reply, the end of its lease and the
//! caller's cancel can all be there at once.

#![no_main]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failure here ends the target, as any finding does"
)]

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use fuzz_stage::{Peer, Sent, call, covered, meet, runtime};
use libfuzzer_sys::arbitrary::{Result as Read, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use waypost::call::{Call, CallError, CallName, Json, Sink, Target};
use waypost::error::ErrorKind;
use waypost::gateway::{Attached, Gateway, Limits, Rejected, Rejection};
use waypost::log::memory::MemoryLog;

const PROJECT: &str = "p";
const SCOPES: [&[&str]; 4] = [&["*"], &["a"], &["a:x", "b"], &["c:*"]];
const NAMES: [&str; 4] = ["a:x", "a:y", "b", "c:x"];

/// Requests in flight to one party.
const PENDING: usize = 3;

/// Parties that there can be in one input, gone ones too.
const PARTIES: usize = 12;

/// Names of parties; those from [`CONNECTIONS`] on are plugins, which stop what is cancelled.
const PARTY_NAMES: [&str; 4] = ["one", "two", "three", "four"];
const CONNECTIONS: usize = 3;

/// One carrier from attach to detach, and after.
struct Party {
    name: usize,
    peer: Arc<Peer>,
    attached: Option<Attached>,
    /// Its place in `ended` of the world: whether it has gone.
    gone: usize,
    /// The scope that it holds, and the place of that lease in `ended`.
    held: Option<(usize, usize)>,
}

/// One request, and all that was done to it.
struct Asked {
    sent: Sent,
    to: usize,
    /// The place of the lease in `ended` under which it was made.
    lease: usize,
    /// Shares the cancel token of the call that was made.
    call: Call,
    caller: Option<BoxFuture<'static, Result<Json, CallError>>>,
    started: bool,
    /// The reply that was accepted.
    accepted: Option<u64>,
    /// What a plugin said at its end, until its caller looks.
    said: Option<u64>,
    /// Why a further reply is refused.
    refused: Option<Rejection>,
}

struct World {
    runtime: Runtime,
    gateway: Arc<Gateway>,
    parties: Vec<Party>,
    asked: Vec<Asked>,
    /// Whether each lease has ended.
    ended: Vec<bool>,
    rejected: Rejected,
    /// So that no two replies are the same.
    replies: u64,
}

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    let mut input = Unstructured::new(data);
    while !input.is_empty() && world.step(&mut input).is_ok() {
        world.check();
    }
    world.end();
});

impl World {
    fn new() -> Self {
        let runtime = runtime();
        let log = Arc::new(MemoryLog::new(64));
        Self {
            runtime,
            gateway: Arc::new(Gateway::with_limits(
                log,
                Limits {
                    pending: PENDING,
                    ..Limits::default()
                },
            )),
            parties: Vec::new(),
            asked: Vec::new(),
            ended: Vec::new(),
            rejected: Rejected::default(),
            replies: 0,
        }
    }

    fn step(&mut self, input: &mut Unstructured) -> Read<()> {
        match input.int_in_range(0..=12u8)? {
            0 => self.attach(input.int_in_range(0..=PARTY_NAMES.len() - 1)?),
            1 => self.detach(party(input)?),
            2 => self.claim(party(input)?, input.int_in_range(0..=SCOPES.len() - 1)?),
            3 => self.relinquish(party(input)?),
            4 | 5 => self.proxy(input.int_in_range(0..=NAMES.len() - 1)?, input.ratio(1u8, 8u8)?),
            6 => self.ask(input.int_in_range(0..=CONNECTIONS - 1)?),
            7 => self.reply(party(input)?, usize::from(input.arbitrary::<u8>()?)),
            8 => self.reply_of_the_asked(usize::from(input.arbitrary::<u8>()?)),
            9 => self.start(usize::from(input.arbitrary::<u8>()?)),
            10 => self.look(usize::from(input.arbitrary::<u8>()?)),
            11 => self.cancel(usize::from(input.arbitrary::<u8>()?)),
            _ => self.leave(usize::from(input.arbitrary::<u8>()?)),
        }
        Ok(())
    }

    fn lease(&mut self) -> usize {
        self.ended.push(false);
        self.ended.len() - 1
    }

    fn has_ended(&self, lease: usize) -> bool {
        self.ended[lease]
    }

    fn live(&self, name: usize) -> Option<usize> {
        self.parties
            .iter()
            .position(|party| party.name == name && !self.has_ended(party.gone))
    }

    /// The leases of a party that has gone.
    fn gone(&mut self, who: usize) {
        let party = &mut self.parties[who];
        let leases = [Some(party.gone), party.held.take().map(|(_, lease)| lease)];
        for lease in leases.into_iter().flatten() {
            self.ended[lease] = true;
        }
    }

    fn attach(&mut self, name: usize) {
        if self.parties.len() == PARTIES {
            return;
        }
        let entered = self.runtime.enter();
        let peer = Peer::new(PARTY_NAMES[name], 0, name >= CONNECTIONS);
        let attached = self
            .gateway
            .attach(peer.clone())
            .map_err(|error| error.message)
            .expect("its credential is right");
        drop(entered);
        if let Some(old) = self.live(name) {
            self.gone(old);
        }
        let gone = self.lease();
        self.parties.push(Party {
            name,
            peer,
            attached: Some(attached),
            gone,
            held: None,
        });
    }

    fn detach(&mut self, who: usize) {
        let Some(attached) = self.parties.get_mut(who).and_then(|party| party.attached.take()) else {
            return;
        };
        let entered = self.runtime.enter();
        drop(attached);
        drop(entered);
        self.gone(who);
    }

    fn claim(&mut self, who: usize, scope: usize) {
        let Some(attached) = self.parties.get(who).and_then(|party| party.attached.as_ref()) else {
            return;
        };
        let wanted = SCOPES[scope].iter().map(|pattern| (*pattern).to_owned()).collect();
        let outcome = self.runtime.block_on(self.gateway.claim(attached, PROJECT, wanted));
        let others = self.parties.iter().enumerate().filter(|(other, _)| *other != who);
        let kinds = ["a", "b", "c", "d"];
        let conflict = others
            .filter_map(|(_, other)| other.held)
            .any(|(held, _)| meet(SCOPES[held], SCOPES[scope], &kinds, &[None, Some("x"), Some("z")]));
        if self.has_ended(self.parties[who].gone) {
            assert_eq!(outcome.map_err(|error| error.kind), Err(ErrorKind::Unavailable));
        } else if conflict {
            assert_eq!(outcome.map_err(|error| error.kind), Err(ErrorKind::Denied));
        } else {
            assert!(outcome.is_ok());
            if self.parties[who].held.is_none_or(|(held, _)| held != scope) {
                if let Some((_, replaced)) = self.parties[who].held.take() {
                    self.ended[replaced] = true;
                }
                self.parties[who].held = Some((scope, self.lease()));
            }
        }
    }

    fn relinquish(&mut self, who: usize) {
        let Some(attached) = self.parties.get(who).and_then(|party| party.attached.as_ref()) else {
            return;
        };
        let outcome = self.runtime.block_on(self.gateway.relinquish(attached, PROJECT));
        let held = self.parties[who].held.take();
        assert_eq!(outcome.is_ok(), held.is_some());
        if let Some((_, lease)) = held {
            self.ended[lease] = true;
        }
    }

    /// Asks whoever holds the claim on a call; `wraps` when that one makes the call itself.
    fn proxy(&mut self, name: usize, wraps: bool) {
        let mut call = call(PROJECT, NAMES[name]);
        let wanted: CallName = call.name.clone();
        let holder = self
            .parties
            .iter()
            .position(|party| party.held.is_some_and(|(held, _)| covered(SCOPES[held], &wanted)));
        let to = holder.and_then(|who| Some((who, self.parties[who].held?.1)));
        if let Some((who, _)) = to.filter(|_| wraps) {
            call.path = call.path.through(target(&self.parties[who]));
        }
        let (gateway, made) = (Arc::clone(&self.gateway), call.clone());
        let caller = async move { gateway.proxy(&made, &Sink::discard()).await }.boxed();
        self.asked(caller, call, to.filter(|_| !wraps));
    }

    /// Asks one connection by its name.
    fn ask(&mut self, name: usize) {
        let call = call(PROJECT, "a:x");
        let to = self.live(name).map(|who| (who, self.parties[who].gone));
        let (gateway, made) = (Arc::clone(&self.gateway), call.clone());
        let caller = async move { gateway.ask_connection(PARTY_NAMES[name], &made, &Sink::discard()).await }.boxed();
        self.asked(caller, call, to);
    }

    fn asked(
        &mut self,
        mut caller: BoxFuture<'static, Result<Json, CallError>>,
        call: Call,
        to: Option<(usize, usize)>,
    ) {
        let early = (&mut caller)
            .now_or_never()
            .map(|outcome| outcome.map_err(|error| error.kind));
        let Some((to, lease)) = to else {
            assert_eq!(early, Some(Err(ErrorKind::Unavailable)), "nobody can be asked");
            return;
        };
        let in_flight = self
            .asked
            .iter()
            .filter(|asked| asked.to == to && asked.caller.is_some())
            .count();
        if in_flight == PENDING {
            assert_eq!(early, Some(Err(ErrorKind::Limit)));
            return;
        }
        assert_eq!(early, None, "it waits for its reply");
        let sent = self.parties[to]
            .peer
            .sent()
            .expect("whoever is asked is handed the request");
        let by_claim = lease != self.parties[to].gone;
        assert_eq!(sent.epoch.is_some(), by_claim);
        assert!(
            self.asked.iter().all(|other| other.sent.id != sent.id),
            "an id is never used again"
        );
        self.asked.push(Asked {
            sent,
            to,
            lease,
            call,
            caller: Some(caller),
            started: false,
            accepted: None,
            said: None,
            refused: None,
        });
    }

    fn next_reply(&mut self) -> (u64, Json) {
        self.replies += 1;
        (self.replies, Json::from(serde_json::json!(self.replies)))
    }

    /// The place of the request that was made so many requests ago.
    fn place(&self, back: usize) -> Option<usize> {
        self.asked.len().checked_sub(back.checked_add(1)?)
    }

    fn reply_of_the_asked(&mut self, back: usize) {
        if let Some(asked) = self.place(back) {
            self.reply(self.asked[asked].to, back);
        }
    }

    /// A reply of anyone to any request; to one that never was when there are not so many.
    fn reply(&mut self, from: usize, back: usize) {
        let (value, reply) = self.next_reply();
        let Some(party) = self.parties.get(from) else { return };
        let Some(place) = self.place(back) else {
            let Some(attached) = &party.attached else { return };
            assert_eq!(self.gateway.reply(attached, "none", Ok(reply)), Err(Rejection::Unknown));
            self.rejected.unknown += 1;
            return;
        };
        let asked = &mut self.asked[place];
        if asked.to == from && party.name >= CONNECTIONS {
            // A plugin has no message for it: its reply is its end.
            if let Some(end) = asked.sent.end.take().filter(|_| asked.caller.is_some()) {
                asked.said = end.send(Ok(reply)).is_ok().then_some(value);
            }
            return;
        }
        let Some(attached) = &party.attached else { return };
        let outcome = self.gateway.reply(attached, &asked.sent.id, Ok(reply));
        let expected = if asked.to != from {
            Err(Rejection::Foreign)
        } else if let Some(reason) = asked.refused {
            Err(reason)
        } else if self.ended[asked.lease] {
            asked.refused = Some(Rejection::Stale);
            Err(Rejection::Stale)
        } else {
            asked.refused = Some(Rejection::Duplicate);
            asked.accepted = Some(value);
            Ok(())
        };
        assert_eq!(outcome, expected);
        if let Err(reason) = expected {
            count(&mut self.rejected, reason);
        }
    }

    /// The request leaves the hub, unless it was given up.
    fn start(&mut self, back: usize) {
        let Some(place) = self.place(back) else { return };
        let asked = &mut self.asked[place];
        assert_eq!(asked.sent.delivery.start(), asked.caller.is_some() && !asked.started);
        asked.started |= asked.caller.is_some();
    }

    /// The caller looks whether its call has ended.
    fn look(&mut self, back: usize) {
        let Some(place) = self.place(back) else { return };
        let asked = &mut self.asked[place];
        let Some(caller) = &mut asked.caller else { return };
        let outcome = caller.now_or_never();
        let ended = self.ended[asked.lease];
        let cancelled = asked.call.cancel.is_cancelled();
        let stops = self.parties[asked.to].name >= CONNECTIONS;
        let lost = |otherwise| {
            Err(if asked.started {
                ErrorKind::Indeterminate
            } else {
                otherwise
            })
        };
        let own_end = stops && (asked.said.is_some() || cancelled);
        let expected = match asked.accepted {
            Some(reply) => Some(Ok(reply)),
            None if own_end && !ended => Some(asked.said.ok_or(ErrorKind::Cancelled)),
            None if ended => Some(lost(ErrorKind::Unavailable)),
            None if cancelled => Some(lost(ErrorKind::Cancelled)),
            None => None,
        };
        let seen = outcome.map(|outcome| {
            outcome
                .map(|reply| reply.to::<u64>().expect("a number"))
                .map_err(|error| error.kind)
        });
        assert_eq!(seen, expected);
        if expected.is_none() {
            return;
        }
        if own_end && ended {
            self.rejected.stale += 1;
        }
        let closed = if ended { Rejection::Stale } else { Rejection::Late };
        let replied = own_end && !ended;
        asked
            .refused
            .get_or_insert(if replied { Rejection::Duplicate } else { closed });
        asked.caller = None;
    }

    fn cancel(&mut self, back: usize) {
        if let Some(place) = self.place(back) {
            self.asked[place].call.cancel.cancel();
        }
    }

    /// The caller goes away without a look.
    fn leave(&mut self, back: usize) {
        let Some(place) = self.place(back) else { return };
        let asked = &mut self.asked[place];
        if asked.caller.take().is_some() {
            let closed = if self.ended[asked.lease] {
                Rejection::Stale
            } else {
                Rejection::Late
            };
            asked.refused.get_or_insert(closed);
        }
    }

    fn check(&self) {
        let stats = self.gateway.stats();
        assert_eq!(
            stats.rejected, self.rejected,
            "refused replies are counted by their reason"
        );
        assert_eq!(
            stats.pending,
            self.asked.iter().filter(|asked| asked.caller.is_some()).count()
        );
        assert_eq!(
            stats.attached,
            self.parties.iter().filter(|party| !self.has_ended(party.gone)).count()
        );
        assert_eq!(
            stats.claims,
            self.parties.iter().filter(|party| party.held.is_some()).count()
        );
    }

    /// All go: each caller has its end, and nothing is left.
    fn end(mut self) {
        for who in 0..self.parties.len() {
            self.detach(who);
        }
        for back in 0..self.asked.len() {
            self.look(back);
        }
        self.check();
        let stats = self.gateway.stats();
        assert_eq!((stats.attached, stats.claims, stats.pending), (0, 0, 0));
    }
}

/// A party, or one that never was.
fn party(input: &mut Unstructured) -> Read<usize> {
    input.int_in_range(0..=PARTIES)
}

fn target(party: &Party) -> Target {
    waypost::gateway::Carrier::target(&*party.peer).clone()
}

fn count(rejected: &mut Rejected, reason: Rejection) {
    let counter = match reason {
        Rejection::Unknown => &mut rejected.unknown,
        Rejection::Foreign => &mut rejected.foreign,
        Rejection::Duplicate => &mut rejected.duplicate,
        Rejection::Late => &mut rejected.late,
        Rejection::Stale => &mut rejected.stale,
    };
    *counter += 1;
}
