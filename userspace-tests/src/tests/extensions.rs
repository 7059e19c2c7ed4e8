// SPDX-License-Identifier: GPL-2.0-only

//! What Android's driver does not have: counters, ranges of 64 bits, and the
//! status of single pages, by ioctl.
//!
//! In the pictures of pages `.` is a pinned one, `u` an unpinned and `p` a
//! purged one; `:`, `U` and `P` are the same with memory.

use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;

use crate::abi;
use crate::harness::tests;
use crate::region::BAD_POINTERS;
use crate::region::Info;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::memory::Edge;
use crate::tests::pin::round_trip;
use crate::tests::process::spawn;

tests! {
    counters_are_those_of_fdinfo => "ext.counters",
    counters_give_sizes_that_are_no_int => "size.int",
    counters_come_in_the_size_of_the_number => "ext.counters-version",
    counters_need_room => "ext.counters",
    ranges_are_checked_with_64_bits => "ext.range",
    ranges_do_what_the_short_ones_do => "ext.range",
    ranges_reach_the_last_page_before_4_gib => "ext.range-4g",
    ranges_reach_behind_4_gib => "ext.range-4g",
    page_status_tells_of_each_page => "ext.page-status",
    page_status_writes_a_byte_a_page => "ext.page-status" "ext.page-status-errors",
    page_status_has_the_errors_of_pin_status => "ext.page-status-errors",
    page_status_changes_nothing => "ext.page-status-changes-nothing",
    page_status_disturbs_nobody => "ext.page-status-changes-nothing",
}

const P: u64 = PAGE as u64;
const G4: u64 = 1 << 32;
const KNOWN: usize = size_of::<abi::ashmem_counters>();

/// GET_COUNTERS as a program knows it whose structure is of this size.
fn get_counters(size: usize) -> u32 {
    const SIZE: u32 = 0x3fff << 16;
    (abi::ABI_GET_COUNTERS & !SIZE) | ((size as u32) << 16)
}

/// A region of which only the first page is mapped, and nothing is reserved.
/// `None` if a program of this width cannot ask for so much.
fn sparse(size: u64) -> anyhow::Result<Option<(Region, Mapping)>> {
    let Ok(size) = usize::try_from(size) else {
        return Ok(None);
    };
    let region = Region::open()?;
    region.set_size(size)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    let map = region.map_as(PAGE, RW, flags)?;
    Ok(Some((region, map)))
}

fn counters_are_those_of_fdinfo() -> anyhow::Result<()> {
    let region = Region::open()?;
    let same = |expected: Info| -> anyhow::Result<()> {
        let (text, found) = (region.info()?, region.counters()?);
        ensure!(text == found, "{text:?} and {found:?}");
        // How often map_pages is called depends on where the mapping lies.
        let found = Info {
            map_faults: expected.map_faults,
            ..found
        };
        ensure!(found == expected, "{found:?}, expected {expected:?}");
        Ok(())
    };
    let mut info = Info::default();
    same(info)?;
    region.set_size(20 * PAGE - 7)?;
    info.size = 20 * P - 7;
    same(info)?;
    let map = region.map(20)?.single()?;
    same(info)?;
    map.stamp(0..20, 1);
    (info.faults, info.allocated, info.resident) = (20, 20, 20);
    same(info)?;
    // Both kinds of faults.
    let twin = region.map(20)?;
    ensure!(twin.read_pages(0..20) == 20);
    ensure!(region.counters()?.map_faults > 0);
    same(info)?;
    region.unpin(2..12)?;
    info.unpinned = 10;
    same(info)?;
    ensure!(region.purge_all()? == 10);
    (info.purged, info.resident) = (10, 10);
    same(info)?;
    map.stamp(4..5, 1);
    (info.faults, info.allocated, info.resident) = (21, 21, 11);
    same(info)?;
    ensure!(region.pin(3..6)?);
    info.unpinned = 7;
    same(info)?;
    map.advise(4..14, libc::MADV_REMOVE)?;
    info.resident -= 1 + 2;
    same(info)?;
    drop((map, twin));
    same(info)
}

