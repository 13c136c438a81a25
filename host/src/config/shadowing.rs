//! `shadow` and `sample` of `[[route]]`: who gets a copy of the reads under a rule, and of how many of them.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::Route;
use crate::call::{Effect, Target};

/// A part of all, in millionths: more than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

/// What all are, in the unit of a [`Share`].
const WHOLE: u32 = 1_000_000;

impl Default for Share {
    fn default() -> Self {
        Self(WHOLE)
    }
}

impl Share {
    /// Whether one that has this number belongs to it. Of many random numbers so many do.
    pub fn takes(self, number: u64) -> bool {
        number % u64::from(WHOLE) < u64::from(self.0)
    }

    /// Whether it is all of them.
    pub fn is_all(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / f64::from(WHOLE))
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / f64::from(WHOLE))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fraction;
        impl Visitor<'_> for Fraction {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share of the calls above 0 and at most 1, as in 0.1")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Share, E> {
                match number {
                    1 => Ok(Share::default()),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }

            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between one millionth and one, in millionths"
            )]
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Share, E> {
                if !(number > 0.0 && number <= 1.0) {
                    return Err(E::invalid_value(de::Unexpected::Float(number), &self));
                }
                Ok(Share(((number * f64::from(WHOLE)).round() as u32).max(1)))
            }
        }
        deserializer.deserialize_any(Fraction)
    }
}

/// Reads `plugin:<id>`, the only target that a copy may go to.
pub(super) fn plugin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse() {
        Ok(Target::Plugin(id)) => Ok(Some(id)),
        _ => Err(de::Error::custom(format!(
            "`{}` cannot be a shadow; it is a plugin, as in shadow = \"plugin:<id>\"",
            text.escape_debug()
        ))),
    }
}

/// Why the shadow of this rule would never get anything, or means nothing.
pub(super) fn problem(route: &Route) -> Option<String> {
    if route.shadow.is_none() {
        return route.sample.map(|_| {
            "`sample` is the share of the reads that a shadow gets; add shadow = \"plugin:<id>\", or remove it"
                .to_owned()
        });
    }
    if route.to == Target::Deny {
        return Some(
            "nobody answers under this rule, so that a shadow has nothing to be compared with; remove `shadow`".into(),
        );
    }
    let effect = route.effect.filter(|effect| *effect != Effect::Read)?;
    Some(format!(
        "a shadow gets reads alone, and the rule says that its calls are {}; remove `shadow`, or say effect = \"read\"",
        effect.as_str()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use proptest::prelude::*;

    fn rule(fields: &str) -> Result<Route, String> {
        let text = format!("[[route]]\nmatch = \"ticket\"\n{fields}\n");
        match load(&text) {
            Ok(mut config) => Ok(config.routes.remove(0)),
            Err(problems) => Err(problems[0].to_string()),
        }
    }

    #[test]
    fn a_rule_names_its_shadow_and_the_share_that_it_gets() {
        let route = rule("to = \"local\"\nshadow = \"plugin:next\"").unwrap();
        assert_eq!((route.shadow.as_deref(), route.sample), (Some("next"), None));
        for (written, share, shown) in [
            ("1", WHOLE, "1"),
            ("1.0", WHOLE, "1"),
            ("0.25", 250_000, "0.25"),
            ("0.000000001", 1, "0.000001"),
        ] {
            let route = rule(&format!("to = \"local\"\nshadow = \"plugin:next\"\nsample = {written}")).unwrap();
            assert_eq!(
                (route.sample, route.sample.unwrap().to_string().as_str()),
                (Some(Share(share)), shown)
            );
        }
    }

    #[test]
    fn a_shadow_that_could_never_get_anything_is_refused() {
        let never = "line 1: a shadow gets reads alone, and the rule says that its calls are";
        let remedy = "remove `shadow`, or say effect = \"read\"";
        let share = "expected a share of the calls above 0 and at most 1, as in 0.1";
        for (fields, problem) in [
            (
                "to = \"local\"\nshadow = \"local\"",
                "line 4: `route.shadow`: `local` cannot be a shadow; it is a plugin, as in shadow = \"plugin:<id>\"".to_owned(),
            ),
            (
                "to = \"local\"\nshadow = \"hub:x\"",
                "line 4: `route.shadow`: `hub:x` cannot be a shadow; it is a plugin, as in shadow = \"plugin:<id>\"".to_owned(),
            ),
            (
                "to = \"deny\"\nshadow = \"plugin:x\"",
                "line 1: nobody answers under this rule, so that a shadow has nothing to be compared with; remove `shadow`".to_owned(),
            ),
            (
                "to = \"local\"\nsample = 0.5",
                "line 1: `sample` is the share of the reads that a shadow gets; add shadow = \"plugin:<id>\", or remove it".to_owned(),
            ),
            (
                "to = \"local\"\nshadow = \"plugin:x\"\nsample = 0",
                format!("line 5: `route.sample`: invalid value: integer `0`, {share}"),
            ),
            (
                "to = \"local\"\nshadow = \"plugin:x\"\nsample = 1.5",
                format!("line 5: `route.sample`: invalid value: floating point `1.5`, {share}"),
            ),
            (
                "to = \"local\"\nshadow = \"plugin:x\"\nsample = nan",
                format!("line 5: `route.sample`: invalid value: floating point `NaN`, {share}"),
            ),
            ("to = \"local\"\nshadow = \"plugin:x\"\neffect = \"inference\"", format!("{never} inference; {remedy}")),
            ("to = \"local\"\nshadow = \"plugin:x\"\neffect = \"idempotent\"", format!("{never} idempotent; {remedy}")),
            (
                "to = \"local\"\nshadow = \"plugin:x\"\neffect = \"non-idempotent\"",
                format!("{never} non-idempotent; {remedy}"),
            ),
        ] {
            assert_eq!(rule(fields).unwrap_err(), problem);
        }
    }

    proptest! {
        #[test]
        fn a_share_takes_its_part_of_all_numbers(millionths in 1..=WHOLE, start in any::<u32>()) {
            let share = Share(millionths);
            let start = u64::from(start);
            let taken = (start..start + u64::from(WHOLE)).filter(|number| share.takes(*number)).count();
            prop_assert_eq!(taken, millionths as usize);
        }
    }
}
