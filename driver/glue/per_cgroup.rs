// SPDX-License-Identifier: GPL-2.0-only

//! One object for each memory cgroup, on a list where the cgroup's shrinker finds it.
//!
//! A shrinker that is called for a memory cgroup has to find what belongs to that cgroup without a
//! look at anything else, and what belonged to one that was removed has to go over to its parent.
//! The kernel's `list_lru` does both for objects in a slab cache: it knows the cgroup by the slab
//! memory's charge. Here, the one object of a cgroup is such an object, and holds in a structure of
//! its own whatever the cgroup's tasks put there.
//!
//! The object lies on one node, and there alone the shrinker is asked for its cgroup when a single
//! node is short of memory. At a cgroup's limit, which is for all nodes, it always is. With
//! `cgroup.memory=nokmem` slab memory has no charge, and all objects are the root's.
//!
//! C headers: [`include/linux/list_lru.h`](srctree/include/linux/list_lru.h),
//! [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h)

use super::{
    bindings as inline,
    shrinker::{
        Pressure,
        ShrinkerId, //
    },
    versions::init_at, //
};
use core::{
    ops::Deref,
    ptr::{
        drop_in_place,
        NonNull, //
    }, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    bindings,
    container_of,
    error::to_result,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        rcu,
        Arc,
        SpinLock, //
    },
    types::Opaque, //
};

/// What there is one of for each memory cgroup.
pub(crate) trait CgroupObject: Send + Sync + Sized + 'static {
    /// A new one.
    fn new() -> impl PinInit<Self>;

    /// How much the shrinker could find in it. Where this was 0 and is not any more,
    /// [`CgroupRef::list`] has to be called.
    ///
    /// Called with a spinlock held that is taken in [`CgroupRef::list`]: takes no lock.
    fn amount(&self) -> usize;
}

/// The objects of all memory cgroups that have one.
///
/// Dropping it may sleep. As references to objects are dropped in atomic context, who made it keeps
/// it until they are gone.
///
/// # Invariants
///
/// `lists` and `cache` are initialised. `all` has exactly the objects whose reference count did
/// not reach 0, each under the number of its cgroup, and those that are about to take the lock in
/// order to leave.
#[pin_data(PinnedDrop)]
pub(crate) struct PerCgroup<T: CgroupObject> {
    #[pin]
    lists: Opaque<bindings::list_lru>,
    cache: NonNull<bindings::kmem_cache>,
    /// A leaf. Who dropped the last reference to an object takes it before it frees that.
    #[pin]
    all: SpinLock<RBTree<u64, Member<T>>>,
}

// SAFETY: The C structures have locks of their own; a `T` is `Send + Sync`.
unsafe impl<T: CgroupObject> Send for PerCgroup<T> {}
// SAFETY: As above.
unsafe impl<T: CgroupObject> Sync for PerCgroup<T> {}

/// A reference to the current task's memory cgroup.
///
/// # Invariants
///
/// The pointer is null, where there are no memory cgroups, or one to which we own a reference.
struct Memcg(*mut bindings::mem_cgroup);

impl Memcg {
    fn current() -> Self {
        // SAFETY: It looks at `current` only. INVARIANT: It gives a reference or null.
        Self(unsafe { inline::ashmem_get_current_mem_cgroup() })
    }

    /// A number that no other one ever has. A cgroup has another one when its memory controller was
    /// switched off and on again.
    fn number(&self) -> u64 {
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_mem_cgroup_serial(self.0) }
    }

    /// Has what `f` allocates charged to it, whatever the task may have become meanwhile.
    fn charged<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: By the type invariants, it stays until it is replaced below.
        let old = unsafe { inline::ashmem_set_active_memcg(self.0) };
        let result = f();
        // SAFETY: This is what was there before.
        unsafe { inline::ashmem_set_active_memcg(old) };
        result
    }
}

impl Drop for Memcg {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the reference is ours; null is allowed.
        unsafe { inline::ashmem_mem_cgroup_put(self.0) };
    }
}

