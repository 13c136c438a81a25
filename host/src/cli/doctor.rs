//! `waypost doctor`: what the machine and the configuration lack, and what that means.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Context, output};
use crate::capabilities;
use crate::config::{Config, Part};
use crate::engine;
use crate::error::Result;
use crate::hub::Hub;
use crate::plugin::Installed;
use crate::plugin::worker;
use crate::plugin::worker::cgroup::Version;
use crate::plugin::worker::confine::{ALWAYS, Confinement};
use crate::route;
use crate::text::visible_lines;

/// Looks at the machine and the configuration, and says what is missing.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when everything that is needed is there, 1 otherwise. A warning costs speed or a feature."
)]
pub(super) struct Doctor {}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warning,
    Missing,
}

impl Doctor {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let config = Config::read(&context.project.join("waypost.toml"));
        let mut findings = vec![kernel(), maps(), rules(&context.project)];
        if let Ok(config) = &config {
            findings.push(shell(config));
            findings.push(endpoint(config));
            findings.push(sockets(config));
            findings.push(workers(config, &context.project).await);
        }
        findings.push(hub(&context.project).await);
        if context.json {
            output::json(&findings)?;
        } else {
            for finding in &findings {
                let mark = match finding.verdict {
                    Verdict::Ok => "ok     ",
                    Verdict::Warning => "warning",
                    Verdict::Missing => "missing",
                };
                output::line(&format!(
                    "{mark}  {:<12}  {}",
                    finding.what,
                    visible_lines(&finding.text)
                ))?;
            }
        }
        let missing = findings.iter().any(|finding| finding.verdict == Verdict::Missing);
        Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn finding(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding {
        what,
        verdict,
        text: text.into(),
    }
}

fn kernel() -> Finding {
    if engine::page_map_scan() {
        return finding(
            "page scan",
            Verdict::Ok,
            "the kernel has PAGEMAP_SCAN: a fresh sandbox keeps its pages",
        );
    }
    let text = "the kernel has no PAGEMAP_SCAN (Linux 6.7): a fresh sandbox costs about three times as much";
    finding("page scan", Verdict::Warning, text)
}

/// Each sandbox that is resident takes about four memory maps.
fn maps() -> Finding {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match most {
        Some(most) if most < 65_530 => {
            let text = format!(
                "vm.max_map_count is {most}: about {} sandboxes at the same time; raise it with sysctl",
                most / 4
            );
            finding("memory maps", Verdict::Warning, text)
        }
        Some(most) => finding("memory maps", Verdict::Ok, format!("vm.max_map_count is {most}")),
        None => finding(
            "memory maps",
            Verdict::Warning,
            "vm.max_map_count cannot be read on this system",
        ),
    }
}

fn rules(project: &Path) -> Finding {
    let found = route::check(project, capabilities::reads);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    match (found.iter().any(|finding| finding.broken), lines.is_empty()) {
        (true, _) => finding("rules", Verdict::Missing, lines.join("\n")),
        (false, false) => finding("rules", Verdict::Warning, lines.join("\n")),
        (false, true) => finding("rules", Verdict::Ok, "both rule files are in order"),
    }
}

fn shell(config: &Config) -> Finding {
    let shell = config.terminal.shell.display();
    if config.terminal.shell.is_file() {
        finding("shell", Verdict::Ok, format!("commands run in {shell}"))
    } else {
        finding(
            "shell",
            Verdict::Warning,
            format!("{shell} is not there: commands cannot run; set `[terminal] shell`"),
        )
    }
}

fn endpoint(config: &Config) -> Finding {
    let set = config
        .inference
        .base_url
        .clone()
        .or_else(|| std::env::var("OPENAI_BASE_URL").ok());
    match set.filter(|url| !url.is_empty()) {
        Some(_) => finding("inference", Verdict::Ok, "an endpoint is configured"),
        None => {
            let text = "no endpoint: set `[inference] base-url` or OPENAI_BASE_URL, or route inference to a plugin";
            finding("inference", Verdict::Warning, text)
        }
    }
}

fn sockets(config: &Config) -> Finding {
    let sockets = &config.sockets;
    let open = [
        (
            sockets.allow_unauthenticated_connections,
            "any local program may connect on /plugins without a token and answer the project's calls; remove \
             `[sockets] allow-unauthenticated-connections`",
        ),
        (
            sockets.allow_unbound_agents,
            "any local program may act as an agent in the project on /codebolt; remove `[sockets] allow-unbound-agents`",
        ),
    ];
    let open: Vec<&str> = open.into_iter().filter(|(on, _)| *on).map(|(_, text)| text).collect();
    if open.is_empty() {
        finding("sockets", Verdict::Ok, "everyone who connects proves who he is")
    } else {
        finding("sockets", Verdict::Warning, open.join("; "))
    }
}

/// Starts a worker process and hears how it is confined.
async fn workers(config: &Config, project: &Path) -> Finding {
    let confinement = match worker::probe(config, &project.join(&config.hub.state)).await {
        Ok(confinement) => confinement,
        Err(why) => {
            let text = format!("plugins with `wall = \"worker\"` cannot run: {why}");
            return finding("workers", Verdict::Missing, text);
        }
    };
    let required = &config.worker.require;
    // Nobody misses a bound that nobody has asked for.
    let asked = |part: &Part| *part != Part::CpuGroup || config.limits.worker_cpu.is_some() || required.contains(part);
    let lacking: Vec<Part> = confinement.lacks(&Part::ALL).filter(asked).collect();
    let groups = groups(config, &confinement);
    if lacking.is_empty() {
        let text = format!("a worker process has every wall that there is; {groups}");
        return finding("workers", Verdict::Ok, text);
    }
    let must = |part: &Part| ALWAYS.contains(part) || required.contains(part);
    let verdict = if lacking.iter().any(must) {
        Verdict::Missing
    } else {
        Verdict::Warning
    };
    let mut lines: Vec<String> = lacking
        .iter()
        .map(|part| {
            let required = if must(part) { "; it is required" } else { "" };
            format!("without `{}`: {}{required}", part.as_str(), part.without())
        })
        .collect();
    lines.extend((!groups.is_empty()).then_some(groups));
    finding("workers", verdict, lines.join("\n"))
}

/// What control groups bound, and by how much.
fn groups(config: &Config, confinement: &Confinement) -> String {
    let version = |version| match version {
        Version::One => "control groups, version 1",
        Version::Two => "control groups, version 2",
    };
    let memory = confinement.groups.memory.map(|by| {
        let most = config.limits.worker_memory >> 20;
        format!("its memory is bounded by {} ({most} MiB, and the program)", version(by))
    });
    let cpu = confinement
        .groups
        .cpu
        .zip(config.limits.worker_cpu)
        .map(|(by, percent)| {
            format!(
                "its processor time is bounded by {} ({percent} % of a core)",
                version(by)
            )
        });
    memory.into_iter().chain(cpu).collect::<Vec<_>>().join("; ")
}

/// Opens the hub as every verb does: the engine starts, the log opens, every plugin loads.
async fn hub(project: &Path) -> Finding {
    match Hub::open(project).await {
        Ok(hub) => {
            let text = format!(
                "it opens, with {} plugins; its state is in {}",
                hub.plugins.all().len(),
                hub.state().display()
            );
            let installed = hub.with_installed(Installed::list).await.unwrap_or_default();
            hub.close().await;
            let refused: Vec<String> = installed
                .into_iter()
                .filter(|one| one.refused.is_some())
                .map(|one| format!("`{}`", one.entry.id))
                .collect();
            if refused.is_empty() {
                return finding("hub", Verdict::Ok, text);
            }
            let text = format!(
                "{text}; installed and not loaded: {}; `waypost plugin ls` says why",
                refused.join(", ")
            );
            finding("hub", Verdict::Warning, text)
        }
        Err(error) if error.kind == crate::error::ErrorKind::Unavailable => {
            finding("hub", Verdict::Warning, format!("not looked into: {}", error.chain()))
        }
        Err(error) => finding("hub", Verdict::Missing, error.chain()),
    }
}
