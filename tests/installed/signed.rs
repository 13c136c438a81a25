//! Signatures: whose counts, when one is needed, and what becomes of a component whose signature does not hold.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use super::{component, kept, lock, plugin, said};
use crate::harness::outside::{MINISIGN, command};
use crate::harness::{Plugin, Project, within};

pub fn trials() -> Vec<Trial> {
    vec![
        MINISIGN.trial(
            "installed::signed::the_signature_of_a_publisher_counts_and_no_other",
            |tool| {
                let tool = tool.to_owned();
                within(async move { the_signature_of_a_publisher_counts_and_no_other(&tool).await })
            },
        ),
        MINISIGN.trial("installed::signed::what_does_not_hold_is_refused", |tool| {
            let tool = tool.to_owned();
            within(async move { what_does_not_hold_is_refused(&tool).await })
        }),
        MINISIGN.trial("installed::signed::another_signer_needs_a_word", |tool| {
            let tool = tool.to_owned();
            within(async move { another_signer_needs_a_word(&tool).await })
        }),
    ]
}

/// Somebody with a key.
pub struct Key {
    tool: PathBuf,
    secret: PathBuf,
    /// The key that is given away.
    pub public: String,
}

impl Key {
    /// Makes a key, in files of this name.
    pub fn new(tool: &Path, folder: &Path, name: &str) -> Self {
        let (secret, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
        let made = command(tool)
            .args(["-G", "-W", "-f", "-s"])
            .arg(&secret)
            .arg("-p")
            .arg(&public)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Self {
            tool: tool.to_owned(),
            secret,
            public: fs::read_to_string(public).unwrap().lines().nth(1).unwrap().to_owned(),
        }
    }

    /// Signs a file, with a word of its own.
    pub fn sign(&self, file: &Path, more: &[&str]) -> PathBuf {
        let signed = command(&self.tool)
            .args(["-S", "-W", "-t", "release of today", "-s"])
            .arg(&self.secret)
            .arg("-m")
            .arg(file)
            .args(more)
            .output()
            .unwrap();
        assert!(signed.status.success(), "{signed:?}");
        let mut name = file.to_owned().into_os_string();
        name.push(".minisig");
        name.into()
    }

    /// What the operator writes who trusts it.
    pub fn publisher(&self, name: &str) -> String {
        format!("[[publisher]]\nname = {name:?}\nkey = {:?}\n", self.public)
    }
}

async fn the_signature_of_a_publisher_counts_and_no_other(tool: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let acme = Key::new(tool, root, "acme");
    let file = component(root, &Plugin::of("echo"), "1");
    acme.sign(&file, &[]);
    let policy = "[plugins]\nrequire-signature = [\"file:downloads/*\"]\n";
    fs::write(root.join("waypost.toml"), format!("{policy}{}", acme.publisher("acme"))).unwrap();
    let added = plugin(root, "add downloads --wall in-process").await;
    assert_eq!(added.code, 0, "{added:?}");
    assert!(
        added.out.contains("  signed   by acme (key ") && added.out.contains("), who says: release of today\n"),
        "{}",
        added.out
    );
    assert!(lock(root).contains(&format!(
        "[installed.current.signer]\nname = \"acme\"\nkey = {:?}\n",
        acme.public
    )));
    assert_eq!(kept(root).len(), 2, "its signature lies beside it");
    let verified = plugin(root, "verify --json").await;
    assert_eq!(
        (verified.code, verified.json()[0]["signer"]["name"].as_str()),
        (0, Some("acme"))
    );
    assert!(plugin(root, "ls").await.out.contains("  acme    file:downloads/1.wasm"));

    // Who is no publisher any more has signed nothing.
    fs::write(root.join("waypost.toml"), policy).unwrap();
    let listed = plugin(root, "ls").await.out;
    assert!(
        listed.contains("echo is not loaded: plugin `echo` is signed by acme (key ")
            && listed.contains("which is no [[publisher]] of waypost.toml any more"),
        "{listed}"
    );
    assert_eq!(plugin(root, "verify").await.code, 1);
    fs::write(root.join("waypost.toml"), format!("{policy}{}", acme.publisher("acme"))).unwrap();
    assert_eq!(plugin(root, "verify").await.code, 0);
    // A signature that was taken away, and one over something else.
    let signature = root.join(".waypost/plugins").join(&kept(root)[1]);
    let other = component(root, &Plugin::of("echo"), "2");
    fs::copy(acme.sign(&other, &[]), &signature).unwrap();
    let verified = plugin(root, "verify").await;
    assert!(
        verified.code == 1 && verified.err.contains("it is not `acme`'s signature of these bytes"),
        "{verified:?}"
    );
    fs::remove_file(&signature).unwrap();
    let verified = plugin(root, "verify").await;
    assert!(
        verified.code == 1
            && verified
                .err
                .contains("the signature of plugin `echo` is missing from the state directory"),
        "{verified:?}"
    );
    // What was installed without one is not loaded once one is needed.
    fs::write(root.join("waypost.toml"), "").unwrap();
    plugin(root, "rm echo").await;
    assert_eq!(
        plugin(root, "add downloads/1.wasm --wall in-process --unsigned")
            .await
            .code,
        0
    );
    fs::write(root.join("waypost.toml"), "[plugins]\nrequire-signature = true\n").unwrap();
    let verified = plugin(root, "verify").await;
    assert_eq!(
        (verified.code, verified.err.as_str()),
        (
            1,
            "plugin `echo` is not signed, and `[plugins] require-signature` of waypost.toml asks for it from file:downloads/1.wasm; \
             install a signed version\n"
        )
    );
}

async fn what_does_not_hold_is_refused(tool: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let (acme, mallory) = (Key::new(tool, root, "acme"), Key::new(tool, root, "mallory"));
    let policy = format!("[plugins]\nrequire-signature = true\n{}", acme.publisher("acme"));
    fs::write(root.join("waypost.toml"), policy).unwrap();
    let file = component(root, &Plugin::of("echo"), "1");
    let other = component(root, &Plugin::of("echo"), "2");
    let beside = acme.sign(&file, &[]);
    let good = fs::read_to_string(&beside).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let forged = good.replace("release of today", "release of tomorrow");
    let cut = lines[..2].join("\n");
    let by_mallory = fs::read_to_string(mallory.sign(&file, &[])).unwrap();
    let of_other = fs::read_to_string(acme.sign(&other, &[])).unwrap();
    let legacy = fs::read_to_string(acme.sign(&file, &["-l"])).unwrap();
    let unsigned = "is not signed, and `[plugins] require-signature` of waypost.toml asks for it";
    let broken = "is not one of minisign; get it again";
    let not_his = "it is not `acme`'s signature of these bytes; do not use this file";
    for (signature, what, why) in [
        (None, "stripped", unsigned),
        (
            Some(by_mallory.as_str()),
            "of a wrong key",
            "which no [[publisher]] of waypost.toml has",
        ),
        (Some(&of_other), "over another file", not_his),
        (Some(&forged), "with another comment", not_his),
        (Some(&legacy), "of the old kind", not_his),
        (Some("garbage\n"), "garbage", broken),
        (Some(&cut), "cut short", broken),
        (Some(""), "empty", broken),
        (
            Some(&good.repeat(100)),
            "far too long",
            "is no signature file of minisign",
        ),
    ] {
        match signature {
            Some(text) => fs::write(&beside, text).unwrap(),
            None => fs::remove_file(&beside).unwrap(),
        }
        let refused = plugin(root, "add downloads/1.wasm --wall in-process --yes").await;
        assert!(refused.code == 1 && refused.err.contains(why), "{what}: {refused:?}");
    }
    fs::write(&beside, &good).unwrap();
    let refused = plugin(root, "add downloads/1.wasm --wall in-process --unsigned").await;
    assert!(refused.code == 1 && refused.err.contains(unsigned), "{refused:?}");
    assert_eq!((lock(root).as_str(), kept(root)), ("", vec![]));
    // Elsewhere than beside it.
    fs::rename(&beside, root.join("elsewhere.minisig")).unwrap();
    let added = plugin(
        root,
        "add downloads/1.wasm --wall in-process --signature elsewhere.minisig",
    )
    .await;
    assert_eq!(added.code, 0, "{added:?}");
    // Without a policy too: what looks signed is signed.
    fs::write(root.join("waypost.toml"), "").unwrap();
    fs::write(&beside, &by_mallory).unwrap();
    let refused = plugin(root, "add downloads/1.wasm --wall in-process").await;
    assert!(
        refused.code == 1 && refused.err.contains("which no [[publisher]]"),
        "{refused:?}"
    );
}

async fn another_signer_needs_a_word(tool: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let (acme, globex) = (Key::new(tool, root, "acme"), Key::new(tool, root, "globex"));
    let both = format!("{}{}", acme.publisher("acme"), globex.publisher("globex"));
    fs::write(root.join("waypost.toml"), both).unwrap();
    let files = ["1", "2", "3", "4"].map(|version| component(root, &Plugin::of("echo"), version));
    acme.sign(&files[0], &[]);
    globex.sign(&files[1], &[]);
    acme.sign(&files[3], &[]);
    assert_eq!(plugin(root, "add downloads/1.wasm --wall in-process").await.code, 0);
    let changed = said(root, "add downloads/2.wasm").await;
    assert!(
        changed.starts_with("[1]\n--\nerror: the installed `echo` is signed by acme (key ")
            && changed.contains("), and this one by globex (key ")
            && changed.ends_with("); when you know why, say `--signer-changed`\n"),
        "{changed}"
    );
    let unsigned = said(root, "add downloads/3.wasm").await;
    assert!(
        unsigned.ends_with("), and this one is not signed; when you know why, say `--signer-changed`\n"),
        "{unsigned}"
    );
    assert_eq!(plugin(root, "add downloads/2.wasm --signer-changed").await.code, 0);
    assert_eq!(plugin(root, "ls --json").await.json()[0]["signer"]["name"], "globex");
    // A rollback goes to what was accepted once; a signer that is added is no change for the worse.
    assert_eq!(plugin(root, "add downloads/3.wasm --signer-changed").await.code, 0);
    assert_eq!(plugin(root, "add downloads/4.wasm").await.code, 0);
    assert_eq!(plugin(root, "ls --json").await.json()[0]["signer"]["name"], "acme");
}