/// The number, as of [`CgroupRef::number`], of the memory cgroup that what the current task allocates
/// is charged to; 0 where there are none. May not sleep.
pub(crate) fn current_cgroup() -> u64 {
    let _guard = rcu::read_lock();

    // SAFETY: The cgroup of a task stays while RCU is locked. It may be null.
    unsafe { inline::ashmem_mem_cgroup_serial(inline::ashmem_mem_cgroup_from_current()) }
}

/// A pointer from [`PerCgroup::all`]; no reference.
struct Member<T: CgroupObject>(NonNull<Inner<T>>);

/// What lies in the slab cache.
struct Inner<T: CgroupObject> {
    /// On the list of the cgroup, or alone.
    item: Opaque<bindings::list_head>,
    references: Atomic<isize>,
    /// Number of the memory cgroup, which is never given to another one.
    cgroup: u64,
    owner: Arc<PerCgroup<T>>,
    value: T,
}

/// A counted reference to the object of a cgroup. It may be dropped in atomic context.
///
/// # Invariants
///
/// The pointer is valid, and one of its references is ours.
pub(crate) struct CgroupRef<T: CgroupObject>(NonNull<Inner<T>>);

// SAFETY: The object may be used and freed on any thread, as a `T` is `Send + Sync`.
unsafe impl<T: CgroupObject> Send for CgroupRef<T> {}
// SAFETY: As above.
unsafe impl<T: CgroupObject> Sync for CgroupRef<T> {}

impl<T: CgroupObject> PerCgroup<T> {
    /// None at all, for this shrinker. `name` is that of the slab cache. May sleep.
    pub(crate) fn new(name: &'static CStr, shrinker: ShrinkerId<'_>) -> Result<Arc<Self>> {
        let size = size_of::<Inner<T>>() as c_uint;
        let align = align_of::<Inner<T>>() as c_uint;
        // SAFETY: The name is a C string that stays.
        let cache = unsafe { inline::ashmem_kmem_cache_create(name.as_char_ptr(), size, align) };
        let cache = NonNull::new(cache).ok_or(ENOMEM)?;

        Arc::pin_init(
            try_pin_init!(Self {
                cache,
                all <- new_spinlock!(RBTree::new(), "ashmem_cgroups"),
                lists <- Opaque::try_ffi_init(|slot: *mut bindings::list_lru| {
                    // SAFETY: The slot stays where it is; the shrinker is allocated.
                    let ret = unsafe {
                        inline::ashmem_list_lru_init_memcg(slot, shrinker.as_ptr())
                    };
                    to_result(ret)
                }),
            }? Error),
            GFP_KERNEL,
        )
        .inspect_err(|_| {
            // SAFETY: Nothing was allocated from it, and nobody else knows it.
            unsafe { bindings::kmem_cache_destroy(cache.as_ptr()) }
        })
    }

    /// The object of the current task's memory cgroup; made, if there is none. May sleep.
    pub(crate) fn current(self: &Arc<Self>) -> Result<CgroupRef<T>> {
        let memcg = Memcg::current();
        let cgroup = memcg.number();
        if let Some(found) = self.find(cgroup) {
            return Ok(found);
        }
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let new = self.make(&memcg)?;

        let mut all = self.all.lock();
        if let Some(found) = all.get(&cgroup).and_then(Member::get) {
            // Somebody else was faster; ours was never listed anywhere.
            drop(all);
            return Ok(found);
        }
        // In the place of one that nobody refers to any more, maybe.
        all.insert(node.into_node(cgroup, Member(new.0)));
        Ok(new)
    }

    fn find(&self, cgroup: u64) -> Option<CgroupRef<T>> {
        self.all.lock().get(&cgroup).and_then(Member::get)
    }

