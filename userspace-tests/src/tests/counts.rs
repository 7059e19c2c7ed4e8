// SPDX-License-Identifier: GPL-2.0-only

//! Fault counts, derived and compared exactly.
//!
//! Three numbers are watched over each step: runs of the driver's fault
//! handler, calls of its `map_pages` that were enough, and pages it allocated;
//! and beside them the minor faults that the kernel counts for the process.
//! A fault is resolved by exactly one of the first two, so their sum is the
//! number of minor faults.
//!
//! What they must be a model says (`growth.rs`). With `max_order=0` it has to
//! agree with the table of the README.

use std::fs;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MlockAllFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mlockall;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;

use crate::growth::Model;
use crate::growth::ModelMapping;
pub use crate::growth::Step;
use crate::growth::TABLE as IN_TABLE;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    first_write_allocates_what_it_touches => "map.grows",
    first_read_allocates_what_it_touches,
    backwards_takes_as_few_faults,
    touching_again_is_free,
    second_mapping_written_allocates_nothing,
    second_mapping_read_is_mapped_around,
    reads_are_as_modelled_wherever_a_mapping_lies,
    refault_after_purge_allocates_anew,
    dontneed_keeps_the_pages,
    forked_child_allocates_nothing,
    two_processes_share_what_either_allocated,
    private_write_to_a_hole_allocates_no_region_page,
    private_write_to_a_page_copies_it,
    populate_faults_as_touching_does,
    sparse_touch_allocates_what_was_touched,
    random_advice_allocates_one_page_a_fault => "map.single",
    no_huge_page_advice_allocates_one_page_a_fault => "map.single",
    sequential_advice_allocates_the_most_at_once => "map.sequential",
}

/// Pages of each region here: more than one fault-around window, no multiple
/// of it.
const N: usize = 70;

/// Order of the largest folio that the module allocates by itself: its default, unless a test has
/// loaded it with another one.
pub static MAX_ORDER: AtomicU32 = AtomicU32::new(4);

/// The order that is in force.
pub fn max_order() -> u32 {
    MAX_ORDER.load(Ordering::Relaxed)
}

impl Step {
    /// Nothing at all.
    pub const NONE: Self = Self {
        faults: 0,
        map_faults: 0,
        allocated: 0,
        minor: 0,
    };
}

/// Pages that the kernel maps around a read fault.
fn window() -> anyhow::Result<usize> {
    let bytes: usize = fs::read_to_string("/sys/kernel/debug/fault_around_bytes")
        .context("fault_around_bytes")?
        .trim()
        .parse()?;
    Ok(bytes / PAGE)
}

/// The model of a region of so many pages.
fn model(pages: usize) -> anyhow::Result<Model> {
    Ok(Model::new(pages, max_order(), window()?))
}

/// Maps the first pages of a region from page `at` of a page table on, and gives which pages they are of what
/// is returned: that goes further at both ends, so that nobody else has made these tables.
fn apart(region: &Region, pages: usize, at: usize) -> anyhow::Result<(Mapping, Range<usize>)> {
    let tables = (at + pages).div_ceil(IN_TABLE) + 1;
    let place = Mapping::reserve(tables * IN_TABLE)?;
    let first = at + (place.base() / PAGE).next_multiple_of(IN_TABLE) - place.base() / PAGE;
    region.map_onto(&place, first, 0..pages, MapFlags::MAP_FIXED)?;
    Ok((place, first..first + pages))
}

/// The model of a mapping of it.
fn modelled(model: &Model, map: &Mapping) -> ModelMapping {
    model.map(map.base() / PAGE)
}

/// No fault of the test's own shall be counted: all that this process has is
/// made resident and stays, and copies that fork left to be made are made.
pub fn settle() -> anyhow::Result<()> {
    let mut deep = [0u8; 256 << 10];
    std::hint::black_box(&mut deep);
    mlockall(MlockAllFlags::MCL_CURRENT).context("mlockall")
}

