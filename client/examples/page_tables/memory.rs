// SPDX-License-Identifier: GPL-2.0-only

//! Mapped memory, of a region or of something else, page by page.

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::Context;
use ashmem::Mapping;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap;
use procfs::process::MemoryMap;
use procfs::process::MemoryPageFlags;
use procfs::process::Process;

use crate::pagemap;
use crate::pagemap::PAGE;

/// Some pages that stay mapped until the program ends, to be read and written.
#[derive(Clone, Copy)]
pub struct Memory {
    base: NonNull<u8>,
    pub pages: usize,
}

impl Memory {
    /// A region's, by one of its mappings.
    pub fn of_region(mapping: Mapping<'_>) -> anyhow::Result<Self> {
        let mapping = ManuallyDrop::new(mapping.detach());
        let base = NonNull::new(mapping.as_ptr()).context("mapped at address 0")?;
        let pages = mapping.len() / PAGE;
        Ok(Self { base, pages })
    }

    /// A file's.
    pub fn of_file(file: impl AsFd, pages: usize) -> anyhow::Result<Self> {
        let len = (pages * PAGE).try_into().context("no pages")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: It goes where nothing is.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, file, 0) }?;
        let base = base.cast();
        Ok(Self { base, pages })
    }

    /// The address of its first byte.
    pub fn address(self) -> usize {
        self.base.as_ptr() as usize
    }

    fn at(self, page: usize) -> NonNull<u8> {
        assert!(page < self.pages);
        // SAFETY: It is in the mapping.
        unsafe { self.base.add(page * PAGE) }
    }

    /// Writes a byte of a page.
    pub fn write(self, page: usize) {
        // SAFETY: It is mapped to be written, and nobody has a reference to it.
        unsafe { self.at(page).write_volatile(1) };
    }

    /// Reads a byte of a page.
    pub fn read(self, page: usize) {
        // SAFETY: It is mapped to be read.
        unsafe { self.at(page).read_volatile() };
    }

    /// Gives advice about a page.
    pub fn advise(self, page: usize, advice: MmapAdvise) -> anyhow::Result<()> {
        // SAFETY: Nobody relies on what it holds.
        Ok(unsafe { madvise(self.at(page).cast(), PAGE, advice) }?)
    }

    /// Gives advice about all of it.
    pub fn advise_all(self, advice: MmapAdvise) -> anyhow::Result<()> {
        // SAFETY: As above.
        Ok(unsafe { madvise(self.base.cast(), self.pages * PAGE, advice) }?)
    }

    /// What the page table has for each page.
    pub fn entries(self) -> anyhow::Result<Vec<MemoryPageFlags>> {
        pagemap::entries(self.address(), self.pages)
    }

    /// The frame of each page that is mapped.
    pub fn frames(self) -> anyhow::Result<Vec<Option<u64>>> {
        pagemap::frames(self.address(), self.pages)
    }

    /// The categories of each page, among these.
    pub fn scan(self, categories: u32, flags: u32) -> anyhow::Result<Vec<u32>> {
        pagemap::scan(self.address(), self.pages, categories, flags)
    }

    /// What smaps has of its mapping.
    pub fn smaps(self) -> anyhow::Result<MemoryMap> {
        let mut all = Process::myself()?.smaps()?.into_iter();
        let mine = all.find(|map| map.address.0 == self.address() as u64);
        mine.context("no mapping in smaps begins there")
    }
}
