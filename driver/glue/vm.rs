// SPDX-License-Identifier: GPL-2.0-only

//! `vm_operations_struct`: page faults on mappings of a [`PseudoFile`].
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! [`PseudoFile`]: super::pseudo_file::PseudoFile

use super::{
    bindings as inline,
    folio::{
        LockedFolio,
        Mapping,
        HUGE_ORDER, //
    },
    pseudo_file::{
        mapping,
        object,
        PseudoFileOperations, //
    },
    versions::VM_MAYSHARE, //
};
use core::{
    marker::PhantomData,
    ops::Range, //
};
use kernel::{
    bindings,
    mm::virt::{
        flags,
        vm_flags_t, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// How a [`PseudoFile`](super::pseudo_file::PseudoFile) answers faults.
pub(crate) trait VmOperations: Sized {
    /// A page is not in the page table. Called with the VMA's lock or `mmap_lock` held for
    /// reading; may sleep.
    fn fault(&self, fault: &Fault<'_>) -> Outcome;

    /// Nothing is in the page table, and the system's settings admit a huge page here: a time to put
    /// one into the page cache. [`Self::fault`] is called next in any case. May sleep.
    fn huge_fault(&self, fault: &Fault<'_>);

    /// Whether [`Self::fault`] is to map what the page is in, a folio of this `order`, or the core, which maps
    /// it as well as what is in the page cache of the pages `around`: gives the folio's pages, at least
    /// four, for the former. The folio may be another one by now. Called under RCU: must not sleep.
    fn maps_alone(
        &self,
        fault: &Fault<'_>,
        order: u32,
        around: Range<usize>,
    ) -> Option<Range<usize>>;

    /// The core mapped what is in the page cache around the faulting address, and `resolved` says
    /// whether that was enough. Called under RCU: must not sleep.
    fn mapped_around(&self, resolved: bool);
}

/// What a fault handler decided.
pub(crate) enum Outcome {
    /// Map this folio, which holds the page.
    Map(LockedFolio),
    /// The page is all zeros; only for [`Fault::is_private_write`], where it is copied from.
    Zeros,
    /// The page's memory has failed.
    Poisoned,
    /// There is no such page, or the owner's limit is reached: SIGBUS.
    Sigbus,
    /// Out of memory.
    OutOfMemory,
}

/// A page fault.
///
/// # Invariants
///
/// The pointer is valid for `'a`, its VMA's file is one of [`super::pseudo_file`], and the VMA is
/// locked.
pub(crate) struct Fault<'a>(*mut bindings::vm_fault, PhantomData<&'a ()>);

impl Fault<'_> {
    fn vma(&self) -> *mut bindings::vm_area_struct {
        // SAFETY: By the type invariants, `vmf` is valid.
        unsafe { (*self.0).__bindgen_anon_1.vma }
    }

    fn vm_flags(&self) -> vm_flags_t {
        // SAFETY: By the type invariants, the VMA is locked, so that its flags do not change.
        unsafe { (*self.vma()).__bindgen_anon_2.vm_flags }
    }

    /// Index in the file of the page that is missing.
    pub(crate) fn index(&self) -> usize {
        // SAFETY: By the type invariants, `vmf` is valid.
        unsafe { (*self.0).__bindgen_anon_1.pgoff }
    }

    /// The pages of the file around it that one folio may have, to be mapped whole: those in the VMA
    /// that the same page table maps.
    pub(crate) fn mappable(&self) -> Range<usize> {
        let index = self.index();
        // SAFETY: By the type invariants, `vmf` is valid.
        let address = unsafe { (*self.0).__bindgen_anon_1.address };
        // SAFETY: By the type invariants, the VMA is locked, so that its bounds do not change.
        let (start, end) = unsafe {
            (
                (*self.vma()).__bindgen_anon_1.__bindgen_anon_1.vm_start,
                (*self.vma()).__bindgen_anon_1.__bindgen_anon_1.vm_end,
            )
        };
        let table = PAGE_SIZE << HUGE_ORDER;
        let first = address & !(table - 1);
        let below = address - start.max(first);
        let above = end.min(first.saturating_add(table)) - address;

        index - (below >> PAGE_SHIFT)..index + above.div_ceil(PAGE_SIZE)
    }

    /// Whether large folios are unwelcome: the owner or the system said so, or userfaultfd is to hear
    /// of each page.
    pub(crate) fn wants_single_pages(&self) -> bool {
        // SAFETY: By the type invariants, the VMA is valid and locked.
        unsafe {
            inline::ashmem_vma_thp_disabled(self.vma(), false)
                || inline::ashmem_userfaultfd_armed(self.vma())
        }
    }

    /// `MADV_RANDOM`.
    pub(crate) fn advises_random(&self) -> bool {
        self.vm_flags() & inline::ASHMEM_VM_RAND_READ != 0
    }

    /// `MADV_SEQUENTIAL`.
    pub(crate) fn advises_sequential(&self) -> bool {
        self.vm_flags() & inline::ASHMEM_VM_SEQ_READ != 0
    }

    /// `MADV_HUGEPAGE`.
    pub(crate) fn advises_huge(&self) -> bool {
        self.vm_flags() & flags::HUGEPAGE != 0
    }

    /// Whether a huge page would lie within the VMA, and at a multiple of its size in memory as in the
    /// file.
    pub(crate) fn fits_huge(&self) -> bool {
        // SAFETY: By the type invariants, `vmf` and the locked VMA are valid.
        unsafe { inline::ashmem_thp_vma_suitable(self.vma(), (*self.0).__bindgen_anon_1.address) }
    }

    /// Whether the core will map a huge page, which is in the page cache, at once: see `do_set_pmd` in
    /// mm/memory.c. It refuses less than [`Self::wants_single_pages`] does.
    pub(crate) fn maps_huge(&self) -> bool {
        // SAFETY: By the type invariants, the VMA is valid and locked.
        let refused = || unsafe { inline::ashmem_vma_thp_disabled(self.vma(), true) };

        self.fits_huge() && self.has_no_table() && !self.is_private_write() && !refused()
    }

    /// Whether there is no page table yet, so that a huge page may be mapped.
    fn has_no_table(&self) -> bool {
        // SAFETY: By the type invariants, `vmf` is valid, and so is its pointer to the entry.
        unsafe { inline::ashmem_vmf_pmd_none(self.0) }
    }

    /// Whether nothing is in the page table of a multiple of four `pages`, which include the missing one
    /// and are [`Self::mappable`]. It may change at once. Must be called under RCU.
    fn are_unmapped(&self, pages: &Range<usize>) -> bool {
        let before = self.index() - pages.start;
        // SAFETY: By the type invariants, `vmf` is valid; the caller gives pages of the same page table.
        unsafe { inline::ashmem_vmf_ptes_none(self.0, before, pages.len()) }
    }

    /// Whether the mapping is a private one.
    pub(crate) fn is_private(&self) -> bool {
        // `VM_MAYSHARE`, not `VM_SHARED`: shared mappings of read-only descriptors lack that.
        self.vm_flags() & VM_MAYSHARE == 0
    }

    /// Whether the page will be copied into the process and only read here: a write to a private
    /// mapping.
    pub(crate) fn is_private_write(&self) -> bool {
        // SAFETY: By the type invariants, `vmf` is valid.
        let write = unsafe { (*self.0).flags } & bindings::fault_flag_FAULT_FLAG_WRITE != 0;
        write && self.is_private()
    }

    /// The page cache of the file.
    pub(crate) fn mapping(&self) -> &Mapping {
        // SAFETY: By the type invariants, the file is one of ours, and the VMA holds it.
        unsafe { mapping((*self.vma()).vm_file) }
    }
}

/// The C side of [`VmOperations`].
pub(super) struct Vm<T>(PhantomData<T>);

impl<T: PseudoFileOperations> Vm<T> {
    /// For VMAs whose file is a `PseudoFile<T>`.
    ///
    /// No `page_mkwrite`: with it long-term pins fail and `fault` maps read-only. No `open` and
    /// `close`: VMAs hold a reference to the file, which is all there is to count.
    const OPERATIONS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        huge_fault: Some(Self::huge_fault),
        map_pages: Some(Self::map_pages),
        ..pin_init::zeroed()
    };

    pub(super) fn operations() -> &'static bindings::vm_operations_struct {
        &Self::OPERATIONS
    }

    /// # Safety
    ///
    /// For the core: a fault in a VMA of such a file, locked.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // INVARIANT: The caller says so.
        let fault = Fault(vmf, PhantomData);
        // SAFETY: The VMA is locked and holds its file.
        let object = unsafe { object::<T>((*fault.vma()).vm_file) };

        // The core takes over the reference to the page, and the lock if we say so.
        let (page, ret) = match object.fault(&fault) {
            Outcome::Map(folio) => (
                folio.into_page(fault.index()),
                bindings::vm_fault_reason_VM_FAULT_LOCKED,
            ),
            Outcome::Zeros if fault.is_private_write() => {
                // SAFETY: There is always a zero page. The core only copies from it here.
                let page = unsafe { inline::ashmem_get_zero_page() };
                (page, 0)
            }
            // Mapped, it would be everybody's.
            Outcome::Zeros => return bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Outcome::Poisoned => return bindings::vm_fault_reason_VM_FAULT_HWPOISON,
            Outcome::Sigbus => return bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Outcome::OutOfMemory => return bindings::vm_fault_reason_VM_FAULT_OOM,
        };
        // SAFETY: The caller gives it to be filled in.
        unsafe { (*vmf).page = page };
        ret
    }

    /// Maps nothing: what is in the page cache by then, the core maps behind `fault`, by a huge entry if
    /// it fits, with all that may have happened to the page table meanwhile. (`vmf_insert_folio_pmd`
    /// warns where it finds one; `MADV_GUARD_INSTALL` may make it at any time.)
    ///
    /// # Safety
    ///
    /// For the core: as for `fault`.
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // INVARIANT: The caller says so.
        let fault = Fault(vmf, PhantomData);

        // One that is there already, and may not be written to, the core takes out and faults anew.
        if order == HUGE_ORDER && fault.has_no_table() {
            // SAFETY: The VMA is locked and holds its file.
            unsafe { object::<T>((*fault.vma()).vm_file) }.huge_fault(&fault);
        }
        bindings::vm_fault_reason_VM_FAULT_FALLBACK
    }

    /// # Safety
    ///
    /// For the core: as for `fault`, under RCU.
    unsafe extern "C" fn map_pages(
        vmf: *mut bindings::vm_fault,
        start: c_ulong,
        end: c_ulong,
    ) -> bindings::vm_fault_t {
        // INVARIANT: The caller says so.
        let fault = Fault(vmf, PhantomData);
        // SAFETY: The VMA is locked and holds its file.
        let object = unsafe { object::<T>((*fault.vma()).vm_file) };

        let order = fault.mapping().sound_order(fault.index());
        if (2..=HUGE_ORDER).contains(&order) {
            let folio = object.maps_alone(&fault, order, start..end + 1);
            // Of one that is in the page table in part, `fault` would map the rest page by page; the core maps
            // what is around at once, and all of it if the file goes on behind it.
            if folio.is_some_and(|folio| fault.are_unmapped(&folio)) {
                // Nothing is mapped.
                return 0;
            }
        }
        // SAFETY: The caller's promises are those that this function asks for.
        let ret = unsafe { bindings::filemap_map_pages(vmf, start, end) };
        object.mapped_around(ret & bindings::vm_fault_reason_VM_FAULT_NOPAGE != 0);
        ret
    }
}
