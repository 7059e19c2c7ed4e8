// SPDX-License-Identifier: GPL-2.0-only

//! Private mappings: copies of what is written, and of nothing else.

use std::fs;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mprotect;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts::settle;
use crate::tests::process::in_child;
use crate::tests::seen::smaps_of;

tests! {
    private_mapping_is_copy_on_write => "private.cow",
    private_write_to_a_hole_leaves_the_hole => "private.cow" "private.hole-write",
    private_read_of_a_hole_fills_it => "private.hole-read",
    private_mapping_costs_what_is_written => "private.once",
    forked_private_mapping_is_two => "private.cow",
    dontneed_shows_the_region_again => "private.cow",
    read_only_descriptor_may_be_written_privately => "private.cow",
    mask_binds_private_mappings,
}

fn private(region: &Region, pages: usize) -> anyhow::Result<Mapping> {
    region
        .map_as(pages * PAGE, RW, MapFlags::MAP_PRIVATE)
        .context("mmap")
}

fn private_mapping_is_copy_on_write() -> anyhow::Result<()> {
    let region = Region::sized(3)?;
    let shared = region.map(3)?;
    shared.stamp(0..1, 1);
    let private = private(&region, 3)?;
    ensure!(private.read(0) == 1, "it does not show the region");
    private.stamp(0..2, 2);
    shared.stamp(2..3, 3);
    ensure!(shared.picture(1) == "x0?", "{}", shared.picture(1));
    ensure!(private.picture(2) == "xx?", "{}", private.picture(2));
    // Where there is a copy, what the region becomes is not seen any more.
    shared.stamp(0..3, 4);
    ensure!(private.picture(4) == "??x", "{}", private.picture(4));
    ensure!(private.picture(2) == "xx?", "{}", private.picture(2));
    // Purging takes the region's pages and not the copies.
    region.unpin(0..3)?;
    region.purge_all()?;
    ensure!(shared.picture(1) == "000");
    ensure!(private.picture(2) == "xx0", "{}", private.picture(2));
    Ok(())
}

fn private_write_to_a_hole_leaves_the_hole() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let map = private(&region, 8)?;
    // In the middle of a page: what is around it is zero.
    for page in 0..4 {
        map.write(page * PAGE + 1000, 5);
    }
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (0, 0), "{info:?}");
    for at in 0..4 * PAGE {
        let expected = if at % PAGE == 1000 { 5 } else { 0 };
        ensure!(map.read(at) == expected, "{at}: {}", map.read(at));
    }
    let info = region.info()?;
    ensure!(
        (info.resident, info.allocated) == (0, 0),
        "reading the copies: {info:?}"
    );
    // The zero page is still one.
    let other = private(&Region::sized(1)?, 1)?;
    other.write(0, 1);
    ensure!((1..PAGE).all(|at| other.read(at) == 0));
    Ok(())
}

fn private_read_of_a_hole_fills_it() -> anyhow::Result<()> {
    let region = Region::sized(8)?;
    let map = private(&region, 8)?.single()?;
    ensure!(map.read_pages(0..3) == 0);
    let info = region.info()?;
    ensure!((info.resident, info.allocated) == (3, 3), "{info:?}");
    // So that it is one memory with what others do there.
    let shared = region.map(8)?;
    shared.stamp(0..3, 6);
    ensure!(map.picture(6) == "xxx00000", "{}", map.picture(6));
    // A write after the read copies that page.
    map.stamp(1..2, 7);
    ensure!(shared.picture(6) == "xxx00000", "{}", shared.picture(6));
    Ok(())
}

/// A line of /proc/vmstat, after all processors have added theirs.
fn vmstat(key: &str) -> anyhow::Result<usize> {
    fs::write("/proc/sys/vm/stat_refresh", "1\n").context("stat_refresh")?;
    fs::read_to_string("/proc/vmstat")?
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
        .with_context(|| format!("no {key} in /proc/vmstat"))
}