    /// Allocates an object, charged to this memory cgroup.
    fn make(self: &Arc<Self>, memcg: &Memcg) -> Result<CgroupRef<T>> {
        let memory = memcg.charged(|| {
            // SAFETY: Cache and lists are valid by the type invariants.
            unsafe { inline::ashmem_kmem_cache_alloc_lru(self.cache.as_ptr(), self.lists.get()) }
        });
        let inner = NonNull::new(memory.cast::<Inner<T>>()).ok_or(ENOMEM)?;
        let at = inner.as_ptr();

        // SAFETY: The memory is ours, as large and as aligned as an `Inner<T>`.
        unsafe { inline::ashmem_init_list_head(Opaque::cast_into(&raw const (*at).item)) };
        // SAFETY: As above.
        unsafe { (&raw mut (*at).references).write(Atomic::new(1)) };
        // SAFETY: As above.
        unsafe { (&raw mut (*at).cgroup).write(memcg.number()) };
        // SAFETY: As above.
        unsafe { (&raw mut (*at).owner).write(self.clone()) };
        // SAFETY: As above; slab memory does not move.
        unsafe { init_at(&raw mut (*at).value, T::new()) };
        // INVARIANT: It is initialised, with one reference.
        Ok(CgroupRef(inner))
    }

    /// The first object behind the one with this number, by the order of numbers; the first of all
    /// without one.
    pub(crate) fn next(&self, behind: Option<u64>) -> Option<CgroupRef<T>> {
        let mut from = behind.map_or(0, |number| number + 1);
        let all = self.all.lock();

        // Only those are passed over that are about to leave.
        loop {
            let cursor = all.cursor_lower_bound(&from)?;
            let (number, member) = cursor.current();
            if let Some(found) = member.get() {
                return Some(found);
            }
            from = number + 1;
        }
    }

    /// Shows the objects of the memory cgroup that is short of memory, and those that it took over
    /// from cgroups that are gone, with their amounts, and with a spinlock held; at most `most` of
    /// them, and other ones next time. Those that have nothing leave the list. True: these were all.
    ///
    /// `f` must not drop the last reference to any object.
    pub(crate) fn each_listed(
        &self,
        pressure: &Pressure<'_>,
        most: usize,
        mut f: impl FnMut(Found<'_, T>, usize),
    ) -> bool {
        let mut f: &mut dyn FnMut(Found<'_, T>, usize) = &mut f;
        let mut left = most;
        let mut all = true;

        // SAFETY: It looks for a number in a bitmap that does not change.
        let after = |node| unsafe { inline::ashmem_next_possible_node(node) };
        let mut node = after(-1);
        while node >= 0 {
            // SAFETY: The lists are valid for every possible node, and the cgroup is by the
            // invariants of `Pressure`.
            let listed =
                unsafe { bindings::list_lru_count_one(self.lists.get(), node, pressure.memcg()) };
            // Once around and no further: who has something goes to the end of the list.
            let mut here = listed.min(left);
            all &= here == listed;
            left -= here;
            // SAFETY: As above; the callback gets what it asks for.
            unsafe {
                bindings::list_lru_walk_one(
                    self.lists.get(),
                    node,
                    pressure.memcg(),
                    Some(Self::isolate),
                    (&raw mut f).cast(),
                    &mut here,
                )
            };
            node = after(node);
        }
        all
    }

    /// # Safety
    ///
    /// For `list_lru_walk_one`, with a list of [`Self::lists`], locked, an item of it, and the
    /// address of the closure that [`Self::each_listed`] made.
    unsafe extern "C" fn isolate(
        item: *mut bindings::list_head,
        list: *mut bindings::list_lru_one,
        f: *mut c_void,
    ) -> bindings::lru_status {
        let item_cell: *mut Opaque<bindings::list_head> = item.cast();
        // SAFETY: All items are the field of an `Inner<T>`, which leaves the list before it is
        // freed.
        let inner = unsafe { &*container_of!(item_cell, Inner<T>, item) };
        // SAFETY: The caller says so.
        let f = unsafe { &mut *f.cast::<&mut dyn FnMut(Found<'_, T>, usize)>() };

        // Read once: who says that it has something must find it listed later.
        let amount = inner.value.amount();
        if amount != 0 {
            f(Found(inner), amount);
            return bindings::lru_status::LRU_ROTATE;
        }
        // Where it has something from here on, it is listed anew: that takes this list's lock, and
        // then sees that it is not listed.
        // SAFETY: The list is locked, and the item is on it.
        unsafe { bindings::list_lru_isolate(list, item) };
        bindings::lru_status::LRU_REMOVED
    }
}

#[pinned_drop]
impl<T: CgroupObject> PinnedDrop for PerCgroup<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Each object holds a reference to this, so that there are none any more.
        unsafe { bindings::list_lru_destroy(self.lists.get()) };
        // SAFETY: As above.
        unsafe { bindings::kmem_cache_destroy(self.cache.as_ptr()) };
    }
}

impl<T: CgroupObject> Member<T> {
    /// A reference, unless the last one was dropped. To be called with [`PerCgroup::all`] locked.
    fn get(&self) -> Option<CgroupRef<T>> {
        // SAFETY: Who drops the last reference takes the lock before it frees the object.
        Found(unsafe { self.0.as_ref() }).get()
    }
}

/// An object that was found, kept by the lock of where that was.
pub(crate) struct Found<'a, T: CgroupObject>(&'a Inner<T>);

impl<T: CgroupObject> Found<'_, T> {
    /// A reference, unless the last one was dropped.
    pub(crate) fn get(&self) -> Option<CgroupRef<T>> {
        let mut now = self.0.references.load(Relaxed);

        while now != 0 {
            match self.0.references.cmpxchg(now, now + 1, Full) {
                // INVARIANT: It was just counted.
                Ok(_) => return Some(CgroupRef(self.0.into())),
                Err(other) => now = other,
            }
        }
        None
    }
}

