// SPDX-License-Identifier: GPL-2.0-only

//! madvise(2): what each advice does to a region, and what it does not do.
//!
//! In pictures of page tables an `m` is a page that is mapped, a `g` a guard
//! and a dash neither.

use std::fs;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mlock;
use nix::sys::mman::mremap;
use nix::sys::signal::Signal;
use nix::sys::uio::pread;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts::Step;
use crate::tests::counts::settle;
use crate::tests::counts::watch;
use crate::tests::process::dies_of;
use crate::tests::process::in_child;

tests! {
    dontneed_keeps_the_content => "map.dontneed",
    remove_drops_the_content_for_every_mapping => "map.remove",
    remove_is_no_purge => "map.remove",
    remove_gives_the_memory_back => "map.remove",
    remove_needs_a_shared_mapping_that_may_be_written => "map.remove",
    remove_takes_whole_pages_that_are_there => "map.remove",
    populate_read_faults_pages_in => "map.populate-advice",
    populate_write_faults_pages_in => "map.populate-advice",
    advice_is_taken_and_loses_nothing => "map.advice",
    other_advice_loses_nothing_either,
    dontfork_keeps_a_mapping_from_children,
    guard_is_sigsegv_and_keeps_the_content => "map.guard",
    guard_allocates_nothing => "map.guard",
    purge_goes_on_under_a_guard => "map.guard",
    guard_moves_with_its_mapping => "map.guard",
    guard_is_inherited_by_children => "map.guard",
}

/// What libc does not have yet.
pub const GUARD_INSTALL: libc::c_int = 102;
const GUARD_REMOVE: libc::c_int = 103;
const DONTNEED_LOCKED: libc::c_int = 24;
const COLLAPSE: libc::c_int = 25;
const POPULATE_READ: libc::c_int = 22;
const POPULATE_WRITE: libc::c_int = 23;

/// Pages of most regions here.
const N: usize = 8;

/// A region with a letter in each page, and the mapping through which it got
/// there.
fn labelled() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.label();
    Ok((region, map))
}

/// The same in single pages, which are mapped and unmapped one by one.
fn singles() -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    map.label();
    Ok((region, map))
}

fn lock(map: &Mapping) -> nix::Result<()> {
    // SAFETY: It changes no memory.
    unsafe { mlock(map.pointer(), map.len()) }
}

fn dontneed_keeps_the_content() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    twin.label();
    let before = region.info()?;
    map.advise(2..5, libc::MADV_DONTNEED)?;
    ensure!(map.table()? == "mm---mmm", "{}", map.table()?);
    ensure!(twin.table()? == "mmmmmmmm");
    ensure!(region.info()? == before);
    ensure!(map.labels() == "abcdefgh");
    // In a mapping with an offset, and beyond its end: what is there is done.
    let tail = region.map_from(5, 3 * PAGE, RW, MapFlags::MAP_SHARED)?;
    ensure!(tail.labels() == "fgh");
    let place = Mapping::reserve(4)?;
    region.map_onto(&place, 0, 5..8, MapFlags::MAP_FIXED)?;
    place.unmap(3..4)?;
    ensure!((0..3).map(|page| place.letter(page)).eq("fgh".chars()));
    ensure!(place.advise(1..4, libc::MADV_DONTNEED) == Err(Errno::ENOMEM));
    ensure!(place.table()? == "m---", "{}", place.table()?);
    ensure!((0..3).map(|page| place.letter(page)).eq("fgh".chars()));
    // A part of a page is the whole, behind an address that begins one.
    map.advise_bytes(PAGE, PAGE + 1, libc::MADV_DONTNEED)?;
    ensure!(map.table()? == "m--mmmmm", "{}", map.table()?);
    ensure!(map.advise_bytes(PAGE + 1, PAGE, libc::MADV_DONTNEED) == Err(Errno::EINVAL));
    ensure!(map.labels() == "abcdefgh" && tail.labels() == "fgh");
    // Unpinned it stays, and what was purged stays purged.
    region.unpin(2..5)?;
    map.advise(0..N, libc::MADV_DONTNEED)?;
    ensure!(region.picture(N)? == "..uuu...");
    ensure!(map.labels() == "abcdefgh");
    ensure!(region.purge_all()? == 3);
    map.advise(0..N, libc::MADV_DONTNEED)?;
    ensure!(map.labels() == "ab000fgh");
    ensure!(region.pin(0..N)?);
    // Of a private mapping it drops the copies.
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    private.stamp(0..N, b'p');
    private.advise(0..2, libc::MADV_DONTNEED)?;
    ensure!(private.labels() == "abpppppp");
    ensure!(map.labels() == "ab000fgh");
    Ok(())
}

