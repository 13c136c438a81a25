//! The token of a request to the API: who asks, and whether he may stay while the answer comes.
//!
//! Not here: what the token is good for, which the API asks where it needs it ([`super::api`]).

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};

use super::{arrivals, gate};
use crate::tokens::{Token, Tokens};

/// What everyone is told whose token is not one, is expired or was revoked.
const WANTED: &str = "the API wants a token that holds, as `Authorization: Bearer <token>`: the one that `waypost serve` \
                      printed, or one of `waypost token create`\n";

/// Turns requests away that do not bring a token in their `Authorization` header; the others carry it on as an extension.
pub async fn bearer(State(tokens): State<Arc<Tokens>>, mut request: Request, next: Next) -> Response {
    let presented = gate::presented(request.headers(), None);
    let Some(token) = presented.and_then(|presented| tokens.check(presented).ok()) else {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], WANTED).into_response();
    };
    arrivals::admit(request.extensions());
    request.extensions_mut().insert(Arc::clone(&token));
    while_it_holds(token, next.run(request).await)
}

/// An answer that goes on for a while breaks off when its token no longer holds.
fn while_it_holds(token: Arc<Token>, response: Response) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let over = Box::pin(async move {
            let why = token.over().await;
            tracing::info!(token = %token.name, %why, "an answer was broken off");
        });
        let parts = stream::unfold(Some((body.into_data_stream(), over)), |open| async {
            let (mut parts, mut over) = open?;
            tokio::select! {
                biased;
                // An error, so that a reader does not take it for the end.
                () = &mut over => Some((Err(axum::Error::new("the token no longer holds")), None)),
                part = parts.next() => part.map(|part| (part, Some((parts, over)))),
            }
        });
        Body::from_stream(parts)
    })
}
