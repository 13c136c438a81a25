//! How many inference calls and tokens a run may use. The hub enforces both too; this ends the run with its own words.

use waypost_sdk::{CallError, Result};

/// What a run has used of what it may use.
pub(crate) struct Budget {
    steps: u32,
    max_steps: u32,
    tokens: u64,
    max_tokens: u64,
}

impl Budget {
    /// Nothing used yet.
    pub(crate) fn new(max_steps: u32, max_tokens: u64) -> Self {
        Self {
            steps: 0,
            max_steps,
            tokens: 0,
            max_tokens,
        }
    }

    /// Takes one step, or says which budget is used up.
    pub(crate) fn step(&mut self) -> Result<()> {
        let (what, used, key) = if self.steps >= self.max_steps {
            ("inference calls", u64::from(self.max_steps), "steps")
        } else if self.tokens >= self.max_tokens {
            ("tokens", self.tokens, "tokens")
        } else {
            self.steps += 1;
            return Ok(());
        };
        let remedy = format!("raise `{key}` under `[agent]` in waypost.toml, or give it a smaller task");
        Err(CallError::limit(format!(
            "the agent is not done and has used its budget of {what} ({used} used): {remedy}"
        )))
    }

    /// The number of the current step, from 1.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }

    /// Counts the tokens of one exchange.
    pub(crate) fn used(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }
}

/// The tokens of an exchange whose endpoint did not count them: one for each 4 bytes sent and received.
pub(crate) fn estimate(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
}
