// SPDX-License-Identifier: GPL-2.0-only

//! Folios, and the page cache that holds them.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::bindings as inline;
use core::{
    mem::ManuallyDrop,
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    iov::IovIterDest,
    page::PAGE_SIZE,
    prelude::*,
    types::Opaque, //
};

/// A reference to a folio.
///
/// # Invariants
///
/// The pointer is a valid folio to which this object owns a reference.
pub(crate) struct Folio(NonNull<bindings::folio>);

// SAFETY: References to a folio may be dropped, and its flags looked at, on any thread.
unsafe impl Send for Folio {}

impl Folio {
    pub(super) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Whether memory of it has failed; its content must not be used.
    pub(crate) fn is_poisoned(&self) -> bool {
        // SAFETY: By the type invariants, this is a folio and it stays one.
        unsafe { inline::ashmem_folio_contain_hwpoisoned_page(self.as_ptr()) }
    }

    /// How many pages it has.
    pub(crate) fn nr_pages(&self) -> usize {
        // SAFETY: By the type invariants, this is a folio and it stays one.
        unsafe { inline::ashmem_folio_nr_pages(self.as_ptr()) }
    }

    /// Copies from the page that holds `index` of the file. Gives the bytes that were copied, less
    /// than `len` at a fault in the destination. May sleep.
    ///
    /// `index` must be in the folio, `offset + len` at most the page size.
    pub(crate) fn copy_to_iter(
        &self,
        index: usize,
        offset: usize,
        len: usize,
        iter: &mut IovIterDest<'_>,
    ) -> usize {
        // SAFETY: The reference keeps the folio's pages from being freed; `iter` is valid.
        unsafe {
            let page = inline::ashmem_folio_file_page(self.as_ptr(), index);
            bindings::copy_page_to_iter(page, offset, len, iter.as_raw())
        }
    }
}

/// The order of what one entry of a page middle directory maps, a huge page.
pub(crate) const HUGE_ORDER: u32 = inline::ASHMEM_HUGE_ORDER;

/// The largest order that is used here.
pub(crate) const MAX_FOLIO_ORDER: u32 = if inline::ASHMEM_LARGE_FOLIOS {
    HUGE_ORDER
} else {
    0
};

/// Writes `len` zeros; gives how many were written, less at a fault in the destination. May sleep.
pub(crate) fn zero_iter(len: usize, iter: &mut IovIterDest<'_>) -> usize {
    // SAFETY: `iter` is valid.
    unsafe { bindings::iov_iter_zero(len, iter.as_raw()) }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the reference is ours to give back.
        unsafe { inline::ashmem_folio_put(self.as_ptr()) }
    }
}

/// A folio in a page cache, and its lock. Dropping it unlocks it.
///
/// While it is locked it can be neither removed from its mapping nor freed nor moved by anybody
/// else, and no fault can map it.
///
/// # Invariants
///
/// The folio is locked by us and is in the mapping that it was looked up in.
pub(crate) struct LockedFolio(Folio);

impl LockedFolio {
    /// The folio.
    pub(crate) fn folio(&self) -> &Folio {
        &self.0
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants, the folio is locked and in a mapping, so that the field
        // is set and does not change.
        unsafe { inline::ashmem_folio_mapping(self.0.as_ptr()) }
    }

    /// Index of its first page in the file.
    pub(crate) fn index(&self) -> usize {
        // SAFETY: As for `mapping`.
        unsafe { inline::ashmem_folio_index(self.0.as_ptr()) }
    }

    /// The pages of the file that it holds.
    pub(crate) fn pages(&self) -> Range<usize> {
        let first = self.index();
        first..first + self.0.nr_pages()
    }

    /// Fills page `index` of the file, which is in it, with zeros, unless its memory has failed.
    pub(crate) fn zero_page(&self, index: usize) {
        // SAFETY: By the type invariants, this is a folio, and it is locked; the caller gives an index
        // inside.
        unsafe { inline::ashmem_folio_zero_page(self.0.as_ptr(), index) };
    }

