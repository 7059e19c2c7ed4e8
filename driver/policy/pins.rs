// SPDX-License-Identifier: GPL-2.0-only

//! Which pages of a region are pinned, unpinned or purged, exactly, page by page.
//!
//! ```text
//!   page      0   1   2   3   4   5   6   7   8   9  10  11
//!   state     .   .   u   u   P   u   u   .   .   P   P   .     . pinned  u unpinned  P purged
//!   content   x       x               x           -   -   x     x resident
//!   ranges           [2 ---------- 6] Live       [9-10] Purged
//!   mark                      1                               state differs from the base
//! ```
//!
//! Pages are pinned unless a [`Range`] holds them. Ranges are disjoint and keep the age at which
//! they were unpinned; two of them are never merged, so that what was purged and what was not stay
//! apart. Within a range every page is in the range's [`Base`] state, but for those that are
//! *marked*: they are in the other one. Marks and residency are bitmaps in [`Block`]s, which exist
//! only where a page had memory once; so memory pressure, which takes resident pages only, never
//! has to allocate in order to note what it took, and a hole of a terabyte costs a few ranges.
//!
//! A page's memory can be taken if it is *live*: resident, in a range, and not purged. What is
//! written to a purged page before it is pinned again is not live; it stays until it is pinned and
//! unpinned anew.
//!
//! That a page became resident is noted without the lock that all else here is under, so that faults
//! do not meet there. Only where there are ranges at all, [`Pins::inserted`] is called behind it;
//! which pages a range has counted already, a third bitmap tells.
//!
//! Counts are subtracted with saturation: should they ever drift, an overflow check would be an oops
//! with the region's lock held. The tests compare them with a recount after every operation.
//!
//! The containers are the caller's ([`Ranges`], [`Blocks`]): the driver's are the kernel's
//! red-black trees, the host tests' are `BTreeMap`s. Nothing here allocates: what may need a new
//! node takes a spare one.

use super::page_range::PageRange;

/// Pages that one [`Block`] describes: 2 MiB of 4 KiB pages.
pub(crate) const BLOCK_PAGES: usize = 512;
const WORDS: usize = BLOCK_PAGES / 64;

/// The state of the pages of a [`Range`] that are not marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Unpinned and not purged.
    Live,
    /// Purged since it was unpinned.
    Purged,
}

/// Unpinned pages `start..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First page.
    pub(crate) start: usize,
    /// Last page; what [`Ranges`] are ordered by.
    pub(crate) last: usize,
    /// When it was unpinned; a smaller number is longer ago.
    pub(crate) age: u64,
    /// State of its pages that are not marked.
    pub(crate) base: Base,
    /// How many of its pages are live, that is, can be purged with profit.
    pub(crate) live: usize,
    /// How many of its pages were purged.
    pub(crate) purged: usize,
    /// How many are purging it: it may not be pinned until they are done.
    pub(crate) claims: u32,
}

impl Range {
    /// How many pages it has.
    pub(crate) fn len(&self) -> usize {
        self.last - self.start + 1
    }
}

/// 64 bits, which may be read and changed at any time by anybody.
pub(crate) trait Word {
    /// All of them.
    fn load(&self) -> u64;

    /// Sets these bits, in one step.
    fn set(&self, bits: u64);

    /// Clears these bits, in one step.
    fn clear(&self, bits: u64);

    /// Sets all of them. Only for who has the lock that all others take who change them.
    fn store(&self, bits: u64);

    /// Sets those of `mask` to those of `bits`; as [`Self::store`].
    fn put(&self, mask: u64, bits: u64) {
        let old = self.load();
        let new = old & !mask | bits & mask;
        if new != old {
            self.store(new);
        }
    }
}

/// Residency and marks of [`BLOCK_PAGES`] consecutive pages.
#[derive(Default)]
pub(crate) struct Block<W> {
    /// Pages that have memory. A page's bit is changed by who has its folio locked.
    resident: [W; WORDS],
    /// Resident pages that their range knows of. Only of use within ranges; changed under the lock
    /// of [`Pins`], and so are the marks.
    counted: [W; WORDS],
    marked: [W; WORDS],
}

