// SPDX-License-Identifier: GPL-2.0-only

//! The memory of a region.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::ops::RangeBounds;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::ptr::null_mut;
use std::slice;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use crate::Error;
use crate::Protection;
use crate::Region;
use crate::Result;
use crate::error::Call;
use crate::region::page_size;
use crate::span::Span;

/// How a region is mapped: all of it, shared, to be read and written, unless
/// something else is said.
///
/// ```no_run
/// # fn main() -> ashmem::Result<()> {
/// # let region = ashmem::Region::new(c"example", 8192)?;
/// use ashmem::{MapOptions, Protection};
///
/// let second_page = MapOptions::new().range(4096..8192).protection(Protection::READ);
/// let memory = region.map_with(second_page)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct MapOptions {
    range: (Bound<u64>, Bound<u64>),
    protection: Protection,
    private: bool,
    populate: bool,
}

impl MapOptions {
    /// All of it, shared, to be read and written.
    pub const fn new() -> Self {
        Self {
            range: (Bound::Unbounded, Bound::Unbounded),
            protection: Protection::READ_WRITE,
            private: false,
            populate: false,
        }
    }

    /// Only these bytes of the region; they must begin at a page.
    pub fn range(mut self, range: impl RangeBounds<u64>) -> Self {
        self.range = (range.start_bound().cloned(), range.end_bound().cloned());
        self
    }

    /// For this use.
    pub const fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// What is written is seen in this mapping only. What others write to the
    /// region is seen in a page until this mapping has written to it.
    pub const fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Every page gets its memory at once, as far as there is any.
    pub const fn populate(mut self) -> Self {
        self.populate = true;
        self
    }
}

impl Default for MapOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// # Memory
impl<F: AsFd> Region<F> {
    /// Maps all of it, shared, to be read and written.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it has no size yet. `EPERM`: a protection that was taken away
    /// with [`restrict`](Self::restrict). `EACCES`: the descriptor was opened
    /// for less. `ENOMEM`: more than machine or process may have.
    pub fn map(&self) -> Result<Mapping<'_>> {
        self.map_with(MapOptions::new())
    }

    /// Maps it in another way.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); besides `EINVAL` for a range that does not begin
    /// at a page, is empty, or ends beyond the region's last page.
    pub fn map_with(&self, options: MapOptions) -> Result<Mapping<'_>> {
        let (start, len) = part(options.range, self.size()?, page_size())?;
        let mut flags = if options.private {
            libc::MAP_PRIVATE
        } else {
            libc::MAP_SHARED
        };
        if options.populate {
            flags |= libc::MAP_POPULATE;
        }
        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let base = unsafe {
            libc::mmap64(
                null_mut(),
                len,
                options.protection.bits(),
                flags,
                self.as_fd().as_raw_fd(),
                start,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::new(Call::Map, Errno::last()));
        }
        let base = NonNull::new(base.cast()).ok_or(Error::new(Call::Map, Errno::EFAULT))?;
        // INVARIANT: mmap(2) just gave it to us.
        Ok(Mapping {
            base,
            len,
            protection: options.protection,
            region: PhantomData,
        })
    }
}

/// Offset and length for mmap(2) of a range of a region of `size` bytes.
fn part(range: (Bound<u64>, Bound<u64>), size: u64, page: u64) -> Result<(libc::off64_t, usize)> {
    let invalid = |hint| Error::refused(Call::Map, Errno::EINVAL, hint);
    if size == 0 {
        return Err(invalid("the region has no size yet: `set_size`"));
    }
    let span = Span::new(Call::Map, range)?;
    if span.start % page != 0 {
        return Err(invalid("the range does not begin at a page"));
    }
    let end = span.end.unwrap_or(size);
    // The kernel takes an offset beyond the region, and each touch is SIGBUS.
    if size
        .checked_next_multiple_of(page)
        .is_some_and(|size| end > size)
    {
        return Err(invalid("the range ends beyond the region"));
    }
    match end.checked_sub(span.start) {
        None | Some(0) => Err(invalid("the range is empty")),
        Some(len) => match (span.start.try_into(), len.try_into()) {
            (Ok(start), Ok(len)) => Ok((start, len)),
            _ => {
                let hint = "more than this process has addresses for";
                Err(Error::refused(Call::Map, Errno::EOVERFLOW, hint))
            }
        },
    }
}

/// Mapped memory of a region; unmapped when dropped.
///
/// Other processes may change it at any time, and what is unpinned may turn to
/// zeros at any time: so there is no `&[u8]` of it. [`read`](Self::read) and
/// [`write`](Self::write) copy byte by byte, without tearing a byte and with no
/// order among them; to hand data over, use atomics or a lock, as between
/// threads.
///
/// # SIGBUS
///
/// The kernel ends a process by this signal that touches
///
/// - a page beyond the region's end, which `mremap` can bring about, but no
///   call of this library;
/// - a page without memory when the module's limit `max_pages` is reached and
///   nothing is left to be purged;
/// - a page whose memory has failed.
///
/// A memory cgroup at its limit has its processes killed instead.
///
/// # Invariants
///
/// `len` bytes from `base` on are mapped with `protection`, and are ours.
pub struct Mapping<'r> {
    base: NonNull<u8>,
    len: usize,
    protection: Protection,
    region: PhantomData<BorrowedFd<'r>>,
}

