//! Components in a registry: pushed, resolved to a digest, pulled whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::signed::Key;
use super::{component, keeper, kept, lock, plugin};
use crate::harness::outside::{DOCKER_REGISTRY, MINISIGN, Tool, by_hand, missing};
use crate::harness::process::{http, run_with};
use crate::harness::{Plugin, Project, within};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        DOCKER_REGISTRY.trial(
            "installed::registry::what_is_pushed_is_installed_by_its_digest",
            |tool| {
                let tool = tool.to_owned();
                within(async move { what_is_pushed_is_installed_by_its_digest(&tool).await })
            },
        ),
        DOCKER_REGISTRY.trial("installed::registry::what_a_registry_changes_is_refused", |tool| {
            let tool = tool.to_owned();
            within(async move { what_a_registry_changes_is_refused(&tool).await })
        }),
        DOCKER_REGISTRY.trial("installed::registry::a_registry_that_asks_who_it_is_is_told", |tool| {
            let tool = tool.to_owned();
            within(async move { a_registry_that_asks_who_it_is_is_told(&tool).await })
        }),
        crate::harness::trial(
            "all::installed::registry::a_registry_that_lies_installs_nothing",
            a_registry_that_lies_installs_nothing,
        ),
        crate::harness::trial(
            "all::installed::registry::without_tls_goes_to_loopback_and_to_what_is_named",
            without_tls_goes_to_loopback_and_to_what_is_named,
        ),
    ];
    // It needs two tools: the one that may be missing decides whether it is counted.
    let name = "installed::registry::a_signature_goes_with_its_component";
    let needed: &'static Tool = if DOCKER_REGISTRY.there() {
        &MINISIGN
    } else {
        &DOCKER_REGISTRY
    };
    trials.push(needed.trial(name, |_| {
        let (registry, minisign) = (DOCKER_REGISTRY.installed()?, MINISIGN.installed()?);
        within(async move { a_signature_goes_with_its_component(&registry, &minisign).await })
    }));
    let name = "installed::registry::wkg_reads_what_was_pushed_and_pushes_what_is_installed";
    trials.push(match by_hand("wkg") {
        Some(wkg) => DOCKER_REGISTRY.trial(name, move |registry| {
            let registry = registry.to_owned();
            within(async move { wkg_reads_what_was_pushed_and_pushes_what_is_installed(&registry, &wkg).await })
        }),
        None => missing(
            name,
            "wkg",
            "cargo install wkg --version 0.16.0 --locked --root target/tools",
        ),
    });
    trials
}

/// A registry that runs on a port of its own.
struct Registry {
    host: String,
    storage: PathBuf,
    _process: Child,
}

impl Registry {
    async fn start(tool: &Path, folder: &Path) -> Self {
        Self::start_with(tool, folder, "").await
    }

    /// With this at the end of its configuration.
    async fn start_with(tool: &Path, folder: &Path, more: &str) -> Self {
        let storage = folder.join("registry");
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  \
             addr: 127.0.0.1:0\n{more}",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut process = Command::new(tool)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let host = loop {
            let line = lines.next_line().await.unwrap().expect("the registry goes on");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ']).next().unwrap().to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            host,
            storage,
            _process: process,
        }
    }

    async fn manifest(&self, name: &str, reference: &str) -> Value {
        let answer = http()
            .get(format!("http://{}/v2/{name}/manifests/{reference}", self.host))
            .header("accept", "application/vnd.oci.image.manifest.v1+json")
            .send()
            .await
            .unwrap();
        answer.json().await.unwrap()
    }
}

