// SPDX-License-Identifier: GPL-2.0-only

//! Folios of many pages: what becomes of one of which parts are pinned, unpinned
//! or purged, however it is mapped, and whoever holds it; and huge pages.
//!
//! A picture has 16 letters, one for each sixteenth of a folio, as
//! `Region::status_picture` has them for pages: `:` pinned, `U` unpinned, `P`
//! purged and filled anew; `.`, `u` and `p` the same without memory.

use std::fs;
use std::fs::File;
use std::ops::Range;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mprotect;
use nix::unistd::pipe;

use crate::harness::tests;
use crate::region::LARGE;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::counts::settle;
use crate::tests::counts::watch;
use crate::tests::group::Group;
use crate::tests::process::in_child;
use crate::tests::process::until;
use crate::tests::remap::remapped;
use crate::tests::transfer::vmsplice;
use crate::uring::Ring;

tests! {
    parts_of_a_folio_that_is_not_mapped,
    parts_of_a_folio_mapped_by_pages,
    parts_of_a_huge_folio_that_is_not_mapped,
    parts_of_a_huge_folio_mapped_by_pages,
    parts_of_a_huge_folio_mapped_at_once,
    parts_of_a_held_folio_that_is_not_mapped,
    parts_of_a_held_folio_mapped_by_pages => "purge.held",
    parts_of_a_held_huge_folio_that_is_not_mapped,
    parts_of_a_held_huge_folio_mapped_by_pages,
    parts_of_a_held_huge_folio_mapped_at_once,
    parts_of_a_folio_for_a_device_that_is_not_mapped,
    parts_of_a_folio_for_a_device_mapped_by_pages => "purge.dma",
    parts_of_a_huge_folio_for_a_device_that_is_not_mapped,
    parts_of_a_huge_folio_for_a_device_mapped_by_pages,
    parts_of_a_huge_folio_for_a_device_mapped_at_once,
    remove_of_a_part_of_a_folio,
    remove_of_a_part_of_a_held_folio_leaves_zeros,
    folio_is_read_at_once_whoever_maps_it,
    huge_pages_for_those_who_ask => "map.huge",
    huge_pages_where_the_system_has_them_only => "map.huge",
    no_large_folios_for_a_process_that_wants_none => "map.single",
    sixty_four_mebibytes_take_few_faults,
    long_mappings_are_aligned => "map.huge",
    region_that_ends_within_a_huge_page => "map.grows",
    second_mapping_of_a_huge_page_takes_one_fault,
    huge_fault_is_one_that_maps_a_huge_page,
    copy_of_a_page_is_no_huge_fault,
    no_huge_fault_where_huge_pages_are_refused,
    no_huge_fault_for_a_process_that_wants_none,
    huge_page_is_unmapped_in_part,
    huge_page_that_was_read_only_is_written_to,
    guard_in_a_huge_page,
    large_folios_are_no_reason_to_reach_a_limit @ 60,
}

/// Parts of a folio that a picture has a letter for.
const CELLS: usize = 16;
/// Pages of a huge page.
const HUGE: usize = 512;
/// The cell in which the held page lies.
const HELD: usize = 6;

/// What is done to a folio before a purge.
struct Case {
    /// Cells that are purged while they have no memory, before the folio comes.
    holes: &'static [Range<usize>],
    /// Cells that are unpinned once it is there, each by one call.
    unpinned: &'static [Range<usize>],
    /// The picture before the purge.
    before: &'static str,
    /// And after it, if nobody holds the folio.
    after: &'static str,
}

const fn case(
    holes: &'static [Range<usize>],
    unpinned: &'static [Range<usize>],
    before: &'static str,
    after: &'static str,
) -> Case {
    Case {
        holes,
        unpinned,
        before,
        after,
    }
}

