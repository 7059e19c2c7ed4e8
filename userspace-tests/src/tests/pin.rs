// SPDX-License-Identifier: GPL-2.0-only

//! Pin, unpin and purge, with pictures.
//!
//! In the pictures of states a dot is a pinned page and a `u` an unpinned one;
//! in those of content an `x` is what the test wrote and a `0` a page of zeros.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mlock;
use nix::sys::uio::pread;
use nix::unistd::Uid;
use nix::unistd::dup;
use nix::unistd::read;
use nix::unistd::setuid;
use nix::unistd::write;

use crate::abi;
use crate::harness::skip;
use crate::harness::tests;
use crate::region::BAD_POINTERS;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::memory::Edge;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;
use crate::tests::process::until;
use crate::uring::Ring;

tests! {
    all_pages_begin_pinned => "pin.begin",
    status_is_exact_for_each_page => "pin.status" "pin.exact",
    pin_splits_a_range => "pin.exact",
    only_unpinned_pages_are_purged => "purge.unpinned-only",
    pin_after_purge_reports_was_purged_once => "pin.was-purged",
    purged_and_live_pages_do_not_mix => "pin.exact",
    unpinning_again_forgets_nothing => "pin.unpin-again",
    what_is_written_to_a_purged_page_stays => "purge.written",
    purge_counts_untouched_pages_too => "purge.all",
    purge_all_takes_every_region => "purge.all",
    purge_all_needs_cap_sys_admin => "purge.all-admin",
    purge_all_needs_it_in_the_first_user_namespace => "purge.all-admin",
    purged_pages_are_zeros_for_everybody => "purge.zeros" "purge.read-only",
    purged_pages_are_zeros_where_they_are_locked => "purge.mlocked",
    private_copies_survive_a_purge => "purge.private",
    closing_the_last_descriptor_pins => "purge.close",
    ranges_are_checked => "pin.unaligned" "pin.wrap" "pin.beyond",
    ranges_of_all_sizes_are_checked => "pin.unaligned" "pin.wrap" "pin.beyond" "pin.len-zero"
        "pin.empty",
    len_zero_is_the_rest => "pin.len-zero" "pin.empty",
    bad_pointers_come_first => "pin.order-fault",
    pinning_ioctls_need_a_mapping => "pin.order-unmapped",
    anybody_who_has_a_descriptor_pins => "pin.any-holder",
    many_ranges_are_kept_apart => "pin.exact",
    pages_held_for_dma_are_not_purged => "purge.dma",
    folio_held_for_dma_stays_whole => "purge.dma",
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

fn purge_all_takes_every_region() -> anyhow::Result<()> {
    let (one, a) = region()?;
    let (two, b) = region()?;
    // Another process's, which nobody else knows.
    let (here, there) = sockets()?;
    let other = spawn(|| {
        let (three, c) = region()?;
        three.unpin(0..3)?;
        write(&there, b"r")?;
        read(&there, &mut [0])?;
        states(&three, "uuu.........")?;
        content(&c, "000xxxxxxxxx")
    })?;
    read(&here, &mut [0])?;
    one.unpin(0..5)?;
    two.unpin(7..N)?;
    let third = Region::open()?;
    ensure!(
        third.purge_all()? == 3 + 5 + 5,
        "by a descriptor of none of them"
    );
    ensure!(third.purge_all()? == 0);
    content(&a, "00000xxxxxxx")?;
    content(&b, "xxxxxxx00000")?;
    write(&here, b"g")?;
    other.join()
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

fn purge_all_needs_it_in_the_first_user_namespace() -> anyhow::Result<()> {
    if !Path::new("/proc/self/ns/user").exists() {
        return skip("this kernel has no CONFIG_USER_NS");
    }
    let (region, map) = region()?;
    region.unpin(0..N)?;
    in_child(|| {
        // It has all capabilities there.
        unshare(CloneFlags::CLONE_NEWUSER)?;
        ensure!(region.purge_all() == Err(Errno::EPERM));
        Ok(())
    })?;
    content(&map, "xxxxxxxxxxxx")
}

fn purged_pages_are_zeros_for_everybody() -> anyhow::Result<()> {
    let (region, map) = region()?;
    let twin = region.map(N)?;
    let read_only = region.map_as(N * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    let (here, there) = sockets()?;
    let other = spawn(|| {
        let own = region.map(N)?;
        // All is in its page tables, through both mappings.
        content(&map, "xxxxxxxxxxxx")?;
        content(&own, "xxxxxxxxxxxx")?;
        write(&there, b"r")?;
        read(&there, &mut [0])?;
        content(&map, "xx000xxxxxxx")?;
        content(&own, "xx000xxxxxxx")
    })?;
    read(&here, &mut [0])?;
    content(&twin, "xxxxxxxxxxxx")?;
    content(&read_only, "xxxxxxxxxxxx")?;
    region.unpin(2..5)?;
    ensure!(region.purge_all()? == 3);
    ensure!(region.status_picture(0..N as u64)? == "::ppp:::::::");

    let mut bytes = [0xaa; N * PAGE];
    ensure!(pread(&region, &mut bytes, 0)? == N * PAGE);
    ensure!(bytes[2 * PAGE..5 * PAGE].iter().all(|byte| *byte == 0));
    ensure!((bytes[2 * PAGE - 1], bytes[5 * PAGE]) == (X, X));
    // The first that looks makes pages of zeros, for all.
    ensure!(region.info()?.resident == N as u64 - 3);
    content(&read_only, "xx000xxxxxxx")?;
    ensure!(region.info()?.resident == N as u64);
    content(&twin, "xx000xxxxxxx")?;
    content(&map, "xx000xxxxxxx")?;
    write(&here, b"g")?;
    other.join()
}

fn purged_pages_are_zeros_where_they_are_locked() -> anyhow::Result<()> {
    let (region, map) = region()?;
    mlock_all(&map)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_LOCKED;
    let locked = region.map_as(N * PAGE, RW, flags)?;
    content(&locked, "xxxxxxxxxxxx")?;
    region.unpin(2..9)?;
    ensure!(region.purge_all()? == 7);
    let info = region.info()?;
    ensure!(
        (info.resident, info.purged) == (N as u64 - 7, 7),
        "{info:?}"
    );
    content(&map, "xx0000000xxx")?;
    content(&locked, "xx0000000xxx")?;
    // What came anew is locked, and purged, like what was there before.
    ensure!(region.pin(0..N)?);
    map.stamp(0..N, X);
    region.unpin(0..4)?;
    ensure!(region.purge_all()? == 4);
    content(&locked, "0000xxxxxxxx")
}

fn mlock_all(map: &Mapping) -> anyhow::Result<()> {
    // SAFETY: It is a mapping of the caller's, and only kept in memory.
    unsafe { mlock(map.pointer(), map.len()) }.context("mlock")
}

fn private_copies_survive_a_purge() -> anyhow::Result<()> {
    const Y: u8 = 0xa5;
    let (region, shared) = region()?;
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    // Four copies; four that are mapped, but are the region's; four untouched.
    private.stamp(0..4, Y);
    ensure!(private.read_pages(4..8) == 4 * usize::from(X));
    region.unpin(2..10)?;
    ensure!(region.purge_all()? == 8);
    let found = private.picture(Y);
    ensure!(found == "xxxx000000??", "the copies: {found}");
    let found = private.picture(X);
    ensure!(found == "????000000xx", "what is not copied: {found}");
    content(&shared, "xx00000000xx")?;
    // Of zeros as well there may be a copy.
    private.stamp(5..6, Y);
    region.pin(0..N)?;
    region.unpin(0..N)?;
    ensure!(region.purge_all()? == N);
    let found = private.picture(Y);
    ensure!(found == "xxxx0x000000", "the copies: {found}");
    content(&shared, "000000000000")
}

fn closing_the_last_descriptor_pins() -> anyhow::Result<()> {
    let (region, map) = region()?;
    let other = Region::open()?;
    region.unpin(0..2)?;
    ensure!(other.purge_all()? == 2);
    // To a purged page, which is no longer to be had.
    map.stamp(1..2, X);

    region.unpin(2..3)?;
    let twin = Region::from_fd(dup(&region)?);
    drop(region);
    ensure!(other.purge_all()? == 1, "dup(2) made another descriptor");

    twin.unpin(3..4)?;
    let (here, there) = sockets()?;
    let child = spawn(|| {
        read(&there, &mut [0])?;
        twin.unpin(4..5)?;
        send_fd(&there, twin.as_fd())
    })?;
    drop(twin);
    ensure!(other.purge_all()? == 1, "a child has one");
    write(&here, b"g")?;
    child.join()?;
    ensure!(other.purge_all()? == 1, "one lies in a socket");
    let last = Region::from_fd(receive_fd(&here)?);
    last.unpin(5..8)?;
    states(&last, "uuuuuuuu....")?;

    drop(last);
    ensure!(other.purge_all()? == 0);
    fs::write("/proc/sys/vm/drop_caches", "2\n")?;
    content(&map, "0x000xxxxxxx")
}

fn ranges_are_checked() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_size(N * PAGE - 100)?;
    let _map = region.map(N)?;
    region.unpin(3..5)?;
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
    states(&region, "...uu.......")
}

/// UNPIN, GET_PIN_STATUS and PIN of a range of this many pages, or of a bad one, all else pinned.
pub fn round_trip(
    region: &Region,
    what: &str,
    pages: Option<u64>,
    unpin: impl FnOnce() -> nix::Result<()>,
    status: impl FnOnce() -> nix::Result<bool>,
    pin: impl FnOnce() -> nix::Result<bool>,
) -> anyhow::Result<()> {
    let unpinned = unpin();
    let status = status();
    let found = region.counters()?.unpinned;
    let pinned = pin();
    if let Some(pages) = pages {
        ensure!(unpinned == Ok(()), "{what}: UNPIN is {unpinned:?}");
        ensure!(found == pages, "{what}: {found} pages, not {pages}");
        ensure!(status == Ok(pages == 0), "{what}: status is {status:?}");
        ensure!(pinned == Ok(false), "{what}: PIN is {pinned:?}");
    } else {
        ensure!(unpinned == Err(Errno::EINVAL), "{what}: UNPIN {unpinned:?}");
        ensure!(status == Err(Errno::EINVAL), "{what}: status {status:?}");
        ensure!(pinned == Err(Errno::EINVAL), "{what}: PIN {pinned:?}");
        ensure!(found == 0, "{what}: {found} pages are unpinned");
    }
    ensure!(region.counters()?.unpinned == 0, "{what}: not all pinned");
    Ok(())
}

fn ranges_of_all_sizes_are_checked() -> anyhow::Result<()> {
    const P: u64 = PAGE as u64;
    const G4: u64 = 1 << 32;

    for size in [
        1,
        P - 1,
        P,
        P + 1,
        3 * P - 100,
        G4 / 2,
        G4 - P,
        // Rounded up, it ends where no sum of 32 bits does.
        G4 - P + 1,
        G4 - 1,
        G4,
        G4 + 1,
        2 * G4,
    ] {
        // 32-bit programs cannot ask for more than fits.
        let Ok(bytes) = usize::try_from(size) else {
            continue;
        };
        let region = Region::open()?;
        region.set_size(bytes)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        let _map = region.map_as(PAGE, RW, flags)?;
        let end = size.next_multiple_of(P);

        let mut numbers = vec![0, 1, P - 1, P, P + 1, 2 * P, 3 * P, 4 * P];
        numbers.extend([G4 / 2 - P, G4 / 2, G4 - 2 * P, G4 - P, G4 - P + 1, G4 - 1]);
        numbers.extend([end.saturating_sub(P), end, end + P]);
        numbers.retain(|number| *number < G4);
        for (offset, len) in numbers
            .iter()
            .flat_map(|offset| numbers.iter().map(move |len| (*offset, *len)))
        {
            let last = if len == 0 { end } else { offset + len };
            let good = offset % P == 0
                && len % P == 0
                && offset + len < G4
                && offset <= last
                && last <= end;
            let what = format!("{offset:#x} {len:#x} of {size:#x}");
            let (offset, len) = (u32::try_from(offset)?, u32::try_from(len)?);
            round_trip(
                &region,
                &what,
                good.then(|| (last - u64::from(offset)) / P),
                || region.unpin_bytes(offset, len),
                || region.pinned_bytes(offset, len),
                || region.pin_bytes(offset, len),
            )?;
        }
    }
    Ok(())
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

fn bad_pointers_come_first() -> anyhow::Result<()> {
    let edge = Edge::new()?;
    // Zeros stand for the whole region.
    let whole = edge.put(&[0; size_of::<abi::ashmem_pin>()]);
    let bad = [&BAD_POINTERS[..], &[edge.before(4), edge.before(0)]].concat();

    let check = |region: &Region, good| -> anyhow::Result<()> {
        for request in [abi::ABI_PIN, abi::ABI_UNPIN, abi::ABI_GET_PIN_STATUS] {
            for &pointer in &bad {
                let result = region.ioctl(request, pointer);
                ensure!(
                    result == Err(Errno::EFAULT),
                    "{request:#x} {pointer:#x}: {result:?}"
                );
            }
            let result = region.ioctl(request, whole).map(drop);
            ensure!(result == good, "{request:#x}: {result:?}");
        }
        Ok(())
    };

    let region = Region::open()?;
    check(&region, Err(Errno::EINVAL))?;
    region.set_size(N * PAGE)?;
    check(&region, Err(Errno::EINVAL))?;
    let map = region.map(N)?;
    map.stamp(0..N, X);
    region.unpin(3..5)?;
    check(&region, Ok(()))?;
    // The last of them that changes something was UNPIN.
    states(&region, "uuuuuuuuuuuu")
}

fn pinning_ioctls_need_a_mapping() -> anyhow::Result<()> {
    let region = Region::open()?;
    let page = PAGE as u32;
    let refused = |region: &Region, offset, len| {
        region.pin_bytes(offset, len) == Err(Errno::EINVAL)
            && region.unpin_bytes(offset, len) == Err(Errno::EINVAL)
            && region.pinned_bytes(offset, len) == Err(Errno::EINVAL)
    };
    ensure!(refused(&region, 0, 0), "fresh");
    region.set_size(N * PAGE)?;
    ensure!(refused(&region, 0, page) && refused(&region, 0, 0), "sized");
    let longer = region.map_as((N + 1) * PAGE, RW, MapFlags::MAP_SHARED);
    ensure!(longer.err() == Some(Errno::EINVAL));
    ensure!(refused(&region, 0, page), "after an mmap(2) that failed");

    // One that was is enough, and what it holds stays.
    let map = region.map(N)?;
    map.stamp(0..N, X);
    drop(map);
    region.unpin(0..N)?;
    states(&region, "uuuuuuuuuuuu")?;
    ensure!(!region.pin(0..4)?);
    ensure!(region.purge_all()? == N - 4);
    content(&region.map(N)?, "xxxx00000000")?;
    ensure!(region.pin(4..N)?);
    states(&region, "............")
}

fn anybody_who_has_a_descriptor_pins() -> anyhow::Result<()> {
    let works = |region: &Region| -> anyhow::Result<()> {
        region.unpin(2..5)?;
        states(region, "..uuu.......")?;
        ensure!(!region.pin(2..3)?);
        ensure!(region.purge_all()? == 2);
        ensure!(region.pin(0..N)?, "it was purged");
        states(region, "............")
    };
    for mode in [OFlag::O_RDONLY, OFlag::O_RDWR] {
        for mask in [RW, ProtFlags::PROT_READ, ProtFlags::PROT_NONE] {
            let region = Region::open_mode(mode)?;
            region.set_size(N * PAGE)?;
            let _map = region.map_as(N * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
            region.set_mask(mask)?;
            works(&region).with_context(|| format!("{mode:?} {mask:?}"))?;
        }
    }
    // What cannot be mapped at all is never pinned either: mmap(2) always asks
    // for the right to read.
    let write_only = Region::open_mode(OFlag::O_WRONLY)?;
    write_only.set_size(N * PAGE)?;
    let map = write_only.map_as(N * PAGE, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED);
    ensure!(map.err() == Some(Errno::EACCES));
    ensure!(write_only.unpin(0..N) == Err(Errno::EINVAL));

    // A stranger without any rights, that never maps it.
    let (here, there) = sockets()?;
    let stranger = spawn(|| {
        setuid(Uid::from_raw(1000))?;
        let region = Region::from_fd(receive_fd(&there)?);
        region.unpin(4..8)?;
        ensure!(!region.pin(4..5)?);
        ensure!(region.pinned_bytes(4 * PAGE as u32, PAGE as u32)?);
        states(&region, ".....uuu....")
    })?;
    let (region, map) = region()?;
    region.set_mask(ProtFlags::PROT_NONE)?;
    send_fd(&here, region.as_fd())?;
    stranger.join()?;
    states(&region, ".....uuu....")?;
    ensure!(region.purge_all()? == 3);
    content(&map, "xxxxx000xxxx")
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
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    map.stamp(0..N, X);
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

fn folio_held_for_dma_stays_whole() -> anyhow::Result<()> {
    let (region, map) = Region::large(2)?;
    map.stamp(0..2 * LARGE, X);
    let ring = Ring::new()?;
    ring.register(&map, 4..6)?;
    // A device has pages of the one, and nobody any of the other.
    region.unpin(2..LARGE + 12)?;
    ensure!(region.purge_all()? == 12);
    let mut expected = "x".repeat(LARGE) + &"0".repeat(12) + &"x".repeat(LARGE - 12);
    content(&map, &expected)?;
    ensure!(!region.pin(2..LARGE)?, "what was held was not purged");
    ensure!(region.pin(LARGE..LARGE + 12)?);
    drop(ring);
    // From the next UNPIN on its pages are like any others.
    region.unpin(2..LARGE)?;
    until("the ring lets go", || {
        region.purge_all()?;
        Ok(region.info()?.purged == 12 + LARGE as u64 - 2)
    })?;
    expected.replace_range(2..LARGE, &"0".repeat(LARGE - 2));
    content(&map, &expected)?;
    ensure!(!region.pin(0..2)? && region.pin(2..LARGE)?);
    Ok(())
}

fn purge_all_misses_nothing_while_others_pin() -> anyhow::Result<()> {
    let pages = 64;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?.sequential()?;
    let signal = Region::sized(1)?;
    let turn = signal.map(1)?;
    let turn = turn.atomic(0);
    const ROUNDS: u32 = 2000;

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
        // Without memory, in large folios that lie in one range, and in such as lie in three.
        let ends: &[usize] = match round % 3 {
            2 => &[36, 43, pages],
            _ => &[pages],
        };
        if round % 3 != 0 {
            map.write_pages(0..pages);
        }
        let mut start = 0;
        for end in ends {
            region.unpin(start..*end)?;
            start = *end;
        }
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
