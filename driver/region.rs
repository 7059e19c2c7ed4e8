// SPDX-License-Identifier: GPL-2.0-only

//! A region: what one open of the device stands for.
//!
//! It is *fresh*, then *sized*, then *frozen* by its first mapping, for good. Frozen, it has a
//! [`RegionFile`] with an inode and a page cache of its own, which its mappings hold; the open
//! file of the device and the region's file each hold the region.

use crate::{
    glue::{
        array::GrowingArray,
        fatal_signal_pending,
        folio::{
            zero_iter,
            AddError,
            LockedFolio,
            Mapping,
            HUGE_ORDER, //
        },
        per_cgroup::current_cgroup,
        pseudo_file::{
            Mount,
            PseudoFile,
            PseudoFileOperations,
            Reservation, //
        },
        read_implies_exec,
        total_ram_pages,
        versions::smp_mb, //
    },
    lru::{
        Key,
        List,
        Lru,
        Node,
        Queue,
        QueueRef, //
    },
    policy::{
        growth::Near,
        page_range::PageRange,
        pins::{
            next_hole,
            next_resident,
            Block,
            Blocks,
            Claimed,
            Pins,
            Progress,
            Purged,
            Range,
            Ranges,
            State,
            Word,
            BLOCK_PAGES, //
        }, //
    },
    uapi, //
};
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
            Acquire,
            Atomic,
            Relaxed,
            Release, //
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

/// The unpinned ranges of all regions.
pub(crate) type RegionLru = Lru<RegionFile>;

/// Those that tasks of one memory cgroup unpinned.
pub(crate) type RegionQueue = Queue<RegionFile>;

/// `PROT_READ | PROT_WRITE | PROT_EXEC`: the mask of a fresh region.
const PROT_ALL: usize = uapi::PROT_READ | uapi::PROT_WRITE | uapi::PROT_EXEC;

/// Pages in the page caches of all regions, and those about to be added.
static POPULATED: Atomic<usize> = Atomic::new(0);

/// See [`POPULATED`].
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) fn populated() -> usize {
    POPULATED.load(Relaxed)
}

/// What all regions share.
pub(crate) struct Shared {
    /// Where their files are.
    pub(crate) mount: Mount,
    /// Where unpinned ranges are listed.
    pub(crate) lru: Arc<RegionLru>,
    /// The largest value that the number of populated pages may have.
    pub(crate) max_pages: usize,
    /// Whether UNPIN asks for write permission in the mask.
    pub(crate) strict_unpin: bool,
    /// Largest order of the folios that grow with sequential access.
    pub(crate) max_order: u32,
    /// Which mappings get huge pages, if the system admits them.
    pub(crate) huge: Huge,
}

/// Values of the parameter `huge`; as of tmpfs' mount option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Huge {
    /// None.
    Never,
    /// Those that were given `MADV_HUGEPAGE`.
    Advise,
    /// All.
    Always,
}

impl Huge {
    /// Of its name. `EINVAL`.
    pub(crate) fn parse(name: &[u8]) -> Result<Self> {
        match name {
            b"never" => Ok(Self::Never),
            b"advise" => Ok(Self::Advise),
            b"always" => Ok(Self::Always),
            _ => Err(EINVAL),
        }
    }
}

/// The largest [`Shared::max_order`]: huge pages are for [`Huge`] to allow.
pub(crate) const MAX_ORDER: u32 = HUGE_ORDER - 1;

// A folio lies within one block.
const _: () = assert!(1 << HUGE_ORDER <= BLOCK_PAGES);

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
    pub(crate) fn none() -> Self {
        Self {
            bytes: [0; uapi::NAME_LEN],
        }
    }

    /// It is what `f` writes, up to its first NUL, or 255 bytes of it.
    pub(crate) fn fill(&mut self, f: impl FnOnce(&mut [u8]) -> Result) -> Result {
        let result = f(&mut self.bytes);

        // INVARIANT: It is 0 whatever was written.
        self.bytes[uapi::NAME_LEN - 1] = 0;
        result
    }

    /// The name; `None` if there is none.
    pub(crate) fn get(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes)
            .ok()
            .filter(|name| !name.is_empty())
    }
}

