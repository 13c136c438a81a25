//! `[limits]` and `[limits.plugin]`: what can be used up, and how much of it there is.

use std::time::Duration;

use serde::Deserialize;

use super::values::{bytes, count, count_option, duration};

/// `[limits]`: everything that input from outside can use up, with its name and its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Time for one call unless a rule says otherwise. Default 150 s.
    #[serde(with = "duration")]
    pub call_timeout: Duration,
    /// Time that a person has for an answer unless a rule says otherwise; the run's own time bounds it too. Default 24 h.
    #[serde(with = "duration")]
    pub answer_timeout: Duration,
    /// Time for one call to a plugin unless a rule or its manifest says otherwise. Default 30 s.
    #[serde(with = "duration")]
    pub plugin_timeout: Duration,
    /// Top-level calls that run at the same time; more wait. Default 256.
    #[serde(deserialize_with = "count")]
    pub calls: usize,
    /// Nested calls (made by plugins) that run at the same time; more answer `limit` at once. Default 256.
    #[serde(deserialize_with = "count")]
    pub nested_calls: usize,
    /// Top-level calls that may wait; more answer `limit` at once. Default 1024.
    #[serde(deserialize_with = "count")]
    pub call_queue: usize,
    /// How deep plugins may call through each other. Default 8.
    #[serde(deserialize_with = "count")]
    pub depth: usize,
    /// Size of one message or reply. Default 16 MiB.
    #[serde(with = "bytes")]
    pub message: usize,
    /// Agents (component runtimes) that run at the same time. Default 64.
    #[serde(deserialize_with = "count")]
    pub agents: usize,
    /// Observers that are told of a call at the same time; the others wait, and so do their notifications. Default 16.
    #[serde(deserialize_with = "count")]
    pub observers: usize,
    /// Connections that all plugins together hold open with the grants `http` and `socket`; more answer `limit` at once.
    /// Shadows have an eighth as many, beside these. Default 256.
    #[serde(deserialize_with = "count")]
    pub outgoing: usize,
    /// Programs that all plugins together run with the grant `process`; more answer `limit` at once. Default 32.
    #[serde(deserialize_with = "count")]
    pub programs: usize,
    /// Requests that all plugins together make of their imports in a second, and a twentieth of that at once after a pause;
    /// more wait, as those of one plugin do. Shadows have an eighth as many, beside these. More than 1,000,000 counts as that.
    /// Default 100,000.
    #[serde(deserialize_with = "count")]
    pub import_rate: usize,
    /// How long a worker process without calls is kept. Default 60 s.
    #[serde(with = "duration")]
    pub worker_idle: Duration,
    /// Time for a worker process to be ready. Default 10 s.
    #[serde(with = "duration")]
    pub worker_start: Duration,
    /// Time for a worker process to stop a call that is cancelled or late; one that does not is killed, with all its calls.
    /// Default 1 s.
    #[serde(with = "duration")]
    pub worker_stop: Duration,
    /// Memory of a worker process beside what it reserves at its start. Default 2 GiB.
    #[serde(with = "bytes")]
    pub worker_memory: usize,
    /// Processor time of a worker process, in percent of one core: 150 is one and a half. Default none: where there is not enough
    /// for all, a worker is the hub's equal until it computes for more than 5 ms in each of its calls; then it comes after the
    /// others, until it ends.
    #[serde(deserialize_with = "count_option::deserialize")]
    pub worker_cpu: Option<usize>,
    /// Processor time for compiling one plugin that is not built in; by the clock, three times as much. Default 60 s.
    #[serde(with = "duration")]
    pub compile_time: Duration,
    /// Memory for compiling one, beside what the process reserves at its start; its control group, where there is one, bounds what
    /// the kernel keeps for it as well. Default 2 GiB.
    #[serde(with = "bytes")]
    pub compile_memory: usize,
    /// Copies of reads that shadows work on at the same time, and as many nested calls of theirs; more copies wait. They have
    /// places of their own everywhere, so that no other call waits for them. Default 8.
    #[serde(deserialize_with = "count")]
    pub shadows: usize,
    /// Copies that may wait for a shadow; more are dropped and counted. Default 64.
    #[serde(deserialize_with = "count")]
    pub shadow_queue: usize,
    /// Bytes of messages and answers that are kept for shadows; copies for which there is no room are dropped and counted.
    /// Default 32 MiB.
    #[serde(with = "bytes")]
    pub shadow_bytes: usize,
    /// Time for one copy at its shadow, unless a rule or the shadow's manifest says less. Default 10 s.
    #[serde(with = "duration")]
    pub shadow_timeout: Duration,
    /// What every plugin gets unless its manifest asks for less or the operator grants more.
    pub plugin: PluginLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(150),
            answer_timeout: Duration::from_secs(24 * 3600),
            plugin_timeout: Duration::from_secs(30),
            calls: 256,
            nested_calls: 256,
            call_queue: 1024,
            depth: 8,
            message: 16 << 20,
            agents: 64,
            observers: 16,
            outgoing: 256,
            programs: 32,
            import_rate: 100_000,
            worker_idle: Duration::from_secs(60),
            worker_start: Duration::from_secs(10),
            worker_stop: Duration::from_secs(1),
            worker_memory: 2 << 30,
            worker_cpu: None,
            compile_time: Duration::from_secs(60),
            compile_memory: 2 << 30,
            shadows: 8,
            shadow_queue: 64,
            shadow_bytes: 32 << 20,
            shadow_timeout: Duration::from_secs(10),
            plugin: PluginLimits::default(),
        }
    }
}

