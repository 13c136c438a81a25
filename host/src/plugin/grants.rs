//! What a plugin may do: what its manifest asks for and the operator allows, and which of it a plugin cannot do without.
//!
//! Not here: imports without their grant, which the linker finds (`plugin/link.rs`).

use super::Origin;
use crate::config::{self, Folder, Grants, Program, Socket};
use crate::error::{Error, ErrorKind, Result};

/// What is both asked for and allowed. A pattern counts when one on the other side is the same or wider.
pub(super) fn intersect(asked: &Grants, allowed: &Grants) -> Grants {
    Grants {
        gateway: shared(&asked.gateway, &allowed.gateway),
        state: asked.state && allowed.state,
        workspace: asked.workspace && allowed.workspace,
        claim: shared(&asked.claim, &allowed.claim),
        subscribe: asked.subscribe && allowed.subscribe,
        http: config::Origin::shared(&asked.http, &allowed.http),
        secrets: common(&asked.secrets, &allowed.secrets),
        env: common(&asked.env, &allowed.env),
        files: folders(&asked.files, &allowed.files),
        process: programs(&asked.process, &allowed.process),
        socket: sockets(&asked.socket, &allowed.socket),
    }
}

/// Refuses a plugin that would not get its claim, or would not hear of anything: it would wait in vain, without a word.
pub(super) fn check(id: &str, asked: &Grants, effective: &Grants, origin: &Origin) -> Result<()> {
    let lacking = |pattern: &&String| {
        let one = std::slice::from_ref(*pattern);
        !within(pattern, &effective.claim) && !effective.claim.iter().any(|granted| within(granted, one))
    };
    let (does, grant, line) = if let Some(pattern) = asked.claim.iter().find(lacking) {
        (
            format!("claims `{pattern}`"),
            "claim",
            format!("claim = {:?}", asked.claim),
        )
    } else if asked.subscribe && !effective.subscribe {
        ("subscribes".to_owned(), "subscribe", "subscribe = true".to_owned())
    } else {
        return Ok(());
    };
    let message = format!(
        "plugin `{id}` {does} without the grant; if it may, {}",
        origin.remedy(id, grant, &line)
    );
    Err(Error::new(ErrorKind::Denied, message))
}

/// Whether one of these patterns is the same as this one, or wider.
pub(super) fn within(pattern: &str, by: &[String]) -> bool {
    by.iter().any(|wider| {
        pattern == wider
            || wider == "*"
            || pattern.split(':').next() == Some(wider.trim_end_matches(":*")) && !is_exact(wider)
    })
}

/// The folders that are named on both sides, where the operator has placed them; one without a place is none.
fn folders(asked: &[Folder], allowed: &[Folder]) -> Vec<Folder> {
    let both = asked.iter().filter_map(|asked| {
        let allowed = allowed
            .iter()
            .find(|allowed| allowed.name == asked.name && allowed.path.is_some())?;
        let write = asked.write && allowed.write;
        Some(Folder {
            write,
            ..allowed.clone()
        })
    });
    both.collect()
}

/// The programs that are named on both sides, where the operator has said which they are, with the arguments that both allow.
fn programs(asked: &[Program], allowed: &[Program]) -> Vec<Program> {
    let both = asked.iter().filter_map(|asked| {
        let allowed = allowed
            .iter()
            .find(|allowed| allowed.name == asked.name && allowed.path.is_some())?;
        let args = Program::shared(&asked.args, &allowed.args);
        (!args.is_empty()).then(|| Program {
            args,
            ..allowed.clone()
        })
    });
    both.collect()
}

/// The sockets that are named on both sides, where the operator has placed them.
fn sockets(asked: &[Socket], allowed: &[Socket]) -> Vec<Socket> {
    let placed = allowed.iter().filter(|socket| socket.path.is_some());
    placed
        .filter(|socket| asked.iter().any(|asked| asked.name == socket.name))
        .cloned()
        .collect()
}

/// The names that stand on both sides.
fn common(asked: &[String], allowed: &[String]) -> Vec<String> {
    asked.iter().filter(|name| allowed.contains(name)).cloned().collect()
}

fn shared(asked: &[String], allowed: &[String]) -> Vec<String> {
    let mut both: Vec<String> = asked
        .iter()
        .filter(|pattern| within(pattern, allowed))
        .cloned()
        .collect();
    for pattern in allowed {
        if within(pattern, asked) && !both.contains(pattern) {
            both.push(pattern.clone());
        }
    }
    both
}

/// Whether a pattern names one action.
fn is_exact(pattern: &str) -> bool {
    pattern.split_once(':').is_some_and(|(_, action)| action != "*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallName, covers};
    use proptest::prelude::*;

    fn grants(patterns: &[String]) -> Grants {
        Grants {
            gateway: patterns.to_vec(),
            claim: patterns.to_vec(),
            ..Grants::default()
        }
    }

    proptest! {
        /// The intersection permits a call exactly when both sides permit it, and a claim is refused exactly when some
        /// pattern of it has nothing left.
        #[test]
        fn the_effective_set_is_the_intersection(
            asked in proptest::collection::vec("[ab](:[xy*])?|\\*", 0..4),
            allowed in proptest::collection::vec("[ab](:[xy*])?|\\*", 0..4),
            kind in "[ab]", action in proptest::option::of("[xy]"),
        ) {
            let name = CallName::new(&kind, action.as_deref());
            let permit = |patterns: &[String]| patterns.iter().any(|pattern| covers(pattern, &name));
            let both = intersect(&grants(&asked), &grants(&allowed));
            let expected = permit(&asked) && permit(&allowed);
            prop_assert_eq!(permit(&both.gateway), expected);
            prop_assert_eq!(permit(&both.claim), expected);
            let lacking = asked.iter().any(|pattern| shared(std::slice::from_ref(pattern), &allowed).is_empty());
            prop_assert_eq!(check("a", &grants(&asked), &both, &Origin::Bundled).is_err(), lacking);
        }
    }
}
