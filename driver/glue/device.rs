// SPDX-License-Identifier: GPL-2.0-only

//! A misc device whose files know the driver's state, and that can seek and splice.
//!
//! [`kernel::miscdevice`] gives `open` nothing but the registration, and has no `llseek` and no
//! `splice_read`. Its table of operations is taken as it is, and these are added.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use super::versions::this_module;
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::to_result,
    fs::{
        File,
        Kiocb, //
    },
    iov::IovIterDest,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::Opaque, //
};

/// What an open file of the device stands for.
pub(crate) trait Device: Sized + Send + Sync + 'static {
    /// What all files of the device share.
    type Shared: Send + Sync;

    /// A process opens the node.
    fn open(shared: &Self::Shared) -> Result<Arc<Self>>;

    /// The last descriptor was closed.
    fn release(&self);

    /// mmap(2); called with `mmap_lock` held for writing.
    fn mmap(self: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result;

    /// ioctl(2).
    fn ioctl(self: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// ioctl(2) of a 32-bit process: `arg` is 32 bits wide, a pointer or a number.
    fn compat_ioctl(self: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// read(2) and its kin, from `*pos` on, which is moved.
    fn read(&self, pos: &mut i64, iter: &mut IovIterDest<'_>) -> Result<usize>;

    /// write(2) and its kin.
    fn write(&self) -> Result<usize>;

    /// lseek(2).
    fn seek(&self, seek: Seek<'_>) -> Result<i64>;

    /// The lines of `/proc/PID/fdinfo/N` that are the device's own.
    fn show_fdinfo(&self, m: &SeqFile);
}

/// A call of lseek(2).
///
/// # Invariants
///
/// The file is open for `'a`.
pub(crate) struct Seek<'a> {
    file: *mut bindings::file,
    /// The offset as it was passed.
    pub(crate) offset: i64,
    whence: c_int,
    _open: PhantomData<&'a ()>,
}

/// From where [`Seek::offset`] counts.
pub(crate) enum Whence {
    /// `SEEK_DATA`: the next byte that is there.
    Data,
    /// `SEEK_HOLE`: the next byte that is not.
    Hole,
    /// Everything else, errors included, which is the same for all files.
    Common,
}

impl Seek<'_> {
    /// From where [`Self::offset`] counts.
    pub(crate) fn whence(&self) -> Whence {
        match self.whence as u32 {
            bindings::SEEK_DATA => Whence::Data,
            bindings::SEEK_HOLE => Whence::Hole,
            _ => Whence::Common,
        }
    }

    /// Sets the file's position to `pos`, at least 0 and at most `size`.
    pub(crate) fn set(self, pos: i64, size: i64) -> Result<i64> {
        // SAFETY: By the type invariants, the file is open. The VFS takes no lock for the position of a device's file: two
        // threads that seek at once get one of the two positions, as with every device.
        Self::checked(unsafe { bindings::vfs_setpos(self.file, pos, size) })
    }

    /// Does what lseek(2) does for every file of `size` bytes.
    pub(crate) fn common(self, size: i64) -> Result<i64> {
        // SAFETY: As above.
        Self::checked(unsafe {
            bindings::generic_file_llseek_size(self.file, self.offset, self.whence, i64::MAX, size)
        })
    }

    fn checked(ret: i64) -> Result<i64> {
        if ret < 0 {
            to_result(ret as c_int)?;
        }
        Ok(ret)
    }
}

/// A registered device and what its files share.
///
/// # Invariants
///
/// `misc` is registered with the operations of [`Adapter<T>`].
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Registration<T: Device> {
    // The first field: `open` is given its address.
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    shared: T::Shared,
}

// SAFETY: `misc_deregister` may be called on any thread.
unsafe impl<T: Device> Send for Registration<T> {}
// SAFETY: Only `shared` can be reached, and that is `Sync`.
unsafe impl<T: Device> Sync for Registration<T> {}

impl<T: Device> Registration<T> {
    /// Registers `/dev/name`. May sleep. Nobody should have the name: see `TAKEN`.
    pub(crate) fn new(name: &'static CStr, shared: T::Shared) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            shared,
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let misc = bindings::miscdevice {
                    fops: &Adapter::<T>::FOPS,
                    ..MiscDeviceOptions { name }.into_raw::<Adapter<T>>()
                };
                // SAFETY: The initializer may write to the slot, which stays where it is.
                unsafe { slot.write(misc) };
                // SAFETY: It was just filled in. `shared` comes first, so that files which are
                // opened from here on find it. INVARIANT: It is registered if this succeeds.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        })
    }
}

#[pinned_drop]
impl<T: Device> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, it is registered.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// Makes a [`MiscDevice`] of a [`Device`]. It has no values: that trait's functions are
/// associated with a type, and this one can be registered by [`Registration`] alone.
struct Adapter<T>(PhantomData<T>);

impl<T: Device> Adapter<T> {
    const FOPS: bindings::file_operations = {
        let misc = MiscDeviceOptions { name: c"" }.into_raw::<Self>();
        bindings::file_operations {
            owner: this_module(),
            llseek: Some(Self::llseek),
            // `filemap_splice_read` would look into the page cache of the device node.
            splice_read: Some(bindings::copy_splice_read),
            // Aligned, so that huge pages fit.
            get_unmapped_area: super::GET_UNMAPPED_AREA,
            // SAFETY: `into_raw` sets it to the address of a constant.
            ..unsafe { *misc.fops }
        }
    };

    /// # Safety
    ///
    /// For the VFS, with an open file of the device.
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: `open` stored an `Arc<T>` there, which stays until `release`.
        let this =
            unsafe { <Arc<T> as kernel::types::ForeignOwnable>::borrow((*file).private_data) };
        // INVARIANT: The file is open for the duration of this call.
        match this.seek(Seek {
            file,
            offset,
            whence,
            _open: PhantomData,
        }) {
            Ok(pos) => pos,
            Err(error) => error.to_errno().into(),
        }
    }
}

#[vtable]
impl<T: Device> MiscDevice for Adapter<T> {
    type Ptr = Arc<T>;

    fn open(_: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<T>> {
        // SAFETY: `Adapter` is private to this file, and `Registration` is all that registers it:
        // what `misc` points at is the first field of one.
        let registration = unsafe { &*misc.as_raw().cast::<Registration<T>>() };

        T::open(&registration.shared)
    }

    fn release(device: Arc<T>, _: &File) {
        device.release();
    }

    fn mmap(device: ArcBorrow<'_, T>, _: &File, vma: &VmaNew) -> Result {
        device.mmap(vma)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Arc<T>>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let device = kiocb.file();
        device.read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(
        kiocb: Kiocb<'_, Arc<T>>,
        _: &mut kernel::iov::IovIterSource<'_>,
    ) -> Result<usize> {
        kiocb.file().write()
    }

    fn ioctl(device: ArcBorrow<'_, T>, _: &File, cmd: u32, arg: usize) -> Result<isize> {
        device.ioctl(cmd, arg)
    }

    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl(device: ArcBorrow<'_, T>, _: &File, cmd: u32, arg: usize) -> Result<isize> {
        device.compat_ioctl(cmd, arg)
    }

    fn show_fdinfo(device: ArcBorrow<'_, T>, m: &SeqFile, _: &File) {
        device.show_fdinfo(m);
    }
}

/// Writes text that a program chose, with newlines and backslashes in octal: nobody shall forge
/// lines. May not sleep.
pub(crate) fn seq_escape(m: &SeqFile, text: &CStr) {
    let m = core::ptr::from_ref(m)
        .cast_mut()
        .cast::<bindings::seq_file>();
    // SAFETY: A `SeqFile` is a `seq_file` that is being written by us; both strings are C strings.
    unsafe {
        super::bindings::ashmem_seq_escape(m, text.as_char_ptr(), c"\n\\".as_char_ptr());
    }
}