impl<W: Word> Block<W> {
    /// The live pages of a word, if all of them are in a range of this base.
    fn live(&self, base: Base, word: usize) -> u64 {
        self.counted[word].load()
            & match base {
                Base::Live => !self.marked[word].load(),
                Base::Purged => self.marked[word].load(),
            }
    }

    /// Which of the 64 pages around `page` of this block, aligned, have memory.
    pub(crate) fn resident_word(&self, page: usize) -> u64 {
        self.resident[place(page).0].load()
    }

    /// `pages`, all of this block, have memory now. Their folio is locked; the lock of [`Pins`] is not
    /// needed.
    pub(crate) fn set_resident(&self, pages: PageRange) {
        let first = pages.start() / BLOCK_PAGES * BLOCK_PAGES;
        for (word, mask) in words(pages, first) {
            self.resident[word].set(mask);
        }
    }
}

/// The words of the block whose first page is `first` that `pages` have a bit in, and these bits.
fn words(pages: PageRange, first: usize) -> impl Iterator<Item = (usize, u64)> {
    let here = pages.clamp(first, first + BLOCK_PAGES);
    let from = (here.start() - first) / 64;
    let to = (here.end() - first).div_ceil(64);

    (from..to).map(move |word| (word, word_mask(here, first + word * 64)))
}

/// Counts over some pages.
#[derive(Clone, Copy, Default)]
struct Counts {
    live: usize,
    purged: usize,
}

/// An ordered set of disjoint [`Range`]s, keyed by their last page.
pub(crate) trait Ranges {
    /// Memory for one range.
    type Spare;

    /// The first range whose last page is `page` or later.
    fn at_or_after(&self, page: usize) -> Option<Range>;

    /// Adds a range that overlaps none.
    fn insert(&mut self, spare: Self::Spare, range: Range);

    /// Puts `new` in the place of the range whose last page is `last`.
    fn update(&mut self, last: usize, new: Range);

    /// Puts `head` and `tail` in the place of the range that they are parts of.
    fn split(&mut self, spare: Self::Spare, head: Range, tail: Range);

    /// Removes the range whose last page is `last`.
    fn remove(&mut self, last: usize);
}

/// A sparse array of [`Block`]s, in which there is one for every page that has or had memory.
pub(crate) trait Blocks {
    /// What its bits are made of.
    type Word: Word;

    /// The block with this number.
    fn get(&self, number: usize) -> Option<&Block<Self::Word>>;

    /// The first block with this number or a greater one, and its number.
    fn at_or_after(&self, number: usize) -> Option<(usize, &Block<Self::Word>)>;
}

/// The first resident page in `from..end`. Needs no lock.
pub(crate) fn next_resident<B: Blocks>(blocks: &B, from: usize, end: usize) -> Option<usize> {
    find(blocks, from, end, |block, word| block.resident[word].load())
}

/// The first page in `from..end` that is not resident. Needs no lock.
pub(crate) fn next_hole<B: Blocks>(blocks: &B, from: usize, end: usize) -> Option<usize> {
    let mut page = from;

    while page < end {
        let Some(block) = blocks.get(page / BLOCK_PAGES) else {
            return Some(page);
        };
        let (word, bit) = place(page);
        let holes = !block.resident[word].load() & !(bit - 1);
        if holes != 0 {
            let hole = page / 64 * 64 + holes.trailing_zeros() as usize;
            return (hole < end).then_some(hole);
        }
        page = (page / 64 + 1) * 64;
    }
    None
}

/// The first page in `from..end` whose bit `bits` gives.
fn find<B: Blocks>(
    blocks: &B,
    from: usize,
    end: usize,
    bits: impl Fn(&Block<B::Word>, usize) -> u64,
) -> Option<usize> {
    let mut page = from;

    while page < end {
        let (number, block) = blocks.at_or_after(page / BLOCK_PAGES)?;
        page = page.max(number * BLOCK_PAGES);
        while page < end && page / BLOCK_PAGES == number {
            let (word, bit) = place(page);
            let found = bits(block, word) & !(bit - 1);
            if found != 0 {
                let found = page / 64 * 64 + found.trailing_zeros() as usize;
                return (found < end).then_some(found);
            }
            page = (page / 64 + 1) * 64;
        }
    }
    None
}

