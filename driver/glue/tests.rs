// SPDX-License-Identifier: GPL-2.0-only

//! KUnit tests of this folder, and what they and those of [`crate::tests`] look at the kernel with.

use super::{
    array::GrowingArray,
    bindings as inline,
    folio::{
        AddError,
        Folio,
        LockedFolio,
        Mapping, //
    },
    per_cgroup::{
        CgroupObject,
        CgroupRef,
        PerCgroup, //
    },
    pseudo_file::{
        Mount,
        PseudoFile,
        PseudoFileOperations, //
    },
    shrinker::{
        Pressure,
        Registration,
        Shrinker,
        ShrinkerId, //
    },
    vm::{
        Fault,
        Outcome,
        VmOperations, //
    }, //
};
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    }, //
};

/// Ends a test that expects this of it, with an error. `assert!` would end the thread, and drop
/// nothing that lives then, so that the module could not be unloaded.
macro_rules! ensure {
    ($condition:expr $(,)?) => {
        if !$condition {
            pr_err!(
                "{}:{}: not so: {}\n",
                file!(),
                line!(),
                stringify!($condition)
            );
            return Err(EINVAL);
        }
    };
}
pub(crate) use ensure;

/// As [`ensure`], and says what there was instead.
macro_rules! ensure_eq {
    ($found:expr, $wanted:expr $(,)?) => {
        match (&$found, &$wanted) {
            (found, wanted) => {
                if *found != *wanted {
                    let what = stringify!($found);
                    pr_err!(
                        "{}:{}: {what} is {found:?}, not {wanted:?}\n",
                        file!(),
                        line!()
                    );
                    return Err(EINVAL);
                }
            }
        }
    };
}
pub(crate) use ensure_eq;

/// Has files released whose last reference was dropped: here, in a kernel thread, that is left to a
/// worker. May sleep.
pub(crate) fn flush_files() {
    // SAFETY: No lock is held that a file's release could take.
    unsafe { bindings::flush_delayed_fput() }
}

/// Calls `f` on one processor all the while.
fn on_one_cpu<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: Undone below.
    unsafe { inline::ashmem_migrate_disable() };
    let result = f();
    // SAFETY: As above.
    unsafe { inline::ashmem_migrate_enable() };
    result
}

/// A reference of the test's own to an inode.
///
/// # Invariants
///
/// The pointer is the inode of a [`PseudoFile`] to which this object owns a reference.
pub(crate) struct InodeRef {
    inode: NonNull<bindings::inode>,
    /// Without files, only this keeps the file system mounted; it goes after the reference.
    _mount: Mount,
}

impl InodeRef {
    /// To the inode of a file that this is the page cache of.
    pub(crate) fn new(mapping: &Mapping) -> Result<Self> {
        let mount = Mount::pin()?;
        // SAFETY: The mapping is valid, and its host is its inode.
        let inode = unsafe { (*mapping.as_ptr()).host };
        // SAFETY: The mapping was reached through a file, which has a reference to the inode.
        unsafe { bindings::ihold(inode) };
        Ok(Self {
            // SAFETY: As above. INVARIANT: The reference was just taken.
            inode: unsafe { NonNull::new_unchecked(inode) },
            _mount: mount,
        })
    }

    fn inode(&self) -> &bindings::inode {
        // SAFETY: By the type invariants; what the tests read of it does not change meanwhile.
        unsafe { self.inode.as_ref() }
    }

    /// How many references there are but this one.
    pub(crate) fn others(&self) -> c_int {
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_icount_read_once(self.inode.as_ptr()) - 1 }
    }

    /// Its page cache, which stays as long as the inode.
    pub(crate) fn mapping(&self) -> &Mapping {
        // SAFETY: By the type invariants.
        unsafe { Mapping::from_raw(self.inode().i_mapping) }
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::iput(self.inode.as_ptr()) }
    }
}

/// A reference of the test's own to a folio, to see what becomes of that.
///
/// # Invariants
///
/// The pointer is a folio to which this object owns a reference.
pub(crate) struct FolioRef(NonNull<bindings::folio>);

