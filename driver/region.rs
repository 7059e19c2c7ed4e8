// SPDX-License-Identifier: GPL-2.0-only

//! A region: what one open of the device stands for.
//!
//! It is *fresh*, then *sized*, then *frozen* by its first mapping, for good. Frozen, it has a
//! [`RegionFile`] with an inode and a page cache of its own, which its mappings hold; the open
//! file of the device and the region's file each hold the region.

use crate::{
    glue::{
        folio::{
            zero_iter,
            AddError,
            LockedFolio,
            Mapping, //
        },
        pseudo_file::{
            Mount,
            PseudoFile,
            PseudoFileOperations,
            Reservation, //
        },
        read_implies_exec, //
    },
    lru::{
        Key,
        List,
        Lru,
        Node, //
    },
    policy::{
        page_range::PageRange,
        pins::{
            Block,
            Blocks,
            Claimed,
            Pins,
            Progress,
            Range,
            Ranges,
            State, //
        }, //
    },
    uapi, //
};
use core::ops::ControlFlow;
use kernel::{
    alloc::flags::{
        GFP_KERNEL_ACCOUNT,
        __GFP_NOWARN, //
    },
    iov::IovIterDest,
    mm::virt::{
        flags,
        VmaNew, //
    },
    new_condvar,
    new_mutex,
    new_spinlock,
    page::{
        page_align,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow,
        CondVar,
        Mutex,
        SpinLock, //
    }, //
};

/// The file that a region's mappings hold.
pub(crate) type RegionFile = PseudoFile<Region>;

/// The ranges of all regions.
pub(crate) type RegionLru = Lru<RegionFile>;

/// `PROT_READ | PROT_WRITE | PROT_EXEC`: the mask of a fresh region.
const PROT_ALL: usize = uapi::PROT_READ | uapi::PROT_WRITE | uapi::PROT_EXEC;

/// Pages in the page caches of all regions, and those about to be added.
static POPULATED: Atomic<usize> = Atomic::new(0);

/// What all regions share.
pub(crate) struct Shared {
    /// Where unpinned ranges are listed.
    pub(crate) lru: Arc<RegionLru>,
    /// The largest value that the number of populated pages may have.
    pub(crate) max_pages: usize,
    /// Whether UNPIN asks for write permission in the mask.
    pub(crate) strict_unpin: bool,
}

/// Events since the region was opened, and pages.
#[derive(Default)]
pub(crate) struct Counters {
    /// Runs of the fault handler.
    pub(crate) faults: Counter,
    /// Calls of `map_pages` that resolved the fault.
    pub(crate) map_faults: Counter,
    /// Runs of the fault handler that mapped a huge page.
    pub(crate) huge_faults: Counter,
    /// Pages that were allocated.
    pub(crate) allocated: Counter,
    /// Pages whose memory was freed while they were unpinned.
    pub(crate) purged: Counter,
}

/// A number that only grows.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    /// Counts `n` events.
    pub(crate) fn add(&self, n: usize) {
        self.0.add(n as u64, Relaxed);
    }

    /// How many there were.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What the ioctls set, and the file once it is frozen.
struct Config {
    name: Name,
    /// In bytes, as it was set.
    size: usize,
    /// `PROT_*` bits that mappings may have.
    mask: usize,
    /// Where its file will be; there once it is sized.
    mount: Option<Mount>,
    /// There from the first mapping on until the last descriptor closes.
    file: Option<RegionFile>,
    /// Stays as long as the region, that is, as its mappings.
    reservation: Option<Reservation>,
}

/// A region's name, at most 255 bytes; empty if it has none.
///
/// # Invariants
///
/// The last byte is 0.
#[derive(Clone)]
pub(crate) struct Name {
    bytes: [u8; uapi::NAME_LEN],
}

impl Name {
    /// No name.
    fn none() -> Self {
        Self {
            bytes: [0; uapi::NAME_LEN],
        }
    }