    /// Takes it out of every shared mapping; copies that private mappings made stay.
    ///
    /// Takes `i_mmap_rwsem` and page table locks. May sleep, also in reclaim.
    pub(crate) fn unmap(&self) {
        // SAFETY: By the type invariants, folio and mapping are valid.
        unsafe {
            if inline::ashmem_folio_mapped(self.0.as_ptr()) {
                bindings::unmap_mapping_pages(
                    self.mapping(),
                    self.index(),
                    self.0.nr_pages(),
                    false,
                );
            }
        }
    }

    /// Whether a device or a long-term pin may be writing to it. Never a false no once it is
    /// unmapped: who pins through the page table then finds it changed and backs out.
    pub(crate) fn maybe_dma_pinned(&self) -> bool {
        // SAFETY: By the type invariants, this is a folio.
        unsafe { inline::ashmem_folio_maybe_dma_pinned(self.0.as_ptr()) }
    }

    /// Removes it from its mapping and unlocks it; the memory goes with the last reference.
    pub(crate) fn remove(self) {
        // SAFETY: By the type invariants, the folio is locked and in this mapping.
        let ret = unsafe { bindings::generic_error_remove_folio(self.mapping(), self.0.as_ptr()) };
        // It fails for a folio of another mapping and for a directory; this is neither.
        debug_assert_eq!(ret, 0);
    }

    /// Hands reference and lock over to the core, for the page at `index` of the file.
    pub(super) fn into_page(self, index: usize) -> *mut bindings::page {
        let this = ManuallyDrop::new(self);
        // SAFETY: By the type invariants, this is a folio; the caller gives an index inside.
        unsafe { inline::ashmem_folio_file_page(this.0.as_ptr(), index) }
    }
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the lock is ours.
        unsafe { bindings::folio_unlock(self.0.as_ptr()) }
    }
}

/// A folio that nobody else knows: zeroed, up to date, dirty, in no mapping.
///
/// # Invariants
///
/// The reference is the only one.
pub(crate) struct NewFolio(pub(super) Folio);

/// Why a folio could not be added to a page cache.
pub(crate) enum AddError {
    /// There is one at this index already.
    Exists,
    /// No memory, or none that the memory cgroup allows.
    NoMemory,
}

/// The page cache of one inode, a `struct address_space`.
///
/// # Invariants
///
/// The inode is a regular file's with the operations of [`super::pseudo_file`].
#[repr(transparent)]
pub(crate) struct Mapping(Opaque<bindings::address_space>);

