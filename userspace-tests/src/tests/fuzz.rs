// SPDX-License-Identifier: GPL-2.0-only

//! Random calls, for a while. `make fuzz` goes on for longer.

use std::time::Duration;

use crate::fuzz;
use crate::harness::is_debug_kernel;
use crate::harness::tests;
use crate::tests::pin_model::SEED;

tests! {
    thirty_seconds @ 60,
}

fn thirty_seconds() -> anyhow::Result<()> {
    let seed = SEED.get().copied().unwrap_or(fuzz::SEED);
    // Where the kernel checks itself it is worth more.
    let time = Duration::from_secs(if is_debug_kernel() { 30 } else { 10 });
    println!("{}", fuzz::run(seed, time)?);
    Ok(())
}