fn remove_drops_the_content_for_every_mapping() -> anyhow::Result<()> {
    removal(singles()?, true).context("single pages")?;
    // Whose pages around the hole may be unmapped with it.
    removal(labelled()?, false).context("large folios")
}

/// Removes pages of what has them all. `exact`: no other page leaves a page table.
fn removal((region, map): (Region, Mapping), exact: bool) -> anyhow::Result<()> {
    let twin = region.map(N)?;
    let read_only = region.map_as(N * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let locked = region.map(N)?;
    let shifted = region.map_from(1, (N - 1) * PAGE, RW, MapFlags::MAP_SHARED)?;
    lock(&locked)?;
    private.stamp(3..4, b'p');
    for map in [&twin, &read_only, &locked] {
        ensure!(map.labels() == "abcdefgh");
    }
    ensure!(private.labels() == "abcpefgh" && shifted.labels() == "bcdefgh");

    // Pages 2..5, through a mapping that begins at page 1.
    shifted.advise(1..4, libc::MADV_REMOVE)?;
    let info = region.info()?;
    ensure!((info.resident, info.purged) == (5, 0), "{info:?}");
    let table = |map: &Mapping, hole: &str| -> anyhow::Result<()> {
        let found = map.table()?;
        ensure!(found[2..5] == *hole, "{found}");
        ensure!(
            !exact || (&found[..2], &found[5..]) == ("mm", "mmm"),
            "{found}"
        );
        Ok(())
    };
    for map in [&map, &twin, &read_only, &locked] {
        table(map, "---")?;
    }
    // A copy of its own is the process's, not the region's.
    table(&private, "-m-")?;
    let mut buffer = [1; PAGE];
    ensure!(pread(&region, &mut buffer, 3 * PAGE as libc::off_t)? == PAGE);
    ensure!(buffer.iter().all(|byte| *byte == 0), "by read(2)");
    ensure!(region.info()?.resident == 5, "read(2) filled the hole");
    for map in [&map, &twin, &read_only, &locked] {
        ensure!(map.labels() == "ab000fgh");
    }
    ensure!(private.labels() == "ab0p0fgh" && shifted.labels() == "b000fgh");
    in_child(|| {
        ensure!(map.labels() == "ab000fgh");
        // Also by somebody else, from below.
        map.advise(6..7, libc::MADV_REMOVE)?;
        Ok(())
    })?;
    ensure!(map.labels() == "ab000f0h" && twin.labels() == "ab000f0h");
    // What is written then stays.
    map.label();
    ensure!(twin.labels() == "abcdefgh");
    ensure!(region.info()?.allocated == N as u64 + 3 + 1);
    Ok(())
}

fn remove_is_no_purge() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    region.unpin(2..6)?;
    map.advise(1..4, libc::MADV_REMOVE)?;
    let info = region.info()?;
    ensure!(
        (info.resident, info.purged, info.unpinned) == (5, 0, 4),
        "{info:?}"
    );
    // Its owner knows: neither of these was purged.
    ensure!(region.picture(N)? == "..uuuu..");
    ensure!(!region.pin(0..N)?);
    ensure!(map.labels() == "a000efgh");

    // Unpinned holes are purged like any other, and count as pages.
    region.unpin(2..6)?;
    map.advise(2..4, libc::MADV_REMOVE)?;
    ensure!(region.purge_all()? == 4);
    ensure!(region.info()?.purged == 2, "{:?}", region.info()?);
    // What was purged before it was removed stays purged.
    map.label();
    map.advise(3..5, libc::MADV_REMOVE)?;
    ensure!(region.purge_all()? == 0);
    ensure!(region.pin(3..4)? && region.pin(2..6)?);
    ensure!(!region.pin(0..N)?);
    ensure!(map.labels() == "abc00fgh");
    Ok(())
}

