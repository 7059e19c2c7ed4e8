// SPDX-License-Identifier: GPL-2.0-only

//! Pages that move to other frames of memory.
//!
//! `MADV_SOFT_OFFLINE` moves a page for certain, and takes the frame that it
//! was in out of use; each costs the guest 4 KiB. Of a large folio it moves one
//! page, and so the core splits that. What compaction moves is the kernel's
//! choice, and whether whole. (move_pages(2) would move folios whole to another
//! node, and the guest has but one.)

use std::fs;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::mlock;

use crate::harness::skip;
use crate::harness::tests;
use crate::region::Info;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::process::await_go;
use crate::tests::process::go;
use crate::tests::process::sockets;
use crate::tests::process::spawn;
use crate::uring::Ring;

tests! {
    page_moves_for_everybody_with_its_content => "map.migration",
    moved_page_keeps_its_state => "map.migration",
    locked_page_moves_and_stays_locked => "map.migration",
    held_page_does_not_move => "map.migration",
    nothing_is_lost_while_a_page_moves => "map.migration",
    page_of_a_large_folio_moves_alone => "map.migration",
    compaction_moves_pages @ 60 => "map.migration",
    compaction_moves_large_folios_whole @ 60 => "map.migration",
}

/// Pages of most regions here.
const N: usize = 8;

/// Moves a page to another frame.
fn soft_offline(map: &Mapping, page: usize) -> nix::Result<()> {
    map.advise(page..page + 1, libc::MADV_SOFT_OFFLINE)
}

/// References that wait in batches for their turn keep pages where they are.
/// This ends that, and drops no page of a region.
fn drain() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "1").context("drop_caches")
}

/// One letter a page: a dot where the frame is the same, `m` where it is
/// another one, `?` where there is none.
fn moved(before: &[u64], after: &[u64]) -> String {
    before
        .iter()
        .zip(after)
        .map(|frames| match frames {
            (0, _) | (_, 0) => '?',
            (before, after) if before == after => '.',
            _ => 'm',
        })
        .collect()
}

/// Single pages.
fn labelled() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    map.label();
    Ok((region, map))
}

fn page_moves_for_everybody_with_its_content() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    twin.label();
    let (here, there) = sockets()?;
    let child = spawn(|| {
        let own = region.map(N)?;
        own.label();
        let before = own.frames()?;
        go(&there)?;
        await_go(&there)?;
        let found = moved(&before, &own.frames()?);
        ensure!(found == "...m..m.", "in the other process: {found}");
        ensure!(own.labels() == "abcdefgh");
        own.stamp(3..4, b'z');
        Ok(())
    })?;
    await_go(&here)?;
    drain()?;
    let (before, info) = (map.frames()?, region.info()?);
    ensure!(twin.frames()? == before);

    soft_offline(&map, 3).context("page 3")?;
    soft_offline(&twin, 6).context("page 6")?;
    let after = map.frames()?;
    let found = moved(&before, &after);
    ensure!(found == "...m..m.", "{found}");
    ensure!(twin.frames()? == after, "two frames for one page");
    for map in [&map, &twin] {
        ensure!(map.labels() == "abcdefgh", "{}", map.labels());
    }
    ensure!(region.info()? == info, "{:?}", region.info()?);
    go(&here)?;
    child.join()?;
    ensure!(map.labels() == "abczefgh" && twin.labels() == "abczefgh");
    // The very same frame for who maps it anew.
    let fresh = region.map(N)?;
    ensure!(fresh.labels() == "abczefgh");
    ensure!(fresh.frames()? == after);
    ensure!(region.info()?.allocated == N as u64);
    Ok(())
}

fn moved_page_keeps_its_state() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    region.unpin(1..2)?;
    ensure!(region.purge_all()? == 1);
    map.stamp(1..2, b'z');
    region.unpin(4..7)?;
    drain()?;
    let (before, info) = (map.frames()?, region.info()?);
    // One that was purged and has memory anew, one pinned, one not.
    for page in [1, 3, 5] {
        soft_offline(&map, page).with_context(|| format!("page {page}"))?;
    }
    let found = moved(&before, &map.frames()?);
    ensure!(found == ".m.m.m..", "{found}");
    ensure!(region.info()? == info, "{:?}", region.info()?);
    ensure!(region.picture(N)? == ".u..uuu.");
    ensure!(map.labels() == "azcdefgh");
    // What was purged before is purged no second time; the rest is as it was.
    ensure!(region.purge_all()? == 3);
    ensure!(map.labels() == "azcd000h");
    ensure!(region.pin(1..2)? && region.pin(4..7)?);
    ensure!(!region.pin(0..N)?);
    map.advise(0..N, libc::MADV_REMOVE)?;
    ensure!(region.info()?.resident == 0);
    Ok(())
}

