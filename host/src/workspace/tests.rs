use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::files::Stop;
use super::walk::{Next, Show, walk};
use super::*;

pub(super) const GO: Stop<'static> = &|| Ok(());

/// A project folder with a secret beside it, which nothing may reach.
pub(super) fn house() -> (tempfile::TempDir, Workspace) {
    let house = tempfile::tempdir().unwrap();
    let root = house.path().join("project");
    for folder in ["src/deep", ".codebolt", ".waypost", ".git/hooks", "vendor/lib/.git"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in [
        "src/main.rs",
        "waypost.toml",
        ".codebolt/rules.json",
        ".waypost/log",
        ".git/config",
        "vendor/lib/a.c",
    ] {
        fs::write(root.join(file), file).unwrap();
    }
    fs::create_dir(house.path().join("outside")).unwrap();
    fs::write(house.path().join("outside/secret"), "secret").unwrap();
    let workspace = Workspace::open(&root).unwrap();
    (house, workspace)
}

pub(super) fn text<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

/// Every path that a walk shows.
pub(super) fn names(workspace: &Workspace) -> Vec<String> {
    let mut names = Vec::new();
    walk(
        workspace,
        "",
        Show {
            gitignore: true,
            hidden: true,
        },
        GO,
        &mut |entry| {
            names.push(entry.path.to_owned());
            Ok(Next::Into)
        },
    )
    .unwrap();
    names
}

#[test]
fn a_missing_workspace_names_itself() {
    let error = Workspace::open(Path::new("/nowhere/at/all")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        "the workspace /nowhere/at/all cannot be opened; name an existing folder"
    );
}

#[test]
fn every_spelling_has_one_canonical_path() {
    let (_house, workspace) = house();
    let root = workspace.root().to_str().unwrap().to_owned();
    let table = [
        ("", ""),
        (".", ""),
        ("./", ""),
        ("a/..", ""),
        ("a", "a"),
        ("./a//b/", "a/b"),
        ("a/./b/../c", "a/c"),
        ("a b/ü/…", "a b/ü/…"),
        ("~/a", "~/a"),
        ("CON", "CON"),
        ("-rf", "-rf"),
        ("...", "..."),
    ];
    for (written, canonical) in table {
        assert_eq!(workspace.canonical(written).unwrap(), canonical, "{written}");
    }
    assert_eq!(workspace.canonical(&root).unwrap(), "");
    assert_eq!(workspace.canonical(&format!("{root}/")).unwrap(), "");
    assert_eq!(workspace.canonical(&format!("{root}//src/../a")).unwrap(), "a");
    assert_eq!(
        workspace.canonical(&format!("/../{}", &root[1..])).unwrap_err().kind,
        ErrorKind::Denied
    );
    assert_eq!(
        workspace.canonical(&format!("{root}2/a")).unwrap_err().kind,
        ErrorKind::Denied
    );
    assert_eq!(
        workspace
            .canonical(&format!("{root}/../outside/secret"))
            .unwrap_err()
            .kind,
        ErrorKind::Denied
    );
}

#[test]
fn a_workspace_opened_through_a_link_accepts_both_names() {
    let (house, _) = house();
    symlink("project", house.path().join("alias")).unwrap();
    let workspace = Workspace::open(&house.path().join("alias")).unwrap();
    assert_eq!(
        workspace
            .canonical(house.path().join("alias/a").to_str().unwrap())
            .unwrap(),
        "a"
    );
    assert_eq!(
        workspace
            .canonical(workspace.root().join("a").to_str().unwrap())
            .unwrap(),
        "a"
    );
}

#[test]
fn what_is_no_path_is_refused_with_its_reason() {
    let (_house, workspace) = house();
    let table = [
        ("..".to_owned(), "denied: `..` is outside the workspace"),
        ("a/../..".to_owned(), "denied: `a/../..` is outside the workspace"),
        (
            "../project/a".to_owned(),
            "denied: `../project/a` is outside the workspace",
        ),
        ("/".to_owned(), "denied: `/` is outside the workspace"),
        (
            "/etc/passwd".to_owned(),
            "denied: `/etc/passwd` is outside the workspace",
        ),
        ("/nowhere".to_owned(), "denied: `/nowhere` is outside the workspace"),
        (
            "a\0b".to_owned(),
            "invalid: `a\\0b` contains a control character; a path cannot",
        ),
        (
            "a\nb".to_owned(),
            "invalid: `a\\nb` contains a control character; a path cannot",
        ),
        (
            "a\u{7f}".to_owned(),
            "invalid: `a\\u{7f}` contains a control character; a path cannot",
        ),
        (
            "a\\b".to_owned(),
            "invalid: `a\\b` contains a backslash; write `/` between parts",
        ),
        (
            "\\\\host\\share".to_owned(),
            "invalid: `\\\\host\\share` contains a backslash; write `/` between parts",
        ),
        (
            "a/".repeat(2049),
            "invalid: the path is longer than 4096 bytes; use a shorter one",
        ),
        (
            format!("a/{}", "b".repeat(256)),
            "invalid: the part `bbbbbbbbbbbbbbbbbbbb…` of a path is longer than 255 bytes; use a shorter one",
        ),
    ];
    for (written, error) in table {
        assert_eq!(text(workspace.canonical(&written)), error);
    }
}

#[test]
fn protected_places_are_known_in_every_spelling() {
    let protected = [
        ".codebolt",
        ".codebolt/x",
        ".CODEBOLT/x",
        ".CodeBolt",
        "a/.codebolt/x",
        ".waypost/log",
        ".git",
        ".GIT/hooks/pre-commit",
        "vendor/.git/config",
        "waypost.toml",
        "WAYPOST.lock",
        "waypost.d/x",
        ".wayPo\u{17f}t",
    ];
    for path in protected {
        assert!(Workspace::protected(path), "{path}");
    }
    for path in [
        "",
        "src/a",
        ".gitignore",
        ".github/x",
        "a/waypost.toml",
        "waypost",
        "codebolt/x",
        "x.codebolt",
    ] {
        assert!(!Workspace::protected(path), "{path}");
    }
}

#[test]
fn nothing_protected_is_written_however_it_is_reached() {
    let (_house, workspace) = house();
    let root = workspace.root();
    symlink(".codebolt", root.join("rules")).unwrap();
    symlink("../.codebolt", root.join("src/rules")).unwrap();
    symlink("src/rules", root.join("twice")).unwrap();
    symlink("waypost.toml", root.join("innocent.txt")).unwrap();
    symlink(".waypost", root.join("state")).unwrap();
    symlink(".git", root.join("repo")).unwrap();
    symlink(".codebolt/new.json", root.join("dangling")).unwrap();
    let paths = [
        ".codebolt/rules.json",
        ".Codebolt/x",
        "waypost.toml",
        "waypost.lock",
        ".git/hooks/post-checkout",
        ".git/config",
        "rules/rules.json",
        "src/rules/x",
        "twice/x",
        "innocent.txt",
        "repo/config",
        "dangling",
        "vendor/lib/.git/config",
    ];
    for path in paths {
        let expected =
            format!("denied: `{path}` is protected: rules, hub state and git's own files are not changed by a call");
        assert_eq!(text(workspace.writable(path)), expected);
        assert_eq!(text(workspace.write(path, b"evil", GO)), expected);
        assert_eq!(text(workspace.create_folder(path)), expected);
    }
    for path in [
        ".waypost/log",
        "state/log",
        "state/new",
        ".WAYPOST/log",
        "src/.waypost/x",
    ] {
        let read = text(workspace.read(path, 100, GO));
        assert_eq!(
            read,
            format!("denied: `{path}` belongs to the hub and is not open to calls")
        );
        assert!(workspace.writable(path).is_err(), "{path}");
    }
    assert_eq!(fs::read_to_string(root.join("waypost.toml")).unwrap(), "waypost.toml");
    assert_eq!(
        fs::read_to_string(root.join(".codebolt/rules.json")).unwrap(),
        ".codebolt/rules.json"
    );
    assert_eq!(
        workspace.read(".codebolt/rules.json", 100, GO).unwrap(),
        b".codebolt/rules.json"
    );
}

#[test]
fn links_that_leave_answer_the_same_whether_or_not_something_is_there() {
    let (house, workspace) = house();
    let root = workspace.root();
    symlink(house.path().join("outside/secret"), root.join("absolute")).unwrap();
    symlink("../outside/secret", root.join("relative")).unwrap();
    symlink("../outside/nothing", root.join("nothing")).unwrap();
    symlink("../outside", root.join("folder")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink("src/../../outside/secret", root.join("winding")).unwrap();
    for path in [
        "absolute",
        "relative",
        "nothing",
        "folder/secret",
        "folder/nothing",
        "magic/etc",
        "winding",
    ] {
        let outside = format!("denied: `{path}` is outside the workspace");
        assert_eq!(text(workspace.read(path, 100, GO)), outside);
        assert_eq!(text(workspace.write(path, b"evil", GO)), outside);
        assert_eq!(text(workspace.open_folder(path)), outside);
    }
    assert_eq!(
        fs::read_to_string(house.path().join("outside/secret")).unwrap(),
        "secret"
    );
}

#[test]
fn links_inside_are_followed_to_their_real_place() {
    let (_house, workspace) = house();
    let root = workspace.root();
    symlink("src/deep", root.join("short")).unwrap();
    symlink("short/../main.rs", root.join("main")).unwrap();
    symlink("deep/..", root.join("src/here")).unwrap();
    symlink("new/file", root.join("later")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink(".", root.join("self")).unwrap();
    let real = |path: &str| {
        text(
            workspace
                .locate(path, Last::Followed)
                .map(|place| place.real().to_owned()),
        )
    };
    assert_eq!(real("main"), "\"src/main.rs\"");
    assert_eq!(real("src/here"), "\"src\"");
    assert_eq!(real("src/here/here/main.rs"), "\"src/main.rs\"");
    assert_eq!(real("self/self/src"), "\"src\"");
    assert_eq!(real("self"), "\"\"");
    assert_eq!(real("loop"), "invalid: `loop` goes through more than 40 links");
    assert_eq!(
        real("src/main.rs/x"),
        "invalid: `src/main.rs/x` goes through `src/main.rs`, which is not a folder"
    );
    assert!(workspace.write("later", b"x", GO).unwrap().is_new);
    assert_eq!(fs::read_to_string(root.join("new/file")).unwrap(), "x");
    assert_eq!(text(workspace.open_folder("main")), "invalid: `main` is not a folder");
    assert_eq!(text(workspace.open_folder("none")), "not-found: `none` does not exist");
}

/// One thread swaps a folder for links to outside and to a protected place, another reads and writes through it.
#[test]
fn a_swapped_link_never_leads_out() {
    let (house, workspace) = house();
    let root = workspace.root().to_owned();
    fs::write(root.join("src/secret"), "harmless").unwrap();
    symlink("../outside", root.join("out")).unwrap();
    symlink(".codebolt", root.join("in")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = |one: &str, other: &str| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    root.join(one),
                    rustix::fs::CWD,
                    root.join(other),
                    flags,
                )
                .unwrap();
            };
            while !over.load(Ordering::Relaxed) {
                exchange("src", "out");
                exchange("src", "out");
                exchange("src", "in");
                exchange("src", "in");
            }
        });
        for _ in 0..4_000 {
            if let Ok(content) = workspace.read("src/secret", 100, GO) {
                assert_ne!(content, b"secret");
            }
            let _ = workspace.write("src/secret", b"harmless", GO);
            let _ = workspace.write("src/rules.json", b"evil", GO);
            let mut seen = Vec::new();
            let _ = walk(
                &workspace,
                "src",
                Show {
                    gitignore: true,
                    hidden: true,
                },
                GO,
                &mut |entry| {
                    seen.push(entry.metadata.len());
                    Ok(Next::Past)
                },
            );
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(
        fs::read_to_string(house.path().join("outside/secret")).unwrap(),
        "secret"
    );
    assert_eq!(fs::read_dir(house.path().join("outside")).unwrap().count(), 1);
    assert_eq!(
        fs::read_to_string(root.join(".codebolt/rules.json")).unwrap(),
        ".codebolt/rules.json"
    );
    assert_eq!(fs::read_dir(root.join(".codebolt")).unwrap().count(), 1);
}

/// Where a path leads by the plainest reading: a stack of names, and nothing below its bottom.
fn model(written: &str) -> Option<Vec<&str>> {
    let mut stack = Vec::new();
    for part in written.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            stack.pop()?;
        } else {
            stack.push(part);
        }
    }
    Some(stack)
}

