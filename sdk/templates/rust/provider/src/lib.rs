//! A provider: for each environment a folder of the hub, in which an agent component works.

use serde::Deserialize;
use waypost_sdk::{CallError, Health, Place, Provider, Result, Wanted, workspace};

struct Folders;

/// What a person or the operator may set; nothing yet, and what is given all the same is an error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Provider for Folders {
    /// Called again for the same environment, it answers the same place: the folder's name is the resource id.
    fn create(wanted: Wanted) -> Result<Place> {
        let Settings {} = wanted.settings()?;
        Ok(Place::component(workspace::create(&wanted.environment)?))
    }

    fn reconnect(environment: &str, resource_id: &str) -> Result<Place> {
        if health(workspace::exists(resource_id)?) == Health::Gone {
            return Err(CallError::not_found(format!("the folder of environment {environment} is gone")));
        }
        Ok(Place::component(resource_id))
    }

    fn inspect(resource_id: &str) -> Result<Health> {
        Ok(health(workspace::exists(resource_id)?))
    }

    fn teardown(resource_id: &str) -> Result<()> {
        workspace::remove(resource_id)
    }
}

fn health(exists: bool) -> Health {
    if exists { Health::Ready } else { Health::Gone }
}

waypost_sdk::provider!(Folders);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_is_ready() {
        assert_eq!((health(true), health(false)), (Health::Ready, Health::Gone));
    }
}