    /// `name`, cut to 255 bytes.
    pub(crate) fn new(name: &[u8]) -> Self {
        let mut this = Self::none();
        let len = name.len().min(uapi::NAME_LEN - 1);
        this.bytes[..len].copy_from_slice(&name[..len]);
        this
    }

    /// The name; `None` if there is none.
    pub(crate) fn get(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes)
            .ok()
            .filter(|name| !name.is_empty())
    }
}

type RegionPins = Pins<AgedRanges, BlockTree>;

/// A region.
#[pin_data]
pub(crate) struct Region {
    shared: Arc<Shared>,
    /// Taken under `mmap_lock`; no access to user memory under it.
    #[pin]
    config: Mutex<Config>,
    /// Taken under the folio lock; the LRU's lock is taken under it.
    #[pin]
    pins: SpinLock<RegionPins>,
    /// Somebody gave a claim on one of our ranges back.
    #[pin]
    unclaimed: CondVar,
    /// Read by anybody at any time.
    pub(crate) counters: Counters,
}

/// What fdinfo shows.
pub(crate) struct Info {
    /// The name, if one was set.
    pub(crate) name: Name,
    /// In bytes, as it was set.
    pub(crate) size: usize,
    /// Inode number of the region's file, if it is frozen.
    pub(crate) ino: Option<usize>,
    /// Pages that have memory.
    pub(crate) resident: usize,
    /// Pages that are not pinned.
    pub(crate) unpinned: usize,
}

/// Why a page has no memory.
pub(crate) enum PopulateError {
    /// Somebody else was faster: look again.
    Exists,
    /// The module's limit is reached.
    Limit,
    /// Out of memory.
    NoMemory,
}

impl Region {
    /// A fresh region.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Arc<Self>> {
        let lru = shared.lru.clone();

