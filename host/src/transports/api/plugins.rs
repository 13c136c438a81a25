//! Plugins over the API: what is loaded, what it said, what its calls came to, and what of its grants it used.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json as Answer, Router};
use serde_json::json;

use super::{Answered, Id, value};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::hub::Hub;
use crate::plugin::Installed;
use crate::plugin::health::Stats;
use crate::plugin::learned::Learned;

/// The routes, below a project.
pub(super) fn routes() -> Router<Arc<Hub>> {
    Router::new()
        .route("/plugins", get(list))
        .route("/plugins/{id}", delete(unload))
        .route("/plugins/{id}/reload", post(reload))
        .route("/plugins/{id}/logs", get(logs))
        .route("/plugins/{id}/shadow", get(shadow))
        .route("/plugins/{id}/learned", get(learned))
        .route("/stats/plugins", get(stats))
}

async fn list(State(hub): State<Arc<Hub>>) -> Answered {
    let mut shown = Vec::new();
    let installed = hub.with_installed(Installed::list).await?;
    for plugin in hub.plugins.all() {
        let Answer(mut one) = value(hub.carriers.shown(&plugin).await)?;
        let entry = installed.iter().find(|entry| entry.entry.id == *plugin.facts.id);
        if let Some(fields) = one.as_object_mut() {
            fields.insert("leaving".to_owned(), hub.plugins.leaving(&plugin.facts.id).into());
            if let Some(held) = entry.and_then(|entry| entry.entry.held.as_ref()) {
                fields.insert("held".to_owned(), held.version.clone().into());
            }
        }
        shown.push(one);
    }
    for one in installed.into_iter().filter(|one| one.refused.is_some()) {
        let (entry, current) = (&one.entry, &one.entry.current);
        shown.push(json!({
            "id": entry.id, "version": current.version, "digest": current.digest.trim_start_matches("sha256:"),
            "origin": current.source, "wall": entry.wall, "signer": current.signer, "refused": one.refused,
        }));
    }
    value(shown)
}

async fn reload(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.reload_plugin(&id).await?)
}

async fn unload(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.unload_plugin(&id).await?)
}

async fn logs(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    hub.plugins.get(&id)?;
    value(hub.plugin_log.lines(&id))
}

async fn stats(State(hub): State<Arc<Hub>>) -> Answered {
    let counted: Vec<_> = hub.plugins.all().iter().map(|plugin| Stats::counted(plugin)).collect();
    value(counted)
}

/// What came of the copies that a plugin got as a shadow.
async fn shadow(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    let shadow = hub.dispatcher.shadow(&id).ok_or_else(|| {
        let id = id.escape_debug();
        let message = format!("plugin `{id}` is nobody's shadow; a rule of waypost.toml says shadow = \"plugin:{id}\"");
        CallError::new(ErrorKind::NotFound, message)
    })?;
    value(shadow)
}

/// What a plugin used of its grants since it was loaded, and what follows from that.
async fn learned(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    let plugin = hub.plugins.get(&id)?;
    value(Learned::of(&plugin))
}