impl FolioRef {
    pub(crate) fn new(folio: &Folio) -> Self {
        // SAFETY: The folio is valid. INVARIANT: This takes the reference.
        unsafe { inline::ashmem_folio_get(folio.as_ptr()) };
        // SAFETY: A folio is not at address 0.
        Self(unsafe { NonNull::new_unchecked(folio.as_ptr()) })
    }

    /// How many references there are but this one. A folio that was just added has one more, of
    /// the processor where it was, until that puts it on the core's lists; so that is done first.
    pub(crate) fn others(&self) -> c_int {
        // SAFETY: It may be called wherever it is allowed to sleep.
        unsafe { inline::ashmem_lru_add_drain() };
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_folio_ref_count(self.0.as_ptr()) - 1 }
    }

    fn is_locked(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_folio_test_locked(self.0.as_ptr()) }
    }

    fn is_uptodate(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_folio_test_uptodate(self.0.as_ptr()) }
    }

    fn is_dirty(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_folio_test_dirty(self.0.as_ptr()) }
    }

    /// Whether it is in no page cache.
    fn is_alone(&self) -> bool {
        // SAFETY: By the type invariants; nobody else knows the folio.
        unsafe { inline::ashmem_folio_mapping(self.0.as_ptr()) }.is_null()
    }

    /// Whether it is in this page cache.
    fn is_in(&self, mapping: &Mapping) -> bool {
        // SAFETY: As above.
        unsafe { inline::ashmem_folio_mapping(self.0.as_ptr()) == mapping.as_ptr() }
    }
}

impl Drop for FolioRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { inline::ashmem_folio_put(self.0.as_ptr()) }
    }
}

/// A pin as `pin_user_pages` makes it on a folio of one page, for a device.
pub(crate) struct DmaPin(FolioRef);

impl DmaPin {
    const REFERENCES: c_int = bindings::GUP_PIN_COUNTING_BIAS as c_int;

    pub(crate) fn new(folio: &Folio) -> Self {
        let folio = FolioRef::new(folio);
        // SAFETY: The folio is valid.
        unsafe { inline::ashmem_folio_ref_add(folio.0.as_ptr(), Self::REFERENCES) };
        Self(folio)
    }
}

impl Drop for DmaPin {
    fn drop(&mut self) {
        // SAFETY: `new` added them, and one more that stays.
        unsafe { inline::ashmem_folio_ref_sub(self.0 .0.as_ptr(), Self::REFERENCES) };
    }
}

/// A shrinker that has nothing; around what wants one.
pub(crate) struct Idle<T>(pub(crate) T);

impl<T: Send + Sync + 'static> Shrinker for Idle<T> {
    fn count(&self, _: &Pressure<'_>) -> usize {
        0
    }

    fn scan(&self, _: &Pressure<'_>, _: usize) -> Option<usize> {
        None
    }

    fn before_oom(&self) -> usize {
        0
    }
}

/// Makes something for a shrinker that has nothing, and registers that.
pub(crate) fn for_idle_shrinker<T: Send + Sync + 'static>(
    make: impl FnOnce(ShrinkerId<'_>) -> Result<T>,
) -> Result<Registration<Idle<T>>> {
    Registration::new(c"ashmem_kunit", |id| {
        Ok(Arc::new(Idle(make(id)?), GFP_KERNEL)?)
    })
}

/// Counts events.
struct Events(Atomic<usize>);

impl Events {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    fn add(&self, n: usize) {
        self.0.add(n, Relaxed);
    }

    /// How many there were since the last call.
    fn take(&self) -> usize {
        self.0.xchg(0, Relaxed)
    }
}

/// What the files of these tests stand for.
struct Probe;

static PROBES_DROPPED: Events = Events::new();
static PAGES_FREED: Events = Events::new();

impl Drop for Probe {
    fn drop(&mut self) {
        PROBES_DROPPED.add(1);
    }
}

impl VmOperations for Probe {
    fn fault(&self, _: &Fault<'_>) -> Outcome {
        Outcome::Sigbus
    }

    fn huge_fault(&self, _: &Fault<'_>) {}

    fn maps_alone(&self, _: &Fault<'_>, _: u32, _: Range<usize>) -> Option<Range<usize>> {
        None
    }

    fn mapped_around(&self, _: bool) {}
}

impl PseudoFileOperations for Probe {
    fn punch_hole(_: &PseudoFile<Self>, _: usize, _: usize) {}

