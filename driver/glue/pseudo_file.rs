// SPDX-License-Identifier: GPL-2.0-only

//! Files with an inode and a page cache of their own, on a file system that is never mounted where
//! anybody could see it.
//!
//! A driver that keeps its own pages needs one such file for each object: all opens of a device
//! node share the node's inode, and unmapping pages of one object would hit all. What
//! `drivers/gpu/drm/drm_drv.c` does for GEM objects, with one inode for each.
//!
//! C headers: [`include/linux/pseudo_fs.h`](srctree/include/linux/pseudo_fs.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)

use super::{
    bindings as inline,
    folio::Mapping,
    versions::{
        eopnotsupp,
        this_module, //
    },
    vm::{
        Vm,
        VmOperations, //
    }, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    fs::File,
    mm::virt::VmaNew,
    prelude::*,
    str::as_char_ptr_in_const_context,
    sync::{
        aref::ARef,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// What one of these files stands for.
pub(crate) trait PseudoFileOperations: VmOperations + Send + Sync + 'static {
    /// `MADV_REMOVE`: drop the content of the pages `start..end`. May sleep.
    fn punch_hole(file: &PseudoFile<Self>, start: usize, end: usize);

    /// `pages` pages were removed from the page cache of one of these files, by whatever way.
    /// May not sleep; the object itself may be gone already.
    fn freed(pages: usize);
}

/// A file on the pseudo file system that stands for a `T`. A counted reference.
///
/// Its mappings hold references too, and so does it hold one to the `T`: the object lives until
/// the last descriptor and the last mapping are gone.
///
/// # Invariants
///
/// The file was made by [`PseudoFile::new`] for this `T`: its `private_data` is an `Arc<T>`.
///
/// It may go to any thread, as a `T` may: that is a supertrait of [`PseudoFileOperations`].
// The function is for types that hold files of their own kind: it asks for no proof.
pub(crate) struct PseudoFile<T: PseudoFileOperations>(ARef<File>, PhantomData<fn() -> Arc<T>>);

impl<T: PseudoFileOperations> Clone for PseudoFile<T> {
    fn clone(&self) -> Self {
        // INVARIANT: It is the same file.
        Self(self.0.clone(), PhantomData)
    }
}

impl<T: PseudoFileOperations> Deref for PseudoFile<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants, this is one of our files; our reference keeps it.
        unsafe { object(self.0.as_ptr()) }
    }
}

/// Takes over a reference to a file.
///
/// # Safety
///
/// It must be the caller's to give away, and the file must never have had a descriptor, so that
/// nobody holds the lock of its position.
unsafe fn own(file: *mut bindings::file) -> ARef<File> {
    // SAFETY: A file that has a reference is not at address 0. `File` is a transparent wrapper, and
    // the caller gives the reference.
    unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast::<File>())) }
}

/// The object that a file stands for.
///
/// # Safety
///
/// `file` must have been made by [`PseudoFile::new`] for a `T`, and a reference to it must be held
/// during `'a`.
pub(super) unsafe fn object<'a, T: PseudoFileOperations>(file: *mut bindings::file) -> &'a T {
    // SAFETY: `private_data` was set by `PseudoFile::new` and is given back in `release` only, that
    // is after the last reference is gone.
    unsafe { &*(*file).private_data.cast::<T>() }
}

/// The page cache of a file.
///
/// # Safety
///
/// As for [`object`].
pub(super) unsafe fn mapping<'a>(file: *mut bindings::file) -> &'a Mapping {
    // SAFETY: The file keeps its inode, and its mapping is never changed.
    unsafe { Mapping::from_raw((*file).f_mapping) }
}

