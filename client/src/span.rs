// SPDX-License-Identifier: GPL-2.0-only

//! Ranges of bytes, as callers give them and as the kernel takes them.

use std::ops::Bound;
use std::ops::RangeBounds;

use nix::errno::Errno;

use crate::Error;
use crate::Result;
use crate::abi;
use crate::error::Call;

/// Bytes of a region. With `end` missing, up to the region's end.
///
/// # Invariants
///
/// `start` does not lie behind `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
}

impl Span {
    /// Any bytes: `EINVAL` if they end before they begin, or cannot be counted.
    pub(crate) fn new(call: Call, range: impl RangeBounds<u64>) -> Result<Self> {
        let behind = |at: u64| {
            at.checked_add(1).ok_or(Error::refused(
                call,
                Errno::EINVAL,
                "the range ends beyond the region",
            ))
        };
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => behind(*at)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => Some(behind(*at)?),
            Bound::Excluded(at) => Some(*at),
            Bound::Unbounded => None,
        };
        if end.is_some_and(|end| end < start) {
            let hint = "the range ends before it begins";
            return Err(Error::refused(call, Errno::EINVAL, hint));
        }
        // INVARIANT: Just checked.
        Ok(Self { start, end })
    }

    /// Whole pages: `EINVAL` besides if it begins or ends within one. `page` is
    /// a page's size in bytes.
    pub(crate) fn of_pages(call: Call, range: impl RangeBounds<u64>, page: u64) -> Result<Self> {
        let span = Self::new(call, range)?;
        if span.start % page != 0 || span.end.is_some_and(|end| end % page != 0) {
            let hint = "the range is not page aligned: it must begin and end at a multiple of the \
                        page size, or have no end";
            return Err(Error::refused(call, Errno::EINVAL, hint));
        }
        Ok(span)
    }

    /// Whether it has no bytes. The kernel has no word for that: a length of 0
    /// means "to the end".
    pub(crate) fn is_empty(self) -> bool {
        self.end == Some(self.start)
    }

    /// As this driver takes it. Not for an empty one.
    pub(crate) fn wide(self) -> abi::ashmem_range {
        abi::ashmem_range {
            offset: self.start,
            len: self.end.map_or(0, |end| end - self.start),
        }
    }

    /// As Android's ioctls take it, if it fits. Not for an empty one.
    pub(crate) fn narrow(self) -> Option<abi::ashmem_pin> {
        let wide = self.wide();
        Some(abi::ashmem_pin {
            offset: wide.offset.try_into().ok()?,
            len: wide.len.try_into().ok()?,
        })
    }
}

/// Asks this driver first, and as Android's would be asked if it answers
/// `ENOTTY`: `EOVERFLOW` if those cannot be asked that.
pub(crate) fn wide_or_narrow(
    call: Call,
    span: Span,
    wide: impl FnOnce(abi::ashmem_range) -> nix::Result<i32>,
    narrow: impl FnOnce(abi::ashmem_pin) -> nix::Result<i32>,
) -> Result<i32> {
    match wide(span.wide()) {
        Err(Errno::ENOTTY) => {}
        result => return result.map_err(|errno| Error::new(call, errno)),
    }
    let Some(pin) = span.narrow() else {
        let hint = "this ashmem driver knows ranges below 4 GiB only";
        return Err(Error::refused(call, Errno::EOVERFLOW, hint));
    };
    narrow(pin).map_err(|errno| Error::new(call, errno))
}

#[cfg(test)]
mod unit {
    use super::*;

    const PAGE: u64 = 4096;

    fn of_pages(range: impl RangeBounds<u64>) -> Result<Span> {
        Span::of_pages(Call::Pin, range, PAGE)
    }

    fn span(start: u64, end: Option<u64>) -> Result<Span> {
        Ok(Span { start, end })
    }

