// SPDX-License-Identifier: GPL-2.0-only

//! What the kernel may take back, and what it must leave.

use std::mem::forget;
use std::ops::RangeBounds;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::Error;
use crate::Region;
use crate::Result;
use crate::abi;
use crate::error::Call;
use crate::region::ioctl;
use crate::region::page_size;
use crate::span::Span;
use crate::span::wide_or_narrow;

/// # What the kernel may take back
///
/// Every page begins pinned. Ranges are in bytes, from the start of the region,
/// and must begin and end at a page; without an end they go up to the region's.
/// The pin state belongs to the region: all processes that have it share it,
/// and it is a state of each page, not a count.
///
/// Each of these calls gives `EINVAL` for a range that is not page aligned or
/// ends beyond the region, and for a region that was never mapped. With a
/// driver that has Android's ioctls only, a range from or beyond 4 GiB is
/// `EOVERFLOW`.
impl<F: AsFd> Region<F> {
    /// Lets the kernel take a range's memory when memory is short. What is
    /// taken reads as zeros, in every mapping; [`pin`](Self::pin) tells.
    ///
    /// # Errors
    ///
    /// `EPERM`: the module's parameter `strict_unpin` is on, and writing was
    /// taken away with [`restrict`](Self::restrict).
    pub fn unpin(&self, range: impl RangeBounds<u64>) -> Result<()> {
        unpin(self.as_fd(), pages(Call::Unpin, range)?)
    }

    /// Makes a range stay, and tells whether some of it was taken before that.
    /// It is unpinned again when the guard is dropped; see [`Pinned::keep`].
    pub fn pin(&self, range: impl RangeBounds<u64>) -> Result<Pinned<'_>> {
        let span = pages(Call::Pin, range)?;
        let answer = ask(
            self.as_fd(),
            Call::Pin,
            span,
            abi::ABI_PIN_RANGE,
            abi::ABI_PIN,
        )?;
        Ok(Pinned {
            region: self.as_fd(),
            span,
            // An empty range has lost nothing. Whatever else is not "no" may
            // be a loss.
            purged: answer.is_some_and(|answer| answer != abi::ASHMEM_NOT_PURGED as i32),
        })
    }

    /// Whether every page of a range is pinned.
    pub fn is_pinned(&self, range: impl RangeBounds<u64>) -> Result<bool> {
        let answer = ask(
            self.as_fd(),
            Call::PinStatus,
            pages(Call::PinStatus, range)?,
            abi::ABI_GET_RANGE_PIN_STATUS,
            abi::ABI_GET_PIN_STATUS,
        )?;
        Ok(answer.is_none_or(|answer| answer == abi::ASHMEM_IS_PINNED as i32))
    }

    /// The status of each page of a range, without a change to any.
    ///
    /// # Errors
    ///
    /// `ENOTTY`: the driver is another one, and cannot tell.
    pub fn page_status(&self, range: impl RangeBounds<u64>) -> Result<Vec<PageStatus>> {
        let span = pages(Call::PageStatus, range)?;
        let page = page_size();
        let size = self.size()?.next_multiple_of(page);
        let end = span.end.unwrap_or(size);
        // Before memory is asked for: there is a byte for each page.
        if end > size || span.start > end {
            return Err(Error::new(Call::PageStatus, Errno::EINVAL));
        }
        let mut status = vec![0u8; ((end - span.start) / page) as usize];
        if status.is_empty() {
            return Ok(vec![]);
        }
        let args = abi::ashmem_page_status {
            offset: span.start,
            len: end - span.start,
            status: status.as_mut_ptr() as u64,
        };
        // SAFETY: The kernel writes one byte for each page, and there is one.
        unsafe {
            ioctl(
                self.as_fd(),
                abi::ABI_GET_PAGE_STATUS,
                &raw const args as usize,
            )
        }
        .map_err(|errno| Error::new(Call::PageStatus, errno))?;
        Ok(status.into_iter().map(PageStatus::from_byte).collect())
    }
}

fn pages(call: Call, range: impl RangeBounds<u64>) -> Result<Span> {
    Span::of_pages(call, range, page_size())
}

/// The kernel's answer; none for an empty range, for which it is not asked.
fn ask(fd: BorrowedFd<'_>, call: Call, span: Span, wide: u32, narrow: u32) -> Result<Option<i32>> {
    if span.is_empty() {
        return Ok(None);
    }
    wide_or_narrow(
        call,
        span,
        |range| {
            // SAFETY: The kernel reads the struct, which lives long enough.
            unsafe { ioctl(fd, wide, &raw const range as usize) }
        },
        |range| {
            // SAFETY: As above.
            unsafe { ioctl(fd, narrow, &raw const range as usize) }
        },
    )
    .map(Some)
}

fn unpin(fd: BorrowedFd<'_>, span: Span) -> Result<()> {
    ask(fd, Call::Unpin, span, abi::ABI_UNPIN_RANGE, abi::ABI_UNPIN).map(drop)
}

/// A range that the kernel leaves alone as long as this lives; it is unpinned
/// when this is dropped.
///
/// Pins are not counted: of two guards whose ranges overlap, the first one
/// dropped unpins what they share.
#[derive(Debug)]
#[must_use = "the range is unpinned when this is dropped"]
pub struct Pinned<'r> {
    region: BorrowedFd<'r>,
    span: Span,
    purged: bool,
}

impl Pinned<'_> {
    /// Whether a page of the range was taken since it was unpinned. It reads as
    /// zeros, and which page it was is not told: the content must be made anew,
    /// or looked at.
    pub fn was_purged(&self) -> bool {
        self.purged
    }

    /// Whether all is as it was when it was unpinned.
    pub fn survived(&self) -> bool {
        !self.purged
    }

    /// Leaves the range pinned; tells whether it [survived](Self::survived).
    pub fn keep(self) -> bool {
        let survived = self.survived();
        forget(self);
        survived
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // If it fails, the range stays pinned: that costs memory, no content.
        let _ = unpin(self.region, self.span);
    }
}

/// Whether the kernel may take a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// It must not.
    Pinned,
    /// It may.
    Unpinned,
    /// It has, since the page was unpinned.
    Purged,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageStatus {
    /// Whether the kernel may take it.
    pub state: PageState,
    /// Whether it has memory.
    pub resident: bool,
}

impl PageStatus {
    fn from_byte(byte: u8) -> Self {
        let byte = u32::from(byte);
        Self {
            state: match byte & abi::ASHMEM_PAGE_STATE_MASK {
                abi::ASHMEM_PAGE_PINNED => PageState::Pinned,
                abi::ASHMEM_PAGE_UNPINNED => PageState::Unpinned,
                // Of a state that is not known yet no content can be expected.
                _ => PageState::Purged,
            },
            resident: byte & abi::ASHMEM_PAGE_RESIDENT != 0,
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_status_byte_is_a_state_and_a_bit() {
        for (byte, state, resident) in [
            (0x00, PageState::Pinned, false),
            (0x10, PageState::Pinned, true),
            (0x01, PageState::Unpinned, false),
            (0x11, PageState::Unpinned, true),
            (0x02, PageState::Purged, false),
            (0x12, PageState::Purged, true),
            // Bits that are not known yet.
            (0xf1, PageState::Unpinned, true),
        ] {
            assert_eq!(PageStatus::from_byte(byte), PageStatus { state, resident });
        }
    }
}
