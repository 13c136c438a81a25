//! Models that somebody brings: what the built-in `inference` knows of those who serve them.
//!
//! Two traits, so that a handler reaches a model without knowing what carries the request. Not here: who may bring a
//! model, and how long it stays.

use futures::stream::BoxStream;

use super::{Call, CallError, Json, Target};
use crate::error::Result;

/// The models that somebody brings.
pub trait Models: Send + Sync {
    /// The model of a project that goes by this name: `<provider id>/<model id>`, or a model id that one alone brings.
    /// None when nobody does; an error when it is not clear which is meant.
    fn find(&self, project: &str, name: &str) -> Result<Option<Box<dyn Model>>, CallError>;

    /// The full names of all models of a project, in order.
    fn names(&self, project: &str) -> Vec<String>;
}

/// One model that somebody brings.
pub trait Model: Send + Sync {
    /// Its id, as the one that serves it knows it.
    fn id(&self) -> &str;

    /// Who serves it.
    fn by(&self) -> &Target;

    /// Asks it once, for the call. `options` is the body of an OpenAI-style request; with `streams`, the answer may come
    /// in parts. The stream ends with the reply or with an error; dropping it gives the request up.
    fn ask<'a>(&'a self, call: &'a Call, options: Json, streams: bool) -> BoxStream<'a, Result<Piece, CallError>>;
}

/// A piece of a model's answer, as the one that serves it wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// A part, shaped as an OpenAI-style `chat.completion.chunk`.
    Part(Json),
    /// The reply that ends it, shaped as an OpenAI-style `chat.completion`.
    Reply(Json),
}