fn locked_page_moves_and_stays_locked() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    // SAFETY: It changes no memory.
    unsafe { mlock(map.pointer(), map.len()) }?;
    drain()?;
    let (before, info) = (map.frames()?, region.info()?);
    soft_offline(&map, 2)?;
    let found = moved(&before, &map.frames()?);
    ensure!(found == "..m.....", "{found}");
    ensure!(map.smaps()?.pages("Locked")? == N);
    ensure!(map.labels() == "abcdefgh");
    ensure!(region.info()? == info, "{:?}", region.info()?);
    // Locks do not keep it from being purged, wherever it is.
    region.unpin(2..4)?;
    ensure!(region.purge_all()? == 2);
    ensure!(map.table()? == "mm--mmmm");
    ensure!(map.labels() == "ab00efgh");
    Ok(())
}

fn held_page_does_not_move() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let ring = Ring::new()?;
    ring.register(&map, 2..3)?;
    drain()?;
    let (before, info) = (map.frames()?, region.info()?);
    ensure!(soft_offline(&map, 2) == Err(Errno::EBUSY));
    let found = moved(&before, &map.frames()?);
    ensure!(found == "........", "{found}");
    ensure!(map.labels() == "abcdefgh");
    ensure!(region.info()? == info, "{:?}", region.info()?);
    drop(ring);

    // Nor do those that have a folio with it.
    let (region, map) = Region::large(1)?;
    let ring = Ring::new()?;
    ring.register(&map, 2..3)?;
    let (before, info) = (map.frames()?, region.info()?);
    for page in [2, LARGE - 1] {
        let found = soft_offline(&map, page);
        ensure!(found == Err(Errno::EBUSY), "page {page}: {found:?}");
    }
    let found = moved(&before, &map.frames()?);
    ensure!(found == ".".repeat(LARGE), "{found}");
    ensure!(region.info()? == info, "{:?}", region.info()?);
    drop(ring);
    Ok(())
}

/// What a region has, and not how often it was touched.
fn has(region: &Region) -> anyhow::Result<Info> {
    Ok(Info {
        faults: 0,
        map_faults: 0,
        ..region.info()?
    })
}

fn page_of_a_large_folio_moves_alone() -> anyhow::Result<()> {
    const MOVED: usize = 5;
    let (region, map) = Region::large(1)?;
    map.label();
    let twin = region.map(LARGE)?;
    let labels = twin.labels();
    region.unpin(4..9)?;
    let (before, info) = (map.frames()?, has(&region)?);
    let status = region.status_picture(0..LARGE as u64)?;
    soft_offline(&map, MOVED)?;

    // The core splits the folio first, for which it takes it out of every page table.
    ensure!(map.labels() == labels && twin.labels() == labels);
    let after = map.frames()?;
    let mut expected = ".".repeat(LARGE);
    expected.replace_range(MOVED..=MOVED, "m");
    let found = moved(&before, &after);
    ensure!(found == expected, "{found}");
    ensure!(twin.frames()? == after, "two frames for one page");
    ensure!(map.folios()? == "s".repeat(LARGE), "{}", map.folios()?);
    ensure!(has(&region)? == info, "{:?}", region.info()?);
    ensure!(region.status_picture(0..LARGE as u64)? == status);
    ensure!(region.purge_all()? == 5);
    ensure!(map.labels() == "abcd00000jklmnop", "{}", map.labels());
    ensure!(!region.pin(0..4)? && region.pin(4..9)? && !region.pin(9..LARGE)?);
    Ok(())
}

/// Writes to both ends of a page which one it is.
fn number(map: &Mapping, page: usize) {
    map.atomic(page * PAGE)
        .store(page as u32, Ordering::Relaxed);
    map.atomic(page * PAGE + PAGE - 4)
        .store(!(page as u32), Ordering::Relaxed);
}

/// Asserts that a page is the one that was written.
fn is_numbered(map: &Mapping, page: usize) -> anyhow::Result<()> {
    let words =
        [page * PAGE, page * PAGE + PAGE - 4].map(|at| map.atomic(at).load(Ordering::Relaxed));
    ensure!(
        words == [page as u32, !(page as u32)],
        "page {page}: {words:?}"
    );
    Ok(())
}

