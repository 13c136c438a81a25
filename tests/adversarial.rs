//! One hostile component after the other against a hub that serves, with a healthy plugin under load beside it, each behind
//! both walls.
//!
//! The oracles are outside (`adversarial/field.rs`): the process is alive and ends in order, the healthy plugin answered all
//! the time and about as fast as in peace, memory is back where it was, no worker died, and each hostile call has one end in
//! the log, which says what its caller was told.
//!
//! | attack | guest or trial |
//! |---|---|
//! | A001 endless loop | `a001_*` |
//! | A002 loop in start, allocation, clean-up, destructor | `a002_*` |
//! | A003 blocked in a host call | `a003_*` |
//! | A004 long uninterruptible operation | `a004_*` |
//! | A005 growing memory, many memories | `a005_*`; `hostile::` (many memories, 64 bits, shared) |
//! | A006 growing table, huge table | `a006_*`; `hostile::` |
//! | A007 handles of the guest | `a007_*` |
//! | A008 handles of the host | `a008_*` |
//! | A009 giant argument, giant reply | `a009_*` |
//! | A010 deep nesting, odd replies | `a010_*` |
//! | A011 flood of host calls | `a011_*` |
//! | A012 flood of output | `a012_*` |
//! | A013 random numbers without measure | `a013_*` |
//! | A014 requests that lie | the grant `http`: `grants::what_a_plugin_may_not_say_is_refused`; raw wasi:http is not offered: `hostile::` |
//! | A015 bodies without end | the grant `http`: `grants::everything_about_a_request_is_bounded`; nothing is unpacked |
//! | A016 traps on purpose | `a016_*`; `quarantine::` |
//! | A017 all places at once | `a017_*` |
//! | A018 what another left in memory | `a018_*` |
//! | A019 side channels | `a019_*` (clocks); `hostile::` (shared memory); tokens are compared in constant time (`transports/gate.rs`) |
//! | A020 other bytes than were installed | `installed::locked::`, `a_racer_gets_no_other_bytes_in` among them |
//! | A021 signatures | `installed::signed::` |
//! | A022 an older version | `installed::decided::an_older_version_and_one_that_nobody_can_compare_need_a_word` |
//! | A023 a stale index | none: there is no index, and a lock file names digests |
//! | A024 an upgrade that asks for more | `installed::decided::an_upgrade_that_asks_for_more_is_held` |
//! | A025 names like others | `installed::decided::an_id_of_somebody_else_is_refused_and_a_likeness_is_told`; `hostile::` |
//! | A026 compile bombs | `a026_*` |
//! | A027 poisoned cache of compiled code | `plugins::compiled_code_is_kept_and_not_trusted_blindly`, and beside `engine/cache.rs` |
//! | A028 imports that were not granted | `hostile::`, `plugins::an_import_without_its_grant_is_refused_at_load` |
//! | A029 archives | none: a plugin is one file, and is never unpacked |
//!
//! Not here: what a worker process itself may do (`worker/hostile.rs`), and how long the healthy plugin's calls take (the
//! bench).

use std::future::Future;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::{Plugin, within_time};
use crate::worker::WALLS;

mod attacks;
mod bombs;
mod field;

use attacks::{AT_ONCE, Attack, attacks};
use field::{Field, GROWTH};

/// An attack takes its time, and the machine has others: one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(180);

fn trial<F>(name: &str, attacked: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()>,
{
    Trial::test(name, move || within_time(PATIENCE, async { attacked().await }))
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for wall in WALLS {
        let name = |name: &str| format!("adversarial::{name}::{}", wall.replace('-', "_"));
        trials.extend(
            attacks()
                .into_iter()
                .map(|attack| trial(&name(attack.name), move || survives(attack, wall))),
        );
        trials.push(trial(&name("a017_all_the_places_at_once"), move || {
            all_the_places_at_once(wall)
        }));
        trials.extend(
            bombs::BOMBS.map(|bomb| trial(&name(&format!("a026_{}", bomb.0)), move || bombs::goes_off(bomb, wall))),
        );
    }
    trials
}

async fn survives(attack: Attack, wall: &'static str) {
    let field = Field::enter(&attack.plugin, wall, attack.limits).await;
    // The first taste: code is compiled, places are warm.
    let mut ends = field.attack(&attack, AT_ONCE, AT_ONCE).await;
    let before = field.memory();
    for (end, times) in field.attack(&attack, attack.calls, AT_ONCE).await {
        *ends.entry(end).or_insert(0) += times;
    }
    let after = field.memory();
    assert!(after < before + GROWTH, "{before} bytes before, {after} after");
    field.leave(ends).await;
}

async fn all_the_places_at_once(wall: &'static str) {
    // More than the hub has for everybody; those that find no place say so at once.
    let attack = Attack::new(
        "a017_all_the_places_at_once",
        Plugin::of("sleeper").limits("timeout = \"2s\""),
        &[
            "timeout: hostile did not end within its time limit and was stopped",
            "limit: plugin `hostile` is busy: 16 calls run and 32 wait",
        ],
    )
    .within("plugin = { concurrency = 16, queue = 32 }");
    let field = Field::enter(&attack.plugin, wall, attack.limits).await;
    let ends = field.attack(&attack, 150, 150).await;
    let refused = ends.keys().filter(|end| end.starts_with("limit: ")).count();
    assert_eq!((refused, ends.len()), (1, 2), "{ends:?}");
    field.leave(ends).await;
}