/// Shows the blocks of `pages`, to be read or changed; `f` is given a word and the bits of it that
/// are meant.
fn each_word<B: Blocks>(
    blocks: &B,
    pages: PageRange,
    mut f: impl FnMut(&Block<B::Word>, usize, u64),
) {
    if pages.is_empty() {
        return;
    }
    let last = (pages.end() - 1) / BLOCK_PAGES;
    // Most often it is one block, which is cheaper to get than to search for.
    let next = |from| match from {
        from if from == last => Some((last, blocks.get(last)?)),
        from => blocks.at_or_after(from),
    };
    let mut from = pages.start() / BLOCK_PAGES;

    while from <= last {
        let Some((number, block)) = next(from) else {
            return;
        };
        if number > last {
            return;
        }
        for (word, mask) in words(pages, number * BLOCK_PAGES) {
            f(block, word, mask);
        }
        from = number + 1;
    }
}

/// How many ranges one call works on. Then it returns, so that its caller can let go of the lock: a
/// region may have millions of them.
const BATCH: usize = 256;
/// Pages whose blocks cost as much to go through as a range does.
const RANGE_COST: usize = 16 * BLOCK_PAGES;
/// Pages that a range has at most: as many as a call works on, 8 GiB of 4 KiB pages. What is unpinned
/// beyond makes more than one range.
const RANGE_MAX: usize = BATCH * RANGE_COST;

/// What work on `pages` pages of a range counts in a batch.
fn cost(pages: usize) -> usize {
    1 + pages / RANGE_COST
}

/// Why a call returned; it is to be called again with the same arguments, which hold what is left
/// to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing is left.
    Done,
    /// It has worked on enough for once.
    More,
    /// The next range is being purged: after its claims were given back.
    Claimed,
    /// With a spare node.
    NeedSpare,
}

/// What [`Pins::claim`] gives.
pub(crate) enum Claimed {
    /// The range as it was.
    Range(Range),
    /// Nothing now: a PIN is waiting, and goes first.
    Later,
    /// The range is not there any more.
    Gone,
}

/// What [`Pins::purge`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purged {
    /// Nothing.
    Nothing,
    /// Pages of the claimed range.
    Own,
    /// Pages of other ranges as well, which are claimed now.
    WithOthers,
}

/// What [`Pins::each_state`] tells of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Never to be purged.
    Pinned,
    /// May be purged, and was not.
    Unpinned,
    /// Was purged since it was unpinned.
    Purged,
}

/// The state of all pages of one region.
///
/// # Invariants
///
/// - Ranges are disjoint, and no page outside of them is marked.
/// - `live` and `purged` of each range are what its base and the bitmaps say; which pages of a range
///   are resident, and were not noted by [`Pins::inserted`] yet, is open.
/// - A block exists for every resident or marked page.
/// - `unpinned` is the sum of the ranges' lengths.
pub(crate) struct Pins<R> {
    ranges: R,
    unpinned: usize,
    /// Callers that wait for claims to be given back.
    waiting: usize,
}

/// All methods that look at single pages are given the region's blocks.
impl<R: Ranges> Pins<R> {
    /// All pages pinned. The container must be empty.
    pub(crate) fn new(ranges: R) -> Self {
        // INVARIANT: there is no range, no unpinned page.
        Self {
            ranges,
            unpinned: 0,
            waiting: 0,
        }
    }

    /// The container of ranges, for what the caller keeps beside them.
    pub(crate) fn ranges_mut(&mut self) -> &mut R {
        &mut self.ranges
    }

    /// How many pages are not pinned: unpinned or purged, resident or not.
    pub(crate) fn unpinned(&self) -> usize {
        self.unpinned
    }

    /// Whether every page of `pages` is pinned.
    pub(crate) fn is_pinned(&self, pages: PageRange) -> bool {
        pages.is_empty() || self.overlapping(pages).is_none()
    }

