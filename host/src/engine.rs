//! The wasmtime engine: its settings, its clock of epochs, the limits of a store, and the cache of compiled code.
//!
//! Settings are the measured ones: pooled slots that keep their pages, no concurrency support, epochs. Not here: what a
//! plugin is, or what it may import.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline};

use crate::config::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::imports::CallState;

use cache::Hashed;

pub mod cache;
pub mod meter;

/// One tick of the epoch clock: how late a spinning guest can notice its deadline or its cancellation.
pub const TICK: Duration = Duration::from_millis(1);

/// Core instances that a component may consist of: 1 to 4 for Rust, about 9 for JavaScript, about 40 for Python.
const CORE_INSTANCES: u32 = 64;

/// The engine that all plugins of a process share.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    /// None in a worker process, which compiles nothing.
    cache: Option<cache::Cache>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// An engine with room for everything that `limits` admit at the same time; compiled code is kept under `state`.
    pub fn new(limits: &Limits, state: &Path) -> Result<Self> {
        let wasmtime = wasmtime::Engine::new(&settings(limits)).map_err(|error| {
            let message = "the WASM engine cannot start; `waypost doctor` shows what the machine lacks";
            Error::new(ErrorKind::Internal, message).because(error)
        })?;
        let cache = cache::Cache::open(&state.join("cache"))?;
        Self::ticking(wasmtime, Some(cache))
    }

    /// One that compiles nothing, for a process that is handed compiled code.
    pub(crate) fn without_compiler(wasmtime: wasmtime::Engine) -> Result<Self> {
        Self::ticking(wasmtime, None)
    }

    fn ticking(wasmtime: wasmtime::Engine, cache: Option<cache::Cache>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        tick(wasmtime.clone(), Arc::clone(&stop))?;
        Ok(Self { wasmtime, cache, stop })
    }

    /// The engine itself, for linkers.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// Compiles a component, or takes its compiled code from the cache. Blocks while it compiles.
    pub fn component(&self, name: &str, source: &Hashed<'_>) -> Result<Component> {
        self.cache()?.component(&self.wasmtime, name, source)
    }

    /// The component of what a stranger wrote, compiled elsewhere, to run in this process nevertheless.
    pub(crate) fn trusted(
        &self,
        name: &str,
        source: &Hashed<'_>,
        compile: impl Fn() -> Result<Vec<u8>>,
    ) -> Result<Component> {
        self.cache()?.trusted(&self.wasmtime, name, source, compile)
    }

    /// The compiled code of what a stranger wrote, compiled elsewhere; it is not loaded here.
    pub(crate) fn code(&self, source: &Hashed<'_>, compile: impl Fn() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        self.cache()?.code(&self.wasmtime, source, compile)
    }

    fn cache(&self) -> Result<&cache::Cache> {
        let none = || Error::new(ErrorKind::Internal, "nothing is compiled in this process");
        self.cache.as_ref().ok_or_else(none)
    }

    /// The component of code that the hub has sent to this worker process.
    pub(crate) fn sent_by_hub(&self, code: &[u8]) -> Result<Component> {
        cache::from_hub(&self.wasmtime, code)
    }

    /// A store for one call: its limits are set and its clock runs.
    pub fn store(&self, state: CallState) -> Store<CallState> {
        let (deadline, cancel) = (state.deadline, state.cancel.clone());
        let (host_call, handles) = (state.meter.host_call(), state.meter.handles());
        let mut store = Store::new(&self.wasmtime, state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(host_call);
        store.set_max_component_handles(handles);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            // Yielding lets other calls run on this thread; the check makes a guest that never waits stop all the same.
            if deadline.passed() || cancel.is_cancelled() {
                Ok(UpdateDeadline::Interrupt)
            } else {
                Ok(UpdateDeadline::Yield(1))
            }
        });
        store
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The settings of the engine; the same for the bench's raw floor.
pub fn settings(limits: &Limits) -> Config {
    let of_shadows = 2 * limits.shadows;
    let places = limits.calls + limits.nested_calls + limits.agents + limits.observers + of_shadows;
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(places)
        .total_stacks(places)
        .total_core_instances(places.saturating_mul(8))
        .total_memories(places.saturating_mul(2))
        .total_tables(places.saturating_mul(4))
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(4)
        .max_tables_per_component(CORE_INSTANCES)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .table_elements(limits.plugin.table_elements)
        .max_memory_size(limits.plugin.memory)
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10)
        .decommit_batch_size(4)
        .max_unused_warm_slots(places)
        // Without the ioctl this falls back by itself, and is slower: `doctor` says so.
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .wasm_memory64(false)
        .shared_memory(false)
        .wasm_relaxed_simd(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20)
        .async_stack_zeroing(false)
        .memory_reservation(limits.plugin.memory.max(64 << 20) as u64)
        .memory_init_cow(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Advances the epoch from a thread of its own, so that no busy runtime thread can stop the clock.
#[expect(clippy::disallowed_methods, reason = "the epoch clock alone may sleep")]
fn tick(engine: wasmtime::Engine, stop: Arc<AtomicBool>) -> Result<()> {
    let weak = engine.weak();
    drop(engine);
    let work = move || {
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(TICK);
            match weak.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    thread::Builder::new()
        .name("waypost-epochs".into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::new(ErrorKind::Internal, "the epoch thread cannot start").because(error))
}

/// Whether the kernel offers the page-map scan that makes fresh sandboxes cheap.
pub fn page_map_scan() -> bool {
    PoolingAllocationConfig::is_pagemap_scan_available()
}
