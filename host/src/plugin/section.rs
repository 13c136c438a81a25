//! The manifest inside a component: a custom section, so that a plugin is one file and its digest covers both.
//!
//! Only a section of the component itself counts; components and modules within it may hold what they like. Not here: what a
//! manifest says (`manifest.rs`).

use std::borrow::Cow;

use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Encoding, Parser, Payload};

use crate::error::{Blame, Error, ErrorKind, Result};

/// The name of the section.
pub const NAME: &str = "waypost:manifest";

/// The manifest inside these bytes; none when there is none, or when they are not a component.
pub fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<Option<&'a str>> {
    let mut found = None;
    // What comes after a mistake is left to the engine, which says what it is.
    for section in own(bytes).0 {
        if found.is_some() {
            return Err(wrong(format!(
                "{file} holds more than one manifest; build it again with `waypost plugin build`"
            )));
        }
        let text = bytes.get(section.content).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| {
            wrong(format!(
                "the manifest inside {file} is not text; build it again with `waypost plugin build`"
            ))
        })?;
        found = Some(text);
    }
    Ok(found)
}

/// A component with this manifest inside, instead of any that it had.
pub fn write(file: &str, bytes: &[u8], manifest: &str) -> Result<Vec<u8>> {
    if !is_component(bytes) {
        return Err(wrong(format!(
            "{file} is not a WebAssembly component; build it for `wasm32-wasip2`"
        )));
    }
    let (sections, broken) = own(bytes);
    if let Some(error) = broken {
        return Err(wrong(format!("{file} is not a whole WebAssembly component: {error}")));
    }
    let mut made = Vec::with_capacity(bytes.len() + manifest.len() + 32);
    let mut from = 0;
    for section in sections {
        made.extend_from_slice(bytes.get(from..section.whole.start).unwrap_or_default());
        from = section.whole.end;
    }
    made.extend_from_slice(bytes.get(from..).unwrap_or_default());
    let section = CustomSection {
        name: Cow::Borrowed(NAME),
        data: Cow::Borrowed(manifest.as_bytes()),
    };
    section.append_to_component(&mut made);
    Ok(made)
}

/// Whether these bytes begin as a component does.
pub fn is_component(bytes: &[u8]) -> bool {
    Parser::is_component(bytes)
}

struct Own {
    /// With its id and its length.
    whole: std::ops::Range<usize>,
    content: std::ops::Range<usize>,
}

/// The manifest sections of the component itself, up to where its bytes make sense; and what is wrong there.
fn own(bytes: &[u8]) -> (Vec<Own>, Option<String>) {
    let mut found = Vec::new();
    let (mut depth, mut end) = (0_usize, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => return (found, Some(error.to_string())),
        };
        let start = end;
        match &payload {
            Payload::Version { encoding, range, .. } => {
                if depth == 0 && *encoding != Encoding::Component {
                    break;
                }
                depth += 1;
                end = range.end;
            }
            // The parser takes what there is, and would take what is put behind it as a part of this.
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. }
                if unchecked_range.end > bytes.len() =>
            {
                return (found, Some("a section goes beyond its end".to_owned()));
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 1 && section.name() == NAME => {
                end = section.range().end;
                found.push(Own {
                    whole: start..end,
                    content: section.data_offset()..end,
                });
            }
            payload => {
                if let Some((_, range)) = payload.as_section() {
                    end = range.end;
                }
            }
        }
    }
    (found, None)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message).blame(Blame::Plugin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wasm_encoder::{Component, Module, ModuleSection};

    fn custom(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let section = CustomSection {
            name: name.into(),
            data: data.into(),
        };
        section.append_to_component(&mut bytes);
        bytes
    }

    /// A component of these parts; a part is a section of another name, or a module that holds a manifest of its own.
    fn component(parts: &[bool]) -> Vec<u8> {
        let mut component = Component::new();
        for &module in parts {
            if module {
                let mut inner = Module::new();
                inner.section(&CustomSection {
                    name: NAME.into(),
                    data: b"id = \"inner\"".into(),
                });
                component.section(&ModuleSection(&inner));
            } else {
                component.section(&CustomSection {
                    name: "name".into(),
                    data: b"other".into(),
                });
            }
        }
        component.finish()
    }

    #[test]
    fn what_is_no_component_has_no_manifest_and_gets_none() {
        for bytes in [b"".as_slice(), b"hello", b"\0asm\x01\0\0\0", &Module::new().finish()] {
            assert_eq!(read("x.wasm", bytes).unwrap(), None);
            assert_eq!(
                write("x.wasm", bytes, "").unwrap_err().to_string(),
                "x.wasm is not a WebAssembly component; build it for `wasm32-wasip2`"
            );
        }
    }

    #[test]
    fn two_manifests_and_one_that_is_no_text_are_refused() {
        let mut twice = component(&[]);
        twice.extend(custom(NAME, b"a"));
        twice.extend(custom(NAME, b"b"));
        assert_eq!(
            read("x.wasm", &twice).unwrap_err().to_string(),
            "x.wasm holds more than one manifest; build it again with `waypost plugin build`"
        );
        let mut odd = component(&[]);
        odd.extend(custom(NAME, b"\xff"));
        assert_eq!(
            read("x.wasm", &odd).unwrap_err().to_string(),
            "the manifest inside x.wasm is not text; build it again with `waypost plugin build`"
        );
        let whole = write("x.wasm", &twice, "c").unwrap();
        assert_eq!(read("x.wasm", &whole).unwrap(), Some("c"));
    }

    #[test]
    fn what_is_broken_gets_no_manifest() {
        // It could not be read back behind the mistake.
        let mut broken = component(&[true]);
        broken.extend([1, 0xff]);
        let error = write("x.wasm", &broken, "a").unwrap_err().to_string();
        assert!(
            error.starts_with("x.wasm is not a whole WebAssembly component: "),
            "{error}"
        );
        assert_eq!(read("x.wasm", &broken).unwrap(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else_changes(
            parts in proptest::collection::vec(any::<bool>(), 0..4), first in ".{0,40}", second in ".{0,300}",
        ) {
            let bytes = component(&parts);
            prop_assert_eq!(read("x", &bytes).unwrap(), None);
            let once = write("x", &bytes, &first).unwrap();
            prop_assert_eq!(read("x", &once).unwrap(), Some(first.as_str()));
            prop_assert!(once.starts_with(&bytes));
            let twice = write("x", &once, &second).unwrap();
            prop_assert_eq!(&twice, &write("x", &bytes, &second).unwrap());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), whole in any::<bool>()) {
            let mut all = if whole { component(&[true]) } else { Vec::new() };
            all.extend(bytes);
            drop(read("x", &all));
            if let Ok(made) = write("x", &all, "m") {
                prop_assert_eq!(read("x", &made).unwrap(), Some("m"));
            }
        }
    }
}