fn counters_give_sizes_that_are_no_int() -> anyhow::Result<()> {
    for size in [
        1,
        0x7fff_ffff,
        0x8000_0000,
        0xf000_0001,
        G4 + 1,
        0x1_8000_0005,
    ] {
        let Ok(bytes) = usize::try_from(size) else {
            continue;
        };
        let region = Region::open()?;
        region.set_size(bytes)?;
        let int = region.ioctl(abi::ABI_GET_SIZE, 0)?;
        ensure!(int == size as u32 as i32, "{size:#x}: {int:#x}");
        ensure!(region.counters()?.size == size, "{size:#x}");
        ensure!(region.info()?.size == size, "{size:#x}");
    }
    Ok(())
}

fn counters_come_in_the_size_of_the_number() -> anyhow::Result<()> {
    ensure!(get_counters(KNOWN) == abi::ABI_GET_COUNTERS);
    let region = Region::sized(9)?;
    let map = region.map(9)?.single()?;
    map.stamp(0..7, 1);
    region.unpin(0..4)?;
    region.purge_all()?;
    region.unpin(5..6)?;
    let info = region.counters()?;
    let all = [
        info.size,
        info.faults,
        info.map_faults,
        info.huge_faults,
        info.allocated,
        info.purged,
        info.resident,
        info.unpinned,
    ];
    ensure!(all == [9 * P, 7, 0, 0, 7, 4, 3, 5], "{all:?}");
    let bytes: Vec<u8> = all.iter().flat_map(|number| number.to_ne_bytes()).collect();
    ensure!(bytes.len() == KNOWN);

    // Programs older and newer than this driver.
    for size in [8, 16, 40, 56, 64, 72, 128, 4096, 0x3ff8] {
        let mut buffer = vec![0xaa; size + 16];
        let result = region.ioctl(get_counters(size), buffer.as_mut_ptr() as usize);
        ensure!(result == Ok(KNOWN as i32), "{size}: {result:?}");
        let written = size.min(KNOWN);
        ensure!(buffer[..written] == bytes[..written], "{size}: {buffer:?}");
        ensure!(
            buffer[written..size].iter().all(|byte| *byte == 0),
            "{size}"
        );
        ensure!(buffer[size..] == [0xaa; 16], "{size}: too much");
    }
    for number in [0, 1, 4, 7, 9, 12, 60, 63, 65, 68, 0x3fff]
        .map(get_counters)
        .into_iter()
        // No direction, the other one, and both.
        .chain([0, 1 << 30, 3 << 30].map(|bits| abi::ABI_GET_COUNTERS & !(3 << 30) | bits))
    {
        let mut buffer = vec![0xaa; 0x4000];
        let result = region.ioctl(number, buffer.as_mut_ptr() as usize);
        ensure!(result == Err(Errno::ENOTTY), "{number:#x}: {result:?}");
        ensure!(buffer.iter().all(|byte| *byte == 0xaa), "{number:#x}");
    }
    Ok(())
}

fn counters_need_room() -> anyhow::Result<()> {
    let edge = Edge::new()?;
    let region = Region::sized(1)?;
    for size in [8, KNOWN, KNOWN + 8] {
        let request = get_counters(size);
        ensure!(region.ioctl(request, edge.before(size)) == Ok(KNOWN as i32));
        ensure!(edge.get(size)[..8] == P.to_ne_bytes(), "the size");
        for pointer in [&BAD_POINTERS[..], &[edge.before(0), edge.before(size - 1)]].concat() {
            let result = region.ioctl(request, pointer);
            ensure!(result == Err(Errno::EFAULT), "{pointer:#x}: {result:?}");
        }
    }
    Ok(())
}

