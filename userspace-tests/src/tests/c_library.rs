// SPDX-License-Identifier: GPL-2.0-only

//! The C library, through a program in C that is linked with it in both ways.

use std::process::Command;

use anyhow::Context;
use anyhow::ensure;

use crate::harness::tests;

tests! {
    linked_statically,
    linked_dynamically,
}

/// Runs a program of the initramfs, which must be there and end well.
fn run(program: &'static str) -> anyhow::Result<()> {
    let status = Command::new(program).status().context(program)?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

fn linked_statically() -> anyhow::Result<()> {
    run("/bin/c-client-static")
}

fn linked_dynamically() -> anyhow::Result<()> {
    run("/bin/c-client-shared")
}
