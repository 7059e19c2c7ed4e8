// SPDX-License-Identifier: GPL-2.0-only

//! Everything at once, for a short time; `make soak` does it for longer.

use std::time::Duration;
use std::time::SystemTime;

use anyhow::ensure;

use crate::harness::is_debug_kernel;
use crate::harness::tests;
use crate::stress;
use crate::tests::pin_model::SEED;

tests! {
    everything_at_once @ 60,
}

fn everything_at_once() -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = SEED.get().copied().unwrap_or(now.as_nanos() as u64);
    let seconds = if is_debug_kernel() { 60 } else { 10 };
    let done = stress::run(seed, Duration::from_secs(seconds))?;
    println!("{done}");
    ensure!(
        done.is_enough(),
        "seed {seed}: it did next to nothing: {done}"
    );
    Ok(())
}
