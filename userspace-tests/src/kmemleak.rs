// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's own search for memory that nothing points to any more.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

const FILE: &str = "/sys/kernel/debug/kmemleak";
/// An object is reported once it is older than this (mm/kmemleak.c,
/// `MSECS_MIN_AGE`), here with a little on top.
const MIN_AGE: Duration = Duration::from_millis(5500);

/// Whether this kernel has it.
pub fn present() -> bool {
    Path::new(FILE).exists()
}

/// Stops its own thread, which would scan at a moment of its choice.
pub fn only_when_asked() -> anyhow::Result<()> {
    fs::write(FILE, "scan=off").context("kmemleak: scan=off")
}

/// What leaked, in kmemleak's words; empty if nothing. `since`: when the
/// objects in question stopped changing.
pub fn scan(since: Instant) -> anyhow::Result<String> {
    // The first scan notes checksums, only a later one believes them.
    fs::write(FILE, "scan").context("kmemleak: scan")?;
    sleep(MIN_AGE.saturating_sub(since.elapsed()));
    fs::write(FILE, "scan").context("kmemleak: scan")?;
    fs::read_to_string(FILE).context("kmemleak: reading the result")
}