/// Free pages of the machine, with those that the processors keep for
/// themselves.
fn free_pages() -> anyhow::Result<usize> {
    let text = fs::read_to_string("/proc/zoneinfo")?;
    let mut sum = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        sum += match (words.next(), words.next(), words.next()) {
            (Some("pages"), Some("free"), Some(pages)) => pages.parse()?,
            (Some("count:"), Some(pages), None) => pages.parse()?,
            _ => 0,
        };
    }
    Ok(sum)
}

fn remove_gives_the_memory_back() -> anyhow::Result<()> {
    let pages = 8192;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    map.write_pages(0..pages);
    let before = free_pages()?;
    map.advise(0..pages, libc::MADV_REMOVE)?;
    let info = region.info()?;
    ensure!((info.resident, info.purged) == (0, 0), "{info:?}");
    // Others take and give as well, but not as much as that.
    let given = free_pages()?.saturating_sub(before);
    ensure!(given > pages * 3 / 4, "{given} of {pages} pages came back");
    Ok(())
}

fn remove_needs_a_shared_mapping_that_may_be_written() -> anyhow::Result<()> {
    let read = ProtFlags::PROT_READ;
    let (shared, private) = (MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE);
    let (region, map) = labelled()?;
    let refused = |what: &str, map: &Mapping, error| -> anyhow::Result<()> {
        let found = map.advise(0..N, libc::MADV_REMOVE);
        ensure!(found == Err(error), "{what}: {found:?}");
        Ok(())
    };
    refused(
        "private",
        &region.map_as(N * PAGE, RW, private)?,
        Errno::EACCES,
    )?;
    refused(
        "private, read-only",
        &region.map_as(N * PAGE, read, private)?,
        Errno::EACCES,
    )?;
    let locked = region.map(N)?;
    lock(&locked)?;
    refused("locked", &locked, Errno::EINVAL)?;
    // It could be made writable: it may.
    let could = region.map_as(N * PAGE, read, shared)?;
    could.advise(7..8, libc::MADV_REMOVE)?;
    ensure!(map.labels() == "abcdefg0");
    // Under a mask without PROT_WRITE it could not.
    region.set_mask(read)?;
    refused(
        "masked",
        &region.map_as(N * PAGE, read, shared)?,
        Errno::EACCES,
    )?;
    ensure!(map.labels() == "abcdefg0", "refused, and done");
    ensure!(region.info()?.allocated == N as u64 + 1);

    let region = Region::open_mode(OFlag::O_RDONLY)?;
    region.set_size(N * PAGE)?;
    let map = region.map_as(N * PAGE, read, shared)?;
    map.read_pages(0..N);
    refused("a descriptor to read only", &map, Errno::EACCES)?;
    ensure!(region.info()?.resident == N as u64);
    Ok(())
}

fn remove_takes_whole_pages_that_are_there() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let remove = |offset, len| map.advise_bytes(offset, len, libc::MADV_REMOVE);
    ensure!(remove(1, PAGE) == Err(Errno::EINVAL));
    ensure!(remove(0, 0) == Ok(()));
    ensure!(map.labels() == "abcdefgh");
    // The length is rounded up.
    remove(2 * PAGE, 1)?;
    remove(4 * PAGE, PAGE + 1)?;
    ensure!(region.info()?.resident == 5);
    ensure!(map.labels() == "ab0d00gh");
    // Where there is nothing, there is nothing to do.
    map.advise(4..6, libc::MADV_REMOVE)?;
    map.advise(4..6, libc::MADV_REMOVE)?;
    ensure!(region.info()?.resident == 6);

    // Behind the region there is nothing either, nor far behind it.
    let tail = region.map_from(6, 4 * PAGE, RW, MapFlags::MAP_SHARED)?;
    tail.advise(1..4, libc::MADV_REMOVE)?;
    ensure!(map.labels() == "ab0d00g0");
    let far = region.map_from(1 << 18, 4 * PAGE, RW, MapFlags::MAP_SHARED)?;
    far.advise(0..4, libc::MADV_REMOVE)?;
    // Behind the mapping: what is there is done, and then it is said.
    let place = Mapping::reserve(4)?;
    region.map_onto(&place, 0, 0..3, MapFlags::MAP_FIXED)?;
    place.unmap(3..4)?;
    ensure!(place.advise(1..4, libc::MADV_REMOVE) == Err(Errno::ENOMEM));
    ensure!(map.labels() == "a00d00g0");
    Ok(())
}