impl<T: PseudoFileOperations> PseudoFile<T> {
    /// Makes a file of `size` bytes with an empty page cache. `/proc/PID/maps` will show it as
    /// `/name (deleted)`. May sleep. `EINVAL` if no file can be that large.
    pub(crate) fn new(mount: &Mount, name: &CStr, size: usize, object: Arc<T>) -> Result<Self> {
        let size = i64::try_from(size).map_err(|_| EINVAL)?;

        // SAFETY: The mount, and with it the superblock, is pinned.
        let inode = from_err_ptr(unsafe { bindings::alloc_anon_inode((*mount.as_ptr()).mnt_sb) })?;

        // SAFETY: We run in this module on behalf of an open file of it, so that there is a
        // reference already, as `__module_get` demands. `evict_inode` gives this one back.
        unsafe { bindings::__module_get(this_module()) };

        // SAFETY: Nobody else knows the inode yet. It stays `S_ANON_INODE`, which keeps khugepaged
        // away from its folios; `S_IFREG` is what `generic_error_remove_folio`, `fallocate` and
        // `evict_inode` ask for; without links it is freed with its last reference. It has no name by
        // which anybody could open it, and mincore(2) tells the truth only to who may write it.
        unsafe {
            (*inode).i_mode = bindings::S_IFREG as bindings::umode_t | 0o666;
            (*inode).i_op = &INODE_OPERATIONS;
            (*inode).i_size = size;
            bindings::clear_nlink(inode);
            inline::ashmem_mapping_init((*inode).i_mapping, &Self::A_OPS);
        }

        // SAFETY: All arguments are valid; on success the file owns the inode.
        let file = from_err_ptr(unsafe {
            bindings::alloc_file_pseudo(
                inode,
                mount.as_ptr(),
                name.as_char_ptr(),
                bindings::O_RDWR as c_int,
                &Self::FOPS,
            )
        })
        .inspect_err(|_| {
            // SAFETY: It failed: the inode is still ours.
            unsafe { bindings::iput(inode) }
        })?;

        // SAFETY: Nobody else knows the file yet.
        unsafe { (*file).private_data = Arc::into_raw(object).cast_mut().cast() };
        // SAFETY: `alloc_file_pseudo` gave us its only reference, and there was never a
        // descriptor.
        let file = unsafe { own(file) };
        // INVARIANT: `private_data` was just set.
        Ok(Self(file, PhantomData))
    }

    /// Its page cache.
    pub(crate) fn mapping(&self) -> &Mapping {
        // SAFETY: By the type invariants, this is one of our files; our reference keeps it.
        unsafe { mapping(self.0.as_ptr()) }
    }

    /// Its inode's number, which `/proc/PID/maps` shows.
    pub(crate) fn ino(&self) -> usize {
        // SAFETY: The file keeps its inode, whose number never changes.
        unsafe { (*(*self.0.as_ptr()).f_inode).i_ino as usize }
    }

    /// Makes `vma`, a mapping in the making of some device file, a mapping of this file.
    pub(crate) fn map(&self, vma: &VmaNew) {
        // SAFETY: The VMA is being set up by the `mmap` of the device file: it has a file, and
        // nobody else looks at it. `vma_set_file` takes its own reference to ours. From here on
        // the VMA's file is of type `T`, as the operations ask for.
        unsafe {
            bindings::vma_set_file(vma.as_ptr(), self.0.as_ptr());
            (*vma.as_ptr()).vm_ops = Vm::<T>::operations();
        }
    }

    /// What can be done to the file itself. There is no `mmap`: it can be mapped through the
    /// device only, which looks after the rights.
    ///
    /// There is no owner: the inode, which the file holds, has a reference to the module.
    const FOPS: bindings::file_operations = bindings::file_operations {
        release: Some(Self::release),
        // msync(2) fails without.
        fsync: Some(bindings::noop_fsync),
        fallocate: Some(Self::fallocate),
        // For mremap(2): the device file's is what mmap(2) asks.
        get_unmapped_area: super::GET_UNMAPPED_AREA,
        ..pin_init::zeroed()
    };

