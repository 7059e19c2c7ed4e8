// SPDX-License-Identifier: GPL-2.0-only

//! What faults on a region do, by a model that is page by page and as plain as can be: how many
//! pages each of them allocates and maps.
//!
//! Host tests compare its rule with the driver's own code; the tests of counts compare its numbers
//! with those of a kernel.

use std::ops::AddAssign;
use std::ops::Range;

/// Pages that a page table maps.
pub const TABLE: usize = 512;

/// The pages that a fault on `page`, which has no memory, allocates: as many as have memory in a row
/// beside it, or any number if the mapping is said to be `sequential`, rounded down to a power of two, at
/// a multiple of their number, at most `1 << max`, within `bounds`, and none that has memory.
pub fn folio(
    resident: impl Fn(usize) -> bool,
    page: usize,
    bounds: &Range<usize>,
    max: u32,
    sequential: bool,
) -> Range<usize> {
    let below = (0..page).rev().take_while(|&page| resident(page)).count();
    let above = (page + 1..).take_while(|&page| resident(page)).count();
    let run = match sequential {
        true => usize::MAX,
        false => below.max(above),
    };
    let mut best = page..page + 1;
    for order in 0..=max {
        let size = 1 << order;
        let start = page / size * size;
        let block = start..start + size;
        if size <= run
            && bounds.start <= block.start
            && block.end <= bounds.end
            && !block.clone().any(&resident)
        {
            best = block;
        }
    }
    best
}

/// What some touches did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Runs of the fault handler.
    pub faults: u64,
    /// Calls of map_pages that resolved the fault.
    pub map_faults: u64,
    /// Pages allocated.
    pub allocated: u64,
    /// Minor faults of this process.
    pub minor: u64,
}

impl AddAssign for Step {
    fn add_assign(&mut self, other: Self) {
        self.faults += other.faults;
        self.map_faults += other.map_faults;
        self.allocated += other.allocated;
        self.minor += other.minor;
    }
}

/// A region's page cache.
pub struct Model {
    /// The folio of each page.
    folios: Vec<Option<Range<usize>>>,
    max_order: u32,
    /// Pages that the kernel maps around a read fault.
    window: usize,
    sequential: bool,
}

/// A mapping of all of it, which of its page tables there are, and which of its pages are in them.
pub struct ModelMapping {
    base: usize,
    tables: Vec<bool>,
    mapped: Vec<bool>,
}

impl Model {
    /// A region of so many pages, of which none has memory.
    pub fn new(pages: usize, max_order: u32, window: usize) -> Self {
        Self {
            folios: vec![None; pages],
            max_order,
            window,
            sequential: false,
        }
    }

    /// The same, with `MADV_SEQUENTIAL` for its mappings.
    pub fn sequential(mut self) -> Self {
        self.sequential = true;
        self
    }

    /// A mapping that begins at page `base` of the address space, where nothing else has made a page
    /// table.
    pub fn map(&self, base: usize) -> ModelMapping {
        let pages = self.folios.len();
        ModelMapping {
            base,
            tables: vec![false; (base + pages).div_ceil(TABLE) - base / TABLE],
            mapped: vec![false; pages],
        }
    }

    /// Each of these pages is written to, through a shared mapping.
    pub fn write(&mut self, map: &mut ModelMapping, pages: Range<usize>) -> Step {
        let mut step = Step::default();
        for page in pages {
            if !map.mapped[page] {
                self.handle(map, page, &mut step);
            }
        }
        step
    }