    #[test]
    fn every_form_of_a_range_is_taken() {
        assert_eq!(of_pages(..), span(0, None));
        assert_eq!(of_pages(4096..), span(4096, None));
        assert_eq!(of_pages(..8192), span(0, Some(8192)));
        assert_eq!(of_pages(4096..8192), span(4096, Some(8192)));
        assert_eq!(of_pages(4096..=8191), span(4096, Some(8192)));
        assert_eq!(of_pages(4096..4096), span(4096, Some(4096)));
        let from_behind = (Bound::Excluded(4095), Bound::Unbounded);
        assert_eq!(of_pages(from_behind), span(4096, None));
    }

    #[test]
    fn what_is_wrong_with_a_range_is_said() {
        let why = |found: Result<Span>| {
            let error = found.expect_err("it is wrong");
            assert_eq!(error.errno(), libc::EINVAL);
            error.hint().to_owned()
        };
        assert!(why(of_pages(1..)).contains("page aligned"));
        assert!(why(of_pages(..4097)).contains("page aligned"));
        assert!(why(of_pages(0..=4096)).contains("page aligned"));
        #[expect(clippy::reversed_empty_ranges, reason = "this is what is tested")]
        let reversed = 8192..4096;
        assert!(why(of_pages(reversed)).contains("before it begins"));
        assert!(why(of_pages(0..=u64::MAX)).contains("beyond the region"));
    }

    #[test]
    fn only_a_range_without_bytes_is_empty() {
        let empty = |range| of_pages(range).expect("it is aligned").is_empty();
        assert!(empty((Bound::Included(4096), Bound::Excluded(4096))));
        assert!(!empty((Bound::Included(4096), Bound::Excluded(8192))));
        assert!(!empty((Bound::Included(4096), Bound::Unbounded)));
    }

    #[test]
    fn androids_struct_takes_what_fits_it() {
        let narrow = |range| {
            let pin = of_pages(range).expect("it is aligned").narrow()?;
            Some((pin.offset, pin.len))
        };
        let below = |start, end| (Bound::Included(start), Bound::Excluded(end));
        let last = u64::from(u32::MAX) + 1 - PAGE;
        assert_eq!(narrow(below(PAGE, 3 * PAGE)), Some((4096, 8192)));
        let open = (Bound::Included(last), Bound::Unbounded);
        assert_eq!(narrow(open), Some((0xffff_f000, 0)));
        assert_eq!(narrow(below(last, last + PAGE)), Some((0xffff_f000, 4096)));
        assert_eq!(narrow(below(last + PAGE, last + 2 * PAGE)), None);
        assert_eq!(narrow(below(0, last + PAGE)), None);
        let open = (Bound::Included(last + PAGE), Bound::Unbounded);
        assert_eq!(narrow(open), None);
    }

    /// What the caller gets, and whether Android's ioctl was tried.
    fn ask(range: impl RangeBounds<u64>, wide: nix::Result<i32>) -> (Result<i32>, bool) {
        let span = of_pages(range).expect("it is aligned");
        let mut asked = false;
        let narrow = |_| {
            asked = true;
            Ok(7)
        };
        let answer = wide_or_narrow(Call::Pin, span, |_| wide, narrow);
        (answer, asked)
    }

    #[test]
    fn androids_ioctl_is_for_drivers_that_lack_ours() {
        assert_eq!(ask(.., Ok(1)), (Ok(1), false));
        assert_eq!(ask(.., Err(Errno::ENOTTY)), (Ok(7), true));
        let refused = Err(Error::new(Call::Pin, Errno::EINVAL));
        assert_eq!(ask(.., Err(Errno::EINVAL)), (refused, false));
        let (answer, asked) = ask(1 << 32.., Err(Errno::ENOTTY));
        assert_eq!(answer.map_err(|e| e.errno()), Err(libc::EOVERFLOW));
        assert!(!asked);
        // Where ours is there, nothing ends at 4 GiB.
        assert_eq!(ask(1 << 32.., Ok(0)), (Ok(0), false));
    }
}
