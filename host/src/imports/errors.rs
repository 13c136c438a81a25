//! Errors on their way through the contract: every kind has its case there, and comes back as it was.

use super::wit;
use crate::call::CallError;
use crate::error::ErrorKind;

impl From<CallError> for wit::CallError {
    fn from(error: CallError) -> Self {
        let text = error.message;
        match error.kind {
            ErrorKind::NotFound => Self::NotFound(text),
            ErrorKind::Denied => Self::Denied(text),
            ErrorKind::Invalid => Self::Invalid(text),
            ErrorKind::Limit => Self::Limit(text),
            ErrorKind::Timeout => Self::Timeout(text),
            ErrorKind::Cancelled => Self::Cancelled(text),
            ErrorKind::Trapped => Self::Trapped(text),
            ErrorKind::Unavailable => Self::Unavailable(text),
            ErrorKind::Indeterminate => Self::Indeterminate(text),
            ErrorKind::Internal => Self::Internal(text),
            ErrorKind::Other => Self::Other(text),
        }
    }
}

impl From<wit::CallError> for CallError {
    fn from(error: wit::CallError) -> Self {
        let (kind, text) = match error {
            wit::CallError::NotFound(text) => (ErrorKind::NotFound, text),
            wit::CallError::Denied(text) => (ErrorKind::Denied, text),
            wit::CallError::Invalid(text) => (ErrorKind::Invalid, text),
            wit::CallError::Limit(text) => (ErrorKind::Limit, text),
            wit::CallError::Timeout(text) => (ErrorKind::Timeout, text),
            wit::CallError::Cancelled(text) => (ErrorKind::Cancelled, text),
            wit::CallError::Trapped(text) => (ErrorKind::Trapped, text),
            wit::CallError::Unavailable(text) => (ErrorKind::Unavailable, text),
            wit::CallError::Indeterminate(text) => (ErrorKind::Indeterminate, text),
            wit::CallError::Internal(text) => (ErrorKind::Internal, text),
            wit::CallError::Other(text) => (ErrorKind::Other, text),
        };
        Self::new(kind, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_kind_crosses_the_boundary_and_back() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Invalid,
            ErrorKind::Limit,
            ErrorKind::Timeout,
            ErrorKind::Cancelled,
            ErrorKind::Trapped,
            ErrorKind::Unavailable,
            ErrorKind::Indeterminate,
            ErrorKind::Internal,
            ErrorKind::Other,
        ] {
            let error = CallError::new(kind, "why");
            assert_eq!(CallError::from(wit::CallError::from(error.clone())), error);
        }
    }
}
