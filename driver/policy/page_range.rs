// SPDX-License-Identifier: GPL-2.0-only

//! A range of a region, checked once.

/// The pages `start..end` of a region, as indices of pages. May be empty.
///
/// # Invariants
///
/// `start <= end`, and `end` is at most the region's size in pages, rounded up, or there is no end:
/// see [`Self::everything`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    start: usize,
    end: usize,
}

impl PageRange {
    /// Checks what a program passed, in bytes, against a region of `size` bytes.
    ///
    /// `len` 0 stands for everything from `offset` to the end of the region. `max` is the largest
    /// number that the caller's type of `offset` and `len` holds; their sum may not pass it.
    /// `page_size` is a power of two.
    ///
    /// Gives `None`, for the caller to answer `EINVAL`, if `offset` or `len` is no multiple of the
    /// page size, the sum wraps, or the range ends behind the last page.
    pub(crate) fn parse(
        offset: u64,
        len: u64,
        max: u64,
        size: usize,
        page_size: usize,
    ) -> Option<Self> {
        let mask = page_size as u64 - 1;
        let limit = (size as u64).checked_add(mask)? & !mask;

        if (offset | len) & mask != 0 || len > max.checked_sub(offset)? {
            return None;
        }
        let end = if len == 0 { limit } else { offset + len };
        if offset > end || end > limit {
            return None;
        }
        let shift = page_size.trailing_zeros();
        // INVARIANT: `offset <= end <= limit` was just checked.
        Some(Self {
            start: usize::try_from(offset >> shift).ok()?,
            end: usize::try_from(end >> shift).ok()?,
        })
    }

    /// All pages, however many a region has.
    pub(crate) fn everything() -> Self {
        Self::whole(usize::MAX)
    }

    /// Whether these are all pages from the first one on.
    pub(crate) fn has_no_end(&self) -> bool {
        self.end == usize::MAX
    }

    /// All pages of a region of `pages` pages.
    pub(crate) fn whole(pages: usize) -> Self {
        // INVARIANT: `0 <= pages`.
        Self {
            start: 0,
            end: pages,
        }
    }

    /// The pages `start..end`; none, at `start`, if `end` is not behind it.
    pub(crate) fn between(start: usize, end: usize) -> Self {
        // INVARIANT: `start <= end` by the `max`.
        Self {
            start,
            end: end.max(start),
        }
    }

    /// The `1 << order` pages that `page` is one of and that lie at a multiple of their number.
    pub(crate) fn block(page: usize, order: u32) -> Self {
        let start = page >> order << order;
        // INVARIANT: The end wraps for no page that a file can have.
        Self::between(start, start.saturating_add(1 << order))
    }

    /// First page.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// The page behind the last one.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// How many pages these are.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no page in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether all pages of `other` are in it.
    pub(crate) fn contains(&self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What lies in both `self` and the pages `start..end`; empty if nothing does.
    pub(crate) fn clamp(&self, start: usize, end: usize) -> Self {
        let start = self.start.max(start);
        // INVARIANT: `start <= end` by the `max`; `end` only shrinks.
        Self {
            start,
            end: self.end.min(end).max(start),
        }
    }
}
