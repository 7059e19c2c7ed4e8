// SPDX-License-Identifier: GPL-2.0-only

//! What the `kernel` crates of Linux 7.2 and 7.3 have in different forms, here in one that both have.
//!
//! | | 7.2 | 7.3 |
//! |---|---|---|
//! | a full barrier | `smp_mb()` | `smp_mb(Full)` |
//! | this module | `THIS_MODULE` | `this_module::<LocalModule>()` |
//! | `owner` in a misc device's operations | is not set | is set |
//! | initialising memory | `PinInit::__pinned_init` | `pin_init::raw_init` |
//! | `flags::MAYSHARE` of `kernel::mm::virt` | has the value of `VM_MAYEXEC` | is right |
//! | `EOPNOTSUPP` | is missing | is there |
//! | parameters of `module!` | no `bool`; set through a pointer to what is not their first field | all kinds |
//!
//! The parameters are in `inline.c` therefore, where `huge`, which is text, must be anyway.

use core::mem::MaybeUninit;
use kernel::{
    bindings,
    mm::virt::vm_flags_t,
    prelude::*, //
};

/// "Operation not supported on transport endpoint", which programs know as `ENOTSUP` too.
pub(crate) fn eopnotsupp() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as c_int))
}

/// A mapping that is shared, or could be.
pub(crate) const VM_MAYSHARE: vm_flags_t = super::bindings::ASHMEM_VM_MAYSHARE;

/// All accesses to memory before it come before all behind it, on other processors, too.
#[inline(always)]
pub(crate) fn smp_mb() {
    // SAFETY: It orders accesses, and makes none.
    unsafe { bindings::smp_mb() }
}

/// This module.
pub(crate) const fn this_module() -> *mut bindings::module {
    (&raw const bindings::__this_module).cast_mut()
}

/// Initialises a value where it will stay.
///
/// # Safety
///
/// `slot` is memory for a `T` that nobody else knows, and what is in it does not move.
pub(crate) unsafe fn init_at<T: 'static>(slot: *mut T, init: impl PinInit<T>) {
    // SAFETY: The caller says so. The reference has no bounds because `write_pin_init` wants to know
    // that the value will not move; it ends with this function.
    let slot: &'static mut MaybeUninit<T> = unsafe { &mut *slot.cast() };
    let Ok(_) = slot.write_pin_init(init);
}
