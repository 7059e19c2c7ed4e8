// SPDX-License-Identifier: GPL-2.0-only

//! The device's files: where what programs pass is checked, and user memory is read and written.

use crate::{
    glue::{
        device::{
            seq_escape,
            Device,
            Seek,
            Whence, //
        },
        is_admin, //
    },
    policy::page_range::PageRange,
    reclaim,
    region::{
        Name,
        Region,
        Shared, //
    },
    uapi, //
};
use kernel::{
    iov::IovIterDest,
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        Arc,
        ArcBorrow, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

impl Device for Region {
    type Shared = Arc<Shared>;

    fn open(shared: &Arc<Shared>) -> Result<Arc<Self>> {
        Region::new(shared.clone())
    }

    fn release(&self) {
        self.close();
    }

    fn mmap(self: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        Region::mmap(self, vma)
    }

    fn ioctl(self: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::SET_NAME => set_name(&self, arg),
            uapi::GET_NAME => get_name(&self, arg),
            uapi::SET_SIZE => self.set_size(arg).map(|()| 0),
            uapi::GET_SIZE => Ok(self.size() as isize),
            uapi::SET_PROT_MASK => self.set_mask(arg).map(|()| 0),
            uapi::GET_PROT_MASK => Ok(self.mask() as isize),
            uapi::PIN => pin(&self, arg),
            uapi::UNPIN => unpin(&self, arg),
            uapi::GET_PIN_STATUS => pin_status(&self, arg),
            uapi::PURGE_ALL_CACHES => purge_all(&self),
            uapi::GET_FILE_ID => {
                let ino = self.ino()?;
                UserSlice::new(UserPtr::from_addr(arg), size_of::<usize>())
                    .writer()
                    .write(&ino)?;
                Ok(0)
            }
            _ => Err(ENOTTY),
        }
    }

    fn compat_ioctl(self: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::SET_SIZE_32 => Device::ioctl(self, uapi::SET_SIZE, arg),
            uapi::SET_PROT_MASK_32 => Device::ioctl(self, uapi::SET_PROT_MASK, arg),
            uapi::GET_FILE_ID_32 => {
                // Inode numbers of this file system are 32 bits wide.
                let ino = self.ino()? as u32;
                UserSlice::new(UserPtr::from_addr(arg), size_of::<u32>())
                    .writer()
                    .write(&ino)?;
                Ok(0)
            }
            _ => Device::ioctl(self, cmd, arg),
        }
    }

    fn read(&self, pos: &mut i64, iter: &mut IovIterDest<'_>) -> Result<usize> {
        Region::read(self, pos, iter)
    }

    fn write(&self) -> Result<usize> {
        Err(EINVAL)
    }

    fn seek(&self, seek: Seek<'_>) -> Result<i64> {
        let data = match seek.whence() {
            Whence::Data => true,
            Whence::Hole => false,
            Whence::Common => {
                let size = self.seekable_size()?;
                return seek.common(size);
            }
        };
        let (pos, size) = Region::seek(self, seek.offset, data)?;
        seek.set(pos, size)
    }

    fn show_fdinfo(&self, m: &SeqFile) {
        let info = self.info();

        if let Some(ino) = info.ino {
            seq_print!(m, "inode:\t{ino}\n");
        }
        if let Some(name) = info.name.get() {
            seq_print!(m, "name:\t");
            seq_escape(m, name);
            seq_print!(m, "\n");
        }
        seq_print!(m, "size:\t{}\n", info.size);
        seq_print!(m, "faults:\t{}\n", self.counters.faults.get());
        seq_print!(m, "map_faults:\t{}\n", self.counters.map_faults.get());
        seq_print!(m, "huge_faults:\t{}\n", self.counters.huge_faults.get());
        seq_print!(m, "allocated:\t{}\n", self.counters.allocated.get());
        seq_print!(m, "purged:\t{}\n", self.counters.purged.get());
        seq_print!(m, "resident:\t{}\n", info.resident);
        seq_print!(m, "unpinned:\t{}\n", info.unpinned);
    }
}

/// ASHMEM_SET_NAME. A bad pointer is `EFAULT` even if the region is frozen, and leaves the name.
fn set_name(region: &Region, arg: usize) -> Result<isize> {
    let mut buffer = [0; uapi::NAME_LEN];
    // A string that ends before 256 bytes is read no further; of a longer one, 255 stay.
    let name = UserSlice::new(UserPtr::from_addr(arg), uapi::NAME_LEN)
        .reader()
        .strcpy_into_buf(&mut buffer)?;

    region.set_name(Name::new(name.to_bytes()))?;
    Ok(0)
}

/// ASHMEM_GET_NAME. Writes the name and its NUL and no byte more.
fn get_name(region: &Region, arg: usize) -> Result<isize> {
    let mut buffer = [0; uapi::NAME_LEN];
    let len = region.name(&mut buffer);

    UserSlice::new(UserPtr::from_addr(arg), len)
        .writer()
        .write_slice(&buffer[..len])?;
    Ok(0)
}

/// Reads a `struct ashmem_pin` and checks it: `EFAULT`, then `EINVAL`.
fn read_range(region: &Region, arg: usize) -> Result<PageRange> {
    let mut bytes = [0; size_of::<uapi::Pin>()];
    UserSlice::new(UserPtr::from_addr(arg), bytes.len())
        .reader()
        .read_slice(&mut bytes)?;

    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (offset, len) = (
        word(core::mem::offset_of!(uapi::Pin, offset)),
        word(core::mem::offset_of!(uapi::Pin, len)),
    );
    region.range(offset.into(), len.into(), u32::MAX.into())
}

fn pin(region: &Region, arg: usize) -> Result<isize> {
    let pages = read_range(region, arg)?;

    Ok(if region.pin(pages)? {
        uapi::WAS_PURGED
    } else {
        uapi::NOT_PURGED
    })
}

fn unpin(region: &Region, arg: usize) -> Result<isize> {
    let pages = read_range(region, arg)?;

    // Purging takes content away, which is a way of writing.
    if region.shared().strict_unpin && region.mask() & uapi::PROT_WRITE == 0 {
        return Err(EPERM);
    }
    region.unpin(pages)?;
    Ok(0)
}

fn pin_status(region: &Region, arg: usize) -> Result<isize> {
    let pages = read_range(region, arg)?;

    Ok(if region.is_pinned(pages) {
        uapi::IS_PINNED
    } else {
        uapi::IS_UNPINNED
    })
}

fn purge_all(region: &Region) -> Result<isize> {
    if !is_admin() {
        return Err(EPERM);
    }
    // The result of ioctl(2) is an int.
    Ok(reclaim::purge_all(region.shared()).min(i32::MAX as usize) as isize)
}