    fn freed(pages: usize) {
        PAGES_FREED.add(pages);
    }
}

/// A file of `size` bytes. Forgets what was counted.
fn probe(mount: &Mount, size: usize) -> Result<PseudoFile<Probe>> {
    let file = PseudoFile::new(mount, c"probe", size, Arc::new(Probe, GFP_KERNEL)?)?;

    // Those of the tests before.
    flush_files();
    PROBES_DROPPED.take();
    PAGES_FREED.take();
    Ok(file)
}

/// Adds a folio to a page cache.
fn add(mapping: &Mapping, index: usize) -> Result<LockedFolio> {
    mapping
        .add(mapping.alloc_folio(0)?, index)
        .map_err(|_| ENOMEM)
}

/// Adds a folio of `1 << order` pages, and lets go of it.
fn add_large(mapping: &Mapping, index: usize, order: u32) -> Result {
    let added = mapping.add(mapping.alloc_folio(order)?, index);
    added.map(drop).map_err(|_| ENOMEM)
}

/// The first byte of a page of a page cache.
fn first_byte_at(mapping: &Mapping, index: usize) -> Result<*mut u8> {
    let folio = mapping.folio(index).ok_or(ENOENT)?;
    // SAFETY: It is a folio that has this page.
    Ok(unsafe { inline::ashmem_folio_page_address(folio.as_ptr(), index) }.cast())
}

fn first_byte(mapping: &Mapping, index: usize) -> Result<u8> {
    // SAFETY: The page cache is this test's alone, and keeps the page.
    Ok(unsafe { first_byte_at(mapping, index)?.read() })
}

fn fill(mapping: &Mapping, index: usize, byte: u8) -> Result {
    // SAFETY: As above.
    unsafe { first_byte_at(mapping, index)?.write(byte) };
    Ok(())
}

/// The page cache, page by page: each folio's number of pages in hexadecimal, `-` where there is none.
fn folios(mapping: &Mapping, pages: usize) -> Result<KVec<u8>> {
    let mut picture = KVec::with_capacity(pages, GFP_KERNEL)?;
    for page in 0..pages {
        let size = mapping.folio(page).map_or(0, |folio| folio.nr_pages());
        picture.push(
            b"-1248g"[size.checked_ilog2().map_or(0, |n| n as usize + 1)],
            GFP_KERNEL,
        )?;
    }
    Ok(picture)
}

#[kunit_tests(ashmem_pseudo_file)]
mod pseudo_file {
    use super::*;

    #[test]
    fn each_file_has_an_inode_of_its_own() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 3 * PAGE_SIZE + 1)?;
        let other = probe(&mount, PAGE_SIZE)?;
        let held = InodeRef::new(file.mapping())?;
        let inode = held.inode();