fn populate_read_faults_pages_in() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    let mut result = Ok(());
    let step = watch(&region, || result = map.advise(1..7, POPULATE_READ))?;
    result.context("POPULATE_READ")?;
    ensure!(map.table()? == "-mmmmmm-", "{}", map.table()?);
    ensure!((step.faults, step.allocated) == (6, 6), "{step:?}");
    let step = watch(&region, || map.stamp(1..7, b'x'))?;
    ensure!(step == Step::NONE, "{step:?}");
    // What is there is found, in other mappings too, and read-only ones.
    for prot in [RW, ProtFlags::PROT_READ] {
        let twin = region.map_as(N * PAGE, prot, MapFlags::MAP_SHARED)?;
        twin.advise(1..7, POPULATE_READ)?;
        ensure!(&twin.table()?[1..7] == "mmmmmm", "{}", twin.table()?);
        let step = watch(&region, || {
            twin.read_pages(1..7);
        })?;
        ensure!(step == Step::NONE, "{prot:?}: {step:?}");
    }
    ensure!(region.info()?.allocated == 6);
    ensure!(map.picture(b'x') == "0xxxxxx0");
    // It does not get around anything.
    let hidden = region.map_as(N * PAGE, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED)?;
    ensure!(hidden.advise(0..N, POPULATE_READ) == Err(Errno::EINVAL));
    let tail = region.map_from(N - 1, 2 * PAGE, RW, MapFlags::MAP_SHARED)?;
    ensure!(tail.advise(0..2, POPULATE_READ) == Err(Errno::EFAULT));
    ensure!(tail.table()? == "m-");
    Ok(())
}

fn populate_write_faults_pages_in() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?.single()?;
    let mut result = Ok(());
    let step = watch(&region, || result = map.advise(2..N, POPULATE_WRITE))?;
    result.context("POPULATE_WRITE")?;
    ensure!(map.table()? == "--mmmmmm", "{}", map.table()?);
    ensure!(
        (step.faults, step.map_faults, step.allocated) == (6, 0, 6),
        "{step:?}"
    );
    let step = watch(&region, || map.stamp(2..N, b'x'))?;
    ensure!(step == Step::NONE, "{step:?}");
    // It writes nothing.
    map.advise(0..N, POPULATE_WRITE)?;
    ensure!(map.picture(b'x') == "00xxxxxx");
    // Of a private mapping it makes copies, also of what the region lacks.
    map.advise(0..1, libc::MADV_REMOVE)?;
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    private.advise(0..N, POPULATE_WRITE)?;
    let step = watch(&region, || private.stamp(0..N, b'p'))?;
    ensure!(step == Step::NONE, "{step:?}");
    ensure!(region.info()?.resident == N as u64 - 1);
    ensure!(map.picture(b'x') == "00xxxxxx");

    let read_only = region.map_as(N * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure!(read_only.advise(0..N, POPULATE_WRITE) == Err(Errno::EINVAL));
    let tail = region.map_from(N - 1, 2 * PAGE, RW, MapFlags::MAP_SHARED)?;
    ensure!(tail.advise(0..2, POPULATE_WRITE) == Err(Errno::EFAULT));
    Ok(())
}

