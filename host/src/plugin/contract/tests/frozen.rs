//! What was frozen in `tests/contracts`, held against the contract of this hub and against one that has more in it.

use std::fs;
use std::path::PathBuf;

use super::*;

/// The frozen contracts that this one stands for, each with its folder.
fn frozen() -> Vec<(Contract, PathBuf)> {
    let now = Version::parse(VERSION).unwrap();
    let folders = fs::read_dir("../tests/contracts")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let fitting = folders.filter(|folder| {
        let name = folder.file_name().unwrap().to_string_lossy();
        folder.is_dir() && fits(&Version::parse(&name).unwrap(), &now)
    });
    let all: Vec<_> = fitting.map(|folder| (text(&folder), folder)).collect();
    assert!(!all.is_empty(), "nothing is frozen");
    all
}

/// The contract of a folder: its packages, each behind those that it uses.
fn text(folder: &std::path::Path) -> Contract {
    let mut packages: Vec<(String, String)> = fs::read_dir(folder.join("wit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    packages.sort_by_key(|(name, _)| (name == "plugin", name != "call", name.clone()));
    let packages: Vec<(&str, &str)> = packages.iter().map(|(name, text)| (&**name, &**text)).collect();
    wit::read(&packages).unwrap()
}

/// The frozen components of a folder.
fn components(folder: &std::path::Path) -> Vec<(Role, Contract)> {
    let read = |role: Role| {
        let bytes = fs::read(folder.join(role.as_str()).with_extension("wasm")).unwrap();
        let read = component::read(&bytes).map_err(|broken| broken.text);
        (role, read.unwrap())
    };
    ROLES.into_iter().map(read).collect()
}

#[test]
fn what_was_frozen_is_still_there_as_it_was() {
    let hub = Contract::hub();
    for (contract, folder) in frozen() {
        assert_eq!(findings(hub, &contract), [], "{}", folder.display());
        for (role, component) in components(&folder) {
            let found = compare(hub, &component, &[role.export()]);
            assert_eq!(found, [], "the {} of {}", role.as_str(), folder.display());
        }
    }
}

#[test]
fn components_of_today_fit_a_hub_that_has_more_and_not_one_that_changed_something() {
    let (later, changed) = (
        super::later(),
        super::with("get: func(key: string)", "get: func(key: list<u8>)"),
    );
    for (_, folder) in frozen() {
        let mut used = 0;
        for (role, component) in components(&folder) {
            assert_eq!(compare(&later, &component, &[role.export()]), [], "{}", role.as_str());
            let found = compare(&changed, &component, &[role.export()]);
            used += found.len();
            assert!(found.iter().all(|of| of.item.as_deref() == Some("get")), "{found:?}");
        }
        assert_eq!(used, 1, "the handler reads what it keeps");
    }
}