fn ranges_are_checked_with_64_bits() -> anyhow::Result<()> {
    for size in [1, P, 3 * P - 100, G4 - P + 1, G4, G4 + 1, 2 * G4 - P] {
        let Some((region, _map)) = sparse(size)? else {
            continue;
        };
        let end = size.next_multiple_of(P);
        let top = u64::MAX - P + 1;
        let mut numbers = vec![0, 1, P - 1, P, 2 * P, 3 * P, 4 * P, G4 - P, G4 - 1, G4];
        numbers.extend([G4 + P, 1 << 63, top - P, top, u64::MAX]);
        numbers.extend([end.saturating_sub(P), end, end + P]);
        // What wraps to a good end.
        numbers.extend([0u64.wrapping_sub(end), end.wrapping_sub(P).wrapping_neg()]);
        for (offset, len) in numbers
            .iter()
            .flat_map(|offset| numbers.iter().map(move |len| (*offset, *len)))
        {
            let sum = offset.checked_add(len);
            let last = if len == 0 { Some(end) } else { sum };
            let good = offset % P == 0
                && len % P == 0
                && last.is_some_and(|last| offset <= last && last <= end);
            let what = format!("{offset:#x} {len:#x} of {size:#x}");
            round_trip(
                &region,
                &what,
                good.then(|| last.map_or(0, |last| (last - offset) / P)),
                || region.unpin_wide(offset, len),
                || region.pinned_wide(offset, len),
                || region.pin_wide(offset, len),
            )?;
        }
    }
    Ok(())
}

fn ranges_do_what_the_short_ones_do() -> anyhow::Result<()> {
    let edge = Edge::new()?;
    // Zeros stand for the whole region.
    let whole = edge.put(&[0; size_of::<abi::ashmem_range>()]);
    let requests = [
        abi::ABI_PIN_RANGE,
        abi::ABI_UNPIN_RANGE,
        abi::ABI_GET_RANGE_PIN_STATUS,
    ];
    let region = Region::sized(8)?;
    for request in requests {
        // A bad pointer, then a region that was never mapped.
        ensure!(region.ioctl(request, edge.before(8)) == Err(Errno::EFAULT));
        ensure!(region.ioctl(request, whole) == Err(Errno::EINVAL));
    }
    let map = region.map(8)?;
    map.stamp(0..8, 1);
    for request in requests {
        for pointer in [
            &BAD_POINTERS[..],
            &[edge.before(12), edge.before(8), edge.before(0)],
        ]
        .concat()
        {
            let result = region.ioctl(request, pointer);
            ensure!(
                result == Err(Errno::EFAULT),
                "{request:#x} {pointer:#x}: {result:?}"
            );
        }
        ensure!(region.ioctl(request, whole).is_ok(), "{request:#x}");
    }
    // The last of them that changes something was UNPIN.
    ensure!(region.picture(8)? == "uuuuuuuu");
    ensure!(!region.pin_wide(0, 0)?);

    region.unpin_wide(2 * P, 4 * P)?;
    ensure!(region.picture(8)? == "..uuuu..");
    ensure!(!region.pin_wide(3 * P, P)?);
    ensure!(region.picture(8)? == "..u.uu..");
    ensure!(region.pinned_wide(0, 2 * P)? && !region.pinned_wide(0, 3 * P)?);
    ensure!(region.purge_all()? == 3);
    ensure!(map.picture(1) == "xx0x00xx");
    ensure!(!region.pin_wide(0, 2 * P)? && region.pin_wide(2 * P, 3 * P)?);
    // Either asks for what the other has done.
    ensure!(region.pin(5..6)?);
    ensure!(!region.pin_wide(0, 0)?);
    Ok(())
}

