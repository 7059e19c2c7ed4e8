// SPDX-License-Identifier: GPL-2.0-only

//! A region as the tests and the demonstration use it: descriptor, mappings, counters.

use std::ffi::CStr;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;
use nix::sys::stat::Mode;

use crate::abi;

/// The device node.
pub const NODE: &str = "/dev/ashmem";
/// Bytes of a page; the guest is an x86.
pub const PAGE: usize = 4096;
/// Read and write.
pub const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// An open descriptor of the device.
pub struct Region(OwnedFd);

impl Region {
    /// A fresh region.
    pub fn open() -> anyhow::Result<Self> {
        Self::open_mode(OFlag::O_RDWR)
    }

    /// A fresh region through a descriptor of this mode.
    pub fn open_mode(mode: OFlag) -> anyhow::Result<Self> {
        let fd = open(NODE, mode | OFlag::O_CLOEXEC, Mode::empty()).context(NODE)?;
        Ok(Self(fd))
    }

    /// A region of `pages` pages.
    pub fn sized(pages: usize) -> anyhow::Result<Self> {
        let region = Self::open()?;
        region.set_size(pages * PAGE)?;
        Ok(region)
    }

    /// What somebody sent.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Any ioctl.
    pub fn ioctl(&self, request: u32, arg: usize) -> nix::Result<i32> {
        // SAFETY: The kernel checks the argument; what it may write through a
        // pointer is what the callers below pass.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request.into(), arg) })
    }

    /// ASHMEM_SET_NAME
    pub fn set_name(&self, name: &CStr) -> nix::Result<()> {
        self.ioctl(abi::ABI_SET_NAME, name.as_ptr() as usize)
            .map(drop)
    }

    /// ASHMEM_GET_NAME; the bytes of the buffer that were not written are 0xaa.
    pub fn name_buffer(&self) -> nix::Result<[u8; abi::ASHMEM_NAME_LEN as usize]> {
        let mut buffer = [0xaa; abi::ASHMEM_NAME_LEN as usize];
        self.ioctl(abi::ABI_GET_NAME, buffer.as_mut_ptr() as usize)?;
        Ok(buffer)
    }

    /// The name.
    pub fn name(&self) -> anyhow::Result<String> {
        let buffer = self.name_buffer()?;
        Ok(CStr::from_bytes_until_nul(&buffer)?.to_str()?.to_owned())
    }

    /// ASHMEM_SET_SIZE, in bytes.
    pub fn set_size(&self, bytes: usize) -> nix::Result<()> {
        self.ioctl(abi::ABI_SET_SIZE, bytes).map(drop)
    }

    /// ASHMEM_GET_SIZE, in bytes.
    pub fn size(&self) -> nix::Result<usize> {
        self.ioctl(abi::ABI_GET_SIZE, 0).map(|size| size as usize)
    }

    /// ASHMEM_SET_PROT_MASK
    pub fn set_mask(&self, mask: ProtFlags) -> nix::Result<()> {
        self.ioctl(abi::ABI_SET_PROT_MASK, mask.bits() as usize)
            .map(drop)
    }

    /// ASHMEM_GET_PROT_MASK
    pub fn mask(&self) -> nix::Result<ProtFlags> {
        self.ioctl(abi::ABI_GET_PROT_MASK, 0)
            .map(ProtFlags::from_bits_retain)
    }

    /// ASHMEM_GET_FILE_ID
    pub fn file_id(&self) -> nix::Result<u64> {
        let mut id: libc::c_ulong = 0;
        self.ioctl(abi::ABI_GET_FILE_ID, &raw mut id as usize)?;
        Ok(id)
    }

    fn range(&self, request: u32, offset: u32, len: u32) -> nix::Result<i32> {
        let pin = abi::ashmem_pin { offset, len };
        self.ioctl(request, &raw const pin as usize)
    }