/// Runs `step` and tells what it did to `region` and to this process.
pub fn watch(region: &Region, mut step: impl FnMut()) -> anyhow::Result<Step> {
    let before = region.info()?;
    let usage_before = getrusage(UsageWho::RUSAGE_SELF)?;
    step();
    let usage_after = getrusage(UsageWho::RUSAGE_SELF)?;
    let after = region.info()?;
    Ok(Step {
        faults: after.faults - before.faults,
        map_faults: after.map_faults - before.map_faults,
        allocated: after.allocated - before.allocated,
        minor: (usage_after.minor_page_faults() - usage_before.minor_page_faults()) as u64,
    })
}

/// How often something happens when each page of a range is touched once.
#[derive(Clone, Copy)]
pub enum Times {
    /// Never.
    Never,
    /// Once for each page.
    EachPage,
    /// Once for each fault-around window, in the address space, that the range
    /// has a page in.
    EachWindow,
}

/// What touching each page of a range once must do. These rows are the table
/// of the README.
pub struct Row {
    /// Which touch it is.
    pub what: &'static str,
    /// Runs of the fault handler.
    pub faults: Times,
    /// Calls of map_pages that resolved the fault.
    pub map_faults: Times,
    /// Pages allocated.
    pub allocated: Times,
}

use Times::EachPage;
use Times::EachWindow;
use Times::Never;

const fn row(what: &'static str, faults: Times, map_faults: Times, allocated: Times) -> Row {
    Row {
        what,
        faults,
        map_faults,
        allocated,
    }
}

const FIRST_WRITE: Row = row("fresh pages, written", EachPage, Never, EachPage);
const FIRST_READ: Row = row("fresh pages, read", EachPage, Never, EachPage);
const AGAIN: Row = row("the same again", Never, Never, Never);
const SECOND_WRITE: Row = row("a second mapping, written", EachPage, Never, Never);
const SECOND_READ: Row = row("a second mapping, read", Never, EachWindow, Never);
const CHILD_WRITE: Row = row("in a forked child, written", EachPage, Never, Never);
const STRANGER_WRITE: Row = row(
    "in another process that was sent the descriptor, written",
    EachPage,
    Never,
    Never,
);
const DONTNEED_WRITE: Row = row("after `MADV_DONTNEED`, written", EachPage, Never, Never);
const DONTNEED_READ: Row = row("after `MADV_DONTNEED`, read", Never, EachWindow, Never);
const PURGED_WRITE: Row = row("after a purge, written", EachPage, Never, EachPage);
const PURGED_READ: Row = row("after a purge, read", EachPage, Never, EachPage);
const PRIVATE_HOLE: Row = row(
    "holes, through a private mapping, written",
    EachPage,
    Never,
    Never,
);
const PRIVATE_COPY: Row = row(
    "resident pages, through a private mapping, written",
    EachPage,
    Never,
    Never,
);

/// The rows in the README's order; a test stands behind each.
pub const TABLE: &[&Row] = &[
    &FIRST_WRITE,
    &FIRST_READ,
    &AGAIN,
    &SECOND_WRITE,
    &SECOND_READ,
    &CHILD_WRITE,
    &STRANGER_WRITE,
    &DONTNEED_WRITE,
    &DONTNEED_READ,
    &PURGED_WRITE,
    &PURGED_READ,
    &PRIVATE_HOLE,
    &PRIVATE_COPY,
];

/// The table as the README has it. Its last column is what the model says of a region of 64 MiB.
pub fn markdown() -> String {
    let cell = |times| match times {
        Never => "0",
        EachPage => "N",
        EachWindow => "N/16",
    };
    let mut text = String::from(
        "| N pages are touched once | handler calls | `map_pages` | pages allocated | minor faults |\n\
         |---|---|---|---|---|\n",
    );
    for row in TABLE {
        // A fault is resolved by the handler or by map_pages, never by both.
        let minor = match row.faults {
            Never => row.map_faults,
            times => times,
        };
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            row.what,
            cell(row.faults),
            cell(row.map_faults),
            cell(row.allocated),
            cell(minor)
        );
    }
    text
}