impl<T: CgroupObject> Deref for Found<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: CgroupObject> CgroupRef<T> {
    fn inner(&self) -> &Inner<T> {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }

    /// The number of its memory cgroup.
    pub(crate) fn number(&self) -> u64 {
        self.inner().cgroup
    }

    /// Puts it where [`PerCgroup::each_listed`] finds it, and has the shrinker called for its
    /// cgroup. Takes a spinlock.
    pub(crate) fn list(&self) {
        let inner = self.inner();
        // SAFETY: The lists are valid, and so is the item; it lies in memory of the slab cache that
        // was allocated for these lists.
        unsafe { bindings::list_lru_add_obj(inner.owner.lists.get(), inner.item.get()) };
    }
}

impl<T: CgroupObject> Deref for CgroupRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T: CgroupObject> Clone for CgroupRef<T> {
    fn clone(&self) -> Self {
        self.inner().references.add(1, Relaxed);
        // INVARIANT: It was just counted.
        Self(self.0)
    }
}

impl<T: CgroupObject> Drop for CgroupRef<T> {
    fn drop(&mut self) {
        let inner = self.inner();
        if inner.references.fetch_sub(1, Full) != 1 {
            return;
        }
        // From here on nobody can get a reference.
        let owner = inner.owner.clone();
        let mut all = owner.all.lock();
        // A new object may have taken its place, and ours may never have been there.
        if all
            .get(&inner.cgroup)
            .is_some_and(|member| member.0 == self.0)
        {
            all.remove(&inner.cgroup);
        }
        drop(all);
        // SAFETY: As in `list`; it is fine for an item that is not listed.
        unsafe { bindings::list_lru_del_obj(owner.lists.get(), inner.item.get()) };
        // SAFETY: Nobody else knows the object any more.
        unsafe { drop_in_place(self.0.as_ptr()) };
        // SAFETY: As above; it came from this cache, which `owner` keeps.
        unsafe { bindings::kmem_cache_free(owner.cache.as_ptr(), self.0.as_ptr().cast()) };
    }
}
