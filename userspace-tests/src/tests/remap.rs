// SPDX-License-Identifier: GPL-2.0-only

//! mremap(2) in all its forms.
//!
//! Each page begins with a letter of its own. In pictures of content a `0` is
//! a page of zeros; in those of page tables an `m` is a page that is mapped
//! and a dash one that is not.

use std::ops::Range;
use std::ptr::NonNull;

use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::mremap;
use nix::sys::signal::Signal;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts::Step;
use crate::tests::counts::settle;
use crate::tests::counts::watch;
use crate::tests::process::dies_of;

tests! {
    shrunk_mapping_keeps_its_head => "map.mremap-shrink",
    mapping_grows_in_place => "map.mremap-grow",
    mapping_grows_by_moving => "map.mremap-grow" "map.mremap-move",
    grown_mapping_ends_where_the_region_ends => "mmap.grown",
    mapping_moves_onto_another_one => "map.mremap-move",
    part_of_a_mapping_moves => "map.mremap-move",
    moved_mapping_sees_a_purge => "map.mremap-move",
    private_copies_move_along => "map.mremap-move",
    dontunmap_leaves_the_old_addresses_mapped => "map.mremap-dontunmap",
    old_size_zero_makes_a_second_mapping => "map.mremap-duplicate",
}

/// Pages of each region here.
const N: usize = 8;
const MOVE: MRemapFlags = MRemapFlags::MREMAP_MAYMOVE;
const FIXED: MRemapFlags = MRemapFlags::MREMAP_MAYMOVE.union(MRemapFlags::MREMAP_FIXED);

/// mremap(2) of these pages of `map`; gives the new address.
fn remap(
    map: &Mapping,
    pages: Range<usize>,
    new: usize,
    flags: MRemapFlags,
    to: Option<NonNull<libc::c_void>>,
) -> nix::Result<NonNull<libc::c_void>> {
    let at = map.page(pages.start);
    // SAFETY: Nobody has a reference to what moves, and what is replaced is a
    // mapping of the test.
    unsafe { mremap(at, pages.len() * PAGE, new * PAGE, flags, to) }
}

/// The same where the kernel looks for a place: what is there afterwards.
pub fn remapped(
    map: &Mapping,
    pages: Range<usize>,
    new: usize,
    flags: MRemapFlags,
) -> nix::Result<Mapping> {
    let base = remap(map, pages, new, flags, None)?;
    // SAFETY: The kernel just put it there. If it is where the old one was, the
    // callers forget that one.
    Ok(unsafe { Mapping::from_raw(base, new * PAGE) })
}

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

/// The letters of these pages.
fn letters(map: &Mapping, pages: Range<usize>) -> String {
    pages.map(|page| map.letter(page)).collect()
}

fn faults(handler: usize) -> Step {
    Step {
        faults: handler as u64,
        minor: handler as u64,
        ..Step::NONE
    }
}

fn shrunk_mapping_keeps_its_head() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = labelled()?;
    let twin = region.map(N)?;
    let shrunk = remapped(&map, 0..N, 3, MRemapFlags::empty())?;
    ensure!(shrunk.base() == map.base());
    // The rest of its addresses are no longer its own.
    let tail = map.base() + 3 * PAGE;
    map.leak();
    let step = watch(&region, || shrunk.label())?;
    ensure!(
        step == Step::NONE,
        "what stays is not mapped anew: {step:?}"
    );
    ensure!(shrunk.labels() == "abc");
    dies_of(Signal::SIGSEGV, || {
        // SAFETY: Nothing is mapped there, which is what this test is about.
        unsafe { (tail as *const u8).read_volatile() };
    })?;
    // The region has not shrunk.
    ensure!(twin.labels() == "abcdefgh");
    ensure!(region.info()?.resident == N as u64);
    Ok(())
}

fn mapping_grows_in_place() -> anyhow::Result<()> {
    settle()?;
    let (region, twin) = singles()?;
    let place = Mapping::reserve(N + 1)?;
    // Pages 2..4, with free addresses behind them, and something behind those.
    place.unmap(0..N)?;
    region.map_onto(&place, 0, 2..4, MapFlags::MAP_FIXED_NOREPLACE)?;
    ensure!(letters(&place, 0..2) == "cd");

    let base = remap(&place, 0..2, 6, MRemapFlags::empty(), None)?;
    ensure!(base == place.page(0), "it moved");
    let step = watch(&region, || place.stamp(0..2, b'z'))?;
    ensure!(step == Step::NONE, "what was mapped stays: {step:?}");
    let step = watch(&region, || place.stamp(2..6, b'y'))?;
    ensure!(step == faults(4), "{step:?}");
    ensure!(twin.labels() == "abzzyyyy");
    // Into what is behind it, it does not grow.
    ensure!(remap(&place, 0..6, N + 1, MRemapFlags::empty(), None) == Err(Errno::ENOMEM));
    ensure!(letters(&place, 0..6) == "zzyyyy");
    ensure!(region.info()?.allocated == N as u64);
    Ok(())
}

