// SPDX-License-Identifier: GPL-2.0-only

//! What is known of a region that one process has for itself.

use std::fmt;
use std::ops::Range;
use std::ops::RangeInclusive;

use nix::errno::Errno;

use super::Answer;
use crate::abi;
use crate::region::Mapping;
use crate::region::PAGE;

/// Regions of more pages are not followed page by page.
const FOLLOWED: usize = 1024;

/// What a call may answer.
#[derive(Clone, Debug)]
pub struct Expect {
    ok: Option<RangeInclusive<i64>>,
    errors: Vec<i32>,
}

impl Expect {
    /// Nothing but this.
    pub fn value(value: i64) -> Self {
        Self::values(value..=value)
    }

    /// One of these.
    pub fn values(ok: RangeInclusive<i64>) -> Self {
        Self {
            ok: Some(ok),
            errors: vec![],
        }
    }

    /// Nothing but this error.
    pub fn error(error: i32) -> Self {
        Self {
            ok: None,
            errors: vec![error],
        }
    }

    /// That, or one of these errors.
    pub fn or(mut self, errors: &[i32]) -> Self {
        self.errors.extend(errors);
        self
    }

    /// Whether this is one of them.
    pub fn admits(&self, found: Answer) -> bool {
        match found {
            Ok(value) => self.ok.as_ref().is_some_and(|ok| ok.contains(&value)),
            Err(error) => self.errors.contains(&error),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ok) = &self.ok {
            write!(f, "{ok:?} ")?;
        }
        for error in &self.errors {
            write!(f, "{} ", Errno::from_raw(*error))?;
        }
        Ok(())
    }
}

/// What is in a page's first and last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// This.
    Is(u8),
    /// This, or zeros: it was unpinned.
    IsOrGone(u8),
    /// Anything.
    Unknown,
}

/// A page's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Pinned,
    /// It may have been purged since.
    Unpinned,
    /// It was.
    Purged,
}

/// A region.
pub struct Model {
    pub size: usize,
    pub mask: i32,
    pub frozen: bool,
    pub name: Vec<u8>,
    /// Nothing, if there are too many or somebody else changed them.
    pub pages: Option<Vec<Page>>,
    pub content: Vec<Content>,
    /// A mapping that only this model writes through.
    pub home: Option<Mapping>,
}

impl Model {
    /// A fresh one.
    pub fn fresh() -> Self {
        Self {
            size: 0,
            mask: libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            frozen: false,
            name: vec![],
            pages: None,
            content: vec![],
            home: None,
        }
    }

    /// Its size, rounded up to pages; `None` where that is more than a `usize` has.
    pub fn rounded(&self) -> Option<usize> {
        self.size.checked_next_multiple_of(PAGE)
    }

    /// It was mapped.
    pub fn freeze(&mut self) {
        if self.frozen {
            return;
        }
        self.frozen = true;
        let pages = self.size.div_ceil(PAGE);
        if pages <= FOLLOWED {
            self.pages = Some(vec![Page::Pinned; pages]);
            self.content = vec![Content::Is(0); pages];
        }
    }

    /// Somebody did something with its pages.
    pub fn forget(&mut self) {
        self.pages = None;
        self.forget_content();
    }

    /// Somebody changed its content.
    pub fn forget_content(&mut self) {
        self.content.fill(Content::Unknown);
    }

    /// What a range of the ABI means; `max` as the width of its fields has it.
    pub fn range(&self, offset: u64, len: u64, max: u64) -> Option<Range<u64>> {
        let page = PAGE as u64;
        if !self.frozen || offset % page != 0 || len % page != 0 {
            return None;
        }
        let rounded = self.rounded()? as u64;
        if offset > rounded {
            return None;
        }
        let end = match len {
            0 => rounded,
            len => offset.checked_add(len).filter(|end| *end <= max)?,
        };
        (end <= rounded).then_some(offset / page..end / page)
    }

    fn states(&mut self, pages: &Range<u64>) -> Option<&mut [Page]> {
        self.pages
            .as_mut()?
            .get_mut(pages.start as usize..pages.end as usize)
    }

