use serde::de::DeserializeOwned;

pub use crate::bindings::agent::exports::waypost::plugin::agent::{Outcome, Task, Turn};
use crate::provider::settings;
use crate::{Meta, Result};

impl Task {
    /// The agent's settings, typed. Fails with `invalid` in serde's words.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        settings("agent", &self.settings)
    }
}

impl Outcome {
    /// An answer for the person.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            meta: Meta::new(),
        }
    }
}

/// Makes a component that is an agent, from a function `fn(Task) -> Result<Outcome, CallError>`.
///
/// After a crash of the hub the function runs again from the start, and the calls that it already made are answered from
/// the log. Given the same replies it must make the same calls: iterate over `BTreeMap`s, not over `HashMap`s. The clock
/// and the random numbers of the standard library come from the run and are repeated too.
///
/// ```
/// use waypost_sdk::{Outcome, Result, Task, gateway};
///
/// fn run(task: Task) -> Result<Outcome> {
///     let messages = serde_json::json!([{ "role": "user", "content": task.prompt }]);
///     let reply: serde_json::Value = gateway::call("inference", &serde_json::json!({ "messages": messages }))?;
///     Ok(Outcome::new(reply["content"].as_str().unwrap_or_default()))
/// }
///
/// waypost_sdk::agent!(run);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! agent {
    ($run:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::agent::exports::waypost::plugin::agent::Guest for Component {
                fn run(task: $crate::Task) -> $crate::Result<$crate::Outcome> {
                    $run(task)
                }
            }

            $crate::__export!(agent, export_agent, Component);
        };
    };
}
