//! How values are written in `waypost.toml` and in manifests: durations, sizes, counts, names, patterns and globs.
//!
//! Each is checked where it is read, so that its error carries the line. What a value means is not decided here.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::text::visible;

/// The largest number that is accepted, in any unit: 2^40.
pub const LARGEST: u64 = 1 << 40;
/// The longest time that is accepted: a year.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest name, pattern or glob that is accepted, in bytes.
pub const TEXT_BYTES: usize = 1024;

/// A duration: `30s`, `500ms`, `5m`, `1h 30m`.
pub mod duration {
    use super::{Deserializer, Duration, Number, Written, read_duration};

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Number(Written {
            expected: "a duration such as 30s",
            read: read_duration,
        }))
    }
}

/// A duration that may be left out; use it with `#[serde(default)]`.
pub mod duration_option {
    use super::{Deserializer, Duration, duration};

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }
}

/// A size: `64MiB`, `64KiB`, or a number of bytes.
pub mod bytes {
    use super::{Deserializer, Number, Written, read_bytes};

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(Number(Written {
            expected: "a size such as 64MiB",
            read: read_bytes,
        }))
    }
}

/// A size that may be left out; use it with `#[serde(default)]`.
pub mod bytes_option {
    use super::{Deserializer, bytes};

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
        bytes::deserialize(deserializer).map(Some)
    }
}

/// A number of things that is at least 1 and may be left out; use it with `#[serde(default)]`.
pub mod count_option {
    use super::{Deserializer, count};

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
        count(deserializer).map(Some)
    }
}

/// Reads a number of things that is at least 1.
pub(super) fn count<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Count(PhantomData))
}

/// Reads a name.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(Written {
        expected: "a name",
        read: read_name,
    })
}

/// Reads a list of names that may be empty.
pub(super) fn any_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_any(Many(Written {
        expected: "a name",
        read: read_name,
    }))
}

/// A command line, as its words. No shell reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The first word.
    pub program: String,
    /// The others.
    pub arguments: Vec<String>,
}

/// Reads a command line.
pub(super) fn command_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CommandLine, D::Error> {
    deserializer.deserialize_any(Written {
        expected: "a command line",
        read: read_command_line,
    })
}

/// Reads a SHA-256 in hexadecimal.
pub(super) fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(Written {
        expected: "a SHA-256 in hexadecimal",
        read: read_sha256,
    })
}

/// Reads a pattern of calls, or a list of them that is not empty.
pub(super) fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_any(OneOrMany(Written {
        expected: "a pattern of calls",
        read: read_pattern,
    }))
}

/// Reads a list of patterns that may be empty.
pub(super) fn any_patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_any(Many(Written {
        expected: "a pattern of calls",
        read: read_pattern,
    }))
}

/// Reads globs over workspace paths, where `*` stays inside one part.
pub(super) fn path_globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Globs, D::Error> {
    let written = OneOrMany(Written {
        expected: "a glob",
        read: read_path_glob,
    });
    Globs::of(deserializer.deserialize_any(written)?).map_err(D::Error::custom)
}

/// Reads globs over any text, where `*` stands for anything.
pub(super) fn word_globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Globs, D::Error> {
    let written = OneOrMany(Written {
        expected: "a glob",
        read: read_word_glob,
    });
    Globs::of(deserializer.deserialize_any(written)?).map_err(D::Error::custom)
}

/// Reads globs over host names, in which case makes no difference.
pub(super) fn host_globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Globs, D::Error> {
    let written = OneOrMany(Written {
        expected: "a glob",
        read: read_host_glob,
    });
    Globs::of(deserializer.deserialize_any(written)?).map_err(D::Error::custom)
}

/// Globs, compiled where they were read. None at all is the condition that was not given.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    written: Vec<String>,
    set: GlobSet,
}

/// One glob as it was written, and what it compiles to.
struct OneGlob {
    written: String,
    compiled: Vec<Glob>,
}

impl Globs {
    fn of(globs: Vec<OneGlob>) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for glob in globs.iter().flat_map(|glob| &glob.compiled) {
            set.add(glob.clone());
        }
        let set = set
            .build()
            .map_err(|error| format!("these globs are too large together: {error}"))?;
        Ok(Self {
            written: globs.into_iter().map(|glob| glob.written).collect(),
            set,
        })
    }

    /// Whether no glob was given.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Whether any of them matches.
    pub fn matches(&self, text: &str) -> bool {
        self.set.is_match(text)
    }

    /// The globs as they were written.
    pub fn written(&self) -> &[String] {
        &self.written
    }
}

impl fmt::Display for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, glob) in self.written.iter().enumerate() {
            let or = if position == 0 { "" } else { " or " };
            write!(f, "{or}`{}`", glob.escape_debug())?;
        }
        Ok(())
    }
}

