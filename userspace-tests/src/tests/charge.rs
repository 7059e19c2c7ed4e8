// SPDX-License-Identifier: GPL-2.0-only

//! What memory cgroups are charged.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::harness::is_debug_kernel;
use crate::harness::tests;
use crate::kmsg;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::group::Group;
use crate::tests::group::groups;
use crate::tests::group::remove;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::reclaim::number;

tests! {
    page_is_charged_once_to_who_touches_it_first @ 60 => "limit.charge",
    charge_goes_with_the_page @ 60 => "limit.charge",
    charge_of_a_removed_group_is_its_parents @ 60 => "limit.charge",
    group_at_its_limit_kills_its_own @ 60 => "limit.charge",
    ranges_are_charged_to_who_makes_them @ 60 => "limit.metadata",
    what_a_pin_leaves_is_for_who_paid_for_it @ 60 => "limit.metadata",
    regions_are_charged_to_who_opens_them @ 60 => "limit.metadata",
    unpin_beyond_the_groups_limit_changes_nothing @ 60 => "limit.metadata" "pin.no-leftover",
    unpin_takes_no_more_ranges_than_the_machine_has_pages => "limit.ranges" "pin.no-leftover",
}

/// Pages that tests touch: by far more than the kernel may leave uncounted for
/// a while, 64 for each processor.
const N: usize = 2048;

fn page_is_charged_once_to_who_touches_it_first() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, b, all) = &groups;
    let region = Region::sized(3 * N)?;
    // Here, in no group: this is not who touches it, and pays for nothing.
    let map = region.map(3 * N)?;
    a.run(|| {
        map.write_pages(0..N);
        Ok(())
    })?;
    a.expect(N, "who wrote")?;
    // Not who was first, in a mapping of its own, by reading and by writing.
    b.run(|| {
        map.read_pages(0..N);
        let mine = region.map(3 * N)?;
        mine.write_pages(0..N);
        Ok(())
    })?;
    ensure!(b.pages()? == 0, "who came second pays {}", b.pages()?);
    a.expect(N, "who was first")?;
    // A reader is charged as well, if there is nothing yet.
    b.run(|| {
        map.read_pages(N..2 * N);
        // read(2) makes no page.
        let mut bytes = vec![1; N * PAGE];
        let offset = (2 * N * PAGE) as libc::off_t;
        ensure!(nix::sys::uio::pread(&region, &mut bytes, offset)? == N * PAGE);
        Ok(())
    })?;
    b.expect(N, "who read")?;
    a.expect(N, "who wrote before")?;
    all.expect(2 * N, "both")?;
    // Who is in neither touches the rest.
    map.write_pages(2 * N..3 * N);
    ensure!(region.info()?.resident == 3 * N as u64);
    ensure!(a.pages()? == N && b.pages()? == N && all.pages()? == 2 * N);
    drop((map, region));
    all.expect(0, "closed")?;
    remove(groups)
}

fn charge_goes_with_the_page() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, b, _) = &groups;
    let region = Region::sized(4 * N)?;
    let map = region.map(4 * N)?;
    a.run(|| {
        map.write_pages(0..4 * N);
        Ok(())
    })?;
    a.expect(4 * N, "touched")?;
    region.unpin(0..N)?;
    a.expect(4 * N, "unpinned")?;
    ensure!(region.purge_all()? == N);
    a.expect(3 * N, "purged")?;
    map.advise(N..2 * N, libc::MADV_REMOVE)?;
    a.expect(2 * N, "removed")?;
    // Who makes them anew pays.
    b.run(|| {
        map.write_pages(0..2 * N);
        Ok(())
    })?;
    b.expect(2 * N, "who made them anew")?;
    a.expect(2 * N, "of what is left")?;
    // Pages live as long as the region: not until munmap(2).
    drop(map);
    a.expect(2 * N, "unmapped")?;
    let map = region.map(1)?;
    drop(region);
    a.expect(2 * N, "closed, and mapped")?;
    drop(map);
    a.expect(0, "gone")?;
    b.expect(0, "gone")?;

    // By exit, without any munmap(2) or close(2).
    a.run(|| {
        let region = Region::sized(N)?;
        let map = region.map(N)?;
        map.write_pages(0..N);
        map.leak();
        std::mem::forget(region);
        a.expect(N, "in the process")
    })?;
    a.expect(0, "after its exit")?;
    remove(groups)
}