fn mapping_grows_by_moving() -> anyhow::Result<()> {
    settle()?;
    let (region, twin) = labelled()?;
    let place = Mapping::reserve(3)?;
    // Pages 1..3, and behind them something that is in the way.
    region.map_onto(&place, 0, 1..3, MapFlags::MAP_FIXED)?;
    ensure!(letters(&place, 0..2) == "bc");

    let grown = remapped(&place, 0..2, 5, MOVE)?;
    ensure!(grown.base() != place.base());
    ensure!(grown.table()? == "mm---", "{}", grown.table()?);
    let step = watch(&region, || grown.stamp(0..2, b'z'))?;
    ensure!(step == Step::NONE, "page tables move along: {step:?}");
    let step = watch(&region, || grown.stamp(2..5, b'y'))?;
    ensure!(step == faults(3), "{step:?}");
    ensure!(twin.labels() == "azzyyygh");
    dies_of(Signal::SIGSEGV, || {
        place.read(0);
    })?;
    ensure!(region.info()?.allocated == N as u64);
    place.leak();
    Ok(())
}

fn grown_mapping_ends_where_the_region_ends() -> anyhow::Result<()> {
    // From the start, and from page 5 on.
    for first in [0, 5] {
        let (region, twin) = labelled()?;
        let inside = N - first;
        let map = region.map_from(first, inside * PAGE, RW, MapFlags::MAP_SHARED)?;
        let grown = remapped(&map, 0..inside, inside + 2, MOVE)?;
        map.leak();
        ensure!(letters(&grown, 0..inside) == twin.labels()[first..]);
        for page in [inside, inside + 1] {
            dies_of(Signal::SIGBUS, || {
                grown.read(page * PAGE);
            })?;
            dies_of(Signal::SIGBUS, || grown.write(page * PAGE, 1))?;
        }
        let info = region.info()?;
        ensure!(info.resident == N as u64 && info.allocated == N as u64);
        ensure!(region.set_size((N + 2) * PAGE) == Err(Errno::EINVAL));
    }
    Ok(())
}

fn mapping_moves_onto_another_one() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = labelled()?;
    let other = Region::sized(N)?;
    let (place, kept) = (other.map(N)?, other.map(N)?);
    place.stamp(0..N, b'x');

    // Its head goes, onto the middle of the other's mapping.
    let base = remap(&map, 0..3, 3, FIXED, Some(place.page(2)))?;
    ensure!(base == place.page(2));
    ensure!(place.table()? == "mmmmmmmm");
    let step = watch(&region, || place.stamp(2..3, b'z'))?;
    ensure!(step == Step::NONE, "page tables move along: {step:?}");
    ensure!(place.labels() == "xxzbcxxx");
    ensure!(
        kept.labels() == "xxxxxxxx",
        "the other region lost something"
    );
    ensure!(letters(&map, 3..N) == "defgh");
    for page in 0..3 {
        dies_of(Signal::SIGSEGV, || {
            map.read(page * PAGE);
        })?;
    }
    // Smaller at the same time: what is cut off is unmapped.
    remap(&map, 3..N, 2, FIXED, Some(place.page(6)))?;
    ensure!(place.labels() == "xxzbcxde");
    for page in 3..N {
        dies_of(Signal::SIGSEGV, || {
            map.read(page * PAGE);
        })?;
    }
    ensure!(region.map(N)?.labels() == "zbcdefgh");
    // Onto itself it does not go, nor to an address inside of a page.
    ensure!(remap(&place, 2..5, 3, FIXED, Some(place.page(3))) == Err(Errno::EINVAL));
    let askew = NonNull::new((place.base() + 7) as *mut libc::c_void);
    ensure!(remap(&place, 2..5, 3, FIXED, askew) == Err(Errno::EINVAL));
    ensure!(place.labels() == "xxzbcxde");
    Ok(())
}

