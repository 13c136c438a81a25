//! What is told about two versions, and about two ids.

use std::cmp::Ordering;

use semver::Version;

/// Which of two versions is the newer one; none when nobody can tell.
pub(super) fn order(one: &str, other: &str) -> Option<Ordering> {
    if one == other {
        return Some(Ordering::Equal);
    }
    let (one, other) = (read(one)?, read(other)?);
    // Versions that differ in what counts for nothing are not newer or older.
    Some(one.cmp_precedence(&other)).filter(|order| order.is_ne())
}

/// Reads a version, also one that leaves out its last numbers.
fn read(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let missing = 2_usize.checked_sub(numbers.matches('.').count())?;
    Version::parse(&format!("{numbers}{}{rest}", ".0".repeat(missing))).ok()
}

/// The known id that somebody could take this one for.
pub(super) fn looks_like<'a>(id: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let known: Vec<&str> = known.filter(|other| *other != id).collect();
    let shape = shape(id);
    let same = known.iter().find(|other| self::shape(other) == shape).copied();
    same.or_else(|| similar::get_close_matches(id, &known, 1, 0.85).first().copied())
}

/// An id with what looks alike written alike.
fn shape(id: &str) -> String {
    let id = id.replace("rn", "m").replace("vv", "w").replace("cl", "d");
    id.chars()
        .filter(|c| *c != '-')
        .map(|c| match c {
            '0' => 'o',
            '1' | 'i' | 'j' => 'l',
            '5' => 's',
            '2' => 'z',
            '8' => 'b',
            '9' => 'g',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_compared_as_people_read_them() {
        for (one, other, expected) in [
            ("1", "1", Some(Ordering::Equal)),
            ("2", "1.9.9", Some(Ordering::Greater)),
            ("1.10", "1.9", Some(Ordering::Greater)),
            ("v1.0.1", "1.0.0", Some(Ordering::Greater)),
            ("1.0.0-rc.1", "1.0.0", Some(Ordering::Less)),
            ("1", "1.0.0", None),
            ("1.0.0+a", "1.0.0+b", None),
            ("spring", "1", None),
            ("spring", "spring", Some(Ordering::Equal)),
            ("1.2.3.4", "1", None),
        ] {
            assert_eq!(order(one, other), expected, "{one} and {other}");
        }
    }

    #[test]
    fn an_id_that_looks_like_another_is_found() {
        let known = ["builtin", "loop", "memory-store", "sandbox"];
        for (id, like) in [
            ("bui1tin", Some("builtin")),
            ("bullt1n", Some("builtin")),
            ("l00p", Some("loop")),
            ("rnemory-store", Some("memory-store")),
            ("memorystore", Some("memory-store")),
            ("sandbx", Some("sandbox")),
            ("builtin", None),
            ("weather", None),
        ] {
            assert_eq!(looks_like(id, known.into_iter()), like, "{id}");
        }
    }

    proptest! {
        #[test]
        fn the_order_turns_around(one in "v?[0-9a-z.+-]{0,8}", other in "v?[0-9a-z.+-]{0,8}") {
            prop_assert_eq!(order(&one, &other), order(&other, &one).map(Ordering::reverse));
        }
    }
}
