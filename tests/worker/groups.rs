//! What bounds a worker process from outside, and one that compiles: its control group, which goes with it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::gone;
use super::hostile::{children, config, refused};
use crate::harness::peer::{Manner, real};
use crate::harness::process::{Serving, run};
use crate::harness::{Plugin, Project};
use crate::listed;

listed![
    a_worker_that_takes_too_much_memory_is_killed_by_its_group_and_costs_its_own_calls_alone,
    a_worker_has_a_share_of_the_processors_and_a_group_that_goes_with_it,
    a_worker_is_the_hubs_equal_until_it_computes_for_long,
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
        // The first to go.
        assert_eq!(
            fs::read_to_string(format!("/proc/{worker}/oom_score_adj"))
                .unwrap()
                .trim(),
            "1000"
        );
        let made = groups(&state);
        let mut config = config();
        config.limits.worker_cpu = Some(50);
        let confinement = waypost::plugin::worker::probe(&config, &state).await.unwrap();
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

async fn a_worker_is_the_hubs_equal_until_it_computes_for_long() {
    let project = Project::new()
        .plugin(&Plugin::of("counter").wall("worker"))
        .plugin(&Plugin::of("spinner").wall("worker"))
        .written();
    let hub = Serving::start(project.root(), &[]).await;
    let ask = async |id: &str| hub.ask("POST", "/calls", &json!({ "call": id, "message": null })).await;
    assert_eq!(ask("counter").await.0, 200);
    let short = children(hub.process.id())[0];
    let spins = async {
        loop {
            // It is stopped at its deadline.
            ask("spinner").await;
        }
    };
    let others = || {
        let children = children(hub.process.id());
        children.into_iter().find(|worker| *worker != short)
    };
    let is_behind = async {
        loop {
            match others() {
                Some(long) if priority(long) == 10 => return long,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let long = tokio::select! {
        () = spins => return,
        long = is_behind => long,
    };
    let told = async {
        loop {
            let log = run(project.root(), &["plugin", "logs", "spinner"]).await.out;
            if !log.is_empty() {
                return log;
            }
        }
    };
    let log = told.await;
    assert!(
        log.contains("its worker process computes for more than 5 ms in a call"),
        "{log}"
    );
    // Where there is a group for it, it is in it now; the other one is where the hub is.
    let state = project.root().join(".waypost");
    let groups = groups(&state);
    let behind = groups
        .iter()
        .find(|group| group.join("cpu.shares").exists() && is_in(group, long));
    assert_eq!(behind.is_some(), has_version_1("cpu"), "{groups:?}");
    if let Some(group) = behind {
        assert_eq!(fs::read_to_string(group.join("cpu.shares")).unwrap().trim(), "128");
    }
    assert_eq!(priority(short), 0);
    assert!(
        !groups
            .iter()
            .any(|group| group.join("cpu.shares").exists() && is_in(group, short))
    );
    assert_eq!(ask("counter").await.0, 200);
    hub.stop().await;
    gone(long).await;
    assert_eq!(self::groups(&state), Vec::<PathBuf>::new());
}

fn is_in(group: &Path, process: u32) -> bool {
    let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    inside.lines().any(|line| line == process.to_string())
}

/// Whether this machine has the controller in a tree of version 1 in which groups may be made.
fn has_version_1(controller: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| {
        let (mount, kind) = line.split_once(" - ").unwrap();
        let writable = mount
            .split(' ')
            .nth(5)
            .is_some_and(|options| options.split(',').any(|one| one == "rw"));
        writable && kind.starts_with("cgroup ") && kind.split([' ', ',']).any(|one| one == controller)
    })
}

/// The priority of a process, as the kernel counts them: more is later.
fn priority(process: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let nice = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16));
    nice.and_then(|nice| nice.parse().ok()).unwrap_or(0)
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
