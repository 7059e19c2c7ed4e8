// SPDX-License-Identifier: GPL-2.0-only

//! The driver's pin state against a model, on the host.
//!
//! The driver's own files are compiled here. The model keeps a state for every
//! page in an array and has no ranges, marks or counts; after each operation
//! everything that the driver can be asked is compared.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::ops::DerefMut;

use proptest::prelude::*;

mod blocks;
#[path = "../../driver/policy/mod.rs"]
#[allow(dead_code, reason = "the driver uses what is not used here")]
mod policy;

use blocks::BlockMap;
use policy::page_range::PageRange;
use policy::pins::BLOCK_PAGES;
use policy::pins::Base;
use policy::pins::Claimed;
use policy::pins::Pins;
use policy::pins::Progress;
use policy::pins::Purged;
use policy::pins::Range;
use policy::pins::Ranges;
use policy::pins::State;
use policy::pins::next_hole;
use policy::pins::next_resident;

/// Two blocks and a part of a third.
const PAGES: usize = 2 * BLOCK_PAGES + 90;

#[derive(Default)]
struct RangeMap(BTreeMap<usize, Range>);

impl Ranges for RangeMap {
    type Spare = ();

    fn at_or_after(&self, page: usize) -> Option<Range> {
        self.0.range(page..).next().map(|(_, range)| *range)
    }

    fn insert(&mut self, (): (), range: Range) {
        assert!(self.0.insert(range.last, range).is_none());
    }

    fn update(&mut self, last: usize, new: Range) {
        assert!(self.0.remove(&last).is_some());
        assert!(self.0.insert(new.last, new).is_none());
    }

    fn split(&mut self, (): (), head: Range, tail: Range) {
        assert_eq!(self.0[&tail.last].start, head.start);
        self.0.insert(head.last, head);
        self.0.insert(tail.last, tail);
    }

    fn remove(&mut self, last: usize) {
        assert!(self.0.remove(&last).is_some());
    }
}

/// A region's pins and blocks.
#[derive(Default)]
struct HostPins {
    pins: Pins<RangeMap>,
    blocks: BlockMap,
}

impl Default for Pins<RangeMap> {
    fn default() -> Self {
        Self::new(RangeMap::default())
    }
}

impl Deref for HostPins {
    type Target = Pins<RangeMap>;

    fn deref(&self) -> &Self::Target {
        &self.pins
    }
}

impl DerefMut for HostPins {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.pins
    }
}

impl HostPins {
    /// A page gets memory; nobody has told the ranges yet.
    fn arrive(&mut self, page: usize) {
        let block = self.blocks.0.entry(page / BLOCK_PAGES).or_default();
        block.set_resident(pages(page, page + 1));
    }

    /// They are told.
    fn note(&mut self, page: usize) {
        self.pins.inserted(&self.blocks, pages(page, page + 1));
    }

    fn touch(&mut self, page: usize) {
        self.arrive(page);
        self.note(page);
    }

    fn purge(&mut self, last: usize, folio: PageRange) -> Purged {
        self.pins.purge(&self.blocks, last, folio, false)
    }

    fn purge_page(&mut self, last: usize, page: usize) -> bool {
        self.purge(last, pages(page, page + 1)) == Purged::Own
    }

    fn purge_holes(&mut self, last: usize) -> usize {
        self.pins.purge_holes(&self.blocks, last)
    }

