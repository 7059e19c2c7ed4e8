// SPDX-License-Identifier: GPL-2.0-only

//! The ABI, as `include/ashmem.h` has it, in the driver's types.

use crate::glue::bindings;
use kernel::prelude::*;

pub(crate) use bindings::{
    ashmem_counters as Counters,
    ashmem_page_status as PageStatus,
    ashmem_pin as Pin,
    ashmem_range as Range,
    ABI_GET_COUNTERS as GET_COUNTERS,
    ABI_GET_FILE_ID as GET_FILE_ID,
    ABI_GET_FILE_ID_32 as GET_FILE_ID_32,
    ABI_GET_NAME as GET_NAME,
    ABI_GET_PAGE_STATUS as GET_PAGE_STATUS,
    ABI_GET_PIN_STATUS as GET_PIN_STATUS,
    ABI_GET_PROT_MASK as GET_PROT_MASK,
    ABI_GET_RANGE_PIN_STATUS as GET_RANGE_PIN_STATUS,
    ABI_GET_SIZE as GET_SIZE,
    ABI_PIN as PIN,
    ABI_PIN_RANGE as PIN_RANGE,
    ABI_PURGE_ALL_CACHES as PURGE_ALL_CACHES,
    ABI_SET_NAME as SET_NAME,
    ABI_SET_PROT_MASK as SET_PROT_MASK,
    ABI_SET_PROT_MASK_32 as SET_PROT_MASK_32,
    ABI_SET_SIZE as SET_SIZE,
    ABI_SET_SIZE_32 as SET_SIZE_32,
    ABI_UNPIN as UNPIN,
    ABI_UNPIN_RANGE as UNPIN_RANGE, //
};

/// Bytes of a name, its NUL included.
pub(crate) const NAME_LEN: usize = bindings::ASHMEM_NAME_LEN as usize;
/// Name of a region that was never named.
pub(crate) const NAME_DEF: &CStr = bindings::ASHMEM_NAME_DEF;

/// PIN: something was purged.
pub(crate) const WAS_PURGED: isize = bindings::ASHMEM_WAS_PURGED as isize;
/// PIN: nothing was purged.
pub(crate) const NOT_PURGED: isize = bindings::ASHMEM_NOT_PURGED as isize;
/// GET_PIN_STATUS: everything is pinned.
pub(crate) const IS_PINNED: isize = bindings::ASHMEM_IS_PINNED as isize;
/// GET_PIN_STATUS: something is not.
pub(crate) const IS_UNPINNED: isize = bindings::ASHMEM_IS_UNPINNED as isize;

/// GET_PAGE_STATUS: the page is pinned.
pub(crate) const PAGE_PINNED: u8 = bindings::ASHMEM_PAGE_PINNED as u8;
/// GET_PAGE_STATUS: it is not.
pub(crate) const PAGE_UNPINNED: u8 = bindings::ASHMEM_PAGE_UNPINNED as u8;
/// GET_PAGE_STATUS: it was purged since it was unpinned.
pub(crate) const PAGE_PURGED: u8 = bindings::ASHMEM_PAGE_PURGED as u8;
/// GET_PAGE_STATUS: the page has memory.
pub(crate) const PAGE_RESIDENT: u8 = bindings::ASHMEM_PAGE_RESIDENT as u8;

/// `PROT_READ` of mmap(2).
pub(crate) const PROT_READ: usize = bindings::ASHMEM_PROT_READ;
/// `PROT_WRITE` of mmap(2).
pub(crate) const PROT_WRITE: usize = bindings::ASHMEM_PROT_WRITE;
/// `PROT_EXEC` of mmap(2).
pub(crate) const PROT_EXEC: usize = bindings::ASHMEM_PROT_EXEC;
