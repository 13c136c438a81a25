//! Claims: leases on scopes of a project's calls.
//!
//! A grant is an event with a record, on disk before the claim holds; its epoch is never used twice. A release frees
//! the scope at once and is logged right after, always before the next grant, so that the records tell the truth.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Attachment;
use crate::call::{CallError, CallName, Json, covers};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::log::{Append, Body, EventLog, HUB, NewEvent, Noun, READ_LIMIT, Record, RecordQuery};

/// How many patterns one scope may have.
const SCOPE_PATTERNS: usize = 256;

/// How many claim records are read at the start; there is one for each project and holder.
const RECORDS: usize = READ_LIMIT;

const HELD: &str = "held";
const FREE: &str = "free";

/// All claims.
pub(super) struct Claims {
    log: Arc<dyn EventLog>,
    state: RwLock<State>,
    /// Held from the check to the grant, so that two claimants never pass the check together, and while releases are
    /// written, so that no grant overtakes them.
    granting: tokio::sync::Mutex<()>,
    /// Changes after each grant, when the claim already holds, and after each release.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    grants: HashMap<Arc<str>, Vec<Arc<Grant>>>,
    /// The highest epoch ever used.
    epoch: u64,
    /// Releases that hold already but are not in the log yet.
    unlogged: Vec<NewEvent>,
}

/// One claim that holds.
pub(super) struct Grant {
    holder: Arc<Attachment>,
    scope: Arc<[String]>,
    epoch: u64,
    /// Fires when the claim no longer holds.
    ended: CancellationToken,
}

