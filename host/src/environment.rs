//! Environments: the durable record of each place where loops run, its states, and the provider's operations on it.
//!
//! A provider's operations are calls too: they are logged and bounded, but no rule decides about them. They are made one at
//! a time for one environment. Not here: how a loop is driven (`runtimes`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::call::{Call, CallName, Json, Principal, PrincipalKind, Rights, Scope};
use crate::dispatch::Dispatcher;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::log::{self, Append, EventLog, HUB, NewEvent, Noun, Record, RecordQuery};
use crate::plugin::execute::{Health, Place, Runtime, Wanted};
use crate::workspace::bundle::{Change, MergeReport};

pub mod folders;

use folders::Folders;

/// Time for one operation of a provider.
const OPERATION: Duration = Duration::from_secs(300);

/// Where an environment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The provider is making it.
    Creating,
    /// Loops can run in it.
    Ready,
    /// It is there, but out of reach.
    Disconnected,
    /// The provider is removing it.
    Removing,
    /// It is gone; the record stays.
    Removed,
    /// The provider could not make it, or it was lost.
    Failed,
}

impl State {
    /// The word in records and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Disconnected => "disconnected",
            Self::Removing => "removing",
            Self::Removed => "removed",
            Self::Failed => "failed",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Creating => "environment.creating",
            Self::Ready => "environment.ready",
            Self::Disconnected => "environment.disconnected",
            Self::Removing => "environment.removing",
            Self::Removed => "environment.removed",
            Self::Failed => "environment.failed",
        }
    }

    /// Whether an environment in this state may come into the next one.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Creating => matches!(next, Self::Ready | Self::Failed | Self::Removing),
            Self::Ready => matches!(next, Self::Disconnected | Self::Removing | Self::Failed),
            Self::Disconnected => matches!(next, Self::Ready | Self::Removing | Self::Failed),
            Self::Failed => matches!(next, Self::Removing),
            Self::Removing => matches!(next, Self::Removed | Self::Failed),
            Self::Removed => false,
        }
    }
}

/// The record of one environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// Unique for ever.
    pub id: Arc<str>,
    /// Who owns it.
    pub project: Arc<str>,
    /// The provider that made it.
    pub provider: Arc<str>,
    /// Where it is in its life.
    pub state: State,
    /// How the provider finds it again.
    pub resource_id: Option<String>,
    /// How its loop is reached.
    pub runtime: Option<Runtime>,
    /// For rules.
    pub labels: BTreeMap<String, String>,
    /// The provider's settings.
    pub settings: Json,
    /// Why it failed.
    pub error: Option<String>,
}

/// What a new environment shall be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct NewEnvironment {
    /// The provider; the configured one when none is named.
    pub provider: Option<String>,
    /// For rules.
    pub labels: BTreeMap<String, String>,
    /// The provider's settings.
    pub settings: Option<Json>,
}

/// The environments of this hub.
pub struct Environments {
    log: Arc<dyn EventLog>,
    dispatcher: Arc<Dispatcher>,
    folders: Arc<Folders>,
    /// The project itself, where provider operations act.
    project: Arc<Scope>,
    default_provider: Arc<str>,
    /// One operation at a time for each environment.
    busy: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
}

impl Environments {
    /// The environments that the log has records of.
    pub fn new(
        log: Arc<dyn EventLog>,
        dispatcher: Arc<Dispatcher>,
        folders: Arc<Folders>,
        project: Arc<Scope>,
        default_provider: &str,
    ) -> Self {
        let default_provider = default_provider.into();
        Self {
            log,
            dispatcher,
            folders,
            project,
            default_provider,
            busy: Mutex::default(),
        }
    }

    /// Makes an environment and waits until it is ready.
    pub async fn create(&self, project: &Arc<str>, new: NewEnvironment) -> Result<Environment> {
        let declared = self.declare(project, new).await?;
        self.make(declared).await
    }

    /// Writes the record of an environment that `ready` will make: whatever happens meanwhile, it is not forgotten.
    pub async fn declare(&self, project: &Arc<str>, new: NewEnvironment) -> Result<Environment> {
        let environment = Environment {
            id: format!("env-{}", short_id()).into(),
            project: Arc::clone(project),
            provider: new
                .provider
                .map_or_else(|| Arc::clone(&self.default_provider), Into::into),
            state: State::Creating,
            resource_id: None,
            runtime: None,
            labels: new.labels,
            settings: new.settings.unwrap_or_else(|| Json::from(serde_json::json!({}))),
            error: None,
        };
        self.write(&environment).await?;
        Ok(environment)
    }