/// A value that is written as a text, and how to read it.
pub(super) struct Written<T> {
    pub(super) expected: &'static str,
    pub(super) read: fn(&str) -> Result<T, String>,
}

impl<T> Clone for Written<T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }
}

impl<'de, T> DeserializeSeed<'de> for Written<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A text with a number in it; a bare whole number counts as its digits.
struct Number<T>(Written<T>);

impl<T> Visitor<'_> for Number<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.0.visit_str(text)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.0.visit_str(&number.to_string())
    }
}

/// A list, which may be empty.
pub(super) struct Many<T>(pub(super) Written<T>);

impl<'de, T> Visitor<'de> for Many<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list, each of it {}", self.0.expected)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.0.clone())? {
            values.push(value);
        }
        Ok(values)
    }
}

/// One value or a list of them that is not empty.
struct OneOrMany<T>(Written<T>);

impl<'de, T> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or a list of them", self.0.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        Ok(vec![self.0.visit_str(text)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
        let values = Many(self.0).visit_seq(list)?;
        if values.is_empty() {
            return Err(A::Error::custom(
                "an empty list matches nothing; give a value, or remove the line",
            ));
        }
        Ok(values)
    }
}

struct Count<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Count<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let number = u64::try_from(number).map_err(|_| E::custom(format!("{number} is below 1")))?;
        limit(number)
            .and_then(|number| T::try_from(number).map_err(|_| too_large(number)))
            .map_err(E::custom)
    }
}

fn read_command_line(text: &str) -> Result<CommandLine, String> {
    let mut words = shell_words::split(text)
        .map_err(|error| format!("`{}` is not a command line: {error}", visible(text)))?
        .into_iter();
    Ok(CommandLine {
        program: words.next().ok_or("a command line names a program")?,
        arguments: words.collect(),
    })
}

fn limit(number: u64) -> Result<u64, String> {
    match number {
        0 => Err("a limit of zero would refuse everything; write 1 or more, or remove the line".to_owned()),
        1..=LARGEST => Ok(number),
        _ => Err(too_large(number)),
    }
}

fn too_large(number: u64) -> String {
    format!("{number} is too large a limit; the largest is {LARGEST}")
}

fn read_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!(
            "`{}` is not a duration; write it as 500ms, 30s or 5m",
            text.escape_debug()
        )
    })?;
    if duration.is_zero() {
        return Err("a time limit of zero would refuse everything; write a longer one, or remove the line".to_owned());
    }
    if duration > LONGEST {
        return Err("a time limit is at most 365 days".to_owned());
    }
    Ok(duration)
}

fn read_bytes(text: &str) -> Result<usize, String> {
    let size: bytesize::ByteSize = text
        .parse()
        .map_err(|_| format!("`{}` is not a size; write it as 64KiB or 16MiB", text.escape_debug()))?;
    limit(size.as_u64()).and_then(|size| usize::try_from(size).map_err(|_| too_large(size)))
}

fn short(text: &str) -> Result<&str, String> {
    match text.len() {
        0 => Err("it is empty; write something, or remove the line".to_owned()),
        1..=TEXT_BYTES => Ok(text),
        _ => Err(format!("it is longer than {TEXT_BYTES} bytes")),
    }
}

fn read_name(text: &str) -> Result<String, String> {
    let fits = |c: char| !c.is_whitespace() && !c.is_control();
    if !short(text)?.chars().all(fits) {
        return Err(format!(
            "`{}` is not a name; write it without spaces",
            text.escape_debug()
        ));
    }
    Ok(text.to_owned())
}

fn read_sha256(text: &str) -> Result<String, String> {
    // The value is not repeated in the error: someone may have pasted the token itself.
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("it must be the SHA-256 of the token: 64 hexadecimal digits".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

fn read_pattern(text: &str) -> Result<String, String> {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c != '*' && c != ':' && !c.is_whitespace() && !c.is_control())
    };
    let fits = match short(text)?.split_once(':') {
        None => text == "*" || part(text),
        Some((kind, action)) => part(kind) && (action == "*" || part(action)),
    };
    if !fits {
        let text = text.escape_debug();
        return Err(format!(
            "`{text}` is not a pattern of calls; write `*`, `<kind>`, `<kind>:*` or `<kind>:<action>`"
        ));
    }
    Ok(text.to_owned())
}

fn glob(builder: &mut GlobBuilder<'_>) -> Result<Glob, String> {
    // The library repeats the glob as `error parsing glob '..': <reason>`.
    builder.build().map_err(|error| {
        format!(
            "`{}` is not a glob: {}",
            error.glob().unwrap_or_default().escape_debug(),
            error.kind()
        )
    })
}

