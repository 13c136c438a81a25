//! Shadows: who gets a copy of the reads under a rule, and which rules have a shadow in vain.
//!
//! Whether a call is a read is a matter of its effect class, which is not known here (`dispatch.rs`).

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::{Rule, Table};
use crate::call::{Effect, Path, Target};
use crate::config::{self, Route, Share};

/// A plugin that gets a copy of reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shadow {
    /// Its id.
    pub plugin: Arc<str>,
    /// The share of the reads that it gets.
    pub share: Share,
}

impl Shadow {
    pub(super) fn of(route: &Route) -> Option<Self> {
        Some(Self {
            plugin: Arc::clone(route.shadow.as_ref()?),
            share: route.sample.unwrap_or_default(),
        })
    }

    /// Whether it gets a copy of the call with this id, class and path: reads alone, so many of them as the rule says, and
    /// none that the same plugin has made.
    pub fn gets(&self, id: Uuid, effect: Effect, path: &Path) -> bool {
        // The last part of an id is random.
        let (_, number) = id.as_u64_pair();
        effect == Effect::Read && self.share.takes(number) && !path.holds(&Target::Plugin(Arc::clone(&self.plugin)))
    }
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin:{}", self.plugin)?;
        if self.share.is_all() {
            Ok(())
        } else {
            write!(f, ", for a share of {}", self.share)
        }
    }
}

impl Table {
    /// The rules whose shadow never gets anything, since none of their calls is a read: the line and the reason. `reads` says
    /// whether calls of a pattern can be reads where no rule says so.
    pub fn idle_shadows(&self, reads: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
        let idle = |rule: &&Rule| {
            let route = &rule.route;
            route.shadow.is_some() && route.effect.is_none() && !route.calls.iter().any(|pattern| reads(pattern))
        };
        self.rules
            .iter()
            .filter(idle)
            .map(|Rule { route, .. }| {
                let message = format!(
                    "the shadow plugin:{} never gets anything: no call under this rule counts as a read; if they are, add \
                     effect = \"read\" to the rule",
                    route.shadow.as_deref().unwrap_or_default()
                );
                (route.line, message)
            })
            .collect()
    }

    /// The rules whose shadow is this plugin.
    pub fn shadowed_by(&self, plugin: &str) -> Vec<String> {
        let routes = self.rules.iter().map(|rule| &rule.route);
        routes
            .filter(|route| route.shadow.as_deref() == Some(plugin))
            .map(|route| format!("{}:{}", config::FILE, route.line))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::table;
    use super::*;
    use proptest::prelude::*;

    fn shadow(share: &str) -> Shadow {
        let rules = format!("[[route]]\nmatch = 'x'\nto = 'local'\nshadow = 'plugin:p'\nsample = {share}\n");
        let table = table(&rules, "");
        table.rules[0].decision.shadow.clone().unwrap()
    }

    #[test]
    fn rules_whose_shadow_gets_nothing_are_found() {
        let rules = r#"[[route]]
match = ["fsEvent:writeToFile", "chat"]
to = "local"
shadow = "plugin:p"
[[route]]
match = ["FSEvent:readFile", "chat"]
to = "local"
shadow = "plugin:p"
[[route]]
match = "chat"
to = "local"
effect = "read"
shadow = "plugin:q"
"#;
        let table = table(rules, "");
        let idle = table.idle_shadows(|pattern| pattern == "fsEvent:readFile");
        let expected = "the shadow plugin:p never gets anything: no call under this rule counts as a read; if they are, add \
                        effect = \"read\" to the rule";
        assert_eq!(idle, [(1, expected.to_owned())]);
        assert_eq!(table.shadowed_by("p"), ["waypost.toml:1", "waypost.toml:5"]);
        assert_eq!(table.shadowed_by("x"), [""; 0]);
    }

    proptest! {
        /// Whatever the share, the id and the path: what may have an effect is not copied, and neither is what it made itself.
        #[test]
        fn an_effect_is_never_copied(
            id in any::<u128>(),
            share in prop_oneof![Just("1"), Just("0.5"), Just("0.000001")],
            effect in prop_oneof![
                Just(Effect::Read), Just(Effect::Inference), Just(Effect::Idempotent), Just(Effect::NonIdempotent)
            ],
            through in proptest::collection::vec("[pq]", 0..3),
        ) {
            let path = through.iter().fold(Path::default(), |path, id| path.through(Target::Plugin(id.as_str().into())));
            let gets = shadow(share).gets(Uuid::from_u128(id), effect, &path);
            if effect != Effect::Read || through.iter().any(|id| id == "p") {
                prop_assert!(!gets);
            } else if share == "1" {
                prop_assert!(gets);
            }
        }
    }

    #[test]
    fn half_of_the_calls_are_about_half() {
        let shadow = shadow("0.5");
        let ids = (0..1_000).map(|_| Uuid::now_v7());
        let got = ids
            .filter(|id| shadow.gets(*id, Effect::Read, &Path::default()))
            .count();
        // A thousand tosses lie outside of this once in 10^14.
        assert!((375..=625).contains(&got), "{got}");
    }
}
