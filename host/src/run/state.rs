//! The states of a run, and which may follow which.

use serde::{Deserialize, Serialize};

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// On disk; nothing has begun.
    Accepted,
    /// Its environment is being made ready.
    Starting,
    /// Its agent works.
    Running,
    /// Its agent waits for a person.
    Waiting,
    /// The agent was done.
    Completed,
    /// It ended with an error.
    Failed,
    /// A person ended it.
    Cancelled,
}

impl State {
    /// The states of runs that have not ended.
    pub const OPEN: [Self; 4] = [Self::Accepted, Self::Starting, Self::Running, Self::Waiting];

    /// The word in records and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(super) fn event(self) -> &'static str {
        match self {
            Self::Accepted => "run.accepted",
            Self::Starting => "run.starting",
            Self::Running => "run.running",
            Self::Waiting => "run.waiting",
            Self::Completed => "run.completed",
            Self::Failed => "run.failed",
            Self::Cancelled => "run.cancelled",
        }
    }

    /// Whether a run in this state has ended.
    pub fn ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether a run in this state may come into the next one. A run that is taken up again starts again.
    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Accepted => false,
            Self::Starting => !self.ended(),
            Self::Running => matches!(self, Self::Starting | Self::Waiting),
            Self::Waiting => self == Self::Running,
            Self::Completed => matches!(self, Self::Running | Self::Waiting),
            Self::Failed | Self::Cancelled => !self.ended(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 7] = [
        State::Accepted,
        State::Starting,
        State::Running,
        State::Waiting,
        State::Completed,
        State::Failed,
        State::Cancelled,
    ];

    #[test]
    fn an_end_is_an_end_and_every_open_run_can_fail_or_be_cancelled() {
        for state in ALL {
            let ways_on: Vec<State> = ALL.into_iter().filter(|next| state.may_become(*next)).collect();
            if state.ended() {
                assert!(ways_on.is_empty(), "{state:?} goes on to {ways_on:?}");
            } else {
                assert!(State::OPEN.contains(&state));
                assert!(ways_on.contains(&State::Failed) && ways_on.contains(&State::Cancelled));
                assert!(ways_on.contains(&State::Starting), "{state:?} cannot be taken up again");
            }
        }
    }
}