#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
const CASES: &[Case] = &[
    case(&[], &[], "::::::::::::::::", "::::::::::::::::"),
    case(&[], &[0..8], "UUUUUUUU::::::::", "pppppppp::::::::"),
    case(&[], &[8..16], "::::::::UUUUUUUU", "::::::::pppppppp"),
    case(&[], &[5..11], ":::::UUUUUU:::::", ":::::pppppp:::::"),
    case(&[], &[15..16], ":::::::::::::::U", ":::::::::::::::p"),
    case(&[], &[0..3, 13..16], "UUU::::::::::UUU", "ppp::::::::::ppp"),
    case(&[], &[0..16], "UUUUUUUUUUUUUUUU", "pppppppppppppppp"),
    case(
        &[],
        &[0..4, 4..5, 5..16],
        "UUUUUUUUUUUUUUUU",
        "pppppppppppppppp",
    ),
    case(&[0..6], &[], "PPPPPP::::::::::", "PPPPPP::::::::::"),
    case(&[0..6], &[6..16], "PPPPPPUUUUUUUUUU", "PPPPPPpppppppppp"),
    case(&[4..6], &[10..12], "::::PP::::UU::::", "::::PP::::pp::::"),
    case(&[0..16], &[], "PPPPPPPPPPPPPPPP", "PPPPPPPPPPPPPPPP"),
];

/// How the folio is mapped when it is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    /// Not at all.
    Nowhere,
    /// By an entry for each page.
    ByPages,
    /// By one entry.
    AtOnce,
}

use Mapped::AtOnce;
use Mapped::ByPages;
use Mapped::Nowhere;

/// Who else has a reference to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nobody.
    Nobody,
    /// A pipe, to a page of it.
    Pipe,
    /// An io_uring, to a page of it, for a device to write to.
    Device,
}

use Holder::Device;
use Holder::Nobody;
use Holder::Pipe;

/// What a holder has, until it is dropped.
enum Hold {
    Nothing,
    Pipe(#[expect(dead_code, reason = "owned")] [File; 2]),
    Device(Ring),
}

impl Hold {
    fn new(holder: Holder, map: &Mapping, page: usize) -> anyhow::Result<Self> {
        Ok(match holder {
            Nobody => Self::Nothing,
            Pipe => {
                let (from, to) = pipe()?;
                let (from, to) = (File::from(from), File::from(to));
                vmsplice(&to, map, page..page + 1)?;
                Self::Pipe([from, to])
            }
            Device => {
                let ring = Ring::new()?;
                ring.register(map, page..page + 1)?;
                Self::Device(ring)
            }
        })
    }

    fn end(self) -> anyhow::Result<()> {
        if let Self::Device(ring) = self {
            ring.unregister()?;
        }
        Ok(())
    }
}

/// A region of one folio: of [`HUGE`] pages, or of [`LARGE`] ones.
struct Folio {
    region: Region,
    map: Mapping,
    pages: usize,
}

/// What page `page` is filled with, never 0.
fn byte(page: usize) -> u8 {
    1 + (page % 250) as u8
}

impl Folio {
    /// One whose cells in `holes` were purged before it came, mapped like that.
    fn new(huge: bool, holes: &[Range<usize>], mapped: Mapped) -> anyhow::Result<Self> {
        let pages = if huge { HUGE } else { LARGE };
        for _ in 0..3 {
            let region = Region::sized(pages)?;
            let map = match huge {
                true => region.map(pages)?,
                false => region.map_aligned(pages)?,
            };
            let this = Self { region, map, pages };
            for cells in holes {
                this.region.unpin(this.pages_of(cells))?;
            }
            this.region.purge_all()?;
            let advice = match huge {
                true => libc::MADV_HUGEPAGE,
                false => libc::MADV_SEQUENTIAL,
            };
            this.map.advise(0..pages, advice)?;
            for page in 0..pages {
                this.map.write(page * PAGE, byte(page));
            }
            if this.region.info()?.faults != 1 {
                // Where memory lies in pieces, small ones are taken.
                fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
                continue;
            }
            this.remap(mapped)?;
            return Ok(this);
        }
        bail!("no folio of {pages} pages was to be had");
    }

    fn remap(&self, mapped: Mapped) -> anyhow::Result<()> {
        let all = 0..self.pages;
        match mapped {
            AtOnce => {}
            Nowhere => self.map.advise(all, libc::MADV_DONTNEED)?,
            ByPages => {
                self.map.advise(all.clone(), libc::MADV_DONTNEED)?;
                self.map.advise(all.clone(), libc::MADV_NOHUGEPAGE)?;
                self.map.read_pages(all);
            }
        }
        self.is_mapped(mapped)
    }

