use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A project and an environment's copy of it.
struct Pair {
    house: tempfile::TempDir,
    project: Workspace,
    environment: Workspace,
}

impl Pair {
    fn new(limits: &Limits) -> Result<Self> {
        let house = tempfile::tempdir().unwrap();
        let project = house.path().join("project");
        for folder in [
            "src",
            "empty",
            "target",
            ".codebolt",
            ".waypost/environments/e1",
            ".git",
        ] {
            fs::create_dir_all(project.join(folder)).unwrap();
        }
        let files = [
            ("src/main.rs", "fn main() {}\n"),
            ("src/tool.sh", "#!/bin/sh\n"),
            ("README.md", "one\ntwo\nthree\n"),
            (".gitignore", "/target\n"),
            ("target/big", "built"),
            (".codebolt/rules.json", "{}"),
            ("waypost.toml", ""),
            (".git/config", ""),
        ];
        for (path, content) in files {
            fs::write(project.join(path), content).unwrap();
        }
        fs::write(project.join("logo.bin"), b"\0\xff\x01").unwrap();
        fs::write(project.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").unwrap();
        fs::set_permissions(project.join("src/tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("README.md", project.join("read")).unwrap();
        symlink("/etc/passwd", project.join("leak")).unwrap();
        symlink("../../outside", project.join("src/leak")).unwrap();
        let project = Workspace::open(&project).unwrap();
        let folder = project.root().join(".waypost/environments/e1");
        copy(&project, &folder, limits)?;
        let environment = Workspace::open(&folder.join(WORKSPACE)).unwrap();
        Ok(Self {
            house,
            project,
            environment,
        })
    }

    fn base(&self) -> Base {
        Base::open(&self.project.root().join(".waypost/environments/e1")).unwrap()
    }

    /// Writes into the environment.
    fn there(&self, path: &str, content: &str) {
        write(&self.environment, path, content);
    }

    /// Writes into the project.
    fn here(&self, path: &str, content: &str) {
        write(&self.project, path, content);
    }

    fn diff(&self) -> Vec<Change> {
        diff(&self.base(), &self.environment).unwrap()
    }

    fn merge(&self, partial: bool) -> MergeReport {
        let report = merge(&self.base(), &self.environment, &self.project, partial).unwrap();
        let left = fs::read_dir(self.project.root()).unwrap();
        assert!(
            left.into_iter()
                .all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("tmp"))
        );
        report
    }

    fn project_text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.project.root().join(path)).ok()
    }
}

