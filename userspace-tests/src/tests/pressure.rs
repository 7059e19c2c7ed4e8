// SPDX-License-Identifier: GPL-2.0-only

//! Memory that runs short: what is unpinned goes early enough, and not much more
//! of it than it takes.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;

use crate::harness::skip;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::process::in_child;
use crate::tests::reclaim::MIB;
use crate::tests::reclaim::free_pages;
use crate::tests::reclaim::number;
use crate::tests::reclaim::occupy;
use crate::tests::transfer::pipe;
use crate::uring::Ring;

tests! {
    takes_what_is_needed @ 120 => "purge.pressure" "purge.unpinned-only",
    takes_what_is_needed_beside_swap @ 120 => "purge.pressure",
    six_hundred_megabytes_where_four_hundred_are_unpinned @ 120 => "purge.pressure",
}

/// How a region's unpinned pages lie.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// In one range, behind an eighth that stays pinned.
    One,
    /// In ranges of 15 pages, between single ones that stay pinned.
    Many,
}

impl Shape {
    fn is_pinned(self, page: usize, pages: usize) -> bool {
        match self {
            Self::One => page < pages / 8,
            Self::Many => page % 16 == 0,
        }
    }
}

/// Pages that a device holds, in the middle of the region.
const HELD: usize = 15;

/// Pages of the machine's zones together, by their name in `/proc/zoneinfo`.
fn zones(key: &str) -> anyhow::Result<usize> {
    let text = fs::read_to_string("/proc/zoneinfo").context("/proc/zoneinfo")?;
    let mut sum = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some(key) {
            sum += words.next().context("no number")?.parse::<usize>()?;
        }
    }
    Ok(sum)
}

fn oom_kills() -> anyhow::Result<usize> {
    number("/proc/vmstat", "oom_kill ")
}

/// Fills a region, unpins most of it, has a process want the memory that `wanted`
/// says, given what is free, and looks at every byte of the region thereafter. Gives
/// how many pages were purged.
fn run(pages: usize, shape: Shape, wanted: impl FnOnce(usize) -> usize) -> anyhow::Result<usize> {
    let kills = oom_kills()?;
    let region = Region::sized(pages)?;
    let map = region.map(pages)?;
    let stamp = |page: usize| 1 + (page % 250) as u8;
    for page in 0..pages {
        map.fill(page, stamp(page));
    }
    let held = pages / 2 + 1..pages / 2 + 1 + HELD;
    let ring = Ring::new()?;
    ring.register(&map, held.clone())?;
    let mut unpinned = 0;
    let mut page = 0;
    while page < pages {
        let pinned = |page: &usize| shape.is_pinned(*page, pages);
        let end = (page..pages).find(pinned).unwrap_or(pages);
        if end > page {
            region.unpin(page..end)?;
        }
        unpinned += end - page;
        page = end + (end..pages).take_while(pinned).count();
    }

    // What kswapd wants to have left is the high watermark.
    let free = zones("nr_free_pages")?;
    let wanted = wanted(free);
    let needed = (wanted + zones("high")?)
        .checked_sub(free)
        .context("it has enough without")?;
    in_child(|| occupy(wanted, false)).context("the one that wanted memory")?;
    let purged = region.info()?.purged as usize;
    println!(
        "{shape:?}: wanted {wanted} pages, {free} free, {unpinned} unpinned: \
         {needed} needed, {purged} purged",
    );
    ensure!(oom_kills()? == kills, "the OOM killer struck");
    ensure!(
        2 * purged <= 3 * needed,
        "{purged} pages purged, {needed} needed"
    );
    content_is_whole(&region, &map, shape, stamp)?;

    // Neither lost nor torn: the device has what the mapping has.
    let (mut from, to) = pipe()?;
    ensure!(ring.write_fixed(&to, &map.iovec(held.clone()))? == HELD * PAGE);
    let mut found = vec![0; HELD * PAGE];
    from.read_exact(&mut found)?;
    for (page, bytes) in held.zip(found.chunks(PAGE)) {
        ensure!(bytes == [stamp(page); PAGE], "page {page} of the device");
        ensure!(map.is_full_of(page, stamp(page)), "page {page}");
    }
    ring.unregister()?;
    Ok(purged)
}

/// Pins page by page, and asserts that each has its stamp, or was reported as
/// purged and has zeros; the latter as many as were counted by then.
fn content_is_whole(
    region: &Region,
    map: &Mapping,
    shape: Shape,
    stamp: impl Fn(usize) -> u8,
) -> anyhow::Result<()> {
    let pages = map.pages();
    let mut found = 0;
    for page in 0..pages {
        // From here on it is what it is.
        let was_purged = region.pin(page..page + 1)?;
        ensure!(
            !was_purged || !shape.is_pinned(page, pages),
            "pinned page {page} was purged"
        );
        let byte = if was_purged { 0 } else { stamp(page) };
        ensure!(
            map.is_full_of(page, byte),
            "page {page} is not full of {byte}"
        );
        found += usize::from(was_purged);
    }
    let purged = region.info()?.purged as usize;
    ensure!(
        found == purged,
        "{found} pages are gone, {purged} were counted"
    );
    Ok(())
}

