// SPDX-License-Identifier: GPL-2.0-only

//! All ranges that a purge could take something from, those first that were unpinned longest ago.
//!
//! ```text
//!   Lru      memory cgroup A   -> Queue   live: 3 [r1] 7 [r2] 9 [r3]     idle: 5 [r1]
//!            memory cgroup B   -> Queue   live: 4 [r4]                   idle:
//! ```
//!
//! A range belongs to the memory cgroup of the task that unpinned it: a container that is short of
//! memory gets at its own ranges, and at no others. Of a cgroup that is gone, the parent takes over
//! what is left.
//!
//! In a queue, two trees under one spinlock: the *live* ranges have resident pages, which is what
//! memory pressure is after; the *idle* ones have none, and only PURGE_ALL_CACHES looks at them. So
//! the shrinker never walks over what cannot help it.

use crate::glue::{
    per_cgroup::{
        CgroupObject,
        CgroupRef,
        PerCgroup, //
    },
    shrinker::{
        Pressure,
        ShrinkerId, //
    }, //
};
use kernel::{
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    }, //
};

/// Order of the ranges: by age; the first page tells apart what was unpinned by one call.
///
/// When PIN takes a part of a range, what is left of it is listed where it was or further on: a
/// walk that goes on behind a key misses nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// When the range was unpinned, see [`Lru::now`]. No two calls have the same.
    pub(crate) age: u64,
    /// Its first page.
    pub(crate) start: usize,
}

/// Which of the trees a range belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// It has pages that can be freed.
    Live,
    /// It has pages that can be marked only.
    Idle,
}

/// Memory for one entry.
pub(crate) type Node<H> = RBTreeNodeReservation<Key, H>;

/// What a queue's entries hold: it leads to a range's region.
pub(crate) trait Handle: Clone + Send + Sync + Unpin + 'static {}

impl<H: Clone + Send + Sync + Unpin + 'static> Handle for H {}

/// Queues of a cgroup that are counted at once. That it has more than its own one takes cgroups in it
/// that were removed and left unpinned ranges behind.
const MOST_COUNTED: usize = 1024;
/// Of them, those among which the oldest range is looked for.
const MOST_LOOKED_AT: usize = 16;

/// The ranges of all regions.
pub(crate) struct Lru<H: Handle> {
    queues: Arc<PerCgroup<Queue<H>>>,
    clock: Atomic<u64>,
}

/// The ranges that tasks of one memory cgroup unpinned.
#[pin_data]
pub(crate) struct Queue<H: Handle> {
    /// A leaf.
    #[pin]
    trees: SpinLock<Trees<H>>,
    /// Live pages of all its ranges, claimed ones included.
    pages: Atomic<isize>,
    /// Pages that reclaim had to leave and would have taken.
    left: Atomic<usize>,
}

/// A counted reference to a queue.
pub(crate) type QueueRef<H> = CgroupRef<Queue<H>>;

struct Trees<H> {
    live: RBTree<Key, H>,
    idle: RBTree<Key, H>,
}

impl<H> Trees<H> {
    fn tree(&mut self, list: List) -> &mut RBTree<Key, H> {
        match list {
            List::Live => &mut self.live,
            List::Idle => &mut self.idle,
        }
    }
}

impl<H: Handle> CgroupObject for Queue<H> {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            trees <- new_spinlock!(
                Trees {
                    live: RBTree::new(),
                    idle: RBTree::new(),
                },
                "ashmem_lru"
            ),
            pages: Atomic::new(0),
            left: Atomic::new(0),
        })
    }

    /// Pages that could be freed.
    fn amount(&self) -> usize {
        usize::try_from(self.pages.load(Relaxed)).unwrap_or(0)
    }
}

impl<H: Handle> Queue<H> {
    /// Takes an entry from where it is listed, if it is, to where it shall be, if anywhere; in one
    /// step, so that nobody who walks the lists misses it. `node` is its memory while it is not
    /// listed.
    pub(crate) fn relist(
        &self,
        node: &mut Option<Node<H>>,
        from: Option<(List, Key)>,
        to: Option<(List, Key)>,
        handle: &H,
    ) {
        let mut trees = self.trees.lock();

        if let Some((list, key)) = from {
            let removed = trees.tree(list).remove_node(&key);
            debug_assert!(removed.is_some());
            *node = removed.map(|node| node.into_reservation());
        }
        if let Some((list, key)) = to {
            if let Some(node) = node.take() {
                let node = node.into_node(key, handle.clone());
                let replaced = trees.tree(list).insert(node);
                debug_assert!(replaced.is_none());
            }
        }
    }

