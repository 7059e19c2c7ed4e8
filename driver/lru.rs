// SPDX-License-Identifier: GPL-2.0-only

//! All ranges that a purge could take something from, those first that were unpinned longest ago.
//!
//! Two trees under one spinlock: the *live* ranges have resident pages, which is what memory
//! pressure is after; the *idle* ones have none, and only PURGE_ALL_CACHES looks at them. So the
//! shrinker never walks over what cannot help it.

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
        SpinLock, //
    }, //
};

/// Order of the ranges: by age; the first page tells apart what was unpinned by one call.
///
/// When PIN takes a part of a range, what is left of it is listed where it was or further on: a
/// walk that goes on behind a key misses nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// When the range was unpinned, see [`Lru::now`].
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

/// The ranges of all regions; `H` is what leads to a range's region.
#[pin_data]
pub(crate) struct Lru<H> {
    /// A leaf: nothing is taken under it but what dropping an `H` takes.
    #[pin]
    trees: SpinLock<Trees<H>>,
    /// Live pages of all ranges, claimed ones included.
    pages: Atomic<isize>,
    clock: Atomic<u64>,
}

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

impl<H: Clone + Unpin> Lru<H> {
    /// No range at all.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            trees <- new_spinlock!(
                Trees {
                    live: RBTree::new(),
                    idle: RBTree::new(),
                },
                "ashmem_lru"
            ),
            pages: Atomic::new(0),
            clock: Atomic::new(0),
        })
    }

    /// A new age, greater than all before.
    pub(crate) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }

    /// How many pages could be freed.
    pub(crate) fn pages(&self) -> usize {
        // Sums of concurrent additions may be seen in any order.
        usize::try_from(self.pages.load(Relaxed)).unwrap_or(0)
    }

    /// A range got `after` live pages, where there were `before`.
    pub(crate) fn live_changed(&self, before: usize, after: usize) {
        if before != after {
            self.pages.add(after as isize - before as isize, Relaxed);
        }
    }

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

    /// The oldest live range behind `after`.
    pub(crate) fn next_live(&self, after: Option<Key>) -> Option<(Key, H)> {
        first_behind(&self.trees.lock().live, after)
    }

    /// The oldest range of all behind `after`.
    pub(crate) fn next(&self, after: Option<Key>) -> Option<(Key, H)> {
        let trees = self.trees.lock();
        let live = first_behind(&trees.live, after);
        let idle = first_behind(&trees.idle, after);

        match (live, idle) {
            (Some(live), Some(idle)) => Some(if live.0 < idle.0 { live } else { idle }),
            (live, idle) => live.or(idle),
        }
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