fn ranges_reach_the_last_page_before_4_gib() -> anyhow::Result<()> {
    let (region, map) = sparse(G4 - 1)?.context("it fits into 32 bits")?;
    map.stamp(0..1, 1);
    // A sum that 32 bits do not hold.
    ensure!(region.unpin_bytes((G4 - P) as u32, P as u32) == Err(Errno::EINVAL));
    region.unpin_wide(G4 - P, P)?;
    ensure!(region.counters()?.unpinned == 1);
    ensure!(!region.pinned_bytes((G4 - P) as u32, 0)?);
    ensure!(region.status_picture(G4 / P - 3..G4 / P)? == "..u");
    ensure!(region.purge_all()? == 1);
    ensure!(!region.pin_wide(0, G4 - P)?);
    ensure!(region.pin_wide(0, G4)?);
    ensure!(map.read(0) == 1);
    Ok(())
}

fn ranges_reach_behind_4_gib() -> anyhow::Result<()> {
    const SIZE: u64 = 6 << 30;
    const BORDER: u64 = G4 / P;
    let Some((region, first)) = sparse(SIZE)? else {
        // The largest region of 32-bit programs: see above.
        ensure!(size_of::<usize>() == 4);
        return Ok(());
    };
    first.stamp(0..1, 1);
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    let map = region.map_far(16 * PAGE, RW, flags, (G4 - 8 * P) as i64)?;
    map.stamp(0..16, 1);
    let around = BORDER - 8..BORDER + 8;
    ensure!(region.status_picture(around.clone())? == "::::::::::::::::");

    region.unpin_wide(G4 - 4 * P, 8 * P)?;
    ensure!(region.status_picture(around.clone())? == "::::UUUUUUUU::::");
    ensure!(!region.pin_wide(G4, P)?);
    ensure!(region.status_picture(around.clone())? == "::::UUUU:UUU::::");
    ensure!(region.pinned_wide(G4, P)? && !region.pinned_wide(G4, 2 * P)?);
    ensure!(!region.pinned_wide(0, 0)? && region.pinned_wide(0, G4 - 4 * P)?);
    // The same numbers of pages in front of 4 GiB are others.
    ensure!(region.pinned_bytes(0, 8 * P as u32)?);
    ensure!(region.purge_all()? == 7);
    ensure!(map.picture(1) == "xxxx0000x000xxxx");
    ensure!(region.status_picture(around.clone())? == "::::PPPP:PPP::::");

    // By 32 bits the end is reached, from wherever they reach.
    ensure!(region.pin_bytes((G4 - P) as u32, 0)?);
    ensure!(region.status_picture(around)? == "::::PPP:::::::::");
    region.unpin_bytes(0, 0)?;
    ensure!(region.counters()?.unpinned == SIZE / P);
    ensure!(region.purge_all()? as u64 == SIZE / P - 3);
    let all = region.statuses(0..SIZE / P)?;
    for (page, status) in (0..).zip(all) {
        // What was written to after it was purged is still there.
        let resident = (BORDER - 4..BORDER - 1).contains(&page);
        let expected = abi::ASHMEM_PAGE_PURGED | (u32::from(resident) * abi::ASHMEM_PAGE_RESIDENT);
        ensure!(u32::from(status) == expected, "page {page}: {status:#x}");
    }
    ensure!(first.read(0) == 0);
    ensure!(region.pin_wide(SIZE - P, P)?, "the last page");
    ensure!(region.pin_wide(G4, 0)?);
    ensure!(region.counters()?.unpinned == BORDER);
    ensure!(region.pin_wide(0, G4)?);
    ensure!(region.counters()?.unpinned == 0);
    Ok(())
}

