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

/// Order of the ranges: by age; the last page tells apart what was unpinned by one call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// When the range was unpinned, see [`Lru::now`].
    pub(crate) age: u64,
    /// Its last page.
    pub(crate) last: usize,
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

    /// Adds a range. Its key must not be there yet.
    pub(crate) fn add(&self, node: Node<H>, list: List, key: Key, handle: H) {
        let node = node.into_node(key, handle);
        let replaced = self.trees.lock().tree(list).insert(node);
        debug_assert!(replaced.is_none());
    }

    /// Takes a range away; gives its memory back.
    pub(crate) fn remove(&self, list: List, key: Key) -> Option<Node<H>> {
        let node = self.trees.lock().tree(list).remove_node(&key);
        debug_assert!(node.is_some());
        node.map(|node| node.into_reservation())
    }

    /// The oldest range of `list`, or the oldest behind `after`.
    pub(crate) fn next(&self, list: List, after: Option<Key>) -> Option<(Key, H)> {
        let from = after.map_or(Key { age: 0, last: 0 }, |key| Key {
            age: key.age,
            last: key.last + 1,
        });
        let mut trees = self.trees.lock();
        let cursor = trees.tree(list).cursor_lower_bound(&from)?;
        let (key, handle) = cursor.current();
        Some((*key, handle.clone()))
    }
}