    /// What the core may do to the page cache. It is never written back, and what it holds is
    /// removed by the driver only: no `release_folio`, and `error_remove_folio` leaves a folio with
    /// failed memory where it is, so that nobody reads zeros in its place.
    const A_OPS: bindings::address_space_operations = bindings::address_space_operations {
        dirty_folio: Some(bindings::noop_dirty_folio),
        migrate_folio: Some(bindings::filemap_migrate_folio),
        error_remove_folio: Some(Self::error_remove_folio),
        free_folio: Some(Self::free_folio),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// None; for the page cache.
    unsafe extern "C" fn error_remove_folio(
        _: *mut bindings::address_space,
        _: *mut bindings::folio,
    ) -> c_int {
        0
    }

    /// # Safety
    ///
    /// For the page cache, with a folio that was just removed.
    unsafe extern "C" fn free_folio(folio: *mut bindings::folio) {
        // SAFETY: The caller holds a reference to it.
        T::freed(unsafe { inline::ashmem_folio_nr_pages(folio) });
    }

    /// # Safety
    ///
    /// For the VFS, when the last reference to a file made by [`PseudoFile::new`] is gone.
    unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: This is the value that `new` stored, and nobody uses the file any more.
        drop(unsafe { Arc::<T>::from_raw((*file).private_data.cast()) });
        0
    }

    /// # Safety
    ///
    /// For the VFS, on a file made by [`PseudoFile::new`].
    unsafe extern "C" fn fallocate(
        file: *mut bindings::file,
        mode: c_int,
        offset: bindings::loff_t,
        len: bindings::loff_t,
    ) -> c_long {
        from_result(|| {
            if mode != inline::ASHMEM_PUNCH_HOLE {
                return Err(eopnotsupp());
            }
            let start = usize::try_from(offset)?;
            let end = usize::try_from(offset.checked_add(len).ok_or(EFBIG)?)?;
            // The only way here is madvise(2), which passes whole pages.
            if (start | end) & (kernel::page::PAGE_SIZE - 1) != 0 {
                return Err(EINVAL);
            }
            // SAFETY: The caller holds a reference during this call; as this object is never
            // dropped, it is not given back. There was never a descriptor.
            let file = unsafe { own(file) };
            // INVARIANT: The caller gives a file that `new` made.
            let this = ManuallyDrop::new(Self(file, PhantomData));
            T::punch_hole(
                &this,
                start >> kernel::page::PAGE_SHIFT,
                end >> kernel::page::PAGE_SHIFT,
            );
            Ok(0)
        })
    }
}

/// A charge against the overcommit limit, as long as it lives; see `vm.overcommit_memory`.
///
/// It is an empty file on the kernel's tmpfs: what makes the charge is not exported by itself.
pub(crate) struct Reservation(#[expect(dead_code, reason = "owned")] ARef<File>);

impl Reservation {
    /// Charges `size` bytes, nothing if `noreserve`. May sleep.
    ///
    /// `ENOMEM` if the limit does not admit it, or without memory; `EINVAL` if no file can be that
    /// large.
    pub(crate) fn new(size: usize, noreserve: bool) -> Result<Self> {
        let size = i64::try_from(size).map_err(|_| EINVAL)?;
        // SAFETY: It takes any size.
        let file = unsafe { inline::ashmem_shmem_file_setup(size, noreserve) };
        let file = from_err_ptr(file).map_err(|error| match error {
            // What tmpfs says if there is no memory for an inode.
            ENOSPC => ENOMEM,
            error => error,
        })?;
        // SAFETY: The only reference to the file is ours, and there was never a descriptor.
        Ok(Self(unsafe { own(file) }))
    }
}

/// A kernel object that C changes under its own locks.
struct Shared<T>(UnsafeCell<T>);

// SAFETY: Rust code passes only the address on, but for `Mount::as_ptr`, which says why it may read.
unsafe impl<T> Sync for Shared<T> {}

/// The inodes can be reached by `/proc/PID/map_files`, if not opened: truncate(2), chmod(2) and
/// their like do not need to. Nobody changes them.
static INODE_OPERATIONS: bindings::inode_operations = bindings::inode_operations {
    setattr: Some(setattr),
    ..pin_init::zeroed()
};

/// # Safety
///
/// None; for the VFS.
unsafe extern "C" fn setattr(
    _: *mut bindings::mnt_idmap,
    _: *mut bindings::dentry,
    _: *mut bindings::iattr,
) -> c_int {
    EPERM.to_errno()
}

/// The file system, `vfsmount` and the number of pins on it: the last two under `pin_fs_lock`.
///
/// The file system has no owner: its superblock would have the module in use for as long as it is
/// mounted, and that is as long as the module is loaded. Each inode has instead.
static FS_TYPE: Shared<bindings::file_system_type> =
    Shared(UnsafeCell::new(bindings::file_system_type {
        name: as_char_ptr_in_const_context(c"ashmem"),
        init_fs_context: Some(init_fs_context),
        kill_sb: Some(bindings::kill_anon_super),
        ..pin_init::zeroed()
    }));
static MOUNT: Shared<*mut bindings::vfsmount> = Shared(UnsafeCell::new(null_mut()));
static PINS: Shared<c_int> = Shared(UnsafeCell::new(0));

/// "ashm": what statfs(2) would show.
const MAGIC: usize = 0x6173_686d;

/// # Safety
///
/// For the VFS, with a context that is being set up.
unsafe extern "C" fn init_fs_context(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The caller gives a context in the making.
    unsafe { inline::ashmem_init_pseudo(fc, MAGIC, &SUPER_OPERATIONS) }
}

static SUPER_OPERATIONS: bindings::super_operations = bindings::super_operations {
    statfs: Some(bindings::simple_statfs),
    evict_inode: Some(evict_inode),
    ..pin_init::zeroed()
};

/// What the core does by itself, and then the module may go, as far as this inode is concerned.
///
/// # Safety
///
/// For the VFS, with an inode whose last reference is gone.
unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
    // SAFETY: The caller gives an inode that nobody else has.
    unsafe {
        bindings::truncate_inode_pages_final(&raw mut (*inode).i_data);
        bindings::clear_inode(inode);
    }
    // SAFETY: As above. The root's, a folder, has no reference.
    if u32::from(unsafe { (*inode).i_mode }) & bindings::S_IFMT == bindings::S_IFREG {
        // SAFETY: `PseudoFile::new` took it. This function returns before the module goes: who held
        // the inode has the mount still, or the superblock waits for it (`generic_shutdown_super`), and the
        // module's end waits for both.
        unsafe { bindings::module_put(this_module()) };
    }
}

