// SPDX-License-Identifier: GPL-2.0-only

//! Taking memory back from unpinned ranges: for memory pressure, for PURGE_ALL_CACHES, and at the
//! module's own limit.
//!
//! ```text
//!   oldest entry of the LRU      LRU lock, then free of locks, with a reference to the file
//!     claim its range            pins lock: no PIN of it from here on
//!     for each live page
//!       lock the folio           never waiting for it in reclaim
//!       unmap it
//!       left alone if DMA may be writing to it
//!       mark it purged           pins lock, under the folio lock
//!       remove it, unlock it
//!     give the claim back        pins lock; wakes PIN
//! ```

use crate::{
    glue::{
        account_reclaimed_pages,
        shrinker::{
            Pressure,
            Shrinker, //
        }, //
    },
    region::{
        Claim,
        RegionLru,
        RegionQueue,
        Shared, //
    }, //
};
use kernel::page::PAGE_SIZE;

/// Pages that are freed at once when the module's limit is reached.
const ROOM: usize = 32;
/// Pages that PURGE_ALL_CACHES frees before it lets others at the range.
const SLICE: usize = 512;
/// Pages that end an attempt at direct reclaim: as many as the largest page that processes get by
/// themselves. A charge for more, a gigantic page of hugetlbfs, takes several attempts.
const RELIEF: usize = PAGE_SIZE / size_of::<u64>();
/// Pages that are freed before the OOM killer strikes. It asks again as long as there are some.
const OOM_ROOM: usize = 256;

impl Shrinker for RegionLru {
    fn count(&self, pressure: &Pressure<'_>) -> usize {
        self.pages(pressure)
    }

    fn scan(&self, pressure: &Pressure<'_>, want: usize) -> Option<usize> {
        if pressure.is_relieved(RELIEF) {
            return None;
        }
        let freed = purge_oldest(self, Some(pressure), want);
        account_reclaimed_pages(freed);
        (freed != 0).then_some(freed)
    }

    fn before_oom(&self) -> usize {
        purge_oldest(self, None, OOM_ROOM)
    }
}

/// Queues that one call takes from.
const MOST_QUEUES: usize = 64;

/// Frees up to `want` live pages, those first that were unpinned longest ago; with `pressure`, of
/// those that can help there.
fn purge_oldest(lru: &RegionLru, pressure: Option<&Pressure<'_>>, want: usize) -> usize {
    let mut freed = 0;
    // Each once: what can be taken from it is taken then.
    let mut seen = [0; MOST_QUEUES];

    // Usually the first one has enough.
    for at in 0..MOST_QUEUES {
        if freed >= want {
            break;
        }
        let Some(queue) = lru.oldest(pressure, &seen[..at]) else {
            break;
        };
        seen[at] = queue.number();

        let mut after = None;
        while freed < want {
            let Some((key, file)) = queue.next_live(after) else {
                break;
            };
            after = Some(key);
            if let Some(claim) = Claim::new(file, key, false) {
                freed += claim.purge(&mut 0, want - freed, false);
            }
        }
    }
    freed
}

/// Purges some pages because the module's limit is reached; gives how many.
pub(crate) fn make_room(shared: &Shared) -> usize {
    purge_oldest(&shared.lru, None, ROOM)
}

/// Purges every page that is unpinned when it is called, and was not purged yet, touched or not;
/// gives how many these were.
///
/// May sleep. Leaves what a device may be writing to.
pub(crate) fn purge_all(shared: &Shared) -> usize {
    let lru = &shared.lru;
    let now = lru.now();
    let mut purged = 0;
    let mut number = None;

    while let Some(queue) = lru.next_queue(number) {
        number = Some(queue.number());
        purged += purge_queue(&queue, now);
    }
    purged
}

/// Purges what [`purge_all`] is to purge of one queue.
fn purge_queue(queue: &RegionQueue, now: u64) -> usize {
    let mut purged = 0;
    let mut after = None;

    while let Some((key, file)) = queue.next(after) {
        if key.age >= now {
            break;
        }
        after = Some(key);
        // First what has no memory: a page that is touched from here on was purged before.
        let mut holes = true;
        let mut from = 0;
        // In slices, between which a PIN may have its turn.
        while let Some(claim) = Claim::new(file.clone(), key, true) {
            if core::mem::take(&mut holes) {
                purged += claim.purge_holes();
            }
            let pages = claim.purge(&mut from, SLICE, true);

            purged += pages;
            if pages < SLICE {
                break;
            }
        }
    }
    purged
}