    async fn make(&self, mut environment: Environment) -> Result<Environment> {
        let _one = self.one_at_a_time(&environment.id).await;
        let wanted = Wanted {
            environment: environment.id.to_string(),
            settings: Some(environment.settings.clone()),
            ..Wanted::default()
        };
        match self.operation::<Place>(&environment, "create", &wanted).await {
            Ok(place) => self.at(environment, place).await,
            Err(error) => {
                environment.error = Some(error.message.clone());
                self.become_(environment, State::Failed).await?;
                Err(error)
            }
        }
    }

    async fn at(&self, mut environment: Environment, place: Place) -> Result<Environment> {
        environment.resource_id = Some(place.resource_id);
        environment.runtime = Some(place.runtime);
        environment.error = None;
        self.become_(environment, State::Ready).await
    }

    /// An environment that loops can run in: as it is, or made or found again after a restart.
    pub async fn ready(&self, id: &str) -> Result<Environment> {
        let environment = self.get(id).await?;
        match environment.state {
            State::Creating => self.make(environment).await,
            State::Ready | State::Disconnected => self.reconnect(environment).await,
            state => {
                let why = environment.error.map(|error| format!(": {error}")).unwrap_or_default();
                let message = format!("environment `{id}` is {}{why}; make a new one", state.as_str());
                Err(Error::new(ErrorKind::Unavailable, message).blame(Blame::Caller))
            }
        }
    }

    async fn reconnect(&self, environment: Environment) -> Result<Environment> {
        let _one = self.one_at_a_time(&environment.id).await;
        let wanted = Wanted {
            environment: environment.id.to_string(),
            resource_id: environment.resource_id.clone().unwrap_or_default(),
            settings: None,
        };
        match self.operation::<Place>(&environment, "reconnect", &wanted).await {
            Ok(place) if environment.state == State::Ready => {
                // Nothing changed, unless the place moved.
                let moved = environment.runtime.as_ref() != Some(&place.runtime);
                let found = Environment {
                    resource_id: Some(place.resource_id),
                    runtime: Some(place.runtime),
                    ..environment
                };
                if moved {
                    self.write(&found).await?;
                }
                Ok(found)
            }
            Ok(place) => self.at(environment, place).await,
            Err(error) => {
                let lost = error.kind == ErrorKind::NotFound;
                let next = if lost { State::Failed } else { State::Disconnected };
                let environment = Environment {
                    error: Some(error.message.clone()),
                    ..environment
                };
                if environment.state.may_become(next) {
                    self.become_(environment, next).await?;
                }
                Err(error)
            }
        }
    }

    /// What the provider says about it now.
    pub async fn inspect(&self, id: &str) -> Result<Health> {
        let environment = self.get(id).await?;
        let resource_id = environment.resource_id.clone().unwrap_or_default();
        let wanted = Wanted {
            resource_id,
            ..Wanted::default()
        };
        self.operation(&environment, "inspect", &wanted).await
    }

    /// Removes it; the record stays.
    pub async fn remove(&self, id: &str) -> Result<Environment> {
        let environment = self.get(id).await?;
        if environment.state == State::Removed {
            return Ok(environment);
        }
        let _one = self.one_at_a_time(&environment.id).await;
        let environment = if environment.state == State::Removing {
            environment
        } else {
            self.become_(environment, State::Removing).await?
        };
        // One that never came to be has nothing to tear down.
        if let Some(resource_id) = environment.resource_id.clone() {
            let wanted = Wanted {
                resource_id,
                ..Wanted::default()
            };
            if let Err(error) = self.operation::<()>(&environment, "teardown", &wanted).await {
                let environment = Environment {
                    error: Some(error.message.clone()),
                    ..environment
                };
                self.become_(environment, State::Failed).await?;
                return Err(error);
            }
        }
        self.become_(environment, State::Removed).await
    }

    /// The record of one.
    pub async fn get(&self, id: &str) -> Result<Environment> {
        let record = self.log.record(Noun::Environment, id).await?;
        let record = record.ok_or_else(|| {
            let message = format!(
                "there is no environment `{}`; `waypost env ls` lists them",
                id.escape_debug()
            );
            Error::new(ErrorKind::NotFound, message)
        })?;
        read(&record.body)
    }

    /// Those of a project that are not removed, newest first; all of them when asked.
    pub async fn list(&self, project: &Arc<str>, all: bool) -> Result<Vec<Environment>> {
        let live = [
            State::Creating,
            State::Ready,
            State::Disconnected,
            State::Removing,
            State::Failed,
        ];
        let states = if all {
            Vec::new()
        } else {
            live.iter().map(|state| state.as_str().to_owned()).collect()
        };
        let query = RecordQuery {
            noun: Noun::Environment,
            project: Some(Arc::clone(project)),
            states,
            limit: 1000,
        };
        self.log
            .records(query)
            .await?
            .iter()
            .map(|record| read(&record.body))
            .collect()
    }

