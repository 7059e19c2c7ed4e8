// SPDX-License-Identifier: GPL-2.0-only

//! Page faults on mappings of regions.

use crate::{
    glue::{
        folio::HUGE_ORDER,
        vm::{
            Fault,
            Outcome,
            VmOperations, //
        }, //
    },
    policy::{
        growth::{
            Advice,
            Near, //
        },
        page_range::PageRange, //
    },
    reclaim,
    region::{
        BlockArray,
        Huge,
        PopulateError,
        Region, //
    }, //
};
use core::ops::Range;

/// What is said of the mapping.
fn advice(fault: &Fault<'_>) -> Advice {
    if fault.advises_random() || fault.wants_single_pages() {
        Advice::Single
    } else if fault.advises_sequential() || fault.advises_huge() {
        Advice::Sequential
    } else {
        Advice::Normal
    }
}

/// The pages that one folio may have, to be mapped whole.
fn bounds(fault: &Fault<'_>) -> PageRange {
    let mappable = fault.mappable();
    PageRange::whole(fault.mapping().size()).clamp(mappable.start, mappable.end)
}

/// Order of the folio to be allocated for it.
fn order(region: &Region, fault: &Fault<'_>, near: &Near<'_, BlockArray>) -> u32 {
    near.order(bounds(fault), region.shared().max_order, advice(fault))
}

/// What becomes of the fault if the page is there.
fn found(region: &Region, fault: &Fault<'_>) -> Option<Outcome> {
    let folio = fault.mapping().lock_folio(fault.index())?;

    // Of a folio in which memory has failed the core would map all, so that nobody gets it until it is split.
    // `memory_failure` marks it before it locks it for that: a fault in between is told that its page has
    // failed, sound as it may be. To wait could be for ever: not every folio can be split.
    if folio.folio().is_poisoned() {
        return Some(Outcome::Poisoned);
    }
    if folio.folio().nr_pages() == 1 << HUGE_ORDER && fault.maps_huge() {
        region.counters.huge_faults.add(1);
    }
    Some(Outcome::Map(folio))
}

impl VmOperations for Region {
    fn fault(&self, fault: &Fault<'_>) -> Outcome {
        self.counters.faults.add(1);

        let index = fault.index();
        let mapping = fault.mapping();
        if index >= mapping.size() {
            return Outcome::Sigbus;
        }

        // A page may be there that is not noted yet, and no content may be missed where it is copied; else
        // it is found when a folio is to take its place.
        let near = self.near(index);
        let mut look = fault.is_private() || near.is_resident();
        let mut may_purge = true;
        let mut small = false;
        let mut failed = None;
        loop {
            if look {
                if let Some(outcome) = found(self, fault) {
                    return outcome;
                }
            }
            // What is only copied from needs no page of the region.
            if fault.is_private_write() {
                return Outcome::Zeros;
            }
            let order = if small { 0 } else { order(self, fault, &near) };
            let error = match failed.take() {
                Some(error) => error,
                None => match self.populate(mapping, index, order) {
                    Ok(folio) => return Outcome::Map(folio),
                    // One page may be had still,
                    Err(PopulateError::NoMemory | PopulateError::Limit) if order != 0 => {
                        small = true;
                        continue;
                    }
                    // or be there by now.
                    Err(error) if !look => {
                        look = true;
                        small = true;
                        failed = Some(error);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            match error {
                // This page or one beside it: another fault may not have noted it yet.
                PopulateError::Exists => {
                    look = true;
                    small = true;
                }
                PopulateError::NoMemory => return Outcome::OutOfMemory,
                PopulateError::Limit => {
                    // Once: if others are faster at taking what was freed, so be it.
                    if !may_purge || reclaim::make_room(self.shared()) == 0 {
                        return Outcome::Sigbus;
                    }
                    may_purge = false;
                }
            }
        }
    }

    fn huge_fault(&self, fault: &Fault<'_>) {
        let wanted = match self.shared().huge {
            Huge::Never => false,
            Huge::Advise => fault.advises_huge(),
            Huge::Always => true,
        };
        if !wanted || fault.is_private() || fault.wants_single_pages() || !fault.fits_huge() {
            return;
        }
        let (mapping, index) = (fault.mapping(), fault.index());
        let block = PageRange::block(index, HUGE_ORDER);
        if block.end() <= mapping.size() && self.near(index).is_hole(block) {
            // If it fails, `fault` takes less.
            drop(self.populate(mapping, index, HUGE_ORDER));
        }
    }

    fn maps_alone(
        &self,
        fault: &Fault<'_>,
        order: u32,
        around: Range<usize>,
    ) -> Option<Range<usize>> {
        let folio = PageRange::block(fault.index(), order);
        let folio = folio.start()..folio.end();
        if folio.start > around.start || folio.end < around.end {
            return None;
        }
        // What the core would map is within what may be mapped.
        if folio != around {
            let bounds = bounds(fault);
            if folio.start < bounds.start() || folio.end > bounds.end() {
                return None;
            }
        }
        Some(folio)
    }

    fn mapped_around(&self, resolved: bool) {
        if resolved {
            self.counters.map_faults.add(1);
        }
    }
}
