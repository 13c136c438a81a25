//! The contract against itself and against one that was changed in one place, which has to be found and named.

use proptest::prelude::*;
use wasm_encoder::{Component, Module};

use super::compare::compare;
use super::examine::{Asking, FINDINGS, examine};
use super::wit::PACKAGES;
use super::*;
use crate::bundled;
use crate::config::Grants;
use crate::plugin::Role;

mod frozen;

const ROLES: [Role; 4] = [Role::Handler, Role::Provider, Role::Agent, Role::Observer];

/// Everything of the contract that can change, each as one line of its text.
#[derive(Clone, Debug)]
struct Place {
    package: usize,
    line: usize,
    interface: String,
    /// The type around it; none for what stands in the interface itself.
    within: Option<(String, String)>,
    name: String,
}

/// The fields, cases and functions of the contract.
fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for (package, (_, text)) in PACKAGES.iter().enumerate() {
        let (mut interface, mut within, mut of_world) = (String::new(), None, false);
        for (line, text) in text.lines().enumerate() {
            let text = text.trim();
            let words: Vec<&str> = text.split([' ', '(', ':', ',']).collect();
            match words.as_slice() {
                ["world", ..] => of_world = true,
                ["interface", name, ..] => interface = (*name).to_owned(),
                [kind @ ("record" | "variant" | "enum" | "resource"), name, ..] if text.ends_with('{') => {
                    within = Some(((*kind).to_owned(), (*name).to_owned()));
                }
                ["}", ..] => within = None,
                [name, ..] if !of_world && !text.is_empty() && !text.starts_with("///") => {
                    let function = text.contains("func(");
                    let part = within.as_ref().is_some_and(|(kind, _)| kind != "resource") && text.ends_with(',');
                    if (function && text.ends_with(';')) || part {
                        places.push(Place {
                            package,
                            line,
                            interface: interface.clone(),
                            within: within.clone(),
                            name: name.trim_start_matches('%').to_owned(),
                        });
                    }
                }
                _ => {}
            }
        }
    }
    places
}

/// What is done to one line.
#[derive(Clone, Copy, Debug)]
enum Change {
    Remove,
    Rename,
    /// A field, case or function more.
    More,
    /// Another type, where there is one.
    Retype,
}

fn changed(place: &Place, change: Change) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = PACKAGES
        .iter()
        .map(|(name, text)| (*name, (*text).to_owned()))
        .collect();
    let text = &mut all[place.package].1;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines[place.line].clone();
    let kind = place.within.as_ref().map(|(kind, _)| kind.as_str());
    match change {
        Change::Remove => lines[place.line] = String::new(),
        Change::Rename => lines[place.line] = line.replacen(&place.name, "zz-renamed", 1).replacen('%', "", 1),
        Change::More => {
            let more = match kind {
                Some("record") => "zz-more: bool,",
                Some("variant" | "enum") => "zz-more,",
                _ => "zz-more: func(x: u8);",
            };
            lines[place.line].push_str(&format!("\n{more}"));
        }
        Change::Retype if line.contains("func(") => {
            lines[place.line] = line.replacen("func()", "func(zz: char)", 1);
            if lines[place.line] == line {
                lines[place.line] = line.replacen("func(", "func(zz: char, ", 1);
            }
        }
        Change::Retype => {
            let indent = "        ";
            lines[place.line] = match kind {
                Some("record") => format!("{indent}{}: char,", place.name),
                _ => format!("{indent}{}(char),", place.name),
            };
        }
    }
    *text = lines.join("\n");
    all
}

/// Both sides of a comparison: what this hub has, and the same with all of it used by a component.
fn findings(hub: &Contract, component: &Contract) -> Vec<Finding> {
    ROLES
        .iter()
        .flat_map(|role| compare(hub, component, &[role.export()]))
        .collect()
}

#[test]
fn the_packages_are_those_of_the_repository_and_all_that_is_in_them_is_found() {
    let hub = wit::read(&PACKAGES).unwrap();
    let names: Vec<String> = PACKAGES.iter().map(|(name, _)| format!("waypost:{name}")).collect();
    for name in &names {
        assert_eq!(hub.version(name).map(ToString::to_string).as_deref(), Some(VERSION));
    }
    let mut folders: Vec<String> = std::fs::read_dir("../wit")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "kinds")
        .map(|name| format!("waypost:{name}"))
        .collect();
    folders.sort();
    let mut sorted = names;
    sorted.sort();
    assert_eq!(sorted, folders);
    for role in ROLES {
        assert!(hub.exports.iter().any(|of| of.name == role.export()));
    }
    assert!(places().len() > 80, "{}", places().len());
}