    fn is_mapped(&self, mapped: Mapped) -> anyhow::Result<()> {
        let smaps = self.map.smaps()?;
        let found = (smaps.pages("Rss")?, smaps.pages("FilePmdMapped")?);
        let expected = match mapped {
            Nowhere => (0, 0),
            ByPages => (self.pages, 0),
            AtOnce => (self.pages, self.pages),
        };
        ensure!(found == expected, "{mapped:?}: {found:?} pages mapped");
        Ok(())
    }

    fn pages_of(&self, cells: &Range<usize>) -> Range<usize> {
        let pages = self.pages / CELLS;
        cells.start * pages..cells.end * pages
    }

    fn picture(&self) -> anyhow::Result<String> {
        let all = self.region.status_picture(0..self.pages as u64)?;
        all.as_bytes()
            .chunks(self.pages / CELLS)
            .map(|cell| {
                ensure!(cell.iter().all(|letter| *letter == cell[0]), "{all}");
                Ok(char::from(cell[0]))
            })
            .collect()
    }

    /// Asserts that the picture is this, and that each page has its content, or zeros where it
    /// was purged.
    fn shows(&self, what: &str, picture: &str) -> anyhow::Result<()> {
        let found = self.picture()?;
        ensure!(found == picture, "{what}: {found}, expected {picture}");
        let mut bytes = vec![0xaa; self.pages * PAGE];
        let read = nix::sys::uio::pread(&self.region, &mut bytes, 0)?;
        ensure!(read == bytes.len());
        for (page, content) in bytes.chunks(PAGE).enumerate() {
            let gone = "up.".contains(picture.as_bytes()[page * CELLS / self.pages] as char);
            let expected = if gone { 0 } else { byte(page) };
            ensure!(
                content[0] == expected,
                "{what}: page {page} begins with {}, expected {expected}",
                content[0]
            );
        }
        Ok(())
    }
}

/// Has memory pressure take what it can, in whatever way, until the picture is this.
fn squeeze(folio: &Folio, picture: &str) -> anyhow::Result<()> {
    until("what is unpinned is taken", || {
        fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches")?;
        Ok(folio.picture()? == picture)
    })
    .with_context(|| folio.picture().unwrap_or_default())
}

/// Goes through all cases, by PURGE_ALL_CACHES and by memory pressure.
fn all_cases(huge: bool, mapped: Mapped, holder: Holder) -> anyhow::Result<()> {
    for case in CASES {
        for pressure in [false, true] {
            let folio = Folio::new(huge, case.holes, mapped)?;
            let held = folio.pages_of(&(HELD..HELD + 1)).start;
            let hold = Hold::new(holder, &folio.map, held)?;
            // The holder has faulted it in.
            if holder != Nobody {
                folio.remap(mapped)?;
            }
            for cells in case.unpinned {
                folio.region.unpin(folio.pages_of(cells))?;
            }
            folio.shows("before", case.before)?;

            // A folio that goes whole leaves its holder the old memory; one that would have to be
            // split stays as it is, and so does what a device may write to.
            let whole = case.before.bytes().all(|letter| letter == b'U');
            let then = match holder {
                Nobody => case.after,
                Pipe if whole => case.after,
                Pipe | Device => case.before,
            };
            println!(
                "{mapped:?} {holder:?}  {}  {then}  {}",
                case.before, case.after
            );
            if pressure {
                squeeze(&folio, then)?;
            } else {
                folio.region.purge_all()?;
            }
            folio.shows("then", then)?;
            hold.end()?;
            if pressure {
                squeeze(&folio, case.after)?;
            } else {
                folio.region.purge_all()?;
            }
            folio.shows("after", case.after)?;

            // What was reported is what is gone.
            let purged = |letter| letter == b'p' || letter == b'P';
            for (cell, letter) in case.after.bytes().enumerate() {
                let was_purged = folio.region.pin(folio.pages_of(&(cell..cell + 1)))?;
                ensure!(was_purged == purged(letter), "PIN of cell {cell}");
            }
            // All of it can be used as before.
            for page in 0..folio.pages {
                folio.map.write(page * PAGE, byte(page));
            }
            folio.shows("at last", "::::::::::::::::")?;
        }
    }
    Ok(())
}

fn parts_of_a_folio_that_is_not_mapped() -> anyhow::Result<()> {
    all_cases(false, Nowhere, Nobody)
}

fn parts_of_a_folio_mapped_by_pages() -> anyhow::Result<()> {
    all_cases(false, ByPages, Nobody)
}

fn parts_of_a_huge_folio_that_is_not_mapped() -> anyhow::Result<()> {
    all_cases(true, Nowhere, Nobody)
}

fn parts_of_a_huge_folio_mapped_by_pages() -> anyhow::Result<()> {
    all_cases(true, ByPages, Nobody)
}

fn parts_of_a_huge_folio_mapped_at_once() -> anyhow::Result<()> {
    all_cases(true, AtOnce, Nobody)
}

fn parts_of_a_held_folio_that_is_not_mapped() -> anyhow::Result<()> {
    all_cases(false, Nowhere, Pipe)
}

fn parts_of_a_held_folio_mapped_by_pages() -> anyhow::Result<()> {
    all_cases(false, ByPages, Pipe)
}

fn parts_of_a_held_huge_folio_that_is_not_mapped() -> anyhow::Result<()> {
    all_cases(true, Nowhere, Pipe)
}

fn parts_of_a_held_huge_folio_mapped_by_pages() -> anyhow::Result<()> {
    all_cases(true, ByPages, Pipe)
}

fn parts_of_a_held_huge_folio_mapped_at_once() -> anyhow::Result<()> {
    all_cases(true, AtOnce, Pipe)
}

fn parts_of_a_folio_for_a_device_that_is_not_mapped() -> anyhow::Result<()> {
    all_cases(false, Nowhere, Device)
}

fn parts_of_a_folio_for_a_device_mapped_by_pages() -> anyhow::Result<()> {
    all_cases(false, ByPages, Device)
}

fn parts_of_a_huge_folio_for_a_device_that_is_not_mapped() -> anyhow::Result<()> {
    all_cases(true, Nowhere, Device)
}

fn parts_of_a_huge_folio_for_a_device_mapped_by_pages() -> anyhow::Result<()> {
    all_cases(true, ByPages, Device)
}

fn parts_of_a_huge_folio_for_a_device_mapped_at_once() -> anyhow::Result<()> {
    all_cases(true, AtOnce, Device)
}

fn remove_of_a_part_of_a_folio() -> anyhow::Result<()> {
    for (huge, mapped) in [(false, ByPages), (true, AtOnce)] {
        let folio = Folio::new(huge, &[], mapped)?;
        folio.region.unpin(folio.pages_of(&(0..4)))?;
        folio
            .map
            .advise(folio.pages_of(&(2..7)), libc::MADV_REMOVE)?;
        folio.shows("removed", "UUuu...:::::::::")?;
        let resident = folio.region.info()?.resident as usize;
        ensure!(resident == folio.pages_of(&(0..11)).len(), "{resident}");
        ensure!(!folio.region.pin(0..folio.pages)?, "it is no purge");
    }
    Ok(())
}

fn remove_of_a_part_of_a_held_folio_leaves_zeros() -> anyhow::Result<()> {
    for holder in [Pipe, Device] {
        let folio = Folio::new(false, &[], ByPages)?;
        let hold = Hold::new(holder, &folio.map, HELD)?;
        folio.map.advise(4..10, libc::MADV_REMOVE)?;
        // The memory cannot be taken from it.
        ensure!(folio.picture()? == "::::::::::::::::");
        for page in 0..folio.pages {
            let expected = if (4..10).contains(&page) {
                0
            } else {
                byte(page)
            };
            ensure!(folio.map.read(page * PAGE) == expected, "page {page}");
        }
        let info = folio.region.info()?;
        ensure!(info.resident as usize == folio.pages, "{info:?}");
        hold.end()?;
        folio.map.advise(4..10, libc::MADV_REMOVE)?;
        folio.shows("removed", "::::......::::::")?;
    }
    Ok(())
}

/// Nothing of a folio is in the page table: the handler maps it. A part is: the core maps the rest of what is
/// around, which here is all.
fn folio_is_read_at_once_whoever_maps_it() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = Region::large(1)?;
    let reads = |map: &Mapping, pages: Range<usize>| -> anyhow::Result<_> {
        let step = watch(&region, || {
            map.read_pages(pages.clone());
        })?;
        Ok((step.faults, step.map_faults))
    };
    map.advise(0..LARGE, libc::MADV_DONTNEED)?;
    ensure!(reads(&map, 0..LARGE)? == (1, 0), "all of it");
    for there in [0..1, 7..8, LARGE - 1..LARGE] {
        map.advise(0..there.start, libc::MADV_DONTNEED)?;
        map.advise(there.end..LARGE, libc::MADV_DONTNEED)?;
        ensure!(reads(&map, 0..LARGE)? == (0, 1), "all but {there:?}");
    }
    // A page that was copied is in the page table, too.
    let place = map.base();
    drop(map);
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
    // SAFETY: It replaces nothing.
    let map = unsafe { region.map_at(place, LARGE * PAGE, RW, flags, 0) }?;
    ensure!(reads(&map, 0..LARGE)? == (1, 0), "all of a private mapping");
    map.advise(0..LARGE, libc::MADV_DONTNEED)?;
    map.write(3 * PAGE, 1);
    ensure!(reads(&map, 0..LARGE)? == (0, 1), "all but what was copied");
    Ok(())
}