/// One processor instead of two, while this lives.
struct OneProcessor;

const PROCESSOR: &str = "/sys/devices/system/cpu/cpu1/online";

impl OneProcessor {
    fn new() -> anyhow::Result<Self> {
        fs::write(PROCESSOR, "0").context(PROCESSOR)?;
        Ok(Self)
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        if let Err(error) = fs::write(PROCESSOR, "1") {
            eprintln!("{PROCESSOR}: {error}");
        }
    }
}

/// Pages of a region where little memory is left.
const REGION: usize = 160 * MIB;

/// A shape, and whether one processor has to do.
type Cell = (Shape, bool);

const ALL: &[Cell] = &[
    (Shape::One, false),
    (Shape::Many, false),
    (Shape::One, true),
    (Shape::Many, true),
];

/// Runs these, `times` times, where little memory is left, so that it takes little to
/// use it up. A process wants what is free, and pages `beyond` that.
fn matrix(
    cells: &[Cell],
    times: usize,
    beyond: impl Fn() -> anyhow::Result<isize>,
) -> anyhow::Result<()> {
    let free = free_pages()?;
    ensure!(
        free > 2 * REGION,
        "the guest has {free} pages free, too few for this test"
    );
    occupy(free - 2 * REGION, true)?;
    let mut purged = 0;
    for (shape, one) in cells.repeat(times) {
        let _one = one.then(OneProcessor::new).transpose()?;
        let beyond = beyond()?;
        purged += run(REGION, shape, |free| free.saturating_add_signed(beyond))
            .with_context(|| format!("{shape:?}, one processor: {one}"))?;
    }
    // Now and then the kernel gets by with what it has.
    ensure!(purged > 0, "nothing was purged");
    Ok(())
}

/// A kernel with checkers is slow; that it kills by chance would show elsewhere.
fn times() -> usize {
    if crate::kmemleak::present() { 1 } else { 5 }
}

fn takes_what_is_needed() -> anyhow::Result<()> {
    // Three tenths of the region are needed, as kswapd goes on up to the high watermark.
    matrix(ALL, times(), || {
        Ok((REGION * 3 / 10) as isize - zones("high")? as isize)
    })
}

/// A compressed swap device in memory, while this lives.
struct Swap;

const ZRAM: &str = "/sys/block/zram0";

impl Swap {
    fn new(bytes: usize) -> anyhow::Result<Self> {
        if !Path::new(ZRAM).exists() {
            return skip("this kernel has no CONFIG_ZRAM=y");
        }
        fs::write(format!("{ZRAM}/disksize"), bytes.to_string())?;
        let this = Self;
        // The header that mkswap(8) writes: version, last page, and the magic at the page's end.
        let mut header = [0; PAGE];
        header[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
        header[1028..1032].copy_from_slice(&(u32::try_from(bytes / PAGE)? - 1).to_ne_bytes());
        header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
        fs::File::options()
            .write(true)
            .open("/dev/zram0")?
            .write_all_at(&header, 0)?;
        // SAFETY: The path is a C string.
        Errno::result(unsafe { libc::swapon(c"/dev/zram0".as_ptr(), 0) }).context("swapon")?;
        Ok(this)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: The path is a C string.
        if let Err(error) = Errno::result(unsafe { libc::swapoff(c"/dev/zram0".as_ptr()) }) {
            eprintln!("swapoff: {error}");
        }
        let started = Instant::now();
        while let Err(error) = fs::write(format!("{ZRAM}/reset"), "1") {
            // Who looked at it last has it open for a moment.
            if started.elapsed() > Duration::from_secs(5) {
                eprintln!("{ZRAM}/reset: {error}");
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}

fn takes_what_is_needed_beside_swap() -> anyhow::Result<()> {
    let pages = 16 * MIB;
    let _swap = Swap::new(pages * PAGE)?;
    // More than there is without, down to the last page.
    let cells = [(Shape::One, true), (Shape::Many, false)];
    matrix(&cells, 1, || Ok((pages + REGION / 5) as isize))?;
    ensure!(
        number("/proc/vmstat", "pswpout ")? > 0,
        "nothing was swapped"
    );
    Ok(())
}

fn six_hundred_megabytes_where_four_hundred_are_unpinned() -> anyhow::Result<()> {
    let (unpinned, wanted) = (400 * MIB, 600 * MIB);
    // Of which regions may have half.
    let all = number("/proc/meminfo", "MemTotal")? * 1024 / PAGE;
    if all / 2 < unpinned {
        return skip("this kernel leaves too little of 1 GiB");
    }
    for (shape, one) in [
        (Shape::One, false),
        (Shape::Many, false),
        (Shape::Many, true),
    ] {
        let _one = one.then(OneProcessor::new).transpose()?;
        let purged = run(unpinned, shape, |_| wanted)
            .with_context(|| format!("{shape:?}, one processor: {one}"))?;
        ensure!(
            purged > 0,
            "{shape:?}, one processor: {one}: nothing was purged"
        );
    }
    Ok(())
}
