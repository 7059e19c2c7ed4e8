// SPDX-License-Identifier: GPL-2.0-only

//! Shrinkers: what memory pressure calls.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    sync::Arc, //
};

/// What can give memory back.
///
/// Both are called from reclaim: in any task that allocates, whatever locks it may hold that are
/// allowed around an allocation, or in kswapd. They may sleep, and must not wait for anybody who
/// allocates.
pub(crate) trait Shrinker: Send + Sync + 'static {
    /// How many objects could be freed.
    fn count(&self) -> usize;

    /// Frees about `want` objects and says how many they were; `None` if there is nothing that
    /// can be freed now.
    fn scan(&self, want: usize) -> Option<usize>;
}

/// A registered shrinker.
///
/// # Invariants
///
/// The pointer is a registered shrinker whose `private_data` is an `Arc<T>`.
pub(crate) struct Registration<T: Shrinker>(
    NonNull<bindings::shrinker>,
    #[expect(dead_code, reason = "owned")] Arc<T>,
);

// SAFETY: `shrinker_free` may be called on any thread, and a `T` is `Send + Sync`.
unsafe impl<T: Shrinker> Send for Registration<T> {}
// SAFETY: There is nothing to be done with a shared reference.
unsafe impl<T: Shrinker> Sync for Registration<T> {}

impl<T: Shrinker> Registration<T> {
    /// Registers `shrinker` under `name`, which debugfs shows. May sleep.
    pub(crate) fn new(name: &'static CStr, shrinker: Arc<T>) -> Result<Self> {
        // SAFETY: The format takes one string, and the name is one.
        let ptr = unsafe {
            bindings::shrinker_alloc(0, c"%s".as_char_ptr(), name.as_char_ptr())
        };
        let ptr = NonNull::new(ptr).ok_or(ENOMEM)?;

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

    /// # Safety
    ///
    /// For vmscan, with a shrinker that [`Self::new`] registered.
    unsafe extern "C" fn count(
        shrinker: *mut bindings::shrinker,
        _: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By the invariants of `Registration`, whose `drop` waits for running calls.
        let this = unsafe { &*(*shrinker).private_data.cast::<T>() };

        match this.count() {
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

        match this.scan(sc.nr_to_scan) {
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