#[test]
fn versions_fit_as_the_engine_has_it() {
    for (one, other, fit) in [
        ("0.1.0", "0.1.9", true),
        ("0.1.0", "0.2.0", false),
        ("0.0.1", "0.0.2", false),
        ("1.0.0", "1.7.2", true),
        ("1.0.0", "2.0.0", false),
        ("0.1.0", "1.1.0", false),
        ("0.1.0", "0.1.1-rc.1", false),
        ("0.1.1-rc.1", "0.1.1-rc.1", true),
    ] {
        let [one, other] = [one, other].map(|text| Version::parse(text).unwrap());
        assert_eq!((fits(&one, &other), fits(&other, &one)), (fit, fit), "{one} {other}");
    }
}

/// The contract of today, with this in its text instead of that.
fn with(instead: &str, this: &str) -> Contract {
    let packages = PACKAGES.map(|(name, text)| (name, text.replace(instead, this)));
    assert!(packages.iter().zip(PACKAGES).any(|((_, new), (_, old))| *new != old));
    wit::read(&packages).unwrap()
}

/// A later contract: more in what plugins import, of every kind that may be more.
fn later() -> Contract {
    let packages = PACKAGES.map(|(name, text)| {
        let text = text.replace("@0.1.0", "@0.1.1");
        let text = text.replace(
            "interface store {",
            "interface store {
                clear: func() -> result<_, call-error>;
                enum speed { slow, fast }
                how-fast: func() -> speed;
                resource lock { take: static func(key: string) -> lock; }
            ",
        );
        (
            name,
            text.replace("interface log {", "interface more { look: func(); }\ninterface log {"),
        )
    });
    wit::read(&packages).unwrap()
}

#[test]
fn a_later_version_with_more_in_it_takes_the_components_of_today() {
    let today = wit::read(&PACKAGES).unwrap();
    let later = later();
    for role in &later.exports {
        assert_eq!(compare(&later, &today, &[&role.name]), []);
    }
    // The other way round what is new is named, and the hub is the older side.
    let found = compare(&today, &later, &[]);
    let items: Vec<_> = found.iter().map(|of| (of.problem, of.older)).collect();
    assert!(
        !items.is_empty() && items.iter().all(|(_, older)| *older == Some(Side::Hub)),
        "{found:?}"
    );
    let problems: Vec<Problem> = items.into_iter().map(|(problem, _)| problem).collect();
    assert!(problems.contains(&Problem::Interface) && problems.contains(&Problem::FunctionMissing));
}

#[test]
fn another_version_is_named_once_for_each_interface_and_says_who_is_older() {
    let today = wit::read(&PACKAGES).unwrap();
    let other: Vec<_> = PACKAGES
        .iter()
        .map(|(name, text)| (*name, text.replace("@0.1.0", "@0.2.0")))
        .collect();
    let other = wit::read(&other).unwrap();
    for (hub, component, older) in [(&today, &other, Side::Hub), (&other, &today, Side::Component)] {
        let found = compare(hub, component, &[&hub.exports[0].name]);
        assert_eq!(found.len(), hub.imports.len() + 1, "{found:?}");
        for finding in found {
            assert_eq!(
                (finding.problem, finding.older),
                (Problem::Version, Some(older)),
                "{finding:?}"
            );
            assert!(finding.remedy.contains("the SDK"), "{finding:?}");
        }
    }
}

#[test]
fn the_components_of_this_binary_fit_their_own_contract() {
    for source in bundled::sources() {
        let source = source.unwrap();
        let grants = source.manifest.asks();
        let asking = Asking {
            manifest: Some(&source.manifest),
            grants: &grants,
            remedy: &|needed| needed.line.to_owned(),
        };
        let examined = examine(&source.bytes, &asking);
        assert_eq!(examined.findings, []);
        // Cut anywhere, it is told and nothing breaks.
        for at in [0, 4, 8, 100, source.bytes.len() / 2, source.bytes.len() - 1] {
            assert!(!examine(&source.bytes[..at], &asking).findings.is_empty(), "{at}");
        }
    }
}