fn nothing_is_lost_while_a_page_moves() -> anyhow::Result<()> {
    const MOVES: usize = 25;
    let region = Region::sized(1)?;
    let map = region.map(1)?;
    // Two words of one page: a sum, and the sign to stop.
    let (sum, stop) = (map.atomic(0), map.atomic(PAGE / 2));
    sum.store(0, Ordering::SeqCst);
    let (here, there) = sockets()?;
    let child = spawn(|| {
        let own = region.map(1)?;
        let (sum, stop) = (own.atomic(0), own.atomic(PAGE / 2));
        go(&there)?;
        let mut added: u32 = 0;
        while stop.load(Ordering::SeqCst) == 0 {
            sum.fetch_add(1, Ordering::SeqCst);
            added += 1;
        }
        own.atomic(PAGE - 4).store(added, Ordering::SeqCst);
        Ok(())
    })?;
    await_go(&here)?;
    let mut frames = vec![map.frames()?[0]];
    let mut added: u32 = 0;
    for round in 0..MOVES {
        for _ in 0..100 {
            sum.fetch_add(1, Ordering::SeqCst);
            added += 1;
        }
        soft_offline(&map, 0).with_context(|| format!("round {round}"))?;
        frames.push(map.frames()?[0]);
    }
    stop.store(1, Ordering::SeqCst);
    child.join()?;
    let theirs = map.atomic(PAGE - 4).load(Ordering::SeqCst);
    let found = sum.load(Ordering::SeqCst);
    println!("{added} + {theirs} in {MOVES} moves");
    ensure!(found == added + theirs, "{found} is not {added} + {theirs}");
    // A frame that was left is not used again.
    frames.sort_unstable();
    frames.dedup();
    ensure!(frames.len() == MOVES + 1 && frames[0] != 0, "{frames:?}");
    ensure!(region.info()?.allocated == 1);
    Ok(())
}

fn compaction_moves_pages() -> anyhow::Result<()> {
    // Every second page is freed: no two free ones lie side by side in what
    // the region has of memory, until compaction has been there. These are more
    // than all others have of movable pages, which might come first.
    const PAGES: usize = 32768;
    const KEPT: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?.single()?;
    for page in 0..PAGES {
        number(&map, page);
    }
    for page in (1..PAGES).step_by(2) {
        region.unpin(page..page + 1)?;
    }
    // Freed to everybody: compaction moves nothing into what the processors
    // keep for themselves, which may be all of it.
    let kept = fs::read_to_string(KEPT).context(KEPT)?;
    fs::write(KEPT, "1000000").context(KEPT)?;
    let purged = region.purge_all();
    fs::write(KEPT, kept).context(KEPT)?;
    ensure!(purged == Ok(PAGES / 2), "{purged:?}");
    let twin = region.map(PAGES)?;
    for page in (0..PAGES).step_by(2) {
        twin.read(page * PAGE);
    }
    let (before, info) = (map.frames()?, region.info()?);
    fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;

    let after = map.frames()?;
    ensure!(twin.frames()? == after, "two frames for one page");
    let found = moved(&before, &after);
    let count = found.matches('m').count();
    println!("{count} of {} pages moved", PAGES / 2);
    ensure!(count > 0, "compaction moved nothing");
    // None was lost on the way, and none has come.
    ensure!(found.bytes().step_by(2).all(|letter| letter != b'?'));
    ensure!(
        found
            .bytes()
            .skip(1)
            .step_by(2)
            .all(|letter| letter == b'?')
    );
    for page in (0..PAGES).step_by(2) {
        is_numbered(&map, page)?;
    }
    ensure!(region.info()? == info, "{:?}", region.info()?);
    ensure!(region.pin(0..PAGES)?);
    Ok(())
}

fn compaction_moves_large_folios_whole() -> anyhow::Result<()> {
    // As above, but every second folio goes.
    const FOLIOS: usize = 2048;
    const PAGES: usize = FOLIOS * LARGE;
    let (region, map) = Region::large(FOLIOS)?;
    let kept = || (0..FOLIOS).step_by(2).map(|n| n * LARGE..(n + 1) * LARGE);
    for folio in kept() {
        folio.clone().for_each(|page| number(&map, page));
        map.advise(folio.end..folio.end + LARGE, libc::MADV_REMOVE)?;
        region.unpin(folio.start + 3..folio.start + 7)?;
    }
    let (before, info) = (map.frames()?, has(&region)?);
    let status = region.status_picture(0..PAGES as u64)?;
    fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;

    // What was split on the way was taken out of the page table.
    let twin = region.map(PAGES)?;
    for page in kept().flatten() {
        is_numbered(&map, page)?;
        is_numbered(&twin, page)?;
    }
    let (after, folios) = (map.frames()?, map.folios()?);
    ensure!(twin.frames()? == after, "two frames for one page");
    let whole = "h".to_owned() + &"t".repeat(LARGE - 1);
    let (mut moved_whole, mut split) = (0, 0);
    for folio in kept() {
        let now = &after[folio.clone()];
        if folios[folio.clone()] != whole {
            split += 1;
        } else if now[0] != before[folio.start] {
            moved_whole += 1;
        }
    }
    println!(
        "of {} folios {moved_whole} moved, {split} were split",
        FOLIOS / 2
    );
    ensure!(has(&region)? == info, "{:?}", region.info()?);
    ensure!(region.status_picture(0..PAGES as u64)? == status);
    ensure!(region.purge_all()? == FOLIOS / 2 * 4);
    ensure!(region.pin(0..PAGES)?);
    for page in kept().flat_map(|folio| [folio.start + 2, folio.start + 7]) {
        is_numbered(&map, page)?;
    }
    // Right after boot it may find nothing to do.
    if moved_whole == 0 {
        return skip("compaction moved no folio");
    }
    Ok(())
}