        Arc::pin_init(
            pin_init!(Self {
                shared,
                config <- new_mutex!(
                    Config {
                        name: Name::none(),
                        size: 0,
                        mask: PROT_ALL,
                        mount: None,
                        file: None,
                        reservation: None,
                    },
                    "ashmem_config"
                ),
                pins <- new_spinlock!(
                    Pins::new(
                        AgedRanges {
                            tree: RBTree::new(),
                            lru,
                            file: None,
                        },
                        BlockTree(RBTree::new())
                    ),
                    "ashmem_pins"
                ),
                unclaimed <- new_condvar!("ashmem_unclaimed"),
                counters: Counters::default(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// What all regions share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Names it. `EINVAL` if it is frozen.
    pub(crate) fn set_name(&self, name: Name) -> Result {
        let mut config = self.config.lock();

        if config.file.is_some() {
            return Err(EINVAL);
        }
        config.name = name;
        Ok(())
    }

    /// Copies its name, or the default one, with its NUL to `out`; gives the length.
    pub(crate) fn name(&self, out: &mut [u8; uapi::NAME_LEN]) -> usize {
        let config = self.config.lock();
        let name = config
            .name
            .get()
            .unwrap_or(uapi::NAME_DEF)
            .to_bytes_with_nul();

        out[..name.len()].copy_from_slice(name);
        name.len()
    }

    /// Sets its size in bytes. May sleep. `EINVAL` if it is frozen.
    pub(crate) fn set_size(&self, size: usize) -> Result {
        // Here, where no lock is held, and not in `mmap`.
        let mut mount = Some(Mount::pin()?);
        let mut config = self.config.lock();

        if config.file.is_some() {
            return Err(EINVAL);
        }
        config.size = size;
        if config.mount.is_none() {
            config.mount = mount.take();
        }
        Ok(())
    }

    /// Its size in bytes, as it was set.
    pub(crate) fn size(&self) -> usize {
        self.config.lock().size
    }

    /// Takes rights away. `EINVAL` if `mask` has a bit that the present one lacks.
    pub(crate) fn set_mask(&self, mut mask: usize) -> Result {
        // Before the check, so that it cannot bring back what was taken away.
        if mask & uapi::PROT_READ != 0 && read_implies_exec() {
            mask |= uapi::PROT_EXEC;
        }
        let mut config = self.config.lock();

        if mask & !config.mask != 0 {
            return Err(EINVAL);
        }
        config.mask = mask;
        Ok(())
    }

    /// The rights that mappings may have, as `PROT_*` bits.
    pub(crate) fn mask(&self) -> usize {
        self.config.lock().mask
    }

    /// Inode number of its file. `EINVAL` before it is frozen.
    pub(crate) fn ino(&self) -> Result<usize> {
        self.config
            .lock()
            .file
            .as_ref()
            .map_or(Err(EINVAL), |file| Ok(file.ino()))
    }

    /// What fdinfo shows.
    pub(crate) fn info(&self) -> Info {
        let config = self.config.lock();

        Info {
            name: config.name.clone(),
            size: config.size,
            ino: config.file.as_ref().map(|file| file.ino()),
            resident: config
                .file
                .as_ref()
                .map_or(0, |file| file.mapping().nr_pages()),
            unpinned: self.pins.lock().unpinned(),
        }
    }

    /// Makes `vma` a mapping of it; freezes it if it succeeds.
    ///
    /// Called with `mmap_lock` held for writing. Errors as in the ABI: `EINVAL` without a size or
    /// for a mapping that is longer, `EPERM` for rights outside of the mask, `ENOMEM`.
    pub(crate) fn mmap(self: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        let mut config = self.config.lock();

        if config.size == 0 {
            return Err(EINVAL);
        }
        let size = page_align(config.size).ok_or(EINVAL)?;
        if vma.end() - vma.start() > size {
            return Err(EINVAL);
        }

        let wanted = |flag, prot| if vma.flags() & flag != 0 { prot } else { 0 };
        let prot = wanted(flags::READ, uapi::PROT_READ)
            | wanted(flags::WRITE, uapi::PROT_WRITE)
            | wanted(flags::EXEC, uapi::PROT_EXEC);
        if prot & !config.mask != 0 {
            return Err(EPERM);
        }
        // mprotect(2) shall not give what mmap(2) refuses.
        if config.mask & uapi::PROT_READ == 0 {
            vma.try_clear_mayread()?;
        }
        if config.mask & uapi::PROT_WRITE == 0 {
            vma.try_clear_maywrite()?;
        }
        if config.mask & uapi::PROT_EXEC == 0 {
            vma.try_clear_mayexec()?;
        }

        if let Some(file) = &config.file {
            file.map(vma);
            return Ok(());
        }
        let reservation = Reservation::new(size, vma.flags() & flags::NORESERVE != 0)?;
        let mount = config.mount.as_ref().ok_or(EINVAL)?;
        let file = Self::new_file(mount, &config.name, size, self.into())?;

        file.map(vma);
        // In place of nothing: no file is dropped under the spinlock.
        self.pins.lock().ranges_mut().file = Some(file.clone());
        config.file = Some(file);
        config.reservation = Some(reservation);
        Ok(())
    }

    fn new_file(mount: &Mount, name: &Name, size: usize, region: Arc<Self>) -> Result<RegionFile> {
        const PREFIX: &[u8] = b"dev/ashmem/";
        let mut path = [0; PREFIX.len() + uapi::NAME_LEN];

        let Some(name) = name.get() else {
            return RegionFile::new(mount, uapi::NAME_DEF, size, region);
        };
        let name = name.to_bytes_with_nul();
        path[..PREFIX.len()].copy_from_slice(PREFIX);
        path[PREFIX.len()..][..name.len()].copy_from_slice(name);
        let path = CStr::from_bytes_until_nul(&path).map_err(|_| EINVAL)?;
        RegionFile::new(mount, path, size, region)
    }

    /// The last descriptor was closed: nobody can pin any more, so everything is pinned.
    pub(crate) fn close(&self) {
        // No range is split, so that this needs no memory. Were one left, its entry in the LRU would
        // hold our file, and that us.
        let pinned = self.pin(PageRange::everything());
        debug_assert!(pinned.is_ok());
        // Dropped behind the locks.
        let listed = self.pins.lock().ranges_mut().file.take();
        let mapped = self.config.lock().file.take();
        drop((listed, mapped));
    }

    /// Checks a range that a program passed; `max` as for [`PageRange::parse`]. `EINVAL` if it was
    /// never mapped, or the range is bad.
    pub(crate) fn range(&self, offset: u64, len: u64, max: u64) -> Result<PageRange> {
        let config = self.config.lock();

        if config.file.is_none() {
            return Err(EINVAL);
        }
        PageRange::parse(offset, len, max, config.size, PAGE_SIZE).ok_or(EINVAL)
    }

    /// Pins `pages`; tells whether one of them was purged since it was unpinned. May sleep; waits
    /// for purges of these pages that are under way.
    pub(crate) fn pin(&self, pages: PageRange) -> Result<bool> {
        let mut rest = pages;
        let mut was_purged = false;
        let mut spare = None;

        loop {
            let mut pins = self.pins.lock();

            match pins.pin(&mut rest, &mut was_purged, &mut spare) {
                Progress::Done => return Ok(was_purged),
                Progress::More => {}
                Progress::Claimed => {
                    pins.waits(true);
                    self.unclaimed.wait(&mut pins);
                    pins.waits(false);
                    // Who wants to claim may have been told to wait for us.
                    self.unclaimed.notify_all();
                }
                Progress::NeedSpare => {
                    drop(pins);
                    spare = Some(spare_range()?);
                }
            }
        }
    }

    /// Lets `pages` be purged. May sleep. Changes nothing if it fails, unless others change the
    /// same pages meanwhile.
    pub(crate) fn unpin(&self, pages: PageRange) -> Result {
        let age = self.shared.lru.now();
        let mut spares = KVVec::new();
        // It may grow to megabytes: that a program's memory cgroup ends there is no news for the
        // log.
        let flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;

        // All memory comes first, so that it is all or nothing.
        let mut need = 0;
        let mut rest = pages;
        while !rest.is_empty() {
            need += self.pins.lock().gaps(&mut rest);
        }
        for _ in 0..need {
            spares.push(spare_range()?, flags)?;
        }

        let mut rest = pages;
        loop {
            let progress = self.pins.lock().unpin(&mut rest, age, || spares.pop());
            match progress {
                Progress::Done => return Ok(()),
                Progress::NeedSpare => spares.push(spare_range()?, flags)?,
                Progress::More | Progress::Claimed => {}
            }
        }
    }

    /// Whether all of `pages` are pinned.
    pub(crate) fn is_pinned(&self, pages: PageRange) -> bool {
        self.pins.lock().is_pinned(pages)
    }

    /// Writes a byte, as the ABI has it, for each of the first pages of `rest`, and takes these from
    /// it; gives how many fitted. One moment's view.
    pub(crate) fn page_status(&self, rest: &mut PageRange, out: &mut [u8]) -> usize {
        let pages = rest.clamp(rest.start(), rest.start().saturating_add(out.len()));
        let mut out = out.iter_mut();

        self.pins.lock().each_state(pages, |state, resident| {
            if let Some(byte) = out.next() {
                *byte = match state {
                    State::Pinned => uapi::PAGE_PINNED,
                    State::Unpinned => uapi::PAGE_UNPINNED,
                    State::Purged => uapi::PAGE_PURGED,
                };
                if resident {
                    *byte |= uapi::PAGE_RESIDENT;
                }
            }
        });
        *rest = rest.clamp(pages.end(), usize::MAX);
        pages.len()
    }

    /// The file of a frozen region. `EINVAL` without a size, `EBADF` before it is frozen.
    fn content(&self) -> Result<(RegionFile, usize)> {
        let config = self.config.lock();

        if config.size == 0 {
            return Err(EINVAL);
        }
        Ok((config.file.clone().ok_or(EBADF)?, config.size))
    }

    /// Copies its content from `*pos` on, zeros where there is none. May sleep.
    ///
    /// `EBADF` before it is frozen, `EIO` where memory has failed.
    pub(crate) fn read(&self, pos: &mut i64, iter: &mut IovIterDest<'_>) -> Result<usize> {
        if self.size() == 0 {
            return Ok(0);
        }
        let (file, size) = self.content()?;
        let mut at = usize::try_from(*pos)?;
        let mut done = 0;

        while at < size && !iter.is_empty() {
            let offset = at & (PAGE_SIZE - 1);
            let len = iter.len().min(PAGE_SIZE - offset).min(size - at);
            let index = at >> PAGE_SHIFT;
            let (copied, error) = match file.mapping().folio(index) {
                None => (zero_iter(len, iter), EFAULT),
                Some(folio) if folio.is_poisoned() => (0, EIO),
                Some(folio) => (folio.copy_to_iter(index, offset, len, iter), EFAULT),
            };

            done += copied;
            at += copied;
            *pos = at as i64;
            if copied < len {
                if done == 0 {
                    return Err(error);
                }
                break;
            }
        }
        Ok(done)
    }

    /// Where a file's seek for content or for a hole ends, at or behind `offset`; and the size.
    ///
    /// `ENXIO` as lseek(2) says, `EINVAL` and `EBADF` as for [`Self::seekable_size`].
    pub(crate) fn seek(&self, offset: i64, data: bool) -> Result<(i64, i64)> {
        let size = self.seekable_size()?;
        if !(0..size).contains(&offset) {
            return Err(ENXIO);
        }
        let from = offset as usize >> PAGE_SHIFT;
        let end = (size as usize).div_ceil(PAGE_SIZE);
        let mut pins = self.pins.lock();
        let page = if data {
            pins.next_resident(from, end).ok_or(ENXIO)?
        } else {
            // There is always a hole at the end.
            pins.next_hole(from, end).unwrap_or(end)
        };
        Ok(((page as i64 * PAGE_SIZE as i64).clamp(offset, size), size))
    }

    /// The size, where there is something to seek in. `EINVAL` without a size, `EBADF` before the
    /// region is frozen.
    pub(crate) fn seekable_size(&self) -> Result<i64> {
        Ok(i64::try_from(self.content()?.1)?)
    }

    /// Gives page `index` memory, zeroed; gives its folio, locked, in `mapping`, which is ours.
    ///
    /// May sleep and reclaim. Nothing stays behind if it fails.
    pub(crate) fn populate(
        &self,
        mapping: &Mapping,
        index: usize,
    ) -> Result<LockedFolio, PopulateError> {
        // Where the size of folios is decided: one page each, as yet.
        let order = 0;

        let arrival = Arrival::new(self, index)?;
        let room = Room::new(1 << order, self.shared.max_pages)?;
        let folio = mapping
            .alloc_folio(order)
            .map_err(|_| PopulateError::NoMemory)?;
        let folio = mapping.add(folio, index).map_err(|error| match error {
            AddError::Exists => PopulateError::Exists,
            AddError::NoMemory => PopulateError::NoMemory,
        })?;

        // Under the folio lock, as every change of residency.
        arrival.arrived();
        room.keep();
        self.counters.allocated.add(1 << order);
        Ok(folio)
    }
}

impl PseudoFileOperations for Region {
    fn punch_hole(file: &RegionFile, start: usize, end: usize) {
        let mut from = start;

        loop {
            let next = file.pins.lock().next_resident(from, end);
            let Some(page) = next else {
                return;
            };
            from = page + 1;
            if let Some(folio) = file.mapping().lock_folio(page) {
                folio.unmap();
                file.pins.lock().removed(page);
                folio.remove();
            }
        }
    }

    fn freed(pages: usize) {
        POPULATED.fetch_sub(pages, Relaxed);
    }
}

/// A page that is about to become resident, for which there is a block.
struct Arrival<'a> {
    region: &'a Region,
    index: usize,
}

impl<'a> Arrival<'a> {
    fn new(region: &'a Region, index: usize) -> Result<Self, PopulateError> {
        let mut spare = None;

        while !region.pins.lock().arriving(index, &mut spare) {
            spare = Some(
                RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)
                    .map_err(|_| PopulateError::NoMemory)?,
            );
        }
        Ok(Self { region, index })
    }

    /// It is there. To be called with its folio locked.
    fn arrived(self) {
        self.region.pins.lock().inserted(self.index);
        core::mem::forget(self);
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.region.pins.lock().cancelled(self.index);
    }
}

/// Pages that were counted as populated before they are.
struct Room(usize);

impl Room {
    fn new(pages: usize, limit: usize) -> Result<Self, PopulateError> {
        let this = Self(pages);

        if POPULATED.fetch_add(pages, Relaxed) + pages > limit {
            return Err(PopulateError::Limit);
        }
        Ok(this)
    }

    /// They are populated now, and are counted down by [`PseudoFileOperations::freed`].
    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        POPULATED.fetch_sub(self.0, Relaxed);
    }
}

/// A range that is being purged: it is not pinned until this is dropped.
pub(crate) struct Claim {
    file: RegionFile,
    range: Range,
}

impl Claim {
    /// Claims the range that was listed with this key; `None` if it was pinned meanwhile. A PIN
    /// that waits goes first: waits for it if `wait`, which reclaim must not, else gives `None`.
    pub(crate) fn new(file: RegionFile, key: Key, wait: bool) -> Option<Self> {
        let mut pins = file.pins.lock();
        let range = loop {
            match pins.claim(key.start, key.age) {
                Claimed::Range(range) => break range,
                Claimed::Later if wait => file.unclaimed.wait(&mut pins),
                Claimed::Later | Claimed::Gone => return None,
            }
        };
        drop(pins);
        Some(Self { file, range })
    }

