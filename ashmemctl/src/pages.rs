// SPDX-License-Identifier: GPL-2.0-only

//! The pages of one region. To ask for them changes none.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use ashmem::PageState;
use ashmem::PageStatus;
use linux_raw_sys::general::PAGE_IS_HUGE;
use linux_raw_sys::general::page_region;
use linux_raw_sys::general::pm_scan_arg;
use serde::Serialize;

use crate::error;
use crate::error::Error;
use crate::error::Result;
use crate::error::is_gone;
use crate::maps::Mapping;
use crate::snapshot::Holder;
use crate::snapshot::Region;
use crate::text;

nix::ioctl_readwrite!(
    /// PAGEMAP_SCAN
    pagemap_scan,
    b'f',
    16,
    pm_scan_arg
);

/// Whether the kernel may take a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It must not.
    Pinned,
    /// It may.
    Unpinned,
    /// It has, since the page was unpinned.
    Purged,
}

/// What memory a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// None.
    None,
    /// A page of its own, or a part of a folio.
    Page,
    /// A part of what some process maps as a huge page.
    Huge,
}

/// What is shown of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Whether the kernel may take it.
    pub state: State,
    /// What memory it has.
    pub memory: Memory,
}

/// How many kinds there are.
pub const KINDS: usize = 9;

impl Kind {
    /// All, a state after the other.
    pub const ALL: [Self; KINDS] = {
        let states = [State::Pinned, State::Unpinned, State::Purged];
        let memories = [Memory::None, Memory::Page, Memory::Huge];
        let first = Self {
            state: State::Pinned,
            memory: Memory::None,
        };
        let mut all = [first; KINDS];
        let mut at = 0;
        while at < KINDS {
            all[at] = Self {
                state: states[at / 3],
                memory: memories[at % 3],
            };
            at += 1;
        }
        all
    };

    /// Its place in [`Self::ALL`].
    pub fn number(self) -> usize {
        self.state as usize * 3 + self.memory as usize
    }

    /// What a picture has for it: small with memory, a capital in a huge page.
    pub fn letter(self) -> char {
        [['.', 'o', 'O'], ['-', 'u', 'U'], ['x', 'p', 'P']][self.state as usize]
            [self.memory as usize]
    }
}

/// Pages in a row that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The first one.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// What they are.
    #[serde(flatten)]
    pub kind: Kind,
}

/// All pages of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages(Vec<Run>);

/// How many of each kind.
pub type Counts = [u64; KINDS];

/// So many pages are asked for at once.
const AT_ONCE: u64 = 1 << 20;

/// More pages are not asked for: with pages of 4 KiB, 1 TiB. Anybody can make a region of a million
/// times as much, of which there is no memory, and to look at it takes hours.
const AT_MOST: u64 = 1 << 28;

impl Pages {
    /// Asks for those of a region, of `page` bytes each; none if it was never mapped.
    pub fn of(region: &Region, page: u64) -> Result<Self> {
        if region.inode.is_none() {
            return Ok(Self::default());
        }
        let handle = region.open()?;
        let size = handle.size()?;
        if size > AT_MOST * page {
            let message = format!(
                "it has {}, and at most {} are shown; its counters are in `ashmemctl list`",
                text::bytes(size),
                text::bytes(AT_MOST * page)
            );
            return Err(Error::new(error::Kind::Other, message));
        }
        // In this order: what has no memory any more is in no huge page.
        let huge = huge(region, page)?;
        let size = size.next_multiple_of(page);
        let mut pages = Self::default();
        for first in (0..size / page).step_by(AT_ONCE as usize) {
            let end = size.min((first + AT_ONCE) * page);
            let status = handle.page_status(first * page..end)?;
            pages.add(first, &status, &huge);
        }
        Ok(pages)
    }

    /// Adds pages from `first` on; `huge` are ranges of such, in order.
    fn add(&mut self, first: u64, status: &[PageStatus], huge: &[Range<u64>]) {
        for (page, status) in (first..).zip(status) {
            let memory = || {
                let next = huge.partition_point(|range| range.end <= page);
                match huge.get(next) {
                    Some(range) if range.contains(&page) => Memory::Huge,
                    _ => Memory::Page,
                }
            };
            let kind = Kind {
                state: match status.state {
                    PageState::Pinned => State::Pinned,
                    PageState::Unpinned => State::Unpinned,
                    PageState::Purged => State::Purged,
                },
                memory: if status.resident {
                    memory()
                } else {
                    Memory::None
                },
            };
            match self.0.last_mut() {
                Some(last) if last.kind == kind => last.pages += 1,
                _ => self.0.push(Run {
                    first: page,
                    pages: 1,
                    kind,
                }),
            }
        }
    }

    /// In order.
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.last().map_or(0, |run| run.first + run.pages)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of each kind there are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for run in &self.0 {
            counts[run.kind.number()] += run.pages;
        }
        counts
    }

    /// For each `group` of pages, what most of them are; of as many, the first kind of
    /// [`Kind::ALL`].
    pub fn groups(&self, group: u64) -> Vec<Kind> {
        let mut groups = vec![];
        let mut counts = Counts::default();
        let mut filled = 0;
        let mut close = |counts: &mut Counts| {
            let most = counts.iter().max().copied().unwrap_or_default();
            let kind = Kind::ALL
                .into_iter()
                .find(|kind| counts[kind.number()] == most);
            groups.extend(kind);
            *counts = Counts::default();
        };
        for run in &self.0 {
            let mut left = run.pages;
            while left != 0 {
                let part = left.min(group - filled);
                counts[run.kind.number()] += part;
                filled += part;
                left -= part;
                if filled == group {
                    close(&mut counts);
                    filled = 0;
                }
            }
        }
        if filled != 0 {
            close(&mut counts);
        }
        groups
    }
}

