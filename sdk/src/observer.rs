use serde::de::DeserializeOwned;

pub use crate::bindings::observer::exports::waypost::plugin::observer::Notification;
use crate::{CallError, Result};

impl Notification {
    /// The kind and the action, written `kind:action` or `kind`.
    pub fn name(&self) -> String {
        match &self.action {
            Some(action) => format!("{}:{action}", self.kind),
            None => self.kind.clone(),
        }
    }

    /// The message, typed.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T> {
        self.read("message", &self.message)
    }

    /// The reply, typed; the call's own error when it failed.
    pub fn reply<T: DeserializeOwned>(&self) -> Result<T> {
        self.read("reply", self.end.as_ref().map_err(Clone::clone)?)
    }

    fn read<T: DeserializeOwned>(&self, what: &str, text: &str) -> Result<T> {
        serde_json::from_str(text)
            .map_err(|error| CallError::invalid(format!("the {what} of {} does not fit: {error}", self.name())))
    }
}

/// Makes a component that is told of calls, from a function `fn(Notification) -> Result<(), CallError>`.
///
/// Its manifest says `role = "observer"` and `subscribes = true`, and the operator grants it with
/// `grant = { subscribe = true }`. It is then told, one by one, of every call of the project that the hub itself handled;
/// nobody waits for it, and [`Notification::lagged`] says how many it missed because it was slow. What it returns changes
/// nothing: an error is logged, once for each burst.
///
/// ```
/// use waypost_sdk::{Notification, Result, log, state};
///
/// fn count(notification: Notification) -> Result<()> {
///     let name = notification.name();
///     let seen: u64 = state::get(&name)?.unwrap_or(0) + 1 + notification.lagged;
///     log::debug(format!("{name}: {seen}"));
///     state::set(&name, &seen)
/// }
///
/// waypost_sdk::observer!(count);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! observer {
    ($notice:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::observer::exports::waypost::plugin::observer::Guest for Component {
                fn notice(notification: $crate::Notification) -> $crate::Result<()> {
                    $notice(notification)
                }
            }

            $crate::__export!(observer, export_observer, Component);
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read_typed() {
        let mut notification = Notification {
            id: "1".to_owned(),
            kind: "math".to_owned(),
            action: Some("double".to_owned()),
            message: "21".to_owned(),
            end: Ok("42".to_owned()),
            run: None,
            lagged: 0,
            meta: Vec::new(),
        };
        assert_eq!((notification.message(), notification.reply()), (Ok(21), Ok(42)));
        let text =
            "the reply of math:double does not fit: invalid type: integer `42`, expected a string at line 1 column 2";
        assert_eq!(notification.reply::<String>(), Err(CallError::invalid(text)));
        notification.end = Err(CallError::timeout("too slow"));
        assert_eq!(notification.reply::<u32>(), Err(CallError::timeout("too slow")));
    }
}