/// Gives `advice` to the pages 1..7 of a region of which page 2 is a hole and
/// 3..6 are unpinned, and asserts that nothing of it changes.
fn harmless(advice: libc::c_int) -> anyhow::Result<Mapping> {
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    map.advise(2..3, libc::MADV_REMOVE)?;
    region.unpin(3..6)?;
    let before = region.info()?;
    map.advise(1..7, advice)
        .with_context(|| format!("advice {advice}"))?;
    let after = region.info()?;
    ensure!(
        after == before,
        "advice {advice}: {after:?}, not {before:?}"
    );
    ensure!(region.picture(N)? == "...uuu..", "advice {advice}");
    for map in [&map, &twin] {
        let found = map.labels();
        ensure!(found == "ab0defgh", "advice {advice}: {found}");
    }
    ensure!(!region.pin(3..4)?, "advice {advice} purges");
    // Nor does it hinder what comes later.
    map.label();
    ensure!(region.purge_all()? == 2, "advice {advice}");
    ensure!(twin.labels() == "abcd00gh", "advice {advice}");
    Ok(map)
}

fn advice_is_taken_and_loses_nothing() -> anyhow::Result<()> {
    // And what smaps shows of the pages that it was given for.
    for (advice, flag) in [
        (libc::MADV_WILLNEED, None),
        (libc::MADV_COLD, None),
        (libc::MADV_PAGEOUT, None),
        (libc::MADV_HUGEPAGE, Some("hg")),
        (libc::MADV_NOHUGEPAGE, Some("nh")),
        (libc::MADV_RANDOM, Some("rr")),
        (libc::MADV_SEQUENTIAL, Some("sr")),
        (libc::MADV_NORMAL, None),
    ] {
        let map = harmless(advice)?;
        let inside = smaps_flags(&map, 1)?;
        for other in ["hg", "nh", "rr", "sr"] {
            let expected = flag == Some(other);
            ensure!(
                inside.split(' ').any(|word| word == other) == expected,
                "advice {advice}: {inside}"
            );
        }
    }
    // The last one counts.
    let (_region, map) = labelled()?;
    for (advice, there, gone) in [
        (libc::MADV_RANDOM, "rr", "sr"),
        (libc::MADV_SEQUENTIAL, "sr", "rr"),
        (libc::MADV_NORMAL, "wr", "sr"),
        (libc::MADV_HUGEPAGE, "hg", "nh"),
        (libc::MADV_NOHUGEPAGE, "nh", "hg"),
    ] {
        map.advise(0..N, advice)?;
        let smaps = map.smaps()?;
        ensure!(smaps.flag(there)? && !smaps.flag(gone)?, "advice {advice}");
    }
    ensure!(map.labels() == "abcdefgh");
    Ok(())
}

/// `VmFlags` of the VMA that holds this page of a mapping.
fn smaps_flags(map: &Mapping, page: usize) -> anyhow::Result<String> {
    let at = map.base() + page * PAGE;
    let text = fs::read_to_string("/proc/self/smaps")?;
    let mut inside = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((start, end)) = range {
            let start = usize::from_str_radix(start, 16);
            let end = usize::from_str_radix(end, 16);
            if let (Ok(start), Ok(end)) = (start, end) {
                inside = (start..end).contains(&at);
            }
        }
        if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags: ")) {
            return Ok(flags.trim().to_owned());
        }
    }
    anyhow::bail!("{at:#x} is not in smaps")
}

fn other_advice_loses_nothing_either() -> anyhow::Result<()> {
    for advice in [
        libc::MADV_DOFORK,
        libc::MADV_DONTDUMP,
        libc::MADV_DODUMP,
        libc::MADV_KEEPONFORK,
    ] {
        harmless(advice)?;
    }
    // KSM merges anonymous pages only, and says nothing of others.
    for advice in [libc::MADV_MERGEABLE, libc::MADV_UNMERGEABLE] {
        let map = harmless(advice)?;
        ensure!(!smaps_flags(&map, 1)?.contains("mg"));
    }
    // These are for anonymous memory, or for what the kernel may collapse.
    let (region, map) = labelled()?;
    let before = region.info()?;
    for advice in [libc::MADV_FREE, libc::MADV_WIPEONFORK, COLLAPSE, 99] {
        let found = map.advise(0..N, advice);
        ensure!(found == Err(Errno::EINVAL), "advice {advice}: {found:?}");
    }
    ensure!(region.info()? == before && map.labels() == "abcdefgh");
    // Of locked pages, only who asks for it by name drops them.
    lock(&map)?;
    ensure!(map.advise(0..N, libc::MADV_DONTNEED) == Err(Errno::EINVAL));
    map.advise(1..3, DONTNEED_LOCKED)?;
    ensure!(map.table()? == "m--mmmmm", "{}", map.table()?);
    ensure!(map.labels() == "abcdefgh");
    ensure!(region.info()?.allocated == N as u64);
    Ok(())
}