    /// Tells of each of `pages`, in their order, its state and whether it is resident.
    pub(crate) fn each_state<B: Blocks>(
        &self,
        blocks: &B,
        pages: PageRange,
        mut f: impl FnMut(State, bool),
    ) {
        let mut range = self.overlapping(pages);
        let mut block = None;

        for page in pages.start()..pages.end() {
            let (word, bit) = place(page);
            if page == pages.start() || page % BLOCK_PAGES == 0 {
                block = blocks.get(page / BLOCK_PAGES);
            }
            if range.is_some_and(|range| range.last < page) {
                range = self.ranges.at_or_after(page);
            }
            let marked = block.is_some_and(|block| block.marked[word].load() & bit != 0);
            let resident = block.is_some_and(|block| block.resident[word].load() & bit != 0);
            let state = match range.filter(|range| range.start <= page) {
                None => State::Pinned,
                Some(range) if marked == (range.base == Base::Live) => State::Purged,
                Some(_) => State::Unpinned,
            };
            f(state, resident);
        }
    }

    /// How many spare nodes [`Self::unpin`] of the same pages needs; to be added up until `rest`
    /// is empty.
    pub(crate) fn gaps(&self, rest: &mut PageRange) -> usize {
        let mut gaps = 0;
        for _ in 0..BATCH {
            if rest.is_empty() {
                break;
            }
            gaps += usize::from(self.next_gap(rest).is_some());
        }
        gaps
    }

    /// What [`Self::unpin`] of `pages` would make a range of, if that is one and no more.
    pub(crate) fn only_gap(&self, pages: PageRange) -> Option<PageRange> {
        let mut rest = pages;
        let gap = self.next_gap(&mut rest)?;

        rest.is_empty().then_some(gap)
    }

    /// Unpins what is pinned of `rest`; what is not keeps its state and its age.
    ///
    /// `spares` gives a node for each gap. Whoever makes a page resident from here on has to call
    /// [`Self::inserted`].
    pub(crate) fn unpin<B: Blocks>(
        &mut self,
        blocks: &B,
        rest: &mut PageRange,
        age: u64,
        mut spares: impl FnMut() -> Option<R::Spare>,
    ) -> Progress {
        let mut done = 0;
        while done < BATCH {
            if rest.is_empty() {
                return Progress::Done;
            }
            let before = *rest;
            let Some(gap) = self.next_gap(rest) else {
                done += 1;
                continue;
            };
            done += cost(gap.len());
            let Some(spare) = spares() else {
                *rest = before;
                return Progress::NeedSpare;
            };
            self.fill(blocks, gap, age, spare);
        }
        Progress::More
    }

    /// Unpins `gap`, which [`Self::only_gap`] has just given; as [`Self::unpin`].
    pub(crate) fn fill<B: Blocks>(
        &mut self,
        blocks: &B,
        gap: PageRange,
        age: u64,
        spare: R::Spare,
    ) {
        let mut live = 0;
        each_word(blocks, gap, |block, word, mask| {
            let resident = block.resident[word].load() & mask;
            block.counted[word].put(mask, resident);
            live += resident.count_ones() as usize;
        });

        // INVARIANT: a gap overlaps no range; its pages carry no mark, so none is purged.
        self.ranges.insert(
            spare,
            Range {
                start: gap.start(),
                last: gap.end() - 1,
                age,
                base: Base::Live,
                live,
                purged: 0,
                claims: 0,
            },
        );
        self.unpinned += gap.len();
    }