/// The pages that are parts of a huge page in some process, in order.
fn huge(region: &Region, page: u64) -> Result<Vec<Range<u64>>> {
    let mut found = vec![];
    for holder in &region.holders {
        match huge_in(holder, page) {
            Ok(ranges) => found.extend(ranges),
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                return Err(Error::answer(
                    format!("/proc/{}/pagemap", holder.pid),
                    &error,
                ));
            }
        }
    }
    Ok(union(found))
}

/// Ranges in order, none of which overlap.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut union: Vec<Range<u64>> = vec![];
    for range in ranges {
        match union.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => union.push(range),
        }
    }
    union
}

/// Those of one process. A private mapping may have copies, and is left out.
fn huge_in(holder: &Holder, page: u64) -> io::Result<Vec<Range<u64>>> {
    let mut found = vec![];
    let shared = holder.mappings.iter().filter(|mapping| mapping.shared);
    for mapping in shared {
        let pagemap = File::open(format!("/proc/{}/pagemap", holder.pid))?;
        let at = |address: u64| (address - mapping.start + mapping.offset) / page;
        let ranges = scan(&pagemap, mapping)?;
        found.extend(
            ranges
                .into_iter()
                .map(|range| at(range.start)..at(range.end)),
        );
    }
    Ok(found)
}

/// The addresses of a mapping at which the page table has huge pages: PAGEMAP_SCAN, which only
/// reads as long as it is not told to write-protect.
fn scan(pagemap: &File, mapping: &Mapping) -> io::Result<Vec<Range<u64>>> {
    const ROOM: usize = 512;
    let mut found = vec![];
    let mut start = mapping.start;
    while start < mapping.end {
        let mut room: Vec<page_region> = Vec::with_capacity(ROOM);
        let mut scan = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: 0,
            start,
            end: mapping.end,
            walk_end: 0,
            vec: room.as_mut_ptr() as u64,
            vec_len: ROOM as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_HUGE.into(),
            category_anyof_mask: 0,
            return_mask: PAGE_IS_HUGE.into(),
        };
        // SAFETY: There is room for as many ranges as it says, and the kernel writes no more.
        let filled = unsafe { pagemap_scan(pagemap.as_raw_fd(), &raw mut scan) }?;
        // SAFETY: So many the kernel has written.
        unsafe { room.set_len(filled as usize) };
        found.extend(room.iter().map(|range| range.start..range.end));
        // It ends early when the room is used up.
        if scan.walk_end <= start {
            break;
        }
        start = scan.walk_end;
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod unit {
    use super::*;

    /// The pages of a picture.
    pub(crate) fn drawn(picture: &str) -> Pages {
        let mut pages = Pages::default();
        for (at, letter) in picture.chars().enumerate() {
            let kind = Kind::ALL
                .into_iter()
                .find(|kind| kind.letter() == letter)
                .expect("a letter of a picture");
            let status = PageStatus {
                state: match kind.state {
                    State::Pinned => PageState::Pinned,
                    State::Unpinned => PageState::Unpinned,
                    State::Purged => PageState::Purged,
                },
                resident: kind.memory != Memory::None,
            };
            let at = at as u64;
            let huge = (kind.memory == Memory::Huge).then_some(at..at + 1);
            pages.add(at, &[status], huge.as_slice());
        }
        pages
    }

    fn picture(pages: &Pages, group: u64) -> String {
        pages.groups(group).into_iter().map(Kind::letter).collect()
    }

    #[test]
    fn each_kind_has_its_letter_and_its_number() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.number(), number);
        }
        let letters: String = Kind::ALL.into_iter().map(Kind::letter).collect();
        assert_eq!(letters, ".oO-uUxpP");
        assert_eq!(picture(&drawn(&letters), 1), letters);
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let pages = drawn("oo..OOOOx");
        let runs: Vec<_> = pages
            .runs()
            .iter()
            .map(|run| (run.first, run.pages, run.kind.letter()))
            .collect();
        let expected = [(0, 2, 'o'), (2, 2, '.'), (4, 4, 'O'), (8, 1, 'x')];
        assert_eq!(runs, expected);
        assert_eq!(
            (pages.len(), pages.counts()),
            (9, [2, 2, 4, 0, 0, 0, 1, 0, 0])
        );
        assert_eq!(Pages::default().len(), 0);
    }

    #[test]
    fn a_group_is_what_most_of_it_is() {
        let pages = drawn("ooo.uu--xxxxOx");
        assert_eq!(picture(&pages, 1), "ooo.uu--xxxxOx");
        // As many of either: the first of the two in the table.
        assert_eq!(picture(&pages, 2), "o.u-xxO");
        assert_eq!(picture(&pages, 4), "o-xO");
        assert_eq!(picture(&pages, 14), "x");
        assert_eq!(picture(&pages, 1000), "x");
        assert_eq!(picture(&Pages::default(), 4), "");
    }

    #[test]
    fn huge_pages_are_where_the_ranges_say_and_have_memory() {
        let status = |resident| PageStatus {
            state: PageState::Pinned,
            resident,
        };
        let mut pages = Pages::default();
        let all: Vec<_> = [true, true, true, false, true, true].map(status).to_vec();
        pages.add(10, &all, &union(vec![14..15, 3..4, 11..13, 12..14]));
        let letters: String = pages
            .runs()
            .iter()
            .flat_map(|run| (0..run.pages).map(|_| run.kind.letter()))
            .collect();
        assert_eq!(letters, "oOO.Oo");
    }

    #[test]
    fn ranges_are_united() {
        assert_eq!(union(vec![8..9, 1..3, 3..5, 2..4, 7..8]), [1..5, 7..9]);
        assert_eq!(union(vec![]), []);
    }
}
