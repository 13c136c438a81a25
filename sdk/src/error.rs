use std::fmt;

/// How a call failed. Each case carries one sentence for people: the thing and the remedy.
///
/// Branch on the case, never on the text, and treat the set as open: [`CallError::Other`] may be split later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The named thing does not exist.
    NotFound(String),
    /// A grant, a rule, a protected path or a person said no.
    Denied(String),
    /// The input has the wrong shape or value.
    Invalid(String),
    /// A named limit was reached; the text names it.
    Limit(String),
    /// The time limit passed, and the work is known to have stopped.
    Timeout(String),
    /// The caller gave up, and the work is known to have stopped.
    Cancelled(String),
    /// A plugin's code trapped. The hub says this; a plugin need not.
    Trapped(String),
    /// The target cannot be reached now, and nothing was done. The hub then asks the route's next target.
    Unavailable(String),
    /// The work may or may not have had its effect, and must not be repeated without a look at the world.
    Indeterminate(String),
    /// A defect of the hub.
    Internal(String),
    /// Anything else.
    Other(String),
}

/// The result of whatever can fail as a call fails.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$docs:meta])* $name:ident => $case:ident,)+) => {
        $(
            $(#[$docs])*
            pub fn $name(text: impl Into<String>) -> Self {
                Self::$case(text.into())
            }
        )+
    };
}

impl CallError {
    constructors! {
        /// The named thing does not exist.
        not_found => NotFound,
        /// Something said no.
        denied => Denied,
        /// The input has the wrong shape or value.
        invalid => Invalid,
        /// A named limit was reached.
        limit => Limit,
        /// The time limit passed, and the work has stopped.
        timeout => Timeout,
        /// The caller gave up, and the work has stopped.
        cancelled => Cancelled,
        /// Nothing was done; another target may do it.
        unavailable => Unavailable,
        /// The work may or may not have had its effect.
        indeterminate => Indeterminate,
        /// Anything else.
        other => Other,
    }

    /// The word for the case, as it stands in logs and in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not-found",
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::Limit(_) => "limit",
            Self::Timeout(_) => "timeout",
            Self::Cancelled(_) => "cancelled",
            Self::Trapped(_) => "trapped",
            Self::Unavailable(_) => "unavailable",
            Self::Indeterminate(_) => "indeterminate",
            Self::Internal(_) => "internal",
            Self::Other(_) => "other",
        }
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        match self {
            Self::NotFound(text)
            | Self::Denied(text)
            | Self::Invalid(text)
            | Self::Limit(text)
            | Self::Timeout(text)
            | Self::Cancelled(text)
            | Self::Trapped(text)
            | Self::Unavailable(text)
            | Self::Indeterminate(text)
            | Self::Internal(text)
            | Self::Other(text) => text,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), self.message())
    }
}

impl std::error::Error for CallError {}

/// A value that does not fit is the fault of who wrote it: `invalid`, with what serde says of the place and the reason.
impl From<serde_json::Error> for CallError {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(format!("the JSON does not fit: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_case_and_its_sentence() {
        let error = CallError::not_found("there is no ticket 7");
        assert_eq!(error.to_string(), "not-found: there is no ticket 7");
        assert_eq!((error.kind(), error.message()), ("not-found", "there is no ticket 7"));
    }

    #[test]
    fn a_value_that_does_not_fit_is_invalid() {
        let error: CallError = serde_json::from_str::<u8>("300").unwrap_err().into();
        assert_eq!(error.kind(), "invalid");
        assert!(
            error
                .message()
                .starts_with("the JSON does not fit: invalid value: integer `300`, expected u8")
        );
    }
}
