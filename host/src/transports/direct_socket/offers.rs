//! The frames by which a connected process offers models and is asked for them: `llmProvider.*`.
//!
//! What an offer lists and what a chunk and a reply hold is shaped as OpenAI-compatible endpoints have it. Not here:
//! the frames around them (`frames`), and who may offer what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::frames;
use crate::call::{CallError, Json};
use crate::error::{Blame, ErrorKind};
use crate::gateway::{ModelRequest, Offer};

/// The longest manifest that is taken, in bytes.
pub(super) const MANIFEST: usize = 256 << 10;

/// The longest id and the longest name in a manifest, in bytes.
pub(super) const NAME: usize = 256;

/// Reads the manifest of an offer. What it says beside ids and names is for others.
pub(super) fn manifest(raw: &RawValue) -> Result<Offer, CallError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        provider_id: String,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        models: Option<Vec<Model>>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
        #[serde(default)]
        name: Option<String>,
    }
    let size = raw.get().len();
    if size > MANIFEST {
        let message = format!("the manifest has {size} bytes; at most {MANIFEST} are taken: list fewer models");
        return Err(CallError::new(ErrorKind::Limit, message).blame(Blame::Upstream));
    }
    let manifest: Manifest =
        serde_json::from_str(raw.get()).map_err(|error| wrong(format!("the manifest cannot be read: {error}")))?;
    let id = provider_id(&manifest.provider_id)?;
    let name = manifest
        .name
        .map_or_else(|| Ok(id.clone()), |name| named("name", name))?;
    let models = manifest.models.map(|models| {
        let models = models.into_iter().map(|model| {
            let name = model.name.map(|name| named("models[].name", name)).transpose()?;
            Ok((named("models[].id", model.id)?, name))
        });
        models.collect::<Result<BTreeMap<_, _>, CallError>>()
    });
    Ok(Offer {
        id,
        name,
        models: models.transpose()?,
    })
}

/// Reads the id of an offer as it counts.
pub(super) fn provider_id(written: &str) -> Result<String, CallError> {
    let id = named("providerId", Offer::normal_id(written))?;
    if id.contains('/') {
        let text = "`providerId` must not have a slash: calls name a model as <providerId>/<model id>";
        return Err(wrong(text.to_owned()));
    }
    Ok(id)
}

fn named(field: &str, text: String) -> Result<String, CallError> {
    if text.is_empty() || text.len() > NAME || text.chars().any(char::is_control) {
        return Err(wrong(format!(
            "`{field}` must be a text of 1 to {NAME} bytes without control characters"
        )));
    }
    Ok(text)
}

fn wrong(message: String) -> CallError {
    CallError::new(ErrorKind::Invalid, message).blame(Blame::Upstream)
}

/// Writes the request to a model. The hub has no key of the process, and gives it none.
pub(super) fn request(request: &ModelRequest, id: Uuid) -> Result<Json, CallError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Request<'a> {
        r#type: &'static str,
        request_id: Uuid,
        provider_id: &'a str,
        options: Map<String, Value>,
        provider_config: Map<String, Value>,
        timestamp: String,
    }
    let mut options: Map<String, Value> = request.options.to()?;
    // Both places are known; a process that looks into one of them finds an object there.
    options.insert("providerConfig".to_owned(), Map::new().into());
    let r#type = if request.streams {
        "llmProvider.streamRequest"
    } else {
        "llmProvider.completionRequest"
    };
    Json::of(&Request {
        r#type,
        request_id: id,
        provider_id: &request.provider,
        options,
        provider_config: Map::new(),
        timestamp: frames::now(std::time::SystemTime::now()),
    })
}

/// Writes the answer to an offer, or to one that is taken back. `id` is none when it could not be read.
pub(super) fn answer(
    registered: bool,
    request_id: Option<&Json>,
    id: Option<&str>,
    error: Option<&CallError>,
) -> Result<Json, CallError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        provider_id: &'a str,
        registered: bool,
    }
    let r#type = if registered {
        "llmProvider.registerResponse"
    } else {
        "llmProvider.unregisterResponse"
    };
    let registered = registered && error.is_none();
    let data = id.map(|provider_id| Data {
        provider_id,
        registered,
    });
    frames::told(r#type, request_id, data, error)
}

#[cfg(test)]
mod tests;