    /// What changed in it since it was made.
    pub async fn diff(&self, id: &str) -> Result<Vec<Change>> {
        self.folders.diff(folder(&self.get(id).await?)?).await
    }

    /// Brings what changed back into the project.
    pub async fn merge(&self, id: &str, partial: bool) -> Result<MergeReport> {
        let environment = self.get(id).await?;
        let _one = self.one_at_a_time(&environment.id).await;
        let report = self.folders.merge(folder(&environment)?, partial).await?;
        let body = serde_json::json!({ "environment": environment.id, "report": report });
        log::write(&*self.log, Append::one(HUB, NewEvent::of("environment.merged", body))).await?;
        Ok(report)
    }

    /// Where calls of a loop in it act.
    pub fn scope(&self, environment: &Environment) -> Result<Arc<Scope>> {
        Ok(Arc::new(Scope {
            environment: Some(Arc::clone(&environment.id)),
            labels: environment.labels.clone(),
            workspace: self.folders.workspace(folder(environment)?)?,
        }))
    }

    async fn operation<T: DeserializeOwned>(
        &self,
        environment: &Environment,
        action: &str,
        wanted: &Wanted,
    ) -> Result<T> {
        let principal = Principal {
            project: Arc::clone(&environment.project),
            run: None,
            kind: PrincipalKind::Hub,
            id: "environments".into(),
            rights: Rights::all(),
        };
        let message = Json::of(wanted).map_err(|error| Error::new(error.kind, error.message))?;
        let name = CallName::new("provider", Some(action));
        let call = Call::new(name, message, Arc::new(principal), Arc::clone(&self.project), OPERATION);
        let reply = self.dispatcher.operate(call, &environment.provider, None).await;
        let failed = |error: crate::call::CallError| {
            let message = format!(
                "provider `{}` could not {action} environment `{}`: {}",
                environment.provider, environment.id, error.message
            );
            Error::new(error.kind, message).blame(error.blame)
        };
        reply.result.map_err(failed)?.to().map_err(failed)
    }

    async fn become_(&self, mut environment: Environment, next: State) -> Result<Environment> {
        if !environment.state.may_become(next) {
            let (id, now) = (&environment.id, environment.state.as_str());
            let message = format!("environment `{id}` is {now} and cannot become {}", next.as_str());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        environment.state = next;
        self.write(&environment).await?;
        Ok(environment)
    }

    async fn write(&self, environment: &Environment) -> Result<()> {
        let body = Json::of(environment).map_err(|error| Error::new(error.kind, error.message))?;
        let record = Record {
            noun: Noun::Environment,
            id: Arc::clone(&environment.id),
            project: Arc::clone(&environment.project),
            state: environment.state.as_str().to_owned(),
            body,
        };
        let event = NewEvent::recorded(environment.state.event(), record);
        log::write(&*self.log, Append::one(HUB, event)).await.map(drop)
    }

    async fn one_at_a_time(&self, id: &Arc<str>) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever holds or waits for a lock has a clone of it.
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(Arc::clone(id)).or_default())
        };
        lock.lock_owned().await
    }
}

fn folder(environment: &Environment) -> Result<&str> {
    match &environment.runtime {
        Some(Runtime::Component { folder }) => Ok(folder),
        None => {
            let message = format!(
                "environment `{}` has no folder: it is {}",
                environment.id,
                environment.state.as_str()
            );
            Err(Error::new(ErrorKind::Unavailable, message))
        }
    }
}

fn read(body: &Json) -> Result<Environment> {
    body.to().map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("a record of an environment cannot be read: {}", error.message),
        )
    })
}

/// Twelve characters that no one else has, in the order of time.
pub(crate) fn short_id() -> String {
    let id = Uuid::now_v7().simple().to_string();
    // The last digits are random, the first ones are the time.
    let (time, random) = (id.get(3..12).unwrap_or_default(), id.get(26..).unwrap_or_default());
    format!("{time}{random}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 6] = [
        State::Creating,
        State::Ready,
        State::Disconnected,
        State::Removing,
        State::Removed,
        State::Failed,
    ];

    #[test]
    fn every_state_can_still_be_removed_and_removed_is_the_end() {
        for state in ALL {
            let mut reached = vec![state];
            while let Some(next) = ALL
                .iter()
                .find(|next| !reached.contains(next) && reached.iter().any(|state| state.may_become(**next)))
            {
                reached.push(*next);
            }
            assert!(reached.contains(&State::Removed), "{state:?} cannot be removed");
            assert!(!State::Removed.may_become(state));
        }
    }
}
