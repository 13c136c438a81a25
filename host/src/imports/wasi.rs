//! WASI 0.2 for guests whose language brings it: clocks, random numbers, streams, standard output. The rest is inert.
//!
//! No folder, no socket and no argument exists in here, and no variable but those that were granted by name, so nothing
//! outside can be reached through it. An agent's clock and random numbers come from its run, so that a replay sees the same ones.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use wasmtime::component::Linker;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::CallState;
use crate::run::journal::Journal;

/// The most random bytes that a guest gets in one request.
const RANDOM: u64 = 64 << 10;

pub(super) fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.take().unwrap_or_else(|| self.fresh());
        WasiCtxView {
            ctx: self.wasi.insert(wasi),
            table: &mut self.table,
        }
    }
}

impl CallState {
    fn fresh(&self) -> WasiCtx {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(self.output())
            .stderr(self.output())
            .max_random_size(RANDOM)
            .allow_tcp(false)
            .allow_udp(false);
        for name in &self.call.plugin.grants.env {
            if let Some(value) = self.call.services.variables.get(name) {
                wasi.env(name, value);
            }
        }
        if let Some(journal) = &self.call.journal {
            let clock = RunClock(Arc::clone(journal));
            wasi.wall_clock(clock.clone())
                .monotonic_clock(clock)
                .secure_random(StdRng::from_seed(journal.seed(0)))
                .insecure_random(StdRng::from_seed(journal.seed(1)))
                .insecure_random_seed(u128::from_le_bytes(
                    journal.seed(2).first_chunk().copied().unwrap_or_default(),
                ));
        }
        wasi.build()
    }
}

/// The clock of a run: it stands still between replies, so that a replay reads the same times.
#[derive(Clone)]
struct RunClock(Arc<Journal>);

impl HostWallClock for RunClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now())
    }
}

impl HostMonotonicClock for RunClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.0.elapsed().saturating_mul(1_000_000)
    }
}