    /// What PIN of these may answer.
    pub fn pin_answers(&mut self, pages: &Range<u64>) -> RangeInclusive<i64> {
        match self.states(pages) {
            Some(states) if states.contains(&Page::Purged) => 1..=1,
            Some(states) if states.contains(&Page::Unpinned) => 0..=1,
            Some(_) => 0..=0,
            None => 0..=1,
        }
    }

    /// What GET_PIN_STATUS of these may answer.
    pub fn status_answers(&mut self, pages: &Range<u64>) -> RangeInclusive<i64> {
        match self.states(pages) {
            Some(states) if states.iter().all(|page| *page == Page::Pinned) => 1..=1,
            Some(_) => 0..=0,
            None => 0..=1,
        }
    }

    /// They were pinned, with this answer.
    pub fn pin(&mut self, pages: &Range<u64>, was_purged: bool) {
        let Some(states) = self.states(pages) else {
            return;
        };
        states.fill(Page::Pinned);
        for content in self.contents(pages) {
            if let Content::IsOrGone(byte) = *content {
                *content = if was_purged {
                    // It does not say which of them.
                    Content::Unknown
                } else {
                    Content::Is(byte)
                };
            }
        }
    }

    /// They were unpinned.
    pub fn unpin(&mut self, pages: &Range<u64>) {
        let Some(states) = self.states(pages) else {
            return;
        };
        for state in states {
            if *state == Page::Pinned {
                *state = Page::Unpinned;
            }
        }
        for content in self.contents(pages) {
            if let Content::Is(byte) = *content {
                *content = Content::IsOrGone(byte);
            }
        }
    }

    fn contents(&mut self, pages: &Range<u64>) -> &mut [Content] {
        self.content
            .get_mut(pages.start as usize..pages.end as usize)
            .unwrap_or_default()
    }

    /// PURGE_ALL_CACHES was done.
    pub fn purged_all(&mut self) {
        for page in self.pages.iter_mut().flatten() {
            if *page == Page::Unpinned {
                *page = Page::Purged;
            }
        }
    }

    /// Whether GET_PAGE_STATUS may say this of a page.
    pub fn admits_status(&self, page: usize, status: u8) -> bool {
        let resident = abi::ASHMEM_PAGE_RESIDENT as u8;
        let (pinned, unpinned, purged) = (
            abi::ASHMEM_PAGE_PINNED as u8,
            abi::ASHMEM_PAGE_UNPINNED as u8,
            abi::ASHMEM_PAGE_PURGED as u8,
        );
        let state = status & !resident;
        match self.pages.as_ref().and_then(|pages| pages.get(page)) {
            Some(Page::Pinned) => state == pinned,
            Some(Page::Unpinned) => state == unpinned || state == purged,
            Some(Page::Purged) => state == purged,
            None => [pinned, unpinned, purged].contains(&state),
        }
    }

    /// Writes a stamp through the home mapping.
    pub fn stamp(&mut self, page: usize, byte: u8) {
        let Some(home) = &self.home else {
            return;
        };
        home.stamp(page..page + 1, byte);
        let state = self.pages.as_ref().map(|pages| pages[page]);
        if let Some(content) = self.content.get_mut(page) {
            *content = match state {
                // Purged, it stays what it was written until it is pinned and unpinned anew.
                Some(Page::Pinned | Page::Purged) => Content::Is(byte),
                Some(Page::Unpinned) => Content::IsOrGone(byte),
                None => Content::Unknown,
            };
        }
    }

    /// What is wrong with a page of which these are the first and last byte.
    pub fn wrong(&self, page: usize, found: (u8, u8)) -> Option<String> {
        let expected = self.content.get(page)?;
        let fine = match *expected {
            Content::Is(byte) => found == (byte, byte),
            // Between the two bytes it may be purged.
            Content::IsOrGone(byte) => [0, byte].contains(&found.0) && [0, byte].contains(&found.1),
            Content::Unknown => true,
        };
        (!fine).then(|| format!("page {page} has {found:?} instead of {expected:?}"))
    }
}