/// A region of so many pages, and a mapping that asks for huge pages.
fn huge_region(pages: usize) -> anyhow::Result<(Region, Mapping)> {
    // So that there are some.
    fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    map.advise(0..pages, libc::MADV_HUGEPAGE)?;
    Ok((region, map))
}

fn huge_pages_for_those_who_ask() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = huge_region(2 * HUGE)?;
    let step = watch(&region, || map.write_pages(0..2 * HUGE))?;
    ensure!(
        (step.faults, step.map_faults, step.minor) == (2, 0, 2),
        "{step:?}"
    );
    ensure!(step.allocated == 2 * HUGE as u64);
    ensure!(region.info()?.huge_faults == 2);
    ensure!(map.smaps()?.pages("FilePmdMapped")? == 2 * HUGE);

    // The others get folios of 64 KiB, though the system would have it otherwise.
    let region = Region::sized(HUGE)?;
    let map = region.map(HUGE)?;
    map.write_pages(0..HUGE);
    ensure!(region.info()?.huge_faults == 0);
    ensure!(map.smaps()?.pages("FilePmdMapped")? == 0);
    Ok(())
}

/// The setting of the system, put back when this is dropped.
struct Thp(String);

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

impl Thp {
    fn set(value: &str) -> anyhow::Result<Self> {
        let text = fs::read_to_string(THP).context(THP)?;
        let old = text
            .split(['[', ']'])
            .nth(1)
            .with_context(|| text.clone())?;
        fs::write(THP, value).context(THP)?;
        Ok(Self(old.to_owned()))
    }
}