        ensure!(file.ino() != other.ino());
        ensure_eq!(inode.i_ino as usize, file.ino());
        ensure_eq!(held.others(), 1);
        ensure_eq!(u32::from(inode.i_mode), bindings::S_IFREG | 0o666);
        ensure_eq!(inode.i_size as usize, 3 * PAGE_SIZE + 1);
        ensure!(inode.i_flags & bindings::S_ANON_INODE != 0);
        // SAFETY: Both names of this field are of one type, and nobody changes it.
        ensure_eq!(unsafe { inode.__bindgen_anon_1.i_nlink }, 0);
        ensure_eq!(held.mapping().as_ptr(), file.mapping().as_ptr());
        ensure_eq!(file.mapping().size(), 4);
        ensure_eq!(file.mapping().nr_pages(), 0);
        drop((held, file, other));
        flush_files();
        ensure_eq!(PROBES_DROPPED.take(), 2);
        Ok(())
    }

    #[test]
    fn last_reference_to_the_file_drops_object_and_inode() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let held = InodeRef::new(file.mapping())?;
        for index in [0, 1, 7] {
            drop(add(file.mapping(), index)?);
        }
        // As a mapping does.
        let mapped = file.clone();

        drop(file);
        flush_files();
        ensure_eq!(PROBES_DROPPED.take(), 0);
        ensure_eq!(held.others(), 1);

        drop(mapped);
        flush_files();
        ensure_eq!(PROBES_DROPPED.take(), 1);
        ensure_eq!(held.others(), 0);
        // Only our reference keeps the inode from being freed, and its pages with it.
        ensure_eq!(held.mapping().nr_pages(), 3);
        ensure_eq!(PAGES_FREED.take(), 0);
        drop(held);
        ensure_eq!(PAGES_FREED.take(), 3);
        Ok(())
    }

    #[test]
    fn inode_goes_with_the_file() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        drop(add(file.mapping(), 5)?);

        // The file keeps what it needs.
        drop(mount);
        ensure_eq!(file.mapping().nr_pages(), 1);
        drop(file);
        flush_files();
        ensure_eq!(PROBES_DROPPED.take(), 1);
        ensure_eq!(PAGES_FREED.take(), 1);
        Ok(())
    }

    #[test]
    fn impossible_size_is_refused_and_drops_the_object() -> Result {
        let mount = Mount::pin()?;
        let object = Arc::new(Probe, GFP_KERNEL)?;
        flush_files();
        PROBES_DROPPED.take();

        let file = PseudoFile::new(&mount, c"probe", usize::MAX, object);
        ensure_eq!(file.err(), Some(EINVAL));
        ensure_eq!(PROBES_DROPPED.take(), 1);
        Ok(())
    }
}

#[kunit_tests(ashmem_folio)]
mod folio {
    use super::*;

    #[test]
    fn new_folio_is_filled_and_known_to_nobody() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let folio = file.mapping().alloc_folio(0)?;
        let seen = FolioRef::new(&folio.0);