#[test]
fn many_findings_are_cut_and_counted() {
    let imports: Vec<Interface> = (0..100)
        .map(|number| {
            let name = format!("acme:a{number}/b@1.0.0");
            Interface {
                path: Path::of(&name).unwrap(),
                name,
                functions: BTreeMap::new(),
                resources: BTreeSet::new(),
            }
        })
        .collect();
    let mut component = Component::new();
    let mut types = wasm_encoder::ComponentTypeSection::new();
    types.instance(&wasm_encoder::InstanceType::new());
    component.section(&types);
    let mut section = wasm_encoder::ComponentImportSection::new();
    for import in &imports {
        section.import(import.name.as_str(), wasm_encoder::ComponentTypeRef::Instance(0));
    }
    component.section(&section);
    let asking = Asking {
        manifest: None,
        grants: &Grants::default(),
        remedy: &|needed| needed.line.to_owned(),
    };
    let examined = examine(&component.finish(), &asking);
    assert_eq!((examined.findings.len(), examined.left_out), (FINDINGS, 101 - FINDINGS));
    assert!(examined.findings.iter().all(|of| of.problem == Problem::UnknownImport));
}

#[test]
fn what_is_no_component_is_told_by_what_it_is() {
    let asking = Asking {
        manifest: None,
        grants: &Grants::default(),
        remedy: &|needed| needed.line.to_owned(),
    };
    for (bytes, problem) in [
        (b"".to_vec(), Problem::NoWebassembly),
        (b"hello".to_vec(), Problem::NoWebassembly),
        (Module::new().finish(), Problem::Module),
        ([Component::new().finish(), vec![1, 0xff]].concat(), Problem::Broken),
        (Component::new().finish(), Problem::Export),
    ] {
        let found = examine(&bytes, &asking).findings;
        assert_eq!(found.iter().map(|of| of.problem).collect::<Vec<_>>(), [problem]);
    }
}

proptest! {
    #[test]
    fn one_change_of_one_item_is_found_and_named(
        place in proptest::sample::select(places()),
        change in proptest::sample::select(vec![Change::Remove, Change::Rename, Change::More, Change::Retype]),
        theirs in any::<bool>(),
    ) {
        // An enum or a variant without a case is no WIT; a name that is taken needs no other.
        let Ok(other) = wit::read(&changed(&place, change)) else { return Ok(()) };
        let hub = wit::read(&PACKAGES).unwrap();
        prop_assert_eq!(findings(&hub, &hub), []);
        let found = if theirs { findings(&hub, &other) } else { findings(&other, &hub) };
        let named = match change { Change::More => "zz-more", _ => place.name.as_str() };
        let role = hub.exports.iter().any(|of| of.path.interface == place.interface);
        let function = place.within.as_ref().is_none_or(|(kind, _)| kind == "resource");
        // A function that only the side has which is not asked for it does no harm.
        let harmless = function && match change {
            Change::Remove => theirs != role,
            Change::More => theirs == role,
            _ => false,
        };
        if harmless {
            prop_assert_eq!(found, []);
            return Ok(());
        }
        let renamed = |text: &str| matches!(change, Change::Rename) && text.contains("zz-renamed");
        let is_it = |of: &Finding| {
            let texts = [of.item.as_deref(), of.part.as_deref()];
            let of_interface = of.interface.as_deref() == Some(place.interface.as_str());
            let of_type = place.within.as_ref().is_none_or(|(kind, name)| kind == "resource" || of.item.as_deref() == Some(name));
            let by_name = texts.into_iter().flatten().any(|text| {
                text == named || text.ends_with(&format!(".{named}")) || renamed(text)
            });
            of_interface && of_type && by_name
        };
        prop_assert!(found.iter().any(is_it), "{:?} {:?}: {:?}", place, change, found);
        // Nothing else is blamed.
        prop_assert!(found.iter().all(is_it), "{:?} {:?}: {:?}", place, change, found);
        // Where a side has more, the other is older.
        if matches!(change, Change::More) {
            let older = if theirs { Side::Hub } else { Side::Component };
            prop_assert!(found.iter().all(|of| of.older == Some(older)), "{:?}", found);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(at in any::<proptest::sample::Index>(), with in any::<[u8; 4]>(), length in 0_usize..5) {
        let source = bundled::sources().next().unwrap().unwrap();
        let mut bytes = source.bytes.to_vec();
        let at = at.index(bytes.len() - 8) + 4;
        bytes.splice(at..at + 4, with.into_iter().take(length));
        let asking = Asking {
            manifest: None,
            grants: &Grants::default(),
            remedy: &|needed| needed.line.to_owned(),
        };
        let examined = examine(&bytes, &asking);
        prop_assert!(examined.findings.len() <= FINDINGS);
        prop_assert!(examined.findings.iter().all(|of| of.text.len() < 2_000 && !of.remedy.is_empty()));
    }
}
