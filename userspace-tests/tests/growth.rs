// SPDX-License-Identifier: GPL-2.0-only

//! The driver's rule of how many pages a fault allocates, on the host.

use proptest::prelude::*;

mod blocks;
#[path = "../src/growth.rs"]
#[allow(dead_code, reason = "the guest uses what is not used here")]
mod model;
#[path = "../../driver/policy/mod.rs"]
#[allow(dead_code, reason = "the driver uses what is not used here")]
mod policy;

use blocks::BlockMap;
use policy::growth::Advice;
use policy::growth::Near;
use policy::page_range::PageRange;
use policy::pins::BLOCK_PAGES;

/// Two blocks and a part of a third.
const PAGES: usize = 2 * BLOCK_PAGES + 90;
/// Of a folio that is smaller than a block.
const MAX: u32 = 8;

/// These pages, all of one block, have memory from now on.
fn add(blocks: &mut BlockMap, pages: PageRange) {
    let block = blocks.0.entry(pages.start() / BLOCK_PAGES).or_default();
    block.set_resident(pages);
}

fn all() -> PageRange {
    PageRange::whole(PAGES)
}

/// Touches these pages of a region in which `bounds` may be mapped; the orders of what is allocated.
fn touch(pages: impl IntoIterator<Item = usize>, max: u32, advice: Advice) -> Vec<u32> {
    let mut blocks = BlockMap::default();
    let mut orders = vec![];
    for page in pages {
        let near = Near::new(&blocks, page);
        if !near.is_resident() {
            let order = near.order(all(), max, advice);
            add(&mut blocks, PageRange::block(page, order));
            orders.push(order);
        }
    }
    orders
}

#[test]
fn grows_in_sequence_in_either_direction() {
    // As the picture in the driver's source has it.
    let forwards = touch(0..64, 4, Advice::Normal);
    assert_eq!(forwards, [0, 0, 1, 2, 3, 4, 4, 4]);
    // From the end of a power of two, it is the same.
    let backwards = touch((0..64).rev(), 4, Advice::Normal);
    assert_eq!(backwards, forwards);
    // From anywhere, it comes to the largest soon.
    let orders = touch(3..512, 4, Advice::Normal);
    assert_eq!(&orders[..8], [0, 0, 0, 1, 2, 2, 3, 3]);
    assert!(orders[8..].iter().all(|&order| order == 4));
}

#[test]
fn single_pages_at_random_and_where_they_are_asked_for() {
    assert!(
        touch((0..PAGES).step_by(2), 4, Advice::Normal)
            .iter()
            .all(|&order| order == 0)
    );
    assert!(
        touch(0..PAGES, 4, Advice::Single)
            .iter()
            .all(|&order| order == 0)
    );
    assert!(
        touch(0..PAGES, 0, Advice::Normal)
            .iter()
            .all(|&order| order == 0)
    );
}

#[test]
fn sequential_advice_takes_the_largest_at_once() {
    assert_eq!(touch(0..64, 4, Advice::Sequential), [4; 4]);
    // What has memory is gone around.
    let mut blocks = BlockMap::default();
    add(&mut blocks, PageRange::block(5, 0));
    let order = |page| Near::new(&blocks, page).order(all(), 4, Advice::Sequential);
    assert_eq!([0, 4, 6, 8, 16].map(order), [2, 0, 1, 3, 4]);
}

#[test]
fn a_region_touched_in_sequence_takes_few_faults() {
    // What 64 MiB take.
    let mut model = model::Model::new(16384, 4, 16);
    let mut map = model.map(0);
    let step = model.write(&mut map, 0..16384);
    assert_eq!((step.allocated, step.faults), (16384, 1028));
}

/// Any places, and runs of pages.
fn residents() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..PAGES, 1..80usize), 0..40)
}

proptest! {
    #[test]
    fn is_what_the_plain_model_says(
        runs in residents(),
        page in 0..PAGES,
        bounds in (0..PAGES, 1..PAGES),
        max in 0..=MAX,
        sequential: bool,
    ) {
        let mut blocks = BlockMap::default();
        let mut pages = [false; PAGES];
        for (start, len) in runs {
            let end = (start + len).min(PAGES);
            pages[start..end].fill(true);
            for page in start..end {
                add(&mut blocks, PageRange::block(page, 0));
            }
        }
        prop_assume!(!pages[page]);
        let start = bounds.0.min(page);
        let end = (start + bounds.1).clamp(page + 1, PAGES);
        let advice = match sequential {
            true => Advice::Sequential,
            false => Advice::Normal,
        };
        let bounds = all().clamp(start, end);
        let order = Near::new(&blocks, page).order(bounds, max, advice);
        let resident = |page: usize| pages.get(page).copied().unwrap_or(false);
        let expected = model::folio(resident, page, &(start..end), max, sequential);
        let found = PageRange::block(page, order);
        prop_assert_eq!((found.start(), found.end()), (expected.start, expected.end));
    }

    #[test]
    fn memory_is_at_most_twice_what_was_touched(
        touched in prop::collection::btree_set(0..PAGES, 1..200),
    ) {
        let touched: Vec<_> = touched.into_iter().collect();
        let allocated: usize = touch(touched.iter().copied(), MAX, Advice::Normal)
            .iter()
            .map(|order| 1 << order)
            .sum();
        prop_assert!(allocated <= 2 * touched.len(), "{allocated} for {}", touched.len());
    }
}
