//! The token of the API: made at each start, shown once, known here by its digest alone.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::gate::TokenDigest;
use crate::engine::cache::hex;
use crate::error::{Error, ErrorKind, Result};

/// A token that nobody can guess: 256 random bits.
pub fn fresh() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Internal, "the system gives no random numbers").because(error))?;
    Ok(hex(&bytes))
}

/// Turns requests away that do not bring the token in their `Authorization` header.
pub async fn bearer(State(token): State<TokenDigest>, request: Request, next: Next) -> Response {
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    if presented.is_some_and(|presented| token.admits(presented)) {
        return next.run(request).await;
    }
    let text = "the API wants the token that `waypost serve` printed, as `Authorization: Bearer <token>`\n";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
}