impl Grant {
    pub(super) fn holder(&self) -> &Arc<Attachment> {
        &self.holder
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

/// The body of the events and of the record.
#[derive(Serialize, Deserialize)]
struct ClaimBody {
    project: Arc<str>,
    holder: String,
    scope: Arc<[String]>,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<String>,
}

impl ClaimBody {
    fn event(&self, kind: &'static str, state: &str) -> Result<NewEvent, CallError> {
        let body = Json::of(self)?;
        let record = Record {
            noun: Noun::Claim,
            id: record_id(&self.project, &self.holder),
            project: self.project.clone(),
            state: state.to_owned(),
            body: body.clone(),
        };
        Ok(NewEvent {
            kind,
            call: None,
            body: Body::Json(body),
            record: Some(record),
        })
    }
}

/// What a claim comes to once it is checked.
enum Checked {
    /// The claimant holds exactly this already.
    Held(u64),
    /// Free: to be granted with this epoch.
    Free(u64),
}

impl Claims {
    pub(super) fn new(log: Arc<dyn EventLog>) -> Self {
        Self {
            log,
            state: RwLock::default(),
            granting: tokio::sync::Mutex::default(),
            changed: watch::Sender::default(),
        }
    }

    /// Changes whenever a claim begins to hold or is let go.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) async fn restore(&self) -> Result<()> {
        let query = RecordQuery {
            noun: Noun::Claim,
            project: None,
            states: Vec::new(),
            limit: RECORDS,
        };
        let mut releases = Vec::new();
        let mut highest = 0;
        for record in self.log.records(query).await? {
            let mut body: ClaimBody = record.body.to().map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    format!("the claim record {} cannot be read", record.id),
                )
                .because(error)
            })?;
            highest = highest.max(body.epoch);
            if record.state == HELD {
                body.reason = Some("the hub restarted".to_owned());
                releases.push(body.event("claim.released", FREE).map_err(internal)?);
            }
        }
        if !releases.is_empty() {
            self.append(releases).await?.durable().await?;
        }
        let mut state = self.write();
        state.epoch = state.epoch.max(highest.saturating_add(1));
        Ok(())
    }

    /// Grants a scope; it runs to its end even if the claimant stops waiting, so that state and log agree.
    pub(super) async fn grant(
        self: &Arc<Self>,
        claimant: &Arc<Attachment>,
        project: &str,
        scope: Vec<String>,
    ) -> Result<u64, CallError> {
        let scope = normal(scope)?;
        let (claims, claimant, project) = (self.clone(), claimant.clone(), Arc::<str>::from(project));
        let granting = tokio::spawn(async move { claims.grant_whole(&claimant, &project, scope).await });
        granting
            .await
            .unwrap_or_else(|_| Err(CallError::new(ErrorKind::Internal, "the hub stopped during a claim")))
    }

    async fn grant_whole(
        self: &Arc<Self>,
        claimant: &Arc<Attachment>,
        project: &Arc<str>,
        scope: Arc<[String]>,
    ) -> Result<u64, CallError> {
        let _turn = self.granting.lock().await;
        let epoch = match self.check(claimant, project, &scope)? {
            Checked::Held(epoch) => return Ok(epoch),
            Checked::Free(epoch) => epoch,
        };
        self.write_releases().await;
        let body = claim_body(claimant, project, &scope, epoch, None);
        self.append(vec![body.event("claim.granted", HELD)?])
            .await?
            .durable()
            .await?;
        let lost = {
            let mut state = self.write();
            let lost = claimant.check();
            if lost.is_ok() {
                // What the claimant let go of while this was written is older: the record stays that of the grant.
                let id = record_id(project, claimant.target());
                for release in &mut state.unlogged {
                    release.record.take_if(|record| record.id == id);
                }
                let grants = state.grants.entry(project.clone()).or_default();
                grants.retain(|grant| {
                    let replaced = grant.holder.number == claimant.number;
                    if replaced {
                        grant.ended.cancel();
                    }
                    !replaced
                });
                let ended = claimant.gone.child_token();
                grants.push(Arc::new(Grant {
                    holder: claimant.clone(),
                    scope: scope.clone(),
                    epoch,
                    ended,
                }));
            } else {
                state
                    .unlogged
                    .extend(release_event(claimant, project, &scope, epoch, "detached"));
            }
            lost
        };
        self.changed.send_replace(());
        self.write_releases().await;
        lost.map(|()| epoch)
    }

    /// Whether the scope is free for the claimant. A free one burns an epoch, granted or not.
    fn check(&self, claimant: &Attachment, project: &Arc<str>, scope: &[String]) -> Result<Checked, CallError> {
        let mut state = self.write();
        claimant.check()?;
        for grant in state.grants.get(project).into_iter().flatten() {
            if grant.holder.number == claimant.number {
                if *grant.scope == *scope {
                    return Ok(Checked::Held(grant.epoch));
                }
            } else if let Some(pattern) = overlap(&grant.scope, scope) {
                let message = format!(
                    "{} holds the claim on {pattern} in project {project} (epoch {}); it must relinquish it first",
                    grant.holder.target(),
                    grant.epoch
                );
                return Err(CallError::new(ErrorKind::Denied, message).blame(Blame::Caller));
            }
        }
        state.epoch = state.epoch.saturating_add(1);
        Ok(Checked::Free(state.epoch))
    }

    pub(super) async fn relinquish(self: &Arc<Self>, holder: &Attachment, project: &str) -> Result<(), CallError> {
        if !self.free(holder, Some(project), "relinquished") {
            let message = format!(
                "{} holds no claim in project {project}; there is nothing to relinquish",
                holder.target()
            );
            return Err(CallError::new(ErrorKind::Denied, message).blame(Blame::Caller));
        }
        // A holder that stops waiting leaves a record that tells the truth, too.
        let claims = self.clone();
        drop(tokio::spawn(async move { claims.log_releases().await }).await);
        Ok(())
    }

    /// Frees everything an attachment holds, and logs it in the background.
    pub(super) fn release(self: &Arc<Self>, holder: &Attachment) {
        if self.free(holder, None, "detached")
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let claims = self.clone();
            runtime.spawn(async move { claims.log_releases().await });
        }
    }

    fn free(&self, holder: &Attachment, project: Option<&str>, reason: &str) -> bool {
        let mut state = self.write();
        let mut freed = Vec::new();
        for (name, grants) in &mut state.grants {
            if project.is_none_or(|project| *project == **name) {
                grants.retain(|grant| {
                    let mine = grant.holder.number == holder.number;
                    if mine {
                        grant.ended.cancel();
                        freed.push(release_event(holder, name, &grant.scope, grant.epoch, reason));
                    }
                    !mine
                });
            }
        }
        state.grants.retain(|_, grants| !grants.is_empty());
        let any = !freed.is_empty();
        state.unlogged.extend(freed.into_iter().flatten());
        drop(state);
        if any {
            self.changed.send_replace(());
        }
        any
    }

    async fn log_releases(&self) {
        let _turn = self.granting.lock().await;
        self.write_releases().await;
    }

    /// Writes the releases that are not in the log yet; the caller holds the turn. They are not waited for: a release
    /// that is lost in a crash is made up for by [`Claims::restore`].
    async fn write_releases(&self) {
        let releases = std::mem::take(&mut self.write().unlogged);
        if !releases.is_empty()
            && let Err(error) = self.append(releases).await
        {
            // In a hub that stops, connections end after the log is closed; the next start makes up for it.
            if error.kind == ErrorKind::Unavailable {
                tracing::debug!(error = %error.chain(), "released claims are left to the next start");
            } else {
                tracing::warn!(error = %error.chain(), "released claims could not be logged");
            }
        }
    }

    async fn append(&self, events: Vec<NewEvent>) -> Result<crate::log::Ticket> {
        self.log
            .append(Append {
                run: HUB.into(),
                expected_seq: None,
                events,
            })
            .await
    }

    /// The claim that covers a call.
    pub(super) fn find(&self, project: &str, name: &CallName) -> Option<Arc<Grant>> {
        let state = self.read();
        let grants = state.grants.get(project)?;
        grants
            .iter()
            .find(|grant| grant.scope.iter().any(|pattern| covers(pattern, name)))
            .cloned()
    }

    pub(super) fn count(&self) -> usize {
        self.read().grants.values().map(Vec::len).sum()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn internal(error: CallError) -> Error {
    Error::new(ErrorKind::Internal, "a claim cannot be written").because(error)
}

/// The name of the one record that a holder has in a project.
fn record_id(project: &str, holder: impl Display) -> Arc<str> {
    format!("{project}/{holder}").into()
}

fn claim_body(
    holder: &Attachment,
    project: &Arc<str>,
    scope: &Arc<[String]>,
    epoch: u64,
    reason: Option<&str>,
) -> ClaimBody {
    ClaimBody {
        project: project.clone(),
        holder: holder.target().to_string(),
        scope: scope.clone(),
        epoch,
        reason: reason.map(ToOwned::to_owned),
    }
}

fn release_event(
    holder: &Attachment,
    project: &Arc<str>,
    scope: &Arc<[String]>,
    epoch: u64,
    reason: &str,
) -> Option<NewEvent> {
    claim_body(holder, project, scope, epoch, Some(reason))
        .event("claim.released", FREE)
        .ok()
}

/// Checks the patterns and brings the scope into one form: sorted, each once, `kind` for `kind:*`.
fn normal(scope: Vec<String>) -> Result<Arc<[String]>, CallError> {
    if scope.is_empty() {
        let message = "the scope of a claim is empty; allow at least one pattern, as in claim = [\"fsEvent\"]";
        return Err(CallError::new(ErrorKind::Denied, message));
    }
    if scope.len() > SCOPE_PATTERNS {
        let message = format!(
            "the scope of a claim has {} patterns; at most {SCOPE_PATTERNS} may be",
            scope.len()
        );
        return Err(CallError::new(ErrorKind::Limit, message));
    }
    let mut patterns = Vec::with_capacity(scope.len());
    for pattern in scope {
        pattern.parse::<CallName>()?;
        patterns.push(pattern.strip_suffix(":*").map(ToOwned::to_owned).unwrap_or(pattern));
    }
    patterns.sort();
    patterns.dedup();
    Ok(patterns.into())
}

/// The first pattern of `held` that shares a call with `wanted`.
fn overlap<'a>(held: &'a [String], wanted: &[String]) -> Option<&'a str> {
    held.iter()
        .find(|held| wanted.iter().any(|wanted| meet(held, wanted)))
        .map(String::as_str)
}