    /// Pins `rest`, and sets `was_purged` if one of the pages had been purged.
    ///
    /// ```text
    ///   1. range inside pages        [=====]     removed
    ///   2. range begins before    [==]=====]     keeps its head
    ///   3. range ends behind         [=====[==]  keeps its tail
    ///   4. pages inside range     [==]=====[==]  split in two: takes the spare node
    /// ```
    ///
    /// Nothing is changed before all memory is there, so that nothing is lost if there is none. To
    /// pin everything takes none.
    pub(crate) fn pin<B: Blocks>(
        &mut self,
        blocks: &B,
        rest: &mut PageRange,
        was_purged: &mut bool,
        spare: &mut Option<R::Spare>,
    ) -> Progress {
        let mut done = 0;
        while done < BATCH {
            let Some(old) = self.overlapping(*rest) else {
                *rest = rest.clamp(rest.end(), rest.end());
                return Progress::Done;
            };
            if old.claims != 0 {
                return Progress::Claimed;
            }
            let cut = rest.clamp(old.start, old.last + 1);
            done += cost(cut.len());
            let head = old.start < cut.start();
            let tail = old.last >= cut.end();
            // A split at once; or one later, if others change the rest between two steps: a range
            // may end behind it then, unless that has no end.
            let more = || {
                let later = rest.clamp(old.last + 1, usize::MAX);
                !rest.has_no_end() && self.overlapping(later).is_some()
            };
            if spare.is_none() && (head && tail || !tail && more()) {
                return Progress::NeedSpare;
            }

            let taken = if head || tail {
                count_in(blocks, &old, cut)
            } else {
                Counts {
                    live: old.live,
                    purged: old.purged,
                }
            };
            let has_marks = match old.base {
                Base::Live => old.purged != 0,
                Base::Purged => old.purged != old.len(),
            };
            *was_purged |= taken.purged != 0;

            // INVARIANT: the pages that stay keep base and marks, and `live` and `purged` lose what
            // was counted over those that go; these lose their marks below.
            let mut left = Range {
                live: old.live.saturating_sub(taken.live),
                purged: old.purged.saturating_sub(taken.purged),
                ..old
            };
            match (head, tail) {
                (false, false) => self.ranges.remove(old.last),
                (true, false) => {
                    left.last = cut.start() - 1;
                    self.ranges.update(old.last, left);
                }
                (false, true) => {
                    left.start = cut.end();
                    self.ranges.update(old.last, left);
                }
                (true, true) => {
                    let front = PageRange::whole(cut.start()).clamp(old.start, cut.start());
                    let front_counts = count_in(blocks, &old, front);

                    left.start = cut.end();
                    left.live = left.live.saturating_sub(front_counts.live);
                    left.purged = left.purged.saturating_sub(front_counts.purged);
                    let head = Range {
                        last: cut.start() - 1,
                        live: front_counts.live,
                        purged: front_counts.purged,
                        ..old
                    };
                    if let Some(spare) = spare.take() {
                        self.ranges.split(spare, head, left);
                    }
                }
            }
            if has_marks {
                each_word(blocks, cut, |block, word, mask| {
                    block.marked[word].put(mask, 0);
                });
            }
            self.unpinned -= cut.len();
            *rest = rest.clamp(cut.end(), usize::MAX);
        }
        Progress::More
    }

    /// `pages` of one folio were absent and have memory now: their bits were set before.
    pub(crate) fn inserted<B: Blocks>(&mut self, blocks: &B, pages: PageRange) {
        self.each_range(pages, |range, here| {
            each_word(blocks, here, |block, word, mask| {
                // Some may have been counted when the range was made.
                let new = block.resident[word].load() & !block.counted[word].load() & mask;
                block.counted[word].put(new, new);
                range.live += (block.live(range.base, word) & new).count_ones() as usize;
            });
        });
    }

    /// `pages` of one folio were resident and lose their memory, by their owner's wish.
    pub(crate) fn removed<B: Blocks>(&mut self, blocks: &B, pages: PageRange) {
        self.each_range(pages, |range, here| {
            range.live = range.live.saturating_sub(count_live(blocks, range, here));
        });
        each_word(blocks, pages, |block, word, mask| {
            block.resident[word].clear(mask);
            block.counted[word].put(mask, 0);
        });
    }

    /// Shows the ranges that have pages in `pages`, to be changed but for their extent, and which
    /// pages of them these are.
    fn each_range(&mut self, pages: PageRange, mut f: impl FnMut(&mut Range, PageRange)) {
        let mut rest = pages;

        while let Some(range) = self.overlapping(rest) {
            let here = rest.clamp(range.start, range.last + 1);
            let mut new = range;
            f(&mut new, here);
            if new != range {
                self.ranges.update(range.last, new);
            }
            rest = rest.clamp(here.end(), usize::MAX);
        }
    }