impl Row {
    /// Compares what happened when these pages of `map` were touched with what the model says; and
    /// that with this row, where each page is a folio.
    fn check(
        &self,
        found: Step,
        expected: Step,
        map: &Mapping,
        pages: Range<usize>,
    ) -> anyhow::Result<()> {
        if max_order() == 0 {
            let window = window()?;
            let first = (map.base() / PAGE + pages.start) / window;
            let last = (map.base() / PAGE + pages.end - 1) / window;
            let times = |times| match times {
                Never => 0,
                EachPage => pages.len() as u64,
                EachWindow => (last - first + 1) as u64,
            };
            let row = Step {
                faults: times(self.faults),
                map_faults: times(self.map_faults),
                allocated: times(self.allocated),
                minor: times(self.faults) + times(self.map_faults),
            };
            expect("the model", expected, row)?;
        }
        expect(self.what, found, expected)
    }
}

fn expect(what: &str, found: Step, expected: Step) -> anyhow::Result<()> {
    println!("{what}: {found:?}");
    ensure!(
        found == expected,
        "{what}: {found:?}, expected {expected:?}"
    );
    Ok(())
}

fn first_write_allocates_what_it_touches() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    let expected = model.write(&mut modelled(&model, &map), 0..N);
    let step = watch(&region, || map.write_pages(0..N))?;
    FIRST_WRITE.check(step, expected, &map, 0..N)?;
    ensure!(step.allocated == N as u64 && region.info()?.resident == N as u64);
    Ok(())
}

fn first_read_allocates_what_it_touches() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    let expected = model.read(&mut modelled(&model, &map), 0..N);
    let mut sum = 0;
    // Pages of the window that are mapped already do not resolve the fault on
    // one that has no page yet.
    let step = watch(&region, || sum = map.read_pages(0..N))?;
    FIRST_READ.check(step, expected, &map, 0..N)?;
    ensure!(sum == 0, "fresh pages are not zero");
    Ok(())
}

fn backwards_takes_as_few_faults() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    let mut modelled = modelled(&model, &map);
    let mut expected = Step::NONE;
    for page in (0..N).rev() {
        expected += model.write(&mut modelled, page..page + 1);
    }
    let step = watch(&region, || {
        for page in (0..N).rev() {
            map.write(page * PAGE, 1);
        }
    })?;
    FIRST_WRITE.check(step, expected, &map, 0..N)
}

fn touching_again_is_free() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.write_pages(0..N);
    let step = watch(&region, || {
        map.write_pages(0..N);
        map.read_pages(0..N);
    })?;
    AGAIN.check(step, Step::NONE, &map, 0..N)
}

fn second_mapping_written_allocates_nothing() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let first = region.map(N)?;
    let second = region.map(N)?;
    let mut model = model(N)?;
    model.write(&mut modelled(&model, &first), 0..N);
    first.write_pages(0..N);
    // A write fault on a shared mapping is never mapped around.
    let expected = model.write(&mut modelled(&model, &second), 0..N);
    let step = watch(&region, || second.write_pages(0..N))?;
    SECOND_WRITE.check(step, expected, &second, 0..N)
}

fn second_mapping_read_is_mapped_around() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let first = region.map(N)?;
    let (second, pages) = apart(&region, N, 0)?;
    let mut model = model(N)?;
    model.write(&mut modelled(&model, &first), 0..N);
    first.write_pages(0..N);
    let mut modelled = model.map(second.base() / PAGE + pages.start);
    let expected = model.read(&mut modelled, 0..N);
    let mut sum = 0;
    let step = watch(&region, || sum = second.read_pages(pages.clone()))?;
    SECOND_READ.check(step, expected, &second, pages)?;
    ensure!(sum == N, "the second mapping shows something else");
    Ok(())
}

/// At each place within a window, and at some where a page table ends within the mapping; without page
/// tables, then with them. A region's last folio the core treats in a way of its own.
fn reads_are_as_modelled_wherever_a_mapping_lies() -> anyhow::Result<()> {
    settle()?;
    for pages in [1, 16, N] {
        let region = Region::sized(pages)?;
        let first = region.map(pages)?;
        let mut model = model(pages)?;
        model.write(&mut modelled(&model, &first), 0..pages);
        first.write_pages(0..pages);
        for at in (0..window()?).chain((IN_TABLE - pages..IN_TABLE).step_by(3)) {
            let (map, range) = apart(&region, pages, at)?;
            let mut modelled = model.map(map.base() / PAGE + range.start);
            for tables in [false, true] {
                let what = format!("{pages} pages at page {at}, tables: {tables}");
                let expected = model.read(&mut modelled, 0..pages);
                let step = watch(&region, || {
                    map.read_pages(range.clone());
                })?;
                expect(&what, step, expected)?;
                map.advise(range.clone(), libc::MADV_DONTNEED)?;
                modelled.forget();
            }
        }
    }
    Ok(())
}

