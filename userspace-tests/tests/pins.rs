// SPDX-License-Identifier: GPL-2.0-only

//! The driver's pin state against a model, on the host.
//!
//! The driver's own files are compiled here. The model keeps a state for every
//! page in an array and has no ranges, marks or counts; after each operation
//! everything that the driver can be asked is compared.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proptest::prelude::*;

#[path = "../../driver/policy/mod.rs"]
#[allow(dead_code, reason = "the driver uses what is not used here")]
mod policy;

use policy::page_range::PageRange;
use policy::pins::BLOCK_PAGES;
use policy::pins::Base;
use policy::pins::Block;
use policy::pins::Blocks;
use policy::pins::Claimed;
use policy::pins::Pins;
use policy::pins::Progress;
use policy::pins::Range;
use policy::pins::Ranges;
use policy::pins::State;

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

#[derive(Default)]
struct BlockMap(BTreeMap<usize, Block>);

impl Blocks for BlockMap {
    type Spare = ();

    fn get(&self, number: usize) -> Option<&Block> {
        self.0.get(&number)
    }

    fn get_mut(&mut self, number: usize) -> Option<&mut Block> {
        self.0.get_mut(&number)
    }

    fn insert(&mut self, (): (), number: usize) {
        assert!(self.0.insert(number, Block::default()).is_none());
    }

    fn remove(&mut self, number: usize) {
        assert!(self.0.remove(&number).is_some_and(|block| block.is_empty()));
    }

    fn walk<T>(
        &mut self,
        number: usize,
        mut f: impl FnMut(usize, &mut Block) -> ControlFlow<T>,
    ) -> Option<T> {
        let mut answer = None;
        for (number, block) in self.0.range_mut(number..) {
            if let ControlFlow::Break(found) = f(*number, block) {
                answer = Some(found);
                break;
            }
        }
        self.0.retain(|_, block| !block.is_empty());
        answer
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    state: State,
    resident: bool,
    age: u64,
}

/// What a program or the kernel does to a region.
#[derive(Clone, Debug)]
enum Op {
    Unpin(usize, usize),
    Pin(usize, usize),
    /// A page is touched.
    Touch(usize),
    /// `MADV_REMOVE` of a page.
    Remove(usize),
    /// Reclaim wants this many pages; every nth of them is held by a device.
    Scan(usize, usize),
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
        2 => page.prop_map(Op::Remove),
        2 => (1..40usize, held.clone()).prop_map(|(n, held)| Op::Scan(n, held)),
        1 => held.prop_map(Op::PurgeAll),
    ]
}

struct Bench {
    pins: Pins<RangeMap, BlockMap>,
    model: Vec<Page>,
    clock: u64,
}

type HostPins = Pins<RangeMap, BlockMap>;

/// A page gets memory, at the second attempt if there was no block.
fn touch(pins: &mut HostPins, page: usize) {
    let mut spare = None;
    if !pins.arriving(page, &mut spare) {
        spare = Some(());
        assert!(pins.arriving(page, &mut spare) && spare.is_none());
    }
    pins.inserted(page);
}

