// SPDX-License-Identifier: GPL-2.0-only

//! A sparse array that is read without a lock, because nothing ever leaves it.
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)

use super::bindings as inline;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// A sparse array of `T`s, which stay where they are until the array is dropped.
///
/// # Invariants
///
/// Each entry is a pointer from `KBox<T>`, which the array owns. None is ever removed or replaced.
#[pin_data(PinnedDrop)]
pub(crate) struct GrowingArray<T> {
    #[pin]
    entries: Opaque<bindings::xarray>,
    _owns: PhantomData<KBox<T>>,
}

// SAFETY: The C structure has a lock of its own; `T`s are dropped by whoever drops the array.
unsafe impl<T: Send> Send for GrowingArray<T> {}
// SAFETY: As above; what is reached through a shared reference is a shared `T`.
unsafe impl<T: Send + Sync> Sync for GrowingArray<T> {}

impl<T> GrowingArray<T> {
    /// An empty one.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot may be written to, and stays where it is.
            entries <- Opaque::ffi_init(|slot| unsafe { inline::ashmem_xa_init_account(slot) }),
            _owns: PhantomData,
        })
    }

    /// The entry at `index`. Does not sleep.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        // SAFETY: The array is initialised.
        let entry = unsafe { bindings::xa_load(self.entries.get(), index) };
        // SAFETY: By the type invariants, it is null or a `T` that lives as long as the array.
        unsafe { entry.cast::<T>().as_ref() }
    }

    /// The first entry at `index` or behind it, and its index. Does not sleep.
    pub(crate) fn at_or_after(&self, index: usize) -> Option<(usize, &T)> {
        let mut found = index;
        // SAFETY: The array is initialised.
        let entry =
            unsafe { inline::ashmem_xa_find_present(self.entries.get(), &mut found, usize::MAX) };
        // SAFETY: As in `get`.
        unsafe { entry.cast::<T>().as_ref() }.map(|entry| (found, entry))
    }

    /// Adds an entry at `index`, charged to the current memory cgroup, unless there is one; gives
    /// the one that is there then. May sleep. `ENOMEM`.
    pub(crate) fn add(&self, index: usize, entry: T) -> Result<&T> {
        let entry = KBox::into_raw(KBox::new(entry, GFP_KERNEL_ACCOUNT)?);
        // SAFETY: The array is initialised, and the pointer is aligned as such entries must be.
        // INVARIANT: It owns the entry from here on if this succeeds.
        let ret = unsafe { inline::ashmem_xa_insert(self.entries.get(), index, entry.cast()) };

        to_result(ret).or_else(|error| {
            // SAFETY: It was not inserted, so that it is still ours.
            drop(unsafe { KBox::from_raw(entry) });
            match error {
                EBUSY => Ok(()),
                error => Err(error),
            }
        })?;
        self.get(index).ok_or(ENOMEM)
    }
}

#[pinned_drop]
impl<T> PinnedDrop for GrowingArray<T> {
    fn drop(self: Pin<&mut Self>) {
        let mut from = 0;

        while let Some((index, entry)) = self.at_or_after(from) {
            let entry = NonNull::from(entry);
            // SAFETY: Nobody else has the array any more, and it is not looked at again.
            drop(unsafe { KBox::from_raw(entry.as_ptr()) });
            let Some(next) = index.checked_add(1) else {
                break;
            };
            from = next;
        }
        // SAFETY: It is initialised. What its entries pointed at is not looked at.
        unsafe { bindings::xa_destroy(self.entries.get()) };
    }
}