type RegionPins = Pins<AgedRanges>;

/// A region.
#[pin_data]
pub(crate) struct Region {
    shared: Arc<Shared>,
    /// Taken under `mmap_lock`; no access to user memory under it.
    #[pin]
    config: Mutex<Config>,
    /// Its size in bytes once it is frozen, 0 before: for who needs no more of `config`.
    frozen_size: Atomic<usize>,
    /// Taken under the folio lock; the LRU's lock is taken under it.
    #[pin]
    pins: SpinLock<RegionPins>,
    /// Which pages have memory, and what `pins` notes of them. Faults note here without a lock.
    #[pin]
    blocks: BlockArray,
    /// Not 0 while there may be ranges: then faults have to tell `pins`. Changed under its lock.
    ///
    /// ```text
    ///   fault                            UNPIN, with `pins` locked
    ///     set the page's bit               set `watched`
    ///     full barrier                     full barrier
    ///     read `watched`: tell `pins`      read the bits: count these pages
    /// ```
    ///
    /// One of the two sees the other; if both do, the page is counted once all the same.
    watched: Atomic<u32>,
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
        Arc::pin_init(
            pin_init!(Self {
                shared,
                config <- new_mutex!(
                    Config {
                        name: Name::none(),
                        size: 0,
                        mask: PROT_ALL,
                        file: None,
                        reservation: None,
                    },
                    "ashmem_config"
                ),
                frozen_size: Atomic::new(0),
                pins <- new_spinlock!(
                    Pins::new(
                        AgedRanges {
                            tree: RBTree::new(),
                            file: None,
                            spare: None,
                            mixed: false,
                        }
                    ),
                    "ashmem_pins"
                ),
                blocks <- BlockArray::new(),
                watched: Atomic::new(0),
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
    pub(crate) fn set_name(&self, name: &Name) -> Result {
        let mut config = self.config.lock();

        if config.file.is_some() {
            return Err(EINVAL);
        }
        config.name.bytes = name.bytes;
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

    /// Sets its size in bytes. `EINVAL` if it is frozen.
    pub(crate) fn set_size(&self, size: usize) -> Result {
        let mut config = self.config.lock();

        if config.file.is_some() {
            return Err(EINVAL);
        }
        config.size = size;
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

        let noreserve = vma.flags() & flags::NORESERVE != 0;
        match &config.file {
            Some(file) => file.map(vma),
            None => self.freeze(&mut config, size, noreserve)?.map(vma),
        }
        Ok(())
    }

    /// Makes the file of a region that is not frozen; `config` is its own, `size` in bytes.
    fn freeze(
        self: ArcBorrow<'_, Self>,
        config: &mut Config,
        size: usize,
        noreserve: bool,
    ) -> Result<RegionFile> {
        let reservation = Reservation::new(size, noreserve)?;
        let file = Self::new_file(&self.shared.mount, &config.name, size, self.into())?;

        // In place of nothing: no file is dropped under the spinlock.
        self.pins.lock().ranges_mut().file = Some(file.clone());
        config.file = Some(file.clone());
        config.reservation = Some(reservation);
        // Who finds it finds the file as well.
        self.frozen_size.store(config.size, Release);
        Ok(file)
    }

    /// What the first mapping does, without one.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn freeze_unmapped(self: ArcBorrow<'_, Self>) -> Result<RegionFile> {
        let mut config = self.config.lock();
        let size = config.size;

        self.freeze(&mut config, size, false)
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
        let listed = self.pins.lock().ranges_mut().retire();
        let mapped = self.config.lock().file.take();
        drop((listed, mapped));
    }

    /// Checks a range that a program passed; `max` as for [`PageRange::parse`]. `EINVAL` if it was
    /// never mapped, or the range is bad.
    pub(crate) fn range(&self, offset: u64, len: u64, max: u64) -> Result<PageRange> {
        match self.frozen_size.load(Acquire) {
            0 => Err(EINVAL),
            size => PageRange::parse(offset, len, max, size, PAGE_SIZE).ok_or(EINVAL),
        }
    }

    /// Pins `pages`; tells whether one of them was purged since it was unpinned. May sleep; waits
    /// for purges of these pages that are under way.
    pub(crate) fn pin(&self, pages: PageRange) -> Result<bool> {
        let mut rest = pages;
        let mut was_purged = false;
        let mut spare = None;

        let mut pins = self.pins.lock();
        loop {
            match pins.pin(&self.blocks, &mut rest, &mut was_purged, &mut spare) {
                Progress::Done => {
                    if pins.unpinned() == 0 {
                        self.watched.store(0, Relaxed);
                    }
                    return Ok(was_purged);
                }
                Progress::More => {
                    drop(pins);
                    pins = self.pins.lock();
                }
                Progress::Claimed => {
                    // The lock is kept from here to the next step, so that nobody claims between.
                    pins.waits(true);
                    self.unclaimed.wait(&mut pins);
                    pins.waits(false);
                    // Who wants to claim may have been told to wait for us.
                    self.unclaimed.notify_all();
                }
                Progress::NeedSpare => {
                    drop(pins);
                    // For a part of a range, which stays in its queue.
                    spare = Some(SpareRange::new(None)?);
                    pins = self.pins.lock();
                }
            }
        }
    }

    /// Lets `pages` be purged. May sleep. Changes nothing if it fails, unless others change the
    /// same pages meanwhile.
    pub(crate) fn unpin(&self, pages: PageRange) -> Result {
        let age = self.shared.lru.now();

        // Most often it makes one range, and there is memory for one since the last PIN.
        let mut pins = self.pins.lock();
        if let Some(gap) = pins.only_gap(pages) {
            if let Some(spare) = pins.ranges_mut().spare_of_current() {
                self.watch();
                pins.fill(&self.blocks, gap, age, spare);
                return Ok(());
            }
        }
        drop(pins);

        let queue = self.shared.lru.queue()?;
        // It may grow to megabytes: that a program's memory cgroup ends there is no news for the
        // log.
        let flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;

        // All memory comes first, so that it is all or nothing.
        let mut need = 0;
        let mut rest = pages;
        while !rest.is_empty() {
            // There may be billions of them.
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            need += self.pins.lock().gaps(&mut rest);
            // A range takes memory whether its pages have any or not, and who unpins is not whom
            // the OOM killer would take for the one that has it.
            if need > total_ram_pages() {
                return Err(ENOMEM);
            }
        }
        let mut spares = KVVec::with_capacity(need, flags)?;
        for _ in 0..need {
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            spares.push(SpareRange::new(Some(queue.clone()))?, flags)?;
        }

        let mut rest = pages;
        loop {
            let mut pins = self.pins.lock();
            self.watch();
            let progress = pins.unpin(&self.blocks, &mut rest, age, || spares.pop());
            drop(pins);
            match progress {
                Progress::Done => return Ok(()),
                Progress::NeedSpare => {
                    spares.push(SpareRange::new(Some(queue.clone()))?, flags)?;
                }
                Progress::More | Progress::Claimed => {}
            }
        }
    }

    /// To be called with `pins` locked, before it looks at which pages are resident: see `watched`.
    fn watch(&self) {
        self.watched.store(1, Relaxed);
        smp_mb();
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

        self.pins
            .lock()
            .each_state(&self.blocks, pages, |state, resident| {
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
        let (file, size) = match self.content() {
            // Without a size.
            Err(error) if error == EINVAL => return Ok(0),
            content => content?,
        };
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
        let page = if data {
            next_resident(&self.blocks, from, end).ok_or(ENXIO)?
        } else {
            // There is always a hole at the end.
            next_hole(&self.blocks, from, end).unwrap_or(end)
        };
        Ok(((page as i64 * PAGE_SIZE as i64).clamp(offset, size), size))
    }

    /// The size, where there is something to seek in. `EINVAL` without a size, `EBADF` before the
    /// region is frozen.
    pub(crate) fn seekable_size(&self) -> Result<i64> {
        Ok(i64::try_from(self.content()?.1)?)
    }

    /// The block of a page that is to have memory. May sleep.
    fn block(&self, page: usize) -> Result<&Block<AtomicWord>, PopulateError> {
        let number = page / BLOCK_PAGES;

        match self.blocks.get(number) {
            Some(block) => Ok(block),
            None => self
                .blocks
                .add(number, Block::default())
                .map_err(|_| PopulateError::NoMemory),
        }
    }

    /// Which pages near `index` have memory.
    pub(crate) fn near(&self, index: usize) -> Near<'_, BlockArray> {
        Near::new(&self.blocks, index)
    }

    /// Gives page `index` memory, zeroed, and those that make an aligned block of `1 << order` pages with
    /// it; gives their folio, locked, in `mapping`, which is ours.
    ///
    /// May sleep and reclaim. Nothing stays behind if it fails.
    pub(crate) fn populate(
        &self,
        mapping: &Mapping,
        index: usize,
        order: u32,
    ) -> Result<LockedFolio, PopulateError> {
        let pages = PageRange::block(index, order);
        let block = self.block(index)?;
        Room::there_is(pages.len(), self.shared.max_pages)?;
        let folio = mapping
            .alloc_folio(order)
            .map_err(|_| PopulateError::NoMemory)?;
        // Behind the allocation, which may take its time: what is counted here others cannot have.
        let room = Room::new(pages.len(), self.shared.max_pages)?;
        let folio = mapping.add(folio, index).map_err(|error| match error {
            AddError::Exists => PopulateError::Exists,
            AddError::NoMemory => PopulateError::NoMemory,
        })?;

        // Under the folio lock, as every change of residency.
        block.set_resident(pages);
        smp_mb();
        if self.watched.load(Relaxed) != 0 {
            self.pins.lock().inserted(&self.blocks, pages);
        }
        room.keep();
        self.counters.allocated.add(pages.len());
        Ok(folio)
    }
}

/// Has the folio that has `pages` split at an end of `part`, a part of it; whether that could be done. May
/// sleep; the folio must not be locked.
fn split(mapping: &Mapping, pages: PageRange, part: PageRange) -> bool {
    let at = if part.start() > pages.start() {
        part.start()
    } else {
        part.end()
    };

    mapping.split(at);
    mapping
        .folio(part.start())
        .is_none_or(|folio| folio.nr_pages() < pages.len())
}

/// The pages of the region that a folio holds.
fn range_of(folio: &LockedFolio) -> PageRange {
    let pages = folio.pages();
    PageRange::between(pages.start, pages.end)
}

impl PseudoFileOperations for Region {
    fn punch_hole(file: &RegionFile, start: usize, end: usize) {
        let mapping = file.mapping();
        let hole = PageRange::between(start, end);
        let mut from = start;

        while let Some(page) = next_resident(&file.blocks, from, end) {
            from = page + 1;
            let Some(folio) = mapping.lock_folio(page) else {
                continue;
            };
            let pages = range_of(&folio);
            if hole.contains(pages) {
                folio.unmap();
                file.pins.lock().removed(&file.blocks, pages);
                folio.remove();
                from = pages.end();
                continue;
            }
            let part = pages.clamp(page, end);
            drop(folio);
            if split(mapping, pages, part) {
                from = page;
                continue;
            }
            // Somebody has a reference to it: it keeps its memory.
            if let Some(folio) = mapping.lock_folio(page) {
                let pages = range_of(&folio).clamp(page, end);
                for page in pages.start()..pages.end() {
                    folio.zero_page(page);
                }
                from = pages.end();
            }
        }
    }

    fn freed(pages: usize) {
        POPULATED.fetch_sub(pages, Relaxed);
    }
}

/// Pages that were counted as populated before they are.
struct Room(usize);

impl Room {
    /// Whether there would be some now.
    fn there_is(pages: usize, limit: usize) -> Result<(), PopulateError> {
        if POPULATED.load(Relaxed) + pages > limit {
            return Err(PopulateError::Limit);
        }
        Ok(())
    }

    fn new(pages: usize, limit: usize) -> Result<Self, PopulateError> {
        let mut now = POPULATED.load(Relaxed);

        loop {
            let then = now + pages;
            if then > limit {
                return Err(PopulateError::Limit);
            }
            match POPULATED.cmpxchg(now, then, Relaxed) {
                Ok(_) => return Ok(Self(pages)),
                Err(other) => now = other,
            }
        }
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

/// In which context a purge runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// In reclaim, with who knows what locks held: waits for none, and splits no folio.
    Reclaim,
    /// With no folio locked, and able to wait.
    AnyProcess,
}

/// What a purge did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Pages whose memory is free.
    pub(crate) freed: usize,
    /// Pages left in place that are parts of larger folios: for [`How::AnyProcess`] to take, or held by
    /// somebody, so that it could not.
    pub(crate) left: usize,
}

impl Taken {
    /// How many these are, where those left count but for the first `slack`.
    pub(crate) fn counted(&self, slack: usize) -> usize {
        self.freed + self.left.saturating_sub(slack)
    }

    /// One more purge.
    pub(crate) fn add(&mut self, other: Self) {
        self.freed += other.freed;
        self.left += other.left;
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

    /// Frees memory of about `want` pages, from page `from` on, which is moved behind them; those left count
    /// as well, but for the first `slack`.
    ///
    /// Holds folio locks only, and waits for them only in [`How::AnyProcess`]. Leaves what a device may be
    /// writing to, and what has failed.
    pub(crate) fn purge(&self, from: &mut usize, want: usize, slack: usize, how: How) -> Taken {
        let region = &*self.file;
        let mapping = self.file.mapping();
        let last = self.range.last;
        let mut taken = Taken::default();
        let mut unmapped = 0;

        while taken.counted(slack) < want {
            let next = region.pins.lock().next_live(&region.blocks, last, *from);
            let Some(page) = next else {
                *from = last + 1;
                break;
            };
            *from = page + 1;
            // Many at once is cheaper. What somebody maps again is unmapped again, with its folio locked.
            // In reclaim only where something can be taken.
            if page >= unmapped && (how == How::AnyProcess || taken.freed != 0) {
                let rest = want - taken.counted(slack);
                let block = PageRange::block(page, BLOCK_PAGES.ilog2());
                let run = self.live_run(page, block.clamp(page, page.saturating_add(rest)));
                unmapped = run.end();
                if run.len() > 1 {
                    mapping.unmap(run.start()..run.end());
                }
            }
            let folio = match how {
                How::AnyProcess => mapping.lock_folio(page),
                How::Reclaim => mapping.try_lock_folio(page),
            };
            let Some(folio) = folio else {
                continue;
            };
            let pages = range_of(&folio);
            *from = pages.end();
            if folio.maybe_dma_pinned() || folio.folio().is_poisoned() {
                continue;
            }
            let whole = pages.len() == 1 || region.pins.lock().are_live(&region.blocks, pages);
            let mut purged = Purged::Nothing;
            if whole {
                folio.unmap();
                // Asked again: only now it is never a false no.
                if folio.maybe_dma_pinned() {
                    continue;
                }
                // First it is said, then it is done: nobody finds zeros that were not reported. The
                // folio lock keeps it resident, and our claim keeps it unpinned.
                purged = region
                    .pins
                    .lock()
                    .purge(&region.blocks, last, pages, pages.len() > 1);
            }
            match purged {
                Purged::Nothing => {
                    drop(folio);
                    let run = self.live_run(page, pages);
                    if run.is_empty() || run == pages {
                        continue;
                    }
                    // It is smaller the next time, or stays as it is.
                    if how == How::AnyProcess && split(mapping, pages, run) {
                        *from = page;
                    } else {
                        taken.left += run.len();
                    }
                }
                Purged::Own | Purged::WithOthers => {
                    folio.remove();
                    taken.freed += pages.len();
                }
            }
            if purged == Purged::WithOthers {
                region.pins.lock().release_others(last, pages);
                region.unclaimed.notify_all();
            }
        }
        region.counters.purged.add(taken.freed);
        taken
    }

    /// The live pages of our range in a row from `page` on, of a folio that has `pages`.
    fn live_run(&self, page: usize, pages: PageRange) -> PageRange {
        let region = &*self.file;
        let pages = pages.clamp(page, usize::MAX);

        region
            .pins
            .lock()
            .live_run(&region.blocks, self.range.last, pages)
    }

    /// Purges the pages without memory; gives how many of them were not purged already. A page
    /// that gets memory thereafter is not live.
    pub(crate) fn purge_holes(&self) -> usize {
        let region = &*self.file;

        region
            .pins
            .lock()
            .purge_holes(&region.blocks, self.range.last)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.file.pins.lock().release(self.range.last);
        self.file.unclaimed.notify_all();
    }
}

/// Memory for one range and its entry in the LRU.
pub(crate) struct SpareRange {
    entry: RBTreeNodeReservation<usize, Entry>,
    node: Node<RegionFile>,
    /// Where a range belongs that is no part of another one.
    queue: Option<QueueRef<RegionFile>>,
    /// Number of the memory cgroup that is charged.
    charged: u64,
}

impl SpareRange {
    /// May sleep.
    fn new(queue: Option<QueueRef<RegionFile>>) -> Result<Self> {
        Ok(Self {
            entry: RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?,
            node: Node::new(GFP_KERNEL_ACCOUNT)?,
            queue,
            charged: current_cgroup(),
        })
    }
}

/// A range, the queue that lists it, and the memory of its entry there while it is not listed.
pub(crate) struct Entry {
    range: Range,
    queue: QueueRef<RegionFile>,
    node: Option<Node<RegionFile>>,
}

/// The ranges of a region, each of them listed in the LRU while a purge could take from it.
///
/// # Invariants
///
/// - An entry has its `node` exactly if [`listing`] of its range is `None`; else it is listed in
///   the queue, in that list and with that key.
/// - The memory of an entry is charged to the cgroup of its queue, unless `mixed`.
/// - `spare` has a queue, and is charged to the cgroup of that.
pub(crate) struct AgedRanges {
    tree: RBTree<usize, Entry>,
    /// What the LRU's entries hold. There while there are ranges.
    file: Option<RegionFile>,
    /// Memory of the range that was pinned last, for the next one: programs unpin and pin the same
    /// again and again.
    spare: Option<SpareRange>,
    /// Whether an entry's memory may be charged to another cgroup than that of its queue.
    mixed: bool,
}

impl AgedRanges {
    /// The spare, if the current task would be charged for it.
    fn spare_of_current(&mut self) -> Option<SpareRange> {
        let charged = self.spare.as_ref()?.charged;

        if charged != current_cgroup() {
            return None;
        }
        self.spare.take()
    }

    /// There will be no range any more, and there is none. To be dropped without the lock.
    fn retire(&mut self) -> (Option<RegionFile>, Option<SpareRange>) {
        (self.file.take(), self.spare.take())
    }
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

/// Takes an entry from where `old` had it to where `new` wants it.
fn relist(
    file: Option<&RegionFile>,
    queue: &QueueRef<RegionFile>,
    node: &mut Option<Node<RegionFile>>,
    old: Option<&Range>,
    new: Option<&Range>,
) {
    let (from, to) = (old.and_then(listing), new.and_then(listing));
    if let (true, Some(file)) = (from != to, file) {
        queue.relist(node, from, to, file);
    }
    queue.live_changed(
        old.map_or(0, |range| range.live),
        new.map_or(0, |range| range.live),
    );
}

impl Ranges for AgedRanges {
    type Spare = SpareRange;

    fn at_or_after(&self, page: usize) -> Option<Range> {
        let cursor = self.tree.cursor_lower_bound(&page)?;
        Some(cursor.current().1.range)
    }

    fn insert(&mut self, spare: SpareRange, range: Range) {
        debug_assert!(spare.queue.is_some());
        let Some(queue) = spare.queue else {
            return;
        };
        let mut node = Some(spare.node);

        self.mixed |= spare.charged != queue.number();
        relist(self.file.as_ref(), &queue, &mut node, None, Some(&range));
        let entry = Entry { range, queue, node };
        self.tree.insert(spare.entry.into_node(range.last, entry));
    }

    fn update(&mut self, last: usize, new: Range) {
        let Some(entry) = self.tree.get_mut(&last) else {
            return;
        };
        relist(
            self.file.as_ref(),
            &entry.queue,
            &mut entry.node,
            Some(&entry.range),
            Some(&new),
        );
        entry.range = new;
        if new.last != last {
            let moved = Entry {
                range: new,
                queue: entry.queue.clone(),
                node: entry.node.take(),
            };
            if let Some(old) = self.tree.remove_node(&last) {
                self.tree
                    .insert(old.into_reservation().into_node(new.last, moved));
            }
        }
    }

    fn split(&mut self, spare: SpareRange, head: Range, tail: Range) {
        let Some(queue) = self.tree.get(&tail.last).map(|old| old.queue.clone()) else {
            return;
        };
        let mut node = Some(spare.node);

        self.mixed |= spare.charged != queue.number();
        // Listed before the other leaves room for it: who walks the list at this moment comes to
        // the head's key first, and then to the tail's.
        relist(self.file.as_ref(), &queue, &mut node, None, Some(&tail));
        self.update(tail.last, head);
        let entry = Entry {
            range: tail,
            queue,
            node,
        };
        self.tree.insert(spare.entry.into_node(tail.last, entry));
    }

    fn remove(&mut self, last: usize) {
        let Some(mut found) = self.tree.find_mut(&last) else {
            return;
        };
        let entry = found.get_mut();
        relist(
            self.file.as_ref(),
            &entry.queue,
            &mut entry.node,
            Some(&entry.range),
            None,
        );
        let (queue, node) = (entry.queue.clone(), entry.node.take());
        let entry = found.remove_node().into_reservation();
        if let (false, Some(node)) = (self.mixed, node) {
            // INVARIANT: Nothing is mixed.
            self.spare = Some(SpareRange {
                entry,
                node,
                charged: queue.number(),
                queue: Some(queue),
            });
        }
        self.mixed &= !self.tree.is_empty();
    }
}

/// The blocks of a region.
pub(crate) type BlockArray = GrowingArray<Block<AtomicWord>>;

impl Blocks for BlockArray {
    type Word = AtomicWord;

    fn get(&self, number: usize) -> Option<&Block<AtomicWord>> {
        GrowingArray::get(self, number)
    }

    fn at_or_after(&self, number: usize) -> Option<(usize, &Block<AtomicWord>)> {
        GrowingArray::at_or_after(self, number)
    }
}

/// Bits that are changed in one step.
pub(crate) struct AtomicWord(Atomic<u64>);

impl Default for AtomicWord {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl AtomicWord {
    fn change(&self, f: impl Fn(u64) -> u64) {
        let mut old = self.0.load(Relaxed);

        while let Err(now) = self.0.cmpxchg(old, f(old), Relaxed) {
            old = now;
        }
    }
}

impl Word for AtomicWord {
    fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set(&self, bits: u64) {
        self.change(|old| old | bits);
    }

    fn clear(&self, bits: u64) {
        self.change(|old| old & !bits);
    }

    fn store(&self, bits: u64) {
        self.0.store(bits, Relaxed);
    }
}
