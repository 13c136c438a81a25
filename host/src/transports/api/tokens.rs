//! Tokens over the API: for whoever may do everything.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json as Answer, Router};
use serde::Deserialize;
use serde_json::Value;

use super::{Answered, Asker, Id, Page, needs, read, value};
use crate::error::Result;
use crate::hub::Hub;
use crate::tokens::{LIFETIME, NewToken, Scope, lifetime};

/// The routes, below a project.
pub(super) fn routes() -> Router<Arc<Hub>> {
    Router::new()
        .route("/tokens", get(list).post(create))
        .route("/tokens/{id}", delete(revoke))
        .route_layer(from_fn(for_admins))
}

async fn for_admins(Extension(token): Asker, request: Request, next: Next) -> Response {
    match needs(&token, &Scope::Admin) {
        Ok(()) => next.run(request).await,
        Err(failed) => failed.into_response(),
    }
}

async fn list(State(hub): State<Arc<Hub>>, Query(page): Query<Page>) -> Answered {
    let list: Vec<Value> = hub.tokens.list(page.all).iter().map(|token| token.shown()).collect();
    value(list)
}

/// A token as it is asked for; texts, so that what is wrong with them is told in whole sentences.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    scopes: Vec<String>,
    #[serde(default)]
    expires: Option<String>,
}

async fn create(
    State(hub): State<Arc<Hub>>,
    Extension(who): Asker,
    body: Bytes,
) -> Answered<(StatusCode, Answer<Value>)> {
    let wanted: Wanted = read(&body)?;
    let scopes: Result<Vec<Scope>> = wanted.scopes.iter().map(|scope| scope.parse()).collect();
    let new = NewToken {
        name: wanted.name,
        scopes: scopes?,
        expires: wanted.expires.as_deref().map_or(Ok(LIFETIME), lifetime)?,
    };
    let (text, token) = hub.tokens.create(new, &format!("person:{}", who.name)).await?;
    let mut shown = token.shown();
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("token".to_owned(), text.into());
    }
    Ok((StatusCode::CREATED, value(shown)?))
}

async fn revoke(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.tokens.revoke(&id).await?.shown())
}
