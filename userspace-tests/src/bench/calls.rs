// SPDX-License-Identifier: GPL-2.0-only

//! What is done by one call, and copying.

use std::os::fd::BorrowedFd;

use anyhow::ensure;
use ashmem_figures::Cost;
use ashmem_figures::Per;
use ashmem_figures::Target;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::uio::pread;
use nix::sys::uio::pwrite;

use super::Bench;
use super::clock;
use super::growth;
use super::pages::PAGES;
use super::pages_of;
use super::targets::Memory;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;

/// What is copied, in bytes, and how often in each try.
pub const COPIES: [(usize, &str, usize); 5] = [
    (64, "64 B", 100),
    (512, "512 B", 100),
    (4 << 10, "4 KiB", 100),
    (64 << 10, "64 KiB", 10),
    (1 << 20, "1 MiB", 1),
];

/// At most (`MAPLE_RANGE64_SLOTS`).
const MAPPINGS_IN_A_NODE: usize = 16;

/// Measures one kind of memory.
pub fn measure(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    life(bench, target)?;
    mmap_and_munmap(bench, target)?;
    if target == Target::Ashmem {
        pins(bench, target)?;
    }
    copies(bench, target)
}

/// Of memory in which one page is touched.
fn life(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let live = || -> anyhow::Result<(Memory, Mapping)> {
        let memory = Memory::new(target, PAGES)?;
        let map = memory.map()?;
        map.write(0, 1);
        Ok((memory, map))
    };
    let (memory, map) = live()?;
    let fresh = pages_of(&map, target)? as f64;
    drop((map, memory));
    let what = ("create, map, touch a page, unmap, close", Per::Call);
    bench.calls(what, target, fresh, 5, || {
        let (memory, map) = live()?;
        drop(map);
        drop(memory);
        Ok(())
    })
}

/// Of memory in which nothing is touched.
///
/// What is beside a mapping decides whether the kernel's tree of them has to make a node for one
/// more. So this is tried beside more and more others, and the least counts.
fn mmap_and_munmap(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let memory = Memory::new(target, PAGES)?;
    let mut others = vec![];
    let mut least = f64::MAX;
    for other in 0..2 * MAPPINGS_IN_A_NODE {
        least = least.min(clock::least(20, || memory.map().map(drop))?);
        // Those that are alike would be one.
        let prot = match other % 2 {
            0 => ProtFlags::PROT_NONE,
            _ => ProtFlags::PROT_READ,
        };
        others.push(Mapping::anonymous(1, prot, MapFlags::MAP_PRIVATE)?);
    }
    let cost = Cost {
        cost: least,
        fresh: 0.0,
        faults: 0,
        held: 0,
    };
    bench.note("mmap and munmap", Per::Call, target, cost);
    Ok(())
}

/// What only a region has.
fn pins(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    for (what, pages, touched) in [
        ("UNPIN and PIN of a page without memory", 0..1, 0..0),
        ("UNPIN and PIN of a page", 1..2, 1..2),
        ("UNPIN and PIN of 64 MiB", 0..PAGES, 0..PAGES),
    ] {
        map.write_pages(touched);
        bench.calls((what, Per::Call), target, 0.0, 20, || {
            region.unpin(pages.clone())?;
            ensure!(!region.pin(pages.clone())?, "it was purged");
            Ok(())
        })?;
    }
    for ranges in [512, 4096] {
        let many = growth::Ranges::new(ranges)?;
        let what = format!("GET_PIN_STATUS at the end of {ranges} ranges");
        bench.calls((&what, Per::Call), target, 0.0, 50, || many.status())?;
        let what = format!("PIN and UNPIN at the end of {ranges} ranges");
        bench.calls((&what, Per::Call), target, 0.0, 50, || many.pin_and_unpin())?;
    }
    Ok(())
}

/// Between the memory and a buffer of the program: through a mapping, and by system calls.
fn copies(bench: &mut Bench, target: Target) -> anyhow::Result<()> {
    let pages = COPIES
        .map(|(size, ..)| size.div_ceil(PAGE))
        .into_iter()
        .max();
    let pages = pages.unwrap_or_default();
    let memory = Memory::new(target, pages)?;
    let map = memory.map()?;
    map.write_pages(0..pages);
    let mut buffer = vec![1u8; pages * PAGE];
    for (size, text, times) in COPIES {
        let buffer = &mut buffer[..size];
        let mut copy = |what: &str, body: &mut dyn FnMut(&mut [u8]) -> anyhow::Result<()>| {
            let what = format!("{what}, {text}");
            bench.calls((&what, Per::Copy), target, 0.0, times, || body(buffer))
        };
        copy("copy from the mapping", &mut |buffer| {
            let from = map.pointer().cast::<u8>().as_ptr();
            // SAFETY: The mapping has at least as many bytes, it is no part of the buffer, and
            // nobody else knows of it.
            unsafe { from.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) };
            Ok(())
        })?;
        copy("copy to the mapping", &mut |buffer| {
            let to = map.pointer().cast::<u8>().as_ptr();
            // SAFETY: As above.
            unsafe { to.copy_from_nonoverlapping(buffer.as_ptr(), buffer.len()) };
            Ok(())
        })?;
        let Some(fd) = memory.fd() else { continue };
        let all = |done: usize| -> anyhow::Result<()> {
            ensure!(done == size, "{done} of {size} bytes");
            Ok(())
        };
        copy("read(2)", &mut |buffer| all(pread(fd, buffer, 0)?))?;
        if has_write(fd) {
            copy("write(2)", &mut |buffer| all(pwrite(fd, buffer, 0)?))?;
        }
    }
    Ok(())
}

/// Whether write(2) works on it: on no region it does.
fn has_write(fd: BorrowedFd<'_>) -> bool {
    pwrite(fd, &[1], 0).is_ok()
}
