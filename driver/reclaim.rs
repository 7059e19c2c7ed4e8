// SPDX-License-Identifier: GPL-2.0-only

//! Taking memory back from unpinned ranges: for memory pressure, for PURGE_ALL_CACHES, and at the
//! module's own limit.
//!
//! ```text
//!   oldest entry of the LRU      LRU lock, then free of locks, with a reference to the file
//!     claim its range            pins lock: no PIN of it from here on
//!     for each folio of its live pages
//!       lock it                  never waiting for it in reclaim
//!       left if a page of it is not live
//!       unmap it
//!       left alone if DMA may be writing to it
//!       mark it purged           pins lock, under the folio lock
//!       remove it, unlock it
//!     give the claim back        pins lock; wakes PIN
//! ```
//!
//! A folio of which only a part may go has to be split, which takes locks and memory that reclaim may not
//! ask for. There it is left, and a worker is asked to take as much. Split at the end of the part, the pieces
//! are folios like any other:
//!
//! ```text
//!   pages     0  1  2  3  4  5  6  7  8 ... 15          one folio, of which 4 to 7 were unpinned
//!   split     0  1  2  3 |4|5|6  7| 8 ... 15            content stays
//! ```
//!
//! One that somebody else has a reference to, a pipe say, cannot be split, and stays.

use crate::{
    glue::{
        account_reclaimed_pages,
        current_is_kswapd,
        shrinker::{
            Pressure,
            Shrinker, //
        },
        without_reclaim,
        worker::{
            Job,
            Worker, //
        }, //
    },
    region::{
        Claim,
        How,
        RegionLru,
        RegionQueue,
        Shared,
        Taken, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// Pages that are freed at once when the module's limit is reached.
const ROOM: usize = 32;
/// Pages that PURGE_ALL_CACHES frees before it lets others at the range.
const SLICE: usize = 512;
/// Pages that end an attempt at direct reclaim: as many as the largest page that processes get by
/// themselves. A charge for more, a gigantic page of hugetlbfs, takes several attempts.
const RELIEF: usize = PAGE_SIZE / size_of::<u64>();
/// Pages that are freed before the OOM killer strikes. It asks again as long as there are some.
const OOM_ROOM: usize = 256;

/// Ticks that reclaim waits for the worker at most, where it could take nothing by itself,
const PATIENCE: isize = 25;
/// and kswapd, for which others wait.
const PATIENCE_OF_KSWAPD: isize = 2;
/// How many times as many pages as it is after the worker looks at, where it cannot take them.
const TRIES: usize = 16;

/// What memory pressure calls.
pub(crate) type Reclaim = Worker<Splitter>;

/// Takes what reclaim had to leave.
pub(crate) struct Splitter {
    lru: Arc<RegionLru>,
    /// Pages it freed.
    freed: Atomic<usize>,
}

impl Splitter {
    /// With nothing to do. May sleep.
    pub(crate) fn new(lru: Arc<RegionLru>) -> Result<Arc<Reclaim>> {
        let this = Self {
            lru,
            freed: Atomic::new(0),
        };
        Arc::pin_init(Worker::new(c"ashmem", this), GFP_KERNEL)
    }
}

impl Job for Splitter {
    fn run(&self) {
        // What it takes to split a folio is given back at once, and more.
        without_reclaim(|| {
            let now = self.lru.now();
            let mut number = None;
            while let Some(queue) = self.lru.next_queue(number) {
                number = Some(queue.number());
                let want = queue.take_left();
                let slack = want * TRIES;
                let taken = purge_queue_oldest(&queue, now, want, slack, How::AnyProcess);
                self.freed.fetch_add(taken.freed, Relaxed);
            }
        });
    }
}

impl Reclaim {
    /// Frees about `want` pages. Where it can free none of the oldest, but the worker may, gives it some
    /// time; and looks further where that does not help.
    fn reclaim(&self, pressure: Option<&Pressure<'_>>, want: usize) -> usize {
        let splitter = self.job();
        let taken = purge_oldest(&splitter.lru, pressure, want, 0, How::Reclaim);

        if taken.left == 0 {
            return taken.freed;
        }
        let before = splitter.freed.load(Relaxed);
        let ticket = self.ask();
        if taken.freed != 0 {
            return taken.freed;
        }
        // Not for ever: the worker may need a lock that the task has which waits here.
        self.wait(
            ticket,
            if current_is_kswapd() {
                PATIENCE_OF_KSWAPD
            } else {
                PATIENCE
            },
        );
        match splitter.freed.load(Relaxed).wrapping_sub(before) {
            0 => purge_oldest(&splitter.lru, pressure, want, usize::MAX, How::Reclaim).freed,
            freed => freed,
        }
    }
}

impl Shrinker for Reclaim {
    fn count(&self, pressure: &Pressure<'_>) -> usize {
        self.job().lru.pages(pressure)
    }

    fn scan(&self, pressure: &Pressure<'_>, want: usize) -> Option<usize> {
        if pressure.is_relieved(RELIEF) {
            return None;
        }
        let freed = self.reclaim(Some(pressure), want);
        account_reclaimed_pages(freed);
        (freed != 0).then_some(freed)
    }

    fn before_oom(&self) -> usize {
        self.reclaim(None, OOM_ROOM)
    }
}

/// Queues that one call takes from.
const MOST_QUEUES: usize = 64;

/// Takes about `want` live pages, those first that were unpinned longest ago; with `pressure`, of
/// those that can help there. Those left count as well, but for the first `slack` of a queue, and are noted
/// there by reclaim.
fn purge_oldest(
    lru: &RegionLru,
    pressure: Option<&Pressure<'_>>,
    want: usize,
    slack: usize,
    how: How,
) -> Taken {
    let now = lru.now();
    let mut taken = Taken::default();
    // Each once: what can be taken from it is taken then.
    let mut seen = [0; MOST_QUEUES];

    // Usually the first one has enough.
    for at in 0..MOST_QUEUES {
        if taken.freed >= want {
            break;
        }
        let Some(queue) = lru.oldest(pressure, &seen[..at]) else {
            break;
        };
        seen[at] = queue.number();
        taken.add(purge_queue_oldest(
            &queue,
            now,
            want - taken.freed,
            slack,
            how,
        ));
        if taken.freed != 0 && taken.counted(slack) >= want {
            break;
        }
    }
    taken
}

/// The same of one queue, of what was unpinned before `now`: others may unpin faster than this comes on.
fn purge_queue_oldest(queue: &RegionQueue, now: u64, want: usize, slack: usize, how: How) -> Taken {
    let mut taken = Taken::default();
    let mut after = None;

    while taken.counted(slack) < want {
        let Some((key, file)) = queue.next_live(after) else {
            break;
        };
        if key.age >= now {
            break;
        }
        after = Some(key);
        if let Some(claim) = Claim::new(file, key, false) {
            let rest = want - taken.counted(slack);
            let slack = slack.saturating_sub(taken.left);
            taken.add(claim.purge(&mut 0, rest, slack, how));
        }
    }
    if how == How::Reclaim {
        queue.leave(taken.left.min(want));
    }
    taken
}

/// Purges some pages because the module's limit is reached; gives how many. May sleep; no folio may be
/// locked.
pub(crate) fn make_room(shared: &Shared) -> usize {
    purge_oldest(&shared.lru, None, ROOM, usize::MAX, How::AnyProcess).freed
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
            let pages = claim
                .purge(&mut from, SLICE, usize::MAX, How::AnyProcess)
                .freed;

            purged += pages;
            if pages < SLICE {
                break;
            }
        }
    }
    purged
}