fn charge_of_a_removed_group_is_its_parents() -> anyhow::Result<()> {
    // The last is dropped first.
    let all = Group::parent()?;
    let (b, a) = (all.child("b")?, all.child("a")?);
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    a.run(|| {
        map.write_pages(0..N);
        Ok(())
    })?;
    a.expect(N, "touched")?;
    // Pages do not keep a group.
    a.remove()?;
    all.expect(N, "the group is gone")?;
    b.run(|| {
        map.write_pages(0..N);
        Ok(())
    })?;
    ensure!(b.pages()? == 0);
    ensure!(map.read_pages(0..N) == N, "the content");
    region.unpin(0..N)?;
    ensure!(region.purge_all()? == N);
    all.expect(0, "purged")?;
    b.remove()?;
    all.remove()
}

/// A counter that this process and its children share.
fn counter() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(1)?;
    let map = region.map(1)?;
    map.write(0, 0);
    Ok((region, map))
}

fn group_at_its_limit_kills_its_own() -> anyhow::Result<()> {
    const MAX: usize = 16 << 20;
    let groups = groups()?;
    let (a, b, _) = &groups;
    let (_counters, counters) = counter()?;
    let touched: &AtomicU32 = counters.atomic(0);
    let go: &AtomicU32 = counters.atomic(4);

    let pages = 2 * MAX / PAGE;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    a.write("memory.max", &MAX.to_string())?;
    // One in another group lives through it, with what is there by then.
    let witness = b.spawn(|| {
        while go.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(5));
        }
        let touched = touched.load(Ordering::SeqCst) as usize;
        for page in 0..touched {
            ensure!(map.read(page * PAGE) == 1 + (page % 250) as u8, "{page}");
        }
        map.write(touched * PAGE, 1);
        map.write((pages - 1) * PAGE, 1);
        Ok(())
    })?;
    kmsg::expect(kmsg::Report::OomKill)?;
    let toucher = a.spawn(|| {
        for page in 0..pages {
            map.write(page * PAGE, 1 + (page % 250) as u8);
            touched.store(page as u32 + 1, Ordering::SeqCst);
        }
        Ok(())
    })?;
    let end = toucher.wait()?;
    let (count, resident) = (
        touched.load(Ordering::SeqCst) as usize,
        region.info()?.resident as usize,
    );
    println!("{end:?} after {count} of {pages} pages, {resident} are there");
    ensure!(
        matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{end:?}"
    );
    ensure!(a.value("memory.events", "oom_kill")? == 1);
    ensure!(b.value("memory.events", "oom_kill")? == 0);
    // Nearly all that the group might have, and nothing that was not touched.
    ensure!(count < MAX / PAGE && count > MAX / PAGE / 2, "{count}");
    ensure!(resident == count, "{resident} pages, {count} touched");
    a.expect(count, "what it touched")?;
    go.store(1, Ordering::SeqCst);
    witness.join()?;
    ensure!(map.read_pages(0..1) == 1);

    // With room again, others of the group can go on.
    map.advise(0..count / 2, libc::MADV_REMOVE)?;
    a.run(|| {
        map.write_pages(0..count / 4);
        Ok(())
    })?;
    ensure!(a.value("memory.events", "oom_kill")? == 1);
    drop((map, region));
    a.expect(0, "gone")?;
    drop((counters, _counters));
    remove(groups)
}

/// Each second page of the first ones is a range of its own then.
fn unpin_each_second(region: &Region, ranges: usize) -> anyhow::Result<()> {
    for n in 0..ranges {
        region.unpin(2 * n..2 * n + 1)?;
    }
    ensure!(region.info()?.unpinned == ranges as u64);
    Ok(())
}

/// A frozen region of this many pages, for which no memory is set aside.
fn sparse(pages: usize) -> anyhow::Result<Region> {
    let region = Region::sized(pages)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    region.map_as(PAGE, RW, flags)?;
    Ok(region)
}

/// Few on a kernel that checks itself, which takes long for each object.
fn many(stock: usize) -> usize {
    if is_debug_kernel() { stock / 4 } else { stock }
}