    /// Keeps the range that begins at `start` and has this age from being pinned. Several may do
    /// so at once, and purge different pages of it.
    pub(crate) fn claim(&mut self, start: usize, age: u64) -> Claimed {
        let Some(range) = self.ranges.at_or_after(start) else {
            return Claimed::Gone;
        };
        if range.start != start || range.age != age {
            return Claimed::Gone;
        }
        if self.waiting != 0 {
            return Claimed::Later;
        }
        let claims = range.claims + 1;
        self.ranges.update(range.last, Range { claims, ..range });
        Claimed::Range(range)
    }

    /// The caller begins (`true`) or ends to wait for claims. While somebody waits, there are no
    /// new ones.
    pub(crate) fn waits(&mut self, begins: bool) {
        if begins {
            self.waiting += 1;
        } else {
            self.waiting -= 1;
        }
    }

    /// Gives a claim back.
    pub(crate) fn release(&mut self, last: usize) {
        if let Some(range) = self.claimed(last) {
            self.ranges.update(
                last,
                Range {
                    claims: range.claims - 1,
                    ..range
                },
            );
        }
    }

    /// The first live page from `from` on of the claimed range that ends at `last`.
    pub(crate) fn next_live<B: Blocks>(
        &self,
        blocks: &B,
        last: usize,
        from: usize,
    ) -> Option<usize> {
        let range = self.claimed(last)?;
        if range.live == 0 {
            return None;
        }
        find(blocks, from.max(range.start), last + 1, |block, word| {
            block.live(range.base, word)
        })
    }

    /// How far the live pages go from `pages.start()` on, which is one, of the claimed range that ends
    /// at `last`: as a part of `pages`.
    pub(crate) fn live_run<B: Blocks>(
        &self,
        blocks: &B,
        last: usize,
        pages: PageRange,
    ) -> PageRange {
        let Some(range) = self.claimed(last) else {
            return pages.clamp(0, 0);
        };
        let pages = pages.clamp(range.start, range.last + 1);
        let end = find(blocks, pages.start(), pages.end(), |block, word| {
            !block.live(range.base, word)
        });
        pages.clamp(0, end.unwrap_or(pages.end()))
    }

    /// Purges `pages` of one folio, if all of them are live; for who claimed the range that ends at
    /// `last`. If they are not, somebody else may have purged them, a fault may have filled them anew,
    /// or some are pinned.
    ///
    /// `live` says that they were a moment ago, with the folio locked since: those of a claimed range are
    /// still.
    ///
    /// Other ranges that have a part of them are claimed as well, until [`Self::release_others`].
    #[must_use]
    pub(crate) fn purge<B: Blocks>(
        &mut self,
        blocks: &B,
        last: usize,
        pages: PageRange,
        live: bool,
    ) -> Purged {
        let Some(own) = self.claimed(last) else {
            return Purged::Nothing;
        };
        let others = pages.start() < own.start || own.last < pages.end() - 1;
        if others && self.waiting != 0 {
            return Purged::Nothing;
        }
        if (others || !live) && !self.are_live(blocks, pages) {
            return Purged::Nothing;
        }
        debug_assert!(self.are_live(blocks, pages));
        self.each_range(pages, |range, here| {
            each_word(blocks, here, |block, word, mask| {
                block.resident[word].clear(mask);
                block.counted[word].put(mask, 0);
                let marks = match range.base {
                    Base::Live => mask,
                    Base::Purged => 0,
                };
                block.marked[word].put(mask, marks);
            });
            range.live = range.live.saturating_sub(here.len());
            range.purged += here.len();
            range.claims += u32::from(range.last != last);
        });
        if others {
            Purged::WithOthers
        } else {
            Purged::Own
        }
    }

    /// Whether every page of `pages` is live.
    pub(crate) fn are_live<B: Blocks>(&self, blocks: &B, pages: PageRange) -> bool {
        let mut rest = pages;

        while let Some(range) = self.containing(rest.start()) {
            let here = rest.clamp(range.start, range.last + 1);
            if count_live(blocks, &range, here) != here.len() {
                return false;
            }
            rest = rest.clamp(here.end(), usize::MAX);
            if rest.is_empty() {
                return true;
            }
        }
        false
    }