async fn what_is_pushed_is_installed_by_its_digest(tool: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let registry = Registry::start(tool, root).await;
    let host = &registry.host;
    component(root, &keeper(), "1");
    component(root, &keeper(), "2");
    let pushed = plugin(root, &format!("push downloads/1.wasm {host}/acme/keeper:latest")).await;
    assert_eq!((pushed.code, pushed.err.as_str()), (0, ""), "{pushed:?}");
    let (name, digest) = pushed.out.trim().split_once('@').unwrap();
    assert_eq!(name, format!("{host}/acme/keeper"));

    // The layout is the one that others read and write.
    let manifest = registry.manifest("acme/keeper", "latest").await;
    let bytes = fs::read(root.join("downloads/1.wasm")).unwrap();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!((layers.len(), &layers[0]["mediaType"]), (1, &json!("application/wasm")));
    assert_eq!(layers[0]["size"], bytes.len());
    let config = http()
        .get(format!(
            "http://{host}/v2/acme/keeper/blobs/{}",
            manifest["config"]["digest"].as_str().unwrap()
        ))
        .send()
        .await
        .unwrap();
    let config: Value = config.json().await.unwrap();
    assert_eq!(
        config,
        json!({
            "architecture": "wasm", "os": "wasip2", "layerDigests": [layers[0]["digest"]],
            "component": { "exports": ["waypost:plugin/handler@0.1.0"], "imports": [] },
        })
    );

    let added = plugin(root, &format!("add {host}/acme/keeper:latest --wall in-process --yes")).await;
    assert_eq!(added.code, 0, "{added:?}");
    let from = format!("  from     oci:{host}/acme/keeper:latest\n  resolved {digest}\n");
    assert!(added.out.contains(&from), "{}", added.out);
    let locked = format!("source = \"oci:{host}/acme/keeper:latest\"\nmanifest = \"{digest}\"\n");
    assert!(lock(root).contains(&locked), "{}", lock(root));
    assert!(lock(root).contains(&format!("digest = {}\n", layers[0]["digest"])));

    // The tag goes on, what is installed stays, and the digest still leads to it.
    let second = plugin(
        root,
        &format!("push downloads/2.wasm oci:{host}/acme/keeper:latest --json"),
    )
    .await;
    assert_ne!(second.json()["digest"], digest);
    assert_eq!(plugin(root, "ls --json").await.json()[0]["version"], "1");
    assert_eq!(plugin(root, &format!("add {host}/acme/keeper:latest")).await.code, 0);
    assert_eq!(plugin(root, "ls --json").await.json()[0]["version"], "2");
    let older = plugin(root, &format!("add {host}/acme/keeper@{digest} --downgrade")).await;
    assert_eq!(older.code, 0, "{older:?}");
    assert_eq!(plugin(root, "ls --json").await.json()[0]["version"], "1");

    for (reference, why) in [
        (format!("{host}/acme/keeper:never"), "the registry does not have it"),
        (format!("{host}/acme/nobody:latest"), "the registry does not have it"),
        (
            format!("{host}/acme/keeper@sha256:{}", "0".repeat(64)),
            "the registry does not have it",
        ),
    ] {
        let refused = plugin(root, &format!("add {reference}")).await;
        assert!(refused.code == 1 && refused.err.contains(why), "{refused:?}");
    }
    let refused = plugin(root, &format!("push downloads/1.wasm {host}/acme/keeper@{digest}")).await;
    assert!(
        refused.code == 2 && refused.err.contains("push to a tag"),
        "{refused:?}"
    );
}