/// Ranges that tests make.
fn ranges() -> usize {
    many(20_000)
}

/// Bytes that a range takes at least: first and last page, three counts, an
/// age, and twice the three words of a tree.
const RANGE: usize = (2 + 3 + 1 + 2 * 3) * size_of::<usize>();

fn ranges_are_charged_to_who_makes_them() -> anyhow::Result<()> {
    let ranges = ranges();
    let groups = groups()?;
    let (a, b, all) = &groups;
    // One opens the region, another one makes the ranges.
    let (here, there) = sockets()?;
    a.run(|| send_fd(&there, sparse(2 * ranges)?.as_fd()))?;
    let region = Region::from_fd(receive_fd(&here)?);
    let least = ranges * RANGE;
    for round in 0..2 {
        b.run(|| unpin_each_second(&region, ranges))?;
        let grown = b.slab_at_least(least, "who made the ranges")?;
        println!("{ranges} ranges: {grown} bytes, {} each", grown / ranges);
        a.slab_at_most(least / 4, "who opened the region")?;
        if round == 0 {
            // Together again they are one range, and then none.
            region.unpin(0..2 * ranges)?;
            ensure!(!region.pin(0..2 * ranges)?);
            b.slab_at_most(least / 4, "pinned again")?;
        }
    }
    drop(region);
    all.slab_at_most(least / 4, "closed")?;
    remove(groups)
}