/// Unpins with at most this many spares, in as many steps as it takes.
fn unpin(pins: &mut HostPins, range: PageRange, age: u64, spares: &mut usize) {
    let mut rest = range;
    loop {
        let step = pins.unpin(&mut rest, age, || {
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
        match pins.pin(&mut rest, &mut was_purged, &mut spare) {
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
        let step = pins.pin(&mut rest, &mut false, &mut Some(()));
        assert_eq!((step, rest.len()), (Progress::Claimed, 1));
    }
    claimed
}

/// State and residency of each of these pages.
fn states(pins: &HostPins, range: PageRange) -> Vec<(State, bool)> {
    let mut found = vec![];
    pins.each_state(range, |state, resident| found.push((state, resident)));
    assert_eq!(found.len(), range.len());
    found
}

fn pages(start: usize, end: usize) -> PageRange {
    PageRange::whole(PAGES).clamp(start, end)
}

impl Bench {
    fn new() -> Self {
        Self {
            pins: Pins::new(RangeMap::default(), BlockMap::default()),
            model: vec![
                Page {
                    state: State::Pinned,
                    resident: false,
                    age: 0
                };
                PAGES
            ],
            clock: 0,
        }
    }

    fn live(page: &Page) -> bool {
        page.state == State::Unpinned && page.resident
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
            Op::Touch(page) => {
                if !self.model[page].resident {
                    touch(&mut self.pins, page);
                    self.model[page].resident = true;
                }
            }
            Op::Remove(page) => {
                if self.model[page].resident {
                    self.pins.removed(page);
                    self.model[page].resident = false;
                }
            }
            Op::Scan(want, held) => {
                self.purge(want, held, false);
            }
            Op::PurgeAll(held) => {
                let found = self.purge(usize::MAX, held, true);
                let mut expected = 0;
                for (number, page) in self.model.iter_mut().enumerate() {
                    if page.state == State::Unpinned && !(page.resident && number % held == 0) {
                        page.state = State::Purged;
                        page.resident = false;
                        expected += 1;
                    }
                }
                assert_eq!(found, expected, "PURGE_ALL's count");
            }
        }
    }

    /// What `reclaim.rs` does, without the folios. Updates the model for a scan
    /// only.
    fn purge(&mut self, want: usize, held: usize, all: bool) -> usize {
        let mut done = 0;
        let mut purged = 0;
        for range in self.listed() {
            if range.live == 0 && (!all || range.purged == range.len()) {
                continue;
            }
            if done == want {
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
                from = page + 1;
                assert!(Self::live(&self.model[page]), "page {page} is not live");
                if page % held == 0 {
                    continue;
                }
                // Oldest first: nobody older is left who could be taken.
                if !all {
                    let age = self.model[page].age;
                    assert!(
                        !self.model.iter().enumerate().any(|(number, other)| {
                            Self::live(other) && other.age < age && number % held != 0
                        }),
                        "page {page} is not of the oldest"
                    );
                    self.model[page].state = State::Purged;
                    self.model[page].resident = false;
                }
                assert!(self.pins.purge(range.last, page));
                assert!(!self.pins.purge(range.last, page), "purged twice");
                done += 1;
                purged += 1;
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
            let next = self.pins.next_resident(number, number + 1);
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
            let found = self.pins.next_resident(start, end);
            assert_eq!(found, position(true).map(|at| at + start));
            let found = self.pins.next_hole(start, end);
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
    let mut pins = Pins::new(RangeMap::default(), BlockMap::default());
    touch(&mut pins, 3);
    touch(&mut pins, 4);
    unpin(&mut pins, pages(0, 10), 1, &mut 1);
    assert!(claim(&mut pins, 0, 1) && claim(&mut pins, 0, 1));
    assert!(!claim(&mut pins, 0, 2), "another age");
    assert!(!claim(&mut pins, 1, 1), "another range");
    pins.waits(true);
    assert!(!claim(&mut pins, 0, 1), "a PIN waits");
    pins.waits(false);
    assert!(pins.purge(9, 3), "the first");
    assert!(!pins.purge(9, 3), "the second comes too late");
    // A fault fills it anew before the second one looks again: it stays.
    touch(&mut pins, 3);
    assert!(!pins.purge(9, 3), "what was written to a purged page");
    pins.release(9);
    assert!(is_claimed(&mut pins, 0), "one of them is still at it");
    assert_eq!(pins.purge_holes(9), 8);
    assert_eq!(pins.next_live(9, 0), Some(4));
    assert!(pins.purge(9, 4));
    pins.release(9);
    assert!(!is_claimed(&mut pins, 0));
    assert!(pin(&mut pins, pages(0, 10)));
}

#[test]
fn thousands_of_ranges_take_several_steps() {
    let mut pins = Pins::new(RangeMap::default(), BlockMap::default());
    for page in (0..PAGES).step_by(2) {
        unpin(&mut pins, pages(page, page + 1), page as u64, &mut 1);
    }
    let mut rest = pages(0, PAGES);
    // The first of 256 steps finds no gap before the range at page 0.
    assert_eq!(pins.gaps(&mut rest), 255);
    assert_eq!(rest.start(), 511);
    let mut rest = pages(0, PAGES);
    let step = pins.pin(&mut rest, &mut false, &mut None);
    assert_eq!(
        (step, rest.start()),
        (Progress::NeedSpare, 0),
        "in case it is paused"
    );
    let step = pins.pin(&mut rest, &mut false, &mut Some(()));
    assert_eq!((step, rest.start()), (Progress::More, 511));
    assert!(pins.is_pinned(pages(0, 511)) && !pins.is_pinned(pages(0, 513)));
    unpin(&mut pins, pages(0, PAGES), 9999, &mut PAGES.clone());
    assert_eq!(pins.unpinned(), PAGES);
    assert!(!pin(&mut pins, pages(0, PAGES)));
    assert_eq!(pins.unpinned(), 0);
}

#[test]
fn everything_is_pinned_without_a_spare() {
    let mut pins = Pins::new(RangeMap::default(), BlockMap::default());
    for page in (0..PAGES).step_by(2) {
        unpin(&mut pins, pages(page, page + 1), page as u64, &mut 1);
    }
    let mut rest = PageRange::everything();
    loop {
        match pins.pin(&mut rest, &mut false, &mut None) {
            Progress::More => {}
            Progress::Done => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pins.unpinned(), 0);
    assert!(pins.is_pinned(pages(0, PAGES)));
}

#[test]
fn blocks_exist_while_they_say_something() {
    let mut pins = Pins::new(RangeMap::default(), BlockMap::default());
    assert!(!pins.arriving(7, &mut None), "without a block");
    assert!(pins.arriving(7, &mut Some(())));
    assert!(pins.arriving(8, &mut None), "the block is there");
    pins.cancelled(8);
    pins.inserted(7);
    pins.removed(7);
    assert!(!pins.arriving(7, &mut None), "nothing was left in it");

    // A mark keeps it, until the page is pinned.
    touch(&mut pins, 7);
    unpin(&mut pins, pages(0, 9), 1, &mut 1);
    assert!(claim(&mut pins, 0, 1) && pins.purge(8, 7));
    pins.release(8);
    assert!(pins.arriving(7, &mut None));
    pins.cancelled(7);
    assert!(pin(&mut pins, pages(0, 9)));
    assert!(!pins.arriving(7, &mut None));
}

#[test]
fn bases_differ_in_what_a_mark_means() {
    let mut pins = Pins::new(RangeMap::default(), BlockMap::default());
    touch(&mut pins, 2);
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
