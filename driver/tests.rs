// SPDX-License-Identifier: GPL-2.0-only

//! KUnit tests of regions and of the order of what they unpinned, in the real page cache.
//!
//! What user space can see is tested from there; see `userspace-tests/`.

use crate::{
    glue::{
        pseudo_file::{
            Mount,
            PseudoFileOperations, //
        },
        shrinker::{
            Pressure,
            Registration, //
        },
        tests::{
            ensure,
            ensure_eq,
            flush_files,
            for_idle_shrinker,
            DmaPin,
            Idle,
            InodeRef, //
        }, //
    },
    lru::{
        Key,
        List,
        Lru,
        Node, //
    },
    policy::page_range::PageRange,
    region::{
        populated,
        Claim,
        How,
        Huge,
        PopulateError,
        Region,
        RegionFile,
        RegionLru,
        Shared,
        Taken, //
    },
    uapi, //
};
use core::ops::{
    Deref,
    Range, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

#[kunit_tests(ashmem_lru)]
mod lru {
    use super::*;

    /// Ranges of regions that are numbers.
    fn new() -> Result<Registration<Idle<Arc<Lru<usize>>>>> {
        for_idle_shrinker(|id| Lru::new(c"ashmem_kunit", id))
    }

    fn key(age: u64, start: usize) -> Key {
        Key { age, start }
    }

    fn node() -> Result<Option<Node<usize>>> {
        Ok(Some(Node::new(GFP_KERNEL)?))
    }

    #[test]
    fn ranges_are_walked_from_the_oldest_on() -> Result {
        // In the order in which they are listed; each names its place in the walk.
        const LISTED: [(List, u64, usize, usize); 6] = [
            (List::Live, 7, 0, 4),
            (List::Live, 3, 8, 2),
            (List::Idle, 5, 0, 3),
            (List::Live, 3, 2, 1),
            (List::Idle, 1, 9, 0),
            (List::Live, u64::MAX, usize::MAX - 1, 5),
        ];
        let registration = new()?;
        let lru = &registration.shrinker().0;
        let queue = lru.queue()?;

        ensure!(queue.next(None).is_none());
        for (list, age, start, at) in LISTED {
            let mut node = node()?;
            queue.relist(&mut node, None, Some((list, key(age, start))), &at);
            // It took the memory.
            ensure!(node.is_none());
        }
        let mut after = None;
        for place in 0..LISTED.len() {
            let Some((key, at)) = queue.next(after) else {
                return Err(ENOENT);
            };
            ensure_eq!(at, place);
            after = Some(key);
        }
        ensure!(queue.next(after).is_none());
        after = None;
        for place in [1, 2, 4, 5] {
            let Some((key, at)) = queue.next_live(after) else {
                return Err(ENOENT);
            };
            ensure_eq!(at, place);
            after = Some(key);
        }
        ensure!(queue.next_live(after).is_none());
        // A key that is gone is a place all the same.
        ensure!(matches!(queue.next(Some(key(3, 4))), Some((_, 2))));
        Ok(())
    }

    #[test]
    fn range_is_moved_between_the_lists() -> Result {
        let registration = new()?;
        let lru = &registration.shrinker().0;
        let queue = lru.queue()?;
        let mut node = node()?;
        let (live, idle) = ((List::Live, key(3, 1)), (List::Idle, key(3, 1)));

        queue.relist(&mut node, None, Some(idle), &9);
        ensure!(queue.next_live(None).is_none());
        ensure!(matches!(queue.next(None), Some((_, 9))));
        queue.relist(&mut node, Some(idle), Some(live), &9);
        ensure!(matches!(queue.next_live(None), Some((_, 9))));
        // To another place of the same list.
        queue.relist(&mut node, Some(live), Some((List::Live, key(3, 4))), &9);
        ensure!(matches!(queue.next(None), Some((Key { start: 4, .. }, 9))));
        ensure!(node.is_none());
        // Gone, and its memory is back.
        queue.relist(&mut node, Some((List::Live, key(3, 4))), None, &9);
        ensure!(queue.next(None).is_none());
        ensure!(node.is_some());
        Ok(())
    }

    #[test]
    fn queue_is_found_while_it_has_live_pages() -> Result {
        let registration = new()?;
        let lru = &registration.shrinker().0;
        let queue = lru.queue()?;
        let number = queue.number();
        let root = Pressure::root();
        let found = |but: &[u64]| {
            let here = lru.oldest(Some(&root), but).map(|queue| queue.number());
            let all = lru.oldest(None, but).map(|queue| queue.number());
            (here, all)
        };

        ensure_eq!(found(&[]), (None, None));
        ensure_eq!(lru.pages(&root), 0);
        queue.relist(&mut node()?, None, Some((List::Live, key(0, 0))), &1);
        queue.live_changed(0, 5);
        ensure_eq!(lru.pages(&root), 5);
        ensure_eq!(found(&[]), (Some(number), Some(number)));
        ensure_eq!(found(&[number]), (None, None));
        queue.live_changed(5, 3);
        ensure_eq!(lru.pages(&root), 3);
        queue.live_changed(3, 0);
        ensure_eq!(lru.pages(&root), 0);
        // Off the list now, but not forgotten.
        ensure_eq!(found(&[]), (None, Some(number)));
        queue.live_changed(0, 1);
        ensure_eq!(lru.pages(&root), 1);
        ensure_eq!(found(&[]), (Some(number), Some(number)));
        Ok(())
    }

    #[test]
    fn later_is_older_than_nothing_before() -> Result {
        let registration = new()?;
        let lru = &registration.shrinker().0;
        let first = lru.now();

        ensure!(lru.now() > first);
        Ok(())
    }
}

/// Pages of a region in these tests.
const PAGES: usize = 16;

/// A region as the device's file has it, with the last descriptor.
struct OpenRegion(Arc<Region>);

impl Deref for OpenRegion {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.0
    }
}

