// SPDX-License-Identifier: GPL-2.0-only

//! Shrinkers: what memory pressure calls; and the last call before the OOM killer.
//!
//! C headers: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h),
//! [`include/linux/oom.h`](srctree/include/linux/oom.h)

use super::{
    bindings as inline,
    current_is_kswapd, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// What can give memory back.
///
/// Both are called from reclaim: in any task that allocates, whatever locks it may hold that are
/// allowed around an allocation, or in kswapd. They may sleep, and must not wait for anybody who
/// allocates, unless it is for a short time at most.
pub(crate) trait Shrinker: Send + Sync + 'static {
    /// How many objects could be freed where memory is short.
    fn count(&self, pressure: &Pressure<'_>) -> usize;

    /// Frees about `want` objects there and says how many they were; `None` if there is nothing
    /// that can be freed now.
    fn scan(&self, pressure: &Pressure<'_>, want: usize) -> Option<usize>;

    /// The OOM killer is about to strike: frees something, and says how many objects.
    ///
    /// A single pass of direct reclaim ends after a few dozen pages. If free memory is further
    /// than that below the watermark, and there is neither page cache nor swap, the allocator gives
    /// up (`should_reclaim_retry`), however much the shrinkers could still give.
    fn before_oom(&self) -> usize;
}

/// Where memory is short: in a memory cgroup, or in the whole machine, whose cgroups are then gone
/// through one by one.
///
/// # Invariants
///
/// The memory cgroup is valid for `'a`, or null for the root.
pub(crate) struct Pressure<'a>(*mut bindings::mem_cgroup, PhantomData<&'a ()>);

#[cfg(CONFIG_KUNIT = "y")]
impl Pressure<'static> {
    /// In the root.
    pub(crate) fn root() -> Self {
        // INVARIANT: It is null for the root.
        Self(core::ptr::null_mut(), PhantomData)
    }
}

impl Pressure<'_> {
    /// The memory cgroup.
    pub(super) fn memcg(&self) -> *mut bindings::mem_cgroup {
        self.0
    }

    /// Whether there is enough: for kswapd, if every zone has what it wants to have free, in whatever
    /// pieces (to put these together is kcompactd's); for a task that
    /// reclaims for its own allocation or charge, if it was given `enough` pages by the shrinkers in this
    /// attempt, and has room for as many within the limits of the cgroup and of those around it.
    ///
    /// kswapd asks for more and more of what shrinkers have, and looks only between whether that was
    /// enough. For a cgroup, vmscan takes no notice of what shrinkers free (`flush_reclaim_state`): it goes
    /// on, harder each time, until they have nothing left. What was freed may have been another
    /// cgroup's, or somebody may hold it still: hence the look at the room.
    pub(crate) fn is_relieved(&self, enough: usize) -> bool {
        if current_is_kswapd() {
            // SAFETY: It reads counters.
            return unsafe { inline::ashmem_zones_have_high_wmark() };
        }
        // SAFETY: It looks at `current` only.
        if unsafe { inline::ashmem_reclaim_state_reclaimed() } < enough {
            return false;
        }
        let mut memcg = self.0;
        while !memcg.is_null() {
            // SAFETY: By the type invariants, and as a cgroup holds a reference to its parent.
            if unsafe { inline::ashmem_mem_cgroup_room(memcg) } < enough {
                return false;
            }
            // SAFETY: As above.
            memcg = unsafe { inline::ashmem_parent_mem_cgroup(memcg) };
        }
        true
    }
}

/// A shrinker that was allocated and is not registered yet.
///
/// # Invariants
///
/// The pointer is valid for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct ShrinkerId<'a>(NonNull<bindings::shrinker>, PhantomData<&'a ()>);

impl ShrinkerId<'_> {
    pub(super) fn as_ptr(self) -> *mut bindings::shrinker {
        self.0.as_ptr()
    }
}

/// A registered shrinker, called for each memory cgroup that its lists have something for.
///
/// # Invariants
///
/// The pointer is a registered shrinker whose `private_data` is an `Arc<T>`.
pub(crate) struct Registration<T: Shrinker>(NonNull<bindings::shrinker>, Arc<T>);

// SAFETY: `shrinker_free` may be called on any thread, and a `T` is `Send + Sync`.
unsafe impl<T: Shrinker> Send for Registration<T> {}
// SAFETY: There is nothing to be done with a shared reference.
unsafe impl<T: Shrinker> Sync for Registration<T> {}

