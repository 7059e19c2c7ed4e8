// SPDX-License-Identifier: GPL-2.0-only

//! The device node.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use anyhow::Context;
use anyhow::ensure;

use crate::harness::tests;

tests! { node_is_a_character_device, module_is_listed }

fn node_is_a_character_device() -> anyhow::Result<()> {
    let meta = fs::metadata("/dev/ashmem").context("/dev/ashmem")?;
    ensure!(meta.file_type().is_char_device());
    Ok(())
}

fn module_is_listed() -> anyhow::Result<()> {
    let modules = fs::read_to_string("/proc/modules")?;
    ensure!(
        modules.lines().any(|l| l.starts_with("ashmem ")),
        "{modules}"
    );
    Ok(())
}
