//! Plugins at the gateway: the claims and subscriptions that they were granted, each behind a [`Carrier`] like that of a
//! connected process.
//!
//! A plugin keeps its place by its id: a reload changes what answers there, not that it is there. A claim that someone else
//! holds is taken as soon as it is let go. Not here: how a plugin's code runs ([`Executor`]), how notifications reach it
//! (`plugin/observe.rs`), and which replies count ([`crate::gateway`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Executor, Loaded, Plugins, Role, Shown, observe};
use crate::call::{Call, CallError, Json, Scope, Sink, Target};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::gateway::{self, Attached, Carrier, Gateway, Notification, Outbox, RequestTicket, Room};
use crate::imports::PluginLog;

/// What plugins at the gateway need of the hub.
pub struct Parts {
    /// What is loaded.
    pub plugins: Arc<Plugins>,
    /// Where they are attached.
    pub gateway: Arc<Gateway>,
    /// What runs their code.
    pub executor: Arc<dyn Executor>,
    /// Where it is said that an observer failed.
    pub log: Arc<PluginLog>,
    /// The project whose calls they claim and hear of.
    pub project: Arc<str>,
    /// Where an observer's own calls act.
    pub scope: Arc<Scope>,
    /// Time for one call into a plugin that has none of its own.
    pub timeout: Duration,
    /// A place for each observer that works at this moment.
    pub observing: Semaphore,
}

impl Parts {
    /// Runs one call into a plugin to its end, and stops it when its time is over.
    pub(super) async fn run(&self, plugin: &Loaded, call: &Call, sink: &Sink) -> Result<Json, CallError> {
        let mut work = self.executor.execute(plugin, call, sink, None);
        tokio::select! {
            biased;
            end = &mut work => return end,
            () = tokio::time::sleep_until(call.deadline.instant().into()) => call.cancel.cancel(),
        }
        work.await
    }
}

/// The plugins that hold claims and hear of calls.
pub struct Carriers {
    parts: Arc<Parts>,
    /// What a plugin proves its identity with is made of this and its id: nobody outside the hub has it.
    secret: [u8; 32],
    seats: Mutex<BTreeMap<Arc<str>, Seat>>,
    /// Fires when the hub stops.
    stop: CancellationToken,
    _stop: DropGuard,
}

/// One plugin's place at the gateway.
struct Seat {
    role: Role,
    attached: Attached,
    /// The claim that it holds.
    held: Vec<String>,
    /// Why it does not hold the one that it wants.
    unclaimed: Option<String>,
    /// Stops handing over notifications.
    _observing: Option<DropGuard>,
}

