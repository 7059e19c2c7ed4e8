// SPDX-License-Identifier: GPL-2.0-only

//! A huge page, and what becomes of it when a part is purged.

use std::fs;

use anyhow::Context;
use anyhow::ensure;
use ashmem::Region;
use linux_raw_sys::general::PAGE_IS_HUGE;
use nix::sys::mman::MmapAdvise;
use procfs::PhysicalPageFlags;

use crate::memfd;
use crate::memory::Memory;
use crate::pagemap;
use crate::pagemap::PAGE;
use crate::purge;

/// Pages of a huge one.
const HUGE: usize = 512;
/// One of them.
const INNER: usize = 100;

/// Says how a huge page is mapped; gives the number of pages that one entry maps together with others.
fn present(name: &str, memory: Memory) -> anyhow::Result<usize> {
    let present = memory.frames()?.iter().flatten().count();
    let scanned = memory.scan(PAGE_IS_HUGE, 0)?;
    let huge = scanned
        .iter()
        .filter(|categories| **categories != 0)
        .count();
    println!("  {name}  present: {present} of {HUGE} pages, by a huge entry: {huge}");
    Ok(huge)
}

/// Shows it.
pub fn show() -> anyhow::Result<()> {
    println!("\n2 MiB, with MADV_HUGEPAGE, of which one byte is written");
    let region = Region::new(c"huge", HUGE * PAGE)?;
    let memory = Memory::of_region(region.map()?)?;
    let beside = memfd(HUGE)?;
    ensure!(memory.address() % (HUGE * PAGE) == 0, "it does not fit");
    for memory in [memory, beside] {
        memory.advise_all(MmapAdvise::MADV_HUGEPAGE)?;
        memory.write(0);
    }
    let ours = present("region", memory)?;
    let theirs = present("memfd ", beside)?;
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled")?;
    let setting = setting.split(['[', ']']).nth(1).context("no setting")?;
    println!("    its setting is transparent_hugepage/shmem_enabled: {setting}");
    ensure!(ours == HUGE && region.counters()?.huge_faults == 1);
    ensure!((theirs == HUGE) == (setting != "never"));

    let frames = memory.frames()?;
    let first = frames[0].context("page 0 is not present")?;
    let flags = pagemap::flags(first, HUGE)?;
    let count = |flag| flags.iter().filter(|flags| flags.contains(flag)).count();
    let heads = count(PhysicalPageFlags::COMPOUND_HEAD);
    let tails = count(PhysicalPageFlags::COMPOUND_TAIL);
    println!("  frames of the region: one behind the other, {heads} head, {tails} tails");
    ensure!(first % HUGE as u64 == 0 && (heads, tails) == (1, HUGE - 1));
    ensure!((0..HUGE).all(|page| frames[page] == Some(first + page as u64)));

    purge(&region, INNER)?;
    println!("page {INNER} of it is purged, and all others are read");
    for page in (0..HUGE).filter(|page| *page != INNER) {
        memory.read(page);
    }
    ensure!(present("region", memory)? == 0);
    let after = memory.frames()?;
    ensure!((0..HUGE).all(|page| after[page] == frames[page].filter(|_| page != INNER)));
    // The pages of each, and 0 where there is none.
    let mut folios = vec![];
    for (page, flags) in pagemap::flags(first, HUGE)?.into_iter().enumerate() {
        match flags.contains(PhysicalPageFlags::COMPOUND_TAIL) {
            _ if page == INNER => folios.push(0),
            false => folios.push(1),
            true => *folios.last_mut().context("a tail without a head")? += 1,
        }
    }
    println!("  the frames are the same; page by page, their folios have {folios:?} pages");
    ensure!(folios.iter().sum::<usize>() == HUGE - 1);
    Ok(())
}
