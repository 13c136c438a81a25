//! The bundled provider `sandbox`: an environment is a folder of the hub with a copy of the project, in which an agent
//! component works.
//!
//! It deliberately does nothing else. The hub copies, compares and merges; this says only that there is one folder for
//! each environment, and when it goes. The folder's name is the resource id, so there is nothing to remember.

use serde::Deserialize;
use waypost_sdk::{CallError, Health, Place, Provider, Result, Wanted, workspace};

struct Sandbox;

/// There is nothing to set; a setting that is given all the same is an error rather than ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Provider for Sandbox {
    fn create(wanted: Wanted) -> Result<Place> {
        let Settings {} = wanted.settings()?;
        Ok(Place::component(workspace::create(&wanted.environment)?))
    }

    fn reconnect(environment: &str, resource_id: &str) -> Result<Place> {
        if !workspace::exists(resource_id)? {
            let text = format!("the folder of environment {environment} is gone; start the run again in a new one");
            return Err(CallError::not_found(text));
        }
        Ok(Place::component(resource_id))
    }

    fn inspect(resource_id: &str) -> Result<Health> {
        Ok(if workspace::exists(resource_id)? {
            Health::Ready
        } else {
            Health::Gone
        })
    }

    fn teardown(resource_id: &str) -> Result<()> {
        workspace::remove(resource_id)
    }
}

waypost_sdk::provider!(Sandbox);