impl Carriers {
    /// Attaches every loaded plugin that was granted a claim or a subscription, and follows what changes from then on.
    pub async fn start(parts: Parts) -> Result<Arc<Self>> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| Error::new(ErrorKind::Internal, "the system gives no random numbers").because(error))?;
        let stop = CancellationToken::new();
        let (claims, plugins) = (parts.gateway.claims_changed(), parts.plugins.changes());
        let carriers = Arc::new(Self {
            parts: Arc::new(parts),
            secret,
            seats: Mutex::default(),
            _stop: stop.clone().drop_guard(),
            stop: stop.clone(),
        });
        carriers.settle().await;
        tokio::spawn(follow(Arc::downgrade(&carriers), stop, claims, plugins));
        Ok(carriers)
    }

    /// Detaches all of them: claims are free, and observers hear of nothing more.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.seats.lock().await.clear();
    }

    /// Brings the gateway in line with what is loaded now. A claim that cannot be had is tried again when one is let go.
    pub async fn settle(&self) {
        let mut seats = self.seats.lock().await;
        if self.stop.is_cancelled() {
            return;
        }
        let mut wanted = self.parts.plugins.all();
        wanted.retain(|plugin| plugin.facts.grants.subscribe || !plugin.facts.grants.claim.is_empty());
        seats.retain(|id, seat| {
            let same = |plugin: &Arc<Loaded>| plugin.facts.id == *id && plugin.manifest.role == seat.role;
            wanted.iter().any(same)
        });
        for plugin in wanted {
            let id = &plugin.facts.id;
            if !seats.contains_key(id) {
                match self.seat(&plugin) {
                    Ok(seat) => drop(seats.insert(Arc::clone(id), seat)),
                    Err(error) => {
                        tracing::error!(plugin = %id, %error, "a plugin could not be attached to the gateway")
                    }
                }
            }
            if let Some(seat) = seats.get_mut(id) {
                self.claim(&plugin, seat).await;
            }
        }
    }

    /// What `waypost plugin ls` shows of a plugin.
    pub async fn shown(&self, plugin: &Loaded) -> Shown {
        let seats = self.seats.lock().await;
        let unclaimed = seats.get(&plugin.facts.id).and_then(|seat| seat.unclaimed.clone());
        Shown {
            unclaimed,
            ..plugin.shown()
        }
    }

    fn seat(&self, plugin: &Loaded) -> Result<Seat, CallError> {
        let id = &plugin.facts.id;
        let limits = &plugin.facts.limits;
        let (outbox, backlog) = gateway::backlog(Room {
            notifications: limits.notices,
            bytes: limits.notice_bytes,
        });
        let subscribes = plugin.facts.grants.subscribe;
        let attached = self.parts.gateway.attach(Arc::new(PluginCarrier {
            target: Target::Plugin(Arc::clone(id)),
            id: Arc::clone(id),
            credential: Sha256::new()
                .chain_update(self.secret)
                .chain_update(&**id)
                .finalize()
                .into(),
            parts: Arc::clone(&self.parts),
            outbox,
        }))?;
        if subscribes {
            self.parts.gateway.subscribe(&attached, &self.parts.project)?;
        }
        let observing = subscribes.then(|| {
            let stop = self.stop.child_token();
            let observer = observe::Observer::new(Arc::clone(&self.parts), Arc::clone(id), stop.clone());
            tokio::spawn(observer.follow(backlog));
            stop.drop_guard()
        });
        Ok(Seat {
            role: plugin.manifest.role,
            attached,
            held: Vec::new(),
            unclaimed: None,
            _observing: observing,
        })
    }

    async fn claim(&self, plugin: &Loaded, seat: &mut Seat) {
        let Parts { gateway, project, .. } = &*self.parts;
        let wanted = &plugin.facts.grants.claim;
        if wanted.is_empty() || seat.held == *wanted {
            return;
        }
        match gateway.claim(&seat.attached, project, wanted.clone()).await {
            Ok(_) => {
                seat.held.clone_from(wanted);
                seat.unclaimed = None;
            }
            Err(error) => {
                if seat.unclaimed.as_ref() != Some(&error.message) {
                    tracing::warn!(plugin = %plugin.facts.id, %error, "a plugin does not hold its claim");
                }
                seat.unclaimed = Some(error.message);
                // What it held before a reload is not what it asks for now.
                if !std::mem::take(&mut seat.held).is_empty()
                    && let Err(error) = gateway.relinquish(&seat.attached, project).await
                {
                    tracing::debug!(plugin = %plugin.facts.id, %error, "an earlier claim was gone already");
                }
            }
        }
    }
}

/// Settles whenever a claim was let go or a plugin was loaded or removed.
async fn follow(
    carriers: Weak<Carriers>,
    stop: CancellationToken,
    mut claims: watch::Receiver<()>,
    mut plugins: watch::Receiver<()>,
) {
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = claims.changed() => changed,
            changed = plugins.changed() => changed,
        };
        let Some(carriers) = carriers.upgrade().filter(|_| changed.is_ok()) else {
            return;
        };
        carriers.settle().await;
    }
}

/// A plugin as the gateway sees it.
struct PluginCarrier {
    target: Target,
    id: Arc<str>,
    credential: [u8; 32],
    parts: Arc<Parts>,
    outbox: Outbox,
}

impl Carrier for PluginCarrier {
    fn target(&self) -> &Target {
        &self.target
    }

    fn credential(&self) -> &[u8; 32] {
        &self.credential
    }

    /// Its code is stopped and gone before its end is said.
    fn stops(&self) -> bool {
        true
    }

    fn request<'a>(
        &'a self,
        call: &'a Call,
        ticket: RequestTicket,
        sink: &'a Sink,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        Box::pin(async move {
            let plugin = self.parts.plugins.get(&self.id)?;
            if !plugin.claims(&call.name) {
                let message = format!("{} no longer claims {}; nothing was done", self.target, call.name);
                return Err(CallError::new(ErrorKind::Unavailable, message).blame(Blame::Plugin));
            }
            if !ticket.delivery().start() {
                return ticket.reply().await;
            }
            let call = call.within(plugin.timeout(self.parts.timeout));
            let result = self.parts.run(&plugin, &call, sink).await;
            ticket.end(result).await
        })
    }

    fn notify(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        self.outbox.put(notification, dropped)
    }
}
