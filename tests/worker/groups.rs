//! What bounds a worker process from outside, and one that compiles: its control group, which goes with it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::gone;
use super::hostile::{children, config, refused};
use crate::harness::peer::{Manner, real};
use crate::harness::process::Serving;
use crate::harness::{Plugin, Project};
use crate::listed;

listed![
    a_worker_that_takes_too_much_memory_is_killed_by_its_group_and_costs_its_own_calls_alone,
    a_worker_has_a_share_of_the_processors_and_a_group_that_goes_with_it,
    what_takes_too_much_memory_to_compile_is_killed_by_its_group_and_leaves_none,
];

/// The groups that are made for this hub, by the trees that it has them in.
fn groups(state: &Path) -> Vec<PathBuf> {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(state.canonicalize().unwrap().as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut folders: Vec<PathBuf> = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()))
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("waypost-{name}-"))
                {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}

async fn a_worker_that_takes_too_much_memory_is_killed_by_its_group_and_costs_its_own_calls_alone() {
    let open = Project::new()
        .workers(Manner::Glutton)
        .toml("[limits]\nworker-memory = \"40MiB\"")
        .plugin(&Plugin::of("keeper").grants("state = true").wall("worker"))
        .plugin(&Plugin::of("echo"))
        .open()
        .await;
    let state = open.hub.state();
    let confinement = waypost::plugin::worker::probe(&open.hub.config, &state).await.unwrap();
    if confinement.groups.memory.is_none() {
        // Without a group nothing here would end it but the machine.
        return;
    }
    let why = "it was killed for its memory, the limit `worker-memory` of [limits]";
    for _ in 0..2 {
        assert_eq!(
            open.error("keeper", json!([])).await,
            format!(
                "trapped: plugin `keeper` was stopped: its worker process is gone, {why}; the next call starts another one"
            )
        );
        assert_eq!(
            open.reply("echo", json!({ "text": "a", "times": 2 })).await["text"],
            "aa"
        );
    }
    let died: Vec<Value> = loop {
        let events = open.events().await;
        let died = events.iter().filter(|event| &*event.kind == "worker.died");
        let died: Vec<Value> = died.map(|event| event.body.to().unwrap()).collect();
        if died.len() >= 2 {
            break died;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(died, vec![json!({ "plugins": ["keeper"], "why": why }); 2]);
    assert_eq!(groups(&state), Vec::<PathBuf>::new());
}

async fn a_worker_has_a_share_of_the_processors_and_a_group_that_goes_with_it() {
    let project = Project::new()
        .toml("[limits]\nworker-cpu = 50")
        .plugin(&Plugin::of("counter").wall("worker"))
        .written();
    let body = json!({ "call": "counter", "message": null });
    for crash in [true, false] {
        let hub = Serving::start(project.root(), &[]).await;
        let state = project.root().join(".waypost");
        assert_eq!(groups(&state), Vec::<PathBuf>::new(), "what the crash left is gone");
        let (status, text) = hub.ask("POST", "/calls", &body).await;
        assert_eq!(status, 200, "{text}");
        let worker = children(hub.process.id())[0];
        // Behind the hub, and the first to go.
        let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
        assert_eq!(stat.rsplit(')').next().unwrap().split_whitespace().nth(16), Some("5"));
        assert_eq!(
            fs::read_to_string(format!("/proc/{worker}/oom_score_adj"))
                .unwrap()
                .trim(),
            "1000"
        );
        let made = groups(&state);
        let confinement = waypost::plugin::worker::probe(&config(), &state).await.unwrap();
        let own = fs::read_to_string(format!("/proc/{worker}/cgroup")).unwrap();
        for (bounded, file) in [
            (
                confinement.groups.memory.is_some(),
                ["memory.limit_in_bytes", "memory.max"],
            ),
            (confinement.groups.cpu.is_some(), ["cpu.cfs_quota_us", "cpu.max"]),
        ] {
            let group = made
                .iter()
                .find(|group| file.iter().any(|file| group.join(file).exists()));
            assert_eq!(group.is_some(), bounded, "{made:?}");
            let Some(group) = group else { continue };
            assert!(own.contains(group.file_name().unwrap().to_str().unwrap()), "{own}");
            let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert_eq!(inside.trim(), worker.to_string());
            let texts = file.map(|file| fs::read_to_string(group.join(file)).unwrap_or_default());
            assert!(
                ["2214592512", "50000"]
                    .iter()
                    .any(|text| texts.concat().starts_with(text)),
                "{texts:?}"
            );
        }
        if crash {
            hub.crash().await;
        } else {
            hub.stop().await;
            assert_eq!(groups(&state), Vec::<PathBuf>::new(), "a hub that ends leaves none");
        }
        gone(worker).await;
    }
}

async fn what_takes_too_much_memory_to_compile_is_killed_by_its_group_and_leaves_none() {
    // Nothing of it is bounded but from outside: it keeps a line that has no end.
    let project = Project::new()
        .own_cache()
        .programs(&real("worker"), "exec tail -n 1 /dev/zero")
        .toml("[limits]\ncompile-memory = \"40MiB\"")
        .plugin(&Plugin::of("echo").wall("worker"))
        .written();
    let state = project.root().join(".waypost");
    let confinement = waypost::plugin::worker::probe(&config(), &state).await.unwrap();
    if confinement.groups.memory.is_none() {
        // Without a group nothing here would end it but the machine.
        return;
    }
    assert_eq!(
        refused(&project).await,
        "limit: plugin `echo` was not compiled: the process that compiles it was killed for its memory; its limits are \
         `compile-time` and `compile-memory` of [limits]"
    );
    assert_eq!(groups(&state), Vec::<PathBuf>::new());
}
