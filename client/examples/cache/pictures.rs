// SPDX-License-Identifier: GPL-2.0-only

//! Pictures that are decoded, and kept for as long as the memory is not needed for something else.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::Mapping;
use ashmem::Pinned;
use ashmem::Region;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::unistd::ftruncate;

/// Bytes of a picture.
pub const PICTURE: usize = 1 << 20;

/// Where the pictures are.
enum Memory {
    Region(Region, Mapping<'static>),
    /// Mapped for as long as the process lives.
    Memfd(NonNull<u8>),
}

/// The cache.
pub struct Cache {
    memory: Memory,
    /// The sum of each picture that was decoded.
    sums: Vec<Option<u64>>,
}

impl Cache {
    /// A cache for so many pictures, of which none is decoded yet.
    pub fn new(kind: &str, pictures: usize) -> anyhow::Result<Self> {
        let bytes = pictures * PICTURE;
        let memory = match kind {
            "region" => {
                let region = Region::new(c"pictures", bytes)?;
                let mapping = region.map()?.detach();
                Memory::Region(region, mapping)
            }
            "memfd" => {
                let file = memfd_create(c"pictures", MFdFlags::MFD_CLOEXEC)?;
                ftruncate(&file, bytes as i64)?;
                let len = NonZeroUsize::new(bytes).context("no pictures")?;
                let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
                // SAFETY: Without MAP_FIXED a mapping replaces nothing.
                let base = unsafe { mmap(None, len, rights, MapFlags::MAP_SHARED, &file, 0) }?;
                Memory::Memfd(base.cast())
            }
            _ => bail!("pictures are kept in a region or a memfd"),
        };
        Ok(Self {
            memory,
            sums: vec![None; pictures],
        })
    }

    /// Looks at a picture, and decodes it if it is not there. True: it was there.
    pub fn look_at(&mut self, number: usize) -> anyhow::Result<bool> {
        assert!(number < self.sums.len());
        let start = number * PICTURE;
        let (base, pinned) = match &self.memory {
            Memory::Region(region, mapping) => {
                let pinned = region.pin(start as u64..(start + PICTURE) as u64)?;
                (mapping.as_ptr(), Some(pinned))
            }
            Memory::Memfd(base) => (base.as_ptr(), None),
        };
        // SAFETY: The picture lies in the memory.
        let picture = unsafe { base.add(start) }.cast::<AtomicU64>();
        // SAFETY: It is mapped as long as `self` lives, and begins at a page.
        let picture = unsafe { slice::from_raw_parts(picture, PICTURE / size_of::<AtomicU64>()) };

        let survived = pinned.as_ref().is_none_or(Pinned::survived);
        let is_there = survived && self.sums[number].is_some();
        if !is_there {
            decode(number, picture);
        }
        let found = sum(picture);
        let expected = *self.sums[number].get_or_insert(found);
        ensure!(found == expected, "picture {number} is another one");
        Ok(is_there)
        // Here `pinned` is dropped: until it is looked at again, the kernel may have it.
    }
}

/// Decodes a picture: what takes its time in earnest is a row of numbers here.
fn decode(number: usize, into: &[AtomicU64]) {
    let mut state = number as u64;
    for word in into {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        word.store(state, Ordering::Relaxed);
    }
}

/// Differs, in all likelihood, if a picture does.
fn sum(picture: &[AtomicU64]) -> u64 {
    picture.iter().fold(0, |sum: u64, word| {
        sum.rotate_left(1) ^ word.load(Ordering::Relaxed)
    })
}