impl Drop for OpenRegion {
    fn drop(&mut self) {
        // The region and its file hold each other until then.
        self.0.close();
    }
}

/// What the regions of a test share: a list of their own, which nobody reclaims from.
struct Regions {
    shared: Arc<Shared>,
    _shrinker: Registration<Idle<Arc<RegionLru>>>,
    /// Populated pages that are none of theirs.
    before: usize,
}

impl Regions {
    fn new(max_pages: usize) -> Result<Self> {
        let shrinker = for_idle_shrinker(|id| RegionLru::new(c"ashmem_kunit", id))?;
        let before = populated();
        let shared = Shared {
            mount: Mount::pin()?,
            lru: shrinker.shrinker().0.clone(),
            max_pages: before + max_pages,
            strict_unpin: false,
            max_order: 4,
            huge: Huge::Advise,
        };
        Ok(Self {
            shared: Arc::new(shared, GFP_KERNEL)?,
            _shrinker: shrinker,
            before,
        })
    }

    /// A region of [`PAGES`] pages, and its file, as a mapping has it.
    fn frozen(&self) -> Result<(OpenRegion, RegionFile)> {
        let region = OpenRegion(Region::new(self.shared.clone())?);
        region.set_size(PAGES * PAGE_SIZE)?;
        let file = region.0.as_arc_borrow().freeze_unmapped()?;
        Ok((region, file))
    }

    fn populated(&self) -> isize {
        populated() as isize - self.before as isize
    }

    /// The queue's oldest live range, claimed.
    fn claim(&self) -> Option<Claim> {
        let (key, file) = self.shared.lru.oldest(None, &[])?.next_live(None)?;
        Claim::new(file, key, false)
    }

    /// Purges what there is of that range.
    fn purge(&self, how: How) -> Option<Taken> {
        Some(self.claim()?.purge(&mut 0, 100, usize::MAX, how))
    }

    /// Whether every region is gone, with all its pages.
    fn all_gone(self) -> bool {
        flush_files();
        // Each of them has a reference.
        self.populated() == 0 && Arc::into_unique_or_drop(self.shared).is_some()
    }
}

