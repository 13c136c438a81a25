//! Takes as much memory as it is told to.

use waypost_sdk::{Call, Result};

fn eat(_: &Call, bytes: usize) -> Result<usize> {
    let food = vec![1u8; bytes];
    Ok(std::hint::black_box(&food).len())
}

waypost_sdk::handler!(eat);