    /// Frees memory of at most `want` pages, from page `from` on, which is moved behind them; gives
    /// how many it freed.
    ///
    /// Holds folio locks only, and waits for them only if `wait`, which reclaim must not. Leaves
    /// what a device may be writing to, and what has failed.
    pub(crate) fn purge(&self, from: &mut usize, want: usize, wait: bool) -> usize {
        let region = &*self.file;
        let mapping = self.file.mapping();
        let last = self.range.last;
        let mut freed = 0;

        while freed < want {
            let next = region.pins.lock().next_live(last, *from);
            let Some(page) = next else {
                *from = last + 1;
                break;
            };
            *from = page + 1;
            let folio = if wait {
                mapping.lock_folio(page)
            } else {
                mapping.try_lock_folio(page)
            };
            let Some(folio) = folio else {
                continue;
            };
            folio.unmap();
            if folio.maybe_dma_pinned() || folio.folio().is_poisoned() {
                continue;
            }
            // First it is said, then it is done: nobody finds zeros that were not reported. The
            // folio lock keeps it resident, and our claim keeps it unpinned.
            if region.pins.lock().purge(last, page) {
                folio.remove();
                freed += 1;
            }
        }
        region.counters.purged.add(freed);
        freed
    }

    /// Purges the pages without memory; gives how many of them were not purged already. A page
    /// that gets memory thereafter is not live.
    pub(crate) fn purge_holes(&self) -> usize {
        self.file.pins.lock().purge_holes(self.range.last)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.file.pins.lock().release(self.range.last);
        self.file.unclaimed.notify_all();
    }
}

/// Memory for one range and its entry in the LRU. May sleep.
fn spare_range() -> Result<SpareRange> {
    Ok((
        RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?,
        Node::new(GFP_KERNEL_ACCOUNT)?,
    ))
}

type SpareRange = (RBTreeNodeReservation<usize, Entry>, Node<RegionFile>);

/// A range, and the memory of its LRU entry while it is not listed there.
pub(crate) struct Entry {
    range: Range,
    node: Option<Node<RegionFile>>,
}

/// The ranges of a region, each of them listed in the LRU while a purge could take from it.
///
/// # Invariants
///
/// An entry has its `node` exactly if [`listing`] of its range is `None`; else it is listed in the
/// LRU, in that list and with that key.
pub(crate) struct AgedRanges {
    tree: RBTree<usize, Entry>,
    lru: Arc<RegionLru>,
    /// What the LRU's entries hold. There while there are ranges.
    file: Option<RegionFile>,
}

/// Where a range belongs: nowhere when all of it was purged.
fn listing(range: &Range) -> Option<(List, Key)> {
    let key = Key {
        age: range.age,
        start: range.start,
    };
    match range {
        Range { live: 1.., .. } => Some((List::Live, key)),
        Range { purged, .. } if *purged < range.len() => Some((List::Idle, key)),
        Range { .. } => None,
    }
}

impl AgedRanges {
    /// Takes an entry from where `old` had it to where `new` wants it.
    fn relist(
        &self,
        node: &mut Option<Node<RegionFile>>,
        old: Option<&Range>,
        new: Option<&Range>,
    ) {
        self.lru.live_changed(
            old.map_or(0, |range| range.live),
            new.map_or(0, |range| range.live),
        );
        let (from, to) = (old.and_then(listing), new.and_then(listing));
        if let (true, Some(file)) = (from != to, &self.file) {
            self.lru.relist(node, from, to, file);
        }
    }
}

impl Ranges for AgedRanges {
    type Spare = SpareRange;

