// SPDX-License-Identifier: GPL-2.0-only

//! Page faults on mappings of regions.

use crate::{
    glue::vm::{
        Fault,
        Outcome,
        VmOperations, //
    },
    reclaim,
    region::{
        PopulateError,
        Region, //
    }, //
};

impl VmOperations for Region {
    fn fault(&self, fault: &Fault<'_>) -> Outcome {
        self.counters.faults.add(1);

        let index = fault.index();
        let mapping = fault.mapping();
        if index >= mapping.size() {
            return Outcome::Sigbus;
        }

        let mut may_purge = true;
        loop {
            if let Some(folio) = mapping.lock_folio(index) {
                if folio.folio().is_poisoned() {
                    return Outcome::Poisoned;
                }
                return Outcome::Map(folio);
            }
            // What is only copied from needs no page of the region.
            if fault.is_private_write() {
                return Outcome::Zeros;
            }
            match self.populate(mapping, index) {
                Ok(folio) => return Outcome::Map(folio),
                Err(PopulateError::Exists) => {}
                Err(PopulateError::NoMemory) => return Outcome::OutOfMemory,
                Err(PopulateError::Limit) => {
                    // Once: if others are faster at taking what was freed, so be it.
                    if !may_purge || reclaim::make_room(self.shared()) == 0 {
                        return Outcome::Sigbus;
                    }
                    may_purge = false;
                }
            }
        }
    }

    fn mapped_around(&self, resolved: bool) {
        if resolved {
            self.counters.map_faults.add(1);
        }
    }
}
