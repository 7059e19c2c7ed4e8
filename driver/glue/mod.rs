// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's interfaces that the `kernel` crate does not have yet.
//!
//! All `unsafe` of the driver is here. Each file is written as a draft for the crate: it knows
//! folios, inodes, VMAs and shrinkers, and nothing of ashmem.

pub(crate) mod array;
pub(crate) mod device;
pub(crate) mod folio;
pub(crate) mod per_cgroup;
pub(crate) mod pseudo_file;
pub(crate) mod shrinker;
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod tests;
pub(crate) mod versions;
pub(crate) mod vm;
pub(crate) mod worker;

use kernel::{
    ffi::c_ulong,
    str::CStr,
    str::CStrExt as _,
    transmute::{
        AsBytes,
        FromBytes, //
    }, //
};

/// What bindgen made of `bindings.h`: inline functions, and the ABI's numbers.
#[allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    reason = "generated; which of these it takes depends on the kernel's configuration"
)]
pub(crate) mod bindings {
    use kernel::bindings::*;
    use kernel::ffi;

    include!(env!("ASHMEM_BINDINGS"));
}

// SAFETY: Integers may have any value.
unsafe impl FromBytes for bindings::ashmem_pin {}
// SAFETY: As above.
unsafe impl FromBytes for bindings::ashmem_range {}
// SAFETY: As above.
unsafe impl FromBytes for bindings::ashmem_page_status {}
// SAFETY: Eight integers of one size have no padding between them.
unsafe impl AsBytes for bindings::ashmem_counters {}

/// Chooses the address of a mapping, `mmap_lock` held: one where huge pages fit, if the kernel has any.
pub(crate) const GET_UNMAPPED_AREA: Option<
    unsafe extern "C" fn(
        *mut kernel::bindings::file,
        c_ulong,
        c_ulong,
        c_ulong,
        c_ulong,
    ) -> c_ulong,
> = {
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    {
        Some(kernel::bindings::thp_get_unmapped_area)
    }
    #[cfg(not(CONFIG_TRANSPARENT_HUGEPAGE))]
    {
        None
    }
};

/// The module's parameters, as they were given.
pub(crate) struct Parameters {
    pub(crate) max_pages: usize,
    pub(crate) max_order: u32,
    pub(crate) strict_unpin: bool,
    pub(crate) huge: &'static CStr,
}

impl Parameters {
    pub(crate) fn given() -> Self {
        Self {
            // SAFETY: It is a number that does not change once the module is loaded.
            max_pages: unsafe { bindings::ashmem_max_pages },
            // SAFETY: As above.
            max_order: unsafe { bindings::ashmem_max_order },
            // SAFETY: As above.
            strict_unpin: unsafe { bindings::ashmem_strict_unpin },
            // SAFETY: It is a C string that does not change once the module is loaded.
            huge: unsafe { CStr::from_char_ptr((&raw const bindings::ashmem_huge).cast()) },
        }
    }
}

/// Whether the current task is a kswapd.
pub(crate) fn current_is_kswapd() -> bool {
    // SAFETY: It looks at `current` only.
    unsafe { bindings::ashmem_current_is_kswapd() }
}

/// Runs `f` with the reserves of memory at its disposal, and without reclaim: it is to free memory.
pub(crate) fn without_reclaim<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: It changes a flag of `current`, which is put back below.
    let flags = unsafe { bindings::ashmem_memalloc_noreclaim_save() };
    let result = f();
    // SAFETY: These are the flags from above.
    unsafe { bindings::ashmem_memalloc_noreclaim_restore(flags) };
    result
}

/// Size of memory in pages.
pub(crate) fn total_ram_pages() -> usize {
    // SAFETY: It reads a counter.
    unsafe { bindings::ashmem_totalram_pages() }
}

/// Tells the reclaim that calls us, if one does, that `pages` pages were freed.
///
/// vmscan takes no notice of what a shrinker returns; this is what it counts.
pub(crate) fn account_reclaimed_pages(pages: usize) {
    // SAFETY: It looks at `current` only.
    unsafe { bindings::ashmem_mm_account_reclaimed_pages(pages) }
}

/// Whether `PROT_READ` means `PROT_EXEC` too for the current process; see personality(2).
pub(crate) fn read_implies_exec() -> bool {
    // SAFETY: It looks at `current` only.
    unsafe { bindings::ashmem_read_implies_exec() }
}

/// Whether there is something at this path, as far as the current process sees. May sleep.
pub(crate) fn path_exists(path: &CStr) -> bool {
    // SAFETY: It is a C string.
    unsafe { bindings::ashmem_path_exists(path.as_char_ptr()) }
}

/// Whether the current task was killed: what it does is of no use any more.
pub(crate) fn fatal_signal_pending() -> bool {
    // SAFETY: It looks at `current` only.
    unsafe { bindings::ashmem_fatal_signal_pending() }
}

/// Whether the current process has `CAP_SYS_ADMIN` in the initial user namespace.
pub(crate) fn is_admin() -> bool {
    // SAFETY: `capable` may be called from any process context.
    unsafe { kernel::bindings::capable(kernel::bindings::CAP_SYS_ADMIN as kernel::ffi::c_int) }
}