    /// Ends what [`Purged::WithOthers`] began, for the same arguments.
    pub(crate) fn release_others(&mut self, last: usize, pages: PageRange) {
        self.each_range(pages, |range, _| {
            range.claims -= u32::from(range.last != last);
        });
    }

    /// Purges what has no memory of the claimed range that ends at `last`; live pages stay
    /// unpinned. Gives the number of pages that were not purged before.
    pub(crate) fn purge_holes<B: Blocks>(&mut self, blocks: &B, last: usize) -> usize {
        let Some(range) = self.claimed(last) else {
            return 0;
        };
        let pages = PageRange::whole(last + 1).clamp(range.start, last + 1);

        // INVARIANT: with the base `Purged` a mark stands for a page that was not purged, and that
        // is now each live page.
        each_word(blocks, pages, |block, word, mask| {
            let live = block.live(range.base, word) & mask;
            block.marked[word].put(mask, live);
        });
        let purged = range.len().saturating_sub(range.live);
        self.ranges.update(
            last,
            Range {
                base: Base::Purged,
                purged,
                ..range
            },
        );
        purged.saturating_sub(range.purged)
    }

    fn claimed(&self, last: usize) -> Option<Range> {
        let range = self.ranges.at_or_after(last)?;
        let ours = range.last == last && range.claims != 0;
        debug_assert!(ours);
        ours.then_some(range)
    }

    fn containing(&self, page: usize) -> Option<Range> {
        self.ranges
            .at_or_after(page)
            .filter(|range| range.start <= page)
    }

    /// The first range that has a page in `pages`.
    fn overlapping(&self, pages: PageRange) -> Option<Range> {
        if pages.is_empty() {
            return None;
        }
        self.ranges
            .at_or_after(pages.start())
            .filter(|range| range.start < pages.end())
    }

    /// What is pinned at the beginning of `rest`, if anything is, up to [`RANGE_MAX`]; takes it from
    /// there, and the range that follows.
    fn next_gap(&self, rest: &mut PageRange) -> Option<PageRange> {
        let (start, next) = match self.overlapping(*rest) {
            Some(range) => (range.start, range.last + 1),
            None => (rest.end(), rest.end()),
        };
        let gap = rest.clamp(0, start.min(rest.start().saturating_add(RANGE_MAX)));
        let next = if gap.end() < start { gap.end() } else { next };
        *rest = rest.clamp(next, usize::MAX);
        (!gap.is_empty()).then_some(gap)
    }
}

/// How many pages of the part `pages` of `range` are live.
fn count_live<B: Blocks>(blocks: &B, range: &Range, pages: PageRange) -> usize {
    let mut live = 0;

    each_word(blocks, pages, |block, word, mask| {
        live += (block.live(range.base, word) & mask).count_ones() as usize;
    });
    live
}

/// Counts over the part `pages` of `range`, without a look where nothing can be found.
fn count_in<B: Blocks>(blocks: &B, range: &Range, pages: PageRange) -> Counts {
    if range.live == 0 && range.base == Base::Live && range.purged == 0 {
        return Counts::default();
    }
    if range.live == 0 && range.base == Base::Purged && range.purged == range.len() {
        return Counts {
            live: 0,
            purged: pages.len(),
        };
    }
    let mut live = 0;
    let mut marks = 0;

    each_word(blocks, pages, |block, word, mask| {
        live += (block.live(range.base, word) & mask).count_ones() as usize;
        marks += (block.marked[word].load() & mask).count_ones() as usize;
    });
    Counts {
        live,
        purged: match range.base {
            Base::Live => marks,
            Base::Purged => pages.len().saturating_sub(marks),
        },
    }
}

/// Word and bit of a page within its block.
fn place(page: usize) -> (usize, u64) {
    (page % BLOCK_PAGES / 64, 1 << (page % 64))
}

/// The bits of `pages` in the word whose first page is `first`.
fn word_mask(pages: PageRange, first: usize) -> u64 {
    let cut = pages.clamp(first, first + 64);
    if cut.is_empty() {
        return 0;
    }
    (u64::MAX >> (64 - cut.len())) << (cut.start() - first)
}
