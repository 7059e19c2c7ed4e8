// SPDX-License-Identifier: GPL-2.0-only

//! Pin, unpin and purge, with pictures.
//!
//! In the pictures of states a dot is a pinned page and a `u` an unpinned one;
//! in those of content an `x` is what the test wrote and a `0` a page of zeros.

use std::sync::atomic::Ordering;

use anyhow::ensure;
use nix::errno::Errno;
use nix::unistd::Uid;
use nix::unistd::setuid;

use crate::abi;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::process::in_child;
use crate::tests::process::spawn;
use crate::uring::Ring;

tests! {
    all_pages_begin_pinned,
    status_is_exact_for_each_page,
    pin_splits_a_range,
    only_unpinned_pages_are_purged,
    pin_after_purge_reports_was_purged_once,
    purged_and_live_pages_do_not_mix,
    unpinning_again_forgets_nothing,
    what_is_written_to_a_purged_page_stays,
    purge_counts_untouched_pages_too,
    purge_all_needs_cap_sys_admin,
    ranges_are_checked,
    len_zero_is_the_rest,
    pinning_ioctls_need_a_mapping,
    many_ranges_are_kept_apart,
    pages_held_for_dma_are_not_purged => "purge.dma",
    purge_all_misses_nothing_while_others_pin,
}

/// Pages of each region here.
const N: usize = 12;
/// What the tests write.
const X: u8 = 0x5a;

fn region() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.stamp(0..N, X);
    Ok((region, map))
}

fn states(region: &Region, expected: &str) -> anyhow::Result<()> {
    let found = region.picture(N)?;
    println!("states  {found}");
    ensure!(found == expected, "states {found}, expected {expected}");
    let unpinned = expected.chars().filter(|c| *c == 'u').count();
    ensure!(region.info()?.unpinned == unpinned as u64);
    Ok(())
}

fn content(map: &Mapping, expected: &str) -> anyhow::Result<()> {
    let found = map.picture(X);
    println!("content {found}");
    ensure!(found == expected, "content {found}, expected {expected}");
    Ok(())
}

fn all_pages_begin_pinned() -> anyhow::Result<()> {
    let (region, map) = region()?;
    states(&region, "............")?;
    ensure!(region.purge_all()? == 0);
    content(&map, "xxxxxxxxxxxx")?;
    ensure!(!region.pin(0..N)?);
    Ok(())
}

fn status_is_exact_for_each_page() -> anyhow::Result<()> {
    let (region, _map) = region()?;
    region.unpin(2..5)?;
    states(&region, "..uuu.......")?;
    region.unpin(4..8)?;
    states(&region, "..uuuuuu....")?;
    region.unpin(11..12)?;
    states(&region, "..uuuuuu...u")?;
    // 0 as soon as one page of the range is unpinned.
    for (start, end, pinned) in [(0, 2, true), (0, 3, false), (7, 9, false), (8, 11, true)] {
        let found = region.pinned_bytes((start * PAGE) as u32, ((end - start) * PAGE) as u32)?;
        ensure!(found == pinned, "{start}..{end}");
    }
    Ok(())
}

fn pin_splits_a_range() -> anyhow::Result<()> {
    let (region, map) = region()?;
    region.unpin(1..11)?;
    states(&region, ".uuuuuuuuuu.")?;
    ensure!(!region.pin(4..6)?);
    states(&region, ".uuu..uuuuu.")?;
    ensure!(!region.pin(0..2)?);
    states(&region, "..uu..uuuuu.")?;
    ensure!(!region.pin(9..12)?);
    states(&region, "..uu..uuu...")?;
    ensure!(region.purge_all()? == 5);
    content(&map, "xx00xx000xxx")?;
    // All of them at once, and what lies between.
    ensure!(region.pin(0..N)?);
    states(&region, "............")?;
    Ok(())
}

fn only_unpinned_pages_are_purged() -> anyhow::Result<()> {
    let (region, map) = region()?;
    region.unpin(3..6)?;
    region.unpin(8..9)?;
    ensure!(region.info()?.resident == N as u64);
    ensure!(region.purge_all()? == 4);
    let info = region.info()?;
    ensure!(
        info.resident == N as u64 - 4 && info.purged == 4,
        "{info:?}"
    );
    content(&map, "xxx000xx0xxx")?;
    ensure!(region.purge_all()? == 0, "purged twice");
    Ok(())
}