fn page_status_tells_of_each_page() -> anyhow::Result<()> {
    const PAGES: usize = 2 * 4096 + 300;
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    // Of each page: its state, and whether it has memory.
    let mut state = vec![abi::ASHMEM_PAGE_PINNED; PAGES];
    let mut resident = vec![false; PAGES];
    for page in (0..PAGES).step_by(3) {
        map.write(page * PAGE, 1);
        resident[page] = true;
    }
    // Ranges of which the longest is longer than what is looked at at once.
    for (start, end) in [(0, 5), (60, 70), (300, 2000), (4090, 4100), (8191, 8193)] {
        region.unpin(start..end)?;
        state[start..end].fill(abi::ASHMEM_PAGE_UNPINNED);
    }
    region.pin(700..800)?;
    state[700..800].fill(abi::ASHMEM_PAGE_PINNED);
    region.purge_all()?;
    for page in 0..PAGES {
        if state[page] == abi::ASHMEM_PAGE_UNPINNED {
            state[page] = abi::ASHMEM_PAGE_PURGED;
            resident[page] = false;
        }
    }
    for page in (0..PAGES).step_by(7) {
        map.write(page * PAGE, 1);
        resident[page] = true;
    }
    for (start, end) in [(3, 9), (2000, 2600), (5000, PAGES)] {
        region.unpin(start..end)?;
        for state in &mut state[start..end] {
            if *state == abi::ASHMEM_PAGE_PINNED {
                *state = abi::ASHMEM_PAGE_UNPINNED;
            }
        }
    }
    let expected: Vec<u8> = state
        .iter()
        .zip(&resident)
        .map(|(state, resident)| (state | (u32::from(*resident) * abi::ASHMEM_PAGE_RESIDENT)) as u8)
        .collect();
    for kind in [0x00, 0x01, 0x02, 0x10, 0x11, 0x12] {
        ensure!(expected.contains(&kind), "no page is {kind:#x}");
    }

    let check = |start: usize, end: usize| -> anyhow::Result<()> {
        let found = region.statuses(start as u64..end as u64)?;
        for page in start..end {
            let (found, expected) = (found[page - start], expected[page]);
            ensure!(
                found == expected,
                "{start}..{end}: page {page} is {found:#x}, expected {expected:#x}"
            );
        }
        Ok(())
    };
    check(0, PAGES)?;
    let mut borders: Vec<usize> = [512, 1024, 4096, 8192]
        .iter()
        .flat_map(|border| border - 1..=border + 1)
        .collect();
    borders.extend([0, 1, 63, 64, 65, 2000, PAGES - 1, PAGES]);
    for start in &borders {
        for end in &borders {
            if start < end {
                check(*start, *end)?;
            }
        }
    }
    // Length 0 stands for all to the end.
    let mut found = vec![0xaa; 300];
    region.page_status(8192 * P, 0, found.as_mut_ptr() as usize)?;
    ensure!(found == expected[8192..]);
    Ok(())
}

fn page_status_writes_a_byte_a_page() -> anyhow::Result<()> {
    let region = Region::sized(1200)?;
    let map = region.map(1200)?;
    map.write_pages(0..1200);
    let edge = Edge::new()?;
    for pages in [1, 2, 511, 512, 513, 1024, 1025, 1100] {
        edge.put(&[0xaa; PAGE]);
        let len = pages as u64 * P;
        // All up to the last byte, and not one before the first.
        region.page_status(P, len, edge.before(pages))?;
        let found = edge.get(PAGE);
        let (before, status) = found.split_at(PAGE - pages);
        ensure!(before.iter().all(|byte| *byte == 0xaa), "{pages}");
        ensure!(status.iter().all(|byte| *byte == 0x10), "{pages}");
        for result in [
            region.page_status(P, len + P, edge.before(pages)),
            region.page_status(P, len, edge.before(pages - 1)),
        ] {
            ensure!(result == Err(Errno::EFAULT), "{pages}: {result:?}");
        }
    }
    Ok(())
}

