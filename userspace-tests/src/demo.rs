// SPDX-License-Identifier: GPL-2.0-only

//! The demonstration: what the module is good for, readably.

/// Shows it on standard output, which the host streams.
pub fn run() -> anyhow::Result<()> {
    println!("The demonstration is not written yet.");
    Ok(())
}