/// `[limits.plugin]`: the bounds of one call into a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PluginLimits {
    /// All linear memories of one call together. Default 64 MiB.
    #[serde(with = "bytes")]
    pub memory: usize,
    /// All table elements of one call together. Default 20,000.
    #[serde(deserialize_with = "count")]
    pub table_elements: usize,
    /// Live handles (component and host resources) of one call. Default 1,024.
    #[serde(deserialize_with = "count")]
    pub handles: usize,
    /// Requests that the plugin makes of each of its imports in a second, over all its calls, and a twentieth of that at once
    /// after a pause. More wait for their turn, and answer `limit` when that would come after the end of their call; one that
    /// lets go of something is never held up. The log has a bound of its own, `log`; clocks, random numbers and the rest of
    /// WASI stay inside the sandbox and cost the call's own time. More than 1,000,000 counts as that. Default 5,000.
    #[serde(deserialize_with = "count")]
    pub import_rate: usize,
    /// Bytes that one import call may hand to the host. Default 16 MiB.
    #[serde(with = "bytes")]
    pub host_call: usize,
    /// Top-level calls into this plugin at the same time, and as many nested ones; more top-level ones wait, more nested
    /// ones answer `limit`. Default 64.
    #[serde(deserialize_with = "count")]
    pub concurrency: usize,
    /// Calls that may wait for this plugin; more answer `limit` at once. Default 256.
    #[serde(deserialize_with = "count")]
    pub queue: usize,
    /// Size of one reply. Default 4 MiB.
    #[serde(with = "bytes")]
    pub reply: usize,
    /// What one call may write to its log; the rest is dropped with a mark. Default 64 KiB.
    #[serde(with = "bytes")]
    pub log: usize,
    /// What the plugin may keep in its `state` store, for each project. Default 1 MiB.
    #[serde(with = "bytes")]
    pub state: usize,
    /// Size of the component file. Default 32 MiB.
    #[serde(with = "bytes")]
    pub component: usize,
    /// Notifications that may wait for an observer; more are dropped, and it is told how many. Default 1,024.
    #[serde(deserialize_with = "count")]
    pub notices: usize,
    /// Bytes of notifications that may wait for an observer. Default 32 MiB.
    #[serde(with = "bytes")]
    pub notice_bytes: usize,
    /// Traps in a row after which the plugin is left alone: its calls answer `unavailable`. Default 5.
    #[serde(deserialize_with = "count")]
    pub traps: usize,
    /// How long it is left alone the first time; twice as long each time that it then traps again. Default 1 s.
    #[serde(with = "duration")]
    pub quarantine: Duration,
    /// The longest that it is left alone before a call tries it again. Default 5 min.
    #[serde(with = "duration")]
    pub longest_quarantine: Duration,
    /// Size of the body of one HTTP request. Default 4 MiB.
    #[serde(with = "bytes")]
    pub http_request: usize,
    /// Size of the body of one HTTP answer, as it came. Default 16 MiB.
    #[serde(with = "bytes")]
    pub http_response: usize,
    /// Bytes of all headers of one HTTP request, and of one answer. Default 32 KiB.
    #[serde(with = "bytes")]
    pub http_headers: usize,
    /// HTTP answers that one call holds open. Default 8.
    #[serde(deserialize_with = "count")]
    pub http_open: usize,
    /// Size of one file that is written with the grant `files`. Default 16 MiB.
    #[serde(with = "bytes")]
    pub file_write: usize,
    /// Entries of one folder that is listed. Default 10,000.
    #[serde(deserialize_with = "count")]
    pub file_entries: usize,
    /// Files that one call holds open. Default 8.
    #[serde(deserialize_with = "count")]
    pub file_open: usize,
    /// What one program that is run with the grant `process` reads from its standard input. Default 4 MiB.
    #[serde(with = "bytes")]
    pub process_input: usize,
    /// What one program writes, standard output and standard error together. Default 16 MiB.
    #[serde(with = "bytes")]
    pub process_output: usize,
    /// Programs that one call runs at the same time. Default 4.
    #[serde(deserialize_with = "count")]
    pub process_running: usize,
    /// What is sent over one connection to a socket of the grant `socket`. Default 16 MiB.
    #[serde(with = "bytes")]
    pub socket_sent: usize,
    /// What is received over one connection to a socket. Default 16 MiB.
    #[serde(with = "bytes")]
    pub socket_received: usize,
    /// Connections to sockets that one call holds open. Default 8.
    #[serde(deserialize_with = "count")]
    pub socket_open: usize,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            table_elements: 20_000,
            handles: 1024,
            import_rate: 5_000,
            host_call: 16 << 20,
            concurrency: 64,
            queue: 256,
            reply: 4 << 20,
            log: 64 << 10,
            state: 1 << 20,
            component: 32 << 20,
            notices: 1024,
            notice_bytes: 32 << 20,
            traps: 5,
            quarantine: Duration::from_secs(1),
            longest_quarantine: Duration::from_secs(300),
            http_request: 4 << 20,
            http_response: 16 << 20,
            http_headers: 32 << 10,
            http_open: 8,
            file_write: 16 << 20,
            file_entries: 10_000,
            file_open: 8,
            process_input: 4 << 20,
            process_output: 16 << 20,
            process_running: 4,
            socket_sent: 16 << 20,
            socket_received: 16 << 20,
            socket_open: 8,
        }
    }
}