fn read_path_glob(text: &str) -> Result<OneGlob, String> {
    let written = short(text)?.to_owned();
    if text.starts_with('/') || text.ends_with('/') || text.split('/').any(|part| part == "." || part == "..") {
        let text = text.escape_debug();
        return Err(format!(
            "`{text}` matches no path; paths are written from the root of the workspace, as in `src/**` or `src/*.rs`"
        ));
    }
    let mut compiled = vec![glob(GlobBuilder::new(text).literal_separator(true))?];
    // What holds for everything below a folder holds for the folder: else it could be listed or removed as a whole.
    if let Some(folder) = text.strip_suffix("/**") {
        compiled.push(glob(GlobBuilder::new(folder).literal_separator(true))?);
    }
    Ok(OneGlob { written, compiled })
}

fn read_word_glob(text: &str) -> Result<OneGlob, String> {
    Ok(OneGlob {
        written: short(text)?.to_owned(),
        compiled: vec![glob(&mut GlobBuilder::new(text))?],
    })
}

fn read_host_glob(text: &str) -> Result<OneGlob, String> {
    let written = short(text)?.to_owned();
    if text.contains('/') {
        let text = text.escape_debug();
        return Err(format!(
            "`{text}` matches no host; write the host alone, as in `api.example.com`"
        ));
    }
    Ok(OneGlob {
        written,
        compiled: vec![glob(GlobBuilder::new(text).case_insensitive(true))?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(globs: Result<OneGlob, String>, text: &str) -> bool {
        Globs::of(vec![globs.unwrap()]).unwrap().matches(text)
    }

    #[test]
    fn a_star_stays_inside_a_part_of_a_path_only() {
        for (glob, path, expected) in [
            ("src/*", "src/a", true),
            ("src/*", "src/a/b", false),
            ("src/**", "src/a/b", true),
            ("src/**", "src", true),
            ("src/**", "srcs", false),
            ("a,b/**", "a", false),
            ("**", "", true),
            ("**/*.md", "a.md", true),
            ("**/*.md", "docs/a.md", true),
        ] {
            assert_eq!(matches(read_path_glob(glob), path), expected, "{glob} over {path}");
        }
        assert!(matches(read_word_glob("gpt-*"), "gpt-4/turbo"));
        assert!(matches(read_word_glob("git *"), "git log a/b\nmore"));
        assert!(matches(read_host_glob("*.Example.com"), "api.example.com"));
    }

    #[test]
    fn every_refusal_says_what_to_write() {
        let errors = [
            read_duration("soon").unwrap_err(),
            read_duration("0s").unwrap_err(),
            read_duration("2years").unwrap_err(),
            read_bytes("much").unwrap_err(),
            read_bytes("0").unwrap_err(),
            read_bytes("2TiB").unwrap_err(),
            read_name("a b").unwrap_err(),
            read_name("").unwrap_err(),
            read_name(&"a".repeat(TEXT_BYTES + 1)).unwrap_err(),
            read_sha256("hunter2").unwrap_err(),
            read_pattern("fs*").unwrap_err(),
            read_path_glob("/etc/**").map(drop).unwrap_err(),
            read_path_glob("[").map(drop).unwrap_err(),
            read_host_glob("https://example.com").map(drop).unwrap_err(),
        ];
        assert_eq!(
            errors.join("\n"),
            "`soon` is not a duration; write it as 500ms, 30s or 5m
a time limit of zero would refuse everything; write a longer one, or remove the line
a time limit is at most 365 days
`much` is not a size; write it as 64KiB or 16MiB
a limit of zero would refuse everything; write 1 or more, or remove the line
2199023255552 is too large a limit; the largest is 1099511627776
`a b` is not a name; write it without spaces
it is empty; write something, or remove the line
it is longer than 1024 bytes
it must be the SHA-256 of the token: 64 hexadecimal digits
`fs*` is not a pattern of calls; write `*`, `<kind>`, `<kind>:*` or `<kind>:<action>`
`/etc/**` matches no path; paths are written from the root of the workspace, as in `src/**` or `src/*.rs`
`[` is not a glob: unclosed character class; missing ']'
`https://example.com` matches no host; write the host alone, as in `api.example.com`"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = read_duration(&text);
            let _ = read_bytes(&text);
            let _ = read_sha256(&text);
            let _ = read_path_glob(&text).and_then(|glob| Globs::of(vec![glob]));
            let _ = read_host_glob(&text);
            // A pattern that is accepted covers what it names.
            if let Ok(pattern) = read_pattern(&text) {
                let name: crate::call::CallName = match pattern.as_str() {
                    "*" => crate::call::CallName::new("any", None),
                    _ => pattern.parse().unwrap(),
                };
                prop_assert!(crate::call::covers(&pattern, &name));
            }
        }

        #[test]
        fn sizes_and_durations_read_what_they_say(seconds in 1u64..100_000, kib in 1u64..1_000_000) {
            prop_assert_eq!(read_duration(&format!("{seconds}s")), Ok(Duration::from_secs(seconds)));
            prop_assert_eq!(read_bytes(&format!("{kib}KiB")), Ok((kib << 10) as usize));
        }
    }
}
