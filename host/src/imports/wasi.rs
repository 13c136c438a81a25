//! WASI 0.2 for guests whose language brings it: clocks, random numbers, streams, standard output. The rest is inert.
//!
//! No folder, no socket and no argument exists in here, and no variable but those that were granted by name, so nothing
//! outside can be reached through it. An agent's clock and random numbers come from its run, so that a replay sees the same ones.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use wasmtime::component::Linker;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{CallState, Carrier};
use crate::run::journal::Journal;

/// The most random bytes that a guest gets in one request.
const RANDOM: u64 = 64 << 10;

/// What makes the clock and the random numbers of an agent those of its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// When the run began, in milliseconds since 1970.
    pub began: u64,
    /// Its time now.
    pub now: u64,
    /// A seed for each source of random numbers.
    pub seeds: [[u8; 32]; 3],
}

impl RunFacts {
    /// Those of a run with this journal.
    pub fn of(journal: &Journal) -> Self {
        Self {
            began: journal.began(),
            now: journal.now(),
            seeds: [0, 1, 2].map(|purpose| journal.seed(purpose)),
        }
    }
}

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
        for name in &self.plugin.grants.env {
            if let Some(value) = self.carrier.variable(name) {
                wasi.env(name, value);
            }
        }
        if let Some(run) = &self.run {
            let clock = RunClock {
                carrier: self.carrier.clone(),
                began: run.began,
            };
            let [secure, insecure, seed] = run.seeds;
            wasi.wall_clock(clock.clone())
                .monotonic_clock(clock)
                .secure_random(StdRng::from_seed(secure))
                .insecure_random(StdRng::from_seed(insecure))
                .insecure_random_seed(u128::from_le_bytes(seed.first_chunk().copied().unwrap_or_default()));
        }
        wasi.build()
    }
}

/// The clock of a run: it stands still between replies, so that a replay reads the same times.
#[derive(Clone)]
struct RunClock {
    carrier: Carrier,
    began: u64,
}

impl HostWallClock for RunClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.carrier.now())
    }
}

impl HostMonotonicClock for RunClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.carrier.now().saturating_sub(self.began).saturating_mul(1_000_000)
    }
}