/// Whether a call exists that both patterns cover.
fn meet(one: &str, other: &str) -> bool {
    if one == "*" || other == "*" {
        return true;
    }
    let (kind, action) = parts(one);
    let (other_kind, other_action) = parts(other);
    kind == other_kind && (action.is_none() || other_action.is_none() || action == other_action)
}

/// The kind of a pattern, and its action unless it stands for all.
fn parts(pattern: &str) -> (&str, Option<&str>) {
    match pattern.split_once(':') {
        None => (pattern, None),
        Some((kind, "*")) => (kind, None),
        Some((kind, action)) => (kind, Some(action)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATTERN: &str = "\\*|[ab](:([xy]|\\*))?";

    proptest! {
        #[test]
        fn scopes_overlap_exactly_when_a_call_is_in_both(
            one in proptest::collection::vec(PATTERN, 1..4),
            other in proptest::collection::vec(PATTERN, 1..4),
        ) {
            let (one, other) = (normal(one).unwrap(), normal(other).unwrap());
            // `c` and `z` stand for every kind and action that no pattern names.
            let shared = ["a", "b", "c"].iter().any(|kind| {
                [None, Some("x"), Some("y"), Some("z")].iter().any(|action| {
                    let name = CallName::new(kind, *action);
                    [&one, &other].iter().all(|scope| scope.iter().any(|pattern| covers(pattern, &name)))
                })
            });
            prop_assert_eq!(overlap(&one, &other).is_some(), shared);
            prop_assert_eq!(overlap(&other, &one).is_some(), shared);
        }

        #[test]
        fn the_normal_form_covers_the_same_calls(scope in proptest::collection::vec(PATTERN, 1..5), kind in "[abc]",
                                                 action in proptest::option::of("[xyz]")) {
            let name = CallName::new(&kind, action.as_deref());
            let before = scope.iter().any(|pattern| covers(pattern, &name));
            let normal = normal(scope).unwrap();
            prop_assert_eq!(normal.iter().any(|pattern| covers(pattern, &name)), before);
        }
    }

    #[test]
    fn a_scope_is_checked() {
        assert_eq!(normal(Vec::new()).unwrap_err().kind, ErrorKind::Denied);
        assert_eq!(normal(vec!["a:".to_owned()]).unwrap_err().kind, ErrorKind::Invalid);
        let many = vec!["a".to_owned(); SCOPE_PATTERNS + 1];
        let error = normal(many).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Limit);
        assert_eq!(
            error.message,
            "the scope of a claim has 257 patterns; at most 256 may be"
        );
        assert!(normal(vec!["a".to_owned(); SCOPE_PATTERNS]).is_ok());
    }
}