impl Drop for Thp {
    fn drop(&mut self) {
        if let Err(error) = fs::write(THP, &self.0) {
            panic!("{THP}: {error}");
        }
    }
}

fn huge_pages_where_the_system_has_them_only() -> anyhow::Result<()> {
    for (setting, huge) in [("never", 0), ("madvise", 1), ("always", 1)] {
        let _setting = Thp::set(setting)?;
        let (region, map) = huge_region(HUGE)?;
        map.write_pages(0..HUGE);
        let info = region.info()?;
        ensure!(info.huge_faults == huge, "{setting}: {info:?}");
        let faults = if huge == 0 { HUGE / LARGE } else { 1 };
        ensure!(info.faults == faults as u64, "{setting}: {info:?}");
    }
    Ok(())
}

fn no_large_folios_for_a_process_that_wants_none() -> anyhow::Result<()> {
    in_child(|| {
        // SAFETY: It concerns this process alone.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })?;
        let region = Region::sized(2 * LARGE)?;
        let map = region.map(2 * LARGE)?;
        map.write_pages(0..2 * LARGE);
        let info = region.info()?;
        ensure!(info.faults == 2 * LARGE as u64, "{info:?}");
        Ok(())
    })
}

fn sixty_four_mebibytes_take_few_faults() -> anyhow::Result<()> {
    const PAGES: usize = 64 << 20 >> 12;
    settle()?;
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    let step = watch(&region, || map.write_pages(0..PAGES))?;
    println!("by default: {step:?}");
    ensure!(step.allocated == PAGES as u64 && step.minor <= 1100);

    drop((region, map));
    let (region, map) = huge_region(PAGES)?;
    let step = watch(&region, || map.write_pages(0..PAGES))?;
    println!("with MADV_HUGEPAGE: {step:?}");
    ensure!(step.allocated == PAGES as u64 && step.minor <= 40);
    Ok(())
}

