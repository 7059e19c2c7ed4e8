// SPDX-License-Identifier: GPL-2.0-only

//! Memory of the test's own, for pointers that are good or bad in known ways.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use anyhow::Context;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mprotect;

use crate::region::PAGE;
use crate::region::RW;

/// Addresses that nothing else will be given; for ever.
pub fn reserve(pages: usize, prot: ProtFlags) -> anyhow::Result<NonNull<u8>> {
    let len = NonZeroUsize::new(pages * PAGE).context("no page")?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    Ok(unsafe { mmap_anonymous(None, len, prot, flags) }?.cast())
}

/// A page full of 0xaa, and behind it one that cannot be accessed.
pub struct Edge(NonNull<u8>);

impl Edge {
    /// A new one, which stays for ever.
    pub fn new() -> anyhow::Result<Self> {
        let edge = Self(reserve(2, ProtFlags::PROT_NONE)?);
        edge.protect(RW)?;
        edge.put(&[0xaa; PAGE]);
        Ok(edge)
    }

    /// Where the last `len` bytes before the edge begin.
    pub fn before(&self, len: usize) -> usize {
        self.0.as_ptr() as usize + PAGE - len
    }

    /// Puts bytes right before the edge; gives their address.
    pub fn put(&self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: It lies in the page, which may be written unless a test forbids it.
            unsafe { ((self.before(bytes.len()) + at) as *mut u8).write_volatile(*byte) };
        }
        self.before(bytes.len())
    }

    /// The last `len` bytes before the edge.
    pub fn get(&self, len: usize) -> Vec<u8> {
        (self.before(len)..self.before(0))
            // SAFETY: As for `put`.
            .map(|at| unsafe { (at as *const u8).read_volatile() })
            .collect()
    }

    /// Changes what can be done to the page.
    pub fn protect(&self, prot: ProtFlags) -> nix::Result<()> {
        // SAFETY: It is this page's protection that changes.
        unsafe { mprotect(self.0.cast(), PAGE, prot) }
    }
}