/// Calls `f` with a region of [`PAGES`] pages, of which so many may have memory; it shall go
/// thereafter.
fn with_region(
    max_pages: usize,
    f: impl FnOnce(&Regions, &Region, &RegionFile) -> Result,
) -> Result {
    let regions = Regions::new(max_pages)?;
    let (region, file) = regions.frozen()?;
    let result = f(&regions, &region, &file);

    drop((region, file));
    result?;
    ensure!(regions.all_gone());
    Ok(())
}

fn pages(region: &Region, pages: Range<usize>) -> Result<PageRange> {
    let [offset, len] = [pages.start, pages.len()].map(|n| (n * PAGE_SIZE) as u64);
    region.range(offset, len, u64::MAX)
}

/// Gives these pages memory.
fn populate(file: &RegionFile, pages: Range<usize>) -> Result {
    for page in pages {
        drop(file.populate(file.mapping(), page, 0).map_err(|_| ENOMEM)?);
    }
    Ok(())
}

/// Gives [`PAGES`] pages memory, by one folio.
fn populate_at_once(file: &RegionFile) -> Result {
    let folio = file.populate(file.mapping(), 0, 4).map_err(|_| ENOMEM)?;
    ensure_eq!(folio.pages().len(), PAGES);
    Ok(())
}

/// Whether the region notes that exactly these pages have memory, and the page cache agrees.
fn has(file: &RegionFile, wanted: &[usize]) -> Result<bool> {
    let mut bytes = [0; PAGES];
    let mut all = pages(file, 0..PAGES)?;
    file.page_status(&mut all, &mut bytes);
    let noted = |page: usize| bytes[page] & uapi::PAGE_RESIDENT != 0;

    Ok((0..PAGES).all(|page| {
        let there = file.mapping().folio(page).is_some();
        there == noted(page) && there == wanted.contains(&page)
    }) && file.mapping().nr_pages() == wanted.len()
        && file.info().resident == wanted.len())
}

#[kunit_tests(ashmem_region)]
mod region {
    use super::*;

    #[test]
    fn populated_page_is_locked_and_counted() -> Result {
        with_region(PAGES, |regions, region, file| {
            let Ok(folio) = region.populate(file.mapping(), 5, 0) else {
                return Err(ENOMEM);
            };
            ensure_eq!(folio.index(), 5);
            ensure!(file.mapping().try_lock_folio(5).is_none());
            drop(folio);
            ensure!(file.mapping().try_lock_folio(5).is_some());
            ensure!(has(file, &[5])?);
            ensure_eq!(regions.populated(), 1);
            ensure_eq!(region.counters.allocated.get(), 1);

            // Somebody was faster.
            let again = region.populate(file.mapping(), 5, 0);
            ensure!(matches!(again, Err(PopulateError::Exists)));
            ensure!(has(file, &[5])?);
            ensure_eq!(regions.populated(), 1);
            ensure_eq!(region.counters.allocated.get(), 1);
            Ok(())
        })
    }

    #[test]
    fn limit_is_met_exactly() -> Result {
        with_region(3, |regions, region, file| {
            populate(file, 0..3)?;
            let more = region.populate(file.mapping(), 3, 0);
            ensure!(matches!(more, Err(PopulateError::Limit)));
            ensure_eq!(regions.populated(), 3);
            ensure!(has(file, &[0, 1, 2])?);
            // One goes, one comes.
            Region::punch_hole(file, 1, 2);
            ensure_eq!(regions.populated(), 2);
            populate(file, 3..4)?;
            ensure!(has(file, &[0, 2, 3])?);
            ensure_eq!(regions.populated(), 3);
            Ok(())
        })
    }

