// SPDX-License-Identifier: GPL-2.0-only

//! Whether what the driver does costs more where there are many ranges, or many regions.

use std::ops::Range;

use anyhow::ensure;
use ashmem_figures::Growth;
use ashmem_figures::Line;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;

use super::clock;
use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::group::Group;

/// What is compared: with few of something, and with many of it.
const FEW: usize = 16;
const MANY: usize = 4096;

/// What many may cost, where few cost 1.
const LIMIT: f64 = 2.0;

/// An operation, and what it takes.
type Costs = Vec<(&'static str, f64)>;

/// What gives them, for so many of something.
type Measure = fn(usize) -> anyhow::Result<Costs>;

/// A region with many ranges, each of them one page.
pub struct Ranges {
    region: Region,
    /// The last one.
    last: Range<usize>,
    /// A pinned page behind it.
    behind: Range<usize>,
    _map: Mapping,
}

impl Ranges {
    /// With so many.
    pub fn new(count: usize) -> anyhow::Result<Self> {
        let pages = 2 * count + 2;
        let region = Region::sized(pages)?;
        let map = region.map(pages)?;
        for range in 0..count {
            region.unpin(2 * range..2 * range + 1)?;
        }
        Ok(Self {
            region,
            last: 2 * count - 2..2 * count - 1,
            behind: 2 * count..2 * count + 1,
            _map: map,
        })
    }

    fn last_in_bytes(&self) -> (u64, u64) {
        let (start, len) = (self.last.start, self.last.len());
        ((start * PAGE) as u64, (len * PAGE) as u64)
    }

    /// UNPIN of the page behind them, and PIN.
    fn unpin_and_pin(&self) -> anyhow::Result<()> {
        self.region.unpin(self.behind.clone())?;
        self.region.pin(self.behind.clone())?;
        Ok(())
    }

    /// PIN of the last range, and UNPIN.
    pub fn pin_and_unpin(&self) -> anyhow::Result<()> {
        self.region.pin(self.last.clone())?;
        self.region.unpin(self.last.clone())?;
        Ok(())
    }

    /// GET_PIN_STATUS of the last range.
    pub fn status(&self) -> anyhow::Result<()> {
        let (at, len) = self.last_in_bytes();
        ensure!(!self.region.pinned_bytes(at as u32, len as u32)?);
        Ok(())
    }

    /// GET_RANGE_PIN_STATUS of the last range.
    fn wide_status(&self) -> anyhow::Result<()> {
        let (at, len) = self.last_in_bytes();
        ensure!(!self.region.pinned_wide(at, len)?);
        Ok(())
    }

    /// GET_PAGE_STATUS of the last range.
    fn page_status(&self) -> anyhow::Result<()> {
        let (start, end) = (self.last.start, self.last.end);
        self.region.statuses(start as u64..end as u64)?;
        Ok(())
    }
}

/// Of a region with this many ranges, at its far end.
fn with_ranges(count: usize) -> anyhow::Result<Costs> {
    let ranges = Ranges::new(count)?;
    type Call = fn(&Ranges) -> anyhow::Result<()>;
    let calls: [(&str, Call); 5] = [
        ("UNPIN of a pinned page, and PIN", Ranges::unpin_and_pin),
        ("PIN of a range, and UNPIN", Ranges::pin_and_unpin),
        ("GET_PIN_STATUS", Ranges::status),
        ("GET_RANGE_PIN_STATUS", Ranges::wide_status),
        ("GET_PAGE_STATUS of one page", Ranges::page_status),
    ];
    calls
        .into_iter()
        .map(|(name, call)| Ok((name, clock::least(100, || call(&ranges))?)))
        .collect()
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
    let start = clock::own();
    // That it was little, the kernel says in any case.
    let _ = own.write("memory.reclaim", "1M");
    let took = clock::since(start, clock::own);
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
            clock::least(100, || {
                one.unpin(0..1)?;
                one.pin(0..1)?;
                Ok(())
            })?,
        ),
        (
            "reclaim of another memory cgroup, a page",
            clock::rounded(took / purged as f64),
        ),
    ];
    drop((region, map, others));
    own.remove()?;
    group.remove()?;
    Ok(costs)
}

/// Measures all there is.
pub fn measure() -> anyhow::Result<Growth> {
    let descriptors = 2 * MANY as libc::rlim_t;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let mut lines = vec![];
    let with: [(&str, Measure); 2] = [("ranges", with_ranges), ("regions", with_regions)];
    for (by, measure) in with {
        for ((name, few), (_, many)) in measure(FEW)?.into_iter().zip(measure(MANY)?) {
            lines.push(Line {
                by: by.into(),
                name: name.into(),
                few,
                many,
            });
        }
    }
    Ok(Growth {
        few: FEW,
        many: MANY,
        lines,
    })
}

/// An error if something costs too much among many.
pub fn judge(growth: &Growth) -> anyhow::Result<()> {
    let beyond: Vec<_> = growth
        .lines
        .iter()
        .filter(|line| line.ratio() > LIMIT)
        .map(|line| line.name.as_str())
        .collect();
    ensure!(
        beyond.is_empty(),
        "more than {LIMIT} times as much with {MANY} as with {FEW}: {}",
        beyond.join(", ")
    );
    Ok(())
}