fn write(workspace: &Workspace, path: &str, content: &str) {
    let path = workspace.root().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn paths(unmerged: &[Unmerged]) -> Vec<(&str, &str)> {
    unmerged
        .iter()
        .map(|one| (one.path.as_str(), one.reason.as_str()))
        .collect()
}

#[test]
fn a_copy_holds_what_belongs_to_the_project_and_nothing_else() {
    let pair = Pair::new(&Limits::default()).unwrap();
    let base = pair.base();
    let files: Vec<&str> = base.manifest().files.keys().map(String::as_str).collect();
    assert_eq!(
        files,
        [
            ".gitignore",
            "README.md",
            "logo.bin",
            "read",
            "src/main.rs",
            "src/tool.sh"
        ]
    );
    let skipped: Vec<(&str, &str)> = base
        .manifest()
        .skipped
        .iter()
        .map(|(path, reason)| (path.as_str(), reason.as_str()))
        .collect();
    assert_eq!(
        skipped,
        [
            ("bad\u{fffd}", "its name is not UTF-8"),
            ("leak", "it leads out of the project"),
            ("src/leak", "it leads out of the project"),
        ]
    );
    let root = pair.environment.root();
    assert!(root.join("empty").is_dir());
    assert_eq!(fs::read_link(root.join("read")).unwrap(), Path::new("README.md"));
    assert_ne!(
        fs::metadata(root.join("src/tool.sh")).unwrap().permissions().mode() & 0o111,
        0
    );
    assert_eq!(
        fs::metadata(root.join("src/main.rs")).unwrap().permissions().mode() & 0o111,
        0
    );
    for absent in ["target", ".codebolt", ".waypost", ".git", "waypost.toml", "leak"] {
        assert!(!root.join(absent).exists(), "{absent}");
    }
    assert_eq!(pair.diff(), []);
    assert_eq!(pair.merge(false), MergeReport::default());
}

#[test]
fn a_copy_stops_at_its_limits_by_name() {
    let few = Pair::new(&Limits {
        files: 3,
        ..Limits::default()
    })
    .map(drop)
    .unwrap_err();
    assert_eq!(
        few.to_string(),
        "the project has more than 3 files to copy; name what is not needed in .gitignore"
    );
    let small = Pair::new(&Limits {
        bytes: 20,
        ..Limits::default()
    })
    .map(drop)
    .unwrap_err();
    assert_eq!(
        small.to_string(),
        "the project has more than 20 bytes to copy; name what is not needed in .gitignore"
    );
    assert_eq!((few.kind, small.kind), (ErrorKind::Limit, ErrorKind::Limit));
}

#[test]
fn a_copy_never_lies_inside_its_project() {
    let pair = Pair::new(&Limits::default()).unwrap();
    let inside = copy(&pair.project, &pair.project.root().join("empty"), &Limits::default()).unwrap_err();
    assert_eq!(
        inside.to_string(),
        "a copy of a project cannot lie inside it, except in the hub's state folder"
    );
    let gone = Base::open(&pair.house.path().join("nothing")).unwrap_err();
    assert_eq!(gone.to_string(), "the environment's folder is gone");
}

#[test]
fn a_diff_shows_each_sort_of_change() {
    let pair = Pair::new(&Limits::default()).unwrap();
    let root = pair.environment.root();
    pair.there("README.md", "one\n2\nthree\n");
    pair.there("new/file", "hello\n");
    pair.there("target/built", "ignored");
    pair.there(".codebolt/rules.json", "evil");
    fs::remove_file(root.join("src/main.rs")).unwrap();
    fs::write(root.join("logo.bin"), b"\0\xfe").unwrap();
    fs::set_permissions(root.join("src/tool.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(root.join("read")).unwrap();
    symlink("src/tool.sh", root.join("read")).unwrap();
    fs::write(root.join("huge"), vec![b'x'; TEXT_BYTES as usize + 1]).unwrap();
    // The project's own changes are no part of it.
    pair.here("README.md", "other\n");
    let change = |path: &str, kind, binary, unified: Option<&str>| Change {
        path: path.to_owned(),
        kind,
        binary,
        unified: unified.map(str::to_owned),
    };
    assert_eq!(
        pair.diff(),
        [
            change(
                "README.md",
                ChangeKind::Modified,
                false,
                Some("--- a/README.md\n+++ b/README.md\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n")
            ),
            change("huge", ChangeKind::Added, false, None),
            change("logo.bin", ChangeKind::Modified, true, None),
            change(
                "new/file",
                ChangeKind::Added,
                false,
                Some("--- /dev/null\n+++ b/new/file\n@@ -0,0 +1 @@\n+hello\n")
            ),
            change(
                "read",
                ChangeKind::Modified,
                false,
                Some(
                    "--- a/read\n+++ b/read\n@@ -1 +1 @@\n-README.md\n\\ No newline at end of file\n+src/tool.sh\n\\ No newline at end of file\n"
                )
            ),
            change(
                "src/main.rs",
                ChangeKind::Deleted,
                false,
                Some("--- a/src/main.rs\n+++ /dev/null\n@@ -1 +0,0 @@\n-fn main() {}\n")
            ),
            change(
                "src/tool.sh",
                ChangeKind::Modified,
                false,
                Some("old mode 100755\nnew mode 100644\n")
            ),
        ]
    );
}

#[test]
fn a_merge_brings_back_what_only_the_environment_changed() {
    let pair = Pair::new(&Limits::default()).unwrap();
    let root = pair.environment.root();
    pair.there("README.md", "changed\n");
    pair.there("new/deep/file", "new\n");
    pair.there("run.sh", "#!/bin/sh\n");
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("src/tool.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(root.join("logo.bin"), b"\0new").unwrap();
    fs::remove_file(root.join("src/main.rs")).unwrap();
    fs::remove_file(root.join("read")).unwrap();
    symlink("src/tool.sh", root.join("read")).unwrap();
    pair.here("own", "the project's\n");
    let report = pair.merge(false);
    let applied = [
        "README.md",
        "logo.bin",
        "new/deep/file",
        "read",
        "run.sh",
        "src/main.rs",
        "src/tool.sh",
    ];
    assert_eq!(
        report,
        MergeReport {
            applied: applied.map(str::to_owned).to_vec(),
            ..MergeReport::default()
        }
    );
    let project = pair.project.root();
    assert_eq!(pair.project_text("README.md").unwrap(), "changed\n");
    assert_eq!(pair.project_text("new/deep/file").unwrap(), "new\n");
    assert_eq!(pair.project_text("own").unwrap(), "the project's\n");
    assert_eq!(fs::read(project.join("logo.bin")).unwrap(), b"\0new");
    assert!(!project.join("src/main.rs").exists());
    assert_eq!(fs::read_link(project.join("read")).unwrap(), Path::new("src/tool.sh"));
    let mode = |path: &str| fs::metadata(project.join(path)).unwrap().permissions().mode() & 0o111;
    assert_ne!(mode("run.sh"), 0);
    assert_eq!(mode("src/tool.sh"), 0);
    // What was brought back is the base now: a second turn of the same environment is no conflict.
    assert_eq!(pair.diff(), []);
    pair.there("README.md", "changed again\n");
    assert_eq!(pair.merge(false).applied, ["README.md"]);
    assert_eq!(pair.project_text("README.md").unwrap(), "changed again\n");
}

#[test]
fn an_emptied_folder_goes_and_one_in_use_stays() {
    let pair = Pair::new(&Limits::default()).unwrap();
    fs::remove_dir_all(pair.environment.root().join("src")).unwrap();
    assert_eq!(pair.merge(false).applied, ["src/main.rs", "src/tool.sh"]);
    // The link that was never copied still lies there.
    assert!(pair.project.root().join("src/leak").symlink_metadata().is_ok());
    let pair = Pair::new(&Limits::default()).unwrap();
    fs::remove_file(pair.project.root().join("src/leak")).unwrap();
    fs::remove_dir_all(pair.environment.root().join("src")).unwrap();
    pair.merge(false);
    assert!(!pair.project.root().join("src").exists());
}

#[test]
fn conflicts_stop_everything_or_are_left_alone() {
    let pair = Pair::new(&Limits::default()).unwrap();
    pair.there("README.md", "theirs\n");
    pair.here("README.md", "ours\n");
    pair.there("both", "theirs\n");
    pair.here("both", "ours\n");
    pair.there("src/main.rs", "theirs\n");
    fs::remove_file(pair.project.root().join("src/main.rs")).unwrap();
    fs::remove_file(pair.environment.root().join("src/tool.sh")).unwrap();
    pair.here("src/tool.sh", "ours\n");
    pair.there("folder", "a file there\n");
    pair.here("folder/file", "a folder here\n");
    pair.there("file/inner", "a folder there\n");
    pair.here("file", "a file here\n");
    pair.there("agreed", "same\n");
    pair.here("agreed", "same\n");
    pair.there("free", "free\n");
    let conflicts = [
        ("README.md", "the project changed it too"),
        ("both", "the project has a file there too"),
        ("file/inner", "`file/inner` goes through `file`, which is not a folder"),
        ("folder", "the project has a folder there"),
        ("src/main.rs", "the project removed it"),
        ("src/tool.sh", "the project changed it too"),
    ];
    let report = pair.merge(false);
    assert_eq!(paths(&report.conflicts), conflicts);
    assert_eq!(report.applied, [] as [&str; 0]);
    assert_eq!(pair.project_text("free"), None);
    let report = pair.merge(true);
    assert_eq!(paths(&report.conflicts), conflicts);
    assert_eq!(report.applied, ["free"]);
    assert_eq!(pair.project_text("free").unwrap(), "free\n");
    assert_eq!(pair.project_text("README.md").unwrap(), "ours\n");
    assert_eq!(pair.project_text("src/tool.sh").unwrap(), "ours\n");
    assert_eq!(pair.project_text("src/main.rs"), None);
}

#[test]
fn what_is_protected_or_leads_out_is_never_brought_back() {
    let pair = Pair::new(&Limits::default()).unwrap();
    let root = pair.environment.root();
    pair.there(".codebolt/proxyExecution.json", "evil");
    pair.there("waypost.toml", "evil");
    pair.there("sub/.CodeBolt/x", "evil");
    pair.there(".git/hooks/pre-commit", "evil");
    pair.there(".waypost/state", "evil");
    pair.there("rules/proxyExecution.json", "evil");
    // In the project the same folder is a link to the rules.
    symlink(".codebolt", pair.project.root().join("rules")).unwrap();
    symlink("/etc", root.join("etc")).unwrap();
    symlink("../../..", root.join("src/up")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let report = pair.merge(true);
    assert_eq!(
        paths(&report.refused),
        [
            (".codebolt", "it is protected"),
            ("sub/.CodeBolt", "it is protected"),
            ("waypost.toml", "it is protected"),
            ("etc", "it is a link that leads out of the project"),
            ("pipe", "it is not a regular file"),
            (
                "rules/proxyExecution.json",
                "`rules/proxyExecution.json` is protected: rules, hub state and git's own files are not changed by a call"
            ),
            ("src/up", "it is a link that leads out of the project"),
        ]
    );
    assert_eq!((report.applied.len(), report.conflicts.len()), (0, 0));
    assert_eq!(pair.project_text(".codebolt/rules.json").unwrap(), "{}");
    assert_eq!(fs::read_dir(pair.project.root().join(".codebolt")).unwrap().count(), 1);
    assert_eq!(pair.project_text("waypost.toml").unwrap(), "");
    assert_eq!(fs::read_dir(pair.project.root().join(".git")).unwrap().count(), 1);
}

#[test]
fn a_folder_turned_into_a_link_does_not_hide_what_was_in_it() {
    let pair = Pair::new(&Limits::default()).unwrap();
    let root = pair.environment.root();
    fs::rename(root.join("src"), root.join("moved")).unwrap();
    symlink("moved", root.join("src")).unwrap();
    let kinds: Vec<(String, ChangeKind)> = pair
        .diff()
        .into_iter()
        .map(|change| (change.path, change.kind))
        .collect();
    let expected = [
        ("moved/main.rs", ChangeKind::Added),
        ("moved/tool.sh", ChangeKind::Added),
        ("src", ChangeKind::Added),
        ("src/main.rs", ChangeKind::Deleted),
        ("src/tool.sh", ChangeKind::Deleted),
    ];
    assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));
}
