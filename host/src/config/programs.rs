//! The grants `process` and `socket`: programs with the arguments that they may have, and named sockets.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::values::name;

/// The most arguments that a program is run with, and that a pattern has.
pub const ARGUMENTS: usize = 256;
/// The longest argument, in bytes.
pub const ARGUMENT_BYTES: usize = 4 << 10;
/// The most patterns of one program: a person reads each of them.
const PATTERNS: usize = 32;
/// What stands for any further arguments.
const ANY: &str = "...";

/// A program in the grant `process`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Program {
    /// What it is for; the plugin knows it by this name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Which file it is, from the root on; the operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "absolute")]
    pub path: Option<PathBuf>,
    /// The SHA-256 of that file, in hexadecimal; the operator's word. `waypost plugin grant` takes it from the file.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "sha256")]
    pub sha256: Option<String>,
    /// The arguments with which it may be run: a list of patterns, each a list of arguments, as in
    /// `[["status"], ["log", "-n", "*"]]`. Default `[[]]`, which is to run it without any.
    #[serde(default = "without", deserialize_with = "patterns")]
    pub args: Vec<Arguments>,
}

/// A socket in the grant `socket`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Socket {
    /// What it is for; the plugin knows it by this name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Where it is, from the root on; the operator's word. No part of it is a link.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "absolute")]
    pub path: Option<PathBuf>,
}

/// A pattern of arguments, matched one argument at a time.
///
/// In an argument a `*` stands for any text, and everything else for itself. One that begins with `*` means no argument that
/// begins with `-`, so that no option is slipped in. `...` at the end stands for any further arguments, options too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Those that are any.
    pub fn any() -> Self {
        Self(vec![ANY.to_owned()])
    }

    /// Reads a pattern.
    pub fn of(arguments: Vec<String>) -> Result<Self, String> {
        if arguments.len() > ARGUMENTS {
            let count = arguments.len();
            return Err(format!(
                "a pattern has at most {ARGUMENTS} arguments, this one has {count}"
            ));
        }
        for (position, argument) in arguments.iter().enumerate() {
            let shown = argument.escape_debug();
            if argument.len() > ARGUMENT_BYTES {
                return Err(format!("an argument has at most {ARGUMENT_BYTES} bytes"));
            }
            if argument.chars().any(char::is_control) {
                return Err(format!("`{shown}` contains a control character; an argument cannot"));
            }
            if argument == ANY && position + 1 < arguments.len() {
                return Err(format!("`{ANY}` stands for all further arguments; nothing follows it"));
            }
        }
        Ok(Self(arguments))
    }

    /// Whether a program may be run with these.
    pub fn allow(&self, arguments: &[String]) -> bool {
        let (fixed, rest) = self.parts();
        let enough = arguments.len() == fixed.len() || rest && arguments.len() > fixed.len();
        enough
            && fixed
                .iter()
                .zip(arguments)
                .all(|(pattern, argument)| matches(pattern, argument))
    }

    /// Whether another pattern allows all that this one does, as far as that shows argument by argument.
    pub fn within(&self, wider: &Self) -> bool {
        let ((ours, our_rest), (theirs, their_rest)) = (self.parts(), wider.parts());
        let enough = ours.len() == theirs.len() || ours.len() > theirs.len() && their_rest;
        let one = |(our, their): (&String, &String)| {
            let plain = !our.contains('*') && matches(their, our);
            plain || our == their || their == "*" && !our.starts_with('-')
        };
        enough && (their_rest || !our_rest) && ours.iter().zip(theirs).all(one)
    }

    /// The arguments that stand at the front, and whether any may follow.
    fn parts(&self) -> (&[String], bool) {
        match self.0.split_last() {
            Some((last, fixed)) if last == ANY => (fixed, true),
            _ => (&self.0, false),
        }
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no arguments");
        }
        let words: Vec<String> = self.0.iter().map(|word| quoted(word)).collect();
        write!(f, "`{}`", words.join(" "))
    }
}