/// The tool of those whose layout this is.
async fn wkg_reads_what_was_pushed_and_pushes_what_is_installed(tool: &Path, wkg: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let registry = Registry::start(tool, root).await;
    let host = &registry.host;
    let file = component(root, &Plugin::of("echo"), "1");
    let oci = async |words: &[&str]| {
        let mut command = Command::new(wkg);
        command.args(["oci", words[0], "--insecure", host]).args(&words[1..]);
        let ended = command.current_dir(root).env("HOME", root).output().await.unwrap();
        assert!(
            ended.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
    };
    let pushed = plugin(root, &format!("push downloads/1.wasm {host}/acme/echo:1")).await;
    assert_eq!(pushed.code, 0, "{pushed:?}");
    oci(&["pull", &format!("{host}/acme/echo:1"), "--output", "pulled.wasm"]).await;
    assert!(
        fs::read(root.join("pulled.wasm")).unwrap() == fs::read(file).unwrap(),
        "it is the same component"
    );
    oci(&["push", &format!("{host}/wkg/echo:1"), "pulled.wasm"]).await;
    let added = plugin(root, &format!("add {host}/wkg/echo:1 --wall in-process --yes")).await;
    assert_eq!(added.code, 0, "{added:?}");
    let manifests = (
        registry.manifest("acme/echo", "1").await,
        registry.manifest("wkg/echo", "1").await,
    );
    assert_eq!(manifests.0["layers"][0]["digest"], manifests.1["layers"][0]["digest"]);
}

async fn a_registry_that_asks_who_it_is_is_told(tool: &Path) {
    let project = Project::new().written();
    let root = project.root();
    // The password is `open sesame`.
    let users = root.join("users");
    fs::write(
        &users,
        "ali:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n",
    )
    .unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: trial\n    path: {}\n", users.display());
    let registry = Registry::start_with(tool, root, &auth).await;
    component(root, &Plugin::of("echo"), "1");
    let reference = format!("{}/echo:1", registry.host);
    let known = [
        ("WAYPOST_REGISTRY_USER", "ali"),
        ("WAYPOST_REGISTRY_PASSWORD", "open sesame"),
    ];
    let wrong = [known[0], ("WAYPOST_REGISTRY_PASSWORD", "open barley")];
    let push = ["plugin", "push", "downloads/1.wasm", &reference];
    let add = ["plugin", "add", &reference, "--wall", "in-process"];
    let asks = "the registry wants to know who asks; set WAYPOST_REGISTRY_USER and WAYPOST_REGISTRY_PASSWORD";
    for (variables, code) in [(&[][..], 1), (&wrong, 1), (&known, 0)] {
        for words in [&push[..], &add] {
            let ended = run_with(root, variables, words).await;
            assert_eq!(ended.code, code, "{words:?}: {ended:?}");
            assert!(code == 0 || ended.err.contains(asks), "{words:?}: {ended:?}");
            assert!(!format!("{ended:?}{}", lock(root)).contains("sesame"));
        }
    }
}

async fn what_a_registry_changes_is_refused(tool: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let registry = Registry::start(tool, root).await;
    component(root, &Plugin::of("echo"), "1");
    let reference = format!("{}/echo:1", registry.host);
    assert_eq!(plugin(root, &format!("push downloads {reference}")).await.code, 0);
    // Whoever has the disk of the registry changes the component under its digest.
    let manifest = registry.manifest("echo", "1").await;
    let digest = manifest["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let blob = format!("docker/registry/v2/blobs/sha256/{}/{digest}/data", &digest[..2]);
    let blob = registry.storage.join(blob);
    let mut bytes = fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let refused = plugin(root, &format!("add {reference} --wall in-process")).await;
    assert!(
        refused.code == 1
            && refused
                .err
                .contains("the registry gave other bytes than their digest says"),
        "{refused:?}"
    );
    assert_eq!((lock(root).as_str(), kept(root)), ("", vec![]));
}

async fn a_signature_goes_with_its_component(tool: &Path, minisign: &Path) {
    let project = Project::new().written();
    let root = project.root();
    let registry = Registry::start(tool, root).await;
    let host = &registry.host;
    let acme = Key::new(minisign, root, "acme");
    let policy = format!("[plugins]\nrequire-signature = [\"oci:*\"]\n{}", acme.publisher("acme"));
    fs::write(root.join("waypost.toml"), policy).unwrap();
    let signed = component(root, &Plugin::of("echo"), "1");
    component(root, &Plugin::of("echo"), "2");
    acme.sign(&signed, &[]);
    for version in ["1", "2"] {
        let pushed = plugin(
            root,
            &format!("push downloads/{version}.wasm {host}/echo:{version} --json"),
        )
        .await;
        assert_eq!(
            (pushed.code, pushed.json()["signed"].as_bool()),
            (0, Some(version == "1")),
            "{pushed:?}"
        );
    }
    let added = plugin(root, &format!("add {host}/echo:1 --wall in-process")).await;
    assert!(
        added.code == 0 && added.out.contains("who says: release of today\n"),
        "{added:?}"
    );
    assert_eq!(plugin(root, "verify").await.code, 0);
    let refused = plugin(root, &format!("add {host}/echo:2")).await;
    assert!(
        refused.code == 1 && refused.err.contains("is not signed, and `[plugins] require-signature`"),
        "{refused:?}"
    );
    // From a file nothing is asked for.
    let refused = plugin(root, "add downloads/2.wasm").await;
    assert!(
        refused.code == 1 && refused.err.contains("say `--signer-changed`"),
        "{refused:?}"
    );
}

/// A registry that answers what it is told to.
async fn lying(manifest: Value, blob: &'static [u8]) -> String {
    use axum::http::header::HeaderName;
    use sha2::{Digest, Sha256};
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let text = manifest.to_string();
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    let header = [(
        HeaderName::from_static("docker-content-digest"),
        format!("sha256:{digest}"),
    )];
    let answer = axum::routing::get(move || {
        let (header, text) = (header.clone(), text.clone());
        async move { (header, text) }
    });
    let router = axum::Router::new()
        .route("/v2/", axum::routing::get(async || "{}"))
        .route("/v2/x/manifests/{reference}", answer)
        .route("/v2/x/blobs/{digest}", axum::routing::get(async move || blob));
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

async fn a_registry_that_lies_installs_nothing() {
    let project = Project::new().written();
    let root = project.root();
    let hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let layer = |size: i64, kind: &str, digest: &str| json!({ "mediaType": kind, "digest": digest, "size": size });
    let manifest = |config: &str, layers: &[Value]| json!({ "schemaVersion": 2, "config": layer(2, config, hello), "layers": layers });
    let wasm = "application/wasm";
    let config = "application/vnd.wasm.config.v0+json";
    for (manifest, why) in [
        (
            manifest("application/vnd.oci.image.config.v1+json", &[layer(5, wasm, hello)]),
            "it is no WebAssembly component but `application/vnd.oci.image.config.v1+json`",
        ),
        (manifest(config, &[]), "it has 0 layers, and a component is one"),
        (
            manifest(config, &[layer(5, wasm, hello), layer(5, wasm, hello)]),
            "it has 2 layers, and a component is one",
        ),
        (
            manifest(config, &[layer(5, "text/plain", hello)]),
            "its layer is `text/plain` and not `application/wasm`",
        ),
        (
            manifest(config, &[layer(5, wasm, "sha512:0")]),
            "its layer is named by `sha512:0`, which is no SHA-256",
        ),
        (
            manifest(config, &[layer(-1, wasm, hello)]),
            "has -1 bytes, the limit is 33554432",
        ),
        (
            manifest(config, &[layer(1 << 40, wasm, hello)]),
            "has 1099511627776 bytes, the limit is 33554432",
        ),
        (
            manifest(config, &[layer(4, wasm, hello)]),
            "there is more than the manifest says",
        ),
        (
            manifest(config, &[layer(6, wasm, hello)]),
            "the registry gave other bytes than its manifest names",
        ),
        (
            manifest(config, &[layer(5, wasm, &hello.replace("2cf", "2ce"))]),
            "the registry gave other bytes than their digest says",
        ),
        // What it gives is what it says, and it is no component.
        (
            manifest(config, &[layer(5, wasm, hello)]),
            "its layer is `application/wasm` and not `application/vnd.waypost.minisign.v1`",
        ),
        (json!({ "schemaVersion": 2 }), "its manifest is not one of an image"),
        (json!("x".repeat(300 << 10)), "its manifest has more than 262144 bytes"),
    ] {
        let host = lying(manifest.clone(), b"hello").await;
        let refused = plugin(root, &format!("add {host}/x:1 --yes --wall in-process")).await;
        assert!(
            refused.code != 0 && refused.err.contains(why),
            "{why}: {refused:?} {manifest}"
        );
        assert_eq!((lock(root).as_str(), kept(root)), ("", vec![]));
    }
}

async fn without_tls_goes_to_loopback_and_to_what_is_named() {
    let project = Project::new().written();
    let root = project.root();
    // A name that leads nowhere: what counts is that nothing is asked without TLS, and that the error says what to do.
    let refused = plugin(root, "add registry.invalid:5000/x:1").await;
    let why = "the registry registry.invalid:5000 does not answer; one without TLS is named in `[plugins] insecure-registries`";
    assert!(
        refused.code == 1 && refused.err.contains(why) && refused.err.contains("https://registry.invalid:5000/"),
        "{refused:?}"
    );
    fs::write(
        root.join("waypost.toml"),
        "[plugins]\ninsecure-registries = [\"registry.invalid:5000\"]\n",
    )
    .unwrap();
    let refused = plugin(root, "add registry.invalid:5000/x:1").await;
    assert!(
        refused.code == 1 && refused.err.contains("http://registry.invalid:5000/"),
        "{refused:?}"
    );
}