fn long_mappings_are_aligned() -> anyhow::Result<()> {
    const BYTES: usize = HUGE * PAGE;
    let region = Region::sized(3 * HUGE)?;
    let whole = region.map(3 * HUGE)?;
    ensure!(whole.base() % BYTES == 0, "{:#x}", whole.base());
    // From elsewhere in the region, so that a huge page of it is one of the mapping.
    let rest = region.map_from(5, 2 * BYTES, RW, MapFlags::MAP_SHARED)?;
    ensure!(rest.base() % BYTES == 5 * PAGE, "{:#x}", rest.base());
    // Where mremap(2) puts one, it asks the region's own file.
    let second = remapped(&whole, 0..0, 2 * HUGE, MRemapFlags::MREMAP_MAYMOVE)?;
    ensure!(second.base() != whole.base() && second.base() % BYTES == 0);
    Ok(())
}

fn region_that_ends_within_a_huge_page() -> anyhow::Result<()> {
    const TAIL: usize = 100;
    let (region, map) = huge_region(HUGE + TAIL)?;
    map.write_pages(0..HUGE + TAIL);
    let info = region.info()?;
    ensure!(info.huge_faults == 1, "{info:?}");
    ensure!(info.resident == (HUGE + TAIL) as u64, "{info:?}");
    // By the largest that fit: six of 16 pages, and one of 4.
    ensure!(info.faults == 8, "{info:?}");
    Ok(())
}

fn second_mapping_of_a_huge_page_takes_one_fault() -> anyhow::Result<()> {
    settle()?;
    let (region, map) = huge_region(HUGE)?;
    map.write_pages(0..HUGE);
    for write in [true, false] {
        // It did not ask, but the memory is there.
        let second = region.map(HUGE)?;
        let step = watch(&region, || {
            if write {
                second.write_pages(0..HUGE);
            } else {
                second.read_pages(0..HUGE);
            }
        })?;
        ensure!((step.minor, step.allocated) == (1, 0), "{step:?}");
        ensure!(second.smaps()?.pages("FilePmdMapped")? == HUGE);
    }
    Ok(())
}

/// Makes a mapping of a huge folio that is there, and touches a page in its middle: how many faults were
/// counted as huge ones, and how many pages are mapped at once.
fn first_touch(
    region: &Region,
    flags: MapFlags,
    advice: libc::c_int,
    write: bool,
) -> anyhow::Result<(u64, usize)> {
    let map = region.map_as(HUGE * PAGE, RW, flags)?;
    // Else nobody would map it at once.
    ensure!(map.base() % (HUGE * PAGE) == 0, "{:#x}", map.base());
    map.advise(0..HUGE, advice)?;
    let before = region.info()?;
    if write {
        map.write(5 * PAGE, 1);
    } else {
        map.read(5 * PAGE);
    }
    let after = region.info()?;
    ensure!(after.faults + after.map_faults == before.faults + before.map_faults + 1);
    let huge = after.huge_faults - before.huge_faults;
    Ok((huge, map.smaps()?.pages("FilePmdMapped")?))
}

fn huge_fault_is_one_that_maps_a_huge_page() -> anyhow::Result<()> {
    let folio = Folio::new(true, &[], Nowhere)?;
    for (flags, write) in [
        (MapFlags::MAP_SHARED, true),
        (MapFlags::MAP_SHARED, false),
        (MapFlags::MAP_PRIVATE, false),
    ] {
        let found = first_touch(&folio.region, flags, libc::MADV_NORMAL, write)?;
        ensure!(found == (1, HUGE), "{flags:?}, {write}: {found:?}");
    }
    Ok(())
}

fn copy_of_a_page_is_no_huge_fault() -> anyhow::Result<()> {
    let folio = Folio::new(true, &[], Nowhere)?;
    let private = MapFlags::MAP_PRIVATE;
    let found = first_touch(&folio.region, private, libc::MADV_NORMAL, true)?;
    ensure!(found == (0, 0), "{found:?}");
    Ok(())
}