// SAFETY: The memory belongs to the process, not to a thread.
unsafe impl Send for Mapping<'_> {}
// SAFETY: It is read and written by atomic operations only.
unsafe impl Sync for Mapping<'_> {}

impl Mapping<'_> {
    /// Its length in bytes: what was asked for; what is mapped are whole pages.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of its first byte. For what this library does not have;
    /// what goes for [`bytes`](Self::bytes) goes for its use as well.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Its bytes, for atomic operations.
    ///
    /// # Panics
    ///
    /// If it is not mapped to be read and written.
    pub fn bytes(&self) -> &[AtomicU8] {
        self.allows(Protection::READ_WRITE);
        self.atomics()
    }

    /// Copies from it.
    ///
    /// # Panics
    ///
    /// If that ends beyond the mapping, or if it is not mapped to be read.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        self.allows(Protection::READ);
        let from = self.part(offset, into.len());
        for (byte, from) in into.iter_mut().zip(from) {
            *byte = from.load(Ordering::Relaxed);
        }
    }

    /// Copies into it.
    ///
    /// # Panics
    ///
    /// If that ends beyond the mapping, or if it is not mapped to be written.
    pub fn write(&self, offset: usize, from: &[u8]) {
        self.allows(Protection::WRITE);
        let into = self.part(offset, from.len());
        for (byte, into) in from.iter().zip(into) {
            into.store(*byte, Ordering::Relaxed);
        }
    }

    /// The mapping alone: it outlives the region's descriptor, and the region's
    /// memory lives as long as it does. When the last descriptor is closed,
    /// what is unpinned and was not purged becomes pinned.
    pub fn detach(self) -> Mapping<'static> {
        let detached = Mapping {
            base: self.base,
            len: self.len,
            protection: self.protection,
            region: PhantomData,
        };
        // INVARIANT: It is the other one's now.
        std::mem::forget(self);
        detached
    }

    fn allows(&self, use_: Protection) {
        assert!(
            self.protection.contains(use_),
            "the mapping has {:?}, and this needs {use_:?}",
            self.protection
        );
    }

    fn part(&self, offset: usize, len: usize) -> &[AtomicU8] {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => &self.atomics()[offset..end],
            _ => panic!(
                "{len} bytes at offset {offset} of a mapping of {} bytes",
                self.len
            ),
        }
    }

    /// Its bytes, whatever it is mapped for: the callers load and store only
    /// what they are allowed to.
    fn atomics(&self) -> &[AtomicU8] {
        // SAFETY: By the invariants mapped as long as `self`; whoever else
        // writes there, in whatever process, does not make it invalid.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast(), self.len) }
    }
}

impl fmt::Debug for Mapping<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("base", &self.base)
            .field("len", &self.len)
            .field("protection", &self.protection)
            .finish()
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: By the invariants it is ours, and no borrow of it is left.
        let ret = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(ret, 0, "munmap: {}", Errno::last());
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    const PAGE: u64 = 4096;

    fn found(range: impl RangeBounds<u64>, size: u64) -> std::result::Result<(i64, usize), i32> {
        let options = MapOptions::new().range(range);
        part(options.range, size, PAGE).map_err(|error| error.errno())
    }

    #[test]
    fn a_part_lies_in_the_whole_pages_of_the_region() {
        assert_eq!(found(.., 5000), Ok((0, 5000)));
        assert_eq!(found(4096.., 5000), Ok((4096, 904)));
        assert_eq!(found(..8192, 5000), Ok((0, 8192)));
        assert_eq!(found(4096..4097, 5000), Ok((4096, 1)));
        assert_eq!(found(..=99, 5000), Ok((0, 100)));
        for wrong in [(0, 8193), (8192, 8193), (1, 100), (4096, 4096)] {
            assert_eq!(found(wrong.0..wrong.1, 5000), Err(libc::EINVAL));
        }
        assert_eq!(found(8192.., 5000), Err(libc::EINVAL));
        assert_eq!(found(.., 0), Err(libc::EINVAL));
    }

    #[test]
    fn what_is_no_range_of_addresses_is_refused() {
        // The largest size there is; no page can be added to it.
        assert_eq!(found(.., u64::MAX).is_ok(), usize::BITS == 64);
        assert_eq!(found(1 << 63.., u64::MAX), Err(libc::EOVERFLOW));
        assert_eq!(found(0..=u64::MAX, u64::MAX), Err(libc::EINVAL));
    }
}