    fn next_live(&self, last: usize, from: usize) -> Option<usize> {
        self.pins.next_live(&self.blocks, last, from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    state: State,
    resident: bool,
    /// Of a resident page: whether its range, if any, knows that it is.
    known: bool,
    age: u64,
}

/// What a program or the kernel does to a region.
#[derive(Clone, Debug)]
enum Op {
    Unpin(usize, usize),
    Pin(usize, usize),
    /// A page is touched.
    Touch(usize),
    /// So are all pages of an aligned block of this order.
    Fill(usize, u32),
    /// A page is touched, and the fault is not over yet.
    Arrive(usize),
    /// All such faults end.
    Note,
    /// `MADV_REMOVE` of a page.
    Remove(usize),
    /// Reclaim wants this many pages; every nth of them is held by a device, and folios have this
    /// order.
    Scan(usize, usize, u32),
    /// PURGE_ALL_CACHES; every nth page is held by a device.
    PurgeAll(usize),
}

fn ops() -> impl Strategy<Value = Op> {
    // Ranges of all sizes, and often at the same few places.
    let page = prop_oneof![0..PAGES, (0..18usize).prop_map(|n| n * 64), 500..530usize];
    let end = prop_oneof![page.clone(), Just(PAGES)];
    let range = (page.clone(), end).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let held = prop_oneof![3 => Just(usize::MAX), 1 => 2..5usize];
    prop_oneof![
        4 => range.clone().prop_map(|(a, b)| Op::Unpin(a, b)),
        4 => range.prop_map(|(a, b)| Op::Pin(a, b)),
        6 => page.clone().prop_map(Op::Touch),
        3 => (page.clone(), 0..7u32).prop_map(|(page, order)| Op::Fill(page, order)),
        3 => page.clone().prop_map(Op::Arrive),
        2 => Just(Op::Note),
        2 => page.prop_map(Op::Remove),
        2 => (1..40usize, held.clone(), 0..7u32).prop_map(|(n, held, order)| Op::Scan(n, held, order)),
        1 => held.prop_map(Op::PurgeAll),
    ]
}

struct Bench {
    pins: HostPins,
    model: Vec<Page>,
    /// Pages whose fault is not over yet: their folios are locked.
    arriving: BTreeSet<usize>,
    clock: u64,
}

/// Unpins with at most this many spares, in as many steps as it takes.
fn unpin(pins: &mut HostPins, range: PageRange, age: u64, spares: &mut usize) {
    let mut rest = range;
    loop {
        let step = pins.pins.unpin(&pins.blocks, &mut rest, age, || {
            *spares = spares.checked_sub(1)?;
            Some(())
        });
        match step {
            Progress::Done => return,
            Progress::More => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Pins, in as many steps as it takes, with a spare only when one is asked for;
/// tells whether something was purged.
fn pin(pins: &mut HostPins, range: PageRange) -> bool {
    let (mut rest, mut was_purged, mut spare) = (range, false, None);
    loop {
        let before = format!("{:?}", pins.ranges_mut().0);
        let step = pins
            .pins
            .pin(&pins.blocks, &mut rest, &mut was_purged, &mut spare);
        match step {
            Progress::Done => break,
            Progress::More => {}
            Progress::NeedSpare => {
                assert_eq!(before, format!("{:?}", pins.ranges_mut().0));
                assert!(spare.replace(()).is_none(), "asked for another spare");
            }
            Progress::Claimed => panic!("nobody claims"),
        }
    }
    // It asks for one as well where it might need one after a pause.
    assert!(rest.is_empty());
    was_purged
}

/// Claims a range if that is possible at once.
fn claim(pins: &mut HostPins, start: usize, age: u64) -> bool {
    matches!(pins.claim(start, age), Claimed::Range(_))
}

/// Whether PIN of this page would have to wait.
fn is_claimed(pins: &mut HostPins, page: usize) -> bool {
    let found = pins.ranges_mut().at_or_after(page);
    let claimed = found.is_some_and(|range| range.start <= page && range.claims != 0);
    if claimed {
        let mut rest = pages(page, page + 1);
        let step = pins
            .pins
            .pin(&pins.blocks, &mut rest, &mut false, &mut Some(()));
        assert_eq!((step, rest.len()), (Progress::Claimed, 1));
    }
    claimed
}

/// State and residency of each of these pages.
fn states(pins: &HostPins, range: PageRange) -> Vec<(State, bool)> {
    let mut found = vec![];
    pins.each_state(&pins.blocks, range, |state, resident| {
        found.push((state, resident))
    });
    assert_eq!(found.len(), range.len());
    found
}

fn pages(start: usize, end: usize) -> PageRange {
    PageRange::whole(PAGES).clamp(start, end)
}

impl Bench {
    fn new() -> Self {
        Self {
            pins: HostPins::default(),
            model: vec![
                Page {
                    state: State::Pinned,
                    resident: false,
                    known: false,
                    age: 0
                };
                PAGES
            ],
            arriving: BTreeSet::new(),
            clock: 0,
        }
    }

    fn live(page: &Page) -> bool {
        page.state == State::Unpinned && page.resident && page.known
    }

    /// The ranges as the driver's LRU would list them: oldest first.
    fn listed(&mut self) -> Vec<Range> {
        let mut ranges: Vec<_> = self.pins.ranges_mut().0.values().copied().collect();
        ranges.sort_by_key(|range| (range.age, range.last));
        ranges
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Unpin(start, end) => {
                let range = pages(start, end);
                let mut spares = 0;
                let mut rest = range;
                while !rest.is_empty() {
                    spares += self.pins.gaps(&mut rest);
                }
                self.clock += 1;
                unpin(&mut self.pins, range, self.clock, &mut spares);
                assert_eq!(spares, 0, "gaps() said more than unpin() took");
                for page in &mut self.model[range.start()..range.end()] {
                    if page.state == State::Pinned {
                        page.state = State::Unpinned;
                        page.known = page.resident;
                        page.age = self.clock;
                    }
                }
            }
            Op::Pin(start, end) => {
                let range = pages(start, end);
                let found = pin(&mut self.pins, range);
                let touched = &mut self.model[range.start()..range.end()];
                let purged = touched.iter().any(|page| page.state == State::Purged);
                assert_eq!(found, purged, "was purged");
                for page in touched {
                    page.state = State::Pinned;
                }
            }
            Op::Touch(page) | Op::Arrive(page) => {
                if !self.model[page].resident {
                    self.pins.arrive(page);
                    self.model[page].resident = true;
                    self.model[page].known = false;
                    self.arriving.insert(page);
                }
                if matches!(op, Op::Touch(_)) && self.arriving.remove(&page) {
                    self.note(page);
                }
            }
            Op::Fill(page, order) => {
                let block = PageRange::block(page, order).clamp(0, PAGES);
                for page in block.start()..block.end() {
                    self.apply(&Op::Touch(page));
                }
            }
            Op::Note => {
                while let Some(page) = self.arriving.pop_first() {
                    self.note(page);
                }
            }
            Op::Remove(page) => {
                if self.model[page].resident && !self.arriving.contains(&page) {
                    self.pins
                        .pins
                        .removed(&self.pins.blocks, pages(page, page + 1));
                    self.model[page].resident = false;
                }
            }
            Op::Scan(want, held, order) => {
                self.purge(want, held, false, order);
            }
            Op::PurgeAll(held) => {
                let found = self.purge(usize::MAX, held, true, 0);
                let mut expected = 0;
                for number in 0..PAGES {
                    let kept = Self::live(&self.model[number]) && self.is_held(number, held);
                    let page = &mut self.model[number];
                    if page.state == State::Unpinned && !kept {
                        // One that is just arriving stays, as if it came after the purge.
                        page.resident &= !page.known;
                        page.state = State::Purged;
                        expected += 1;
                    }
                }
                assert_eq!(found, expected, "PURGE_ALL's count");
            }
        }
    }

    fn note(&mut self, page: usize) {
        self.pins.note(page);
        self.model[page].known = true;
    }

    /// Whether reclaim leaves a page: a device has it, or a fault its lock.
    fn is_held(&self, page: usize, every: usize) -> bool {
        page % every == 0 || self.arriving.contains(&page)
    }

    /// What `reclaim.rs` does, without the folios. Updates the model for a scan
    /// only.
    fn purge(&mut self, want: usize, held: usize, all: bool, order: u32) -> usize {
        let mut done = 0;
        let mut purged = 0;
        for range in self.listed() {
            if range.live == 0 && (!all || range.purged == range.len()) {
                continue;
            }
            if done >= want {
                break;
            }
            assert!(claim(&mut self.pins, range.start, range.age));
            assert!(is_claimed(&mut self.pins, range.start));
            if all {
                purged += self.pins.purge_holes(range.last);
            }
            let mut from = 0;
            while done < want {
                let Some(page) = self.pins.next_live(range.last, from) else {
                    break;
                };
                assert!(Self::live(&self.model[page]), "page {page} is not live");
                let folio = PageRange::block(page, order).clamp(0, PAGES);
                from = folio.end();
                let pages = folio.start()..folio.end();
                let live = self.model[pages.clone()].iter().all(Self::live);
                assert_eq!(self.pins.pins.are_live(&self.pins.blocks, folio), live);
                let own = pages.end.min(range.last + 1);
                let not = (page..own).find(|page| !Self::live(&self.model[*page]));
                let rest = folio.clamp(page, PAGES);
                let run = self.pins.pins.live_run(&self.pins.blocks, range.last, rest);
                assert_eq!((run.start(), run.end()), (page, not.unwrap_or(own)));
                if pages.clone().any(|page| self.is_held(page, held)) {
                    continue;
                }
                // Oldest first: nobody older is left who could be taken.
                if !all && order == 0 {
                    let age = self.model[page].age;
                    assert!(
                        !self.model.iter().enumerate().any(|(number, other)| {
                            Self::live(other) && other.age < age && !self.is_held(number, held)
                        }),
                        "page {page} is not of the oldest"
                    );
                }
                let alone = range.start <= pages.start && pages.end <= range.last + 1;
                let expected = match (live, alone) {
                    (false, _) => Purged::Nothing,
                    (true, true) => Purged::Own,
                    (true, false) => Purged::WithOthers,
                };
                assert_eq!(self.pins.purge(range.last, folio), expected);
                if !live {
                    continue;
                }
                assert_eq!(self.pins.purge(range.last, folio), Purged::Nothing, "twice");
                if !alone {
                    assert!(pages.clone().all(|page| is_claimed(&mut self.pins, page)));
                    self.pins.pins.release_others(range.last, folio);
                    let claimed = |page| is_claimed(&mut self.pins, page);
                    let still = pages.clone().map(claimed);
                    let expected = pages.clone().map(|page| (range.start..own).contains(&page));
                    assert!(still.eq(expected));
                }
                if !all {
                    for page in &mut self.model[pages.clone()] {
                        page.state = State::Purged;
                        page.resident = false;
                    }
                }
                done += pages.len();
                purged += pages.len();
            }
            self.pins.release(range.last);
        }
        purged
    }

    fn compare(&mut self) {
        // From everywhere: what it tells must not depend on where it begins.
        for start in [0, 1, 63, 64, 511, 512, 513, 700, PAGES] {
            let model: Vec<_> = self.model[start..]
                .iter()
                .map(|page| (page.state, page.resident))
                .collect();
            assert_eq!(
                states(&self.pins, pages(start, PAGES)),
                model,
                "from {start}"
            );
        }
        for (number, page) in self.model.iter().enumerate() {
            let next = next_resident(&self.pins.blocks, number, number + 1);
            assert_eq!(next.is_some(), page.resident, "page {number} resident");
        }
        let unpinned = |page: &&Page| page.state != State::Pinned;
        assert_eq!(
            self.pins.unpinned(),
            self.model.iter().filter(unpinned).count()
        );

        let mut seen = BTreeSet::new();
        for range in self.listed() {
            let part = &self.model[range.start..=range.last];
            let live = part.iter().filter(|page| Self::live(page)).count();
            let purged = part.iter().filter(|p| p.state == State::Purged).count();
            assert_eq!((range.live, range.purged), (live, purged), "{range:?}");
            assert_eq!(range.claims, 0);
            assert!(part.iter().all(|page| page.age == range.age), "{range:?}");
            for page in range.start..=range.last {
                assert!(seen.insert(page), "page {page} is in two ranges");
            }
        }
        for (start, end) in [(0, PAGES), (1, 511), (512, 513), (600, 1000)] {
            let part = &self.model[start..end];
            let pinned = part.iter().all(|page| page.state == State::Pinned);
            assert_eq!(self.pins.is_pinned(pages(start, end)), pinned);
            let position = |resident| part.iter().position(|page| page.resident == resident);
            let found = next_resident(&self.pins.blocks, start, end);
            assert_eq!(found, position(true).map(|at| at + start));
            let found = next_hole(&self.pins.blocks, start, end);
            assert_eq!(found, position(false).map(|at| at + start));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn pin_state_is_the_models(ops in prop::collection::vec(ops(), 1..60)) {
        let mut bench = Bench::new();
        for op in &ops {
            bench.apply(op);
            bench.compare();
        }
    }

    #[test]
    fn page_ranges_hold_what_they_promise(
        offset in prop_oneof![any::<u64>(), (0..20u64).prop_map(|n| n * 4096), Just(u64::MAX & !4095)],
        len in prop_oneof![any::<u64>(), (0..20u64).prop_map(|n| n * 4096), Just(u64::MAX & !4095)],
        size in prop_oneof![any::<usize>(), 0..100_000usize, Just(usize::MAX)],
        max in prop_oneof![Just(u64::from(u32::MAX)), Just(u64::MAX)],
    ) {
        let rounded = (size as u128).div_ceil(4096) * 4096;
        let end = if len == 0 { rounded } else { u128::from(offset) + u128::from(len) };
        let fits = offset % 4096 == 0
            && len % 4096 == 0
            && u128::from(offset) + u128::from(len) <= u128::from(max)
            && u128::from(offset) <= end
            && end <= rounded
            && rounded <= u128::from(u64::MAX);
        let expected = fits.then_some((offset as usize / 4096, (end / 4096) as usize));
        let found = PageRange::parse(offset, len, max, size, 4096);
        prop_assert_eq!(found.map(|range| (range.start(), range.end())), expected);
    }
}

#[test]
fn claims_of_two_are_independent() {
    let mut pins = HostPins::default();
    pins.touch(3);
    pins.touch(4);
    unpin(&mut pins, pages(0, 10), 1, &mut 1);
    assert!(claim(&mut pins, 0, 1) && claim(&mut pins, 0, 1));
    assert!(!claim(&mut pins, 0, 2), "another age");
    assert!(!claim(&mut pins, 1, 1), "another range");
    pins.waits(true);
    assert!(!claim(&mut pins, 0, 1), "a PIN waits");
    pins.waits(false);
    assert!(pins.purge_page(9, 3), "the first");
    assert!(!pins.purge_page(9, 3), "the second comes too late");
    // A fault fills it anew before the second one looks again: it stays.
    pins.touch(3);
    assert!(!pins.purge_page(9, 3), "what was written to a purged page");
    pins.release(9);
    assert!(is_claimed(&mut pins, 0), "one of them is still at it");
    assert_eq!(pins.purge_holes(9), 8);
    assert_eq!(pins.next_live(9, 0), Some(4));
    assert!(pins.purge_page(9, 4));
    pins.release(9);
    assert!(!is_claimed(&mut pins, 0));
    assert!(pin(&mut pins, pages(0, 10)));
}

#[test]
fn thousands_of_ranges_take_several_steps() {
    let mut pins = HostPins::default();
    for page in (0..PAGES).step_by(2) {
        unpin(&mut pins, pages(page, page + 1), page as u64, &mut 1);
    }
    let mut rest = pages(0, PAGES);
    // The first of 256 steps finds no gap before the range at page 0.
    assert_eq!(pins.gaps(&mut rest), 255);
    assert_eq!(rest.start(), 511);
    let mut rest = pages(0, PAGES);
    let step = pins
        .pins
        .pin(&pins.blocks, &mut rest, &mut false, &mut None);
    assert_eq!(
        (step, rest.start()),
        (Progress::NeedSpare, 0),
        "in case it is paused"
    );
    let step = pins
        .pins
        .pin(&pins.blocks, &mut rest, &mut false, &mut Some(()));
    assert_eq!((step, rest.start()), (Progress::More, 511));
    assert!(pins.is_pinned(pages(0, 511)) && !pins.is_pinned(pages(0, 513)));
    unpin(&mut pins, pages(0, PAGES), 9999, &mut PAGES.clone());
    assert_eq!(pins.unpinned(), PAGES);
    assert!(!pin(&mut pins, pages(0, PAGES)));
    assert_eq!(pins.unpinned(), 0);
}

#[test]
fn what_would_take_long_is_done_in_steps() {
    const MOST: usize = 256 * 16 * BLOCK_PAGES;
    let mut pins = HostPins::default();
    let all = PageRange::whole(2 * MOST + 1);
    let (mut gaps, mut rest) = (0, all);
    while !rest.is_empty() {
        gaps += pins.gaps(&mut rest);
    }
    assert_eq!(gaps, 3);
    unpin(&mut pins, all, 1, &mut gaps);
    assert_eq!((gaps, pins.unpinned()), (0, 2 * MOST + 1));
    assert!(
        pins.ranges_mut()
            .0
            .values()
            .all(|range| range.len() <= MOST)
    );
    // One of them is enough for a step.
    let mut rest = all;
    let step = pins
        .pins
        .pin(&pins.blocks, &mut rest, &mut false, &mut Some(()));
    assert_eq!((step, rest.start()), (Progress::More, MOST));
    assert!(!pin(&mut pins, all));
    assert_eq!(pins.unpinned(), 0);
}

#[test]
fn everything_is_pinned_without_a_spare() {
    let mut pins = HostPins::default();
    for page in (0..PAGES).step_by(2) {
        unpin(&mut pins, pages(page, page + 1), page as u64, &mut 1);
    }
    let mut rest = PageRange::everything();
    loop {
        let step = pins
            .pins
            .pin(&pins.blocks, &mut rest, &mut false, &mut None);
        match step {
            Progress::More => {}
            Progress::Done => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pins.unpinned(), 0);
    assert!(pins.is_pinned(pages(0, PAGES)));
}

#[test]
fn a_page_that_arrives_while_its_range_is_made_is_counted_once() {
    let live = |pins: &mut HostPins| pins.ranges_mut().0[&9].live;

    // The range sees the bit, and is told of it as well.
    let mut pins = HostPins::default();
    pins.arrive(3);
    unpin(&mut pins, pages(0, 10), 1, &mut 1);
    assert_eq!(live(&mut pins), 1);
    pins.note(3);
    assert_eq!(live(&mut pins), 1);

    // It is told only.
    pins.arrive(4);
    assert_eq!(live(&mut pins), 1);
    pins.note(4);
    assert_eq!(live(&mut pins), 2);

    // It was purged before it is told.
    pins.arrive(5);
    assert!(claim(&mut pins, 0, 1));
    assert_eq!(pins.purge_holes(9), 8, "all but 3 and 4");
    pins.release(9);
    pins.note(5);
    assert_eq!(live(&mut pins), 2);
    assert_eq!(states(&pins, pages(5, 6)), [(State::Purged, true)]);

    // What one range knew says nothing to the next one.
    assert!(pin(&mut pins, pages(0, 10)));
    pins.pins.removed(&pins.blocks, pages(3, 4));
    unpin(&mut pins, pages(0, 10), 2, &mut 1);
    assert_eq!(live(&mut pins), 2);
}

#[test]
fn bases_differ_in_what_a_mark_means() {
    let mut pins = HostPins::default();
    pins.touch(2);
    unpin(&mut pins, pages(0, 4), 1, &mut 1);
    assert!(claim(&mut pins, 0, 1));
    assert_eq!(pins.purge_holes(3), 3);
    pins.release(3);
    assert_eq!(pins.ranges_mut().0[&3].base, Base::Purged);
    let found = states(&pins, pages(0, 5));
    let found: Vec<_> = found.into_iter().map(|(state, _)| state).collect();
    use State::*;
    assert_eq!(found, [Purged, Purged, Unpinned, Purged, Pinned]);
}
