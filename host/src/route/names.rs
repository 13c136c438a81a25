//! How kinds are spelled: the wire's names, and the names that other documents use for the same kinds.
//!
//! Not a list of what exists: kinds are an open set, and one that is not here is taken as it is written.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

/// The wire's own spelling of the kinds that are also written otherwise, mostly in PascalCase.
const WIRE: &[&str] = &[
    "actionBlock",
    "actionPlanEvent",
    "agentEvent",
    "agentPortfolioEvent",
    "agentQueueEvent",
    "agentStateEvent",
    "backgroundAgentCompletion",
    "backgroundGroupedAgentCompletion",
    "browserEvent",
    "capability",
    "chatSummaryEvent",
    "codeEvent",
    "codebaseSearchEvent",
    "codebolttools",
    "codemapEvent",
    "confirmationRequest",
    "crawlerEvent",
    "debugEvent",
    "executeCommand",
    "executeCommandRunUntilError",
    "executeCommandRunUntilInterrupt",
    "executeCommandWithStream",
    "fsEvent",
    "getChatHistory",
    "gitEvent",
    "hookEvent",
    "inference",
    "jobEvent",
    "memoryEvent",
    "notificationEvent",
    "processFinished",
    "processStarted",
    "processStoped",
    "projectStateEvent",
    "projectStructureEvent",
    "remoteProviderEvent",
    "requirementPlanEvent",
    "roadmapEvent",
    "runProject",
    "sendInterruptToTerminal",
    "sendMessage",
    "settingEvent",
    "sideExecution",
    "swarmEvent",
    "taskEvent",
    "threadEvent",
    "todoEvent",
    "tokenizerEvent",
    "vectordbEvent",
    "waitforReply",
];

/// Names that differ from the wire's in more than case.
const OTHERWISE: &[(&str, &str)] = &[
    ("ProcessStopped", "processStoped"),
    ("projectEvent", "settingEvent"),
    ("stateEvent", "projectStateEvent"),
];

/// The wire's spelling of a kind, whatever its case; a kind that is not known stays as it is.
pub fn wire_kind(written: &str) -> &str {
    let otherwise = OTHERWISE.iter().find(|(name, _)| name.eq_ignore_ascii_case(written));
    let name = otherwise.map_or(written, |(_, wire)| *wire);
    WIRE.iter()
        .copied()
        .find(|wire| wire.eq_ignore_ascii_case(name))
        .unwrap_or(name)
}

/// A name that equals another in any case. As the key of a map it is looked up without a copy.
#[derive(Clone, Debug)]
pub(super) struct Spelling<'a>(Cow<'a, str>);

impl<'a> Spelling<'a> {
    /// A name to look up.
    pub(super) fn of(name: &'a str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A name to keep.
    pub(super) fn owned(name: &str) -> Spelling<'static> {
        Spelling(Cow::Owned(name.to_owned()))
    }
}

impl PartialEq for Spelling<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Spelling<'_> {}

impl Hash for Spelling<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_their_other_names() {
        for (written, wire) in [
            ("FSEvent", "fsEvent"),
            ("fsevent", "fsEvent"),
            ("Inference", "inference"),
            ("CodeBoltTools", "codebolttools"),
            ("WaitForReply", "waitforReply"),
            ("ProcessStopped", "processStoped"),
            ("ProcessStoped", "processStoped"),
            ("ProjectEvent", "settingEvent"),
            ("stateEvent", "projectStateEvent"),
            ("vectorDbEvent", "vectordbEvent"),
            ("gitEvent", "gitEvent"),
            ("acme.Tool", "acme.Tool"),
        ] {
            assert_eq!(wire_kind(written), wire);
        }
    }
}
