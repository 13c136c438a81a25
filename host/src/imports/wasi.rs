//! WASI 0.2 for guests whose language brings it: clocks, random numbers, streams, standard output. The rest is inert.
//!
//! No folder, no socket and no argument exists in here, and no variable but those that were granted by name, so nothing
//! outside can be reached through it. An agent's clock and random numbers come from its run, so that a replay sees the same ones.
//!
//! Clocks go in steps of a millisecond, and there are no threads that could count instead: what a guest reads of time is too
//! coarse to tell what the processor has in its caches. What it can still count by itself, work between two steps, is why a
//! stranger's plugin runs in another process than the hub's secrets.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use wasmtime::component::Linker;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock, MonotonicClock, WallClock};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{CallState, Carrier};
use crate::run::journal::Journal;

/// The most random bytes that a guest gets in one request.
const RANDOM: u64 = 64 << 10;

/// One step of every clock that a guest reads.
const STEP: Duration = Duration::from_millis(1);

/// The same, in nanoseconds.
const STEP_NANOS: u64 = 1_000_000;

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
            .wall_clock(Coarse(WallClock::new()))
            .monotonic_clock(Coarse(MonotonicClock::new()))
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

/// A clock that goes in steps.
struct Coarse<C>(C);

impl<C: HostWallClock> HostWallClock for Coarse<C> {
    fn resolution(&self) -> Duration {
        self.0.resolution().max(STEP)
    }

    fn now(&self) -> Duration {
        let now = self.0.now();
        let past = Duration::from_nanos(u64::from(now.subsec_nanos()) % STEP_NANOS);
        now.saturating_sub(past)
    }
}

impl<C: HostMonotonicClock> HostMonotonicClock for Coarse<C> {
    fn resolution(&self) -> u64 {
        self.0.resolution().max(STEP_NANOS)
    }

    fn now(&self) -> u64 {
        let now = self.0.now();
        now - now % STEP_NANOS
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
        STEP
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.carrier.now())
    }
}

impl HostMonotonicClock for RunClock {
    fn resolution(&self) -> u64 {
        STEP_NANOS
    }

    fn now(&self) -> u64 {
        self.carrier.now().saturating_sub(self.began).saturating_mul(STEP_NANOS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct At(Duration);

    impl HostWallClock for At {
        fn resolution(&self) -> Duration {
            Duration::from_nanos(1)
        }

        fn now(&self) -> Duration {
            self.0
        }
    }

    impl HostMonotonicClock for At {
        fn resolution(&self) -> u64 {
            1
        }

        fn now(&self) -> u64 {
            u64::try_from(self.0.as_nanos()).unwrap()
        }
    }

    proptest! {
        #[test]
        fn clocks_go_in_steps_and_never_before_their_time(nanos: u64) {
            let real = Duration::from_nanos(nanos);
            let wall = HostWallClock::now(&Coarse(At(real)));
            prop_assert_eq!(wall.subsec_nanos() % 1_000_000, 0);
            prop_assert!(wall <= real && real - wall < STEP);
            let monotonic = HostMonotonicClock::now(&Coarse(At(real)));
            prop_assert_eq!(monotonic % 1_000_000, 0);
            prop_assert!(monotonic <= nanos && nanos - monotonic < 1_000_000);
            prop_assert_eq!(HostWallClock::resolution(&Coarse(At(real))), STEP);
            prop_assert_eq!(HostMonotonicClock::resolution(&Coarse(At(real))), 1_000_000);
        }
    }
}
