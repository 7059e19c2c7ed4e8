// SPDX-License-Identifier: GPL-2.0-only

//! A region as the tests use it: what the client library has, with nix's
//! types, and what no good program does: any ioctl, descriptors of other modes,
//! mappings beyond what the library allows.

use std::ffi::CStr;
use std::fs;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::Protection;
use ashmem::abi;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::munmap;
use nix::sys::stat::Mode;

/// The device node.
pub const NODE: &str = "/dev/ashmem";
/// Bytes of a page; the guest is an x86.
pub const PAGE: usize = 4096;
/// Pages of the largest folio that grows with sequential access, by the default of `max_order`.
pub const LARGE: usize = 16;
/// Pointers to nothing of a program's.
pub const BAD_POINTERS: [usize; 7] = [
    0,
    8,
    usize::MAX - PAGE + 1,
    usize::MAX,
    // Where the kernel maps all memory; between its half and the program's, which ends there.
    wide(0xffff_8880_0000_0000),
    wide(0x8000_0000_0000_0000),
    wide(0x0000_8000_0000_0000),
];

/// An address of 64 bits; where there are 32 only, one beyond what a program can have.
const fn wide(address: u64) -> usize {
    if cfg!(target_pointer_width = "64") {
        address as usize
    } else {
        0xffff_f000
    }
}

/// Read and write.
pub const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// An open descriptor of the device.
pub struct Region(ashmem::Region);

/// What the kernel answered.
fn errno(error: ashmem::Error) -> Errno {
    Errno::from_raw(error.errno())
}

