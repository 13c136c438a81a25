//! Offers: which models somebody serves, and requests to them.
//!
//! An offer belongs to the attachment that made it and goes with it. A request to one of its models is made under the
//! offer as a proxied call is made under a claim. Not here: what an answer means, and how a request is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, unfold};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bounded::bounded;
use super::pending::{Pending, RequestTicket};
use super::{Attached, Attachment, Gateway, Limits, Under, carry, upstream};
use crate::call::{Call, CallError, Json, Model, Models, Piece, PrincipalKind, Target};
use crate::error::{ErrorKind, Result};

/// What stands for the models of an offer that names none.
const ANY: &str = "*";

/// Models that one carrier serves under one id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Its id in the project, by which calls name it: lower case, without spaces and slashes.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// The models by id, each with its name for people. None at all is whatever its carrier is asked for by full name.
    pub models: Option<BTreeMap<String, Option<String>>>,
}

impl Offer {
    /// An id as it counts, whatever way it was written.
    pub fn normal_id(written: &str) -> String {
        let letters = written.chars().filter(|c| !c.is_whitespace());
        letters.flat_map(char::to_lowercase).collect()
    }

    fn serves(&self, model: &str) -> bool {
        !model.is_empty() && self.models.as_ref().is_none_or(|models| models.contains_key(model))
    }

    fn names(&self, model: &str) -> bool {
        self.models.as_ref().is_some_and(|models| models.contains_key(model))
    }
}

/// An offer and who made it.
#[derive(Clone, Debug, Serialize)]
pub struct Offered {
    /// What is on offer.
    #[serde(flatten)]
    pub offer: Offer,
    /// By whom.
    pub by: Target,
}

/// How the gateway reaches one who serves models. What was said of [`super::Carrier::request`] holds here.
pub trait ModelCarrier: Send + Sync {
    /// Carries one request to its reply. Chunks come through [`Gateway::chunk`].
    fn ask<'a>(
        &'a self,
        call: &'a Call,
        request: &'a ModelRequest,
        ticket: RequestTicket,
    ) -> BoxFuture<'a, Result<Json, CallError>>;
}

/// What is asked of a model.
#[derive(Clone, Debug)]
pub struct ModelRequest {
    /// The id of the offer.
    pub provider: String,
    /// The body of an OpenAI-style request.
    pub options: Json,
    /// Whether the answer may come in chunks.
    pub streams: bool,
}

/// The offers of each project by their ids.
type ByProject = HashMap<Arc<str>, BTreeMap<String, Arc<Entry>>>;

/// All offers.
pub(super) struct Offers {
    limits: Limits,
    by_project: RwLock<ByProject>,
}

struct Entry {
    offer: Offer,
    by: Arc<Attachment>,
    carrier: Arc<dyn ModelCarrier>,
    /// Fires when it is taken back, or when its maker goes away.
    ended: CancellationToken,
}

impl Entry {
    /// Whether its maker is there: the mark of one who goes away comes before its offers are forgotten.
    fn holds(&self) -> bool {
        !self.ended.is_cancelled()
    }
}