    /// Notes that reclaim had to leave `pages` pages. Who leaves the same ones again does not add to it.
    pub(crate) fn leave(&self, pages: usize) {
        let mut old = self.left.load(Relaxed);

        while old < pages {
            match self.left.cmpxchg(old, pages, Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
    }

    /// How many pages reclaim had to leave since this was asked last.
    pub(crate) fn take_left(&self) -> usize {
        self.left.xchg(0, Relaxed)
    }

    /// The oldest live range behind `after`.
    pub(crate) fn next_live(&self, after: Option<Key>) -> Option<(Key, H)> {
        first_behind(&self.trees.lock().live, after)
    }

    /// The oldest range of all behind `after`.
    pub(crate) fn next(&self, after: Option<Key>) -> Option<(Key, H)> {
        let trees = self.trees.lock();
        let live = first_behind(&trees.live, after);
        let idle = first_behind(&trees.idle, after);

        older(live, idle)
    }
}

impl<H: Handle> QueueRef<H> {
    /// A range got `after` live pages, where there were `before`. To be called behind the `relist`
    /// that goes with it: who finds the pages counted shall find the range.
    pub(crate) fn live_changed(&self, before: usize, after: usize) {
        let change = after as isize - before as isize;

        if change != 0 && self.pages.fetch_add(change, Relaxed) == 0 {
            self.list();
        }
    }
}

impl<H: Handle> Lru<H> {
    /// No range at all, for this shrinker. `name` is that of the queues' slab cache. May sleep.
    pub(crate) fn new(name: &'static CStr, shrinker: ShrinkerId<'_>) -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                queues: PerCgroup::new(name, shrinker)?,
                clock: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// A new age, greater than all before.
    pub(crate) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }

    /// Where ranges that the current task unpins belong. May sleep.
    pub(crate) fn queue(&self) -> Result<QueueRef<H>> {
        self.queues.current()
    }

    /// How many pages could be freed where memory is short.
    pub(crate) fn pages(&self, pressure: &Pressure<'_>) -> usize {
        let mut sum = 0;
        let all = self
            .queues
            .each_listed(pressure, MOST_COUNTED, |_, pages| sum += pages);

        // Not none, if there may be some.
        if all {
            sum
        } else {
            sum.max(1)
        }
    }

    /// The queue whose oldest live range is the oldest, of those whose numbers are not in `but`;
    /// with `pressure`, of the queues that can help there.
    pub(crate) fn oldest(
        &self,
        pressure: Option<&Pressure<'_>>,
        but: &[u64],
    ) -> Option<QueueRef<H>> {
        let mut oldest = None;
        let mut look = |queue: QueueRef<H>| {
            if but.contains(&queue.number()) {
                return;
            }
            if let Some((key, _)) = queue.next_live(None) {
                oldest = older(oldest.take(), Some((key, queue)));
            }
        };

        if let Some(pressure) = pressure {
            // Few: that of the cgroup itself, and those of cgroups in it that are gone. They are
            // looked at without the lock that keeps them.
            let mut found = [const { None }; MOST_LOOKED_AT];
            let mut free = found.iter_mut();
            self.queues
                .each_listed(pressure, MOST_LOOKED_AT, |queue, _| {
                    if let Some(slot) = free.next() {
                        *slot = queue.get();
                    }
                });
            found.into_iter().flatten().for_each(look);
        } else {
            let mut number = None;
            while let Some(queue) = self.next_queue(number) {
                number = Some(queue.number());
                look(queue);
            }
        }
        oldest.map(|(_, queue)| queue)
    }

    /// Every queue, one after the other: the one behind that with this number.
    pub(crate) fn next_queue(&self, behind: Option<u64>) -> Option<QueueRef<H>> {
        self.queues.next(behind)
    }
}

fn older<T>(a: Option<(Key, T)>, b: Option<(Key, T)>) -> Option<(Key, T)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

fn first_behind<H: Clone>(tree: &RBTree<Key, H>, after: Option<Key>) -> Option<(Key, H)> {
    let from = after.map_or(Key { age: 0, start: 0 }, |key| Key {
        age: key.age,
        start: key.start + 1,
    });
    let cursor = tree.cursor_lower_bound(&from)?;
    let (key, handle) = cursor.current();
    Some((*key, handle.clone()))
}
