use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::handler::exports::waypost::plugin::handler::Incoming;
use crate::bindings::imports::waypost::call::types::Reply;
use crate::bindings::imports::waypost::gateway::answer;
use crate::{CallError, Meta, Result};

/// The facts of the call that a handler works on. Its message comes beside it, already typed.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Unique for ever, and the same when the hub repeats the call: an idempotency key.
    pub id: String,
    /// What is asked for.
    pub kind: String,
    /// The action of the kind; none for kinds without actions.
    pub action: Option<String>,
    /// The project on whose behalf the call is made. The hub says so; no message can forge it.
    pub project: String,
    /// The run that it belongs to; none for a call made by hand.
    pub run: Option<String>,
    /// The environment it acts in; none for the project itself.
    pub environment: Option<String>,
    /// How much time was left when the call came in.
    pub time_left: Duration,
    /// Facts beside the message.
    pub meta: Meta,
}

impl Call {
    /// The kind and the action, written `kind:action` or `kind`.
    pub fn name(&self) -> String {
        match &self.action {
            Some(action) => format!("{}:{action}", self.kind),
            None => self.kind.clone(),
        }
    }

    /// Hands one piece of the answer to whoever asked, in order, waiting for room. The reply is still returned at the end.
    ///
    /// Fails with `cancelled` when nobody reads any more: return then.
    pub fn emit(&self, chunk: &(impl Serialize + ?Sized)) -> Result<()> {
        answer::emit(&serde_json::to_string(chunk)?)
    }

    fn matches(&self, pattern: &str) -> bool {
        match pattern.split_once(':') {
            None => pattern == "*" || pattern == self.kind,
            Some((kind, action)) => {
                kind == self.kind && (action == "*" || action == self.action.as_deref().unwrap_or(""))
            }
        }
    }
}

/// A handler's function with its types put away, as the macro stores it.
pub(crate) type Function = fn(&Call, &str) -> Result<String>;

/// Reads the message, asks the function, writes the reply.
pub fn typed<In: DeserializeOwned, Out: Serialize>(
    function: impl FnOnce(&Call, In) -> Result<Out>,
    call: &Call,
    message: &str,
) -> Result<String> {
    let message = serde_json::from_str(message)
        .map_err(|error| CallError::invalid(format!("the message of {} does not fit: {error}", call.name())))?;
    serde_json::to_string(&function(call, message)?).map_err(|error| {
        CallError::other(format!(
            "the reply of {} cannot be written as JSON: {error}",
            call.name()
        ))
    })
}

/// Gives an incoming call to the first function whose pattern covers it.
pub fn answer(incoming: Incoming, table: &[(&str, Function)]) -> Result<Reply> {
    let call = Call {
        id: incoming.id,
        kind: incoming.kind,
        action: incoming.action,
        project: incoming.project,
        run: incoming.run,
        environment: incoming.environment,
        time_left: Duration::from_millis(incoming.time_left_ms),
        meta: incoming.meta,
    };
    let Some((_, function)) = table.iter().find(|(pattern, _)| call.matches(pattern)) else {
        let served: Vec<&str> = table.iter().map(|(pattern, _)| *pattern).collect();
        let text = format!(
            "this plugin does not serve {}, only {}; fix the route",
            call.name(),
            served.join(", ")
        );
        return Err(CallError::not_found(text));
    };
    Ok(Reply {
        message: function(&call, &incoming.message)?,
        meta: Meta::new(),
    })
}

