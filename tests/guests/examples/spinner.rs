//! Never ends, and never waits.

use waypost_sdk::{Call, Result};

fn spin(_: &Call, (): ()) -> Result<()> {
    loop {
        std::hint::black_box(());
    }
}

waypost_sdk::handler!(spin);