fn pin_after_purge_reports_was_purged_once() -> anyhow::Result<()> {
    let (region, map) = region()?;
    region.unpin(2..6)?;
    region.purge_all()?;
    ensure!(!region.pin(0..2)?, "of its neighbours");
    ensure!(region.pin(1..3)?, "one purged page among others");
    ensure!(!region.pin(1..3)?, "it is forgotten with the first PIN");
    ensure!(region.pin(3..6)?);
    ensure!(!region.pin(0..N)?);
    content(&map, "xx0000xxxxxx")
}

fn purged_and_live_pages_do_not_mix() -> anyhow::Result<()> {
    let (region, map) = region()?;
    region.unpin(2..5)?;
    region.purge_all()?;
    // Beside and around what was purged.
    region.unpin(0..8)?;
    states(&region, "uuuuuuuu....")?;
    ensure!(!region.pin(0..2)?, "a live page counts as purged");
    ensure!(!region.pin(5..8)?, "a live page counts as purged");
    region.unpin(0..8)?;
    ensure!(region.purge_all()? == 5, "live pages beside purged ones");
    content(&map, "00000000xxxx")?;
    ensure!(region.pin(0..1)? && region.pin(1..8)?);
    Ok(())
}

fn unpinning_again_forgets_nothing() -> anyhow::Result<()> {
    let (region, _map) = region()?;
    region.unpin(2..5)?;
    region.purge_all()?;
    region.unpin(2..5)?;
    region.unpin(0..N)?;
    ensure!(region.purge_all()? == N - 3);
    ensure!(region.pin(2..5)?, "forgotten by UNPIN");
    Ok(())
}

fn what_is_written_to_a_purged_page_stays() -> anyhow::Result<()> {
    let (region, map) = region()?;
    region.unpin(2..5)?;
    region.purge_all()?;
    map.stamp(3..4, X);
    ensure!(region.purge_all()? == 0, "it was purged already");
    content(&map, "xx0x0xxxxxxx")?;
    ensure!(region.pin(3..4)?);
    content(&map, "xx0x0xxxxxxx")?;
    // Pinned and unpinned anew, it is as good as any other.
    region.unpin(3..4)?;
    ensure!(region.purge_all()? == 1);
    content(&map, "xx000xxxxxxx")
}

fn purge_counts_untouched_pages_too() -> anyhow::Result<()> {
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.stamp(0..2, X);
    region.unpin(1..7)?;
    ensure!(region.purge_all()? == 6);
    let info = region.info()?;
    ensure!((info.resident, info.purged) == (1, 1), "{info:?}");
    // A page that never had memory was purged nonetheless.
    ensure!(region.pin(5..6)?);
    content(&map, "x00000000000")
}

fn purge_all_needs_cap_sys_admin() -> anyhow::Result<()> {
    let (region, map) = region()?;
    region.unpin(0..N)?;
    in_child(|| {
        setuid(Uid::from_raw(1000))?;
        ensure!(region.purge_all() == Err(Errno::EPERM));
        // What else there is needs no rights.
        ensure!(!region.pin(0..1)?);
        Ok(())
    })?;
    content(&map, "xxxxxxxxxxxx")?;
    states(&region, ".uuuuuuuuuuu")
}

fn ranges_are_checked() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(N * PAGE - 100)?;
    let _map = region.map(N)?;
    let page = PAGE as u32;
    let size = N as u32 * page;
    for (offset, len) in [
        (1, page),
        (0, page + 1),
        (page - 1, 1),
        (0, size + page),
        (size, page),
        (size + page, 0),
        (page, u32::MAX - page + 1),
        (u32::MAX - page + 1, page),
        (u32::MAX, u32::MAX),
    ] {
        for result in [
            region.pin_bytes(offset, len).map(drop),
            region.unpin_bytes(offset, len),
            region.pinned_bytes(offset, len).map(drop),
        ] {
            ensure!(
                result == Err(Errno::EINVAL),
                "{offset:#x} {len:#x}: {result:?}"
            );
        }
    }
    for request in [abi::ABI_PIN, abi::ABI_UNPIN, abi::ABI_GET_PIN_STATUS] {
        for pointer in [0, 8, 0xffff_8880_0000_0000] {
            let result = region.ioctl(request, pointer);
            ensure!(result == Err(Errno::EFAULT), "{request:#x}: {result:?}");
        }
    }
    states(&region, "............")
}