proptest! {
    #[test]
    fn canonical_agrees_with_the_model(parts in proptest::collection::vec("a|b|\\.|\\.\\.|\\.\\.\\.|ü ?|", 0..9)) {
        let (_house, workspace) = tiny();
        let written = parts.join("/");
        match workspace.canonical(&written) {
            Ok(canonical) => {
                prop_assert!(!written.starts_with('/'));
                prop_assert_eq!(Some(canonical.clone()), model(&written).map(|stack| stack.join("/")));
                prop_assert!(!canonical.starts_with('/') && !canonical.split('/').any(|part| matches!(part, "." | "..")));
                prop_assert_eq!(workspace.canonical(&canonical), Ok(canonical));
            }
            Err(error) => {
                prop_assert_eq!(error.kind, ErrorKind::Denied);
                prop_assert!(written.starts_with('/') || model(&written).is_none());
            }
        }
    }

    #[test]
    fn canonical_takes_any_text(written in "\\PC{0,40}|(\\.\\./|/|[a-c\0\\\\]){0,40}") {
        let (_house, workspace) = tiny();
        if let Ok(canonical) = workspace.canonical(&written) {
            prop_assert_eq!(workspace.canonical(&canonical), Ok(canonical.clone()));
            // However deep, joining it to the root never leaves the root.
            let joined = workspace.root().join(&canonical);
            prop_assert!(joined.starts_with(workspace.root()));
            prop_assert!(!joined.components().any(|part| part == std::path::Component::ParentDir));
        }
    }
}

fn tiny() -> (tempfile::TempDir, Workspace) {
    let folder = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(folder.path()).unwrap();
    (folder, workspace)
}
