//! `[plugins]` and `[[publisher]]`: what may be installed with `waypost plugin add`, and whose signature counts.

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de};

use super::values::{Globs, word_globs};
use crate::text::visible;

/// `[plugins]`: installed components. Those of `[[plugin]]` are under development and none of it concerns them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Installing {
    /// Which sources need the signature of a `[[publisher]]`: `true` for all, or globs over the source as `waypost.lock` has it,
    /// `file:<path>` or `oci:<registry>/<name>:<tag>`, as in `["oci:*"]`. It holds at each load too: what was installed
    /// before without one is not loaded any more. A signature that is there and does not hold is refused in any case.
    /// Default `false`: none does.
    pub require_signature: Required,
    /// Registries that are asked without TLS, as in `["registry.lan:5000"]`. Those on loopback are in any case.
    /// Default none.
    pub insecure_registries: Vec<String>,
}

impl Installing {
    /// Whether a component from here needs a signature.
    pub fn needs_signature(&self, source: &str) -> bool {
        match &self.require_signature {
            Required::All => true,
            Required::Of(sources) => sources.matches(source),
        }
    }
}

/// From where a component needs a signature.
#[derive(Clone, Debug)]
pub enum Required {
    /// From everywhere.
    All,
    /// From these sources; none of them is from nowhere.
    Of(Globs),
}

impl Default for Required {
    fn default() -> Self {
        Self::Of(Globs::default())
    }
}

impl<'de> Deserialize<'de> for Required {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Required;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false, or a list of globs over sources")
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<Required, E> {
                Ok(if all { Required::All } else { Required::default() })
            }

            fn visit_str<E: de::Error>(self, glob: &str) -> Result<Required, E> {
                word_globs(de::value::StrDeserializer::new(glob)).map(Required::Of)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Required, A::Error> {
                word_globs(de::value::SeqAccessDeserializer::new(list)).map(Required::Of)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `[[publisher]]`: who may sign components. One who is removed here has signed nothing: what he signed is not loaded any more.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Publisher {
    /// What `waypost.lock` and the command line call him.
    #[serde(deserialize_with = "super::values::name")]
    pub name: String,
    /// His public key of minisign: the second line of the `.pub` file.
    #[serde(deserialize_with = "key")]
    pub key: String,
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked_key(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// A public key of minisign, or why it is none.
pub(crate) fn checked_key(text: &str) -> Result<String, String> {
    let text = text.trim();
    match minisign_verify::PublicKey::from_base64(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "`{}` is not a public key of minisign; give the second line of its `.pub` file",
            visible(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn the_policy_is_a_word_or_a_list_of_sources() {
        for (text, file, registry) in [
            ("", false, false),
            ("require-signature = false", false, false),
            ("require-signature = true", true, true),
            ("require-signature = \"oci:*\"", false, true),
            ("require-signature = [\"oci:other/*\", \"file:/srv/*\"]", true, false),
        ] {
            let policy = load(&format!("[plugins]\n{text}")).unwrap().installing;
            let needs = ["file:/srv/x.wasm", "oci:ghcr.io/acme/x:1"].map(|source| policy.needs_signature(source));
            assert_eq!(needs, [file, registry], "{text}");
        }
    }

    #[test]
    fn what_is_no_policy_and_no_publisher_is_refused_with_its_line() {
        let again = format!("[[publisher]]\nname = \"acme\"\nkey = {KEY:?}\n").repeat(2);
        for (text, problem) in [
            (
                "[plugins]\nrequire-signature = 1",
                "line 2: `plugins.require-signature`: invalid type: integer `1`, expected true, false, or a list of globs over sources",
            ),
            (
                "[plugins]\nrequire-signature = []",
                "line 2: `plugins.require-signature`: an empty list matches nothing; give a value, or remove the line",
            ),
            (
                "[[publisher]]\nname = \"acme\"\nkey = \"RWQ\"",
                "line 3: `publisher.key`: `RWQ` is not a public key of minisign; give the second line of its `.pub` file",
            ),
            (
                &again,
                "line 4: a [[publisher]] above is named `acme` too; names are unique",
            ),
        ] {
            let problems = load(text).unwrap_err();
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(lines, [problem]);
        }
        let problems = load("[[publisher]]\n").unwrap_err();
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "line 1: `publisher` needs the field `name`",
                "line 1: `publisher` needs the field `key`"
            ]
        );
    }
}