    fn at_or_after(&self, page: usize) -> Option<Range> {
        let cursor = self.tree.cursor_lower_bound(&page)?;
        Some(cursor.current().1.range)
    }

    fn insert(&mut self, (entry, node): SpareRange, range: Range) {
        let mut node = Some(node);

        self.relist(&mut node, None, Some(&range));
        self.tree
            .insert(entry.into_node(range.last, Entry { range, node }));
    }

    fn update(&mut self, last: usize, new: Range) {
        let Some(entry) = self.tree.get_mut(&last) else {
            return;
        };
        let old = entry.range;
        let mut node = entry.node.take();

        self.relist(&mut node, Some(&old), Some(&new));
        if new.last == last {
            if let Some(entry) = self.tree.get_mut(&last) {
                *entry = Entry { range: new, node };
            }
        } else if let Some(old) = self.tree.remove_node(&last) {
            self.tree.insert(
                old.into_reservation()
                    .into_node(new.last, Entry { range: new, node }),
            );
        }
    }

    fn split(&mut self, spare: SpareRange, head: Range, tail: Range) {
        let (entry, node) = spare;
        let mut node = Some(node);

        // Listed before the other leaves room for it: who walks the list at this moment comes to
        // the head's key first, and then to the tail's.
        self.relist(&mut node, None, Some(&tail));
        self.update(tail.last, head);
        self.tree
            .insert(entry.into_node(tail.last, Entry { range: tail, node }));
    }

