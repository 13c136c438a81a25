//! What is locked is what is loaded, and nothing else, whoever changes the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use waypost::config::Wall;
use waypost::plugin::installed::{Decision, Wanted};

use super::{component, empty, keeper, kept, lock, plugin, said};
use crate::harness::process::run;
use crate::harness::{Open, Plugin, Project};

crate::listed![
    what_differs_from_the_lock_is_not_loaded_and_says_why,
    a_lock_file_that_cannot_be_read_refuses_the_start,
    what_is_wrong_is_found_again,
    a_racer_gets_no_other_bytes_in,
    an_agent_cannot_write_the_lock_file,
    a_merge_does_not_bring_a_lock_file_back,
];

/// A project in which `echo` 1 is installed.
async fn installed() -> Project {
    let project = empty();
    let root = project.root();
    component(root, &Plugin::of("echo"), "1");
    assert_eq!(plugin(root, "add downloads --wall in-process --route").await.code, 0);
    project
}

fn stored(root: &Path) -> PathBuf {
    root.join(".waypost/plugins").join(&kept(root)[0])
}

/// Why a plugin is not loaded, as a hub that is opened now says.
async fn refused(project: &Project, id: &str) -> Option<String> {
    let list = plugin(project.root(), "ls --json").await.json();
    let list = list.as_array().unwrap();
    let one = list.iter().find(|one| one["id"] == id).unwrap();
    let why = one["refused"].as_str()?;
    let why = crate::harness::process::normal(project.root(), why);
    let component = |word: &str| word.ends_with(".wasm") && word.contains("/sha256-");
    let words = why.split(' ').map(|word| match word.rsplit_once('/') {
        Some((folder, _)) if component(word) => format!("{folder}/<component>"),
        _ => word.to_owned(),
    });
    Some(words.collect::<Vec<_>>().join(" "))
}

async fn what_differs_from_the_lock_is_not_loaded_and_says_why() {
    let again = "`waypost plugin add downloads/1.wasm` again";
    let missing = |what: &str| format!("plugin `echo` is locked to sha256:<digest>, and {what}: {again}");
    for (change, why) in [
        (
            &|root: &Path| fs::remove_file(stored(root)).unwrap(),
            missing("<project>/.waypost/plugins/<component> is missing") + ": No such file or directory (os error 2)",
        ),
        (
            &|root: &Path| fs::write(stored(root), Plugin::of("faulty").named("echo").single("1")).unwrap(),
            missing("<project>/.waypost/plugins/<component> is now sha256:<digest>, which nobody installed"),
        ),
        (
            &|root: &Path| relock(root, "version = \"1\"", "version = \"2\""),
            format!(
                "waypost.lock says that `echo` has the version 2, but the component with this digest is `echo` 1; {again}"
            ),
        ),
    ] as [(&dyn Fn(&Path), String); 3]
    {
        let project = installed().await;
        let root = project.root();
        assert_eq!(refused(&project, "echo").await, None);
        change(root);
        assert_eq!(refused(&project, "echo").await, Some(why));
        // The remedy that it names is one.
        assert_eq!(
            plugin(root, "add downloads/1.wasm --downgrade --wall in-process")
                .await
                .code,
            0
        );
        assert_eq!(refused(&project, "echo").await, None);
    }
    let project = installed().await;
    relock(project.root(), "id = \"echo\"", "id = \"ohce\"");
    assert_eq!(
        refused(&project, "ohce").await.unwrap(),
        format!(
            "waypost.lock says that `ohce` has the version 1, but the component with this digest is `echo` 1; {again}"
        )
    );
}

fn relock(root: &Path, old: &str, new: &str) {
    let text = lock(root);
    assert!(text.contains(old), "{text}");
    fs::write(root.join("waypost.lock"), text.replace(old, new)).unwrap();
}

async fn a_lock_file_that_cannot_be_read_refuses_the_start() {
    for (old, new, problem) in [
        (
            "format = 1",
            "format = 2",
            "waypost.lock has the format 2, and this version of Waypost reads the format 1; use the version that wrote it, or remove \
             the file and install again with `waypost plugin add`",
        ),
        (
            "wall = ",
            "color = 1\nwall = ",
            "waypost.lock has 1 problem:\n  line 6: unknown field `installed.color`; there are id, component, wall, current, previous, held",
        ),
    ] {
        let project = installed().await;
        let before = lock(project.root());
        relock(project.root(), old, new);
        assert_eq!(said(project.root(), "ls").await, format!("[2]\n--\nerror: {problem}\n"));
        assert_eq!(lock(project.root()), before.replace(old, new), "nobody writes over it");
    }
}