/// An argument, so that one is told from two.
fn quoted(argument: &str) -> String {
    if argument.is_empty() || argument.contains(char::is_whitespace) || argument.contains('\'') {
        format!("'{}'", argument.replace('\'', "\\'"))
    } else {
        argument.to_owned()
    }
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Program {
    /// Whether it may be run with these arguments.
    pub fn allows(&self, arguments: &[String]) -> bool {
        self.args.iter().any(|pattern| pattern.allow(arguments))
    }

    /// Whether every pattern of these is one of this program's, or within one.
    pub fn covers(&self, patterns: &[Arguments]) -> bool {
        let covered = |pattern: &Arguments| self.args.iter().any(|wider| pattern.within(wider));
        patterns.iter().all(covered)
    }

    /// The patterns that stand on both sides.
    pub fn shared(asked: &[Arguments], allowed: &[Arguments]) -> Vec<Arguments> {
        let within = |pattern: &Arguments, others: &[Arguments]| others.iter().any(|wider| pattern.within(wider));
        let mut both: Vec<Arguments> = asked.iter().filter(|one| within(one, allowed)).cloned().collect();
        for pattern in allowed {
            if within(pattern, asked) && !both.contains(pattern) {
                both.push(pattern.clone());
            }
        }
        both
    }

    /// The arguments that it may have, for people.
    pub fn arguments(&self) -> String {
        let patterns: Vec<String> = self.args.iter().map(ToString::to_string).collect();
        patterns.join(" or ")
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(path) = &self.path {
            write!(f, " = {}", path.display())?;
        }
        write!(f, " with {}", self.arguments())
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.path {
            Some(path) => write!(f, " = {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Whether an argument is one that an argument of a pattern means.
fn matches(pattern: &str, argument: &str) -> bool {
    if pattern.starts_with('*') && argument.starts_with('-') {
        return false;
    }
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| argument.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Why a path names no place that a grant can mean; none when it does.
pub fn no_place(path: &Path) -> Option<&'static str> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() {
        Some("is relative; write it from the root on, as in `/usr/bin/git`")
    } else if !path.components().all(plain) {
        Some("has `..` in it; write where it leads")
    } else if path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control) {
        Some("contains a control character")
    } else {
        None
    }
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    match no_place(&path) {
        Some(why) => Err(de::Error::custom(format!(
            "the path `{}` {why}",
            path.display().to_string().escape_debug()
        ))),
        None => Ok(Some(path)),
    }
}

/// Whether this is a SHA-256 in hexadecimal, in lower case.
pub fn is_sha256(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(digit)
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_sha256(&text) {
        return Ok(Some(text));
    }
    let text = text.escape_debug();
    Err(de::Error::custom(format!(
        "`{text}` is not the SHA-256 of a file; write its 64 hexadecimal digits, in lower case, as `sha256sum` does"
    )))
}

fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arguments>, D::Error> {
    let patterns = Vec::<Arguments>::deserialize(deserializer)?;
    match patterns.len() {
        0 => Err(de::Error::custom(
            "an empty list lets the program run in no way; write `[[]]` to run it without arguments, or remove the line",
        )),
        1..=PATTERNS => Ok(patterns),
        count => Err(de::Error::custom(format!(
            "a program has at most {PATTERNS} patterns of arguments, this one has {count}"
        ))),
    }
}

fn without() -> Vec<Arguments> {
    vec![Arguments(Vec::new())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn pattern(text: &str) -> Arguments {
        Arguments::of(words(text)).unwrap()
    }

    #[test]
    fn arguments_are_matched_one_at_a_time() {
        for (text, allowed, refused) in [
            ("", &[""][..], &["a", "-a"][..]),
            ("status", &["status"], &["", "status x", "statu", "Status", "status*"]),
            (
                "log -n *",
                &["log -n 1", "log -n a"],
                &["log -n", "log -n --all", "log -n 1 2", "log 1 -n"],
            ),
            (
                "show *.rs",
                &["show a.rs", "show .rs"],
                &["show a.rsx", "show -a.rs", "show rs"],
            ),
            ("--at=*-*", &["--at=1-2", "--at=-"], &["--at=1", "at=1-2"]),
            ("add -- ...", &["add --", "add -- -x a"], &["add", "add a --"]),
            ("...", &["", "-x", "a b"], &[]),
            ("a*b*a", &["aba", "axbya"], &["ab", "aa", "abaa-"]),
        ] {
            for arguments in allowed {
                assert!(pattern(text).allow(&words(arguments)), "{text} allows {arguments}");
            }
            for arguments in refused {
                assert!(!pattern(text).allow(&words(arguments)), "{text} refuses {arguments}");
            }
        }
        assert!(!pattern("a b").allow(&["a b".to_owned()]), "one argument is not two");
    }

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        let told = |text: &str| toml::from_str::<Program>(text).unwrap_err().message().to_owned();
        for (text, expected) in [
            (
                "name = \"a\"\npath = \"bin/a\"",
                "the path `bin/a` is relative; write it from the root on, as in `/usr/bin/git`",
            ),
            (
                "name = \"a\"\npath = \"/bin/../a\"",
                "the path `/bin/../a` has `..` in it; write where it leads",
            ),
            (
                "name = \"a\"\nsha256 = \"ABC\"",
                "`ABC` is not the SHA-256 of a file; write its 64 hexadecimal digits, in lower case, as `sha256sum` does",
            ),
            (
                "name = \"a\"\nargs = []",
                "an empty list lets the program run in no way; write `[[]]` to run it without arguments, or remove the line",
            ),
            (
                "name = \"a\"\nargs = [[\"a\\nb\"]]",
                "`a\\nb` contains a control character; an argument cannot",
            ),
            (
                "name = \"a\"\nargs = [[\"...\", \"a\"]]",
                "`...` stands for all further arguments; nothing follows it",
            ),
        ] {
            assert_eq!(told(text), expected);
        }
        let whole = "name = \"git\"\npath = \"/usr/bin/git\"\nargs = [[], [\"log\", \"a b\", \"*\"]]";
        let whole: Program = toml::from_str(whole).unwrap();
        assert_eq!(
            whole.to_string(),
            "git = /usr/bin/git with no arguments or `log 'a b' *`"
        );
        assert_eq!(
            toml::from_str::<Program>(&toml::to_string(&whole).unwrap()).unwrap(),
            whole
        );
        assert!(toml::from_str::<Program>("name = \"a\"").unwrap().allows(&[]));
    }

    fn any_pattern() -> impl Strategy<Value = Arguments> {
        ("([ab*-]{0,3}( [ab*-]{0,3}){0,2})( \\.\\.\\.)?").prop_map(|text| pattern(&text))
    }

    proptest! {
        /// What is within a pattern allows nothing that the pattern refuses, and what both sides share allows what both do.
        #[test]
        fn what_is_narrower_allows_no_more(
            asked in proptest::collection::vec(any_pattern(), 1..3), allowed in proptest::collection::vec(any_pattern(), 1..3),
            arguments in proptest::collection::vec("[ab-]{0,3}", 0..4),
        ) {
            let may = |patterns: &[Arguments]| patterns.iter().any(|one| one.allow(&arguments));
            for (one, other) in asked.iter().zip(&allowed) {
                prop_assert!(!one.within(other) || !one.allow(&arguments) || other.allow(&arguments), "{one} {other}");
                prop_assert!(one.within(one) && one.within(&Arguments::any()));
            }
            prop_assert!(!may(&Program::shared(&asked, &allowed)) || may(&asked) && may(&allowed));
            prop_assert_eq!(Program::shared(&asked, &[Arguments::any()]), asked);
        }

        #[test]
        fn a_star_stands_for_any_text(pattern in "[ab*-]{0,6}", argument in "[ab-]{0,8}") {
            fn plain(pattern: &[u8], argument: &[u8]) -> bool {
                match pattern.split_first() {
                    None => argument.is_empty(),
                    Some((b'*', rest)) => (0..=argument.len()).any(|from| plain(rest, &argument[from..])),
                    Some((one, rest)) => argument.first() == Some(one) && plain(rest, &argument[1..]),
                }
            }
            let option = pattern.starts_with('*') && argument.starts_with('-');
            let expected = plain(pattern.as_bytes(), argument.as_bytes()) && !option;
            prop_assert_eq!(matches(&pattern, &argument), expected);
        }
    }
}