    #[test]
    fn hole_takes_its_pages_and_no_others() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate(file, 2..8)?;
            populate(file, 12..13)?;
            region.unpin(pages(region, 0..6)?)?;
            Region::punch_hole(file, 4, 12);
            ensure!(has(file, &[2, 3, 12])?);
            ensure_eq!(regions.populated(), 3);
            // Of the unpinned ones, two could be purged still.
            ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 2);
            ensure_eq!(region.counters.purged.get(), 0);
            Ok(())
        })
    }

    #[test]
    fn purge_frees_as_many_as_wanted() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate(file, 0..8)?;
            region.unpin(pages(region, 2..10)?)?;
            ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 6);
            let claim = regions.claim().ok_or(ENOENT)?;
            let mut from = 0;
            ensure_eq!(claim.purge(&mut from, 0, 0, How::Reclaim).freed, 0);
            ensure!(has(file, &[0, 1, 2, 3, 4, 5, 6, 7])?);
            ensure_eq!(claim.purge(&mut from, 4, 0, How::Reclaim).freed, 4);
            ensure!(has(file, &[0, 1, 6, 7])?);
            // Somebody else may claim it too, and finds what is left.
            let other = regions.claim().ok_or(ENOENT)?;
            ensure_eq!(other.purge(&mut 0, 1, 0, How::Reclaim).freed, 1);
            ensure!(has(file, &[0, 1, 7])?);
            drop(other);
            ensure_eq!(regions.populated(), 3);
            ensure_eq!(claim.purge(&mut from, 100, 0, How::Reclaim).freed, 1);
            ensure_eq!(claim.purge(&mut from, 100, 0, How::Reclaim).freed, 0);
            ensure!(has(file, &[0, 1])?);
            ensure_eq!(regions.populated(), 2);
            ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 0);
            ensure_eq!(region.counters.purged.get(), 6);
            drop(claim);
            ensure!(regions.claim().is_none());
            ensure!(!region.pin(pages(region, 8..10)?)?);
            ensure!(region.pin(pages(region, 0..8)?)?);
            Ok(())
        })
    }

    #[test]
    fn what_a_device_has_stays() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate(file, 0..4)?;
            let folio = file.mapping().folio(2).ok_or(ENOENT)?;
            let device = DmaPin::new(&folio);
            drop(folio);
            region.unpin(pages(region, 0..4)?)?;
            let purged = regions.purge(How::Reclaim).map(|taken| taken.freed);
            ensure_eq!(purged, Some(3));
            ensure!(has(file, &[2])?);
            ensure_eq!(regions.populated(), 1);
            ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 1);

            drop(device);
            let purged = regions.purge(How::Reclaim).map(|taken| taken.freed);
            ensure_eq!(purged, Some(1));
            ensure!(has(file, &[])?);
            ensure_eq!(regions.populated(), 0);
            Ok(())
        })
    }

    #[test]
    fn purge_that_must_not_wait_leaves_what_is_locked() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate(file, 0..4)?;
            region.unpin(pages(region, 0..4)?)?;
            let locked = file.mapping().lock_folio(1);
            let purged = regions.purge(How::Reclaim).map(|taken| taken.freed);
            ensure_eq!(purged, Some(3));
            drop(locked);
            ensure!(has(file, &[1])?);
            ensure_eq!(regions.populated(), 1);
            Ok(())
        })
    }

    #[test]
    fn folio_that_is_unpinned_whole_is_purged_at_once() -> Result {
        // In one range, and in several.
        for ranges in [&[0..16][..], &[0..3, 3..4, 4..16][..]] {
            with_region(PAGES, |regions, region, file| {
                populate_at_once(file)?;
                for range in ranges {
                    region.unpin(pages(region, range.clone())?)?;
                }
                let taken = regions.purge(How::Reclaim).ok_or(ENOENT)?;
                ensure_eq!((taken.freed, taken.left), (PAGES, 0));
                ensure!(has(file, &[])?);
                ensure_eq!(regions.populated(), 0);
                ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 0);
                // Nothing is claimed any more, or this would wait for ever.
                for range in ranges {
                    ensure!(region.pin(pages(region, range.clone())?)?);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    #[test]
    fn part_of_a_folio_is_left_by_reclaim_and_split_off_by_others() -> Result {
        for part in [0..1, 0..8, 1..15, 3..4, 4..10, 8..16, 15..16] {
            with_region(PAGES, |regions, region, file| {
                populate_at_once(file)?;
                region.unpin(pages(region, part.clone())?)?;
                let taken = regions.purge(How::Reclaim).ok_or(ENOENT)?;
                ensure_eq!((taken.freed, taken.left), (0, part.len()));
                ensure_eq!(file.mapping().nr_pages(), PAGES);

                let taken = regions.purge(How::AnyProcess).ok_or(ENOENT)?;
                ensure_eq!((taken.freed, taken.left), (part.len(), 0));
                let mut left = KVec::new();
                for page in (0..PAGES).filter(|page| !part.contains(page)) {
                    left.push(page, GFP_KERNEL)?;
                }
                ensure!(has(file, &left)?);
                ensure_eq!(regions.populated(), left.len() as isize);
                ensure_eq!(region.counters.purged.get(), part.len() as u64);
                ensure!(region.pin(pages(region, part.clone())?)?);
                Ok(())
            })?;
        }
        Ok(())
    }

    #[test]
    fn folio_that_somebody_holds_is_not_split() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate_at_once(file)?;
            region.unpin(pages(region, 4..8)?)?;
            let folio = file.mapping().folio(2).ok_or(ENOENT)?;
            let taken = regions.purge(How::AnyProcess).ok_or(ENOENT)?;
            ensure_eq!((taken.freed, taken.left), (0, 4));
            drop(folio);
            ensure_eq!(file.mapping().nr_pages(), PAGES);
            ensure!(!region.pin(pages(region, 4..8)?)?);
            Ok(())
        })
    }

    #[test]
    fn hole_in_a_folio_takes_its_pages_and_no_others() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate_at_once(file)?;
            region.unpin(pages(region, 2..6)?)?;
            Region::punch_hole(file, 5, 11);
            ensure!(has(file, &[0, 1, 2, 3, 4, 11, 12, 13, 14, 15])?);
            ensure_eq!(regions.populated(), 10);
            ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 3);
            Ok(())
        })
    }

    #[test]
    fn hole_in_a_folio_that_somebody_holds_keeps_its_memory() -> Result {
        with_region(PAGES, |regions, region, file| {
            populate_at_once(file)?;
            region.unpin(pages(region, 2..6)?)?;
            let held = file.mapping().folio(12).ok_or(ENOENT)?;
            Region::punch_hole(file, 5, 11);
            drop(held);
            ensure_eq!(regions.populated(), PAGES as isize);
            ensure_eq!(regions.shared.lru.pages(&Pressure::root()), 4);
            ensure_eq!(file.mapping().nr_pages(), PAGES);
            Ok(())
        })
    }

    #[test]
    fn limit_is_for_all_pages_of_a_folio() -> Result {
        with_region(PAGES - 1, |regions, region, file| {
            let more = region.populate(file.mapping(), 0, 4);
            ensure!(matches!(more, Err(PopulateError::Limit)));
            ensure_eq!(regions.populated(), 0);
            ensure!(has(file, &[])?);
            Ok(())
        })
    }

    #[test]
    fn region_lives_as_long_as_its_mappings() -> Result {
        let regions = Regions::new(PAGES)?;
        let (region, mapped) = regions.frozen()?;
        let inode = InodeRef::new(mapped.mapping())?;

        populate(&mapped, 0..4)?;
        region.unpin(pages(&region, 0..4)?)?;
        drop(region);
        flush_files();
        ensure_eq!(inode.others(), 1);
        ensure_eq!(mapped.mapping().nr_pages(), 4);
        // Nobody can pin any more: nothing of it is listed, nor is its queue there.
        ensure!(mapped.is_pinned(PageRange::whole(PAGES)));
        ensure!(regions.shared.lru.next_queue(None).is_none());
        // A fault finds its pages, and may add to them.
        populate(&mapped, 4..5)?;
        ensure_eq!(regions.populated(), 5);

        drop(mapped);
        flush_files();
        ensure_eq!(inode.others(), 0);
        ensure_eq!(regions.populated(), 5);
        drop(inode);
        ensure_eq!(regions.populated(), 0);
        ensure!(regions.all_gone());
        Ok(())
    }

    #[test]
    fn region_goes_with_its_descriptor_if_it_is_not_mapped() -> Result {
        let regions = Regions::new(PAGES)?;
        let (region, file) = regions.frozen()?;

        populate(&file, 0..4)?;
        region.unpin(pages(&region, 0..2)?)?;
        drop(file);
        flush_files();
        // Unmapped, but open.
        ensure_eq!(regions.populated(), 4);
        drop(region);
        ensure!(regions.all_gone());
        Ok(())
    }
}