// SAFETY: All methods take the page cache's own locks.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// # Safety
    ///
    /// `ptr` must be the address space of an inode of [`super::pseudo_file`], which must live for
    /// `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::address_space) -> &'a Self {
        // SAFETY: The caller says so; the type is transparent.
        unsafe { &*ptr.cast::<Self>() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::address_space {
        self.0.get()
    }

    /// How many pages the file has, resident or not.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: By the type invariants, the mapping has an inode.
        unsafe { inline::ashmem_mapping_size(self.as_ptr()) }
    }

    /// How many pages it holds.
    pub(crate) fn nr_pages(&self) -> usize {
        // SAFETY: The mapping is valid; the counter may be read at any time, as
        // `mapping->nrpages` is in the C code, and its value is out of date at once.
        unsafe { (&raw const (*self.as_ptr()).nrpages).read_volatile() }
    }

    fn get(&self, index: usize, lock: bool, nowait: bool) -> Option<Folio> {
        // SAFETY: The mapping is valid. The function gives a reference to a folio, locked if we
        // asked for that and then still in the mapping, or null.
        let folio = unsafe { inline::ashmem_filemap_get_folio(self.as_ptr(), index, lock, nowait) };
        // INVARIANT: The reference is ours.
        NonNull::new(folio).map(Folio)
    }

    /// The folio that holds page `index`, if it is there.
    pub(crate) fn folio(&self, index: usize) -> Option<Folio> {
        self.get(index, false, false)
    }

    /// The same, locked. May sleep.
    pub(crate) fn lock_folio(&self, index: usize) -> Option<LockedFolio> {
        // INVARIANT: `get` locked it and looked once more that it is in the mapping.
        self.get(index, true, false).map(LockedFolio)
    }

    /// The same, but `None` as well if somebody else has the lock.
    pub(crate) fn try_lock_folio(&self, index: usize) -> Option<LockedFolio> {
        // INVARIANT: As above.
        self.get(index, true, true).map(LockedFolio)
    }

    /// Order of the folio that holds page `index`; 0 if there is none, or if memory of it has failed. It may
    /// change at once, and if it just did, this may be any number. Must be called under RCU.
    pub(super) fn sound_order(&self, index: usize) -> u32 {
        // SAFETY: The mapping is valid.
        unsafe { inline::ashmem_mapping_sound_order(self.as_ptr(), index) }
    }

    /// Allocates `1 << order` pages by the rules of this mapping and of the current task's memory
    /// policy. May sleep and reclaim; more than one page only as far as little effort brings.
    ///
    /// `order` is at most [`MAX_FOLIO_ORDER`]. `add` charges it to the memory cgroup; nothing is charged
    /// here.
    pub(crate) fn alloc_folio(&self, order: u32) -> Result<NewFolio> {
        debug_assert!(order <= MAX_FOLIO_ORDER);
        // SAFETY: The mapping is valid.
        let folio = unsafe { inline::ashmem_filemap_alloc_folio(self.as_ptr(), order) };
        // INVARIANT: It was just allocated.
        let folio = Folio(NonNull::new(folio).ok_or(ENOMEM)?);
        // SAFETY: Nobody else can see it.
        unsafe { inline::ashmem_folio_fill(folio.as_ptr()) };
        Ok(NewFolio(folio))
    }

    /// Takes `pages` out of every shared mapping, as [`LockedFolio::unmap`] does. No folio is locked: a fault
    /// may map any of them again.
    pub(crate) fn unmap(&self, pages: Range<usize>) {
        // SAFETY: The mapping is valid.
        unsafe {
            bindings::unmap_mapping_pages(self.as_ptr(), pages.start, pages.len(), false);
        }
    }

    /// Has a folio begin at page `at`, where one that has it begins before: splits that, if nobody else has a
    /// reference to it. Content stays. May sleep.
    pub(crate) fn split(&self, at: usize) {
        let at = at * PAGE_SIZE;
        // What splits a folio is not exported. But truncation does it at the page where what it drops
        // begins, and here that is nothing: the zero bytes behind its first one. (Those before it would be
        // those of another page, which may be another folio's by then.)
        // SAFETY: The mapping is valid.
        unsafe {
            bindings::truncate_inode_pages_range(
                self.as_ptr(),
                at as bindings::loff_t + 1,
                at as bindings::uoff_t,
            )
        };
    }

    /// Charges `folio` to the current memory cgroup and inserts it where it lies on a multiple of
    /// its size and holds page `index`. Gives it back locked. May sleep and reclaim, as `alloc_folio`.
    pub(crate) fn add(&self, folio: NewFolio, index: usize) -> Result<LockedFolio, AddError> {
        let index = index & !(folio.0.nr_pages() - 1);
        // SAFETY: By its invariants, the folio is new; the mapping is valid.
        let ret =
            unsafe { inline::ashmem_filemap_add_folio(self.as_ptr(), folio.0.as_ptr(), index) };
        match to_result(ret) {
            // INVARIANT: It comes back locked and is in this mapping.
            Ok(()) => Ok(LockedFolio(folio.0)),
            Err(EEXIST) => Err(AddError::Exists),
            Err(_) => Err(AddError::NoMemory),
        }
    }
}