fn dontfork_keeps_a_mapping_from_children() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    map.advise(2..4, libc::MADV_DONTFORK)?;
    dies_of(Signal::SIGSEGV, || {
        map.read(3 * PAGE);
    })?;
    in_child(|| {
        ensure!((map.letter(1), map.letter(4)) == ('b', 'e'));
        // It is only this mapping that is missing.
        ensure!(region.map(N)?.labels() == "abcdefgh");
        Ok(())
    })?;
    ensure!(map.labels() == "abcdefgh");
    map.advise(2..4, libc::MADV_DOFORK)?;
    in_child(|| {
        ensure!(map.labels() == "abcdefgh");
        Ok(())
    })
}

/// Dies of SIGSEGV: a read and a write.
fn guarded(map: &Mapping, page: usize) -> anyhow::Result<()> {
    dies_of(Signal::SIGSEGV, || {
        map.read(page * PAGE);
    })
    .with_context(|| format!("page {page} was read"))?;
    dies_of(Signal::SIGSEGV, || map.write(page * PAGE, 1))
        .with_context(|| format!("page {page} was written"))
}

fn guard_is_sigsegv_and_keeps_the_content() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    ensure!(twin.labels() == "abcdefgh");
    map.advise(2..4, GUARD_INSTALL)?;
    // A second time, over more: it is one guard.
    map.advise(3..5, GUARD_INSTALL)?;
    ensure!(map.table()? == "mmgggmmm", "{}", map.table()?);
    for page in 2..5 {
        guarded(&map, page)?;
    }
    for (page, letter) in [(0, 'a'), (1, 'b'), (5, 'f'), (6, 'g'), (7, 'h')] {
        ensure!(map.letter(page) == letter, "its neighbour {page}");
    }
    // It is this mapping's alone.
    twin.stamp(3..4, b'z');
    ensure!(twin.labels() == "abczefgh");
    let mut byte = [0];
    ensure!(pread(&region, &mut byte, 3 * PAGE as libc::off_t)? == 1 && byte == *b"z");
    ensure!(region.info()?.resident == N as u64);
    // Nothing but REMOVE takes it away, and nothing goes behind it.
    for (advice, expected) in [
        (libc::MADV_DONTNEED, Ok(())),
        (libc::MADV_COLD, Ok(())),
        (libc::MADV_PAGEOUT, Ok(())),
        (libc::MADV_WILLNEED, Ok(())),
        (POPULATE_READ, Err(Errno::EFAULT)),
        (POPULATE_WRITE, Err(Errno::EFAULT)),
    ] {
        let found = map.advise(2..5, advice);
        ensure!(found == expected, "advice {advice}: {found:?}");
        ensure!(
            &map.table()?[2..5] == "ggg",
            "advice {advice}: {}",
            map.table()?
        );
    }
    map.advise(0..3, GUARD_REMOVE)?;
    ensure!(&map.table()?[2..5] == "-gg", "{}", map.table()?);
    ensure!(map.letter(2) == 'c');
    map.advise(0..N, GUARD_REMOVE)?;
    ensure!(map.labels() == "abczefgh");
    ensure!(region.info()?.allocated == N as u64);
    // What is locked can have none.
    lock(&twin)?;
    ensure!(twin.advise(0..1, GUARD_INSTALL) == Err(Errno::EINVAL));
    ensure!(twin.labels() == "abczefgh");
    Ok(())
}

