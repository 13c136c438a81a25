//! What can go wrong, in one shape.
//!
//! [`Error`] is for the people who run and read Waypost: what kind of failure, who has to act, the message, and the
//! cause. It never crosses a wire: a caller gets a [`crate::call::CallError`], which holds no cause.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure this is; the only part that code branches on. The same set stands in `wit/call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// A grant, a rule, a protected path or a person said no.
    Denied,
    /// The input has the wrong shape or value.
    Invalid,
    /// A named limit was reached.
    Limit,
    /// The time limit passed, and the work is known to have stopped.
    Timeout,
    /// The caller gave up, and the work is known to have stopped.
    Cancelled,
    /// A plugin's code trapped.
    Trapped,
    /// The target cannot be reached now; nothing was done.
    Unavailable,
    /// The work may or may not have had its effect.
    Indeterminate,
    /// A defect of the hub.
    Internal,
    /// Anything else; the message says what.
    Other,
}

impl ErrorKind {
    /// The word used on the command line, in logs and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Limit => "limit",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Trapped => "trapped",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who has to act on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The one who asked.
    Caller,
    /// The author of a plugin.
    Plugin,
    /// A connected process or a remote service.
    Upstream,
    /// The operator: configuration, rules, grants.
    Operator,
    /// The hub itself.
    Hub,
}

/// A failure with its kind, who has to act, the message for people, and the cause.
///
/// `Display` prints the message alone; [`Error::chain`] prints the causes, once, at the edge.
#[derive(Debug)]
pub struct Error {
    /// What code branches on.
    pub kind: ErrorKind,
    /// Who has to act.
    pub blame: Blame,
    /// Names the thing and the remedy.
    pub message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of every host operation that is not a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`, blamed on the party that usually causes it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let blame = match kind {
            ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Cancelled => Blame::Caller,
            ErrorKind::Denied | ErrorKind::Limit => Blame::Operator,
            ErrorKind::Trapped => Blame::Plugin,
            ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Indeterminate => Blame::Upstream,
            ErrorKind::Internal | ErrorKind::Other => Blame::Hub,
        };
        Self {
            kind,
            blame,
            message: message.into(),
            source: None,
        }
    }

    /// The same error, blamed on someone else.
    #[must_use]
    pub fn blame(mut self, blame: Blame) -> Self {
        self.blame = blame;
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The message and every cause, joined by `: `, for the edge where a person reads it.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(self);
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Some libraries repeat their source in their own text.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_never_repeats_its_source() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Internal, "the log cannot be opened")
            .because(Error::new(ErrorKind::Other, "cannot read header").because(io));
        assert_eq!(error.to_string(), "the log cannot be opened");
        assert_eq!(
            error.chain(),
            "the log cannot be opened: cannot read header: disk on fire"
        );
    }
}
