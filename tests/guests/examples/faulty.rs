//! Ends in the way that it is told to, none of them good.

use serde::Deserialize;
use waypost_sdk::{Call, CallError, Result};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    Error,
    Unavailable,
    Panic,
    Unreachable,
    Overflow,
}

fn end(_: &Call, end: End) -> Result<()> {
    match end {
        End::Error => Err(CallError::not_found("there is no such thing; name another")),
        End::Unavailable => Err(CallError::unavailable("not now")),
        #[expect(clippy::panic, reason = "a guest that panics is what the trial needs")]
        End::Panic => panic!("it hurts"),
        End::Unreachable => std::process::abort(),
        End::Overflow => {
            std::hint::black_box(deeper(1));
            Ok(())
        }
    }
}

#[expect(
    unconditional_recursion,
    reason = "a guest that overflows its stack is what the trial needs"
)]
fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    deeper(frame[7] + 1) + std::hint::black_box(frame)[9]
}

waypost_sdk::handler!(end);