fn private_mapping_costs_what_is_written() -> anyhow::Result<()> {
    const PAGES: usize = 4096;
    // For what else the machine does meanwhile.
    const SLACK: usize = PAGES / 16;
    settle()?;
    let region = Region::sized(PAGES)?;
    let shared = region.map(PAGES)?;
    shared.stamp(0..PAGES, 8);
    let map = private(&region, PAGES)?;
    let before = (vmstat("nr_anon_pages")?, vmstat("nr_file_pages")?);
    let costs = |anon: usize, what: &str| -> anyhow::Result<()> {
        let smaps = smaps_of(&map)?;
        println!("{what}: {smaps:?}");
        ensure!(smaps.kb("Rss")? == PAGES * PAGE / 1024, "{what}");
        ensure!(smaps.kb("Anonymous")? == anon * PAGE / 1024, "{what}");
        let now = (vmstat("nr_anon_pages")?, vmstat("nr_file_pages")?);
        println!("{what}: {before:?}, now {now:?}");
        ensure!(now.0.abs_diff(before.0 + anon) <= SLACK, "{what}: copies");
        ensure!(now.1.abs_diff(before.1) <= SLACK, "{what}: files");
        ensure!(region.info()?.resident == PAGES as u64);
        Ok(())
    };
    ensure!(map.read_pages(0..PAGES) == 8 * PAGES);
    costs(0, "all is read")?;
    map.write_pages(0..PAGES / 2);
    costs(PAGES / 2, "half is written")?;
    map.write_pages(0..PAGES / 2);
    costs(PAGES / 2, "half is written again")?;
    ensure!(shared.read_pages(0..PAGES) == 8 * PAGES);
    Ok(())
}

fn forked_private_mapping_is_two() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let shared = region.map(4)?;
    shared.stamp(0..4, 1);
    let map = private(&region, 4)?;
    map.stamp(0..2, 2);
    in_child(|| {
        let found = map.picture(2);
        ensure!(found == "xx??", "the child sees {found}");
        map.stamp(1..3, 3);
        // What neither copied is the region, for both.
        shared.stamp(3..4, 3);
        let found = map.picture(3);
        ensure!(found == "?xxx", "the child has {found}");
        Ok(())
    })?;
    let found = map.picture(2);
    ensure!(found == "xx??", "the child wrote to its parent: {found}");
    ensure!(map.read(2 * PAGE) == 1 && map.read(3 * PAGE) == 3);
    ensure!(shared.picture(1) == "xxx?", "{}", shared.picture(1));
    Ok(())
}

fn dontneed_shows_the_region_again() -> anyhow::Result<()> {
    let region = Region::sized(3)?;
    let shared = region.map(3)?;
    shared.stamp(0..2, 1);
    let map = private(&region, 3)?;
    map.stamp(0..3, 2);
    ensure!(map.picture(2) == "xxx");
    map.advise_bytes(0, map.len(), libc::MADV_DONTNEED)?;
    ensure!(map.picture(1) == "xx0", "{}", map.picture(1));
    Ok(())
}

/// mprotect(2) of a whole mapping.
fn protect(map: &Mapping, prot: ProtFlags) -> nix::Result<()> {
    // SAFETY: Its protection changes, if anything.
    unsafe { mprotect(map.pointer(), map.len(), prot) }
}

fn read_only_descriptor_may_be_written_privately() -> anyhow::Result<()> {
    let region = Region::open_mode(OFlag::O_RDONLY)?;
    region.set_size(2 * PAGE)?;
    let watch = region.map_as(2 * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure!(protect(&watch, RW) == Err(Errno::EACCES), "a shared one");

    let map = region.map_as(2 * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
    ensure!(map.picture(2) == "00");
    protect(&map, RW)?;
    map.stamp(0..1, 2);
    let at_once = private(&region, 2)?;
    at_once.stamp(1..2, 2);
    ensure!(map.picture(2) == "x0" && at_once.picture(2) == "0x");
    ensure!(watch.picture(2) == "00", "the region was written to");
    Ok(())
}

fn mask_binds_private_mappings() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let before = private(&region, 2)?;
    region.set_mask(ProtFlags::PROT_READ)?;
    let found = region.map_as(PAGE, RW, MapFlags::MAP_PRIVATE).err();
    ensure!(found == Some(Errno::EPERM), "{found:?}");
    let map = region.map_as(PAGE, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
    ensure!(protect(&map, RW) == Err(Errno::EACCES));
    let exec = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    ensure!(protect(&map, exec) == Err(Errno::EACCES));
    // Made before, it keeps its rights.
    before.write(0, 1);
    protect(&before, exec)?;
    ensure!(map.read(0) == 0);
    Ok(())
}
