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
use super::pins;

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

/// Which pages near one have memory. Needs no lock: what others do meanwhile makes it out of date, and
/// what follows from it a bad guess, at worst.
pub(crate) struct Near<'a, B: pins::Blocks> {
    page: usize,
    blocks: &'a B,
    /// That of `page`, in which most that is looked at lies.
    block: Option<&'a pins::Block<B::Word>>,
}

impl<'a, B: pins::Blocks> Near<'a, B> {
    /// Near `page`.
    pub(crate) fn new(blocks: &'a B, page: usize) -> Self {
        Self {
            page,
            blocks,
            block: blocks.get(page / pins::BLOCK_PAGES),
        }
    }

    /// Which of the 64 pages around `page`, aligned, have memory.
    fn word(&self, page: usize) -> u64 {
        let number = page / pins::BLOCK_PAGES;
        let block = if number == self.page / pins::BLOCK_PAGES {
            self.block
        } else {
            self.blocks.get(number)
        };
        block.map_or(0, |block| block.resident_word(page))
    }

    /// Whether the page itself has memory.
    pub(crate) fn is_resident(&self) -> bool {
        self.word(self.page) & (1 << (self.page % 64)) != 0
    }

    /// Order of the folio for the page, which has no memory: 2 to the power of it pages, aligned.
    ///
    /// The block lies within `bounds`, has no page that has memory already, and its order is at most
    /// `max`, with which blocks must be no larger than those of `blocks`.
    pub(crate) fn order(&self, bounds: PageRange, max: u32, advice: Advice) -> u32 {
        let most = match advice {
            Advice::Single => 0,
            Advice::Sequential => max,
            Advice::Normal if max == 0 => 0,
            Advice::Normal => {
                let enough = 1 << max;
                let run = self.run_below(enough).max(self.run_above(enough));
                run.min(enough).checked_ilog2().unwrap_or(0)
            }
        };

        (1..=most)
            .rev()
            .find(|&order| {
                let block = PageRange::block(self.page, order);
                bounds.contains(block) && self.is_hole(block)
            })
            .unwrap_or(0)
    }

    /// Whether no page of an aligned block has memory.
    pub(crate) fn is_hole(&self, block: PageRange) -> bool {
        if block.len() < 64 {
            let mask = ((1 << block.len()) - 1) << (block.start() % 64);
            return self.word(block.start()) & mask == 0;
        }
        (block.start()..block.end())
            .step_by(64)
            .all(|page| self.word(page) == 0)
    }

    /// How many pages in a row right below have memory; `enough` or more are all the same.
    fn run_below(&self, enough: usize) -> usize {
        let mut run = 0;

        while run < enough && run < self.page {
            let last = self.page - 1 - run;
            let pages = last % 64 + 1;
            let ones = (self.word(last) << (64 - pages)).leading_ones() as usize;
            run += ones;
            if ones < pages {
                break;
            }
        }
        run
    }

    /// How many pages in a row right behind have memory; `enough` or more are all the same.
    fn run_above(&self, enough: usize) -> usize {
        let mut run = 0;

        while run < enough {
            let first = self.page + 1 + run;
            let ones = (self.word(first) >> (first % 64)).trailing_ones() as usize;
            run += ones;
            if ones < 64 - first % 64 {
                break;
            }
        }
        run
    }
}
