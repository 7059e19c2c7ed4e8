// SPDX-License-Identifier: GPL-2.0-only

//! `make bench`: what operations cost, in instructions of the guest, kernel and
//! program together.
//!
//! The machine has one processor and a clock that goes on by a nanosecond with
//! each instruction, so that it counts them. The same run gives the same numbers
//! anywhere; they are no time on any hardware.

use std::ops::Range;
use std::time::Instant;

use anyhow::ensure;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;

use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::group::Group;

/// What is compared: with few of something, and with many of it.
const FEW: usize = 16;
const MANY: usize = 4096;

/// What many may cost, where few cost 1.
const LIMIT: f64 = 2.0;

/// Instructions that `body` takes, done `times` times: the least of some tries, as a
/// timer's interrupt may be in the others.
fn instructions(times: usize, mut body: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    const TRIES: usize = 20;
    let mut least = u128::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        for _ in 0..times {
            body()?;
        }
        least = least.min(start.elapsed().as_nanos());
    }
    let clock = Instant::now().elapsed().as_nanos();
    Ok((least - clock) as f64 / times as f64)
}

/// An operation, and what it takes.
type Costs = Vec<(&'static str, f64)>;

/// What gives them, for so many of something.
type Measure = fn(usize) -> anyhow::Result<Costs>;

/// Of a region with this many ranges, each of them one page, at its far end.
fn with_ranges(count: usize) -> anyhow::Result<Costs> {
    let pages = 2 * count + 2;
    let region = Region::sized(pages)?;
    let _map = region.map(pages)?;
    for range in 0..count {
        region.unpin(2 * range..2 * range + 1)?;
    }
    let last = 2 * count - 2..2 * count - 1;
    let behind = 2 * count..2 * count + 1;
    let bytes = |pages: &Range<usize>| ((pages.start * PAGE) as u64, (pages.len() * PAGE) as u64);
    let (at, len) = bytes(&last);
    Ok(vec![
        (
            "UNPIN of a pinned page, and PIN",
            instructions(100, || {
                region.unpin(behind.clone())?;
                region.pin(behind.clone())?;
                Ok(())
            })?,
        ),
        (
            "PIN of a range, and UNPIN",
            instructions(100, || {
                region.pin(last.clone())?;
                region.unpin(last.clone())?;
                Ok(())
            })?,
        ),
        (
            "GET_PIN_STATUS",
            instructions(100, || {
                region.pinned_bytes(at as u32, len as u32)?;
                Ok(())
            })?,
        ),
        (
            "GET_RANGE_PIN_STATUS",
            instructions(100, || {
                region.pinned_wide(at, len)?;
                Ok(())
            })?,
        ),
        (
            "GET_PAGE_STATUS of one page",
            instructions(100, || {
                region.statuses(last.start as u64..last.end as u64)?;
                Ok(())
            })?,
        ),
    ])
}

/// Of one region beside as many others, each with a range that has memory.
fn with_regions(count: usize) -> anyhow::Result<Costs> {
    let others: Vec<(Region, Mapping)> = (0..count)
        .map(|_| {
            let region = Region::sized(1)?;
            let map = region.map(1)?;
            map.write_pages(0..1);
            region.unpin(0..1)?;
            Ok((region, map))
        })
        .collect::<anyhow::Result<_>>()?;
    let group = Group::parent()?;
    let own = group.child("own")?;
    const PAGES: usize = 64 << 20 >> 12;
    let region = Region::sized(PAGES)?;
    let map = region.map(PAGES)?;
    own.run(|| {
        map.write_pages(0..PAGES);
        region.unpin(0..PAGES)?;
        Ok(())
    })?;
    let purged = region.info()?.purged;
    let start = Instant::now();
    // That it was little, the kernel says in any case.
    let _ = own.write("memory.reclaim", "1M");
    let took = start.elapsed().as_nanos();
    let purged = region.info()?.purged - purged;
    ensure!(purged > 256, "{purged} pages were purged");
    for (other, _) in &others {
        ensure!(!other.pin(0..1)?, "another one was purged");
        other.unpin(0..1)?;
    }

    let one = Region::sized(1)?;
    let _map = one.map(1)?;
    let costs = vec![
        (
            "UNPIN of a pinned page, and PIN",
            instructions(100, || {
                one.unpin(0..1)?;
                one.pin(0..1)?;
                Ok(())
            })?,
        ),
        (
            "reclaim of another memory cgroup, a page",
            took as f64 / purged as f64,
        ),
    ];
    drop((region, map, others));
    own.remove()?;
    group.remove()?;
    Ok(costs)
}

/// Measures all there is, and prints it as a table.
pub fn run() -> anyhow::Result<()> {
    let descriptors = 2 * MANY as libc::rlim_t;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let mut beyond = vec![];
    println!("instructions                               {FEW:>9} {MANY:>9}  ratio");
    let with: [(&str, Measure); 2] = [("ranges", with_ranges), ("regions", with_regions)];
    for (what, measure) in with {
        println!("by {what}");
        for ((name, few), (_, many)) in measure(FEW)?.into_iter().zip(measure(MANY)?) {
            let ratio = many / few;
            println!("  {name:<41} {few:9.0} {many:9.0} {ratio:6.2}");
            if ratio > LIMIT {
                beyond.push(name);
            }
        }
    }
    ensure!(
        beyond.is_empty(),
        "more than {LIMIT} times as much with {MANY} as with {FEW}: {}",
        beyond.join(", ")
    );
    Ok(())
}
