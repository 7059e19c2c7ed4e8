// SPDX-License-Identifier: GPL-2.0-only

//! The kinds of memory that are compared.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use anyhow::Context;
use ashmem_figures::Target;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MRemapFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::mremap;
use nix::sys::stat::Mode;
use nix::unistd::ftruncate;

use crate::region::Mapping;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;

/// Some memory of one kind, and what holds it while it is not mapped.
pub struct Memory {
    target: Target,
    backing: Backing,
    pages: usize,
}

enum Backing {
    Region(Region),
    File(OwnedFd),
    /// Each mapping that mmap(2) makes is memory of its own.
    Zero(OwnedFd),
    Anonymous(MapFlags),
}

impl Memory {
    /// Makes some.
    pub fn new(target: Target, pages: usize) -> anyhow::Result<Self> {
        let sized = |fd: OwnedFd| -> nix::Result<_> {
            ftruncate(&fd, (pages * PAGE) as i64)?;
            Ok(Backing::File(fd))
        };
        let open = |path, flags| {
            open(
                path,
                flags | OFlag::O_RDWR | OFlag::O_CLOEXEC,
                Mode::S_IRWXU,
            )
        };
        let backing = match target {
            Target::Ashmem | Target::AshmemHuge => Backing::Region(Region::sized(pages)?),
            Target::Memfd | Target::MemfdHuge => {
                sized(memfd_create(c"bench", MFdFlags::MFD_CLOEXEC)?)?
            }
            Target::Tmpfs => sized(open("/dev/shm", OFlag::O_TMPFILE)?)?,
            Target::Zero => Backing::Zero(open("/dev/zero", OFlag::empty())?),
            Target::Shared => Backing::Anonymous(MapFlags::MAP_SHARED),
            Target::PrivateHuge => Backing::Anonymous(MapFlags::MAP_PRIVATE),
        };
        Ok(Self {
            target,
            backing,
            pages,
        })
    }

    /// Its first mapping.
    pub fn map(&self) -> anyhow::Result<Mapping> {
        self.map_pages(self.pages)
    }

    /// A mapping of its first pages.
    pub fn map_pages(&self, pages: usize) -> anyhow::Result<Mapping> {
        let len = pages * PAGE;
        let map = match &self.backing {
            Backing::Region(region) => region.map(pages)?,
            Backing::File(fd) | Backing::Zero(fd) => {
                Mapping::new(fd, len, RW, MapFlags::MAP_SHARED, 0).context("mmap")?
            }
            Backing::Anonymous(flags) => Mapping::anonymous(pages, RW, *flags)?,
        };
        self.advise(&map)?;
        Ok(map)
    }

    /// Another mapping of what `first` is, or nothing where there cannot be one.
    pub fn map_again(&self, first: &Mapping) -> anyhow::Result<Option<Mapping>> {
        let map = match self.backing {
            Backing::Region(_) | Backing::File(_) => return self.map().map(Some),
            Backing::Anonymous(MapFlags::MAP_PRIVATE) => return Ok(None),
            Backing::Zero(_) | Backing::Anonymous(_) => {
                let (len, move_it) = (first.len(), MRemapFlags::MREMAP_MAYMOVE);
                // SAFETY: With an old size of 0 the old mapping stays as it is.
                let base = unsafe { mremap(first.pointer(), 0, len, move_it, None) }?;
                // SAFETY: A new mapping of this length, and nobody else knows of it.
                unsafe { Mapping::from_raw(base, len) }
            }
        };
        self.advise(&map)?;
        Ok(Some(map))
    }

    fn advise(&self, map: &Mapping) -> anyhow::Result<()> {
        if self.target.is_huge() {
            map.advise(0..map.pages(), libc::MADV_HUGEPAGE)
                .context("MADV_HUGEPAGE")?;
        }
        Ok(())
    }

    /// The descriptor that holds it, and through which it can be read and written; if it has one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::Region(region) => Some(region.as_fd()),
            Backing::File(fd) => Some(fd.as_fd()),
            Backing::Zero(_) | Backing::Anonymous(_) => None,
        }
    }

    /// The region, if it is one.
    pub fn region(&self) -> Option<&Region> {
        match &self.backing {
            Backing::Region(region) => Some(region),
            _ => None,
        }
    }

    /// Takes all pages away while they are mapped, so that they read as zeros: by a purge, by
    /// punching a hole into the file, or by what private memory has for that.
    pub fn take_away(&self, map: &Mapping) -> anyhow::Result<()> {
        if let Some(region) = self.region() {
            region.unpin(0..self.pages)?;
            let purged = region.purge_all()?;
            anyhow::ensure!(purged == self.pages, "{purged} pages were purged");
            return Ok(());
        }
        let advice = match self.target {
            Target::PrivateHuge => libc::MADV_DONTNEED,
            _ => libc::MADV_REMOVE,
        };
        Ok(map.advise(0..self.pages, advice)?)
    }
}