impl Region {
    /// A fresh region.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self(ashmem::Region::fresh()?))
    }

    /// A fresh region through a descriptor of this mode.
    pub fn open_mode(mode: OFlag) -> anyhow::Result<Self> {
        let fd = open(NODE, mode | OFlag::O_CLOEXEC, Mode::empty()).context(NODE)?;
        Ok(Self(fd.try_into()?))
    }

    /// A region of `pages` pages.
    pub fn sized(pages: usize) -> anyhow::Result<Self> {
        let region = Self::open()?;
        region.set_size(pages * PAGE)?;
        Ok(region)
    }

    /// A region of this many folios of [`LARGE`] pages, all there, and a mapping of them. Behind them
    /// it goes on: of a folio at which it ends the core maps less at once.
    pub fn large(folios: usize) -> anyhow::Result<(Self, Mapping)> {
        let pages = folios * LARGE;
        for last in [false, true] {
            let region = Self::sized(pages + 1)?;
            let map = region.map_aligned(pages)?.sequential()?;
            map.read_pages(0..pages);
            let found = map.folios()?;
            if found == format!("h{}", "t".repeat(LARGE - 1)).repeat(folios) {
                return Ok((region, map));
            }
            ensure!(!last, "{found}");
            // Where memory lies in pieces, small ones are taken.
            fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
        }
        unreachable!("the last one returned")
    }

    /// What somebody sent; panics if it is no region.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.try_into().expect("what was sent"))
    }

    /// Any ioctl.
    pub fn ioctl(&self, request: u32, arg: usize) -> nix::Result<i32> {
        // SAFETY: The kernel checks the argument; what it may write through a
        // pointer is what the callers below pass.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request.into(), arg) })
    }

    /// ASHMEM_SET_NAME
    pub fn set_name(&self, name: &CStr) -> nix::Result<()> {
        self.0.set_name(name).map_err(errno)
    }

    /// ASHMEM_GET_NAME; the bytes of the buffer that were not written are 0xaa.
    pub fn name_buffer(&self) -> nix::Result<[u8; abi::ASHMEM_NAME_LEN as usize]> {
        let mut buffer = [0xaa; abi::ASHMEM_NAME_LEN as usize];
        self.ioctl(abi::ABI_GET_NAME, buffer.as_mut_ptr() as usize)?;
        Ok(buffer)
    }

    /// The name.
    pub fn name(&self) -> anyhow::Result<String> {
        Ok(self.0.name()?.into_string()?)
    }

    /// ASHMEM_SET_SIZE, in bytes.
    pub fn set_size(&self, bytes: usize) -> nix::Result<()> {
        self.0.set_size(bytes).map_err(errno)
    }

    /// ASHMEM_GET_SIZE, in bytes.
    pub fn size(&self) -> nix::Result<usize> {
        // An int, of which all bits belong to the size.
        self.ioctl(abi::ABI_GET_SIZE, 0)
            .map(|size| size as u32 as usize)
    }

    /// ASHMEM_SET_PROT_MASK
    pub fn set_mask(&self, mask: ProtFlags) -> nix::Result<()> {
        self.0
            .restrict(Protection::from_bits(mask.bits()))
            .map_err(errno)
    }

    /// ASHMEM_GET_PROT_MASK
    pub fn mask(&self) -> nix::Result<ProtFlags> {
        let mask = self.0.protection().map_err(errno)?;
        Ok(ProtFlags::from_bits_retain(mask.bits()))
    }

    /// ASHMEM_GET_FILE_ID
    pub fn file_id(&self) -> nix::Result<u64> {
        self.0.file_id().map_err(errno)
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

    fn wide(&self, request: u32, offset: u64, len: u64) -> nix::Result<i32> {
        let range = abi::ashmem_range { offset, len };
        self.ioctl(request, &raw const range as usize)
    }

    /// ASHMEM_PIN_RANGE, in bytes; whether something was purged.
    pub fn pin_wide(&self, offset: u64, len: u64) -> nix::Result<bool> {
        self.wide(abi::ABI_PIN_RANGE, offset, len)
            .map(|ret| ret != abi::ASHMEM_NOT_PURGED as i32)
    }

    /// ASHMEM_UNPIN_RANGE, in bytes.
    pub fn unpin_wide(&self, offset: u64, len: u64) -> nix::Result<()> {
        self.wide(abi::ABI_UNPIN_RANGE, offset, len).map(drop)
    }

    /// ASHMEM_GET_RANGE_PIN_STATUS, in bytes; whether all is pinned.
    pub fn pinned_wide(&self, offset: u64, len: u64) -> nix::Result<bool> {
        self.wide(abi::ABI_GET_RANGE_PIN_STATUS, offset, len)
            .map(|ret| ret == abi::ASHMEM_IS_PINNED as i32)
    }

    /// ASHMEM_GET_PAGE_STATUS, in bytes; `status` is an address.
    pub fn page_status(&self, offset: u64, len: u64, status: usize) -> nix::Result<()> {
        let wanted = abi::ashmem_page_status {
            offset,
            len,
            status: status as u64,
        };
        self.ioctl(abi::ABI_GET_PAGE_STATUS, &raw const wanted as usize)
            .map(drop)
    }

    /// The status of each of these pages, at least one.
    pub fn statuses(&self, pages: Range<u64>) -> nix::Result<Vec<u8>> {
        let page = PAGE as u64;
        let count = pages.end - pages.start;
        assert!(count != 0, "a length of 0 stands for more than nothing");
        // Nothing that it could write.
        let mut status = vec![0xaa; count as usize];
        self.page_status(
            pages.start * page,
            count * page,
            status.as_mut_ptr() as usize,
        )?;
        Ok(status)
    }

    /// ASHMEM_GET_COUNTERS
    pub fn counters(&self) -> nix::Result<Info> {
        let mut found = abi::ashmem_counters::default();
        self.ioctl(abi::ABI_GET_COUNTERS, &raw mut found as usize)?;
        Ok(Info {
            size: found.size,
            faults: found.faults,
            map_faults: found.map_faults,
            huge_faults: found.huge_faults,
            allocated: found.allocated,
            purged: found.purged,
            resident: found.resident,
            unpinned: found.unpinned,
        })
    }

    /// ASHMEM_PURGE_ALL_CACHES; the number of pages.
    pub fn purge_all(&self) -> nix::Result<usize> {
        self.0.purge_all_caches().map_err(errno)
    }

    /// A shared mapping of the first pages, to read and write.
    pub fn map(&self, pages: usize) -> anyhow::Result<Mapping> {
        self.map_as(pages * PAGE, RW, MapFlags::MAP_SHARED)
            .context("mmap")
    }

    /// The first pages, shared, where no folio of up to [`LARGE`] pages goes beyond what one page
    /// table maps.
    pub fn map_aligned(&self, pages: usize) -> nix::Result<Mapping> {
        let place = Mapping::reserve(pages + LARGE)?.base();
        let place = place.next_multiple_of(LARGE * PAGE);
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: It replaces nothing.
        unsafe { self.map_at(place, pages * PAGE, RW, flags, 0) }
    }

    /// Any mapping from the region's start.
    pub fn map_as(&self, len: usize, prot: ProtFlags, flags: MapFlags) -> nix::Result<Mapping> {
        self.map_from(0, len, prot, flags)
    }

    /// Any mapping from page `first` of the region on.
    pub fn map_from(
        &self,
        first: usize,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> nix::Result<Mapping> {
        self.map_far(len, prot, flags, (first * PAGE) as i64)
    }

    /// Any mapping from this offset in bytes on.
    pub fn map_far(
        &self,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
        offset: i64,
    ) -> nix::Result<Mapping> {
        Mapping::new(&self.0, len, prot, flags, offset)
    }

    /// Any mapping: all arguments of mmap(2). The offset has 64 bits in a 32-bit program as well,
    /// where nix cuts it.
    ///
    /// # Safety
    ///
    /// With `MAP_FIXED`, nobody may use what it replaces any more.
    pub unsafe fn map_at(
        &self,
        address: usize,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
        offset: i64,
    ) -> nix::Result<Mapping> {
        // SAFETY: The caller looks after what is replaced.
        unsafe { Mapping::at_address(address, &self.0, len, prot, flags, offset) }
    }

    /// Maps these pages of the region, shared, at page `at` of `place` and on, which stays the
    /// owner of the addresses. `flags` says how: `MAP_FIXED` or `MAP_FIXED_NOREPLACE`.
    pub fn map_onto(
        &self,
        place: &Mapping,
        at: usize,
        pages: Range<usize>,
        flags: MapFlags,
    ) -> nix::Result<()> {
        assert!(at + pages.len() <= place.pages());
        let address = place.base() + at * PAGE;
        let flags = MapFlags::MAP_SHARED | flags;
        let offset = (pages.start * PAGE) as i64;
        // SAFETY: What is replaced lies in `place`, of which there is no reference.
        let map = unsafe { self.map_at(address, pages.len() * PAGE, RW, flags, offset) }?;
        map.leak();
        Ok(())
    }

    /// The counters and sizes of fdinfo.
    pub fn info(&self) -> anyhow::Result<Info> {
        Info::parse(&self.fdinfo()?)
    }

    /// The text of fdinfo.
    pub fn fdinfo(&self) -> anyhow::Result<String> {
        fdinfo(&self.0)
    }

    /// One letter for each of these pages: `.` pinned, `u` unpinned, `p` purged, as a capital
    /// letter (`:` for a pinned one) where the page has memory.
    pub fn status_picture(&self, pages: Range<u64>) -> anyhow::Result<String> {
        self.statuses(pages)?
            .into_iter()
            .map(|status| {
                let resident = u32::from(status) & abi::ASHMEM_PAGE_RESIDENT != 0;
                let letters = match u32::from(status) & !abi::ASHMEM_PAGE_RESIDENT {
                    abi::ASHMEM_PAGE_PINNED => ['.', ':'],
                    abi::ASHMEM_PAGE_UNPINNED => ['u', 'U'],
                    abi::ASHMEM_PAGE_PURGED => ['p', 'P'],
                    _ => bail!("a status of {status:#x}"),
                };
                Ok(letters[usize::from(resident)])
            })
            .collect()
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

/// What the kernel tells of a descriptor; bytes of a name that are not UTF-8 are replaced.
pub fn fdinfo(fd: impl AsFd) -> anyhow::Result<String> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read(&path).context(path)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
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
        offset: i64,
    ) -> nix::Result<Self> {
        assert!(!flags.intersects(MapFlags::MAP_FIXED), "see `map_onto`");
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        unsafe { Self::at_address(0, file, len, prot, flags, offset) }
    }

    /// # Safety
    ///
    /// With `MAP_FIXED`, nobody may use what it replaces any more.
    unsafe fn at_address(
        address: usize,
        file: impl AsFd,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
        offset: i64,
    ) -> nix::Result<Self> {
        let (prot, flags, fd) = (prot.bits(), flags.bits(), file.as_fd().as_raw_fd());
        // SAFETY: The caller looks after what is replaced.
        let base = unsafe { libc::mmap64(address as *mut _, len, prot, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or(Errno::EINVAL)?,
            len,
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

    /// The words of a page, in order, which others may use at the same time.
    pub fn words(&self, page: usize) -> impl Iterator<Item = &AtomicU64> {
        assert!(page < self.pages());
        let base = self.page(page).cast::<u64>();
        (0..PAGE / size_of::<u64>()).map(move |at| {
            // SAFETY: It lies in the page.
            let word = unsafe { base.add(at) };
            // SAFETY: Aligned, mapped as long as `self`, and only used as atomic.
            unsafe { AtomicU64::from_ptr(word.as_ptr()) }
        })
    }

    /// Writes the same byte all over a page.
    pub fn fill(&self, page: usize, byte: u8) {
        for word in self.words(page) {
            word.store(u64::from_ne_bytes([byte; 8]), Relaxed);
        }
    }

    /// Whether a page has this byte all over.
    pub fn is_full_of(&self, page: usize, byte: u8) -> bool {
        let full = u64::from_ne_bytes([byte; 8]);
        self.words(page).all(|word| word.load(Relaxed) == full)
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

    /// Addresses that nobody else uses, and nobody can read or write.
    pub fn reserve(pages: usize) -> nix::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        Self::anonymous(pages, ProtFlags::PROT_NONE, flags)
    }

    /// A mapping of no file.
    pub fn anonymous(pages: usize, prot: ProtFlags, flags: MapFlags) -> nix::Result<Self> {
        assert!(!flags.intersects(MapFlags::MAP_FIXED), "see `map_onto`");
        let len = NonZeroUsize::new(pages * PAGE).ok_or(Errno::EINVAL)?;
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let base = unsafe { mmap_anonymous(None, len, prot, flags) }?;
        Ok(Self {
            base: base.cast(),
            len: len.get(),
        })
    }

    /// Takes over what mremap(2) gave.
    ///
    /// # Safety
    ///
    /// It must be a mapping of `len` bytes that nobody else unmaps.
    pub unsafe fn from_raw(base: NonNull<libc::c_void>, len: usize) -> Self {
        Self {
            base: base.cast(),
            len,
        }
    }

    /// The mapping as a pointer, for calls of nix.
    pub fn pointer(&self) -> NonNull<libc::c_void> {
        self.base.cast()
    }

    /// A page of it as a pointer, also the one behind the last.
    pub fn page(&self, page: usize) -> NonNull<libc::c_void> {
        assert!(page <= self.pages());
        // SAFETY: The offset lies in the mapping, or at its end.
        unsafe { self.base.add(page * PAGE) }.cast()
    }

    /// munmap(2) of these pages. The addresses stay this mapping's: nothing else may be mapped
    /// there, or `drop` unmaps it.
    pub fn unmap(&self, pages: Range<usize>) -> nix::Result<()> {
        assert!(pages.end <= self.pages());
        // SAFETY: They lie in this mapping; who touches them from here on dies of it.
        unsafe { munmap(self.page(pages.start), pages.len() * PAGE) }
    }

    /// madvise(2) of these pages, with any number. What lies behind the mapping may be named too.
    pub fn advise(&self, pages: Range<usize>, advice: libc::c_int) -> nix::Result<()> {
        self.advise_bytes(pages.start * PAGE, pages.len() * PAGE, advice)
    }

    /// madvise(2), in bytes.
    pub fn advise_bytes(&self, offset: usize, len: usize, advice: libc::c_int) -> nix::Result<()> {
        assert!(offset <= self.len);
        let at = (self.base() + offset) as *mut libc::c_void;
        // SAFETY: There is no reference to what is mapped there, so that it may change.
        Errno::result(unsafe { libc::madvise(at, len, advice) }).map(drop)
    }

    /// `MADV_RANDOM`: touches of it allocate one page each.
    pub fn single(self) -> anyhow::Result<Self> {
        self.advise(0..self.pages(), libc::MADV_RANDOM)
            .context("MADV_RANDOM")?;
        Ok(self)
    }

    /// `MADV_SEQUENTIAL`: touches of it allocate aligned blocks of pages, as many as `max_order`
    /// allows and fit in.
    pub fn sequential(self) -> anyhow::Result<Self> {
        self.advise(0..self.pages(), libc::MADV_SEQUENTIAL)
            .context("MADV_SEQUENTIAL")?;
        Ok(self)
    }

    /// Writes a letter of its own to each page: `a` to the first one.
    pub fn label(&self) {
        for (page, letter) in (0..self.pages()).zip(b'a'..=b'z') {
            self.stamp(page..page + 1, letter);
        }
    }

    /// The letter of a page; `0` where it is all zeros, `?` for anything else.
    pub fn letter(&self, page: usize) -> char {
        let first = self.read(page * PAGE);
        let last = self.read(page * PAGE + PAGE - 1);
        if first == last && first.is_ascii_lowercase() {
            char::from(first)
        } else if (0..PAGE).all(|at| self.read(page * PAGE + at) == 0) {
            '0'
        } else {
            '?'
        }
    }

    /// The letter of each page.
    pub fn labels(&self) -> String {
        (0..self.pages()).map(|page| self.letter(page)).collect()
    }

    /// What this process's page table has for each page, as in /proc/PID/pagemap.
    pub fn entries(&self) -> anyhow::Result<Vec<u64>> {
        let mut raw = vec![0; self.pages() * 8];
        File::open("/proc/self/pagemap")
            .and_then(|file| file.read_exact_at(&mut raw, (self.base() / PAGE) as u64 * 8))
            .context("/proc/self/pagemap")?;
        Ok(raw
            .chunks_exact(8)
            .map(|entry| u64::from_le_bytes(entry.try_into().expect("eight bytes")))
            .collect())
    }

    /// Number of the frame that each page is mapped from; 0 where it is not mapped.
    pub fn frames(&self) -> anyhow::Result<Vec<u64>> {
        let frame = |entry: u64| match entry >> 63 {
            0 => 0,
            _ => entry & ((1 << 55) - 1),
        };
        Ok(self.entries()?.into_iter().map(frame).collect())
    }

    /// One letter a page: `s` where its folio has no other page, `h` for the first page of a larger
    /// folio, `t` for another page of it, `-` where it is not mapped.
    pub fn folios(&self) -> anyhow::Result<String> {
        const PATH: &str = "/proc/kpageflags";
        const HEAD: u64 = 1 << 15;
        const TAIL: u64 = 1 << 16;
        let file = File::open(PATH).context(PATH)?;
        self.frames()?
            .into_iter()
            .map(|frame| {
                if frame == 0 {
                    return Ok('-');
                }
                let mut flags = [0; 8];
                file.read_exact_at(&mut flags, frame * 8).context(PATH)?;
                let flags = u64::from_ne_bytes(flags);
                Ok(match (flags & HEAD, flags & TAIL) {
                    (0, 0) => 's',
                    (_, 0) => 'h',
                    _ => 't',
                })
            })
            .collect()
    }

    /// One letter a page: `m` where the page table has it, `g` where it has a guard, `-` where it
    /// has nothing, `?` for anything else.
    pub fn table(&self) -> anyhow::Result<String> {
        let letter = |entry: u64| match (entry >> 63, (entry >> 62) & 1, (entry >> 58) & 1) {
            (1, 0, 0) => 'm',
            (0, _, 1) => 'g',
            (0, 0, 0) => '-',
            _ => '?',
        };
        Ok(self.entries()?.into_iter().map(letter).collect())
    }

    /// The fields of its entry in /proc/self/smaps: that of the VMA in which it begins.
    pub fn smaps(&self) -> anyhow::Result<Smaps> {
        let start = format!("{:x}-", self.base());
        let text = fs::read_to_string("/proc/self/smaps").context("smaps")?;
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
        ensure!(lines.next().is_some(), "{start} is not in smaps");
        // Up to the next one's first line, the only kind without a colon after its first word.
        let mine = lines
            .take_while(|line| {
                let mut words = line.split_whitespace();
                words.next().is_some_and(|word| word.ends_with(':'))
            })
            .map(str::to_owned);
        Ok(Smaps(mine.collect()))
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

/// What /proc/PID/smaps tells of a mapping.
pub struct Smaps(Vec<String>);

impl Smaps {
    fn value(&self, key: &str) -> anyhow::Result<&str> {
        self.0
            .iter()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value.trim())
            .with_context(|| format!("no `{key}` in smaps"))
    }

    /// A size that stands there in kB, in pages.
    pub fn pages(&self, key: &str) -> anyhow::Result<usize> {
        let value = self.value(key)?;
        let kib: usize = value.strip_suffix(" kB").context("no kB")?.parse()?;
        Ok(kib * 1024 / PAGE)
    }

    /// Whether `VmFlags` has this flag of two letters.
    pub fn flag(&self, flag: &str) -> anyhow::Result<bool> {
        Ok(self.value("VmFlags")?.split(' ').any(|word| word == flag))
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
    /// Reads what [`fdinfo`] gives.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
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