    /// Each of these pages is read.
    pub fn read(&mut self, map: &mut ModelMapping, pages: Range<usize>) -> Step {
        let mut step = Step::default();
        for page in pages {
            if map.mapped[page] {
                continue;
            }
            // What is there is mapped first; that may be enough. But a folio that is all of it, and of which
            // nothing is mapped, is left to the handler.
            let around = map.around(page, self.window);
            let alone = self.whole(map, page).is_some_and(|folio| {
                folio.len() >= 4
                    && folio.start <= around.start
                    && around.end <= folio.end
                    && !folio.clone().any(|page| map.mapped[page])
            });
            if alone {
                self.handle(map, page, &mut step);
                continue;
            }
            // See `filemap_map_pages` in mm/filemap.c: of a folio at which the file ends it maps what is
            // around, not all, and where that is the first one, it makes no page table.
            let ends = |folio: &Range<usize>| folio.end == self.folios.len();
            let first = around.clone().find_map(|near| self.folios[near].as_ref());
            if first.is_some_and(|folio| !ends(folio)) {
                *map.has_table(page) = true;
            }
            if *map.has_table(page) {
                for near in around {
                    match self.whole(map, near) {
                        Some(folio) if !ends(&folio) => map.mapped[folio].fill(true),
                        _ => map.mapped[near] |= self.folios[near].is_some(),
                    }
                }
            }
            if map.mapped[page] {
                step.map_faults += 1;
                step.minor += 1;
            } else {
                self.handle(map, page, &mut step);
            }
        }
        step
    }

    /// Each of these pages is written to, through a private mapping: nothing of the region changes.
    pub fn write_private(&self, pages: Range<usize>) -> Step {
        let touched = pages.len() as u64;
        Step {
            faults: touched,
            minor: touched,
            ..Step::default()
        }
    }

    /// These pages, of whole folios, lose their memory.
    pub fn remove(&mut self, maps: &mut [&mut ModelMapping], pages: Range<usize>) {
        for page in pages.clone() {
            let folio = self.folios[page].take();
            assert!(folio.is_none_or(|f| pages.start <= f.start && f.end <= pages.end));
            for map in maps.iter_mut() {
                map.mapped[page] = false;
            }
        }
    }

    fn handle(&mut self, map: &mut ModelMapping, page: usize, step: &mut Step) {
        step.faults += 1;
        step.minor += 1;
        *map.has_table(page) = true;
        if self.folios[page].is_none() {
            let resident = |page: usize| self.folios.get(page).is_some_and(Option::is_some);
            let table = map.table(page);
            let folio = folio(resident, page, &table, self.max_order, self.sequential);
            step.allocated += folio.len() as u64;
            for page in folio.clone() {
                self.folios[page] = Some(folio.clone());
            }
        }
        let whole = self.whole(map, page);
        let whole = whole.filter(|folio| !folio.clone().any(|page| map.mapped[page]));
        for page in whole.unwrap_or(page..page + 1) {
            map.mapped[page] = true;
        }
    }

    /// The folio of `page`, if one page table maps all of it.
    fn whole(&self, map: &ModelMapping, page: usize) -> Option<Range<usize>> {
        let table = map.table(page);
        self.folios[page]
            .clone()
            .filter(|folio| table.start <= folio.start && folio.end <= table.end)
    }
}

impl ModelMapping {
    /// Nothing of it is in its page tables any more, which stay.
    pub fn forget(&mut self) {
        self.mapped.fill(false);
    }

    /// Whether there is a page table for `page`.
    fn has_table(&mut self, page: usize) -> &mut bool {
        &mut self.tables[(self.base + page) / TABLE - self.base / TABLE]
    }

    /// Its pages that the page table of `page` maps.
    fn table(&self, page: usize) -> Range<usize> {
        let first = (self.base + page) / TABLE * TABLE;
        let start = first.max(self.base) - self.base;
        let end = (first + TABLE - self.base).min(self.mapped.len());
        start..end
    }

    /// What the kernel maps around `page`: see `do_fault_around` in mm/memory.c.
    fn around(&self, page: usize, window: usize) -> Range<usize> {
        let table = self.table(page);
        let aligned = (self.base + page) / window * window;
        let start = aligned.max(self.base + table.start) - self.base;
        start..(start + window).min(table.end)
    }
}