/// Makes a component that executes calls, from one function or from one for each pattern.
///
/// A function takes the call and its message, read by serde, and answers anything that serde can write:
/// `fn(&Call, In) -> Result<Out, CallError>`. A message that does not fit is `invalid`, with serde's words, and never
/// reaches the function.
///
/// The second form takes patterns as a manifest's `serves` has them (`kind`, `kind:*`, `kind:action`); the first one
/// that covers the call decides, and a call that none covers is `not-found`.
///
/// ```
/// # use serde_json::Value;
/// # use waypost_sdk::{Call, Result};
/// fn read(call: &Call, message: Value) -> Result<Value> {
/// #   Ok(message)
/// # }
/// fn rest(call: &Call, message: Value) -> Result<Value> {
/// #   Ok(message)
/// # }
/// waypost_sdk::handler! { "fsEvent:readFile" => read, "fsEvent:*" => rest }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! handler {
    ($function:path) => { $crate::handler! { "*" => $function } };
    ($($pattern:literal => $function:path),+ $(,)?) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::handler::exports::waypost::plugin::handler::Guest for Component {
                fn handle(
                    incoming: $crate::bindings::handler::exports::waypost::plugin::handler::Incoming,
                ) -> $crate::Result<$crate::bindings::imports::waypost::call::types::Reply> {
                    $crate::role::answer(
                        incoming,
                        &[$(($pattern, |call, message| $crate::role::typed($function, call, message))),+],
                    )
                }
            }

            $crate::__export!(handler, export_handler, Component);
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(name: &str, message: &str) -> Incoming {
        let (kind, action) = name
            .split_once(':')
            .map_or((name, None), |(kind, action)| (kind, Some(action)));
        Incoming {
            id: "1".to_owned(),
            kind: kind.to_owned(),
            action: action.map(str::to_owned),
            message: message.to_owned(),
            project: "default".to_owned(),
            run: None,
            environment: None,
            time_left_ms: 1500,
            meta: Meta::new(),
        }
    }

    fn double(call: &Call, number: u32) -> Result<u32> {
        assert_eq!(call.time_left, Duration::from_millis(1500));
        number.checked_mul(2).ok_or_else(|| CallError::limit("too large"))
    }

    fn name(call: &Call, _: serde_json::Value) -> Result<String> {
        Ok(call.name())
    }

    const TABLE: &[(&str, Function)] = &[
        ("math:double", |call, message| typed(double, call, message)),
        ("math", |call, message| typed(name, call, message)),
    ];

    #[test]
    fn the_first_pattern_that_covers_a_call_decides() {
        assert_eq!(answer(incoming("math:double", "21"), TABLE).unwrap().message, "42");
        assert_eq!(
            answer(incoming("math:halve", "{}"), TABLE).unwrap().message,
            "\"math:halve\""
        );
        assert_eq!(answer(incoming("math", "null"), TABLE).unwrap().message, "\"math\"");
    }

    #[test]
    fn a_call_that_is_not_served_is_named_with_what_is() {
        let error = answer(incoming("inference", "{}"), TABLE).unwrap_err();
        let text = "this plugin does not serve inference, only math:double, math; fix the route";
        assert_eq!(error, CallError::not_found(text));
    }

    #[test]
    fn a_message_that_does_not_fit_is_invalid_in_the_words_of_serde() {
        let error = answer(incoming("math:double", "\"x\""), TABLE).unwrap_err();
        let text =
            "the message of math:double does not fit: invalid type: string \"x\", expected u32 at line 1 column 3";
        assert_eq!(error, CallError::invalid(text));
        assert!(matches!(
            answer(incoming("math:double", "{"), TABLE),
            Err(CallError::Invalid(_))
        ));
    }

    #[test]
    fn an_error_of_the_function_is_the_end_of_the_call() {
        assert_eq!(
            answer(incoming("math:double", "4000000000"), TABLE).unwrap_err(),
            CallError::limit("too large")
        );
    }

    #[test]
    fn patterns_mean_what_they_mean_in_a_manifest() {
        let call = Call {
            kind: "fsEvent".to_owned(),
            action: Some("readFile".to_owned()),
            ..Call::default()
        };
        for (pattern, covered) in [
            ("*", true),
            ("fsEvent", true),
            ("fsEvent:*", true),
            ("fsEvent:readFile", true),
            ("fsEvent:read", false),
            ("fs", false),
            ("inference:*", false),
        ] {
            assert_eq!(call.matches(pattern), covered, "{pattern}");
        }
    }
}