    /// ASHMEM_PIN, in bytes; whether something was purged.
    pub fn pin_bytes(&self, offset: u32, len: u32) -> nix::Result<bool> {
        self.range(abi::ABI_PIN, offset, len)
            .map(|ret| ret != abi::ASHMEM_NOT_PURGED as i32)
    }

    /// ASHMEM_UNPIN, in bytes.
    pub fn unpin_bytes(&self, offset: u32, len: u32) -> nix::Result<()> {
        self.range(abi::ABI_UNPIN, offset, len).map(drop)
    }

    /// ASHMEM_GET_PIN_STATUS, in bytes; whether all is pinned.
    pub fn pinned_bytes(&self, offset: u32, len: u32) -> nix::Result<bool> {
        self.range(abi::ABI_GET_PIN_STATUS, offset, len)
            .map(|ret| ret == abi::ASHMEM_IS_PINNED as i32)
    }

    /// ASHMEM_PIN of pages; whether one of them was purged.
    pub fn pin(&self, pages: Range<usize>) -> nix::Result<bool> {
        self.pin_bytes(bytes(pages.start), bytes(pages.len()))
    }

    /// ASHMEM_UNPIN of pages.
    pub fn unpin(&self, pages: Range<usize>) -> nix::Result<()> {
        self.unpin_bytes(bytes(pages.start), bytes(pages.len()))
    }

    /// ASHMEM_PURGE_ALL_CACHES; the number of pages.
    pub fn purge_all(&self) -> nix::Result<usize> {
        self.ioctl(abi::ABI_PURGE_ALL_CACHES, 0).map(|n| n as usize)
    }

    /// A shared mapping of the first pages, to read and write.
    pub fn map(&self, pages: usize) -> anyhow::Result<Mapping> {
        self.map_as(pages * PAGE, RW, MapFlags::MAP_SHARED)
            .context("mmap")
    }

    /// Any mapping from the region's start.
    pub fn map_as(&self, len: usize, prot: ProtFlags, flags: MapFlags) -> nix::Result<Mapping> {
        Mapping::new(&self.0, len, prot, flags, 0)
    }

    /// The counters and sizes of fdinfo.
    pub fn info(&self) -> anyhow::Result<Info> {
        Info::parse(&self.fdinfo()?)
    }

    /// The text of fdinfo.
    pub fn fdinfo(&self) -> anyhow::Result<String> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        fs::read_to_string(&path).context(path)
    }

    /// Which of the first pages are pinned: `.`, and which are not: `u`.
    pub fn picture(&self, pages: usize) -> nix::Result<String> {
        (0..pages)
            .map(|page| {
                let pinned = self.pinned_bytes(bytes(page), bytes(1))?;
                Ok(if pinned { '.' } else { 'u' })
            })
            .collect()
    }
}

