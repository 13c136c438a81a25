//! Two answers to one call: whether they are the same, and where they differ.
//!
//! JSON is compared by what it says: the order of fields, white space and the way in which a number is written do not matter.
//! Chunks count by what they are together, so that two handlers may cut one text in different places. Errors count by kind:
//! their words are for people.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Number, Value};

use crate::call::{CallError, Json};

/// The most places that are named of one difference.
const PLACES: usize = 8;

/// One answer: the chunks and the end.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) chunks: &'a [Json],
    pub(super) end: &'a Result<Json, CallError>,
}

/// What came of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Different(Vec<Place>),
    /// The caller got an answer and the shadow an error.
    Failed(Vec<Place>),
}

/// A place in which two answers differ, and what stands there in each; none where nothing does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Where: `reply` or `chunks`, followed by a JSON pointer (RFC 6901); or `error`.
    pub path: String,
    /// What the caller got.
    pub caller: Option<String>,
    /// What the shadow said.
    pub shadow: Option<String>,
}

/// Compares what the caller got with what the shadow said.
pub(super) fn compare(caller: &Answer<'_>, shadow: &Answer<'_>) -> Verdict {
    let mut places = Vec::new();
    match (caller.end, shadow.end) {
        (Ok(one), Ok(other)) => {
            let together = |chunks: &[Json]| joined(chunks.iter().map(value).collect());
            if caller.chunks != shadow.chunks {
                differ(
                    "chunks",
                    &together(caller.chunks),
                    &together(shadow.chunks),
                    &mut places,
                );
            }
            if one != other {
                differ("reply", &value(one), &value(other), &mut places);
            }
            if places.is_empty() {
                Verdict::Same
            } else {
                Verdict::Different(places)
            }
        }
        (Err(one), Err(other)) if one.kind == other.kind => Verdict::Same,
        (Ok(one), Err(other)) => {
            places.push(place("error", Some(one.as_str().to_owned()), Some(other.to_string())));
            Verdict::Failed(places)
        }
        (Err(one), Ok(other)) => {
            places.push(place("error", Some(one.to_string()), Some(other.as_str().to_owned())));
            Verdict::Different(places)
        }
        (Err(one), Err(other)) => {
            places.push(place("error", Some(one.to_string()), Some(other.to_string())));
            Verdict::Different(places)
        }
    }
}

fn place(path: &str, caller: Option<String>, shadow: Option<String>) -> Place {
    Place {
        path: path.to_owned(),
        caller,
        shadow,
    }
}

/// The tree of a text. A text that has none, as one with a number beyond all bounds, counts as itself.
fn value(json: &Json) -> Value {
    serde_json::from_str(json.as_str()).unwrap_or_else(|_| Value::String(json.as_str().to_owned()))
}