        ensure_eq!(seen.others(), 1);
        ensure!(seen.is_uptodate());
        ensure!(seen.is_dirty());
        ensure!(!seen.is_locked());
        ensure!(seen.is_alone());
        drop(folio);
        ensure_eq!(seen.others(), 0);
        ensure_eq!(file.mapping().nr_pages(), 0);
        Ok(())
    }

    #[test]
    fn added_folio_is_locked_at_its_index() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let mapping = file.mapping();

        on_one_cpu(|| {
            let folio = add(mapping, 5)?;
            let seen = FolioRef::new(folio.folio());

            ensure!(seen.is_locked());
            ensure!(seen.is_uptodate());
            ensure!(seen.is_dirty());
            ensure!(seen.is_in(mapping));
            ensure_eq!(folio.index(), 5);
            ensure_eq!(mapping.nr_pages(), 1);
            // The page cache's, and that of `folio`.
            ensure_eq!(seen.others(), 2);
            drop(folio);
            ensure!(!seen.is_locked());
            ensure_eq!(seen.others(), 1);
            ensure!(mapping.folio(4).is_none());
            ensure!(mapping.folio(6).is_none());
            Ok(())
        })
    }

    #[test]
    fn lookups_take_a_reference_and_the_lock_if_they_say_so() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let mapping = file.mapping();

        on_one_cpu(|| {
            let locked = add(mapping, 5)?;
            let seen = FolioRef::new(locked.folio());

            // Somebody else has the lock.
            ensure!(mapping.try_lock_folio(5).is_none());
            ensure_eq!(seen.others(), 2);
            drop(locked);

            let found = mapping.folio(5);
            ensure!(found.is_some());
            ensure!(!seen.is_locked());
            ensure_eq!(seen.others(), 2);
            drop(found);
            for lock in [Mapping::lock_folio, Mapping::try_lock_folio] {
                let found = lock(mapping, 5);
                ensure!(found.is_some());
                ensure!(seen.is_locked());
                ensure_eq!(seen.others(), 2);
                drop(found);
                ensure!(!seen.is_locked());
            }
            ensure_eq!(seen.others(), 1);
            Ok(())
        })
    }

    #[test]
    fn second_folio_at_an_index_is_refused_and_freed() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let mapping = file.mapping();

        on_one_cpu(|| {
            let winner = add(mapping, 5)?;
            let seen = FolioRef::new(winner.folio());
            drop(winner);
            let loser = mapping.alloc_folio(0)?;
            let lost = FolioRef::new(&loser.0);

            ensure!(matches!(mapping.add(loser, 5), Err(AddError::Exists)));
            ensure_eq!(lost.others(), 0);
            ensure!(!lost.is_locked());
            ensure!(lost.is_alone());
            ensure_eq!(mapping.nr_pages(), 1);
            ensure!(seen.is_in(mapping));
            ensure_eq!(seen.others(), 1);
            // What was never in the page cache does not leave it.
            ensure_eq!(PAGES_FREED.take(), 0);
            Ok(())
        })
    }

    #[test]
    fn large_folio_lies_at_a_multiple_of_its_size() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 16 * PAGE_SIZE)?;
        let mapping = file.mapping();

        on_one_cpu(|| {
            add_large(mapping, 6, 2)?;
            ensure!(folios(mapping, 16)?[..] == *b"----4444--------");
            let folio = mapping.lock_folio(7).ok_or(ENOENT)?;
            ensure!(folio.pages() == (4..8));
            folio.remove();
            ensure_eq!(PAGES_FREED.take(), 4);
            ensure_eq!(mapping.nr_pages(), 0);
            Ok(())
        })
    }

    #[test]
    fn order_of_a_folio_is_known_at_each_of_its_pages() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 16 * PAGE_SIZE)?;
        let mapping = file.mapping();

        drop(add(mapping, 0)?);
        add_large(mapping, 4, 2)?;
        let guard = rcu::read_lock();
        let orders: [u32; 16] = core::array::from_fn(|page| mapping.sound_order(page));
        drop(guard);
        ensure_eq!(orders, [0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        Ok(())
    }

    #[test]
    fn folio_is_split_where_another_one_is_to_begin() -> Result {
        const CASES: [(usize, &[u8; 16]); 5] = [
            (1, b"1122444488888888"),
            (4, b"4444112288888888"),
            (6, b"4444221188888888"),
            (8, b"8888888811224444"),
            (15, b"8888888844442211"),
        ];
        let mount = Mount::pin()?;
        let file = probe(&mount, 16 * PAGE_SIZE)?;
        let mapping = file.mapping();

        for (at, wanted) in CASES {
            add_large(mapping, 0, 4)?;
            // Nothing is lost by it.
            for page in 0..16 {
                fill(mapping, page, 1 + page as u8)?;
            }
            mapping.split(at);
            ensure!(folios(mapping, 16)?[..] == *wanted);
            for page in 0..16 {
                ensure_eq!(first_byte(mapping, page)?, 1 + page as u8);
            }
            ensure_eq!(PAGES_FREED.take(), 0);
            ensure_eq!(mapping.nr_pages(), 16);
            for page in 0..16 {
                if let Some(folio) = mapping.lock_folio(page) {
                    folio.remove();
                }
            }
            ensure_eq!(PAGES_FREED.take(), 16);
        }
        Ok(())
    }

    #[test]
    fn folio_that_somebody_has_a_reference_to_is_not_split() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 16 * PAGE_SIZE)?;
        let mapping = file.mapping();

        add_large(mapping, 0, 4)?;
        fill(mapping, 4, 7)?;
        let held = mapping.folio(3).ok_or(ENOENT)?;
        mapping.split(4);
        ensure!(folios(mapping, 16)?[..] == *b"gggggggggggggggg");
        ensure_eq!(first_byte(mapping, 4)?, 7);
        drop(held);
        mapping.split(4);
        ensure!(folios(mapping, 16)?[..] == *b"4444112288888888");
        ensure_eq!(first_byte(mapping, 4)?, 7);
        // Where one begins already, or where none is, nothing happens.
        mapping.split(8);
        ensure!(
            folios(mapping, 16)?[8..] == *b"11224444" || folios(mapping, 16)?[8..] == *b"88888888"
        );
        Ok(())
    }

    #[test]
    fn single_page_of_a_folio_is_zeroed() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 16 * PAGE_SIZE)?;
        let mapping = file.mapping();

        add_large(mapping, 0, 4)?;
        for page in 0..16 {
            fill(mapping, page, 9)?;
        }
        mapping.lock_folio(0).ok_or(ENOENT)?.zero_page(5);
        for page in 0..16 {
            ensure_eq!(first_byte(mapping, page)?, if page == 5 { 0 } else { 9 });
        }
        Ok(())
    }

    #[test]
    fn removed_folio_leaves_the_page_cache() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let mapping = file.mapping();

        on_one_cpu(|| {
            drop(add(mapping, 4)?);
            let folio = add(mapping, 5)?;
            let seen = FolioRef::new(folio.folio());

            folio.remove();
            ensure_eq!(PAGES_FREED.take(), 1);
            ensure_eq!(mapping.nr_pages(), 1);
            ensure!(mapping.folio(5).is_none());
            ensure!(mapping.folio(4).is_some());
            ensure!(seen.is_alone());
            ensure!(!seen.is_locked());
            ensure_eq!(seen.others(), 0);
            // There is room for another one.
            drop(add(mapping, 5)?);
            ensure_eq!(mapping.nr_pages(), 2);
            Ok(())
        })
    }

    #[test]
    fn dma_pin_is_seen_as_long_as_it_lasts() -> Result {
        let mount = Mount::pin()?;
        let file = probe(&mount, 8 * PAGE_SIZE)?;
        let folio = add(file.mapping(), 5)?;

        ensure!(!folio.maybe_dma_pinned());
        let pin = DmaPin::new(folio.folio());
        ensure!(folio.maybe_dma_pinned());
        drop(pin);
        ensure!(!folio.maybe_dma_pinned());
        Ok(())
    }
}

