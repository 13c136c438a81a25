//! Installed plugins over the API: everybody who may read sees them, whoever may do everything changes them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answered, Asker, Id, needs, read, value};
use crate::call::CallError;
use crate::error::{ErrorKind, Result};
use crate::hub::Hub;
use crate::plugin::Installed;
use crate::plugin::installed::{Outcome, Plan, Shown, Wanted};
use crate::plugin::signature::SIGNATURE_BYTES;
use crate::plugin::terms::Term;
use crate::tokens::Scope;

/// What stands before a component in a body: names, paths and grants, and the signature.
const HEAD_BYTES: usize = SIGNATURE_BYTES * 2 + (64 << 10);

/// The routes, below a project.
pub(super) fn routes(hub: &Hub) -> Router<Arc<Hub>> {
    let most = hub.config.limits.plugin.component.saturating_add(HEAD_BYTES);
    let changes = Router::new()
        .route("/installed", post(add).layer(DefaultBodyLimit::max(most)))
        .route("/installed/{id}", delete(remove))
        .route("/installed/{id}/grant", post(grant))
        .route("/installed/{id}/revoke", post(revoke))
        .route("/installed/{id}/narrow", post(narrow))
        .route("/installed/{id}/rollback", post(roll_back))
        .route_layer(from_fn(for_admins));
    Router::new()
        .route("/installed", get(list))
        .route("/verified", get(verify))
        .merge(changes)
}

async fn for_admins(Extension(token): Asker, request: Request, next: Next) -> Response {
    match needs(&token, &Scope::Admin) {
        Ok(()) => next.run(request).await,
        Err(failed) => failed.into_response(),
    }
}

async fn list(State(hub): State<Arc<Hub>>) -> Answered {
    value(hub.with_installed(Installed::list).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    id: Option<String>,
}

async fn verify(State(hub): State<Arc<Hub>>, Query(Which { id }): Query<Which>) -> Answered {
    let found = hub.with_installed(move |installed| installed.verify(id.as_deref()));
    value(found.await?)
}

/// A body is one line of JSON, a [`Wanted`], and behind it the component.
async fn add(State(hub): State<Arc<Hub>>, Extension(who): Asker, body: Bytes) -> Answered {
    let Some(end) = body
        .iter()
        .position(|byte| *byte == b'\n')
        .filter(|end| *end <= HEAD_BYTES)
    else {
        let message = "the body does not fit: a line of JSON comes first, and then the component";
        return Err(CallError::new(ErrorKind::Invalid, message).into());
    };
    let wanted: Wanted = read(&body.slice(..end))?;
    let component: Arc<[u8]> = body.slice(end + 1..).as_ref().into();
    let told = |plan: &Plan| {
        let kind = match plan.outcome {
            Outcome::Looked => return None,
            Outcome::Installed => "plugin.installed",
            Outcome::Held => "plugin.held",
        };
        let granted: Vec<&str> = plan
            .asks
            .iter()
            .filter(|asked| asked.granted)
            .map(|asked| asked.grant.as_str())
            .collect();
        let body = json!({
            "plugin": plan.id, "version": plan.version, "digest": plan.digest, "source": plan.source, "signer": plan.signer,
            "granted": granted, "by": format!("person:{}", who.name),
        });
        Some((kind, body))
    };
    value(
        hub.change_installed(move |installed| installed.add(wanted, component), told)
            .await?,
    )
}

async fn remove(State(hub): State<Arc<Hub>>, Extension(who): Asker, Path(Id { id }): Path<Id>) -> Answered {
    let told = |shown: &Shown| Some(("plugin.removed", changed(shown, &who.name, &[])));
    value(
        hub.change_installed(move |installed| installed.remove(&id), told)
            .await?,
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    grants: Vec<String>,
}

/// Each grant, as a person wrote it.
fn parsed(grants: &[String]) -> Result<Vec<Term>> {
    let terms: Vec<Vec<Term>> = grants.iter().map(|text| Term::parse(text)).collect::<Result<_>>()?;
    Ok(terms.concat())
}

async fn grant(State(hub): State<Arc<Hub>>, Extension(who): Asker, Path(Id { id }): Path<Id>, body: Bytes) -> Answered {
    let terms = read::<Terms>(&body)?;
    let parsed = parsed(&terms.grants)?;
    let told = |shown: &Shown| Some(("plugin.granted", changed(shown, &who.name, &terms.grants)));
    value(
        hub.change_installed(move |installed| installed.grant(&id, &parsed), told)
            .await?,
    )
}

async fn revoke(
    State(hub): State<Arc<Hub>>,
    Extension(who): Asker,
    Path(Id { id }): Path<Id>,
    body: Bytes,
) -> Answered {
    let terms = read::<Terms>(&body)?;
    let parsed = parsed(&terms.grants)?;
    let told = |shown: &Shown| Some(("plugin.revoked", changed(shown, &who.name, &terms.grants)));
    value(
        hub.change_installed(move |installed| installed.revoke(&id, &parsed), told)
            .await?,
    )
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Narrower {
    revoke: Vec<String>,
    grant: Vec<String>,
}

async fn narrow(
    State(hub): State<Arc<Hub>>,
    Extension(who): Asker,
    Path(Id { id }): Path<Id>,
    body: Bytes,
) -> Answered {
    let Narrower { revoke, grant } = read(&body)?;
    let (taken, given) = (parsed(&revoke)?, parsed(&grant)?);
    let told = |shown: &Shown| {
        let mut body = changed(shown, &who.name, &grant);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("revoked".to_owned(), json!(revoke));
        }
        Some(("plugin.narrowed", body))
    };
    value(
        hub.change_installed(move |installed| installed.narrow(&id, &taken, &given), told)
            .await?,
    )
}

async fn roll_back(State(hub): State<Arc<Hub>>, Extension(who): Asker, Path(Id { id }): Path<Id>) -> Answered {
    let told = |shown: &Shown| Some(("plugin.rolled-back", changed(shown, &who.name, &[])));
    value(
        hub.change_installed(move |installed| installed.roll_back(&id), told)
            .await?,
    )
}

fn changed(shown: &Shown, who: &str, grants: &[String]) -> Value {
    let current = &shown.entry.current;
    json!({
        "plugin": shown.entry.id, "version": current.version, "digest": current.digest, "grants": grants,
        "refused": shown.refused, "by": format!("person:{who}"),
    })
}
