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
        fatal_signal_pending,
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
    ioctl::{
        _IOC_DIR,
        _IOC_NR,
        _IOC_SIZE,
        _IOC_TYPE, //
    },
    iov::IovIterDest,
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        Arc,
        ArcBorrow, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
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
            uapi::PIN => pin(&self, read_pin(&self, arg)?),
            uapi::UNPIN => unpin(&self, read_pin(&self, arg)?),
            uapi::GET_PIN_STATUS => pin_status(&self, read_pin(&self, arg)?),
            uapi::PIN_RANGE => pin(&self, read_range(&self, arg)?),
            uapi::UNPIN_RANGE => unpin(&self, read_range(&self, arg)?),
            uapi::GET_RANGE_PIN_STATUS => pin_status(&self, read_range(&self, arg)?),
            uapi::GET_PAGE_STATUS => page_status(&self, arg),
            uapi::PURGE_ALL_CACHES => purge_all(&self),
            uapi::GET_FILE_ID => {
                let ino = self.ino()?;
                UserSlice::new(UserPtr::from_addr(arg), size_of::<usize>())
                    .writer()
                    .write(&ino)?;
                Ok(0)
            }
            _ if but_size(cmd) == but_size(uapi::GET_COUNTERS) => counters(&self, cmd, arg),
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
    // A string that ends before 256 bytes is read no further; of a longer one, 255 stay.
    let user = UserSlice::new(UserPtr::from_addr(arg), uapi::NAME_LEN).reader();
    let mut name = Name::none();

    name.fill(|bytes| user.strcpy_into_buf(bytes).map(|_| ()))?;
    region.set_name(&name)?;
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

/// Reads a structure of the ABI. `EFAULT` for a bad pointer.
fn read_struct<T: FromBytes>(arg: usize) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read()
}

/// Reads a `struct ashmem_pin` and checks it: `EFAULT`, then `EINVAL`.
fn read_pin(region: &Region, arg: usize) -> Result<PageRange> {
    let pin: uapi::Pin = read_struct(arg)?;
    region.range(pin.offset.into(), pin.len.into(), u32::MAX.into())
}

/// Reads a `struct ashmem_range` and checks it: `EFAULT`, then `EINVAL`.
fn read_range(region: &Region, arg: usize) -> Result<PageRange> {
    let range: uapi::Range = read_struct(arg)?;
    region.range(range.offset, range.len, u64::MAX)
}

fn pin(region: &Region, pages: PageRange) -> Result<isize> {
    Ok(if region.pin(pages)? {
        uapi::WAS_PURGED
    } else {
        uapi::NOT_PURGED
    })
}

fn unpin(region: &Region, pages: PageRange) -> Result<isize> {
    // Purging takes content away, which is a way of writing.
    if region.shared().strict_unpin && region.mask() & uapi::PROT_WRITE == 0 {
        return Err(EPERM);
    }
    region.unpin(pages)?;
    Ok(0)
}

fn pin_status(region: &Region, pages: PageRange) -> Result<isize> {
    Ok(if region.is_pinned(pages) {
        uapi::IS_PINNED
    } else {
        uapi::IS_UNPINNED
    })
}

/// ASHMEM_GET_PAGE_STATUS. Each few hundred pages are seen at one moment.
fn page_status(region: &Region, arg: usize) -> Result<isize> {
    let wanted: uapi::PageStatus = read_struct(arg)?;
    let mut rest = region.range(wanted.offset, wanted.len, u64::MAX)?;
    let status = usize::try_from(wanted.status).map_err(|_| EFAULT)?;
    let mut writer = UserSlice::new(UserPtr::from_addr(status), rest.len()).writer();
    let mut bytes = [0; 512];

    while !rest.is_empty() {
        // There may be billions of them.
        if fatal_signal_pending() {
            return Err(EINTR);
        }
        let pages = region.page_status(&mut rest, &mut bytes);
        writer.write_slice(&bytes[..pages])?;
    }
    Ok(0)
}

/// Direction, type and number of an ioctl, without the size.
fn but_size(cmd: u32) -> (u32, u32, u32) {
    (_IOC_DIR(cmd), _IOC_TYPE(cmd), _IOC_NR(cmd))
}

/// ASHMEM_GET_COUNTERS, in as many bytes as the number says.
fn counters(region: &Region, cmd: u32, arg: usize) -> Result<isize> {
    let wanted = _IOC_SIZE(cmd);
    if wanted == 0 || wanted % size_of::<u64>() != 0 {
        return Err(ENOTTY);
    }
    let info = region.info();
    let events = &region.counters;
    let counters = uapi::Counters {
        size: info.size as u64,
        faults: events.faults.get(),
        map_faults: events.map_faults.get(),
        huge_faults: events.huge_faults.get(),
        allocated: events.allocated.get(),
        purged: events.purged.get(),
        resident: info.resident as u64,
        unpinned: info.unpinned as u64,
    };
    let known = counters.as_bytes();
    let mut writer = UserSlice::new(UserPtr::from_addr(arg), wanted).writer();

    writer.write_slice(&known[..wanted.min(known.len())])?;
    for _ in known.len()..wanted {
        writer.write(&0u8)?;
    }
    Ok(known.len() as isize)
}

fn purge_all(region: &Region) -> Result<isize> {
    if !is_admin() {
        return Err(EPERM);
    }
    // The result of ioctl(2) is an int.
    Ok(reclaim::purge_all(region.shared()).min(i32::MAX as usize) as isize)
}
