// SPDX-License-Identifier: GPL-2.0-only

//! Names, and where they are seen.

use std::ffi::CString;
use std::fs;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;

use crate::abi;
use crate::harness::tests;
use crate::region::BAD_POINTERS;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;

tests! {
    default_name_is_dev_ashmem,
    name_is_read_back_and_no_byte_more,
    long_names_are_cut,
    maps_show_the_name,
    fdinfo_shows_the_name_and_cannot_be_forged,
    bad_pointer_leaves_the_name,
}

/// The line of /proc/self/maps for a mapping.
pub fn line_of(map: &Mapping) -> anyhow::Result<String> {
    line_at(map.base())
}

/// The line of /proc/self/maps for a mapping that begins at this address.
pub fn line_at(base: usize) -> anyhow::Result<String> {
    let start = format!("{base:x}-");
    fs::read_to_string("/proc/self/maps")?
        .lines()
        .find(|line| line.starts_with(&start))
        .map(str::to_owned)
        .context("the mapping is not in /proc/self/maps")
}

fn default_name_is_dev_ashmem() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    ensure!(region.name()? == "dev/ashmem");
    region.set_name(c"")?;
    ensure!(region.name()? == "dev/ashmem", "an empty name is none");
    let map = region.map(1)?;
    let line = line_of(&map)?;
    ensure!(line.ends_with(" /dev/ashmem (deleted)"), "{line}");
    ensure!(!region.fdinfo()?.contains("name:"));
    Ok(())
}

fn name_is_read_back_and_no_byte_more() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_name(c"first, and longer")?;
    region.set_name(c"second")?;
    let buffer = region.name_buffer()?;
    ensure!(&buffer[..7] == b"second\0");
    ensure!(buffer[7..].iter().all(|byte| *byte == 0xaa), "{buffer:?}");
    Ok(())
}

fn long_names_are_cut() -> anyhow::Result<()> {
    let limit = abi::ASHMEM_NAME_LEN as usize;
    for len in [254, 255, 256, 257, 300] {
        let region = Region::open()?;
        region.set_name(&CString::new(vec![b'n'; len])?)?;
        let found = region.name()?.len();
        ensure!(found == len.min(limit - 1), "{len}: {found}");
    }
    Ok(())
}

fn maps_show_the_name() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_name(c"dalvik-main space/with a path")?;
    let map = region.map(1)?;
    let line = line_of(&map)?;
    ensure!(
        line.ends_with(" /dev/ashmem/dalvik-main space/with a path (deleted)"),
        "{line}"
    );
    Ok(())
}

fn fdinfo_shows_the_name_and_cannot_be_forged() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_name(c"x\nsize:\t99\\")?;
    ensure!(region.fdinfo()?.contains("name:\tx\\012size:\t99\\134\n"));
    ensure!(region.info()?.size == PAGE as u64);
    Ok(())
}

fn bad_pointer_leaves_the_name() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_name(c"kept")?;
    for pointer in BAD_POINTERS {
        ensure!(region.ioctl(abi::ABI_SET_NAME, pointer) == Err(Errno::EFAULT));
        ensure!(region.ioctl(abi::ABI_GET_NAME, pointer) == Err(Errno::EFAULT));
    }
    ensure!(region.name()? == "kept");
    let _map = region.map(1)?;
    // The pointer is looked at first, even when the answer would be no anyway.
    ensure!(region.ioctl(abi::ABI_SET_NAME, 8) == Err(Errno::EFAULT));
    Ok(())
}