async fn what_is_wrong_is_found_again() {
    let project = installed().await;
    let root = project.root();
    let head = "PLUGIN  WHICH    VERSION  DIGEST        SIGNER  VERDICT\n";
    let found = plugin(root, "verify").await;
    let digest = kept(root)[0]["sha256-".len()..][..12].to_owned();
    assert_eq!(
        (found.code, found.out),
        (0, format!("{head}echo    current  1        {digest}  -       ok\n"))
    );
    fs::write(stored(root), "other").unwrap();
    let found = plugin(root, "verify echo").await;
    assert_eq!(
        (found.code, found.out.clone()),
        (1, format!("{head}echo    current  1        {digest}  -       wrong\n"))
    );
    assert!(
        found
            .err
            .contains("which nobody installed: `waypost plugin add downloads/1.wasm` again\n"),
        "{found:?}"
    );
    let doctor = run(root, &["doctor"]).await.out;
    assert!(
        doctor.contains("; installed and not loaded: `echo`; `waypost plugin ls` says why\n"),
        "{doctor}"
    );
    let found = plugin(root, "verify --json").await;
    assert_eq!((found.code, found.json()[0]["which"].as_str()), (1, Some("current")));
    assert_eq!(
        said(root, "verify moon").await,
        "[1]\n--\nerror: plugin `moon` is not installed; installed are `echo`\n"
    );
}

/// Installs these bytes in a hub of this process.
async fn install(open: &Open, bytes: Vec<u8>) {
    let wanted = Wanted {
        source: "file:x.wasm".to_owned(),
        manifest: None,
        signature: None,
        id: None,
        wall: Some(Wall::InProcess),
        decision: Decision::All(Vec::new()),
        downgrade: false,
        signer_changed: false,
        commit: true,
    };
    open.hub
        .change_installed(move |installed| installed.add(wanted, bytes.into()), |_| None)
        .await
        .unwrap();
}

async fn a_racer_gets_no_other_bytes_in() {
    let open = Project::new()
        .toml("[[route]]\nmatch = \"echo\"\nto = \"plugin:echo\"\n")
        .open()
        .await;
    let good = Plugin::of("echo").single("1");
    let bad = Plugin::of("faulty").named("echo").single("1");
    install(&open, good.clone()).await;
    let digest = open.hub.plugins.get("echo").unwrap().digest.clone();
    let file = stored(open.root());
    let over = Arc::new(AtomicBool::new(false));
    let racer = {
        let (over, file) = (Arc::clone(&over), file.clone());
        let beside = file.with_extension("racer");
        tokio::task::spawn_blocking(move || {
            let mut swaps = 0_usize;
            while !over.load(Ordering::Relaxed) {
                for bytes in [&bad, &good] {
                    fs::write(&beside, bytes).unwrap();
                    fs::rename(&beside, &file).unwrap();
                    // Without a rename too: half of one and half of the other.
                    fs::write(&file, bytes).unwrap();
                    swaps += 1;
                }
            }
            swaps
        })
    };
    let (mut loaded, mut refused) = (0, 0);
    while loaded < 20 || refused < 20 {
        match open.hub.reload_plugin("echo").await {
            Ok(_) => loaded += 1,
            Err(error) => {
                let text = error.to_string();
                let other = text.contains("which nobody installed") || text.contains("is missing");
                assert!(other, "{text}");
                refused += 1;
            }
        }
        assert_eq!(open.hub.plugins.get("echo").unwrap().digest, digest);
        let reply = open.reply("echo", json!({ "text": "a", "times": 1 })).await;
        assert_eq!(reply["text"], "a");
    }
    over.store(true, Ordering::Relaxed);
    assert!(racer.await.unwrap() > 20);
}

async fn an_agent_cannot_write_the_lock_file() {
    let open = empty().open().await;
    install(&open, keeper().single("1")).await;
    let before = lock(open.root());
    for path in [
        "waypost.lock",
        "WAYPOST.LOCK",
        "./a/../waypost.lock",
        "waypost.lock.new",
        ".waypost/plugins/x.wasm",
    ] {
        let error = open
            .error("fsEvent:writeToFile", json!({ "path": path, "content": "format = 1" }))
            .await;
        assert!(error.starts_with("denied: "), "{path}: {error}");
    }
    let error = open
        .error("fsEvent:deleteFile", json!({ "path": "waypost.lock" }))
        .await;
    assert!(error.starts_with("denied: "), "{error}");
    assert_eq!(lock(open.root()), before);
}

async fn a_merge_does_not_bring_a_lock_file_back() {
    let project = installed().await;
    let root = project.root();
    let before = lock(root);
    let made = run(root, &["env", "create"]).await;
    let id = made.out.trim();
    let write = r#"{"command":"echo 'format = 1' > waypost.lock; echo new > new.txt"}"#;
    let written = run(root, &["call", "--environment", id, "executeCommand", write]).await;
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(run(root, &["env", "merge", id]).await.code, 0);
    assert_eq!(fs::read_to_string(root.join("new.txt")).unwrap(), "new\n");
    assert_eq!(lock(root), before);
}