fn part_of_a_mapping_moves() -> anyhow::Result<()> {
    settle()?;
    let (region, _first) = labelled()?;
    // A mapping with an offset, whose middle moves: pages 3..6 of the region.
    let map = region.map_from(2, 5 * PAGE, RW, MapFlags::MAP_SHARED)?;
    ensure!(map.labels() == "cdefg");
    let place = Mapping::reserve(3)?;
    remap(&map, 1..4, 3, FIXED, Some(place.page(0)))?;
    let step = watch(&region, || {
        place.read_pages(0..3);
        map.read_pages(0..1);
        map.read_pages(4..5);
    })?;
    ensure!(step == Step::NONE, "{step:?}");
    ensure!(place.labels() == "def");
    ensure!((map.letter(0), map.letter(4)) == ('c', 'g'));
    for page in 1..4 {
        dies_of(Signal::SIGSEGV, || {
            map.read(page * PAGE);
        })?;
    }
    // And back, in two pieces and the other way round.
    remap(&place, 2..3, 1, FIXED, Some(map.page(1)))?;
    remap(&place, 0..2, 2, FIXED, Some(map.page(2)))?;
    ensure!(map.labels() == "cfdeg");
    place.leak();
    Ok(())
}

fn moved_mapping_sees_a_purge() -> anyhow::Result<()> {
    let (region, map) = labelled()?;
    let place = Mapping::reserve(N)?;
    remap(&map, 2..6, 4, FIXED, Some(place.page(1)))?;
    ensure!(letters(&place, 1..5) == "cdef");
    region.unpin(1..4)?;
    region.unpin(5..7)?;
    ensure!(region.purge_all()? == 5);
    ensure!(letters(&place, 1..5) == "00e0");
    ensure!(letters(&map, 0..2) == "a0" && letters(&map, 6..8) == "0h");
    Ok(())
}

fn private_copies_move_along() -> anyhow::Result<()> {
    let (region, shared) = labelled()?;
    let map = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    map.stamp(1..3, b'p');
    let place = Mapping::reserve(N)?;
    remap(&map, 0..N, N, FIXED, Some(place.page(0)))?;
    map.leak();
    shared.stamp(5..6, b's');
    ensure!(place.labels() == "appdesgh");
    ensure!(shared.labels() == "abcdesgh");
    Ok(())
}

fn dontunmap_leaves_the_old_addresses_mapped() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = singles()?;
    let flags = MOVE | MRemapFlags::MREMAP_DONTUNMAP;
    let moved = remapped(&map, 0..N, N, flags)?;
    ensure!(moved.base() != map.base());
    ensure!(moved.table()? == "mmmmmmmm", "{}", moved.table()?);
    ensure!(map.table()? == "--------", "{}", map.table()?);

    let step = watch(&region, || moved.label())?;
    ensure!(step == Step::NONE, "page tables move along: {step:?}");
    let step = watch(&region, || map.label())?;
    ensure!(step == faults(N), "the old addresses fault anew: {step:?}");
    map.stamp(2..3, b'z');
    moved.stamp(4..5, b'y');
    ensure!(moved.labels() == "abzdyfgh");
    ensure!(map.labels() == "abzdyfgh");
    ensure!(region.info()?.allocated == N as u64);

    // Of a part: its neighbours stay mapped, and it faults anew.
    let part = remapped(&map, 3..5, 2, flags)?;
    ensure!(map.table()? == "mmm--mmm", "{}", map.table()?);
    ensure!(part.labels() == "dy" && map.labels() == "abzdyfgh");
    // Nothing is made larger with this flag.
    ensure!(remap(&map, 0..2, 3, flags, None) == Err(Errno::EINVAL));
    Ok(())
}

fn old_size_zero_makes_a_second_mapping() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = singles()?;
    let second = remapped(&map, 0..0, N, MOVE)?;
    ensure!(second.base() != map.base());
    ensure!(map.table()? == "mmmmmmmm" && second.table()? == "--------");
    let step = watch(&region, || second.label())?;
    ensure!(step == faults(N), "{step:?}");
    let step = watch(&region, || map.label())?;
    ensure!(step == Step::NONE, "the first one was touched: {step:?}");
    second.stamp(2..3, b'z');
    ensure!(map.labels() == "abzdefgh");
    // From the middle on, as long as one likes; behind the region is nothing.
    let tail = remapped(&map, 6..6, 3, MOVE)?;
    ensure!(letters(&tail, 0..2) == "gh");
    dies_of(Signal::SIGBUS, || {
        tail.read(2 * PAGE);
    })?;
    // The first one can go.
    drop(map);
    ensure!(second.labels() == "abzdefgh");
    ensure!(region.info()?.allocated == N as u64);
    // Of a private one there is no second.
    let private = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    ensure!(remap(&private, 0..0, N, MOVE, None) == Err(Errno::EINVAL));
    ensure!(remap(&second, 0..0, N, MRemapFlags::empty(), None) == Err(Errno::ENOMEM));
    Ok(())
}