/// Chunks as they are together: texts in a row are one text, lists in a row one list.
fn joined(chunks: Vec<Value>) -> Value {
    let mut together: Vec<Value> = Vec::new();
    for chunk in chunks {
        match (together.last_mut(), chunk) {
            (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
            (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
            (_, chunk) => together.push(chunk),
        }
    }
    Value::Array(together)
}

/// Names the places in which two values differ, as far as there is room. The depth of both is bounded (`JSON_DEPTH`).
fn differ(path: &str, caller: &Value, shadow: &Value, places: &mut Vec<Place>) {
    if places.len() >= PLACES {
        return;
    }
    match (caller, shadow) {
        (Value::Object(one), Value::Object(other)) => {
            for (name, there) in one {
                let path = below(path, name);
                match other.get(name) {
                    Some(here) => differ(&path, there, here, places),
                    None => lacks(&path, Some(there), None, places),
                }
            }
            for (name, here) in other.iter().filter(|(name, _)| !one.contains_key(*name)) {
                lacks(&below(path, name), None, Some(here), places);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for position in 0..one.len().max(other.len()) {
                let path = below(path, &position.to_string());
                match (one.get(position), other.get(position)) {
                    (Some(there), Some(here)) => differ(&path, there, here, places),
                    (there, here) => lacks(&path, there, here, places),
                }
            }
        }
        (Value::Number(one), Value::Number(other)) if same_number(one, other) => {}
        (one, other) if one == other => {}
        (one, other) => lacks(path, Some(one), Some(other), places),
    }
}

fn lacks(path: &str, caller: Option<&Value>, shadow: Option<&Value>, places: &mut Vec<Place>) {
    if places.len() < PLACES {
        places.push(place(path, caller.map(Value::to_string), shadow.map(Value::to_string)));
    }
}

/// Whether two numbers are the same, however they are written.
fn same_number(one: &Number, other: &Number) -> bool {
    match (one.is_f64(), other.is_f64()) {
        (false, false) => one == other,
        _ => one.as_f64() == other.as_f64(),
    }
}

/// A JSON pointer with one more part.
fn below(path: &str, name: &str) -> String {
    let mut path = path.to_owned();
    // Writing to a string cannot fail.
    let _ = write!(path, "/{}", name.replace('~', "~0").replace('/', "~1"));
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;
    use serde_json::json;

    fn parsed(texts: &[&str]) -> Vec<Json> {
        texts.iter().map(|text| Json::parse(text).unwrap()).collect()
    }

    /// Compares an answer with chunks; the last of each is the end.
    fn compared(one: &[&str], other: &[&str]) -> Verdict {
        let (mut one, mut other) = (parsed(one), parsed(other));
        let (end, other_end) = (Ok(one.pop().unwrap()), Ok(other.pop().unwrap()));
        compare(
            &Answer {
                chunks: &one,
                end: &end,
            },
            &Answer {
                chunks: &other,
                end: &other_end,
            },
        )
    }

    fn different(places: &[(&str, Option<&str>, Option<&str>)]) -> Verdict {
        let places = places.iter().map(|(path, one, other)| {
            let text = |value: &Option<&str>| value.map(str::to_owned);
            place(path, text(one), text(other))
        });
        Verdict::Different(places.collect())
    }

    #[test]
    fn what_json_says_counts_and_not_how() {
        for (one, other) in [
            (r#"{"a":1,"b":[2]}"#, "{ \"b\" : [ 2.0 ] , \"a\" : 1e0 }"),
            (r#""\u00e9\/""#, r#""é/""#),
            ("-0", "0.0"),
            ("1e400", "1e400"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        ] {
            assert_eq!(compared(&[one], &[other]), Verdict::Same, "{one} {other}");
        }
        assert_eq!(
            compared(&["9007199254740993"], &["9007199254740992"]),
            different(&[("reply", Some("9007199254740993"), Some("9007199254740992"))])
        );
        assert_eq!(
            compared(&["[1e400]"], &["[2e400]"]),
            different(&[("reply", Some("\"[1e400]\""), Some("\"[2e400]\""))])
        );
    }

    #[test]
    fn places_are_named_and_only_so_many() {
        assert_eq!(
            compared(
                &[r#"{"items":[{"a/b":1,"c~":null,"same":0},2],"old":true}"#],
                &[r#"{"items":[{"a/b":"1","same":0}],"new":{}}"#]
            ),
            different(&[
                ("reply/items/0/a~1b", Some("1"), Some("\"1\"")),
                ("reply/items/0/c~0", Some("null"), None),
                ("reply/items/1", Some("2"), None),
                ("reply/old", Some("true"), None),
                ("reply/new", None, Some("{}")),
            ])
        );
        let (many, none) = (json!(vec![0; 100]).to_string(), json!(vec![1; 100]).to_string());
        let Verdict::Different(places) = compared(&[&many], &[&none]) else {
            panic!("they differ");
        };
        assert_eq!((places.len(), places[7].path.as_str()), (PLACES, "reply/7"));
        let mut places = places;
        lacks("reply", None, None, &mut places);
        assert_eq!(places.len(), PLACES);
    }

    #[test]
    fn chunks_count_together() {
        for (one, other) in [
            (&["\"a\"", "\"bc\"", "1"][..], &["\"ab\"", "\"c\"", "1"][..]),
            (&["[1]", "[2,3]", "1"], &["[1,2]", "[3]", "1"]),
            (&["{\"n\":1}", "{\"n\":2}", "1"], &["{ \"n\":1 }", "{\"n\":2.0}", "1"]),
        ] {
            assert_eq!(compared(one, other), Verdict::Same, "{one:?} {other:?}");
        }
        assert_eq!(
            compared(&["{\"n\":1}", "\"x\"", "1"], &["{\"n\":2}", "1"]),
            different(&[("chunks/0/n", Some("1"), Some("2")), ("chunks/1", Some("\"x\""), None)])
        );
    }

    #[test]
    fn errors_count_by_kind() {
        let failed = |kind, text: &str| Err(CallError::new(kind, text));
        let answered = Ok(Json::parse("1").unwrap());
        let ends = |caller: &Result<Json, CallError>, shadow: &Result<Json, CallError>| {
            let chunks = &[];
            compare(&Answer { chunks, end: caller }, &Answer { chunks, end: shadow })
        };
        let (missing, gone, denied) = (
            failed(ErrorKind::NotFound, "no"),
            failed(ErrorKind::NotFound, "gone"),
            failed(ErrorKind::Denied, "no"),
        );
        assert_eq!(ends(&missing, &gone), Verdict::Same);
        assert_eq!(
            ends(&missing, &denied),
            different(&[("error", Some("not-found: no"), Some("denied: no"))])
        );
        assert_eq!(
            ends(&missing, &answered),
            different(&[("error", Some("not-found: no"), Some("1"))])
        );
        let Verdict::Failed(places) = ends(&answered, &denied) else {
            panic!("it failed");
        };
        assert_eq!(
            places,
            [place("error", Some("1".to_owned()), Some("denied: no".to_owned()))]
        );
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(Value::from),
            "[a-c~/\"\\\\]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c~/]{0,2}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// A tree written out of order, with spaces.
    fn written_otherwise(value: &Value) -> String {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().rev();
                let fields: Vec<String> = fields
                    .map(|(name, value)| format!(" {} : {}", Value::from(name.as_str()), written_otherwise(value)))
                    .collect();
                format!("{{{}}}", fields.join(" ,"))
            }
            Value::Array(list) => {
                let list: Vec<String> = list.iter().map(written_otherwise).collect();
                format!("[ {} ]", list.join(" , "))
            }
            Value::Number(number) if number.is_i64() && number.as_i64().unwrap().abs() < 1 << 50 => {
                format!("{number}.0")
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn a_tree_is_itself_however_it_is_written(tree in tree()) {
            prop_assert_eq!(compared(&[&tree.to_string()], &[&written_otherwise(&tree)]), Verdict::Same);
        }

        /// A place that is named is one where the two do differ, and two that differ have one.
        #[test]
        fn places_are_where_they_differ(one in tree(), other in tree()) {
            let verdict = compared(&[&one.to_string()], &[&other.to_string()]);
            let Verdict::Different(places) = verdict else {
                return Ok(());
            };
            prop_assert!(!places.is_empty() && places.len() <= PLACES);
            for found in places {
                let pointer = found.path.strip_prefix("reply").unwrap();
                let at = |value: &Value| value.pointer(pointer).map(Value::to_string);
                prop_assert_eq!((at(&one), at(&other)), (found.caller.clone(), found.shadow.clone()));
                prop_assert_ne!(found.caller, found.shadow);
            }
        }
    }
}