fn bytes(pages: usize) -> u32 {
    u32::try_from(pages * PAGE).expect("struct ashmem_pin ends at 4 GiB")
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A mapping; unmapped when dropped.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// A mapping of any file, at an address that the kernel chooses.
    pub fn new(
        file: impl AsFd,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
        offset: libc::off_t,
    ) -> nix::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let base = unsafe { mmap(None, len, prot, flags, file, offset) }?;
        Ok(Self {
            base: base.cast(),
            len: len.get(),
        })
    }

    /// Address of its first byte.
    pub fn base(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its length in pages.
    pub fn pages(&self) -> usize {
        self.len / PAGE
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "offset {offset} of {}", self.len);
        // SAFETY: The offset lies in the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Reads a byte; others may write it at the same time.
    pub fn read(&self, offset: usize) -> u8 {
        // SAFETY: The address is mapped; if it cannot be read, the test dies of
        // a signal, which is what some tests are about.
        unsafe { self.at(offset).read_volatile() }
    }

    /// Writes a byte; others may read it at the same time.
    pub fn write(&self, offset: usize, byte: u8) {
        // SAFETY: As for `read`.
        unsafe { self.at(offset).write_volatile(byte) }
    }

    /// Reads bytes.
    pub fn load(&self, range: Range<usize>) -> Vec<u8> {
        range.map(|offset| self.read(offset)).collect()
    }

    /// Writes bytes.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            self.write(at, *byte);
        }
    }

    /// Some of its pages, as a buffer of system calls.
    pub fn iovec(&self, pages: Range<usize>) -> libc::iovec {
        assert!(pages.end <= self.pages());
        libc::iovec {
            iov_base: (self.base() + pages.start * PAGE) as *mut libc::c_void,
            iov_len: pages.len() * PAGE,
        }
    }

    /// Writes the same byte to each page, to its first and its last address.
    pub fn stamp(&self, pages: Range<usize>, byte: u8) {
        for page in pages {
            self.write(page * PAGE, byte);
            self.write(page * PAGE + PAGE - 1, byte);
        }
    }

    /// Touches each page with one write.
    pub fn write_pages(&self, pages: Range<usize>) {
        for page in pages {
            self.write(page * PAGE, 1);
        }
    }

    /// Touches each page with one read; gives the sum.
    pub fn read_pages(&self, pages: Range<usize>) -> usize {
        pages.map(|page| usize::from(self.read(page * PAGE))).sum()
    }

    /// One letter a page: `x` where it has this stamp, `0` where it is all
    /// zeros, `?` for anything else.
    pub fn picture(&self, byte: u8) -> String {
        (0..self.pages())
            .map(|page| {
                let first = self.read(page * PAGE);
                let last = self.read(page * PAGE + PAGE - 1);
                if (first, last) == (byte, byte) {
                    'x'
                } else if (0..PAGE).all(|at| self.read(page * PAGE + at) == 0) {
                    '0'
                } else {
                    '?'
                }
            })
            .collect()
    }

    /// An integer that other processes may use at the same time.
    pub fn atomic(&self, offset: usize) -> &std::sync::atomic::AtomicU32 {
        assert!(offset % 4 == 0 && offset + 4 <= self.len);
        // SAFETY: Aligned, mapped as long as `self`, and only used as atomic.
        unsafe { std::sync::atomic::AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    /// The mapping as a pointer, for calls of nix.
    pub fn pointer(&self) -> NonNull<libc::c_void> {
        self.base.cast()
    }

    /// Leaves it mapped for ever.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: It is ours, and nobody can have a pointer into it any more.
        if let Err(error) = unsafe { munmap(self.base.cast(), self.len) } {
            panic!("munmap: {error}");
        }
    }
}

/// What fdinfo tells of a region, in pages but for `size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Bytes.
    pub size: u64,
    /// Runs of the fault handler.
    pub faults: u64,
    /// Calls of map_pages that resolved the fault.
    pub map_faults: u64,
    /// Runs of the fault handler that mapped a huge page.
    pub huge_faults: u64,
    /// Pages allocated.
    pub allocated: u64,
    /// Pages freed while unpinned.
    pub purged: u64,
    /// Pages that have memory now.
    pub resident: u64,
    /// Pages that are not pinned now.
    pub unpinned: u64,
}

impl Info {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let field = |key: &str| -> anyhow::Result<u64> {
            let mut values = text
                .lines()
                .filter_map(|line| line.split_once(":\t"))
                .filter(|(k, _)| *k == key)
                .map(|(_, value)| value.trim().parse::<u64>());
            let value = values
                .next()
                .with_context(|| format!("no `{key}`:\n{text}"))??;
            ensure!(values.next().is_none(), "`{key}` twice:\n{text}");
            Ok(value)
        };
        Ok(Self {
            size: field("size")?,
            faults: field("faults")?,
            map_faults: field("map_faults")?,
            huge_faults: field("huge_faults")?,
            allocated: field("allocated")?,
            purged: field("purged")?,
            resident: field("resident")?,
            unpinned: field("unpinned")?,
        })
    }
}