fn refault_after_purge_allocates_anew() -> anyhow::Result<()> {
    // Whole folios, whatever their size: these begin and end with one.
    const HOLE: Range<usize> = 16..48;
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    let mut modelled = modelled(&model, &map);
    for (row, write) in [(PURGED_WRITE, true), (PURGED_READ, false)] {
        model.write(&mut modelled, 0..N);
        map.write_pages(0..N);
        region.unpin(HOLE)?;
        let mut purged = 0;
        let step = watch(&region, || purged = region.purge_all().unwrap_or(0))?;
        expect("the purge itself", step, Step::NONE)?;
        ensure!(purged == HOLE.len(), "purged {purged}");
        ensure!(region.info()?.resident == (N - HOLE.len()) as u64);
        model.remove(&mut [&mut modelled], HOLE);
        // The pages around are mapped still: only the gap faults.
        let expected = match write {
            true => model.write(&mut modelled, 0..N),
            false => model.read(&mut modelled, 0..N),
        };
        let step = watch(&region, || {
            if write {
                map.write_pages(0..N);
            } else {
                map.read_pages(0..N);
            }
        })?;
        row.check(step, expected, &map, HOLE)?;
        ensure!(region.pin(0..N)?);
    }
    Ok(())
}

fn dontneed_keeps_the_pages() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    let mut modelled = modelled(&model, &map);
    model.write(&mut modelled, 0..N);
    map.stamp(0..N, 7);
    let drop_tables = || {
        // SAFETY: The content of a shared mapping stays.
        unsafe { madvise(map.pointer(), map.len(), MmapAdvise::MADV_DONTNEED) }
            .expect("MADV_DONTNEED");
    };
    expect("DONTNEED", watch(&region, drop_tables)?, Step::NONE)?;
    modelled.forget();
    let expected = model.read(&mut modelled, 0..N);
    let mut sum = 0;
    let step = watch(&region, || sum = map.read_pages(0..N))?;
    DONTNEED_READ.check(step, expected, &map, 0..N)?;
    ensure!(sum == 7 * N);
    drop_tables();
    modelled.forget();
    let expected = model.write(&mut modelled, 0..N);
    let step = watch(&region, || map.write_pages(0..N))?;
    DONTNEED_WRITE.check(step, expected, &map, 0..N)
}

fn forked_child_allocates_nothing() -> anyhow::Result<()> {
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    model.write(&mut modelled(&model, &map), 0..N);
    map.write_pages(0..N);
    let expected = model.write(&mut modelled(&model, &map), 0..N);
    // A shared mapping's page tables are not copied: the child faults anew.
    in_child(|| {
        settle_except(&map)?;
        let step = watch(&region, || map.write_pages(0..N))?;
        CHILD_WRITE.check(step, expected, &map, 0..N)
    })
}

/// As [`settle`], with nothing of `map` in the page tables.
fn settle_except(map: &Mapping) -> anyhow::Result<()> {
    settle()?;
    // SAFETY: The mapping is ours; it is unlocked only.
    unsafe { nix::sys::mman::munlock(map.pointer(), map.len()) }?;
    // SAFETY: The content of a shared mapping stays.
    unsafe { madvise(map.pointer(), map.len(), MmapAdvise::MADV_DONTNEED) }?;
    Ok(())
}