fn len_zero_is_the_rest() -> anyhow::Result<()> {
    let (region, _map) = region()?;
    region.unpin_bytes(9 * PAGE as u32, 0)?;
    states(&region, ".........uuu")?;
    region.unpin_bytes(0, 0)?;
    states(&region, "uuuuuuuuuuuu")?;
    ensure!(!region.pin_bytes(PAGE as u32, 0)?);
    states(&region, "u...........")?;
    // At the end there is nothing left, and nothing is done.
    let end = (N * PAGE) as u32;
    region.unpin_bytes(end, 0)?;
    ensure!(!region.pin_bytes(end, 0)?);
    ensure!(region.pinned_bytes(end, 0)?);
    states(&region, "u...........")
}

fn pinning_ioctls_need_a_mapping() -> anyhow::Result<()> {
    let region = Region::sized(N)?;
    let page = PAGE as u32;
    ensure!(region.pin_bytes(0, page) == Err(Errno::EINVAL));
    ensure!(region.unpin_bytes(0, page) == Err(Errno::EINVAL));
    ensure!(region.pinned_bytes(0, page) == Err(Errno::EINVAL));
    // The struct is read first.
    ensure!(region.ioctl(abi::ABI_PIN, 8) == Err(Errno::EFAULT));
    drop(region.map(N)?);
    region.unpin(0..N)?;
    states(&region, "uuuuuuuuuuuu")
}

fn many_ranges_are_kept_apart() -> anyhow::Result<()> {
    let pages = 4096;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    map.write_pages(0..pages);
    // Every second page, from both ends towards the middle.
    let mut odd: Vec<usize> = (1..pages).step_by(2).collect();
    while let Some(page) = odd.pop() {
        region.unpin(page..page + 1)?;
        odd.reverse();
    }
    ensure!(region.info()?.unpinned == pages as u64 / 2);
    ensure!(region.purge_all()? == pages / 2);
    for page in 0..pages {
        ensure!(
            usize::from(map.read(page * PAGE)) == 1 - page % 2,
            "page {page}"
        );
    }
    for page in (0..pages).step_by(64) {
        ensure!(!region.pin(page..page + 1)?);
        ensure!(region.pin(page + 1..page + 2)?);
    }
    ensure!(region.pin(0..pages)?);
    ensure!(region.info()?.unpinned == 0);
    Ok(())
}

fn pages_held_for_dma_are_not_purged() -> anyhow::Result<()> {
    let (region, map) = region()?;
    let ring = Ring::new()?;
    ring.register(&map, 4..6)?;
    region.unpin(2..9)?;
    ensure!(region.purge_all()? == 5);
    content(&map, "xx00xx000xxx")?;
    states(&region, "..uuuuuuu...")?;
    ensure!(!region.pin(5..6)?, "what was held was not purged");
    drop(ring);
    // The ring lets go of its buffers a moment after it is closed.
    let mut purged = 0;
    for _ in 0..500 {
        purged = region.purge_all()?;
        if purged != 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    ensure!(purged == 1, "page 4 is still unpinned: {purged}");
    content(&map, "xx000x000xxx")
}

fn purge_all_misses_nothing_while_others_pin() -> anyhow::Result<()> {
    let pages = 64;
    let region = Region::sized(pages)?;
    let _map = region.map(pages)?;
    let signal = Region::sized(1)?;
    let turn = signal.map(1)?;
    let turn = turn.atomic(0);
    const ROUNDS: u32 = 400;

    // It takes the middle out of a range that is being purged.
    let other = spawn(|| {
        for round in 0..ROUNDS {
            while turn.load(Ordering::SeqCst) != 2 * round + 1 {
                std::hint::spin_loop();
            }
            region.pin(40..41)?;
            turn.store(2 * round + 2, Ordering::SeqCst);
        }
        Ok(())
    })?;
    for round in 0..ROUNDS {
        region.pin(0..pages)?;
        region.unpin(0..pages)?;
        turn.store(2 * round + 1, Ordering::SeqCst);
        region.purge_all()?;
        while turn.load(Ordering::SeqCst) != 2 * round + 2 {
            std::hint::spin_loop();
        }
        ensure!(region.pinned_bytes(40 * PAGE as u32, PAGE as u32)?);
        for page in (0..pages).filter(|page| *page != 40) {
            let purged = region.pin(page..page + 1)?;
            ensure!(purged, "round {round}: page {page} was missed");
        }
    }
    other.join()
}