fn no_huge_fault_where_huge_pages_are_refused() -> anyhow::Result<()> {
    let folio = Folio::new(true, &[], Nowhere)?;
    let shared = MapFlags::MAP_SHARED;
    for write in [true, false] {
        let found = first_touch(&folio.region, shared, libc::MADV_NOHUGEPAGE, write)?;
        ensure!(found == (0, 0), "{write}: {found:?}");
    }
    Ok(())
}

fn no_huge_fault_for_a_process_that_wants_none() -> anyhow::Result<()> {
    const PR_THP_DISABLE_EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    let folio = Folio::new(true, &[], Nowhere)?;
    let shared = MapFlags::MAP_SHARED;
    // With the flag it wants no new ones; those that are there are mapped.
    for (disable, expected) in [(0, (0, 0)), (PR_THP_DISABLE_EXCEPT_ADVISED, (1, HUGE))] {
        in_child(|| {
            // SAFETY: It concerns this process alone.
            Errno::result(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, disable, 0, 0) })?;
            for write in [true, false] {
                let found = first_touch(&folio.region, shared, libc::MADV_NORMAL, write)?;
                ensure!(found == expected, "{disable}, {write}: {found:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn huge_page_is_unmapped_in_part() -> anyhow::Result<()> {
    let folio = Folio::new(true, &[], AtOnce)?;
    let second = folio.region.map(HUGE)?;
    second.read_pages(0..HUGE);
    folio.map.unmap(0..HUGE / 2)?;
    ensure!(second.smaps()?.pages("FilePmdMapped")? == HUGE);
    for page in HUGE / 2..HUGE {
        ensure!(folio.map.read(page * PAGE) == byte(page), "page {page}");
        ensure!(second.read(page * PAGE) == byte(page), "page {page}");
    }
    ensure!(folio.region.info()?.resident == HUGE as u64);
    Ok(())
}

fn huge_page_that_was_read_only_is_written_to() -> anyhow::Result<()> {
    let (region, map) = huge_region(HUGE)?;
    ensure!(map.read_pages(0..HUGE) == 0);
    // SAFETY: Nothing relies on its rights meanwhile.
    unsafe { mprotect(map.pointer(), map.len(), ProtFlags::PROT_READ) }?;
    // SAFETY: As above.
    unsafe { mprotect(map.pointer(), map.len(), RW) }?;
    map.write_pages(0..HUGE);
    ensure!(map.read_pages(0..HUGE) == HUGE);
    let info = region.info()?;
    ensure!(info.allocated == HUGE as u64, "{info:?}");
    ensure!(map.smaps()?.pages("FilePmdMapped")? == HUGE);
    Ok(())
}

fn guard_in_a_huge_page() -> anyhow::Result<()> {
    const MADV_GUARD_INSTALL: libc::c_int = 102;
    const MADV_GUARD_REMOVE: libc::c_int = 103;
    let folio = Folio::new(true, &[], AtOnce)?;
    folio.map.advise(10..12, MADV_GUARD_INSTALL)?;
    let table = folio.map.table()?;
    ensure!(table.matches('g').count() == 2, "{table}");
    // The others are there still, by pages.
    for page in (0..HUGE).filter(|page| !(10..12).contains(page)) {
        ensure!(folio.map.read(page * PAGE) == byte(page), "page {page}");
    }
    folio.map.advise(10..12, MADV_GUARD_REMOVE)?;
    folio.shows("without the guard", "::::::::::::::::")
}

fn large_folios_are_no_reason_to_reach_a_limit() -> anyhow::Result<()> {
    const PAGES: usize = 2 * HUGE - LARGE;
    let parent = Group::parent()?;
    let group = parent.child("tight")?;
    // What the process itself takes, and all of the region but for what is no whole folio.
    group.write("memory.max", &((PAGES + 600) * PAGE).to_string())?;
    for advice in [
        libc::MADV_NORMAL,
        libc::MADV_SEQUENTIAL,
        libc::MADV_HUGEPAGE,
    ] {
        group.run(|| {
            let region = Region::sized(PAGES)?;
            let map = region.map(PAGES)?;
            map.advise(0..PAGES, advice)?;
            map.write_pages(0..PAGES);
            ensure!(region.info()?.resident == PAGES as u64);
            Ok(())
        })?;
    }
    ensure!(group.value("memory.events", "oom_kill")? == 0);
    group.remove()?;
    parent.remove()
}