impl<T: Shrinker> Registration<T> {
    /// Registers what `make` gives under `name`, which debugfs shows. May sleep.
    pub(crate) fn new(
        name: &'static CStr,
        make: impl FnOnce(ShrinkerId<'_>) -> Result<Arc<T>>,
    ) -> Result<Self> {
        // SAFETY: The format takes one string, and the name is one.
        let ptr = unsafe {
            bindings::shrinker_alloc(
                inline::ASHMEM_SHRINKER_FLAGS,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        let ptr = NonNull::new(ptr).ok_or(ENOMEM)?;
        // INVARIANT: It was just allocated, and is freed below at the earliest.
        let shrinker = make(ShrinkerId(ptr, PhantomData)).inspect_err(|_| {
            // SAFETY: It is allowed for one that was never registered, and nobody else knows it.
            unsafe { bindings::shrinker_free(ptr.as_ptr()) }
        })?;

        // SAFETY: It was just allocated, and nobody calls it before it is registered.
        unsafe {
            (*ptr.as_ptr()).count_objects = Some(Self::count);
            (*ptr.as_ptr()).scan_objects = Some(Self::scan);
            (*ptr.as_ptr()).seeks = bindings::DEFAULT_SEEKS as c_int;
            (*ptr.as_ptr()).private_data = Arc::as_ptr(&shrinker).cast_mut().cast();
            bindings::shrinker_register(ptr.as_ptr());
        }
        // INVARIANT: `shrinker` stays as long as this object.
        Ok(Self(ptr, shrinker))
    }

    /// What is registered.
    pub(crate) fn shrinker(&self) -> &Arc<T> {
        &self.1
    }

    /// # Safety
    ///
    /// For vmscan, with a shrinker that [`Self::new`] registered.
    unsafe extern "C" fn count(
        shrinker: *mut bindings::shrinker,
        sc: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By the invariants of `Registration`, whose `drop` waits for running calls.
        let this = unsafe { &*(*shrinker).private_data.cast::<T>() };
        // SAFETY: The caller gives a valid control structure, for this call alone.
        // INVARIANT: It holds a reference to the cgroup for as long.
        let pressure = Pressure(unsafe { (*sc).memcg }, PhantomData);

        match this.count(&pressure) {
            0 => bindings::SHRINK_EMPTY as c_ulong,
            count => count,
        }
    }

    /// # Safety
    ///
    /// For vmscan, with a shrinker that [`Self::new`] registered.
    unsafe extern "C" fn scan(
        shrinker: *mut bindings::shrinker,
        sc: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As in `count`.
        let this = unsafe { &*(*shrinker).private_data.cast::<T>() };
        // SAFETY: The caller gives a valid control structure, for this call alone.
        let sc = unsafe { &mut *sc };
        // INVARIANT: The caller holds a reference to the cgroup during this call.
        let pressure = Pressure(sc.memcg, PhantomData);

        match this.scan(&pressure, sc.nr_to_scan) {
            None => bindings::SHRINK_STOP as c_ulong,
            Some(freed) => {
                sc.nr_scanned = freed;
                freed
            }
        }
    }
}

impl<T: Shrinker> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, it is registered. It is not called any more when this
        // returns.
        unsafe { bindings::shrinker_free(self.0.as_ptr()) }
    }
}

/// A registered OOM notifier of a [`Shrinker`].
///
/// # Invariants
///
/// `block` is registered, and is the first field, so that its address is that of the object.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct OomRegistration<T: Shrinker> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    shrinker: Arc<T>,
}

// SAFETY: It may be unregistered on any thread, and a `T` is `Send + Sync`.
unsafe impl<T: Shrinker> Send for OomRegistration<T> {}
// SAFETY: There is nothing to be done with a shared reference.
unsafe impl<T: Shrinker> Sync for OomRegistration<T> {}

impl<T: Shrinker> OomRegistration<T> {
    /// Registers it. May sleep.
    pub(crate) fn new(shrinker: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            shrinker,
            block <- Opaque::try_ffi_init(|slot: *mut bindings::notifier_block| {
                let block = bindings::notifier_block {
                    notifier_call: Some(Self::notify),
                    ..pin_init::zeroed()
                };
                // SAFETY: The initializer may write to the slot, which stays where it is.
                unsafe { slot.write(block) };
                // SAFETY: It was just filled in, and `shrinker` comes first.
                // INVARIANT: It is registered if this succeeds.
                to_result(unsafe { inline::register_oom_notifier(slot) })
            }),
        })
    }

    /// # Safety
    ///
    /// For the OOM killer, with a block that [`Self::new`] registered and the address of the
    /// number of pages freed.
    unsafe extern "C" fn notify(
        block: *mut bindings::notifier_block,
        _: c_ulong,
        freed: *mut c_void,
    ) -> c_int {
        // SAFETY: By the type invariants, this is the address of the object, and `drop` waits for
        // running calls.
        let this = unsafe { &*block.cast::<Self>() };
        // SAFETY: The caller says so.
        unsafe { *freed.cast::<c_ulong>() += this.shrinker.before_oom() };
        bindings::NOTIFY_OK as c_int
    }
}

#[pinned_drop]
impl<T: Shrinker> PinnedDrop for OomRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, it is registered. It takes the rwsem that calls hold.
        unsafe { inline::unregister_oom_notifier(self.block.get()) };
    }
}