fn guard_allocates_nothing() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut result = Ok(());
    let step = watch(&region, || {
        result = map
            .advise(1..3, GUARD_INSTALL)
            .and_then(|()| map.advise(6..8, GUARD_INSTALL))
            .and_then(|()| map.advise(6..7, GUARD_REMOVE));
    })?;
    result.context("MADV_GUARD")?;
    ensure!(step == Step::NONE, "{step:?}");
    ensure!(map.table()? == "-gg----g", "{}", map.table()?);
    // Mapping around a page leaves the guards alone.
    map.write_pages(3..6);
    region.map(N)?.write_pages(0..N);
    let step = watch(&region, || {
        map.read(0);
    })?;
    ensure!(step.allocated == 0, "{step:?}");
    ensure!(
        map.table()?.replace('-', "m") == "mggmmmmg",
        "{}",
        map.table()?
    );
    for page in [1, 2, 7] {
        guarded(&map, page)?;
    }
    ensure!(region.info()?.allocated == N as u64);
    let step = watch(&region, || result = map.advise(0..N, GUARD_REMOVE))?;
    result?;
    ensure!(
        step.faults + step.map_faults + step.allocated == 0,
        "{step:?}"
    );
    ensure!(map.read_pages(0..N) == N);
    ensure!(region.info()?.allocated == N as u64);
    Ok(())
}

fn purge_goes_on_under_a_guard() -> anyhow::Result<()> {
    let (region, map) = singles()?;
    map.advise(2..6, GUARD_INSTALL)?;
    region.unpin(1..4)?;
    ensure!(region.purge_all()? == 3);
    ensure!(region.info()?.resident == N as u64 - 3);
    ensure!(map.table()? == "m-ggggmm", "{}", map.table()?);
    // So does what its owner removes.
    region.map(N)?.advise(4..5, libc::MADV_REMOVE)?;
    ensure!(map.table()? == "m-ggggmm", "{}", map.table()?);
    guarded(&map, 3)?;
    map.advise(2..6, GUARD_REMOVE)?;
    ensure!(map.labels() == "a0000fgh");
    ensure!(region.pin(1..4)?);
    // Unpinned and not purged, it is there when the guard is gone.
    map.label();
    map.advise(2..6, GUARD_INSTALL)?;
    region.unpin(0..N)?;
    ensure!(!region.pin(0..N)?);
    map.advise(2..6, GUARD_REMOVE)?;
    ensure!(map.labels() == "abcdefgh");
    Ok(())
}

fn guard_moves_with_its_mapping() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    map.advise(2..4, GUARD_INSTALL)?;
    let move_it = |map: &Mapping, flags: MRemapFlags| -> anyhow::Result<Mapping> {
        // SAFETY: Nobody has a reference to what moves.
        let base = unsafe {
            mremap(
                map.pointer(),
                map.len(),
                map.len(),
                MRemapFlags::MREMAP_MAYMOVE | flags,
                None,
            )
        }?;
        ensure!(base != map.pointer());
        // SAFETY: The kernel just put it there.
        Ok(unsafe { Mapping::from_raw(base, map.len()) })
    };
    let moved = move_it(&map, MRemapFlags::MREMAP_DONTUNMAP)?;
    ensure!(moved.table()? == "mmggmmmm", "{}", moved.table()?);
    guarded(&moved, 2)?;
    // It left the old addresses, where all is faulted in anew.
    ensure!(map.table()? == "--------", "{}", map.table()?);
    ensure!(map.labels() == "abcdefgh");
    drop(map);
    moved.advise(0..N, GUARD_REMOVE)?;
    ensure!(moved.labels() == "abcdefgh");
    ensure!(region.info()?.allocated == N as u64);
    Ok(())
}

fn guard_is_inherited_by_children() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    map.advise(2..4, GUARD_INSTALL)?;
    in_child(|| {
        ensure!(&map.table()?[2..4] == "gg", "{}", map.table()?);
        guarded(&map, 3)?;
        // Each has its own.
        map.advise(0..N, GUARD_REMOVE)?;
        ensure!(map.labels() == "abcdefgh");
        map.stamp(3..4, b'z');
        Ok(())
    })?;
    ensure!(&map.table()?[2..4] == "gg");
    guarded(&map, 2)?;
    map.advise(0..N, GUARD_REMOVE)?;
    ensure!(map.labels() == "abczefgh");
    ensure!(region.info()?.allocated == N as u64);
    Ok(())
}