#[kunit_tests(ashmem_array)]
mod array {
    use super::*;

    static DROPPED: Events = Events::new();

    struct Entry(usize);

    impl Drop for Entry {
        fn drop(&mut self) {
            DROPPED.add(1);
        }
    }

    fn new() -> Result<Pin<KBox<GrowingArray<Entry>>>> {
        let array = KBox::pin_init(GrowingArray::new(), GFP_KERNEL)?;
        DROPPED.take();
        Ok(array)
    }

    #[test]
    fn entries_are_found_where_they_were_added() -> Result {
        const AT: [usize; 5] = [0, 63, 64, 1 << 30, usize::MAX];
        let array = new()?;

        ensure!(array.get(0).is_none());
        ensure!(array.at_or_after(0).is_none());
        for index in AT {
            ensure_eq!(array.add(index, Entry(!index))?.0, !index);
        }
        for index in AT {
            ensure_eq!(array.get(index).map(|entry| entry.0), Some(!index));
        }
        for index in [1, 62, 65, usize::MAX - 1] {
            ensure!(array.get(index).is_none());
        }
        let first_from = |index| array.at_or_after(index).map(|(at, entry)| (at, entry.0));
        ensure_eq!(first_from(0), Some((0, !0)));
        ensure_eq!(first_from(1), Some((63, !63)));
        ensure_eq!(first_from(65), Some((1 << 30, !(1 << 30))));
        ensure_eq!(first_from((1 << 30) + 1), Some((usize::MAX, 0)));
        ensure_eq!(DROPPED.take(), 0);
        // Also the last one, behind which there is no other.
        drop(array);
        ensure_eq!(DROPPED.take(), AT.len());
        Ok(())
    }

    #[test]
    fn who_comes_second_gets_the_first_entry() -> Result {
        let array = new()?;
        let first: *const Entry = array.add(7, Entry(1))?;

        ensure!(core::ptr::eq(array.add(7, Entry(2))?, first));
        ensure_eq!(DROPPED.take(), 1);
        // It does not move while the array grows.
        array.add(1 << 40, Entry(3))?;
        ensure!(array
            .get(7)
            .is_some_and(|entry| core::ptr::eq(entry, first)));
        ensure_eq!(array.get(7).map(|entry| entry.0), Some(1));
        drop(array);
        ensure_eq!(DROPPED.take(), 2);
        Ok(())
    }

    #[test]
    fn empty_array_is_dropped() -> Result {
        drop(new()?);
        ensure_eq!(DROPPED.take(), 0);
        Ok(())
    }
}

#[kunit_tests(ashmem_per_cgroup)]
mod per_cgroup {
    use super::*;