/// The driver keeps the memory of one range that was pinned, for the next one of the region: never
/// for one that somebody else is to pay for.
fn what_a_pin_leaves_is_for_who_paid_for_it() -> anyhow::Result<()> {
    let count = many(4000);
    let files = count as libc::rlim_t + 100;
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    let groups = groups()?;
    let (a, b, _) = &groups;
    // Of all of them together: in one region there is one at most.
    let regions = (0..count)
        .map(|_| {
            let region = Region::sized(3)?;
            let map = region.map(3)?;
            Ok((region, map))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let unpin = |pages: std::ops::Range<usize>| {
        regions
            .iter()
            .try_for_each(|(region, _)| Ok(region.unpin(pages.clone())?))
    };
    let pin = |pages: std::ops::Range<usize>| {
        regions.iter().try_for_each(|(region, _)| {
            ensure!(!region.pin(pages.clone())?);
            Ok(())
        })
    };
    let least = count * RANGE;
    let none = least / 4;

    // There once only.
    a.run(|| unpin(0..1))?;
    let one = a.slab_at_least(least, "who unpinned")?;
    b.run(|| pin(0..1))?;
    a.run(|| {
        unpin(1..2)?;
        pin(1..2)?;
        unpin(0..3)
    })?;
    a.slab_at_most(one + none, "who unpinned again and again")?;
    b.slab_at_most(none, "who only pinned")?;
    pin(0..3)?;

    // Not for somebody else, whose it is from then on.
    b.run(|| unpin(0..1))?;
    b.slab_at_least(least, "who unpinned next")?;
    b.run(|| pin(0..1))?;
    a.slab_at_most(none, "whose range was the last but one")?;

    // Who splits a range pays for a part of it.
    a.run(|| unpin(0..3))?;
    a.slab_at_least(least, "who unpinned three pages")?;
    b.run(|| pin(1..2))?;
    a.run(|| {
        pin(0..1)?;
        pin(2..3)?;
        unpin(0..1)
    })?;
    a.slab_at_least(least, "who unpinned behind a split")?;

    // It goes with the last descriptor, before the memory does.
    pin(0..1)?;
    let maps: Vec<Mapping> = regions.into_iter().map(|(_, map)| map).collect();
    a.slab_at_most(none, "closed, and mapped")?;
    b.slab_at_most(none, "closed, and mapped")?;
    drop(maps);
    remove(groups)
}

/// What a region takes at least: its name alone has 256 bytes, and the file has
/// some, too.
const FRESH: usize = 512;
/// What it takes then: an inode, an entry of a folder and a file, for what it
/// maps and for what is set aside.
const FROZEN: usize = FRESH + 2 * (512 + 128 + 160);

fn regions_are_charged_to_who_opens_them() -> anyhow::Result<()> {
    let groups = groups()?;
    let (a, b, _) = &groups;
    let opens = many(4000);
    a.run(|| {
        let files = opens as libc::rlim_t + 100;
        setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
        let before = a.slab()?;
        let regions = (0..opens)
            .map(|_| Region::open())
            .collect::<anyhow::Result<Vec<_>>>()?;
        let opened = a.slab_at_least(before + opens * FRESH, "opened")? - before;
        for region in &regions {
            region.set_size(PAGE)?;
            drop(region.map(1)?);
        }
        let frozen = a.slab_at_least(before + opens * FROZEN, "mapped once")? - before;
        println!(
            "a region: {} bytes, then {}",
            opened / opens,
            frozen / opens
        );
        drop(regions);
        a.slab_at_most(before + frozen / 8, "closed")?;
        Ok(())
    })?;
    b.slab_at_most(0, "who opened nothing")?;
    remove(groups)
}

fn unpin_beyond_the_groups_limit_changes_nothing() -> anyhow::Result<()> {
    let groups = groups()?;
    let ranges = ranges();
    let (a, _, _) = &groups;
    let region = sparse(2 * ranges)?;
    unpin_each_second(&region, ranges)?;
    let before = region.info()?;
    let limit = ranges * RANGE / 3;
    // Nobody in it may be killed: then an allocation fails.
    let (_counters, counters) = counter()?;
    let found = counters.atomic(0);
    let in_the_group = |unkillable: bool| {
        kmsg::expect(kmsg::Report::OomKill)?;
        let child = a.spawn(|| {
            if unkillable {
                fs::write("/proc/self/oom_score_adj", "-1000")?;
            }
            let now: usize = a.read("memory.current")?.trim().parse()?;
            a.write("memory.max", &(now + limit).to_string())?;
            // Each page between two ranges takes a range at first.
            let result = region.unpin(0..2 * ranges);
            found.store(
                result.map_or_else(|error| error as u32, |()| 0),
                Ordering::SeqCst,
            );
            a.write("memory.max", "max")
        })?;
        child.wait()
    };
    let unchanged = || -> anyhow::Result<()> {
        let info = region.info()?;
        ensure!(info == before, "{before:?}, now {info:?}");
        for page in (0..2 * ranges).step_by(ranges / 50 + 1) {
            let bytes = u32::try_from(page * PAGE)?;
            ensure!(
                region.pinned_bytes(bytes, PAGE as u32)? == (page % 2 == 1),
                "{page}"
            );
        }
        Ok(())
    };
    let end = in_the_group(true)?;
    ensure!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}");
    let errno = Errno::from_raw(found.load(Ordering::SeqCst) as i32);
    ensure!(errno == Errno::ENOMEM, "{errno}");
    unchanged()?;

    // And one that may be.
    found.store(0, Ordering::SeqCst);
    let end = in_the_group(false)?;
    ensure!(
        matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{end:?}"
    );
    unchanged()?;
    a.slab_at_most(limit / 5, "what an UNPIN that failed had taken")?;
    // Without a limit, it is possible.
    a.write("memory.max", "max")?;
    a.run(|| Ok(region.unpin(0..2 * ranges)?))?;
    ensure!(region.info()?.unpinned == 2 * ranges as u64);
    drop(region);
    remove(groups)
}

/// Each 8 GiB take a range, which once was all it took to have the OOM killer end others.
fn unpin_takes_no_more_ranges_than_the_machine_has_pages() -> anyhow::Result<()> {
    const RANGE: u64 = 8 << 30;
    let machine = number("/proc/meminfo", "MemTotal")? * 1024 / PAGE;
    let size = (machine as u64 + 2) * RANGE;
    let region = Region::open()?;
    region.set_size(usize::try_from(size)?)?;
    let map = region.map_as(PAGE, RW, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE)?;
    map.write(0, 1);
    let found = region.unpin_wide(0, 0);
    ensure!(found == Err(Errno::ENOMEM), "all of it: {found:?}");
    let info = region.info()?;
    ensure!(info.unpinned == 0, "{info:?}");
    // It was the number of ranges, and no other limit.
    let some = 64 * RANGE;
    region.unpin_wide(size - some, 0)?;
    ensure!(region.info()?.unpinned == some / PAGE as u64);
    ensure!(!region.pin_wide(0, 0)? && map.read(0) == 1);
    Ok(())
}