    fn remove(&mut self, last: usize) {
        if let Some(mut entry) = self.tree.remove(&last) {
            self.relist(&mut entry.node, Some(&entry.range), None);
        }
    }
}

/// The blocks of a region.
pub(crate) struct BlockTree(RBTree<usize, Block>);

impl Blocks for BlockTree {
    type Spare = RBTreeNodeReservation<usize, Block>;

    fn get(&self, number: usize) -> Option<&Block> {
        self.0.get(&number)
    }

    fn get_mut(&mut self, number: usize) -> Option<&mut Block> {
        self.0.get_mut(&number)
    }

    fn insert(&mut self, spare: Self::Spare, number: usize) {
        self.0.insert(spare.into_node(number, Block::default()));
    }

    fn remove(&mut self, number: usize) {
        self.0.remove(&number);
    }

    fn walk<T>(
        &mut self,
        number: usize,
        mut f: impl FnMut(usize, &mut Block) -> ControlFlow<T>,
    ) -> Option<T> {
        let mut cursor = self.0.cursor_lower_bound_mut(&number);

        while let Some(mut at) = cursor {
            let (number, block) = at.current_mut();
            let number = *number;
            let flow = f(number, block);

            cursor = if block.is_empty() {
                // Gives the one before it if there is none behind it.
                let (neighbour, _) = at.remove_current();
                neighbour.filter(|next| *next.current().0 > number)
            } else {
                at.move_next()
            };
            if let ControlFlow::Break(answer) = flow {
                return Some(answer);
            }
        }
        None
    }
}
