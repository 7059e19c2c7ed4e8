// SPDX-License-Identifier: GPL-2.0-only

//! Fault counts, derived and compared exactly.
//!
//! Three numbers are watched over each step: runs of the driver's fault
//! handler, calls of its `map_pages` that were enough, and pages it allocated;
//! and beside them the minor faults that the kernel counts for the process.
//! A fault is resolved by exactly one of the first two, so their sum is the
//! number of minor faults.

use std::fs;
use std::ops::Range;

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

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::in_child;

tests! {
    first_write_allocates_one_page_a_fault,
    first_read_allocates_one_page_a_fault,
    touching_again_is_free,
    second_mapping_written_allocates_nothing,
    second_mapping_read_is_mapped_around,
    refault_after_purge_allocates_anew,
    dontneed_keeps_the_pages,
    forked_child_allocates_nothing,
    two_processes_share_what_either_allocated,
    private_write_to_a_hole_allocates_no_region_page,
    private_write_to_a_page_copies_it,
    populate_faults_as_touching_does,
    sparse_touch_allocates_what_was_touched,
}

/// Pages of each region here: more than one fault-around window, no multiple
/// of it.
const N: usize = 70;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Runs of the fault handler.
    pub faults: u64,
    /// Calls of map_pages that resolved the fault.
    pub map_faults: u64,
    /// Pages allocated.
    pub allocated: u64,
    /// Minor faults of this process.
    pub minor: u64,
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

/// Each fault handled by the handler, for `pages` pages of which `allocated`
/// were not there.
fn handled(pages: usize, allocated: usize) -> Step {
    Step {
        faults: pages as u64,
        map_faults: 0,
        allocated: allocated as u64,
        minor: pages as u64,
    }
}

/// Each fault resolved by the pages around: as many as there are windows, in
/// the address space, over these pages of the mapping.
fn mapped_around(map: &Mapping, pages: Range<usize>) -> anyhow::Result<Step> {
    let window: usize = fs::read_to_string("/sys/kernel/debug/fault_around_bytes")
        .context("fault_around_bytes")?
        .trim()
        .parse()?;
    let first = (map.base() + pages.start * PAGE) / window;
    let last = (map.base() + pages.end * PAGE - 1) / window;
    let windows = (last - first + 1) as u64;
    Ok(Step {
        faults: 0,
        map_faults: windows,
        allocated: 0,
        minor: windows,
    })
}

fn expect(what: &str, found: Step, expected: Step) -> anyhow::Result<()> {
    println!("{what}: {found:?}");
    ensure!(
        found == expected,
        "{what}: {found:?}, expected {expected:?}"
    );
    Ok(())
}

fn first_write_allocates_one_page_a_fault() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    expect(
        "write",
        watch(&region, || map.write_pages(0..N))?,
        handled(N, N),
    )?;
    ensure!(region.info()?.resident == N as u64);
    Ok(())
}

fn first_read_allocates_one_page_a_fault() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    let mut sum = 0;
    // Pages of the window that are mapped already do not resolve the fault on
    // one that has no page yet.
    expect(
        "read",
        watch(&region, || sum = map.read_pages(0..N))?,
        handled(N, N),
    )?;
    ensure!(sum == 0, "fresh pages are not zero");
    Ok(())
}

fn touching_again_is_free() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.write_pages(0..N);
    expect(
        "again",
        watch(&region, || {
            map.write_pages(0..N);
            map.read_pages(0..N);
        })?,
        Step::NONE,
    )
}

fn second_mapping_written_allocates_nothing() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let first = region.map(N)?;
    let second = region.map(N)?;
    first.write_pages(0..N);
    // A write fault on a shared mapping is never mapped around.
    expect(
        "second",
        watch(&region, || second.write_pages(0..N))?,
        handled(N, 0),
    )
}

fn second_mapping_read_is_mapped_around() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let first = region.map(N)?;
    let second = region.map(N)?;
    first.write_pages(0..N);
    let mut sum = 0;
    expect(
        "second",
        watch(&region, || sum = second.read_pages(0..N))?,
        mapped_around(&second, 0..N)?,
    )?;
    ensure!(sum == N, "the second mapping shows something else");
    // The page tables map them read-only no more than they must: a write now
    // is no fault, as there is nothing to be told of it.
    Ok(())
}

fn refault_after_purge_allocates_anew() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.write_pages(0..N);
    region.unpin(10..30)?;
    let mut purged = 0;
    expect(
        "purge",
        watch(&region, || purged = region.purge_all().unwrap_or(0))?,
        Step::NONE,
    )?;
    ensure!(purged == 20, "purged {purged}");
    ensure!(region.info()?.resident == N as u64 - 20);
    expect(
        "refault",
        watch(&region, || map.write_pages(0..N))?,
        handled(20, 20),
    )
}

fn dontneed_keeps_the_pages() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.stamp(0..N, 7);
    let drop_tables = || {
        // SAFETY: The content of a shared mapping stays.
        unsafe { madvise(map.pointer(), map.len(), MmapAdvise::MADV_DONTNEED) }
            .expect("MADV_DONTNEED");
    };
    expect("DONTNEED", watch(&region, drop_tables)?, Step::NONE)?;
    let mut sum = 0;
    expect(
        "read",
        watch(&region, || sum = map.read_pages(0..N))?,
        mapped_around(&map, 0..N)?,
    )?;
    ensure!(sum == 7 * N);
    drop_tables();
    expect(
        "write",
        watch(&region, || map.write_pages(0..N))?,
        handled(N, 0),
    )
}

fn forked_child_allocates_nothing() -> anyhow::Result<()> {
    let region = Region::sized(N)?;
    let map = region.map(N)?;
    map.write_pages(0..N);
    // A shared mapping's page tables are not copied: the child faults anew.
    in_child(|| {
        settle_except(&map)?;
        expect(
            "child",
            watch(&region, || map.write_pages(0..N))?,
            handled(N, 0),
        )
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
    let region = Region::sized(N)?;
    in_child(|| {
        settle()?;
        let map = region.map(N)?;
        expect(
            "the first half, elsewhere",
            watch(&region, || map.write_pages(0..N / 2))?,
            handled(N / 2, N / 2),
        )
    })?;
    settle()?;
    let map = region.map(N)?;
    expect(
        "all of it, here",
        watch(&region, || map.write_pages(0..N))?,
        handled(N, N - N / 2),
    )
}

fn private_write_to_a_hole_allocates_no_region_page() -> anyhow::Result<()> {
    settle()?;
    let region = Region::sized(N)?;
    let map = region.map_as(N * PAGE, RW, MapFlags::MAP_PRIVATE)?;
    expect(
        "private",
        watch(&region, || map.write_pages(0..N))?,
        handled(N, 0),
    )?;
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
    expect(
        "private",
        watch(&region, || map.write_pages(0..N))?,
        handled(N, 0),
    )?;
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
    // One by one, as by touching; the kernel counts them for the process.
    expect("populate", step, handled(N, N))?;
    let map = map.context("mmap")?;
    expect(
        "touch",
        watch(&region, || map.write_pages(0..N))?,
        Step::NONE,
    )
}

fn sparse_touch_allocates_what_was_touched() -> anyhow::Result<()> {
    settle()?;
    let pages = 16 * 1024;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    let step = watch(&region, || {
        for page in (0..pages).step_by(64) {
            map.write(page * PAGE, 1);
        }
    })?;
    expect("every 64th", step, handled(pages / 64, pages / 64))
}