fn page_status_has_the_errors_of_pin_status() -> anyhow::Result<()> {
    let edge = Edge::new()?;
    edge.put(&[0; size_of::<abi::ashmem_page_status>()]);
    let request = abi::ABI_GET_PAGE_STATUS;
    let region = Region::sized(8)?;
    let mut status = [0xaau8; 8];
    let good = status.as_mut_ptr() as usize;

    ensure!(region.ioctl(request, edge.before(16)) == Err(Errno::EFAULT));
    ensure!(region.page_status(0, P, good) == Err(Errno::EINVAL));
    // Before it is looked at where to write.
    ensure!(region.page_status(0, P, 8) == Err(Errno::EINVAL));
    let _map = region.map(8)?;
    for pointer in [&BAD_POINTERS[..], &[edge.before(16), edge.before(8)]].concat() {
        let result = region.ioctl(request, pointer);
        ensure!(result == Err(Errno::EFAULT), "{pointer:#x}: {result:?}");
    }
    for (offset, len) in [
        (1, P),
        (0, P + 1),
        (P - 1, 1),
        (0, 9 * P),
        (8 * P, P),
        (9 * P, 0),
        (P, 0u64.wrapping_sub(P)),
        (0u64.wrapping_sub(P), 2 * P),
        (G4, P),
    ] {
        for status in [good, 8] {
            let result = region.page_status(offset, len, status);
            ensure!(
                result == Err(Errno::EINVAL),
                "{offset:#x} {len:#x}: {result:?}"
            );
        }
    }
    // Nothing is left at the end, and so nothing is written.
    region.page_status(8 * P, 0, good)?;
    ensure!(std::hint::black_box(status) == [0xaa; 8], "{status:?}");
    for status in [&BAD_POINTERS[..], &[edge.before(0)]].concat() {
        let result = region.page_status(0, P, status);
        ensure!(result == Err(Errno::EFAULT), "{status:#x}: {result:?}");
    }
    Ok(())
}

fn page_status_changes_nothing() -> anyhow::Result<()> {
    const PAGES: usize = 16;
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?.single()?;
    map.stamp(0..12, 1);
    region.unpin(2..4)?;
    region.purge_all()?;
    region.unpin(8..14)?;
    let before = (region.counters()?, region.fdinfo()?);
    for _ in 0..3 {
        ensure!(region.status_picture(0..PAGES as u64)? == "::pp::::UUUUuu..");
        ensure!(region.status_picture(3..9)? == "p::::U");
    }
    let after = (region.counters()?, region.fdinfo()?);
    ensure!(before == after, "{before:?}, then {after:?}");
    // Not even that something was purged is taken as told.
    ensure!(region.purge_all()? == 6);
    ensure!(region.pin(2..3)? && region.pin(8..9)? && region.pin(13..14)?);
    ensure!(!region.pin(4..8)? && !region.pin(14..16)?);
    ensure!(map.picture(1) == "xx00xxxx00000000");
    Ok(())
}

fn page_status_disturbs_nobody() -> anyhow::Result<()> {
    const PAGES: usize = 700;
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    let signal = Region::sized(1)?;
    let shared = signal.map(1)?;
    let done = shared.atomic(0);
    let looks = shared.atomic(4);

    let other = spawn(|| {
        while done.load(Ordering::SeqCst) == 0 {
            for (page, status) in region.statuses(0..PAGES as u64)?.into_iter().enumerate() {
                // Page 0 and the last ones are let alone.
                let fixed = page == 0 || page >= 600;
                let expected: &[u8] = if fixed {
                    &[0x00]
                } else {
                    &[0x00, 0x01, 0x02, 0x10, 0x11]
                };
                ensure!(expected.contains(&status), "page {page}: {status:#x}");
            }
            looks.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    })?;
    let mut rounds = 0;
    while rounds < 10 || looks.load(Ordering::SeqCst) < 10 {
        map.write_pages(1..400);
        region.unpin(1..600)?;
        ensure!(region.purge_all()? == 599, "round {rounds}");
        ensure!(region.pin(1..600)?);
        rounds += 1;
    }
    done.store(1, Ordering::SeqCst);
    other.join()?;
    let info = region.counters()?;
    let expected = (399 * rounds, 399 * rounds, 0, 0);
    ensure!(
        (info.allocated, info.purged, info.resident, info.unpinned) == expected,
        "{info:?} after {rounds} rounds"
    );
    Ok(())
}
