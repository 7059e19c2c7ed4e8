// SPDX-License-Identifier: GPL-2.0-only

//! How many pages a fault on a page without memory allocates at once.
//!
//! As many as were touched in a row beside it, rounded down to a power of two, in a block that is
//! aligned to its size. So memory grows while a region is touched in sequence, in either direction, at
//! most to twice of what was touched; and random access gets single pages.
//!
//! ```text
//!   page         0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 ...
//!   touched      x
//!   allocated    0  1 [2  3][4  5  6  7][8  9 10 11 12 13 14 15][16 ...   one fault each
//!   order        0  0  1     2           3                       4
//! ```
//!
//! There is no state but which pages have memory: several tasks that touch a region at different
//! places do not disturb each other, and there is no lock.

use super::page_range::PageRange;
use super::pins::Blocks;

/// What the owner of a mapping, or the system, says of how it will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Nothing.
    Normal,
    /// Single pages only.
    Single,
    /// All of it will be touched: as much as is allowed, from the first fault on.
    Sequential,
}

/// Order of the folio for `page`, which has no memory: 2 to the power of it pages, aligned. Needs no
/// lock: what others do meanwhile makes it a bad guess at worst.
///
/// The block lies within `bounds`, has no page that has memory already, and its order is at most
/// `max`, with which blocks must be no larger than those of `blocks`.
pub(crate) fn order<B: Blocks>(
    blocks: &B,
    page: usize,
    bounds: PageRange,
    max: u32,
    advice: Advice,
) -> u32 {
    let most = match advice {
        Advice::Single => 0,
        Advice::Sequential => max,
        Advice::Normal if max == 0 => 0,
        Advice::Normal => {
            let enough = 1 << max;
            let run = run_below(blocks, page, enough).max(run_above(blocks, page, enough));
            run.min(enough).checked_ilog2().unwrap_or(0)
        }
    };

    (1..=most)
        .rev()
        .find(|&order| {
            let block = PageRange::block(page, order);
            bounds.contains(block) && is_hole(blocks, block)
        })
        .unwrap_or(0)
}

/// Whether no page of an aligned block has memory.
pub(crate) fn is_hole<B: Blocks>(blocks: &B, block: PageRange) -> bool {
    if block.len() < 64 {
        let mask = ((1 << block.len()) - 1) << (block.start() % 64);
        return blocks.resident_word(block.start()) & mask == 0;
    }
    (block.start()..block.end())
        .step_by(64)
        .all(|page| blocks.resident_word(page) == 0)
}

/// How many pages in a row right below `page` have memory; `enough` or more are all the same.
fn run_below<B: Blocks>(blocks: &B, page: usize, enough: usize) -> usize {
    let mut run = 0;

    while run < enough && run < page {
        let last = page - 1 - run;
        let pages = last % 64 + 1;
        let ones = (blocks.resident_word(last) << (64 - pages)).leading_ones() as usize;
        run += ones;
        if ones < pages {
            break;
        }
    }
    run
}

/// How many pages in a row right behind `page` have memory; `enough` or more are all the same.
fn run_above<B: Blocks>(blocks: &B, page: usize, enough: usize) -> usize {
    let mut run = 0;

    while run < enough {
        let first = page + 1 + run;
        let ones = (blocks.resident_word(first) >> (first % 64)).trailing_ones() as usize;
        run += ones;
        if ones < 64 - first % 64 {
            break;
        }
    }
    run
}
