//! What loading says of a component that differs from the contract: the first of what `waypost plugin doctor` finds, in the
//! same words.
//!
//! It is asked once for a component, where that is compiled: in the process that is thrown away, since a stranger wrote what
//! is read here. Compiled code is kept for one contract, so what was compiled has been found to fit.

use super::compare::compare;
use super::{Contract, Finding, Side, VERSION, component};
use crate::error::{Blame, Error, ErrorKind, Result};

/// Refuses a component whose types are not those of this hub. The linker would not: it looks at imports alone, and an export of
/// another shape would fail at its first call.
pub fn check(id: &str, bytes: &[u8]) -> Result<()> {
    // What makes no sense is for the compiler to refuse.
    let Ok(theirs) = component::read(bytes) else {
        return Ok(());
    };
    let hub = Contract::hub();
    // Each role that it plays, whatever a manifest says: that may change while the compiled code is kept.
    let roles: Vec<&str> = hub
        .exports
        .iter()
        .filter(|ours| theirs.exports.iter().any(|theirs| theirs.path.stands_for(&ours.path)))
        .map(|ours| ours.name.as_str())
        .collect();
    match compare(hub, &theirs, &roles).as_slice() {
        [] => Ok(()),
        [first, more @ ..] => Err(refusal(id, first, more.len())),
    }
}

fn refusal(id: &str, first: &Finding, more: usize) -> Error {
    let older = match first.older {
        Some(Side::Component) => ", and the plugin is older",
        Some(Side::Hub) => ", and the hub is older",
        None => "",
    };
    let more = match more {
        0 => String::new(),
        more => format!("; `waypost plugin doctor` shows {more} more"),
    };
    let Finding { text, remedy, .. } = first;
    let message =
        format!("plugin `{id}` does not fit the contract of this hub ({VERSION}): {text}{older}; {remedy}{more}");
    Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin)
}