/// One pin on the internal mount, which comes with the first and goes with the last.
///
/// The module has one from before its first file to its end: to make a file system takes more than
/// all else that a region takes, and has no place under `mmap_lock`.
///
/// # Invariants
///
/// It stands for one successful `simple_pin_fs` that was not undone.
pub(crate) struct Mount(());

impl Mount {
    /// Pins the mount, makes it if there is none. May sleep.
    ///
    /// Not to be called under `mmap_lock`: a superblock has shrinkers, which may have folders in debugfs, whose
    /// locks are held while user memory is written.
    pub(crate) fn pin() -> Result<Self> {
        // SAFETY: The three statics are changed by this function and `drop` only.
        to_result(unsafe {
            bindings::simple_pin_fs(FS_TYPE.0.get(), MOUNT.0.get(), PINS.0.get())
        })?;
        // INVARIANT: It succeeded.
        Ok(Self(()))
    }

    /// Waits until no file has the mount, when this is the only pin.
    ///
    /// Who has an inode of ours has the module in use; the mount, which comes with it, is given up a
    /// moment later.
    fn wait_for_files(&self) {
        let mount = self.as_ptr();

        // SAFETY: By the type invariants, it is there. Two references, the pin's and this one, are
        // what `may_umount` takes for unused.
        unsafe { bindings::mntget(mount) };
        // SAFETY: As above.
        while unsafe { bindings::may_umount(mount) } == 0 {
            fsleep(Delta::from_millis(1));
        }
        // SAFETY: The reference was taken above.
        unsafe { bindings::mntput(mount) };
    }

    fn as_ptr(&self) -> *mut bindings::vfsmount {
        // SAFETY: By the type invariants, there is a pin: the pointer is set and does not change.
        unsafe { *MOUNT.0.get() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // SAFETY: The module's own pin is the last. That is, only its end finds 1, when nobody else
        // makes or drops pins.
        if unsafe { PINS.0.get().read_volatile() } == 1 {
            self.wait_for_files();
        }
        // SAFETY: By the type invariants, there is a pin to undo.
        unsafe { bindings::simple_release_fs(MOUNT.0.get(), PINS.0.get()) }
    }
}
