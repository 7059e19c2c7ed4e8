// SPDX-License-Identifier: GPL-2.0-only

//! The protection mask, at mmap and at mprotect.

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mprotect;
use nix::sys::signal::Signal;

use crate::harness::tests;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::dies_of;
use crate::tests::process::in_child;

tests! {
    mask_only_shrinks,
    mmap_outside_the_mask_is_eperm,
    mprotect_outside_the_mask_is_eacces,
    mask_is_not_retroactive,
    mask_belongs_to_the_open_file,
    read_implies_exec_brings_nothing_back,
    write_to_a_read_only_mapping_is_sigsegv,
}

const ALL: ProtFlags = RW.union(ProtFlags::PROT_EXEC);

fn mask_only_shrinks() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    ensure!(region.mask()? == ALL);
    region.set_mask(RW)?;
    ensure!(region.set_mask(ALL) == Err(Errno::EINVAL));
    ensure!(region.mask()? == RW, "a refused mask is kept");
    region.set_mask(ProtFlags::PROT_READ)?;
    ensure!(region.set_mask(RW) == Err(Errno::EINVAL));
    let unknown = ProtFlags::from_bits_retain(0x10);
    ensure!(region.set_mask(unknown) == Err(Errno::EINVAL));
    region.set_mask(ProtFlags::PROT_NONE)?;
    ensure!(region.mask()? == ProtFlags::PROT_NONE);
    Ok(())
}

fn mmap_outside_the_mask_is_eperm() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_mask(ProtFlags::PROT_READ)?;
    for prot in [RW, ProtFlags::PROT_WRITE, ProtFlags::PROT_EXEC, ALL] {
        for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
            let found = region.map_as(PAGE, prot, flags).err();
            ensure!(found == Some(Errno::EPERM), "{prot:?} {flags:?}: {found:?}");
        }
    }
    region.map_as(PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    region.map_as(PAGE, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED)?;
    Ok(())
}

fn mprotect_outside_the_mask_is_eacces() -> anyhow::Result<()> {
    for (mask, forbidden) in [
        (ProtFlags::PROT_READ, ProtFlags::PROT_WRITE),
        (ProtFlags::PROT_READ, ProtFlags::PROT_EXEC),
        (RW, ProtFlags::PROT_EXEC),
        (ProtFlags::PROT_WRITE, ProtFlags::PROT_READ),
        (ProtFlags::PROT_NONE, ProtFlags::PROT_READ),
    ] {
        let region = Region::sized(1)?;
        region.set_mask(mask)?;
        let map = region.map_as(PAGE, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED)?;
        // SAFETY: It is this mapping's protection that changes, if any.
        let found = unsafe { mprotect(map.pointer(), PAGE, forbidden) };
        ensure!(
            found == Err(Errno::EACCES),
            "{mask:?} {forbidden:?}: {found:?}"
        );
        // SAFETY: As above.
        unsafe { mprotect(map.pointer(), PAGE, mask) }.context("what the mask admits")?;
    }
    Ok(())
}

fn mask_is_not_retroactive() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    let map = region.map(1)?;
    region.set_mask(ProtFlags::PROT_READ)?;
    map.write(0, 5);
    let read_only = region.map_as(PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure!(read_only.read(0) == 5);
    Ok(())
}

fn mask_belongs_to_the_open_file() -> anyhow::Result<()> {
    use std::os::fd::AsFd;

    let region = Region::sized(1)?;
    let twin = Region::from_fd(region.as_fd().try_clone_to_owned()?);
    in_child(|| Ok(twin.set_mask(ProtFlags::PROT_READ)?))?;
    let found = region.map_as(PAGE, RW, MapFlags::MAP_SHARED).err();
    ensure!(found == Some(Errno::EPERM));
    Ok(())
}

fn read_implies_exec_brings_nothing_back() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    region.set_mask(RW)?;
    in_child(|| {
        // SAFETY: It changes this process's personality only.
        Errno::result(unsafe { libc::personality(libc::READ_IMPLIES_EXEC as libc::c_ulong) })?;
        // With it, PROT_READ asks for PROT_EXEC, which was taken away.
        ensure!(region.set_mask(ProtFlags::PROT_READ) == Err(Errno::EINVAL));
        Ok(())
    })?;
    ensure!(region.mask()? == RW);
    Ok(())
}

fn write_to_a_read_only_mapping_is_sigsegv() -> anyhow::Result<()> {
    let region = Region::sized(1)?;
    let map = region.map_as(PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    dies_of(Signal::SIGSEGV, || map.write(0, 1))
}