    static MADE: Events = Events::new();
    static DROPPED: Events = Events::new();

    struct Object {
        amount: Atomic<usize>,
    }

    impl CgroupObject for Object {
        fn new() -> impl PinInit<Self> {
            MADE.add(1);
            Self {
                amount: Atomic::new(0),
            }
        }

        fn amount(&self) -> usize {
            self.amount.load(Relaxed)
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            DROPPED.add(1);
        }
    }

    type Objects = Arc<PerCgroup<Object>>;

    fn new() -> Result<Registration<Idle<Objects>>> {
        MADE.take();
        DROPPED.take();
        for_idle_shrinker(|id| PerCgroup::new(c"ashmem_kunit", id))
    }

    /// Amounts of the listed ones.
    fn listed(objects: &Objects, most: usize) -> (usize, usize, bool) {
        let (mut count, mut sum) = (0, 0);
        let all = objects.each_listed(&Pressure::root(), most, |_, amount| {
            count += 1;
            sum += amount;
        });
        (count, sum, all)
    }

    fn same(a: &CgroupRef<Object>, b: &CgroupRef<Object>) -> bool {
        core::ptr::eq::<Object>(&**a, &**b)
    }

    #[test]
    fn cgroup_has_one_object_as_long_as_it_is_referred_to() -> Result {
        let registration = new()?;
        let objects = &registration.shrinker().0;

        ensure!(objects.next(None).is_none());
        let one = objects.current()?;
        let two = objects.current()?;
        let three = one.clone();
        ensure!(same(&one, &two));
        ensure!(same(&one, &three));
        ensure_eq!(MADE.take(), 1);
        let number = one.number();
        drop((one, two));
        ensure_eq!(DROPPED.take(), 0);

        let found = objects.next(None);
        ensure!(found.as_ref().is_some_and(|found| same(found, &three)));
        ensure!(objects.next(Some(number)).is_none());
        drop(three);
        ensure_eq!(DROPPED.take(), 0);
        drop(found);
        ensure_eq!(DROPPED.take(), 1);
        ensure!(objects.next(None).is_none());

        // Made anew, under the same number.
        let again = objects.current()?;
        ensure_eq!(MADE.take(), 1);
        ensure_eq!(again.number(), number);
        drop(again);
        ensure_eq!(DROPPED.take(), 1);
        Ok(())
    }

    #[test]
    fn objects_are_listed_while_they_have_something() -> Result {
        let registration = new()?;
        let objects = &registration.shrinker().0;
        let object = objects.current()?;

        ensure_eq!(listed(objects, 9), (0, 0, true));
        object.amount.store(5, Relaxed);
        ensure_eq!(listed(objects, 9), (0, 0, true));
        object.list();
        // Once, however often that is said.
        object.list();
        ensure_eq!(listed(objects, 9), (1, 5, true));
        ensure_eq!(listed(objects, 9), (1, 5, true));
        // Not looked at: not all.
        ensure_eq!(listed(objects, 0), (0, 0, false));

        // Who has nothing leaves when that is seen, and comes back when it is told.
        object.amount.store(0, Relaxed);
        ensure_eq!(listed(objects, 9), (0, 0, true));
        object.amount.store(6, Relaxed);
        ensure_eq!(listed(objects, 9), (0, 0, true));
        object.list();
        ensure_eq!(listed(objects, 9), (1, 6, true));

        // The last reference takes it off the list.
        drop(object);
        ensure_eq!(DROPPED.take(), 1);
        ensure_eq!(listed(objects, 9), (0, 0, true));
        Ok(())
    }

    #[test]
    fn found_object_can_be_kept() -> Result {
        let registration = new()?;
        let objects = &registration.shrinker().0;
        let object = objects.current()?;
        object.amount.store(5, Relaxed);
        object.list();

        let mut kept = None;
        objects.each_listed(&Pressure::root(), 9, |found, _| kept = found.get());
        drop(object);
        ensure_eq!(DROPPED.take(), 0);
        ensure!(kept.is_some_and(|kept| kept.amount() == 5));
        ensure_eq!(DROPPED.take(), 1);
        Ok(())
    }
}