fn two_processes_share_what_either_allocated() -> anyhow::Result<()> {
    // A folio ends there, whatever their size.
    const HALF: usize = 32;
    let (here, there) = sockets()?;
    let stranger = spawn(|| {
        let region = Region::from_fd(receive_fd(&there)?);
        settle()?;
        let map = region.map(N)?;
        let mut model = model(N)?;
        // By the other process.
        model.write(&mut modelled(&model, &map), 0..HALF);
        let mut modelled = modelled(&model, &map);
        let expected = model.write(&mut modelled, 0..HALF);
        let step = watch(&region, || map.write_pages(0..HALF))?;
        STRANGER_WRITE.check(step, expected, &map, 0..HALF)?;
        let expected = model.write(&mut modelled, HALF..N);
        let step = watch(&region, || map.write_pages(HALF..N))?;
        FIRST_WRITE.check(step, expected, &map, HALF..N)
    })?;
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut model = model(N)?;
    let mut ours = modelled(&model, &map);
    model.write(&mut ours, 0..HALF);
    map.write_pages(0..HALF);
    send_fd(&here, region.as_fd())?;
    stranger.join()?;
    // By the stranger, whose mapping may lie elsewhere: it has all of the second half.
    model.write(&mut modelled(&model, &map), HALF..N);
    let expected = model.write(&mut ours, HALF..N);
    let step = watch(&region, || map.write_pages(HALF..N))?;
    STRANGER_WRITE.check(step, expected, &map, HALF..N)
}

fn private_write_to_a_hole_allocates_no_region_page() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let step = watch(&region, || map.write_pages(0..N))?;
    PRIVATE_HOLE.check(step, model(N)?.write_private(0..N), &map, 0..N)?;
    ensure!(region.info()?.resident == 0);
    let shared = region.map_as(N * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    ensure!(
        shared.read_pages(0..N) == 0,
        "a private write is seen by others"
    );
    ensure!(map.read_pages(0..N) == N, "a private write is lost");
    Ok(())
}

fn private_write_to_a_page_copies_it() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let shared = region.map(N)?;
    shared.stamp(0..N, 9);
    let map = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    let step = watch(&region, || map.write_pages(0..N))?;
    PRIVATE_COPY.check(step, model(N)?.write_private(0..N), &map, 0..N)?;
    ensure!(
        map.read(PAGE - 1) == 9,
        "the copy is not the region's content"
    );
    ensure!(shared.read(0) == 9, "the copy is the region");
    Ok(())
}

fn populate_faults_as_touching_does() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let mut map = None;
    let step = watch(&region, || {
        map = region
            .map_as(N * PAGE, RW, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE)
            .ok();
    })?;
    let map = map.context("mmap")?;
    let mut model = model(N)?;
    let expected = model.write(&mut modelled(&model, &map), 0..N);
    // One by one, as by touching; the kernel counts them for the process.
    FIRST_WRITE.check(step, expected, &map, 0..N)?;
    let step = watch(&region, || map.write_pages(0..N))?;
    AGAIN.check(step, Step::NONE, &map, 0..N)
}

/// Touches each page of a fresh mapping with this advice, in sequence, and compares with the model.
fn advised(advice: libc::c_int, mut model: Model) -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.advise(0..N, advice)?;
    let expected = model.write(&mut modelled(&model, &map), 0..N);
    let step = watch(&region, || map.write_pages(0..N))?;
    expect("advised", step, expected)
}

fn random_advice_allocates_one_page_a_fault() -> anyhow::Result<()> {
    advised(libc::MADV_RANDOM, Model::new(N, 0, 1))
}

fn no_huge_page_advice_allocates_one_page_a_fault() -> anyhow::Result<()> {
    advised(libc::MADV_NOHUGEPAGE, Model::new(N, 0, 1))
}

fn sequential_advice_allocates_the_most_at_once() -> anyhow::Result<()> {
    advised(libc::MADV_SEQUENTIAL, model(N)?.sequential())
}

fn sparse_touch_allocates_what_was_touched() -> anyhow::Result<()> {
    settle()?;
    let pages = 16 * 1024;
    let touched = (pages / 64) as u64;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    let step = watch(&region, || {
        for page in (0..pages).step_by(64) {
            map.write(page * PAGE, 1);
        }
    })?;
    let expected = Step {
        faults: touched,
        map_faults: 0,
        allocated: touched,
        minor: touched,
    };
    expect("every 64th", step, expected)
}