impl Offers {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_project: RwLock::default(),
        }
    }

    fn add(
        &self,
        by: &Arc<Attachment>,
        project: &str,
        offer: Offer,
        carrier: Arc<dyn ModelCarrier>,
    ) -> Result<(), CallError> {
        let (target, count) = (by.target(), offer.models.as_ref().map_or(0, BTreeMap::len));
        if count > self.limits.models {
            let (id, most) = (&offer.id, self.limits.models);
            let message =
                format!("`{id}` lists {count} models; at most {most} are taken: leave out what nobody asks for");
            return Err(upstream(ErrorKind::Limit, message));
        }
        let mut by_project = self.write();
        // Under the lock: what is gone is not added after it was forgotten.
        by.check()?;
        let own = |entry: &&Arc<Entry>| entry.by.number == by.number && entry.offer.id != offer.id;
        if by_project.values().flat_map(BTreeMap::values).filter(own).count() >= self.limits.offers {
            let most = self.limits.offers;
            let message = format!("{target} has registered {most} providers, its limit; unregister one of them first");
            return Err(upstream(ErrorKind::Limit, message));
        }
        let offers = by_project.entry(project.into()).or_default();
        let known = offers.get(&offer.id);
        if let Some(other) = known.filter(|known| known.by.number != by.number) {
            let message = format!(
                "`{}` is registered by {}; it must unregister it first, or choose another providerId",
                offer.id,
                other.by.target()
            );
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        // What is asked now goes on when the list of models changes.
        let ended = known.map_or_else(|| by.gone.child_token(), |known| known.ended.clone());
        let entry = Entry {
            by: Arc::clone(by),
            carrier,
            ended,
            offer,
        };
        offers.insert(entry.offer.id.clone(), Arc::new(entry));
        Ok(())
    }

    fn remove(&self, by: &Attachment, project: &str, id: &str) -> Result<(), CallError> {
        let mut by_project = self.write();
        let offers = by_project.get_mut(project);
        let own = offers.filter(|offers| offers.get(id).is_some_and(|entry| entry.by.number == by.number));
        match own.and_then(|offers| offers.remove(id)) {
            Some(entry) => {
                entry.ended.cancel();
                Ok(())
            }
            None => {
                let message = format!("{} has not registered `{}`", by.target(), id.escape_debug());
                Err(CallError::new(ErrorKind::NotFound, message))
            }
        }
    }

    /// Removes all offers of one who goes away.
    pub(super) fn forget(&self, by: &Attachment) {
        for offers in self.write().values_mut() {
            offers.retain(|_, entry| entry.by.number != by.number);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.read().values().map(BTreeMap::len).sum()
    }

    /// The offer and the model id that a name stands for.
    fn find(&self, project: &str, name: &str) -> Result<Option<(Arc<Entry>, String)>, CallError> {
        let by_project = self.read();
        let Some(offers) = by_project.get(project) else {
            return Ok(None);
        };
        if let Some((id, model)) = name.split_once('/')
            && let Some(entry) = offers.get(&Offer::normal_id(id))
            && entry.holds()
            && entry.offer.serves(model)
        {
            return Ok(Some((Arc::clone(entry), model.to_owned())));
        }
        let serving: Vec<&Arc<Entry>> = offers
            .values()
            .filter(|entry| entry.holds() && entry.offer.names(name))
            .collect();
        match *serving {
            [] => Ok(None),
            [one] => Ok(Some((Arc::clone(one), name.to_owned()))),
            [first, ..] => {
                let named = serving
                    .iter()
                    .map(|entry| format!("`{}` ({})", entry.offer.id, entry.by.target()));
                let (named, name, first) = (
                    named.collect::<Vec<_>>().join(" and "),
                    name.escape_debug(),
                    &first.offer.id,
                );
                let message = format!("model `{name}` is registered by {named}; say which, as in `{first}/{name}`");
                Err(CallError::new(ErrorKind::Invalid, message))
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, ByProject> {
        self.by_project.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByProject> {
        self.by_project.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Offers models in a project; with an id that this one has offered before, the models of that offer change. An id
    /// that somebody else holds is refused with the name of the holder.
    pub fn offer(
        &self,
        attached: &Attached,
        project: &str,
        offer: Offer,
        carrier: Arc<dyn ModelCarrier>,
    ) -> Result<(), CallError> {
        self.offers.add(&attached.attachment, project, offer, carrier)
    }

    /// Takes an offer back; requests in flight under it end.
    pub fn take_back(&self, attached: &Attached, project: &str, id: &str) -> Result<(), CallError> {
        self.offers.remove(&attached.attachment, project, id)
    }

    /// All offers in a project, in the order of their ids.
    pub fn offered(&self, project: &str) -> Vec<Offered> {
        let by_project = self.offers.read();
        let offers = by_project.get(project).into_iter().flat_map(BTreeMap::values);
        let shown = offers.map(|entry| Offered {
            offer: entry.offer.clone(),
            by: entry.by.target().clone(),
        });
        shown.collect()
    }
}

impl Models for Gateway {
    fn find(&self, project: &str, name: &str) -> Result<Option<Box<dyn Model>>, CallError> {
        let found = self.offers.find(project, name)?;
        Ok(found.map(|(entry, id)| {
            let served = Served {
                pending: Arc::clone(&self.pending),
                limits: self.offers.limits,
                entry,
                id,
            };
            Box::new(served) as Box<dyn Model>
        }))
    }

    fn names(&self, project: &str) -> Vec<String> {
        let by_project = self.offers.read();
        let offers = by_project.get(project).into_iter().flat_map(BTreeMap::values);
        let names = offers.flat_map(|entry| {
            let Offer { id, models, .. } = &entry.offer;
            let full = move |model: &str| format!("{id}/{model}");
            match models {
                None => vec![full(ANY)],
                Some(models) => models.keys().map(|model| full(model)).collect(),
            }
        });
        names.collect()
    }
}

/// A model on offer.
struct Served {
    pending: Arc<Pending>,
    limits: Limits,
    entry: Arc<Entry>,
    id: String,
}

impl Model for Served {
    fn id(&self) -> &str {
        &self.id
    }

    fn by(&self) -> &Target {
        self.entry.by.target()
    }

    fn ask<'a>(&'a self, call: &'a Call, options: Json, streams: bool) -> BoxStream<'a, Result<Piece, CallError>> {
        let (entrance, chunks) = bounded(self.limits.chunks, self.limits.chunk_bytes);
        let work: BoxFuture<'a, Result<Json, CallError>> = Box::pin(async move {
            // Else a wrapper of a model could be asked by itself without end.
            let caller = Target::Connection(Arc::clone(&call.principal.id));
            if call.principal.kind == PrincipalKind::Connection && caller == *self.by() {
                let message = format!(
                    "{} serves `{}` itself, and its own call does not reach it; name another model",
                    self.by(),
                    self.id.escape_debug()
                );
                return Err(CallError::new(ErrorKind::Unavailable, message));
            }
            let request = ModelRequest {
                provider: self.entry.offer.id.clone(),
                options,
                streams,
            };
            let under = Under {
                epoch: None,
                ended: &self.entry.ended,
            };
            let send = |ticket| self.entry.carrier.ask(call, &request, ticket);
            carry(&self.pending, &self.entry.by, under, Some(entrance), call, send).await
        });
        let pieces = unfold(Some((work, chunks, None)), |state| async move {
            let (mut work, mut chunks, mut end) = state?;
            if end.is_none() {
                tokio::select! {
                    biased;
                    Some(chunk) = chunks.next() => return Some((Ok(Piece::Part(chunk)), Some((work, chunks, None)))),
                    result = &mut work => end = Some(result),
                }
            }
            // Nothing more goes in: what is left was said before the end.
            if let Some(chunk) = chunks.next().await {
                return Some((Ok(Piece::Part(chunk)), Some((work, chunks, end))));
            }
            end.map(|result| (result.map(Piece::Reply), None))
        });
        pieces.boxed()
    }
}
